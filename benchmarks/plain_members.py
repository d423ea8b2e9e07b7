"""The members as a notebook would write them: pandas, numpy's least squares, arch and LightGBM, one fold at a time.

They are the same models as ours, on the same columns and rows, so that their forecasts can be held against each other; how
they are computed is plain, and nothing is slow on purpose: only members that are asked for are fitted, the seasonal HAR is
fitted once, serves three members and forecasts no row that nobody reads, normal equations are inverted once a fit,
forecasts of a fold come from one call, and BLAS has its products.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.families.memory import RAW_HALF_LIVES
from models.boosting import LEVEL_PREFIXES, NOT_LEVELS, UNUSED_PREFIXES, LightGBM
from models.ewma import EWMA
from models.har import HAR
from models.panel_har import HARX, NOT_LINEAR, SPARSE
from models.seasonal_garch import SeasonalGARCH
from models.trailing import DAY

__all__ = ["Fold", "Seconds", "forecast"]

Array = npt.NDArray[np.float64]
Predict = Callable[[pd.DataFrame], Array]
"""Forecasts of ``ln E[V]`` for rows of features, (n_rows, n_horizons)."""

PERCENT: Final = 100.0  # arch wants returns of order one
COLUMNS: Final = ["log_return_1h", "log_season_1h"]
SEASON, SCHEDULED = "log_season_ahead_", "log_scheduled_ahead_"
MEMBERS: Final = ("ewma", "har", "har_seasonal", "har_x", "garch", "gjr", "lightgbm")
ON_SEASONAL_HAR: Final = ("har_seasonal", "har_x", "lightgbm")
HAR_STEPS: Final = 6
HAR_BOUND: Final = 20.0  # of the working residual V / F - 1
HARX_STEPS: Final = 8
HARX_BOUND: Final = 10.0
LARGEST_SCORE: Final = 4.0
NORMAL_SPREAD: Final = 2.563  # between the 10 % and 90 % quantiles
MINIMUM_RETURNS: Final = 24 * 30


class Seconds(dict[str, float]):
    """CPU seconds by what was done."""

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Count what happens inside under this name."""
        begin = time.process_time()
        yield
        self[what] = self.get(what, 0.0) + time.process_time() - begin


