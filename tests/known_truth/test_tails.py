"""Known tails: what lies beyond every quantile of the law is counted, and lies within the exact binomial band."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from known_markets import KnownMarket, Linear
from known_walk import Walk, configured, walked
from scipy.stats import binom

from models.base import EXCURSION_COLUMNS, RETURN_LEVELS, SHORTFALL_LEVELS, VARIANCE_LEVELS

Array = npt.NDArray[np.float64]

HORIZONS = (1, 4)
# 24 levels a horizon: with independent hours of a right law, one seed in fifty fails.
SURE = 0.9996


@pytest.fixture(scope="module")
def walk() -> Walk:
    market = KnownMarket.draw(Linear(), seed=5, days=760, symbols=4)
    return walked(market.market(book=False), configured(("har_seasonal",), horizons=HORIZONS, refit_months=6), 200)


def beyond(walk: Walk, h: int, widen: float = 1.0) -> Iterator[tuple[str, float, int, int]]:
    """Column, nominal share, rows beyond it, and all rows: origins that do not overlap. ``widen`` spoils the law."""
    spaced = np.arange(walk.grid.start, walk.grid.stop) % h == 0
    came = {name: walk.truth(h, name) for name in ("log_return", "variance", "mae_long", "mae_short")}
    for name, level in RETURN_LEVELS.items():
        yield name, level, *_counted(came["log_return"] < widen * walk.column(h, name), came["log_return"], spaced)
    for name, level in VARIANCE_LEVELS.items():
        yield name, level, *_counted(came["variance"] < widen**2 * walk.column(h, name), came["variance"], spaced)
    for side in ("long", "short"):
        for name, level in EXCURSION_COLUMNS[side].items():
            there = came[f"mae_{side}"]
            yield name, 1 - level, *_counted(there > widen * walk.column(h, name), there, spaced)


def _counted(hit: npt.NDArray[np.bool_], came: Array, spaced: npt.NDArray[np.bool_]) -> tuple[int, int]:
    known = np.isfinite(came) & spaced
    return int((hit & known).sum()), int(known.sum())


def outside(walk: Walk, h: int, widen: float = 1.0) -> list[str]:
    """Columns whose count leaves its band."""
    told = []
    for name, share, count, n in beyond(walk, h, widen):
        low, high = binom.interval(SURE, n, share)
        if not low <= count <= high:
            told.append(f"{name}, {h} h: {count} of {n}, and not {low:.0f} to {high:.0f}")
    return told


@pytest.mark.parametrize("h", HORIZONS)
def test_every_level_holds_what_it_says(walk: Walk, h: int) -> None:
    assert not outside(walk, h)


@pytest.mark.parametrize("h", HORIZONS)
@pytest.mark.parametrize("widen", [0.9, 1.1])
def test_a_law_a_tenth_too_narrow_or_too_wide_is_seen(walk: Walk, h: int, widen: float) -> None:
    """The twin: of the law above with every quantile a tenth off, most columns are named."""
    assert len(outside(walk, h, widen)) >= 5


@pytest.mark.parametrize("h", HORIZONS)
def test_the_shortfall_is_the_mean_beyond_its_quantile(walk: Walk, h: int) -> None:
    """Returns beyond the quantile are the shortfall's size on average, to four standard errors; a tenth more is not."""
    spaced = np.arange(walk.grid.start, walk.grid.stop) % h == 0
    came = walk.truth(h, "log_return")
    for name in SHORTFALL_LEVELS:
        quantile, mean = walk.column(h, name.replace("es", "q")), walk.column(h, name)
        side = np.sign(mean)
        hit = np.isfinite(came) & spaced & (side * came > side * quantile)
        ratio = (came / mean)[hit]
        error = ratio.std() / np.sqrt(len(ratio))
        assert abs(ratio.mean() - 1) < 4 * error + 0.01, name
        assert error < 0.03, "a tenth more would be seen"
