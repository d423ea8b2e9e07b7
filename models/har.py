"""The HAR family's common part: log-linear in means of past variance, fitted to QLIKE.

References: Corsi (2009), J. Financial Econometrics 7; Patton (2011), J. Econometrics 160 (QLIKE: the loss under which a
noisy proxy still ranks forecasts rightly); McCullagh and Nelder (1989), ch. 8 (its minimiser is the gamma quasi-likelihood
fit, found by Fisher scoring).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataInvalid
from models.explanation import REVERSION, SEASON, USUAL
from models.members import Member, require
from models.trailing import DAY
from models.training_rows import TrainingRows, symbol_codes

__all__ = ["HAR", "Part", "filled", "least_squares", "linear", "qlike_fit", "shrunken"]

Array = npt.NDArray[np.float64]

SCORING_STEPS = 6
LARGEST_RESIDUAL = 20.0
# Complete rows that a fit needs for each of its coefficients.
ROWS_PER_COEFFICIENT = 10


class HAR(Member):
    """Log-linear HAR per symbol and horizon, fitted to QLIKE, each symbol's coefficients shrunk to the pooled ones.

    ``ln F = a_i + sum_L b_iL ln mean_L(v)``; ``seasonal`` works on deseasonalised variance and adds the known season of
    the horizon back. ``window_days``: rows to fit on (None: all). ``shrinkage``: rows at which a symbol's own
    coefficients weigh as much as the pool's; a symbol never seen has the pool's. ``scheduled``: the season is the one lifted
    where releases are scheduled. Fitting QLIKE and not the log needs no bias correction, and near-empty hours, far out in the
    log, cannot rule the fit.
    """

    def __init__(
        self,
        seasonal: bool = True,
        lags: Sequence[int] = (1, 4, 24, 168, 720),
        window_days: int | None = 730,
        shrinkage: float = 20_000.0,
        scheduled: bool = False,
    ) -> None:
        self.seasonal = seasonal
        self.lags = lags
        self.window_days = window_days
        self.shrinkage = shrinkage
        self.scheduled = scheduled

    @property
    def name(self) -> str:
        """Its kind."""
        return "har_scheduled" if self.scheduled else "har_seasonal" if self.seasonal else "har"

    def _learn(self, past: TrainingRows) -> None:
        kind = type(self).__name__
        settings = (kind, self.seasonal, tuple(self.lags), self.window_days, self.shrinkage, self.scheduled)
        # Several members stand on the seasonal HAR: of the same rows it is fitted once.
        fitted = past.once(settings, lambda: self._coefficients(past))
        self.symbols_, self.coefficients_, self.pooled_, self.typical_ = fitted

    def _coefficients(self, past: TrainingRows) -> tuple[tuple[str, ...], Array, Array, Array]:
        """The symbols, their coefficients (n_symbols, n_horizons, n_terms + 1), and the pool's (n_horizons, n_terms + 1).

        Last, the mean of each term (n_terms,), of a window as its distance from the longest one.
        """
        parts = self._parts(past)
        own, pooled = shrunken(parts, qlike_fit, self.shrinkage, past.horizons, self.name)
        typical = np.hstack([part.design[1:] for part in parts.values()]).mean(axis=1)
        longest = len(self.lags) - 1
        typical[: longest + 1] -= typical[longest]
        return tuple(parts), own, pooled, typical

    def _parts(self, past: TrainingRows) -> dict[str, Part]:
        return {name: self._part(past, at) for name, at in past.by_symbol(past.within(self.window_days))}

    def _part(self, past: TrainingRows, at: npt.NDArray[np.int64]) -> Part:
        values = past.values(self._inputs, at, self.name)
        design = self._terms(values)
        # A market's first hours are often empty. One of them, a thousandfold below what follows, would set the level for as
        # long as it is in the window: a row teaches once a day of history is known.
        settled = np.isfinite(values[:, max(sum(lag <= DAY for lag in self.lags) - 1, 0)])
        target = past.log_variance(at) - self._offset(past.values(self.seasons, at, self.name))
        weights = past.weights(at)
        usable = np.isfinite(target) & (settled & np.isfinite(design).all(axis=1) & (weights > 0))[:, None]
        some = usable.any(axis=1)
        usable = usable[some].T
        return Part(
            np.vstack([np.ones(usable.shape[1]), design[some].T]),
            np.where(usable, target[some].T, 0.0),
            usable * weights[some],
        )

    def of(self, past: TrainingRows, at: npt.NDArray[np.int64]) -> Array:
        """``ln E[V]`` of rows that members are fitted on; (n_places, n_horizons)."""
        values, season = past.values(self._inputs, at, self.name), past.values(self.seasons, at, self.name)
        return self._log_mean(values, season, past.symbol[at], past.symbols)

    def _predict_log(self, X: pd.DataFrame) -> Array:
        values, season = require(X, self._inputs, self.name), require(X, self.seasons, self.name)
        return self._log_mean(values, season, *symbol_codes(X.index))

    def _log_mean(self, values: Array, season: Array, symbol: npt.NDArray[np.int64], symbols: Sequence[str]) -> Array:
        design = self._terms(values)
        out = np.empty((len(design), len(self.horizons_)))
        for j in range(len(self.horizons_)):
            out[:, j] = linear(design, self._of_symbols(j, symbol, symbols))
        return out + self._offset(season)

    def _of_symbols(self, j: int, symbol: npt.NDArray[np.int64], symbols: Sequence[str]) -> Array:
        """The coefficients of horizon number ``j`` for rows of these symbols: (n_rows, n_terms + 1)."""
        # A symbol never seen has the last ones, the pool's.
        rows = pd.Index(self.symbols_).get_indexer(pd.Index(symbols))[symbol]
        return np.asarray(np.vstack([self.coefficients_[:, j], self.pooled_[None, j]])[rows])

    def contributions(self, X: pd.DataFrame, families: Mapping[str, str]) -> dict[str, Array]:
        """The longest window's variance, the season ahead, the pull away from that window, and each shorter window's distance.

        See ``Member.contributions``. With ``x_n`` the longest window and ``d_k`` the typical distance of ``x_k`` from it,
        ``a + sum b_k x_k = x_n + [a + (sum b_k - 1) x_n + sum b_k d_k] + sum b_k (x_k - x_n - d_k)``.
        """
        ladder, hours = filled(require(X, self._ladder, self.name)), np.log(np.array(self.horizons_, dtype=np.float64))
        each, n = self._each(X), len(self.lags)
        longest = ladder[:, -1:]
        terms = {USUAL: longest + hours}
        if self.seasonal:
            terms[SEASON] = require(X, self.seasons, self.name) - hours
        slopes, typical = each[:, :, 1 : n + 1], self.typical_[:n]
        terms[REVERSION] = each[:, :, 0] + (slopes.sum(axis=2) - 1) * longest + (slopes * typical).sum(axis=2)
        for k, lag in enumerate(self.lags[:-1]):
            terms[f"lag_{lag}h"] = slopes[:, :, k] * (ladder[:, [k]] - longest - typical[k])
        return terms

    def _each(self, X: pd.DataFrame) -> Array:
        """The coefficients of each row, (n_rows, n_horizons, n_terms + 1)."""
        symbol, symbols = symbol_codes(X.index)
        return np.stack([self._of_symbols(j, symbol, symbols) for j in range(len(self.horizons_))], axis=1)

    @classmethod
    def base(cls, past: TrainingRows) -> HAR:
        """The seasonal HAR that others correct; it knows of scheduled releases where the features do."""
        known = all(f"log_scheduled_ahead_{h}h" in past.columns for h in past.horizons)
        return cls(seasonal=True, scheduled=known).learn(past)

    @property
    def _inputs(self) -> list[str]:
        """The features that its terms are made of."""
        return self._ladder

    def _terms(self, values: Array) -> Array:
        """What the logarithm is linear in, (n_rows, n_terms): the windows, then whatever else. ``values`` as ``_inputs``."""
        return filled(values)

    @property
    def _ladder(self) -> list[str]:
        prefix = "log_rv_" if self.seasonal else "log_rv_raw_"
        return [f"{prefix}{lag}h" for lag in self.lags]

    @property
    def seasons(self) -> list[str]:
        """Columns of the season that lies ahead, by horizon; none where the season is left out."""
        ahead = "log_scheduled_ahead_" if self.scheduled else "log_season_ahead_"
        return [f"{ahead}{h}h" for h in self.horizons_] if self.seasonal else []

    def _offset(self, season: Array) -> Array:
        return season if self.seasonal else np.log(np.array(self.horizons_, dtype=np.float64))[None, :]

    def state(self) -> dict[str, Any]:
        """Coefficients per symbol and of the pool, residual quantiles."""
        return {
            "horizons": list(self.horizons_),
            "scheduled": self.scheduled,
            "symbols": list(self.symbols_),
            "coefficients": self.coefficients_,
            "pooled": self.pooled_,
            "typical": self.typical_,
            "residuals": self.residuals_,
        }

    def restore(self, state: dict[str, Any]) -> Self:
        """From ``state``."""
        self.horizons_, self.symbols_ = tuple(state["horizons"]), tuple(state["symbols"])
        self.scheduled = bool(state["scheduled"])
        for name in ("coefficients", "pooled", "typical", "residuals"):
            setattr(self, f"{name}_", np.asarray(state[name]))
        return self


def filled(ladder: Array) -> Array:
    """A missing window takes the value of the next shorter one, the shortest missing ones that of the shortest known."""
    out = ladder.copy()
    steps = range(1, out.shape[1])
    for k, neighbour in [(k, k - 1) for k in steps] + [(k - 1, k) for k in reversed(steps)]:
        missing = np.isnan(out[:, k])
        out[missing, k] = out[missing, neighbour]
    return out


def linear(design: Array, coefficients: Array) -> Array:
    """``b_0 + sum_j b_j x_j`` per row, added column by column so that a row's bits do not depend on the others.

    ``design`` (n_rows, k), ``coefficients`` (n_rows, k + 1), the constant first.
    """
    total = coefficients[:, 0].copy()
    for j in range(design.shape[1]):
        total += coefficients[:, j + 1] * design[:, j]
    return total


@dataclass(frozen=True)
class Part:
    """Some rows of a fit: ``design`` (k, n), the constant first; ``target`` and ``weights`` (n_horizons, n).

    Where a row is not known, its weight is zero and its target any finite number.
    """

    design: Array
    target: Array
    weights: Array

    def of(self, horizons: npt.NDArray[np.bool_]) -> Self:
        """The same rows, some horizons."""
        return replace(self, target=self.target[horizons], weights=self.weights[horizons])


P = TypeVar("P", bound=Part)


def shrunken(
    parts: Mapping[str, P], fit: Callable[[Sequence[P]], Array], shrinkage: float, horizons: Sequence[int], model: str
) -> tuple[Array, Array]:
    """Each symbol's coefficients (n_symbols, n_horizons, k), and those of all rows together (n_horizons, k).

    A symbol's own weigh ``n / (n + shrinkage)`` against the pool's, n being its complete rows; too few count as none.
    Raises ``DataInvalid``, which names ``model``, where even the pool has too few.
    """
    needed = ROWS_PER_COEFFICIENT * len(next(iter(parts.values())).design)
    counts = {name: np.count_nonzero(part.weights, axis=1) for name, part in parts.items()}
    for h, count in zip(horizons, sum(counts.values()), strict=True):
        if count < needed:
            raise DataInvalid(
                f"model '{model}' has {int(count)} complete rows for horizon {h} h and needs {needed}; "
                "start later or import more history"
            )
    pooled = fit(list(parts.values()))
    own = np.repeat(pooled[None], len(parts), axis=0)
    for i, (name, part) in enumerate(parts.items()):
        enough = counts[name] >= needed
        share = (counts[name] / (counts[name] + shrinkage))[enough, None]
        if enough.any():
            own[i, enough] = share * fit([part.of(enough)]) + (1 - share) * pooled[enough]
    return own, pooled


def least_squares(parts: Sequence[Part]) -> Array:
    """Coefficients (n_horizons, k) of the weighted least-squares fit of ``target`` on all the parts."""
    return _projection(parts)(p.target for p in parts)


def _projection(parts: Sequence[Part]) -> Callable[[Iterable[Array]], Array]:
    """The weighted least-squares fit of whatever stands on the rows of the parts, their normal equations inverted once."""
    normal = sum(np.stack([(p.design * w) @ p.design.T for w in p.weights]) for p in parts)
    # A short history has equal windows; the shortest solution shares their weight.
    inverse = np.linalg.pinv(normal, hermitian=True)

    def project(working: Iterable[Array]) -> Array:
        moment = sum((p.weights * x) @ p.design.T for p, x in zip(parts, working, strict=True))
        return np.asarray(np.einsum("jkl,jl->jk", inverse, moment))

    return project


def qlike_fit(parts: Sequence[Part]) -> Array:
    """Coefficients (n_horizons, k) of the log-linear models that minimise QLIKE against ``exp(target)`` on all the parts.

    Fisher scoring from the least-squares fit of the log. A row's working residual ``V/F - 1`` is bounded while the slopes
    are sought, so that one crash does not turn them; the constant then sets the level at which the mean of ``V/F`` is one.
    """
    step = _projection(parts)
    total = sum(p.weights.sum(axis=1) for p in parts)

    def ratios() -> list[Array]:
        """``V/F``, the constants set so that their mean is one."""
        raw = [np.exp(p.target - coefficients @ p.design) for p in parts]
        level = sum(np.einsum("jn,jn->j", p.weights, x) for p, x in zip(parts, raw, strict=True)) / total
        coefficients[:, 0] += np.log(level)
        return [x / level[:, None] for x in raw]

    coefficients = step(p.target for p in parts)
    for _ in range(SCORING_STEPS):
        coefficients += step(np.minimum(x - 1.0, LARGEST_RESIDUAL) for x in ratios())
    ratios()
    return coefficients
