"""How far a policy has come on its way into use, judged on its lines, what prices did, and the signed bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from features.errors import UsageError
from features.market import Market
from features.targets import realised
from forecaster.commands import inputs
from forecaster.commands.inputs import Moment, StoreLike
from forecaster.policy.audit.chain import micros, since_epoch
from forecaster.policy.audit.progress import RESOLVED, newest, proceed
from forecaster.policy.audit.rollout import Limits, Stage, applies
from forecaster.policy.params import Params
from forecaster.policy.replay import read_lines, replay
from forecaster.policy.schedule import iso
from forecaster.policy.types import HOUR, PPM

__all__ = ["Rollout", "policy_rollout"]

TOLD: Final = {
    "START": "a roll-out begins in shadow",
    "GATHERING": "the block is not full yet",
    "PASSED": "a full block of resolved origins had few enough misses",
    "COVERAGE": "more misses than a whole block may have",
    "BOUNDS": "a line broke the signed bounds",
    "SILENCE": "no origin was resolved for too long",
}
MEANS: Final = {
    Stage.SHADOW: "computed, not applied",
    Stage.CANARY: "applied to the canary symbols alone",
    Stage.LIVE: "applied to every symbol",
}


@dataclass(frozen=True)
class Rollout:
    """Where the policy stands at ``at``: stage, symbols it is applied to, and the running block of resolved origins.

    ``why``: of the last hour; ``cause``: of the last change of stage or retreat, at ``since``.
    """

    path: Path
    at: str
    stage: Stage
    applied: tuple[str, ...]
    why: str
    since: str
    cause: str
    origins: int
    misses: int
    silent: int
    limits: Limits
    head: str

    def to_dict(self) -> dict[str, Any]:
        """The facts as one JSON object."""
        limits = {**self.limits.__dict__, "canaries": list(self.limits.canaries), "misses": self.limits.misses}
        return {**self.__dict__, "path": str(self.path), "applied": list(self.applied), "limits": limits}

    def summary(self) -> str:
        """Stage, why, and what the next one takes."""
        limits = self.limits
        applied = f": {', '.join(self.applied)}" if self.stage is not Stage.SHADOW else ""
        return "\n".join(
            [
                f"{self.stage} at {self.at} ({MEANS[self.stage]}{applied})",
                f"since {self.since}, {self.cause}: {TOLD[self.cause]}",
                f"now {self.why}: {TOLD[self.why]}; {self.origins:,} of {limits.block_origins:,} resolved origins, "
                f"{self.misses:,} misses of at most {limits.misses:,}, {self.silent} hours silent of at most "
                f"{limits.silent_steps}",
                f"{self.path}: head {self.head}",
            ]
        )


def policy_rollout(
    schedule: str | Path,
    record: str | Path,
    events: str | Path,
    registry: str | Path,
    store: StoreLike = None,
    params: Params | str | Path | None = None,
    canaries: Sequence[str] = (),
    as_of: Moment = None,
) -> Rollout:
    """Bring a roll-out's record up to ``as_of`` (default: now), from shadow by canary symbols to live and back.

    ``params``: the pack that made the schedule; its section ``rollout`` holds the limits, a block being so many hours of
    the symbols that the schedule begins with; ``canaries`` may replace its symbols. Only bars that were known at ``as_of``
    count. Raises as ``audit.progress.proceed``.
    """
    pack = params if isinstance(params, Params) else Params.default() if params is None else Params.load(params)
    report, terms = replay(schedule), pack.rollout
    # Symbols that are listed later must not change what a record was begun with, nor what another one derives again.
    listed = sum(1 for _ in takewhile(lambda found: found[2]["as_of"] == report.first, read_lines(schedule)))
    limits = Limits(
        block_origins=terms.block_hours * listed,
        coverage_ppm=terms.coverage_ppm,
        silent_steps=terms.silent_steps,
        canaries=tuple(canaries) or terms.canaries,
    )
    if unknown := sorted(set(limits.canaries) - set(report.symbols)):
        raise UsageError(
            f"{schedule}: holds no line of the canary {unknown[0]}; name others with --canary, of {', '.join(report.symbols)}"
        )
    moment = inputs.instant(as_of, "--as-of")
    now = since_epoch(datetime.now(UTC) if moment is None else moment.to_pydatetime())
    rules, last = inputs.governance(events, registry), newest(record)
    since = micros(report.first if last is None else last["at"], str(record)) - RESOLVED
    known = _excursions(inputs.read(store), since, now)
    line = proceed(record, schedule, pack.sha256, rules, known, limits, now)
    stage = Stage(line["stage"])
    return Rollout(
        path=Path(record),
        stage=stage,
        applied=tuple(symbol for symbol in report.symbols if applies(stage, symbol, limits)),
        limits=limits,
        head=line["hash"],
        **{name: line[name] for name in ("at", "why", "since", "cause", "origins", "misses", "silent")},
    )


def _excursions(market: Market, since: int, now: int) -> dict[tuple[str, str], int]:
    """The larger 24 h excursion of origins from ``since`` on that is complete and known at ``now``, in ppm rounded up."""
    begin = _stamp(since - 2 * HOUR)  # the close of the bar before the first origin, for its variance
    view = market.as_of(_stamp(now)).since(begin)
    if not view.symbols:
        return {}
    moves = realised(view, [RESOLVED // HOUR])[["mae_long", "mae_short"]].max(axis=1, skipna=False).dropna()
    ppm = np.ceil(moves.to_numpy() * PPM - 1e-6).astype(np.int64).tolist()
    symbols = moves.index.get_level_values("symbol")
    origins = pd.DatetimeIndex(moves.index.get_level_values("origin")).as_unit("us").asi8
    return {(symbol, iso(at)): move for symbol, at, move in zip(symbols, origins.tolist(), ppm, strict=True)}


def _stamp(instant: int) -> pd.Timestamp:
    return pd.Timestamp(instant, unit="us", tz="UTC")
