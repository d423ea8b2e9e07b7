"""A roll-out hour by hour: what each hour told of the lines, and a chained record of where that led.

Every hour is one step of ``rollout.advance``, from that of the first line on. It brings the origins whose 24 h
excursion is complete by then, and the lines announced since the hour before. How often the record is brought up to
date changes nothing, as long as bars and lines are there in time: the stage follows from schedule, bars, signed bounds
and limits, and anyone who has them can derive it again into a record of his own.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from features.errors import DataInvalid, UsageError
from forecaster.policy.schedule import iso
from forecaster.policy.types import HOUR

from .chain import ROLLOUT, SCHEDULE, append, micros, read_chain
from .override import Governance
from .rollout import Limits, Stage, State, advance, gather

__all__ = ["RESOLVED", "newest", "proceed"]

RESOLVED: Final = 24 * HOUR
RETREATS: Final = frozenset({"BOUNDS", "COVERAGE", "SILENCE"})
SCHEMA_VERSION: Final = 1


@dataclass(frozen=True)
class _Told:
    """By hour (its number since 1970): lines whose excursion is due then, and how many lines broke the bounds."""

    due: Mapping[int, Sequence[Mapping[str, Any]]]
    breaches: Mapping[int, int]
    first: int
    lines: int
    head: str


def newest(record: str | Path) -> dict[str, Any] | None:
    """The last line of a record, None where there is none yet. Raises DataInvalid where the record does not hold."""
    lines = read_chain(record, ROLLOUT) if Path(record).exists() else ()
    return next(iter(deque(lines, maxlen=1)), None)


def proceed(
    record: str | Path,
    schedule: str | Path,
    params_hash: str,
    rules: Governance,
    excursions: Mapping[tuple[str, str], int],
    limits: Limits,
    now: int,
) -> dict[str, Any]:
    """Bring a record up to the full hour at or before ``now`` (microseconds); returns its last line.

    ``excursions``: ppm of the price by (symbol, ``as_of``), only those known at ``now``. A record that is up to date
    stays as it is. Raises DataInvalid where record or schedule do not hold, the schedule is another than the one the
    record follows, was made with another pack, or has a line that no signed bounds cover; UsageError for other limits,
    or an instant that lies behind.
    """
    last, hour = newest(record), now // HOUR
    if last is not None:
        _same(last, limits, record)
        if hour < micros(last["at"], str(record)) // HOUR:
            raise UsageError(f"{record}: has come to {last['at']} already; name that instant or a later one")
        if hour == micros(last["at"], str(record)) // HOUR:
            return last
    told = _told(schedule, params_hash, rules, last, hour)
    state, since, cause = _state(last, told.first)
    why = cause
    for step in range(told.first, hour + 1):
        after, why = advance(state, gather(told.due.get(step, ()), excursions, told.breaches[step]), limits)
        if after.stage is not state.stage or why in RETREATS:
            since, cause = iso(step * HOUR), why
        state = after
    body = {
        "schema_version": SCHEMA_VERSION,
        "at": iso(hour * HOUR),
        **asdict(state),
        "why": why,
        "since": since,
        "cause": cause,
        "schedule_lines": told.lines,
        "schedule_head": told.head,
        "params_hash": params_hash,
        "events_head": rules.head,
        "limits": {**asdict(limits), "canaries": list(limits.canaries)},
    }

    def alone(lines: Sequence[Mapping[str, Any]]) -> None:
        if (lines[-2]["hash"] if len(lines) > 1 else None) != (last["hash"] if last else None):
            raise DataInvalid(f"{record}: another process has written to it meanwhile; run the command again")

    return append(record, ROLLOUT, body, alone)


def _state(last: Mapping[str, Any] | None, first: int) -> tuple[State, str, str]:
    """The state to go on from, since when its stage stands, and why."""
    if last is None:
        return State(), iso(first * HOUR), "START"
    state = State(Stage(last["stage"]), last["origins"], last["misses"], last["silent"])
    return state, last["since"], last["cause"]


def _same(last: Mapping[str, Any], limits: Limits, record: str | Path) -> None:
    if last.get("schema_version") != SCHEMA_VERSION:
        raise DataInvalid(
            f"{record}: schema_version {last.get('schema_version')!r} is unknown; known: {SCHEMA_VERSION}"
        )
    now = {**asdict(limits), "canaries": list(limits.canaries)}
    if odd := [name for name in now if last["limits"][name] != now[name]]:
        raise UsageError(
            f"{record}: was begun with {odd[0]} = {last['limits'][odd[0]]!r}, not {now[odd[0]]!r}; "
            "evidence under other limits does not count, begin another record in shadow"
        )


def _told(
    schedule: str | Path, params_hash: str, rules: Governance, last: Mapping[str, Any] | None, hour: int
) -> _Told:
    """What is new in the schedule up to an hour; lines that came too late for theirs count in the first new one."""
    done, first = (0, None) if last is None else (last["schedule_lines"], micros(last["at"], "at") // HOUR + 1)
    due: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    breaches: Counter[int] = Counter()
    before: dict[str, Mapping[str, Any]] = {}
    count, head = 0, ""
    for line in _until(read_chain(schedule, SCHEDULE), hour, schedule):
        where = f"{schedule}: line {line['seq'] + 1}"
        made, announced = (_hour(line[name], where) for name in ("as_of", "announced_at"))
        first = announced if first is None else first
        if line["params_hash"] != params_hash:
            raise DataInvalid(f"{where}: params_hash: made with another parameter pack; name it with --params")
        if count >= done:
            breaches[max(announced, first)] += bool(rules.breaches(line, before.get(line["symbol"]), schedule))
        step = made + RESOLVED // HOUR
        if count >= done or step >= first:
            due[max(step, first)].append({name: line[name] for name in ("symbol", "as_of", "im_ppm")})
        before[line["symbol"]] = line
        count, head = count + 1, line["hash"]
        if last is not None and count == done and head != last["schedule_head"]:
            raise DataInvalid(
                f"{where}: is not the line that the roll-out has followed; begin another record in shadow"
            )
    if count < done or first is None:
        raise DataInvalid(
            f"{schedule}: holds {count} lines up to {iso(hour * HOUR)}, {max(done, 1)} are needed; get all of it"
        )
    return _Told(due, breaches, first, count, head)


def _until(lines: Iterable[dict[str, Any]], hour: int, schedule: str | Path) -> Iterable[dict[str, Any]]:
    """The lines announced by an hour; those after the first that is not are left for a later time."""
    for line in lines:
        if _hour(line["announced_at"], f"{schedule}: line {line['seq'] + 1}") > hour:
            return
        yield line


def _hour(text: str, where: str) -> int:
    """The first full hour at or after an instant."""
    return -(-micros(text, where) // HOUR)
