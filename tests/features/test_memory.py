"""What the memory family says of falling hours and of the accuracy of a day, hour by hour from the bars."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from features.families.memory import DOWN_HALF_LIVES, Ladder
from features.market import Market
from features.panel import Panel

Array = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def panel(rough_market: Market) -> Panel:
    return Panel(rough_market)


@pytest.fixture(scope="module")
def memory(panel: Panel) -> dict[str, Array]:
    return {column.name: column.values for column in Ladder().columns(panel)}


def test_quarticity_of_a_day_by_hand(panel: Panel, memory: dict[str, Array]) -> None:
    v, checked = panel.deseasonalised, 0
    for i in range(len(v)):
        for t in range(23, len(panel), 37):
            day = v[i, t - 23 : t + 1]
            day = day[np.isfinite(day)]
            found = memory["log_hourly_quarticity_24h"][i, t]
            if len(day) < 0.8 * 24:
                assert np.isnan(found)
                continue
            checked += 1
            assert found == pytest.approx(np.log(np.sqrt((day**2).mean()) / day.mean()), abs=1e-9)
    assert checked > 50
    assert np.nanmin(memory["log_hourly_quarticity_24h"]) > -1e-12  # by Cauchy and Schwarz


def test_falling_hours_are_part_of_the_whole(panel: Panel, memory: dict[str, Array]) -> None:
    for half_life in DOWN_HALF_LIVES:
        whole, down = np.exp(memory[f"log_ew_{half_life}h"]), np.exp(memory[f"log_ew_down_{half_life}h"])
        np.testing.assert_array_equal(np.isnan(whole), np.isnan(down))
        share = (down / whole)[np.isfinite(whole)]
        assert (share <= 1 + 1e-9).all()
        assert 0.3 < np.median(share) < 0.7


def test_falling_hours_by_hand(panel: Panel, memory: dict[str, Array]) -> None:
    """Where the last hours have no gap, weights halve every ``half_life`` hours; the kernel's tail counts for little."""
    v, r, half_life, reach = panel.deseasonalised, panel.log_return, 2, 40
    weights = 0.5 ** (np.arange(reach)[::-1] / half_life)
    checked = 0
    for i in range(len(v)):
        for t in range(reach, len(panel), 29):
            recent = slice(t - reach + 1, t + 1)
            if np.isfinite(v[i, recent]).all() and np.isfinite(r[i, recent]).all():
                by_hand = np.average(np.where(r[i, recent] < 0, v[i, recent], 0.0), weights=weights)
                assert np.exp(memory["log_ew_down_2h"][i, t]) == pytest.approx(by_hand, rel=0.1)
                checked += 1
    assert checked > 50
