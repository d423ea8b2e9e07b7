"""One writer a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from features.errors import Locked

__all__ = ["writing"]


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which ends with its process; the folder is made if need be.

    Raises ``Locked`` naming the process that holds it and since when.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / ".lock.owner"
    try:
        with FileLock(folder / ".lock", timeout=0):
            owner.write_text(f"process {os.getpid()}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC,")
            yield
            owner.unlink(missing_ok=True)
    except Timeout:
        holder = owner.read_text() if owner.exists() else "another process"
        raise Locked(f"{holder} is writing {folder}; wait for it to end, or stop it") from None
