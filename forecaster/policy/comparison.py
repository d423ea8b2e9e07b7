"""The governed margin against margins without a forecast: coverage, level, and the proper score of a 99.5 %
margin.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.market import Market

from .observables import DAY, MarketHistory
from .params import Params
from .schedule import make_schedule
from .types import PPM

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
MISS: Final = 0.005
ALL: Final = "*"


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
    ``METRICS``: mean initial margin; share of origins whose larger 24 h excursion L stayed within it; mean of
    max(0, L - IM); pinball loss of IM as the 99.5 % quantile of L; mean IM once scaled to exactly 99.5 %
    coverage over all symbols; largest over least IM.
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
        table[name] = np.where((rows >= 0) & (columns >= 0), series[rows, columns], np.nan)
    excursions = realised.xs(DAY, level="horizon_hours")
    larger = np.maximum(excursions["mae_long"].to_numpy(), excursions["mae_short"].to_numpy())
    day = pd.Series(larger, index=excursions.index, name="excursion")
    table = table.join(day, on=["symbol", "origin"]).dropna()
    scores = []
    for policy in ("static", "ewma", params.model):
        margin = table["ensemble" if policy == params.model else policy]
        scale = _matching_scale(margin.to_numpy(), table["excursion"].to_numpy())
        groups = [*table.groupby("symbol", sort=True).indices.items(), (ALL, np.arange(len(table)))]
        for symbol, at in groups:
            row = _metrics(margin.to_numpy()[at], table["excursion"].to_numpy()[at], scale)
            ratios = margin.iloc[at].groupby(table["symbol"].iloc[at]).agg(lambda im: im.max() / im.min())
            scores.append({"policy": policy, "symbol": symbol, **row, "peak_to_trough": float(ratios.median())})
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


def _matching_scale(margin: npt.NDArray[np.float64], excursion: npt.NDArray[np.float64]) -> float:
    if not len(margin):
        return float("nan")
    return float(np.quantile(excursion / margin, 1 - MISS, method="higher"))


def _metrics(margin: npt.NDArray[np.float64], excursion: npt.NDArray[np.float64], scale: float) -> dict[str, float]:
    if not len(margin):
        return {"n": 0, **dict.fromkeys(METRICS[1:-1], float("nan"))}
    beyond = float(np.maximum(0.0, excursion - margin).mean())
    return {
        "n": len(margin),
        "mean_im": float(margin.mean()),
        "coverage_24h_995": float((excursion <= margin).mean()),
        "es_beyond_margin": beyond,
        "pinball_995": beyond + MISS * float(margin.mean() - excursion.mean()),
        "matched_mean_im": scale * float(margin.mean()),
    }
