"""Parameter schedules: made, derived again, explained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from features.errors import UsageError
from forecaster.commands.inputs import StoreLike, forecast_table, governance, read
from forecaster.policy import explain, make_schedule, replay, write_schedule
from forecaster.policy.params import Params
from forecaster.policy.types import ALL_SYMBOLS

if TYPE_CHECKING:
    from forecaster.policy.audit.override import Governance

__all__ = ["Explanation", "Schedule", "policy", "policy_explain", "policy_replay"]


@dataclass(frozen=True)
class Schedule:
    """A schedule that holds: its chain and invariants, and, where ``derived``, every line from its inputs.

    ``acknowledged``: rises beyond the limits of one and five days that an acknowledged override made. ``overrides``:
    signed ones that the lines were made or derived under, up to the event ``events_head``; ``overrides_unmatched``:
    symbols that they name and the schedule does not hold; ``events_waiting``: events that too few have signed to act.
    """

    path: Path
    lines: int
    symbols: tuple[str, ...]
    first: str
    last: str
    head: str
    derived: bool
    acknowledged: int
    overrides: int = 0
    overrides_unmatched: tuple[str, ...] = ()
    events_waiting: int = 0
    events_head: str | None = None

    def read_lines(self) -> Iterator[bytes]:
        """The lines, without line ends, one by one: a long schedule does not fit into memory."""
        with self.path.open("rb") as file:
            for line in file:
                yield line.removesuffix(b"\n")

    def to_dict(self) -> dict[str, Any]:
        """The facts as one JSON object."""
        listed = {name: list(getattr(self, name)) for name in ("symbols", "overrides_unmatched")}
        return {**self.__dict__, **listed, "path": str(self.path)}

    def summary(self) -> str:
        """The facts in two lines, and what is to be known of the events it was made under."""
        held = "derived again from its inputs, byte for byte" if self.derived else "hashes, chain and invariants hold"
        span = f"{len(self.symbols)} symbols, {self.first} to {self.last}"
        told = [f"{self.path}: {self.lines:,} lines, {span}", f"{held}; head {self.head}"]
        if self.events_head is not None:
            told.append(f"under {self.overrides:,} signed overrides; head of the events {self.events_head}")
        if self.overrides_unmatched:
            told.append(
                f"overrides without effect, of symbols that it does not hold: {', '.join(self.overrides_unmatched)}"
            )
        if self.events_waiting:
            told.append(f"{self.events_waiting:,} events without effect: they wait for signatures")
        return "\n".join(told)

    def under(self, rules: Governance) -> Schedule:
        """This schedule with what is to be known of the events it was made under."""
        named = {override.symbol for override in rules.overrides} - {ALL_SYMBOLS, *self.symbols}
        return replace(
            self,
            overrides=len(rules.overrides),
            overrides_unmatched=tuple(sorted(named)),
            events_waiting=rules.waiting,
            events_head=rules.head,
        )


@dataclass(frozen=True)
class Explanation:
    """Why one margin is what it is."""

    symbol: str
    time: str
    text: str

    def to_dict(self) -> dict[str, Any]:
        """The explanation as one JSON object."""
        return dict(self.__dict__)

    def summary(self) -> str:
        """The explanation."""
        return self.text


def policy(
    forecasts: pd.DataFrame | str | Path,
    store: StoreLike = None,
    params: Params | str | Path | None = None,
    out: str | Path = "schedule.jsonl",
    events: str | Path | None = None,
    registry: str | Path | None = None,
) -> Schedule:
    """Write the parameter schedule that follows from forecasts and the market, and check it as a reader would.

    ``events``: the log whose overrides act on the lines, as far as enough keys of ``registry`` have signed it. Raises
    ``DataInvalid`` where log or signatures do not hold; whether the lines keep the log's bounds, sign and verify check.
    """
    pack, rules = _params(params), governance(events, registry)
    table = forecast_table(forecasts, pack.model)
    write_schedule(out, make_schedule(table, read(store), pack, overrides=rules.overrides))
    return policy_replay(out).under(rules)


def policy_replay(
    schedule: str | Path,
    forecasts: pd.DataFrame | str | Path | None = None,
    store: StoreLike = None,
    params: Params | str | Path | None = None,
    events: str | Path | None = None,
    registry: str | Path | None = None,
) -> Schedule:
    """Check a schedule by itself or, given forecasts and store, derive every line again, under signed overrides."""
    if forecasts is None:
        if any(given is not None for given in (store, params, events, registry)):
            raise UsageError(
                "replay with --store, --params, --events or --registry needs --forecasts FILE, too; or give none of them"
            )
        return Schedule(path=Path(schedule), **replay(schedule).__dict__)
    pack, rules = _params(params), governance(events, registry)
    report = replay(schedule, forecast_table(forecasts, pack.model), read(store), pack, rules.overrides)
    return Schedule(path=Path(schedule), **report.__dict__).under(rules)


def policy_explain(schedule: str | Path, symbol: str, time: str) -> Explanation:
    """Why the margin of ``symbol`` in force at ``time`` is what it is."""
    return Explanation(symbol, time, explain(schedule, symbol, time))


def _params(params: Params | str | Path | None) -> Params:
    if isinstance(params, Params):
        return params
    return Params.default() if params is None else Params.load(params)
