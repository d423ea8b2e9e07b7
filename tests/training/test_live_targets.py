"""The newest column of the targets, against the batch that ``features.targets`` makes of the whole history."""

from __future__ import annotations

import numpy as np
import pytest

from features.market import Market
from features.panel import Panel
from features.targets import THRESHOLD_HOURS, interval_arrays
from training import live_targets
from training.live_targets import LiveTargets, bars_of


@pytest.mark.parametrize("begin", [2400, 3500])
def test_every_hour_is_the_column_of_the_batch(market: Market, begin: int) -> None:
    """Over the gaps of one symbol; from before 90 days of intervals exist, and from after."""
    panel = Panel(market)
    batch = {h: interval_arrays(panel, h) for h in (1, 4, 72)}
    bars = bars_of(panel)
    live = LiveTargets(bars[:, :, :begin], {h: x["trailing_variance"][:, :begin] for h, x in batch.items()})
    for t in range(begin, begin + 500):
        for h, found in live.step(bars[:, :, t]).items():
            names = ("variance", "log_return", "mae_long", "mae_short")
            resolved = np.stack([batch[h][name][:, t - h] for name in names])
            assert np.array_equal(found.outcome, resolved, equal_nan=True)
            thresholds = np.stack([batch[h][f"threshold_{name}"][:, t] for name in ("normal", "stress", "crisis")])
            assert np.array_equal(found.thresholds, thresholds, equal_nan=True)
            assert np.array_equal(found.now, batch[h]["regime_now"][:, t], equal_nan=True)


def test_thresholds_forget_what_is_older_than_their_window(monkeypatch: pytest.MonkeyPatch) -> None:
    assert THRESHOLD_HOURS == 730 * 24
    monkeypatch.setattr(live_targets, "THRESHOLD_HOURS", 101)
    monkeypatch.setattr(live_targets, "MINIMUM_INTERVALS", 50)
    variance = np.random.default_rng(2).gamma(2.0, 1e-5, size=(1, 400))
    prices = np.ones((3, 1, 400))
    live = LiveTargets(np.concatenate([variance[None], prices])[:, :, :1], {1: variance[:, :1]})
    for t in range(1, 400):
        found = live.step(np.concatenate([variance[None], prices])[:, :, t])[1]
        window = variance[0, max(t - 99, 0) : t + 1]
        if len(window) < 50:
            assert np.isnan(found.thresholds).all()
        else:
            assert found.thresholds[:, 0] == pytest.approx(np.quantile(window, [0.3, 0.9, 0.975]), rel=1e-12)
