"""Scheduled releases: the calendar, what they lift, and that nothing is known before its time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from features.families.scheduled import CONTROLS, FIRST_OFFSET, OFFSETS, Scheduled
from features.market import Market
from features.panel import Panel
from features.schedule import RELEASES, Schedule, scheduled
from features.sources.simulated import simulate

Array = npt.NDArray[np.float64]
LIFT = 9.0


@pytest.fixture(scope="module")
def market() -> Market:
    """A simulated year in which consumer prices move every market ninefold in variance, and nothing else does."""
    bars = simulate(seed=5, days=365, symbols=3).tables["bars"]
    bars = bars[bars["interval"] == "1h"].copy()
    events = scheduled()
    loud = events.hour[events.kind == RELEASES.index("consumer_prices")]
    hour = pd.DatetimeIndex(bars["close_time"]).as_unit("s").asi8 // 3600
    stretched = np.where(np.isin(hour, loud), np.sqrt(LIFT), 1.0)
    middle = np.sqrt(bars["open"] * bars["close"])
    for name in ("high", "low"):
        wide = middle * (bars[name] / middle) ** stretched
        bars[name] = wide.clip(lower=bars[["open", "close"]].max(axis=1)) if name == "high" else wide.clip(
            upper=bars[["open", "close"]].min(axis=1)
        )  # fmt: skip
    return Market.from_tables({"bars": bars})


def made(panel: Panel, schedule: Schedule | None = None) -> dict[str, Array]:
    return {column.name: column.values for column in Scheduled(schedule=schedule).columns(panel)}


def test_releases_stand_in_order_at_their_hour_in_new_york() -> None:
    events = scheduled()
    assert (np.diff(events.hour) > 0).all()
    opens = pd.DatetimeIndex(pd.to_datetime((events.hour - 1) * 3600, unit="s", utc=True)).tz_convert(
        "America/New_York"
    )
    assert set(opens.hour[events.kind == RELEASES.index("fomc_statement")]) == {14}
    assert set(opens.hour[events.kind != RELEASES.index("fomc_statement")]) == {8}
    assert set(opens.day_of_week) <= {0, 1, 2, 3, 4}
    months = opens.tz_localize(None).to_period("M")
    for kind in ("consumer_prices", "employment"):
        own = months[events.kind == RELEASES.index(kind)]
        assert list(own) == list(pd.period_range(own[0], own[-1], freq="M")), f"{kind} skips or repeats a month"
    assert (events.known < events.hour).all()
    lasts = pd.Series(events.hour).groupby(events.kind).max()
    assert pd.Timestamp(int(lasts.min()), unit="h", tz="UTC") == events.end


def test_a_release_that_moves_the_market_lifts_the_variance_ahead(market: Market) -> None:
    panel = Panel(market)
    columns = made(panel)
    events = scheduled()
    inside = (events.hour > panel.hours[len(panel) // 2]) & (events.hour < panel.hours[-1])
    for kind, low, high in (("consumer_prices", 3.0, 14.0), ("fomc_statement", 0.3, 2.2)):
        bars = events.hour[inside & (events.kind == RELEASES.index(kind))]
        at = bars - 1 - panel.hours[0]
        lift = np.exp(columns["log_scheduled_ahead_1h"] - panel.log_season_ahead(1))[:, at]
        assert len(at) >= 3
        assert ((lift > low) & (lift < high)).all(), (kind, lift)


def test_where_nothing_is_scheduled_the_season_stands(market: Market) -> None:
    panel = Panel(market)
    events = scheduled()
    touched = np.unique((events.hour[:, None] + FIRST_OFFSET + np.arange(OFFSETS)).ravel())
    for h, values in zip((1, 4, 24, 72), made(panel).values(), strict=True):
        ahead = touched[:, None] - np.arange(1, h + 1)
        quiet = ~np.isin(panel.hours, ahead)
        assert quiet.any()
        np.testing.assert_array_equal(values[:, quiet], panel.log_season_ahead(h)[:, quiet])


def test_the_lift_is_the_weighted_mean_response_over_that_of_ordinary_weeks(market: Market) -> None:
    """Against a reading of the definition, release by release."""
    panel = Panel(market)
    events, hours = scheduled(), panel.hours
    capped = pd.DataFrame(panel.capped_variance.T)
    response = (capped / capped.rolling(24, min_periods=12).mean().shift(OFFSETS)).clip(upper=50).mean(axis=1)
    response.index = pd.Index(hours)
    kind = RELEASES.index("consumer_prices")
    bar = next(int(b) for b, k in zip(events.hour, events.kind, strict=True) if k == kind and b > hours[6000])
    monday = (bar - 1 - 96) // 168 * 168 + 96
    past = [int(b) for b, k in zip(events.hour, events.kind, strict=True) if k == kind and hours[0] < b <= monday]
    weight = np.array([0.5 ** ((monday - b) / (52 * 168)) for b in past])
    own = np.array([response[b] for b in past])
    usual = np.array([response.reindex([b - c * 168 for c in range(1, CONTROLS + 1)]).mean() for b in past])
    normal = np.average(usual, weights=weight)
    expected = ((weight * own).sum() + 2.0 * normal) / ((weight.sum() + 2.0) * normal)
    at = bar - 1 - hours[0]
    lift = np.exp(made(panel)["log_scheduled_ahead_1h"] - panel.log_season_ahead(1))[:, at]
    np.testing.assert_allclose(lift, expected, rtol=1e-9)


def test_a_date_is_not_known_before_it_was_announced(market: Market) -> None:
    panel = Panel(market)
    events = scheduled()
    bar = int(events.hour[(events.kind == 1) & (events.hour > panel.hours[6000])][0])
    late = Schedule(events.kind, events.hour, np.where(events.hour == bar, bar - 10, events.known))
    usual = made(panel)["log_scheduled_ahead_24h"]
    told = made(panel, late)["log_scheduled_ahead_24h"]
    at = bar - panel.hours[0]
    season = panel.log_season_ahead(24)
    assert (told[:, at - 24 : at - 10] == season[:, at - 24 : at - 10]).all()
    np.testing.assert_array_equal(told[:, at - 10 : at + 1], usual[:, at - 10 : at + 1])


@pytest.mark.parametrize("days", [120.3, 240.0, 301.7])
def test_no_row_depends_on_a_later_one(market: Market, days: float) -> None:
    whole = Panel(market)
    cut = whole.times[0] + pd.Timedelta(days=days)
    part = Panel(market.as_of(cut))
    for (name, full), early in zip(made(whole).items(), made(part).values(), strict=True):
        np.testing.assert_array_equal(full[:, : len(part)], early, err_msg=name)
