"""GARCH members: a filter on deseasonalised returns per symbol, the season put back hour by hour.

``r~ = r / sqrt(S)`` follows a GARCH or GJR; the forecast of the interval is ``sum_j S(origin + j) E[v~(j)]``. Without the
season the recursion spends itself on the time of day. References: Bollerslev (1986), J. Econometrics 31; Glosten,
Jagannathan and Runkle (1993), J. Finance 48; Andersen and Bollerslev (1997), J. Empirical Finance 4 (intraday season).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataInvalid
from models.garch import GARCH, fit_many
from models.garch.recursion import initial_state
from models.members import Member, require
from models.training_rows import TrainingRows

__all__ = ["SeasonalGARCH", "hourly_returns"]

Array = npt.NDArray[np.float64]

MINIMUM_RETURNS = 24 * 30
FIRST_VARIANCE = 1e-8  # of a filter whose first return is zero
COLUMNS = ("log_return_1h", "log_season_1h")


class SeasonalGARCH(Member):
    """GARCH(1, o, 1) on each symbol's deseasonalised returns of the last ``window_days``.

    ``o = 1`` is the GJR. A symbol whose fit has not converged, or that has under 30 days, takes the median parameters of
    the others. Every fit is cold, which keeps folds apart: all symbols of a fold together take a fifth of a second. Between
    fits the parameters are frozen and the variance is filtered forward bar by bar; a missing bar passes at its expectation.
    ``certified_`` tells, after ``fit``, which symbols have parameters of their own.
    """

    independent_rows: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = (COLUMNS[0], "log_season_")

    def __init__(self, o: int = 0, dist: Literal["normal", "t", "skewt"] = "t", window_days: int = 1095) -> None:
        self.o = o
        self.dist = dist
        self.window_days = window_days

    def _spec(self) -> GARCH:
        return GARCH(p=1, o=self.o, q=1, dist=self.dist)

    def _learn(self, past: TrainingRows) -> None:
        every = np.arange(len(past))
        series = past.once("deseasonalised returns", lambda: hourly_returns(past.frame(every, COLUMNS)))
        oldest = max(s.index[-1] for s in series.values()) - pd.Timedelta(days=self.window_days)
        recent = {name: _from_first(own[own.index > oldest]) for name, own in series.items()}
        own = self._own_parameters({name: known.to_numpy() for name, known in recent.items()})
        if not own:
            raise DataInvalid(
                "model 'garch': no symbol has 30 days of returns that a variance can be fitted to; import more history"
            )
        self.pooled_ = np.median(np.stack(list(own.values())), axis=0)
        self.certified_ = {name: name in own for name in recent}
        self.params_ = {name: own.get(name, self.pooled_) for name in recent}
        standing = {name: known for name, known in recent.items() if len(known)}
        self.filters_ = {
            name: self._spec().fix(self.params_[name], known.to_numpy()).state_ for name, known in standing.items()
        }
        self.last_ = {name: known.index[-1] for name, known in standing.items()}

    def _own_parameters(self, recent: dict[str, Array]) -> dict[str, Array]:
        """Maximum-likelihood parameters of the symbols that have trustworthy ones, all fitted in one batch."""
        old = {name: known for name, known in recent.items() if np.isfinite(known).sum() >= MINIMUM_RETURNS}
        rows = np.full((len(old), max(map(len, old.values()), default=0)), np.nan)
        for row, known in zip(rows, old.values(), strict=True):
            row[: len(known)] = known
        params, _, certificates = fit_many(rows, self._spec())
        # Persistence at one drifts by omega an hour, which three days of forecasts bear: convergence is enough.
        return {name: params[i] for i, name in enumerate(old) if certificates[i].converged}

    def _predict_log(self, X: pd.DataFrame) -> Array:
        season = require(X, [f"log_season_ahead_{h}h" for h in self.horizons_], "garch")
        out = np.full((len(X), len(self.horizons_)), np.nan)
        rows = X.groupby(level="symbol", sort=False).indices
        origins = X.index.get_level_values("origin")
        for symbol, returns in hourly_returns(X).items():
            model, path = self.standing(symbol, returns)
            after = pd.Series(model.advance(path.to_numpy()), index=path.index).reindex(origins[rows[symbol]])
            # Within a horizon the variance moves slowly against the season: mean variance times summed season.
            mean = model.cumulated(after.to_numpy(), self.horizons_) / self.horizons_
            out[rows[symbol]] = np.log(mean) + season[rows[symbol]]
        return out

    def standing(self, symbol: str, returns: pd.Series) -> tuple[GARCH, pd.Series]:
        """The symbol's filter where its fit left it, or at its own first return, and the returns from there on."""
        params = self.params_.get(symbol, self.pooled_)
        if symbol in self.filters_ and returns.index[0] > self.last_[symbol]:
            missing = pd.date_range(self.last_[symbol], returns.index[0], freq="h", inclusive="neither")
            model = self._spec().resume(params, self.filters_[symbol])
            model.advance(np.full(len(missing), np.nan))
            return model, returns
        # Rows before the first return stay without a forecast: a scale from later rows would look ahead.
        known = _from_first(returns)
        scale = float(known.iloc[0]) ** 2 or FIRST_VARIANCE if len(known) else np.nan
        return self._spec().resume(params, initial_state(scale, 1)), known

    def state(self) -> dict[str, Any]:
        """Parameters and filter lags per symbol, the time each filter stands at, and the pooled parameters."""
        names = sorted(self.filters_)
        return {
            "horizons": list(self.horizons_),
            "symbols": names,
            "params": np.stack([self.params_[s] for s in names]),
            "filters": np.stack([self.filters_[s] for s in names]),
            "last": [self.last_[s].isoformat() for s in names],
            "pooled": self.pooled_,
            "residuals": self.residuals_,
        }

    def restore(self, state: dict[str, Any]) -> Self:
        """From ``state``."""
        self.horizons_ = tuple(state["horizons"])
        names = list(state["symbols"])
        self.params_ = dict(zip(names, np.asarray(state["params"]), strict=True))
        self.filters_ = dict(zip(names, np.asarray(state["filters"]), strict=True))
        self.last_ = {s: pd.Timestamp(t) for s, t in zip(names, state["last"], strict=True)}
        self.pooled_, self.residuals_ = np.asarray(state["pooled"]), np.asarray(state["residuals"])
        return self


def hourly_returns(X: pd.DataFrame) -> dict[str, pd.Series]:
    """Deseasonalised returns per symbol on a complete hourly clock, NaN where a bar is missing."""
    values = require(X, COLUMNS, "garch")
    returns = pd.Series(values[:, 0] / np.exp(0.5 * values[:, 1]), index=X.index)
    out = {}
    for symbol, own in returns.groupby(level="symbol", sort=True):
        own = own.droplevel("symbol")
        out[str(symbol)] = own.reindex(pd.date_range(own.index[0], own.index[-1], freq="h"))
    return out


def _from_first(returns: pd.Series) -> pd.Series:
    """From the first known return on; empty where there is none."""
    known = np.flatnonzero(returns.notna())
    return returns.iloc[known[0] if len(known) else len(returns) :]
