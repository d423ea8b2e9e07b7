from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from scipy.special import ndtr

from features.families.flow_proxy import FlowProxy
from features.market import Market
from features.panel import Panel


def test_columns_are_bulk_volume_classification_hour_by_hour(rough_market: Market) -> None:
    panel = Panel(rough_market)
    found = {column.name: column.values for column in FlowProxy().columns(panel)}
    close = rough_market.bars()["close"].unstack("symbol").reindex(panel.times)
    volume = rough_market.bars()["volume"].unstack("symbol").reindex(panel.times)
    returns = np.log(close).diff()
    rng = np.random.default_rng(1)
    compared = 0
    for t in rng.integers(180, len(panel), 40):
        for i, symbol in enumerate(panel.symbols):
            r = returns[symbol].to_numpy()
            lean = np.full(72, np.nan)
            for k in range(72):
                s = t - 71 + k
                past = r[s - 168 : s] if s >= 168 else r[:0]
                past = past[~np.isnan(past)]
                if len(past) >= 0.8 * 168 and not np.isnan(r[s]):
                    lean[k] = 2 * NormalDist().cdf(float(np.clip(r[s] / past.std(ddof=1), -4, 4))) - 1
            traded = volume[symbol].to_numpy()[t - 71 : t + 1]
            for length in (4, 24, 72):
                b, v = lean[-length:], traded[-length:]
                known = ~np.isnan(b)
                if known.sum() < 0.8 * length:
                    assert math.isnan(found[f"bvc_imbalance_{length}h"][i, t])
                    continue
                imbalance = (b * v)[known].sum() / v[known].sum()
                toxicity = (np.abs(b) * v)[known].sum() / v[known].sum()
                assert found[f"bvc_imbalance_{length}h"][i, t] == pytest.approx(imbalance, rel=1e-9)
                assert found[f"abs_bvc_imbalance_{length}h"][i, t] == pytest.approx(abs(imbalance), rel=1e-9)
                assert found[f"bvc_toxicity_{length}h"][i, t] == pytest.approx(toxicity, rel=1e-9)
                compared += 1
    assert compared > 500


def test_the_proxy_never_bears_the_name_of_a_measurement(rough_market: Market) -> None:
    for column in FlowProxy().columns(Panel(rough_market.as_of("2023-01-03"))):
        assert "bvc_" in column.name
        assert "proxy" in column.formula
        assert column.feeds == ("bars",)


def test_a_share_has_the_same_bits_in_any_array() -> None:
    z = np.random.default_rng(2).standard_normal((7, 1001)) * 3
    whole = ndtr(z)
    for first, last in ((0, 1), (3, 8), (500, 1001)):
        np.testing.assert_array_equal(whole[:, first:last], ndtr(np.ascontiguousarray(z[:, first:last])))
    assert [ndtr(value) for value in z[3, :50]] == whole[3, :50].tolist()
