"""One unit long under an exposure, hour by hour in a loop."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from features.market import Market
from forecaster.policy import Params
from forecaster.policy.comparison.contest import Contest
from forecaster.policy.comparison.overlay import overlay, settled_funding
from forecaster.policy.observables import MarketHistory


def _by_hand(exposure: np.ndarray, growth: np.ndarray, cost: float) -> tuple[float, float, float]:
    wealth, peak, fall, traded, held = 1.0, 1.0, 0.0, 0.0, 0.0
    for e, r in zip(exposure, growth, strict=True):
        traded += abs(e - held)
        wealth *= 1 + e * r - cost * abs(e - held)
        held = e
        peak = max(peak, wealth)
        fall = max(fall, 1 - wealth / peak)
    return wealth, fall, traded


def test_against_a_loop(met: Contest) -> None:
    ground = met.ground
    panel = ground.history.panel
    funding = settled_funding(ground.history)
    found = overlay(met.exposure, ground.scored, ground.history, funding, 5.0)
    for s in range(len(panel.symbols)):
        at = np.flatnonzero(ground.scored[s])
        hours = np.arange(at[0], at[-1] + 2)  # the sale falls in the hour after the last
        growth = panel.close[s, hours + 1] / panel.close[s, hours] - 1 - funding[s, hours + 1]
        exposure = np.append(met.exposure[s, hours[:-1]], 0.0)
        wealth, fall, traded = _by_hand(exposure, growth, 5e-4)
        years = len(at) / 8760
        assert found.max_drawdown[s] == pytest.approx(fall)
        assert found.turnover[s] == pytest.approx(traded / years)
        assert found.calmar[s] == pytest.approx((wealth ** (1 / years) - 1) / fall)
        steady = np.append(np.full(len(at), exposure[:-1].mean()), 0.0)
        assert found.constant_drawdown[s] == pytest.approx(_by_hand(steady, growth, 5e-4)[1])


def test_funding_falls_in_the_hour_it_settles(tables: dict[str, pd.DataFrame], params: Params) -> None:
    clock = tables["funding"]["funding_time"] + pd.Timedelta(milliseconds=3)
    late = tables["funding"].assign(funding_time=clock, available_at=clock)
    history = MarketHistory(Market.from_tables({**tables, "funding": late}), params)
    found = settled_funding(history)
    row = history.panel.symbols.index("BTCUSDT")
    hours = history.panel.times.get_indexer(pd.Index(tables["funding"]["funding_time"]))
    inside = hours >= 0
    np.testing.assert_array_equal(found[row, hours[inside]], tables["funding"]["funding_rate"].to_numpy()[inside])
    assert np.count_nonzero(found) == inside.sum()


def test_a_move_over_a_missing_bar_is_not_lost(met: Contest, tables: dict[str, pd.DataFrame], params: Params) -> None:
    ground = met.ground
    row = ground.symbols.index("BTCUSDT")
    hours = np.flatnonzero(ground.scored[row])
    bars, gone = tables["bars"], ground.times[hours[100]]
    kept = bars[(bars["symbol"] != "BTCUSDT") | (bars["close_time"] != gone)]
    history = MarketHistory(Market.from_tables({**tables, "bars": kept}), params)
    assert np.isnan(history.panel.close[row, hours[100]])
    still = np.zeros(met.exposure.shape)
    found = overlay(np.ones(met.exposure.shape), ground.scored, history, still, 0.0)
    close = ground.history.panel.close[row]
    growth = close[hours[-1] + 1] / close[hours[0]]
    assert found.calmar[row] * found.max_drawdown[row] == pytest.approx(growth ** (8760 / len(hours)) - 1)
