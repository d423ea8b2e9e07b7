"""The classifier of regimes: boosted corrections of the exceedance probabilities that a linear forecast implies.

``P(V > tau | x)`` is, for any threshold ``tau``, a logit that the panel HAR-X implies through a normal law of ``ln V - ln F``,
plus trees. One booster learns it at four thresholds of each row at once, the regimes' three and one at half that of stress,
since each alone is crossed too rarely to learn from (distribution regression: Foresi and Peracchi, 1995, J. American
Statistical Association 90). That booster is the onset model: it is trained only on rows that are calm or normal now, where
"stress or crisis next" is the onset. Rows that are stressed already get its answer and a second one's, which begins there.
LightGBM does not add back what a booster began at when it predicts: it is added here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special
from sklearn.base import BaseEstimator
from threadpoolctl import threadpool_limits

from features.errors import DataInvalid
from models.boosting import UNUSED_PREFIXES, clocked, equal_by_symbol, is_level
from models.har import HAR
from models.members import require
from models.panel_har import HARX
from models.regimes import CLASSIFIED
from models.state_signals import StateSignals
from models.training_rows import TrainingRows

__all__ = ["RegimeClassifier"]

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Inputs = npt.NDArray[np.float32]

STRESSED: Final = 2
MINIMUM_ROWS: Final = 500
DAY: Final = 24
# The fourth threshold learnt at lies this far, on the log scale, below that of stress: half of it.
BETWEEN: Final = -0.7
COPIES: Final = 4
AHEAD: Final = "state_stress_ahead_"
# Beyond one in eight thousand the normal law tells nothing.
LARGEST_LOGIT: Final = 9.0
PASSED_ON: Final = (
    "learning_rate", "num_leaves", "min_data_in_leaf", "feature_fraction", "bagging_fraction", "lambda_l2", "max_bin", "seed",
    "num_threads",
)  # fmt: skip
REPRODUCIBLE: Final = {"bagging_freq": 1, "deterministic": True, "force_row_wise": True, "verbosity": -1}


class RegimeClassifier(BaseEstimator):  # type: ignore[misc]
    """``logit P(V > tau | x)`` of each regime threshold and horizon: implied by HAR-X, and boosted.

    Inputs are those of the boosted members with HAR-X as the base, the class now, the state signals where the horizon is
    shorter than a day, and ``ln tau - ln F``. Every symbol weighs the same, none is known by name. Where HAR-X has too few
    rows the seasonal HAR stands in, and where the trees have too few, the implied logit stays as it is. ``every_hours`` thins
    the training rows, those of horizons below a day, and of longer ones, whose intervals overlap more (neither number may
    leave out hours of the day); ``window_days`` limits them. The rest is LightGBM's own, fixed for bit-reproducible training.

    After ``learn``: ``location_`` and ``spread_`` (n_horizons,) of ``ln V - ln F``, NaN where too few rows tell;
    ``boosters_``, texts: the onset model of each horizon, then the second one of each; none where rows are too few for it.
    """

    horizons_: tuple[int, ...]

    def __init__(
        self,
        rounds: int = 120,
        rounds_stressed: int = 20,
        learning_rate: float = 0.04,
        num_leaves: int = 15,
        min_data_in_leaf: int = 2000,
        feature_fraction: float = 0.6,
        bagging_fraction: float = 0.7,
        lambda_l2: float = 50.0,
        max_bin: int = 127,
        every_hours: tuple[int, int] = (5, 11),
        window_days: int | None = None,
        seed: int = 1,
        num_threads: int = 1,
    ) -> None:
        self.rounds = rounds
        self.rounds_stressed = rounds_stressed
        self.learning_rate = learning_rate
        self.num_leaves = num_leaves
        self.min_data_in_leaf = min_data_in_leaf
        self.feature_fraction = feature_fraction
        self.bagging_fraction = bagging_fraction
        self.lambda_l2 = lambda_l2
        self.max_bin = max_bin
        self.every_hours = every_hours
        self.window_days = window_days
        self.seed = seed
        self.num_threads = num_threads

    def learn(self, past: TrainingRows) -> Self:
        """Fit on rows with thresholds; raises ``DataInvalid`` where they have none, or lack what the HAR is made of."""
        if past.thresholds is None or past.now is None:
            raise DataInvalid(
                "the classifier of regimes needs rows with thresholds and classes; make TrainingRows with both"
            )
        self.horizons_ = past.horizons
        with threadpool_limits(limits=1):
            self.base_ = _base(past)
            self.columns_ = tuple(c for c in past.columns if not c.startswith(UNUSED_PREFIXES))
            signals = StateSignals.of(past)
            self.signals_ = signals.copied()
            sets = [
                self._rows(past, past.thresholds[:, j], past.now[:, j], signals.training, j)
                for j in range(len(self.horizons_))
            ]
            self.location_, self.spread_ = np.array([_law(rows) for rows in sets]).T
            self.boosters_ = self._boosted(sets)
        self._loaded: list[Any] | None = None
        return self

    def _rows(self, past: TrainingRows, thresholds: Array, now: Array, signals: Array, j: int) -> _Rows:
        """The rows that horizon number ``j`` is learnt from."""
        every = self.every_hours[self.horizons_[j] >= DAY]
        thinned = past.within(self.window_days, every)
        forecasts = past.once(
            ("regimes", self.window_days, every), lambda: self.base_._predict_log(past.frame(thinned))
        )[:, j]
        known = np.isfinite(forecasts + past.variance[thinned, j] + thresholds[thinned].sum(axis=1) + now[thinned])
        at, log_forecast = thinned[known], forecasts[known]
        log_variance = np.log(past.variance[at, j])
        features = past.values([*self.columns_, self._seasons[j]], at, "regimes")
        inputs = self._inputs(features, log_forecast, now[at], signals[at], j)
        return _Rows(inputs, log_forecast, np.log(thresholds[at]), now[at], log_variance, past.symbol[at])

    def _inputs(self, features: Array, log_forecast: Array, now: Array, signals: Array, j: int) -> Inputs:
        """What the boosters of horizon number ``j`` are given, (n_rows, n_inputs); the last is left for ``ln tau - ln F``.

        ``features``: the columns, and the season ahead.
        """
        h, season = self.horizons_[j], features[:, -1]
        har = log_forecast - season
        shown = [k for k, name in enumerate(self.signals_.names) if not name.endswith("h") or name == f"{AHEAD}{h}h"]
        beside = [season - np.log(h), har, now, *(signals[:, k] for k in shown if h < DAY)]
        out = np.empty((len(features), len(self.columns_) + len(beside) + 1), dtype=np.float32)
        for k, name in enumerate(self.columns_):
            out[:, k] = features[:, k] - har if is_level(name) else features[:, k]
        for k, values in enumerate(beside, start=len(self.columns_)):
            out[:, k] = values
        return out

    def _boosted(self, sets: Sequence[_Rows]) -> list[str]:
        """The onset models, and the second ones: each kind for all horizons or for none."""
        texts: list[str] = []
        calm = [rows.where(rows.now < STRESSED) for rows in sets]
        if np.isfinite(self.spread_).all() and min(map(len, calm)) * COPIES >= 2 * self.min_data_in_leaf:
            onset = [self._train(rows, self.rounds, j) for j, rows in enumerate(calm)]
            texts += [booster.model_to_string(num_iteration=-1) for booster in onset]
            stressed = [rows.where(rows.now >= STRESSED) for rows in sets]
            if min(map(len, stressed)) * COPIES >= 2 * self.min_data_in_leaf:
                more = [self._train(rows, self.rounds_stressed, j, onset[j]) for j, rows in enumerate(stressed)]
                texts += [booster.model_to_string(num_iteration=-1) for booster in more]
        return texts

    def _train(self, rows: _Rows, rounds: int, j: int, before: Any = None) -> Any:
        """One booster for horizon number ``j``, which begins at the implied logit and the answer of the one ``before``."""
        import lightgbm

        levels = rows.log_thresholds
        distance = np.column_stack([levels, levels[:, 1] + BETWEEN]) - rows.log_forecast[:, None]
        hit = (rows.log_variance - rows.log_forecast)[:, None] > distance
        inputs, start = _at(rows.inputs, distance), self._implied(distance, j).T.ravel()
        if before is not None:
            start = start + before.predict(inputs, raw_score=True, num_threads=self.num_threads)
        weight = np.tile(equal_by_symbol(rows.symbol), COPIES)
        with clocked():
            data = lightgbm.Dataset(inputs, hit.T.ravel(), weight=weight, init_score=start, params=self._parameters())
            return lightgbm.train(self._parameters(), data, num_boost_round=rounds)

    def _implied(self, distance: Array, j: int) -> Array:
        """The logit of ``P(ln V - ln F > distance)`` under the normal law."""
        d = (distance - self.location_[j]) / self.spread_[j]
        return np.asarray(np.clip(special.log_ndtr(-d) - special.log_ndtr(d), -LARGEST_LOGIT, LARGEST_LOGIT))

    def _parameters(self) -> dict[str, Any]:
        return {"objective": "binary", **{name: getattr(self, name) for name in PASSED_ON}, **REPRODUCIBLE}

    def logits(self, X: pd.DataFrame, thresholds: Array, now: Array) -> pd.DataFrame:
        """Logits of ``P(V > threshold)``: columns (name of ``CLASSIFIED``, horizon), NaN where a threshold is.

        ``thresholds`` (n_rows, n_horizons, 3) and ``now`` (n_rows, n_horizons) are those of the rows of ``X``; a class that is
        not known is taken as none of stress. ``X`` follows on the rows that were learnt from, or begins anew.
        """
        base, signals = self.base_._predict_log(X), self.signals_.filter(X)
        out = np.empty((len(CLASSIFIED), len(self.horizons_), len(X)))
        for j in range(len(self.horizons_)):
            inputs = self._given(X, base[:, j], now[:, j], signals, j)
            out[:, j] = self._logits(inputs, np.log(thresholds[:, j]) - base[:, [j]], now[:, j] >= STRESSED, j)
        columns = pd.MultiIndex.from_product([CLASSIFIED, self.horizons_], names=["member", "horizon_hours"])
        return pd.DataFrame(out.reshape(-1, len(X)).T, index=X.index, columns=columns)

    def _logits(self, inputs: Inputs, distance: Array, stressed: npt.NDArray[np.bool_], j: int) -> Array:
        """Of some rows and horizon number ``j``, (3, n_rows)."""
        out = self._implied(distance, j).T.copy()
        groups = (np.arange(len(inputs)), np.flatnonzero(stressed))
        for booster, rows in zip(self._boosters()[j :: len(self.horizons_)], groups, strict=False):
            if len(rows):
                given = _at(inputs[rows], distance[rows])
                raw = booster.predict(given, raw_score=True, num_threads=self.num_threads)
                out[:, rows] += np.asarray(raw).reshape(len(CLASSIFIED), -1)
        return out

    def _given(self, X: pd.DataFrame, log_forecast: Array, now: Array, signals: Array, j: int) -> Inputs:
        features = require(X, [*self.columns_, self._seasons[j]], "regimes")
        return self._inputs(features, log_forecast, now, signals, j)

    def inputs(self, X: pd.DataFrame, thresholds: Array, now: Array, j: int) -> Inputs:
        """What the boosters of horizon number ``j`` are given for ``X`` at the threshold of stress: (n_rows, n_inputs)."""
        base = self.base_._predict_log(X)[:, j]
        given = self._given(X, base, now[:, j], self.signals_.filter(X), j)
        return _at(given, np.log(thresholds[:, j, 1:2]) - base[:, None])

    def follow(self, X: pd.DataFrame) -> None:
        """Move the filters to the end of the rows, so that the next rows go on from there."""
        self.signals_.follow(X)

    @property
    def _seasons(self) -> list[str]:
        """Columns of the season ahead, by horizon."""
        return (self.base_.base_ if isinstance(self.base_, HARX) else self.base_).seasons

    def _boosters(self) -> list[Any]:
        import lightgbm

        if self._loaded is None:
            self._loaded = [lightgbm.Booster(model_str=text) for text in self.boosters_]
        return self._loaded

    def state(self) -> dict[str, Any]:
        """Text of the boosters, the law around the base, the base's state and the filters'."""
        return {
            "horizons": list(self.horizons_),
            "columns": list(self.columns_),
            "boosters": self.boosters_,
            "location": self.location_,
            "spread": self.spread_,
            "panel": isinstance(self.base_, HARX),
            "base": self.base_.state(),
            "signals": self.signals_.state(),
        }

    def restore(self, state: dict[str, Any]) -> Self:
        """The inverse of ``state``, on an instance with the same constructor arguments."""
        self.horizons_, self.columns_ = tuple(state["horizons"]), tuple(state["columns"])
        self.boosters_ = list(state.get("boosters", []))
        self.location_, self.spread_ = np.asarray(state["location"]), np.asarray(state["spread"])
        self.base_ = (HARX() if state["panel"] else HAR()).restore(state["base"])
        self.signals_ = StateSignals.restore(state["signals"])
        self._loaded = None
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}


@dataclass(frozen=True)
class _Rows:
    """Rows to learn from: inputs, and what the four labels and the implied logits of each are made of."""

    inputs: Inputs
    log_forecast: Array
    log_thresholds: Array
    now: Array
    log_variance: Array
    symbol: Integers

    def __len__(self) -> int:
        return len(self.now)

    def where(self, mask: npt.NDArray[np.bool_]) -> _Rows:
        return _Rows(*(getattr(self, part.name)[mask] for part in fields(self)))


def _law(rows: _Rows) -> tuple[float, float]:
    """Mean and standard deviation of ``ln V - ln F``, every symbol's rows weighing the same; NaN of too few rows."""
    if len(rows) < MINIMUM_ROWS:
        return np.nan, np.nan
    weight, residual = equal_by_symbol(rows.symbol), rows.log_variance - rows.log_forecast
    location = np.average(residual, weights=weight)
    return float(location), float(np.sqrt(np.average((residual - location) ** 2, weights=weight)) or 1.0)


def _base(past: TrainingRows) -> HARX | HAR:
    try:
        return HARX().learn(past)
    except DataInvalid:
        return HAR.base(past)


def _at(inputs: Inputs, distance: Array) -> Inputs:
    """The inputs once for each column of ``distance`` (n_rows, n_copies), whose ``ln tau - ln F`` it is."""
    out = np.tile(inputs, (distance.shape[1], 1))
    out[:, -1] = distance.T.ravel()
    return out
