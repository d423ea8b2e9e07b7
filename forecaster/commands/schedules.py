"""Parameter schedules: made, derived again, explained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from features.errors import UsageError
from forecaster.commands.inputs import StoreLike, forecast_table, read
from forecaster.policy import explain, make_schedule, replay, write_schedule
from forecaster.policy.params import Params

__all__ = ["Explanation", "Schedule", "policy", "policy_explain", "policy_replay"]


@dataclass(frozen=True)
class Schedule:
    """A schedule that holds: its chain and invariants, and, where ``derived``, every line from its inputs.

    ``acknowledged``: rises beyond the limits of one and five days that an acknowledged override made.
    """

    path: Path
    lines: int
    symbols: tuple[str, ...]
    first: str
    last: str
    head: str
    derived: bool
    acknowledged: int

    def read_lines(self) -> Iterator[bytes]:
        """The lines, without line ends, one by one: a long schedule does not fit into memory."""
        with self.path.open("rb") as file:
            for line in file:
                yield line.removesuffix(b"\n")

    def to_dict(self) -> dict[str, Any]:
        """The facts as one JSON object."""
        return {**self.__dict__, "path": str(self.path), "symbols": list(self.symbols)}

    def summary(self) -> str:
        """The facts in two lines."""
        held = "derived again from its inputs, byte for byte" if self.derived else "hashes, chain and invariants hold"
        span = f"{len(self.symbols)} symbols, {self.first} to {self.last}"
        return f"{self.path}: {self.lines:,} lines, {span}\n{held}; head {self.head}"


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
) -> Schedule:
    """Write the parameter schedule that follows from forecasts and the market, and check it as a reader would."""
    pack = _params(params)
    write_schedule(out, make_schedule(forecast_table(forecasts, pack.model), read(store), pack))
    return policy_replay(out)


def policy_replay(
    schedule: str | Path,
    forecasts: pd.DataFrame | str | Path | None = None,
    store: StoreLike = None,
    params: Params | str | Path | None = None,
) -> Schedule:
    """Check a schedule by itself or, given forecasts and store, derive every line again."""
    if forecasts is None:
        if store is not None or params is not None:
            raise UsageError("replay with --store or --params needs --forecasts FILE, too; or give none of them")
        report = replay(schedule)
    else:
        pack = _params(params)
        report = replay(schedule, forecast_table(forecasts, pack.model), read(store), pack)
    return Schedule(path=Path(schedule), **report.__dict__)


def policy_explain(schedule: str | Path, symbol: str, time: str) -> Explanation:
    """Why the margin of ``symbol`` in force at ``time`` is what it is."""
    return Explanation(symbol, time, explain(schedule, symbol, time))


def _params(params: Params | str | Path | None) -> Params:
    if isinstance(params, Params):
        return params
    return Params.default() if params is None else Params.load(params)
