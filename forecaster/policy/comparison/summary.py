"""The governed margin beside two margins without a forecast, as ``forecaster evaluate`` reports it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import pandas as pd

from features.market import Market
from forecaster.policy.observables import DAY, MarketHistory
from forecaster.policy.params import Params
from forecaster.policy.schedule import make_schedule
from forecaster.policy.types import PPM

from .ground import ALL
from .metrics import coverage_metrics
from .scaling import matching_scale

__all__ = ["METRICS", "compare", "margins_in_force"]

METRICS: Final = (
    "n",
    "mean_im",
    "coverage_24h_995",
    "es_beyond_margin",
    "pinball_995",
    "matched_mean_im",
    "peak_to_trough",
)


def compare(
    forecasts: pd.DataFrame,
    realised: pd.DataFrame,
    market: Market,
    params: Params,
    lines: Iterable[bytes] | None = None,
) -> pd.DataFrame:
    """Policies ``static``, ``ewma`` and ``ensemble`` by symbol and over all (``*``), on the same origins.

    ``realised``: targets indexed (symbol, origin, horizon_hours) with ``mae_long`` and ``mae_short``;
    ``lines``: the schedule of ``forecasts`` if it exists already. Columns ``policy``, ``symbol`` and
    ``METRICS``: number of origins, ``coverage_metrics`` of the larger 24 h excursion, scaled over all symbols to
    exactly 99.5 % coverage for ``matched_mean_im``, and largest over least IM.
    """
    history = MarketHistory(market, params)
    schedule = make_schedule(forecasts, market, params, history) if lines is None else lines
    table = margins_in_force(schedule)
    rows, columns = history.positions(table)
    baselines = {
        "static": history.static_im,
        "ewma": history.scaled_im(params.baselines.ewma_half_life_hours),
    }
    for name, series in baselines.items():
        table[name] = np.where((rows >= 0) & (columns >= 0), np.minimum(series[rows, columns], 1.0), np.nan)
    excursions = realised.xs(DAY, level="horizon_hours")
    larger = np.maximum(excursions["mae_long"].to_numpy(), excursions["mae_short"].to_numpy())
    day = pd.Series(larger, index=excursions.index, name="excursion")
    table = table.join(day, on=["symbol", "origin"]).dropna()
    scores = []
    for policy in ("static", "ewma", params.model):
        margin = table["ensemble" if policy == params.model else policy]
        im, excursion = margin.to_numpy(), table["excursion"].to_numpy()
        scale = matching_scale(excursion / im)
        groups = [*table.groupby("symbol", sort=True).indices.items(), (ALL, np.arange(len(table)))]
        for symbol, at in groups:
            row = {"policy": policy, "symbol": symbol, "n": len(at)}
            row |= coverage_metrics(im[at], excursion[at], scale)
            ratios = margin.iloc[at].groupby(table["symbol"].iloc[at]).agg(lambda im: im.max() / im.min())
            scores.append({**row, "peak_to_trough": float(ratios.median())})
    return pd.DataFrame(scores, columns=["policy", "symbol", *METRICS])


def margins_in_force(lines: Iterable[bytes]) -> pd.DataFrame:
    """Initial margin (a fraction) in force at each ``as_of``: that of the symbol's newest line effective by then.

    Columns ``symbol``, ``origin``, ``ensemble``, and the maintenance margin ``mm`` of that line.
    """
    recent: dict[str, list[dict[str, Any]]] = {}  # by symbol: the line in force, then those still to take effect
    table = []
    for raw in lines:
        line = json.loads(raw)
        symbol, now = line["symbol"], line["as_of"]
        known = [*recent.get(symbol, ()), line]
        effective = [at for at, candidate in enumerate(known) if candidate["effective_at"] <= now]
        recent[symbol] = known[effective[-1] if effective else 0 :]
        force = recent[symbol][0]
        table.append((symbol, now, force["im_ppm"] / PPM, force["mm_ppm"] / PPM))
    frame = pd.DataFrame(table, columns=["symbol", "origin", "ensemble", "mm"])
    return frame.assign(
        origin=pd.to_datetime(frame["origin"], utc=True, format="ISO8601").astype("datetime64[us, UTC]")
    )
