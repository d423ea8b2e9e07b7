"""Replay: check a published schedule by itself, or derive every line of it again from the inputs it names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from features.errors import DataInvalid, UsageError
from features.market import Market

from . import governor
from .params import Params
from .schedule import GENESIS, canonical, line_hash, make_schedule, schedule_schema
from .types import PPM, Override

__all__ = ["ReplayReport", "read_lines", "replay"]

Step: TypeAlias = tuple[int, str, int, bool]  # line, as_of, IM, whether an acknowledged override made it
KEYS = frozenset(schedule_schema()["properties"])


@dataclass(frozen=True)
class ReplayReport:
    """What was checked: lines, symbols, first and last ``as_of``, last hash, whether lines were derived; and how
    many rises beyond the limits of 1 and 5 days an acknowledged override made.
    """

    lines: int
    symbols: tuple[str, ...]
    first: str
    last: str
    head: str
    derived: bool
    acknowledged: int


def replay(
    path: str | Path,
    forecasts: pd.DataFrame | None = None,
    market: Market | None = None,
    params: Params | None = None,
    overrides: Sequence[Override] = (),
) -> ReplayReport:
    """Check canonical form, hashes, chain, order and invariants; with all three inputs also derive every line
    again, under the overrides that were in force.

    Raises DataInvalid naming line and field of the first difference, UsageError where only some inputs are
    given.
    """
    given = [x is not None for x in (forecasts, market, params)]
    if any(given) and not all(given):
        raise UsageError("replay with inputs needs forecasts, market and params together; or none of them")
    if forecasts is not None and market is not None and params is not None:
        _compare(path, make_schedule(forecasts, market, params, overrides=overrides))
    latest: dict[str, dict[str, Any]] = {}
    paths: dict[str, list[Step]] = {}
    previous: dict[str, Any] = {}
    first, count = "", 0
    for number, raw, line in read_lines(path):
        where = f"{path}: line {number}"
        try:
            _check_form(line, raw, where)
            _check_chain(line, previous, where)
            _check_invariants(line, latest.get(line["symbol"]), where)
            marked = any(hit["bound"] == "acknowledged" for hit in line["bounds_hit"])
            paths.setdefault(line["symbol"], []).append((number, line["as_of"], line["im_ppm"], marked))
        except (TypeError, KeyError, ValueError) as error:
            raise DataInvalid(f"{where}: a field has the wrong type: {error}; see the schema") from None
        except DataInvalid:
            _check_speed(path, paths)  # a line before this one may have been too fast: the first fault is named
            raise
        latest[line["symbol"]] = previous = line
        first, count = first or line["as_of"], number
    if not count:
        raise DataInvalid(f"{path}: holds no line; make one with `forecaster policy`")
    acknowledged = _check_speed(path, paths)
    symbols = tuple(sorted(latest))
    return ReplayReport(count, symbols, first, previous["as_of"], previous["hash"], all(given), acknowledged)


def read_lines(path: str | Path) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
    """Number, bytes and object of every line. Raises DataInvalid where there is no file, no object or a torn end."""
    if not Path(path).is_file():
        raise DataInvalid(f"{path}: no such schedule; make one with `forecaster policy`")
    with Path(path).open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.endswith(b"\n"):
                raise DataInvalid(
                    f"{path}: line {number}: torn: the file ends inside it, so a write was cut short; "
                    "remove that line and go on from the one before, or make the schedule again"
                )
            try:
                line = json.loads(raw, parse_float=_no_fraction)
            except ValueError as error:
                raise DataInvalid(f"{path}: line {number}: not JSON: {error}; make the schedule again") from None
            if not isinstance(line, dict) or line.keys() != KEYS:
                odd = sorted(KEYS.symmetric_difference(line if isinstance(line, dict) else ()))
                raise DataInvalid(f"{path}: line {number}: missing or unknown fields {', '.join(odd)}")
            yield number, raw.removesuffix(b"\n"), line


def _check_form(line: dict[str, Any], raw: bytes, where: str) -> None:
    try:
        same = canonical(line) == raw
    except ValueError:
        same = False
    _require(same, where, "hash", "the line is not in canonical form")
    # In text first, since a flag that is none is rare: a schedule has hundreds of thousands of lines.
    if raw.count(b"true") + raw.count(b"false") != 1 or not isinstance(line["fallback"], bool):
        flag = next((name for name in line if (name == "fallback") != _has_flag(line[name])), None)
        _require(flag is None, where, str(flag), "has the wrong type: only fallback is true or false")
    _require(line["hash"] == line_hash(line), where, "hash", "does not match the line: a byte of it was changed")


def _has_flag(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, bool) or any(map(_has_flag, parts))


def _no_fraction(text: str) -> int:
    raise ValueError(f"{text} is no integer, and a schedule holds nothing else")


def _check_chain(line: dict[str, Any], previous: dict[str, Any], where: str) -> None:
    _require(line["prev_hash"] == previous.get("hash", GENESIS), where, "prev_hash", "the chain is broken")
    _require(line["seq"] == previous.get("seq", -1) + 1, where, "seq", "lines are missing or out of place")
    order = (_clock(line["as_of"]), line["symbol"]) > (_clock(previous.get("as_of", "")), previous.get("symbol", ""))
    _require(order, where, "as_of", "lines are not ordered by as_of, then symbol")


def _check_invariants(line: dict[str, Any], before: dict[str, Any] | None, where: str) -> None:
    im, mm, tiers = line["im_ppm"], line["mm_ppm"], line["tiers"]
    _require(0 < line["liquidation_penalty_ppm"] < mm, where, "liquidation_penalty_ppm", "not in (0, MM)")
    _require(mm < im <= PPM, where, "im_ppm", "not in (MM, 1]")
    _require((tiers[0]["im_ppm"], tiers[0]["mm_ppm"]) == (im, mm), where, "tiers", "tiers[0] is not the headline")
    for low, high in pairwise(tiers):
        rising = all(low[key] <= high[key] for key in ("im_ppm", "mm_ppm")) and low["cap_usd"] < high["cap_usd"]
        _require(rising, where, "tiers", "margins or caps do not rise")
    _require(line["max_leverage_milli"] == 1_000_000_000 // im, where, "max_leverage_milli", "is not 1/IM")
    _require(line["liquidation_buffer_ppm"] == im - mm, where, "liquidation_buffer_ppm", "is not IM - MM")
    change = im - (before["im_ppm"] if before else 0)
    moved = sum(line["decomposition"].values())
    _require(moved == change, where, "decomposition", f"sums to {moved}, IM moved by {change}")
    as_of, *later = (_clock(line[name]) for name in ("as_of", "announced_at", "effective_at", "expires_at"))
    clocks = as_of <= later[0] <= later[1] < later[2]
    _require(clocks, where, "effective_at", "not as_of <= announced_at <= effective_at < expires_at")
    _require(before is not None or line["effective_at"] == line["as_of"], where, "effective_at", "is not as_of")
    breakers = line["breakers"]
    clear, until = breakers["state"] == "clear", _clock(breakers["until"] or "")
    ends = not until and not breakers["active"] if clear else until > as_of and bool(breakers["active"])
    _require(ends, where, "breakers", "an action must name its causes and an end after as_of, clear neither")


def _check_speed(path: str | Path, paths: dict[str, list[Step]]) -> int:
    """Rises against the limits of 1 and 5 days: refuses the first too fast; counts those that were acknowledged."""
    faults, acknowledged = [], 0
    for steps in paths.values():
        numbers, instants, margins, marks = zip(*steps, strict=True)
        as_of, im = pd.DatetimeIndex(instants).as_unit("us").asi8, np.array(margins, dtype=np.int64)
        rises, marked = np.diff(im, prepend=im[:1]) > 0, np.array(marks, dtype=bool)
        beyond = np.zeros(len(im), dtype=bool)
        for span, days, multiple in ((governor.DAY, 1, 2), (governor.FIVE_DAYS, 5, 3)):
            fast = rises & (im > multiple * governor.window_minima(as_of, im, span))
            faults += [(numbers[at], days, multiple) for at in np.flatnonzero(fast & ~marked)[:1]]
            beyond |= fast
        acknowledged += int(beyond.sum())
    for number, days, multiple in sorted(faults)[:1]:
        raise _refusal(f"{path}: line {number}", "im_ppm", f"rose above {multiple} times its {days}-day minimum")
    return acknowledged


def _compare(path: str | Path, derived: Iterator[bytes]) -> None:
    for pair in zip_longest(read_lines(path), derived):
        found, expected = pair
        if found is None or expected is None:
            place = "the end" if found is None else f"line {found[0]}"
            more = "fewer" if found is None else "more"
            raise DataInvalid(f"{path}: {place}: the schedule holds {more} lines than its inputs give")
        number, raw, line = found
        if raw != expected:
            wanted = json.loads(expected)
            # A wrong field changes the hash too, so the hash is blamed only where nothing else differs.
            fields = [*sorted(KEYS - {"hash", "prev_hash"}), "prev_hash", "hash"]
            field = next((name for name in fields if line[name] != wanted[name]), None)
            if field is None:
                raise _refusal(f"{path}: line {number}", "hash", "the line is not in canonical form")
            raise DataInvalid(
                f"{path}: line {number}: {field} is {line[field]!r}, its inputs give {wanted[field]!r}; "
                "replay with the forecasts, store and parameters that made it"
            )


def _clock(instant: str) -> str:
    """An instant's text without its zone: so it sorts by time also where only some have a fraction of a second."""
    return instant.removesuffix("Z")


def _require(holds: bool, where: str, field: str, why: str) -> None:
    if not holds:
        raise _refusal(where, field, why)


def _refusal(where: str, field: str, why: str) -> DataInvalid:
    return DataInvalid(f"{where}: {field}: {why}; make the schedule again from its inputs")
