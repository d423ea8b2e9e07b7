"""A walk-forward small enough to be done many times: the product's own folds and assembly, judged against known forecasts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.market import Market
from models.base import ENSEMBLE
from models.ensemble import Assembly
from training.assembly import assemble
from training.comparison import Gain, gain
from training.config import Component, Ensemble, Features, RunConfig, WalkForward
from training.folds import forecast_fold
from training.losses import qlike_terms
from training.material import Material, prepare
from training.walkforward import plan

__all__ = [
    "BOOK",
    "HISTORY",
    "MEMBERS",
    "SMALL",
    "Walk",
    "climatology",
    "configured",
    "delayed",
    "on_grid",
    "shuffled",
    "walked",
]

Array = npt.NDArray[np.float64]

HISTORY: Final = ("memory", "path", "calendar")
BOOK: Final = (*HISTORY, "order_book")
# Every member that the ensemble combines by itself, and what they are judged against.
MEMBERS: Final = ("har", "har_seasonal", "har_x", "lightgbm")
# What a few thousand rows can teach: denser rows, fewer trees.
SMALL: Final[Mapping[str, Mapping[str, Any]]] = {"lightgbm": {"every_hours": 2, "rounds": 60, "min_data_in_leaf": 200}}


@dataclass(frozen=True)
class Walk:
    """Forecasts of the scored hours ``grid`` (columns of the material's grid), and what came."""

    material: Material = field(repr=False)
    assemblies: dict[int, Assembly] = field(repr=False)
    begin: int
    grid: slice

    def column(self, h: int, name: str, model: str = ENSEMBLE) -> Array:
        """A forecast column, (n_symbols, n_scored_hours)."""
        inside = slice(self.grid.start - self.begin, self.grid.stop - self.begin)
        return self.assemblies[h].columns[model][name][:, inside]

    def truth(self, h: int, name: str) -> Array:
        """A target, (n_symbols, n_scored_hours)."""
        return self.material.targets[h][name][:, self.grid]

    def loss(self, h: int, forecast: str | Array = ENSEMBLE) -> Array:
        """QLIKE of a model, or of forecasts on the material's grid, (n_symbols, n_scored_hours); NaN where one is missing."""
        made = self.column(h, "variance", forecast) if isinstance(forecast, str) else forecast[:, self.grid]
        came = self.truth(h, "variance")
        known = np.isfinite(made) & np.isfinite(came)
        out = np.full(came.shape, np.nan)
        out[known] = qlike_terms(came[known], made[known])
        return out

    def gain(self, h: int, model: str | Array, opponent: str | Array, level: float = 0.90) -> Gain:
        """What the model saves of the opponent's loss."""
        days = np.arange(self.grid.start, self.grid.stop) // 24
        return gain(self.loss(h, model), self.loss(h, opponent), days, level=level)


def configured(
    members: Sequence[str] = MEMBERS,
    families: Sequence[str] = HISTORY,
    horizons: Sequence[int] = (1, 4),
    refit_months: int = 3,
    combined: Sequence[str] | None = None,
    settings: Mapping[str, Mapping[str, Any]] = SMALL,
    **params: Any,
) -> RunConfig:
    """A configuration of the product; ``params``: of the ensemble, ``combined``: which members it combines."""
    return RunConfig(
        horizons=tuple(horizons),
        members=tuple(Component(kind=kind, params=dict(settings.get(kind, {}))) for kind in members),
        features=Features(families=tuple(families)),
        walkforward=WalkForward(refit=refit_months, warmup_months=60),
        ensemble=Ensemble(members=None if combined is None else tuple(combined), params=params),
    )


def walked(
    source: Market | Material,
    config: RunConfig,
    days: int,
    alter: Callable[[Material], Material] = lambda material: material,
) -> Walk:
    """Walk forward through the whole market and score its last ``days``; ``alter`` takes the features and targets in hand."""
    material = alter(source if isinstance(source, Material) else prepare(source, config))
    last = material.times[-1] + pd.Timedelta(hours=1)
    start = (last - pd.Timedelta(days=days)).normalize()
    folds = plan(material, config, start, last)
    made = [forecast_fold(fold, material.rows, config.members) for fold in folds]
    forecasts = pd.concat([fold.forecasts for fold in made]).sort_index(kind="stable")
    assemblies, span = assemble(material, forecasts, config)
    first = int(material.times.searchsorted(start))
    return Walk(material, assemblies, span.start, slice(first, len(material.times)))


def delayed(material: Material, hours: int) -> Material:
    """Every feature of every symbol as it stood ``hours`` earlier (negative: as it will stand); the targets stay."""
    rows = material.rows
    features = np.full_like(rows.features, np.nan)
    for code in range(len(rows.symbols)):
        own = np.flatnonzero(rows.symbol == code)
        kept = own[hours:] if hours >= 0 else own[:hours]
        features[kept] = rows.features[own[: len(own) - hours] if hours >= 0 else own[-hours:]]
    return replace(material, rows=replace(rows, features=features))


def shuffled(material: Material, block_hours: int, seed: int) -> Material:
    """What came, dealt out anew: blocks of each symbol's outcomes in another order, the same for all horizons.

    Features stay, so nothing can be known of what comes beyond its law. Blocks keep labels as alike as their neighbours.
    """
    rng = np.random.default_rng(seed)
    count = len(material.times)
    blocks = np.array_split(np.arange(count), max(count // block_hours, 1))
    order = np.stack([np.concatenate([blocks[b] for b in rng.permutation(len(blocks))]) for _ in material.symbols])
    targets = {
        h: {name: np.take_along_axis(x, order, axis=1) for name, x in arrays.items()}
        for h, arrays in material.targets.items()
    }
    rows = material.rows
    variance = np.column_stack([targets[h]["variance"][rows.symbol, material.column] for h in rows.horizons])
    return replace(material, rows=replace(rows, variance=variance), targets=targets)


def climatology(material: Material, h: int) -> Array:
    """The mean of each symbol's outcomes so far, resolved ones only: (n_symbols, n_hours)."""
    came = material.targets[h]["variance"]
    total, count = np.nancumsum(came, axis=1), np.cumsum(np.isfinite(came), axis=1)
    out = np.full(came.shape, np.nan)
    out[:, h:] = (total / np.maximum(count, 1))[:, :-h]
    return out


def on_grid(forecasts: pd.DataFrame, h: int, material: Material) -> Array:
    """Rows of ``symbol, origin, horizon_hours, variance`` of one horizon on the material's grid, (n_symbols, n_hours)."""
    chosen = forecasts[forecasts["horizon_hours"] == h].pivot(index="symbol", columns="origin", values="variance")
    return np.asarray(chosen.reindex(index=list(material.symbols), columns=material.times), dtype=np.float64)
