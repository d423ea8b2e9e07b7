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
from models.garch import GARCH
from models.garch.kernel import initial_state
from models.members import Member, require

__all__ = ["SeasonalGARCH"]

Array = npt.NDArray[np.float64]

MINIMUM_RETURNS = 24 * 30
FIRST_VARIANCE = 1e-8  # of a filter whose first return is zero
COLUMNS = ("log_return_1h", "log_season_1h")


class SeasonalGARCH(Member):
    """GARCH(1, o, 1) on each symbol's deseasonalised returns of the last ``window_days``.

    ``o = 1`` is the GJR. A symbol whose fit is not certified, or that has under 30 days, takes the median parameters of
    the others. Between fits the parameters are frozen and the variance is filtered forward bar by bar; a missing bar
    passes at its expectation. ``certified_`` tells, after ``fit``, which symbols have parameters of their own.
    """

    independent_rows: ClassVar[bool] = False

    def __init__(self, o: int = 0, dist: Literal["normal", "t", "skewt"] = "t", window_days: int = 1095) -> None:
        self.o = o
        self.dist = dist
        self.window_days = window_days

    def _spec(self) -> GARCH:
        return GARCH(p=1, o=self.o, q=1, dist=self.dist)

    def _fit(self, X: pd.DataFrame, y: pd.DataFrame, weight: Array | None) -> None:
        series = _hourly(X)
        oldest = max(s.index[-1] for s in series.values()) - pd.Timedelta(days=self.window_days)
        self.params_: dict[str, Array] = {}
        self.certified_: dict[str, bool] = {}
        fitted: dict[str, Array] = {}
        for symbol, returns in series.items():
            recent = returns[returns.index > oldest].to_numpy()
            params = self._parameters(recent)
            self.certified_[symbol] = params is not None
            if params is not None:
                fitted[symbol] = params
        if not fitted:
            raise DataInvalid(
                "model 'garch': no symbol has 30 days of returns that a variance can be fitted to; import more history"
            )
        self.pooled_ = np.median(np.stack(list(fitted.values())), axis=0)
        self.filters_: dict[str, Array] = {}
        self.last_: dict[str, pd.Timestamp] = {}
        for symbol, returns in series.items():
            recent = returns[returns.index > oldest]
            self.params_[symbol] = fitted.get(symbol, self.pooled_)
            if np.isfinite(recent.to_numpy()).any():
                self.filters_[symbol] = self._spec().fix(self.params_[symbol], recent.to_numpy()).state_
                self.last_[symbol] = recent.index[-1]

    def _parameters(self, returns: Array) -> Array | None:
        """Maximum-likelihood parameters, or None where there are none to trust."""
        if np.isfinite(returns).sum() < MINIMUM_RETURNS:
            return None
        try:
            model = self._spec().fit(returns)
        except DataInvalid:
            return None
        # Persistence at one drifts by omega an hour, which three days of forecasts bear; anything else uncertified is refused.
        sound = model.certificate_.converged and model.certificate_.persistence <= 1 + 1e-6
        return np.asarray(model.params_, dtype=np.float64) if sound else None

    def _predict_log(self, X: pd.DataFrame) -> Array:
        horizons = np.array(self.horizons_)
        season = np.exp(require(X, [f"log_season_ahead_{h}h" for h in self.horizons_], "garch"))
        out = np.full((len(X), len(horizons)), np.nan)
        symbols = X.index.get_level_values("symbol")
        for symbol, returns in _hourly(X).items():
            rows = np.flatnonzero(symbols == symbol)
            model, path = self._standing(symbol, returns)
            after = pd.Series(model.advance(path.to_numpy()), index=path.index)
            origins = X.index.get_level_values("origin")[rows]
            ahead = model.propagate(after.reindex(origins).to_numpy(), int(horizons.max()))
            # Within a horizon the variance moves slowly against the season: mean variance times summed season.
            mean = np.cumsum(ahead, axis=1)[:, horizons - 1] / horizons
            out[rows] = np.log(mean * season[rows])
        return out

    def _standing(self, symbol: str, returns: pd.Series) -> tuple[GARCH, pd.Series]:
        """The symbol's filter where its fit left it, or at its own first return, and the returns from there on."""
        params = self.params_.get(symbol, self.pooled_)
        if symbol in self.filters_ and returns.index[0] > self.last_[symbol]:
            missing = pd.date_range(self.last_[symbol], returns.index[0], freq="h", inclusive="neither")
            model = self._spec().resume(params, self.filters_[symbol])
            model.advance(np.full(len(missing), np.nan))
            return model, returns
        # Rows before the first return stay without a forecast: a scale from later rows would look ahead.
        known = returns[returns.first_valid_index() :]
        scale = float(known.iloc[0]) ** 2 or FIRST_VARIANCE
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


def _hourly(X: pd.DataFrame) -> dict[str, pd.Series]:
    """Deseasonalised returns per symbol on a complete hourly clock, NaN where a bar is missing."""
    values = require(X, COLUMNS, "garch")
    returns = pd.Series(values[:, 0] / np.exp(0.5 * values[:, 1]), index=X.index)
    out = {}
    for symbol, own in returns.groupby(level="symbol", sort=True):
        own = own.droplevel("symbol")
        out[str(symbol)] = own.reindex(pd.date_range(own.index[0], own.index[-1], freq="h"))
    return out
