from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from features.errors import DataInvalid
from training.reliability import BINS, reliability

rng = np.random.default_rng(2)


def test_curve_is_the_mean_outcome_by_bin() -> None:
    p = rng.beta(1, 3, 4000)
    p[:3] = [0.0, 1.0 + 1e-15, 0.5]
    o = (rng.uniform(size=4000) < p).astype(float)
    found = reliability(p, o, np.arange(4000) // 24)
    cut = pd.DataFrame({"p": p, "o": o}).groupby(np.minimum(np.floor(p * BINS), BINS - 1))
    np.testing.assert_allclose(found.forecast, cut["p"].mean())
    np.testing.assert_allclose(found.observed, cut["o"].mean())
    assert found.count.tolist() == cut.size().tolist()
    assert ((found.low <= found.observed) & (found.observed <= found.high)).all()


def test_hours_of_one_storm_count_as_one_event() -> None:
    # Outcomes that last ten days: as many rows, a tenth of a percent of the information.
    days = np.repeat(np.arange(600), 24)
    p = np.full(len(days), 0.25)
    alone = reliability(p, (rng.uniform(size=len(days)) < 0.25).astype(float), days)
    storms = reliability(p, np.repeat(rng.uniform(size=60) < 0.25, 240).astype(float), days)
    assert (storms.high - storms.low)[0] > 8 * (alone.high - alone.low)[0]


def test_the_band_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = []
    for seed in range(60):
        made = np.random.default_rng(seed)
        o = np.repeat(made.uniform(size=80) < 0.3, 240).astype(float)
        found = reliability(np.full(len(o), 0.35), o, np.arange(len(o)) // 24)
        covered.append(found.low[0] <= 0.3 <= found.high[0])
    assert 0.78 < np.mean(covered) < 0.99


@pytest.mark.parametrize(
    ("p", "o", "message"),
    [([], [], "pass rows"), ([0.5, 0.5], [1.0], "pass rows"), ([1.5], [1.0], "lie in"), ([0.5], [0.5], "be 0 or 1")],
)
def test_refusals(p: list[float], o: list[float], message: str) -> None:
    with pytest.raises(DataInvalid, match=message):
        reliability(p, o, np.zeros(len(p), dtype=int))
