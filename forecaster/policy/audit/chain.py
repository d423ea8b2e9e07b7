"""Files of canonical JSON lines that are chained by hash, and what a signature over one of their lines says.

Three files have this form: the schedule, the log of governance events, and the record of a roll-out. Whoever
vouches for a line vouches, by ``prev_hash``, for every line before it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NoReturn

from features.errors import DataInvalid
from features.locking import writing
from features.store import write_atomically
from forecaster.policy.schedule import GENESIS, canonical, line_hash

__all__ = ["EVENTS", "ROLLOUT", "SCHEDULE", "Chain", "append", "micros", "read_chain", "since_epoch"]

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
INSTANT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z")


@dataclass(frozen=True, slots=True)
class Chain:
    """A kind of file: the name under which its lines are signed, and the field that tells a line's instant."""

    name: str
    clock: str


SCHEDULE: Final = Chain("schedule", "announced_at")
EVENTS: Final = Chain("events", "at")
ROLLOUT: Final = Chain("rollout", "at")


def micros(text: Any, where: str) -> int:
    """Microseconds since 1970-01-01 of an ISO 8601 instant in UTC with Z. Raises DataInvalid otherwise."""
    if isinstance(text, str) and INSTANT.fullmatch(text):
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            pass
        else:
            return since_epoch(moment)
    raise DataInvalid(f"{where}: {text!r} is no instant; write it in UTC, such as 2024-01-31T08:00:00Z")


def since_epoch(moment: datetime) -> int:
    """Microseconds since 1970-01-01 UTC of an instant that knows its zone."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def read_chain(path: str | Path, chain: Chain) -> Iterator[dict[str, Any]]:
    """Every line as an object, in order; canonical form, hash, chain and ``seq`` are checked on the way.

    Raises DataInvalid naming file, line and field.
    """
    if not Path(path).is_file():
        raise DataInvalid(f"{path}: no such file; a {chain.name} file is needed here")
    previous = GENESIS
    with Path(path).open("rb") as file:
        for seq, raw in enumerate(file):
            where = f"{path}: line {seq + 1}"
            line = _object(raw, where)
            _require(line.get("hash") == line_hash(line), where, "hash", "does not match the line")
            _require(line.get("prev_hash") == previous, where, "prev_hash", "the chain is broken")
            _require(
                type(line.get("seq")) is int and line["seq"] == seq, where, "seq", "lines are missing or out of place"
            )
            micros(line.get(chain.clock), f"{where}: {chain.clock}")
            previous = line["hash"]
            yield line


def append(
    path: str | Path,
    chain: Chain,
    body: Mapping[str, Any],
    judge: Callable[[Sequence[dict[str, Any]]], object] = lambda lines: None,
) -> dict[str, Any]:
    """Chain ``body`` to the file, which is made if need be and replaced as a whole; returns the new line.

    ``judge`` is shown all lines, the new one last, while nobody else can write, and refuses by raising. Raises
    DataInvalid where the file does not hold, Locked where another process writes beside it.
    """
    target = Path(path)
    with writing(target.parent):
        held = list(read_chain(target, chain)) if target.exists() else []
        line = {**body, "seq": len(held), "prev_hash": held[-1]["hash"] if held else GENESIS}
        line["hash"] = line_hash(line)
        judge([*held, line])
        write_atomically(target, b"".join(canonical(item) + b"\n" for item in [*held, line]))
    return line


def _object(raw: bytes, where: str) -> dict[str, Any]:
    try:
        line = json.loads(raw, parse_float=_no_integer, parse_constant=_no_integer)
        same = isinstance(line, dict) and canonical(line) + b"\n" == raw
    except (ValueError, RecursionError) as error:
        raise DataInvalid(f"{where}: not JSON of integers: {error}; take the file from its publisher again") from None
    _require(same, where, "the line", "is not in canonical form")
    return line  # type: ignore[no-any-return]


def _no_integer(text: str) -> NoReturn:
    # 1.0 and 1 are the same number in two forms, and other languages round what does not fit.
    raise ValueError(f"{text} is no integer")


def _require(holds: bool, where: str, field: str, why: str) -> None:
    if not holds:
        raise DataInvalid(f"{where}: {field}: {why}; take the file from its publisher again")
