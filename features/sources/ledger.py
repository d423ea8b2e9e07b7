"""The archive folder of a store: downloaded files as they came, and the ledger of where each came from.

``archive/data/…`` holds the first version of each file under the path that it has in the archive,
``archive/revisions/SHA12/data/…`` every later one, ``archive/quarantine/SHA12/data/….refused`` what failed its
checksum, under a name that no reader takes. ``archive/ledger.jsonl`` is only ever appended to: one line for each file
accepted, refused, or imported. A file counts as held once its line *and* the file are there; the line is written first.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Final, Literal

from features.errors import DataInvalid

__all__ = ["REFUSED", "REVISIONS", "Archive", "Entry", "now", "set_aside", "sha256_of"]

LEDGER: Final = "ledger.jsonl"
REVISIONS: Final = "revisions"
REFUSED: Final = ".refused"
CHUNK: Final = 2**20


@dataclass(frozen=True)
class Entry:
    """One line of the ledger.

    ``file`` is the path below the archive's root, ``kept`` the place below this folder (empty if nothing was
    kept), ``at`` the instant (ISO 8601, UTC) at which the event happened: for ``fetched``, the fetch time.
    """

    event: Literal["fetched", "refused", "imported"]
    file: str
    kept: str
    sha256: str
    at: str
    url: str = ""
    size: int = 0
    etag: str | None = None
    reason: str = ""


class Archive:
    """The files of one archive folder, with their ledger; used by one process at a time, by many threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = Lock()
        self._versions: dict[str, list[Entry]] = {}
        self._imported: set[tuple[str, str]] = set()
        for entry in self._read():
            self._index(entry)

    def _read(self) -> list[Entry]:
        path = self.folder / LEDGER
        if not path.exists():
            return []
        whole, newline, torn = path.read_bytes().rpartition(b"\n")
        if torn:  # the last line of a process that was killed was never complete
            with path.open("r+b") as file:
                file.truncate(len(whole) + len(newline))
        entries = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entries.append(Entry(**json.loads(line)))
            except (ValueError, TypeError) as fault:
                raise DataInvalid(
                    f"{path}, line {number}: no entry of the ledger ({fault}); restore a copy, or move "
                    f"{self.folder} away to download anew"
                ) from None
        return entries

    def _index(self, entry: Entry) -> None:
        if entry.event == "fetched":
            self._versions.setdefault(entry.file, []).append(entry)
        elif entry.event == "imported":
            self._imported.add((entry.file, entry.sha256))

    def append(self, entries: Iterable[Entry]) -> None:
        """Write lines to the end of the ledger, and to the disk: all of them, or none if that fails (``OSError``)."""
        new = list(entries)
        if not new:
            return
        text = "".join(f"{json.dumps(asdict(entry), sort_keys=True)}\n" for entry in new)
        with self._lock:
            _append(self.folder / LEDGER, text.encode())
            for entry in new:
                self._index(entry)

    def versions(self, file: str) -> list[Entry]:
        """The versions of a file that are held, in order of arrival."""
        # Of two lines about one place the later is true: the process that wrote the earlier was killed.
        places = {entry.kept: entry for entry in self._versions.get(file, [])}
        return [entry for kept, entry in places.items() if (self.folder / kept).is_file()]

    def held(self) -> list[Entry]:
        """All versions of all files, by place: first versions before revisions."""
        return sorted((e for file in self._versions for e in self.versions(file)), key=lambda e: e.kept)

    def is_imported(self, entry: Entry) -> bool:
        """Whether the rows of this version are in the store."""
        return (entry.file, entry.sha256) in self._imported

    def part(self, file: str) -> Path:
        """Where a download grows; hidden, so that no import takes it for a file."""
        path = self.folder / file
        return path.with_name(f".{path.name}.part")

    def accept(self, entry: Entry) -> None:
        """Put a verified download in its place, its checksum beside it, after the ledger has its line."""
        place = self.folder / entry.kept
        place.parent.mkdir(parents=True, exist_ok=True)
        part = self.part(entry.file)
        beside = part.with_name(f"{part.name}.CHECKSUM")
        _write_through(beside, f"{entry.sha256}  {place.name}\n".encode())
        self.append([entry])
        beside.replace(place.with_name(f"{place.name}.CHECKSUM"))
        part.replace(place)
        _sync_folder(place.parent)

    def quarantine(self, entry: Entry) -> None:
        """Keep a download that failed its checksum where no import looks for it."""
        place = self.folder / entry.kept
        place.parent.mkdir(parents=True, exist_ok=True)
        self.append([entry])
        self.part(entry.file).replace(place)


def set_aside(file: Path) -> str | None:
    """Why an import by hand leaves a file of an archive folder alone; None if it does not."""
    place = file.absolute()
    for folder in place.parents:
        if (folder / LEDGER).is_file():
            later = place.relative_to(folder).parts[0] == REVISIONS
            told = "a re-published version, known only since it was fetched, which data fetch alone takes into account"
            return told if later else None
    return None


def now() -> str:
    """This instant as the ledger writes it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _append(path: Path, content: bytes) -> None:
    # Unbuffered: what a buffer still holds would be written once more when the file is closed.
    with path.open("ab", buffering=0) as file:
        length = file.tell()
        try:
            while content:
                content = content[file.write(content) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(length)
            raise


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