@dataclass
class Fold:
    """What may be learnt from (``X``, ``y``: labels known by the border, others null) and what is forecast (``test``).

    All are indexed by (symbol, origin), sorted. ``before``: parameters of an earlier fold by model and symbol, from which
    arch is also started, uncounted, to tell what warm starts do; ``after``: this fold's.
    """

    X: pd.DataFrame
    y: pd.DataFrame
    test: pd.DataFrame
    before: Mapping[str, list[float]]
    after: dict[str, list[float]] = field(default_factory=dict)

    @property
    def horizons(self) -> list[int]:
        return [int(h) for h in self.y.columns]

    @property
    def names(self) -> list[str]:
        return [str(name) for name in self.X.columns]

    @property
    def hours(self) -> npt.NDArray[np.int64]:
        """Hours since the epoch of each row's origin."""
        return np.asarray(pd.DatetimeIndex(self.X.index.get_level_values("origin")).as_unit("s").asi8 // 3600)

    def recent(self, days: int | None) -> npt.NDArray[np.bool_]:
        """Rows of the last ``days``."""
        origins = self.X.index.get_level_values("origin")
        return np.ones(len(origins), dtype=bool) if days is None else origins > origins.max() - pd.Timedelta(days=days)


def forecast(fold: Fold, members: Mapping[str, Mapping[str, Any]], seconds: Seconds) -> pd.DataFrame:
    """``ln E[V]`` of the test rows, columns (member, horizon); CPU seconds are added to ``seconds`` by member."""
    out: dict[str, Array] = {}
    if "ewma" in members:
        with seconds.of("ewma"):
            out["ewma"] = ewma(fold, EWMA(**members["ewma"]))
    if "har" in members:
        with seconds.of("har"):
            out["har"] = har(fold, HAR(seasonal=False, **members["har"]))(fold.test)
    if not members.keys().isdisjoint(ON_SEASONAL_HAR):
        with seconds.of("har_seasonal"):
            if "har_seasonal" in members:
                out["har_seasonal"] = har(fold, HAR(seasonal=True, **members["har_seasonal"]))(fold.test)
            base = har(fold, HAR(seasonal=True, scheduled=season_name(fold.test).startswith(SCHEDULED)))
            ahead = base(fold.test)
    if "har_x" in members:
        with seconds.of("har_x"):
            out["har_x"] = har_x(fold, HARX(**members["har_x"]), base, ahead)
    for o, name in ((0, "garch"), (1, "gjr")):
        if name in members:
            out[name] = garch(fold, name, SeasonalGARCH(o=o, **members[name]), seconds)
    if "lightgbm" in members:
        with seconds.of("lightgbm"):
            out["lightgbm"] = boosted(fold, LightGBM(**members["lightgbm"]), base, ahead)
    frames = {name: pd.DataFrame(values, fold.test.index, fold.horizons) for name, values in out.items()}
    return pd.concat(frames, axis=1, names=["member", "horizon_hours"])


def ewma(fold: Fold, settings: EWMA) -> Array:
    """Exponentially weighted variance, the half-life with the least QLIKE of the last year at each symbol's best level."""
    rows = fold.recent(settings.window_days)
    names = [f"log_ew_raw_{q}h" for q in RAW_HALF_LIVES]
    out = []
    for h in fold.horizons:
        ratio = fold.y.loc[rows, h].to_numpy()[:, None] / (h * np.exp(fold.X.loc[rows, names]))
        by_symbol = ratio.dropna().groupby("symbol")
        loss = np.log(by_symbol.mean()) - np.log(ratio.dropna()).groupby("symbol").mean()
        out.append(fold.test[loss.mean().idxmin()].to_numpy() + np.log(h))
    return np.column_stack(out)


def season_name(X: pd.DataFrame, h: int = 1) -> str:
    """The column of the season ahead for members that correct the seasonal HAR: scheduled releases in it if told."""
    return f"{SCHEDULED if f'{SCHEDULED}{h}h' in X else SEASON}{h}h"


def har(fold: Fold, settings: HAR) -> Predict:
    """Log-linear HAR by symbol, shrunk to the pool, fitted; what it returns forecasts the rows that are asked for."""
    prefix = "log_rv_" if settings.seasonal else "log_rv_raw_"
    names = [f"{prefix}{lag}h" for lag in settings.lags]

    def lags(X: pd.DataFrame) -> pd.DataFrame:
        return X[names].ffill(axis=1).bfill(axis=1)

    def offset(X: pd.DataFrame, h: int) -> Array:
        name = f"{SCHEDULED if settings.scheduled else SEASON}{h}h"
        return X[name].to_numpy() if settings.seasonal else np.full(len(X), np.log(h))

    rows = fold.recent(settings.window_days)
    X, y = fold.X[rows], fold.y[rows]
    design, fitted = lags(X), []
    settled = X[f"{prefix}{max(lag for lag in settings.lags if lag <= DAY)}h"].notna()
    for h in fold.horizons:
        target = np.log(y[h]) - offset(X, h)
        usable = settled & design.notna().all(axis=1) & np.isfinite(target)
        pooled = qlike_fit(design[usable].to_numpy(), target[usable].to_numpy())
        coefficients = {}
        for symbol, part in design[usable].groupby("symbol"):
            own = qlike_fit(part.to_numpy(), target[part.index].to_numpy()) if len(part) >= 10 * len(pooled) else pooled
            share = len(part) / (len(part) + settings.shrinkage)
            coefficients[symbol] = share * own + (1 - share) * pooled
        fitted.append((coefficients, pooled))

    def predict(X: pd.DataFrame) -> Array:
        design, known = lags(X).to_numpy(), X.index.unique("symbol")
        at = known.get_indexer(X.index.get_level_values("symbol"))
        out = []
        for h, (coefficients, pooled) in zip(fold.horizons, fitted, strict=True):
            b = np.stack([coefficients.get(symbol, pooled) for symbol in known])[at]
            out.append(b[:, 0] + (b[:, 1:] * design).sum(axis=1) + offset(X, h))
        return np.column_stack(out)

    return predict


def qlike_fit(design: Array, target: Array) -> Array:
    """Fisher scoring for QLIKE from the least-squares fit; one pseudo-inverse serves all steps."""
    full = np.column_stack([np.ones(len(design)), design])
    inverse = np.linalg.pinv(full.T @ full, hermitian=True) @ full.T
    b = inverse @ target
    for _ in range(HAR_STEPS):
        b[0] += np.log(np.exp(target - full @ b).mean())
        b += inverse @ np.minimum(np.expm1(target - full @ b), HAR_BOUND)
    b[0] += np.log(np.exp(target - full @ b).mean())
    return np.asarray(b)


def har_x(fold: Fold, settings: HARX, har: Predict, ahead: Array) -> Array:
    """Ridge on all standardised signals, fitted to QLIKE on what the seasonal HAR leaves."""
    skipped = (*UNUSED_PREFIXES, *NOT_LINEAR)
    names = [c for c in fold.names if not c.startswith(skipped) and not any(part in c for part in SPARSE)]
    kept = fold.recent(settings.window_days) & (fold.hours % settings.every_hours == 0)
    X = fold.X[kept]
    base, weights = har(X), equal_weights(X.index)
    out = ahead.copy()
    for j, h in enumerate(fold.horizons):
        signals = relative(X, names, base[:, j], h)
        residual = np.log(fold.y.loc[kept, h].to_numpy()) - base[:, j]
        known = np.isfinite(residual)
        low, centre, high = signals[known].quantile([0.1, 0.5, 0.9]).to_numpy()
        scale = (high - low) / NORMAL_SPREAD
        centre, scale = np.nan_to_num(centre), np.where(scale > 0, scale, 1.0)

        def scores(frame: pd.DataFrame, centre: Array = centre, scale: Array = scale) -> Array:
            z = np.clip((frame.to_numpy() - centre) / scale, -LARGEST_SCORE, LARGEST_SCORE)
            return np.column_stack([np.ones(len(z)), np.nan_to_num(z)])

        full, error, weight = scores(signals[known]), residual[known], weights[known]
        penalty = np.eye(full.shape[1]) * settings.ridge * len(full)
        penalty[0, 0] = 0.0
        inverse = np.linalg.inv((full * weight[:, None]).T @ full + penalty)
        b = np.zeros(full.shape[1])
        for _ in range(HARX_STEPS):
            surprise = np.minimum(np.expm1(error - full @ b), HARX_BOUND)
            b += inverse @ (full.T @ (weight * surprise) - penalty @ b)
        b[0] += np.log(np.average(np.exp(error - full @ b), weights=weight))
        out[:, j] += scores(relative(fold.test, names, ahead[:, j], h)) @ b
    return out


def garch(fold: Fold, name: str, settings: SeasonalGARCH, seconds: Seconds) -> Array:
    """arch on each symbol's deseasonalised returns, one cold fit, then the frozen filter's analytic forecasts.

    Gaps are dropped: arch knows none. A symbol too young for a fit stays without a forecast. Parameters are not shrunk, and
    what the filter says is not calibrated: that much less is done here.
    """
    out = []
    with seconds.of(name):
        returns = dict(list(deseasonalised(pd.concat([fold.X[COLUMNS], fold.test[COLUMNS]])).groupby("symbol")))
    for symbol, test in fold.test.groupby("symbol"):
        with seconds.of(name):
            own = returns[symbol].droplevel("symbol").dropna()
            past = own[own.index < test.index[0][1]]
            past = past[past.index > past.index[-1] - pd.Timedelta(days=settings.window_days)] if len(past) else past
        path = pd.DataFrame(np.nan, test.index.get_level_values("origin"), range(max(fold.horizons)))
        if len(past) >= MINIMUM_RETURNS:
            with seconds.of(name), seconds.of(f"{name} fits"):
                params = arch_fit(past, settings.o, None)
            fold.after[f"{name} {symbol}"] = params.tolist()
            if (start := fold.before.get(f"{name} {symbol}")) is not None:
                with seconds.of(f"{name} warm fits"):
                    arch_fit(past, settings.o, np.array(start))
            with seconds.of(name):
                whole = own[past.index[0] :]
                model = arch_of(whole, settings.o).fix(params)
                ahead = model.forecast(horizon=max(fold.horizons), start=len(past), reindex=False).variance
                path = pd.DataFrame(ahead.to_numpy(), whole.index[len(past) :]).reindex(path.index)
        with seconds.of(name):
            mean = path.cumsum(axis=1)[[h - 1 for h in fold.horizons]].to_numpy() / np.array(fold.horizons) / PERCENT**2
            season = test[[f"log_season_ahead_{h}h" for h in fold.horizons]].to_numpy()
            out.append(np.log(mean) + season)
    return np.concatenate(out)


def deseasonalised(X: pd.DataFrame) -> pd.Series:
    """Hourly returns over the root of their season, in per cent."""
    returns: pd.Series = PERCENT * X["log_return_1h"] / np.exp(0.5 * X["log_season_1h"])
    return returns


def arch_of(returns: pd.Series, o: int) -> Any:
    from arch import arch_model

    return arch_model(returns.to_numpy(), mean="Zero", vol="GARCH", p=1, o=o, q=1, dist="t", rescale=False)


def arch_fit(returns: pd.Series, o: int, start: Array | None) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = arch_of(returns, o).fit(disp="off", show_warning=False, starting_values=start)
    return np.asarray(result.params, dtype=np.float64)


def boosted(fold: Fold, settings: LightGBM, har: Predict, ahead: Array) -> Array:
    """A booster a horizon on what the seasonal HAR leaves, with our parameters, rows, columns and weights."""
    import lightgbm

    names = [c for c in fold.names if not c.startswith(UNUSED_PREFIXES)]
    kept = fold.recent(settings.window_days) & (fold.hours % settings.every_hours == 0)
    X, bound = fold.X[kept], settings.largest_residual
    base, out = har(X), ahead.copy()
    for j, h in enumerate(fold.horizons):
        residual = np.log(fold.y.loc[kept, h].to_numpy()) - base[:, j]
        known = np.isfinite(residual)
        data = lightgbm.Dataset(
            boosted_design(X, names, base[:, j], h)[known],
            np.clip(residual[known], -bound, bound),
            weight=equal_weights(X.index[known]),
            params={"max_bin": settings.max_bin, "verbosity": -1},
        )
        booster = lightgbm.train(settings._parameters(), data, num_boost_round=settings.rounds)
        out[:, j] += np.asarray(booster.predict(boosted_design(fold.test, names, ahead[:, j], h), num_threads=1))
    return out


def boosted_design(X: pd.DataFrame, names: list[str], log_har: Array, h: int) -> Array:
    season = X[season_name(X, h)].to_numpy()
    signals = relative(X, names, log_har, h)
    signals.insert(signals.shape[1] - 1, "season_ahead_per_hour", season - np.log(h))
    return signals.to_numpy()


def relative(X: pd.DataFrame, names: list[str], log_har: Array, h: int) -> pd.DataFrame:
    """The columns, log variances as distances from the HAR's deseasonalised forecast, which comes last."""
    har_level = log_har - X[season_name(X, h)].to_numpy()
    signals = X[names].copy()
    levels = [c for c in names if c.startswith(LEVEL_PREFIXES) and not c.startswith(NOT_LEVELS)]
    signals[levels] = signals[levels].sub(har_level, axis=0)
    return signals.assign(log_har_deseasonalised=har_level)


def equal_weights(index: pd.Index) -> Array:
    """Weights that give each symbol the same total."""
    symbols = index.get_level_values("symbol")
    count = pd.Series(1, symbols).groupby(level=0).transform("size").to_numpy(np.float64)
    return np.asarray(len(symbols) / (symbols.nunique() * count))
