from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features.errors import UsageError
from features.market import Market
from forecaster.policy import Params
from forecaster.policy.inputs import Inputs, read_with_market
from forecaster.policy.observables import MarketHistory
from forecaster.venue import Path, VenueParams
from forecaster.venue.backtest import crowd
from forecaster.venue.loop import Closed, close_loop
from forecaster.venue.synthetic import bars, forecast_rows, gaussian_walk

SYMBOL = "SIMUSDT"
BEFORE, AFTER = 400 * 24, 40 * 24  # hours of bars alone, and with forecasts and the venue
LOUD, JUMP = 15 * 24, 17 * 24
POLICY = Params.default()
# A fund that the jump takes below its target; with the shipped one it is below from the first bar on.
VENUE = VenueParams.default().replace(population={"slots": 400}, fund={"size_share": 0.018})


@pytest.fixture(scope="module")
def world() -> tuple[Inputs, Path]:
    """A quiet walk, four loud days with a jump of -30 % in them, and quiet again."""
    sigma = np.full(BEFORE + AFTER, 0.004)
    sigma[BEFORE + LOUD : BEFORE + LOUD + 96] *= 4
    times = pd.date_range("2022-01-01T01:00Z", periods=len(sigma), freq="h").as_unit("us")
    closes = gaussian_walk(sigma, 5)
    closes[BEFORE + JUMP :] *= 0.7
    market = Market.from_tables({"bars": bars(SYMBOL, closes, times, 1e9)})
    seen = np.sqrt(pd.Series(sigma**2).ewm(halflife=12).mean().to_numpy())
    rows = forecast_rows(SYMBOL, times[BEFORE - 24 :], seen[BEFORE - 24 :])
    inputs = read_with_market(rows, MarketHistory(market, POLICY))
    return inputs, Path.of(market, SYMBOL, times[BEFORE], times[-1], VENUE)


@pytest.fixture(scope="module")
def closed(world: tuple[Inputs, Path]) -> Closed:
    return run(*world)


def run(inputs: Inputs, path: Path, venue: VenueParams = VENUE) -> Closed:
    return close_loop(inputs, path, crowd(venue, SYMBOL, int(path.hours[-1]) + 1), POLICY, venue)


def until(inputs: Inputs, path: Path, hours: int) -> tuple[Inputs, Path]:
    short = path[:hours]
    end = short.close_time[-1]
    kept = np.flatnonzero(inputs.origin < end)
    cut: dict[str, Any] = {
        name: value[kept] if isinstance(value, np.ndarray) else [value[i] for i in kept]
        for name, value in vars(inputs).items()
        if name not in ("horizons", "observed", "lines")
    }
    return replace(inputs, **cut, observed={name: x[kept] for name, x in inputs.observed.items()}), short


def test_a_fund_that_the_jump_drains_raises_margins_after_it_and_never_before(closed: Closed) -> None:
    assert closed.rounds > 1
    changed = np.flatnonzero(closed.im != closed.open_im)
    assert changed[0] > JUMP
    assert (closed.im >= closed.open_im).all()
    low = closed.result.fund.argmin()
    assert changed[0] <= low + 24


def test_the_answer_grows_from_the_first_bar_on(world: tuple[Inputs, Path], closed: Closed) -> None:
    for hours in (JUMP, JUMP + 30, AFTER - 100):
        part = run(*until(*world, hours))
        assert np.array_equal(part.im, closed.im[:hours])
        assert np.array_equal(part.result.fund, closed.result.fund[:hours])


def test_every_line_saw_what_the_venue_left_behind_before_it(closed: Closed) -> None:
    # The line in force at a bar's open was made at that instant or before it: it knows at most the bar before.
    behind = closed.result.fund
    for bar in range(1, len(behind)):
        assert closed.fund[bar] in behind[max(0, bar - 12) : bar]


def test_the_loop_is_bounded_and_comes_to_rest(world: tuple[Inputs, Path], closed: Closed) -> None:
    """However small the fund: no run-away of margins, within the limits of the governor, and the loop settles."""
    for size in (0.0002, 0.002, 0.02):
        found = run(*world, VENUE.replace(fund={"size_share": size}))
        day = np.lib.stride_tricks.sliding_window_view(found.im, 25)
        assert (day[:, -1] <= 2 * day.min(axis=1)).all()
        most = 1 + POLICY.margin.fund_weight
        assert found.im.max() <= 1.05 * most * closed.open_im.max()
        last = found.im[-120:]
        assert last.max() <= 1.2 * last.min()


def test_lines_of_another_symbol_are_refused(world: tuple[Inputs, Path]) -> None:
    inputs, path = world
    with pytest.raises(UsageError, match=r"only lines of OTHER"):
        run(inputs, replace(path, symbol="OTHER"))
    with pytest.raises(UsageError, match="not settled after 1 rounds"):
        close_loop(inputs, path, crowd(VENUE, SYMBOL, int(path.hours[-1]) + 1), POLICY, VENUE, rounds=1)
