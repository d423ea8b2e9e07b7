"""The inner walk-forward: what a choice is judged on, and nothing of what the outer one will be judged on.

It lies in the months before an instant, on a view of the market that ends there: no bar, feed or label of later is there to
be read. Its first fold warms up the levels, the others are scored. Every model is put on the level of its own resolved
forecasts, as in the product, and its QLIKE is set against that of the seasonal HAR of the configuration, without the day on
which the classical models lose most (the shock rule), with equal weight for symbols and for horizons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import UsageError
from features.market import Market
from models.base import ENSEMBLE
from training.assembly import assemble
from training.comparison import Gain, gain
from training.config import Component, Regimes, RunConfig
from training.engine import Engine
from training.levelled import levelled, rows
from training.losses import qlike_terms
from training.material import Material, prepare
from training.sample import SHOCK_MODELS, samples
from training.splits import Fold, PurgedWalkForward
from training.walkforward import HISTORY_BEFORE_FIRST_FOLD, run_folds

__all__ = ["REFERENCE", "Inner", "Losses"]

Array = npt.NDArray[np.float64]

REFERENCE: Final = "har_seasonal"
REFIT_MONTHS: Final = 3
FOLDS_A_RUNG: Final = 2
"""A trial is judged after so many folds; they are made side by side."""


@dataclass(frozen=True)
class Losses:
    """QLIKE of one model by horizon, (n_symbols, n_hours) of the inner span; null where it is not scored."""

    own: Mapping[int, Array]
    reference: Mapping[int, Array]
    days: npt.NDArray[np.int64]

    @property
    def by_horizon(self) -> dict[int, float]:
        """The loss as a share of the reference's on the same rows, each a mean over symbols."""
        return {h: 1.0 - gain(loss, self.reference[h], self.days, reps=0).value for h, loss in self.own.items()}

    @property
    def mean(self) -> float:
        """The mean of ``by_horizon``: what a search minimises."""
        return float(np.mean(list(self.by_horizon.values())))

    def gain_over(self, other: Losses) -> Gain:
        """What this model saves of the other's loss, all horizons together, with its 90 % interval by date.

        Each horizon's losses are taken as shares of the reference's mean, so that all weigh the same.
        """
        parts: list[tuple[Array, Array]] = []
        for h, loss in self.own.items():
            scored = self.reference[h][np.isfinite(self.reference[h]).any(axis=1)]
            scale = np.nanmean(scored, axis=1).mean()
            both = np.isfinite(loss) & np.isfinite(other.own[h])
            parts.append((np.where(both, loss, np.nan) / scale, np.where(both, other.own[h], np.nan) / scale))
        first, second = (np.vstack([pair[k] for pair in parts]) for k in (0, 1))
        return gain(first, second, self.days)


