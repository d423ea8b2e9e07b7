"""The embedded market: the ensemble stands between the seasonal HAR and the forecast that knows the hidden state."""

from __future__ import annotations

import numpy as np
from known_walk import HISTORY, configured, on_grid, walked

from features.market import Market
from features.sources.simulated import best_forecast, simulate

FEEDS = (*HISTORY, "flow", "open_interest")
MEMBERS = ("har_seasonal", "har_x", "lightgbm")


def test_the_ensemble_captures_some_of_what_the_oracle_knows_and_never_more() -> None:
    simulation = simulate(7, days=365, symbols=5)
    walk = walked(Market.from_tables(simulation.tables), configured(MEMBERS, FEEDS), 120)
    oracle = best_forecast(simulation.truth, (1, 4))
    for h in (1, 4):
        best = on_grid(oracle, h, walk.material)
        ceiling, found = walk.gain(h, best, "har_seasonal"), walk.gain(h, "ensemble", "har_seasonal")
        assert ceiling.low > 0.1
        assert found.low > 0
        assert 0.1 < found.value / ceiling.value < 0.8
        for model in (*MEMBERS, "ensemble"):
            assert walk.gain(h, model, best).high < 0, model
        # The twin: an oracle of the hour before is no ceiling of the same height, so a misaligned one would be seen.
        late = np.roll(best, 1, axis=1)
        assert walk.gain(h, late, best).high < 0
