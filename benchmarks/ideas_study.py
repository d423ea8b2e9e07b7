"""What an idea of ``ideas.py`` is tried on: the market and its quarterly folds, and the models that it changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from threadpoolctl import threadpool_limits

from features.market import Market
from features.panel import Panel
from models.boosting import LightGBM
from models.combination import level
from models.panel_har import HARX
from training.config import RunConfig
from training.material import Material, prepare
from training.rows import Rows, micros, training_rows
from training.splits import Fold

Array = npt.NDArray[np.float64]
Grids = dict[int, Array]

START, SCORED, END = (pd.Timestamp(day, tz="UTC") for day in ("2021-07-01", "2022-01-01", "2023-07-01"))
HOURS_A_DAY: Final = 24


@dataclass(frozen=True)
class Study:
    """Everything an idea may touch: the market's panel, features and targets, and the quarterly folds."""

    panel: Panel
    material: Material
    folds: tuple[Fold, ...]
    data_sha256: str

    @classmethod
    def open(cls, store: Path) -> Study:
        market = Market.open(store).as_of(END + pd.Timedelta(days=4))
        borders = pd.date_range(START, END, freq="3MS")
        folds = tuple(Fold(k, a, b, None, a) for k, (a, b) in enumerate(pairwise(borders)))
        return cls(Panel(market), prepare(market, RunConfig()), folds, market.data_sha256)

    @property
    def horizons(self) -> tuple[int, ...]:
        return self.material.rows.horizons

    @property
    def times(self) -> pd.DatetimeIndex:
        return self.material.times[self._span]

    @property
    def _span(self) -> slice:
        first, last = self.material.times.searchsorted([START, END])
        return slice(int(first), int(last))

    def truth(self, h: int) -> Array:
        return self.material.targets[h]["variance"][:, self._span]

    def with_columns(self, columns: Mapping[str, Array], without: str | None = None) -> Rows:
        """The rows with more features, each (n_symbols, n_hours) on the material's grid, and without some by prefix."""
        rows = self.material.rows
        kept = [k for k, name in enumerate(rows.columns) if without is None or not name.startswith(without)]
        more = [values[rows.symbol, self.material.column] for values in columns.values()]
        names = (*(rows.columns[k] for k in kept), *columns)
        return replace(rows, features=np.column_stack([rows.features[:, kept], *more]), columns=names)

    def forecast(self, make: Callable[[], LightGBM | HARX], rows: Rows | None = None) -> Grids:
        """Levelled ``ln F`` of a member by horizon, out of sample, on the grid of the folds."""
        rows = rows or self.material.rows
        out = {h: np.full((len(rows.symbols), len(self.times)), np.nan) for h in self.horizons}
        for fold in self.folds:
            member = make()
            with threadpool_limits(limits=1):
                member.horizons_ = rows.horizons
                member._learn(training_rows(fold, rows))
            test = (rows.origin >= micros(fold.test_start)) & (rows.origin < micros(fold.test_end))
            values = member._predict_log(rows.frame(test)[0])
            column = self.material.column[test] - self._span.start
            for j, h in enumerate(self.horizons):
                out[h][rows.symbol[test], column] = values[:, j]
        return {h: level(x, self.truth(h), self.times, h) for h, x in out.items()}

    def loss(self, h: int, log_forecast: Array) -> Array:
        """QLIKE (n_symbols, n_hours) of the scored hours."""
        ratio = np.log(self.truth(h)) - log_forecast
        return np.where(np.asarray(self.times >= SCORED), np.exp(ratio) - ratio - 1, np.nan)


Idea = Callable[[Study], tuple[Grids, Grids]]


@cache
def boosted(study_id: int) -> Grids:
    return STUDIES[study_id].forecast(LightGBM)


@cache
def mixed(study_id: int) -> Grids:
    study, trees = STUDIES[study_id], boosted(study_id)
    linear = study.forecast(HARX)
    return {h: 0.5 * (trees[h] + linear[h]) for h in study.horizons} | {-h: linear[h] for h in study.horizons}


STUDIES: dict[int, Study] = {}


def member(make: Callable[[], LightGBM]) -> Idea:
    """The boosted member, made otherwise."""
    return lambda study: (study.forecast(make), boosted(id(study)))


def columns(make: Callable[[Study], Mapping[str, Array]], without: str | None = None) -> Idea:
    """The boosted member with more to read, or less."""
    return lambda study: (study.forecast(LightGBM, study.with_columns(make(study), without)), boosted(id(study)))


def partner(make: Callable[[], LightGBM]) -> Idea:
    """A third member in the mix of LightGBM and HAR-X."""

    def idea(study: Study) -> tuple[Grids, Grids]:
        third, mix = study.forecast(make), mixed(id(study))
        return {h: (2 * mix[h] + third[h]) / 3 for h in study.horizons}, mix

    return idea


def on_the_mix(change: Callable[[Study, int, Array], Array]) -> Idea:
    """Something done to the mix afterwards."""

    def idea(study: Study) -> tuple[Grids, Grids]:
        mix = mixed(id(study))
        return {h: change(study, h, mix[h]) for h in study.horizons}, mix

    return idea