@dataclass(frozen=True)
class Inner:
    """Inner folds on what was known at ``before``, and the reference's losses on them.

    ``config``: the configuration that is tuned.
    """

    config: RunConfig
    material: Material
    data_sha256: str
    folds: tuple[Fold, ...]
    engine: Engine
    span: slice
    reference: Mapping[int, Array]

    @classmethod
    def of(
        cls, market: Market, config: RunConfig, before: pd.Timestamp, months: int, folder: Path, engine: Engine
    ) -> Inner:
        """Cut the folds, and forecast and score the reference on them; its finished folds are kept in ``folder``.

        Raises ``UsageError`` where history before them is too short, or the configuration has no seasonal HAR.
        """
        if REFERENCE not in [member.kind for member in config.members]:
            raise UsageError(f"members has no {REFERENCE}, against which every choice is judged; add it")
        view = market.as_of(before)
        material = prepare(view, config)
        folds = _folds(material, config, before, months)
        first, last = folds[0].test_start, min(folds[-1].test_end, material.times[-1] + pd.Timedelta(hours=1))
        columns = np.flatnonzero((material.times >= first) & (material.times < last))
        span = slice(int(columns[0]), int(columns[-1]) + 1)
        inner = cls(config, material, view.data_sha256, folds, engine, span, {})
        classical = tuple(m for m in config.members if m.kind in SHOCK_MODELS)
        forecasts = inner.forecasts(classical, folder / "reference")
        grids = {m.kind: inner.levelled(forecasts, m.kind) for m in classical}
        reference = {h: _judged(inner, {kind: grid[h] for kind, grid in grids.items()}, h) for h in config.horizons}
        return cls(config, material, view.data_sha256, folds, engine, span, reference)

    @property
    def rungs(self) -> list[Sequence[Fold]]:
        """The folds that a trial has made by each of its judgements."""
        scored = range(1 + FOLDS_A_RUNG, len(self.folds) + FOLDS_A_RUNG, FOLDS_A_RUNG)
        return [self.folds[: min(stop, len(self.folds))] for stop in scored]

    def forecasts(
        self, members: Sequence[Component], folder: Path, folds: Sequence[Fold] | None = None
    ) -> pd.DataFrame:
        """``ln E[V]`` of the members on the folds (None: all); finished folds are not made again."""
        config = self.config.model_copy(update={"members": tuple(members), "regimes": Regimes(classifier=False)})
        chosen = self.folds if folds is None else folds
        results = run_folds(chosen, self.material, config, self.data_sha256, folder, self.engine)
        return pd.concat([result.forecasts for result in results]).sort_index(kind="stable")

    def levelled(self, forecasts: pd.DataFrame, kind: str) -> dict[int, Array]:
        """``ln F`` by horizon on the inner span, each symbol on the level of its resolved forecasts."""
        times = self.material.times[self.span]
        return {
            h: levelled(forecasts[kind, h], self._variance(h), self.material.symbols, times, h)
            for h in self.config.horizons
        }

    def losses(self, log_forecast: Mapping[int, Array]) -> Losses:
        """Of forecasts ``ln F`` by horizon on the inner span, where the reference is scored."""
        own = {}
        for h, grid in log_forecast.items():
            known = np.isfinite(self.reference[h]) & np.isfinite(grid)
            own[h] = np.full(grid.shape, np.nan)
            own[h][known] = qlike_terms(self._variance(h)[known], np.exp(grid[known]))
        return Losses(own, self.reference, self._hours // 24)

    def ensemble(self, forecasts: pd.DataFrame, params: Mapping[str, Any]) -> Losses:
        """Of the members' combination under these arguments."""
        ensemble = self.config.ensemble.model_copy(update={"params": dict(params)})
        assemblies, _ = assemble(self.material, forecasts, self.config.model_copy(update={"ensemble": ensemble}))
        return self.losses({h: np.log(a.columns[ENSEMBLE]["variance"]) for h, a in assemblies.items()})

    def _variance(self, horizon: int) -> Array:
        return self.material.targets[horizon]["variance"][:, self.span]

    @property
    def _hours(self) -> npt.NDArray[np.int64]:
        return np.asarray(self.material.times[self.span].as_unit("s").asi8 // 3600)


def _folds(material: Material, config: RunConfig, before: pd.Timestamp, months: int) -> tuple[Fold, ...]:
    settings = config.walkforward
    window = settings.window_months
    folds = PurgedWalkForward(
        before - pd.DateOffset(months=months),
        before,
        step=f"{REFIT_MONTHS}MS",
        embargo=pd.Timedelta(hours=settings.embargo_hours),
        window=None if window is None else pd.Timedelta(days=round(window * 365.25 / 12)),
        warmup=1,
    ).folds()
    earliest = material.times[0] + HISTORY_BEFORE_FIRST_FOLD
    if folds[0].test_start < earliest:
        raise UsageError(
            f"{months} months of inner folds before {before:%Y-%m-%d}, and {REFIT_MONTHS} that warm up, begin on "
            f"{folds[0].test_start:%Y-%m-%d}, and a first fit takes data up to {earliest.ceil('D'):%Y-%m-%d}; ask for fewer "
            "months, or import older data"
        )
    return tuple(folds)


def _judged(inner: Inner, log_forecast: Mapping[str, Array], horizon: int) -> Array:
    """The reference's QLIKE where every classical model is scored: after the warm-up, without the shock day."""
    material, times = inner.material, inner.material.times[inner.span]
    start, end = inner.folds[1].test_start, times[-1] + pd.Timedelta(hours=1)
    came = material.realised(times[0], end)
    came = came[came.index.get_level_values("horizon_hours") == horizon]
    [sample] = samples(rows(log_forecast, material.symbols, times, horizon), came, start, end)
    out = np.full(log_forecast[REFERENCE].shape, np.nan)
    at = pd.Index(material.symbols).get_indexer(pd.Index(sample.symbols))
    out[np.ix_(at, np.flatnonzero(times >= start))] = sample.qlike_x[sample.models.index(REFERENCE)]
    return out
