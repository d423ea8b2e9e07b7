"""Where nothing can be known, nobody knows more: constant variance, and feeds of pure noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from known_markets import KnownMarket, Linear, bursts
from known_walk import BOOK, HISTORY, configured, walked

from training.comparison import gain, model_confidence_set

HORIZONS = (1, 4)
DAYS = 120
EVERY = ("ewma", "har", "har_seasonal", "harq", "garch", "har_x", "lightgbm")
UNSEASONAL = ("ewma", "har")
STEADY = Linear(half_lives=(), sds=())


@pytest.mark.parametrize("wobble", [0.0, 0.01])
def test_variance_that_never_moves_is_forecast_by_all(wobble: float) -> None:
    """To rounding; the twin, whose variance moves by one per cent, is not."""
    market = KnownMarket.draw(Linear(half_lives=(), sds=(), noise=wobble), seed=2, days=200, symbols=3)
    walk = walked(market.market(book=False), configured(("ewma", "har", "har_seasonal", "har_x", "lightgbm")), 60)
    for h in HORIZONS:
        for model in ("ewma", "har", "har_seasonal", "har_x", "lightgbm", "ensemble"):
            ratio = walk.column(h, "variance", model) / walk.truth(h, "variance")
            error = float(np.nanmax(np.abs(np.log(ratio))))
            assert (error < 1e-9) if wobble == 0 else (error > 1e-3), model


def test_constant_variance_seen_through_noise_is_a_tie() -> None:
    """Nobody beats the constant, and nobody is far from it: what is lost is what estimation costs.

    A season of 168 hours is dearer to learn than a level: the models that learn one tie with each other, the others too.
    """
    market = KnownMarket.draw(STEADY, seed=2, days=300, symbols=3)
    walk = walked(market.market(book=False), configured(EVERY), 100)
    for h, best in market.best(HORIZONS).items():
        for model in (*EVERY, "ensemble"):
            found = walk.gain(h, model, best)
            assert found.low <= 0, (h, model)
            assert found.value > -0.04, (h, model)
        for model in EVERY:
            peer = "har" if model in UNSEASONAL else "har_seasonal"
            assert abs(walk.gain(h, model, peer).value) < 0.025, (h, model)
        assert abs(walk.gain(h, "ensemble", "har_seasonal").value) < 0.02


def test_the_confidence_set_leaves_out_no_tied_model_beyond_its_size() -> None:
    """Five models of equal skill by construction, forecasts of the constant with errors of their own; then one is worse."""
    rng = np.random.default_rng(8)
    days, trials, kept, caught = 200, 40, 0, 0
    for _ in range(trials):
        came = np.exp(0.5 * rng.standard_normal((days, 24)))
        losses = [_daily(came, np.exp(0.1 * rng.standard_normal((days, 24)))) for _ in range(5)]
        kept += bool(model_confidence_set(np.column_stack(losses), block=10, reps=200).all())
        losses[0] = _daily(came, np.full((days, 24), 1.5))
        caught += not model_confidence_set(np.column_stack(losses), block=10, reps=200)[0]
    # All five are kept with probability 0.90: fewer than 31 of 40 would have one of 300.
    assert kept >= 31
    assert caught == trials


def _daily(came: np.ndarray, made: np.ndarray) -> np.ndarray:
    ratio = came / made
    return np.asarray((ratio - np.log(ratio) - 1).mean(axis=1))


@pytest.mark.parametrize("effect", [0.0, 0.5])
def test_a_feed_of_noise_brings_nothing_and_one_that_leads_brings_its_worth(effect: float) -> None:
    """The same market and the same code, and but one difference: whether the feed moves the variance of the next hour."""
    market = KnownMarket.draw(Linear(effect=effect), seed=3, days=420, symbols=3)
    config = configured(("har_seasonal", "har_x", "lightgbm"), BOOK)
    told = walked(market.market(), config, DAYS)
    history = config.model_copy(update={"features": config.features.model_copy(update={"families": HISTORY})})
    untold = walked(market.market(book=False), history, DAYS)
    days = np.arange(told.grid.start, told.grid.stop) // 24
    best = market.best(HORIZONS)
    for h in HORIZONS:
        found = gain(told.loss(h), untold.loss(h), days)
        if effect == 0:
            assert abs(found.value) < 0.005
            assert found.low <= 0.001
        else:
            # Most of what the feed is worth to who knows the law, and no more. Past feeds, which would tell noise from news in
            # past variance, are no feature; at four hours that is most of their worth.
            worth = gain(untold.loss(h, best[h]), untold.loss(h), days)
            assert found.low > (0.75 if h == 1 else 0.25) * worth.value
            assert told.gain(h, "ensemble", best[h]).low <= 0


def test_the_lead_of_a_feed_is_found() -> None:
    """It moves the hour four hours after its own: for the next hour, the feed of three hours ago tells most."""
    market = KnownMarket.draw(Linear(effect=0.5, lead=4), seed=3, days=300, symbols=3)
    config = configured(("har_seasonal", "har_x"), BOOK, horizons=(1,), combined=("har_x",))
    delays = range(6)
    gains = [walked(market.market(delay=d), config, 90).gain(1, "har_x", "har_seasonal").value for d in delays]
    assert int(np.argmax(gains)) == 3
    others = [found for d, found in zip(delays, gains, strict=True) if d != 3]
    assert gains[3] > 0.3
    assert max(others) < 0.1
    # Nothing is found in a feed that leads nothing, at any delay.
    still = replace(market, y=KnownMarket.draw(Linear(lead=4), seed=3, days=300, symbols=3).y)
    still = replace(still, returns=np.exp(0.5 * still.y) * market.returns / np.exp(0.5 * market.y))
    assert walked(still.market(delay=3), config, 90).gain(1, "har_x", "har_seasonal").value < 0.02


def test_a_planted_sign_of_onset_is_found_and_is_gone_with_it() -> None:
    """Six hours of warning in the feed: the onset's Brier score falls; with a feed of noise it is the reference's."""
    config = configured(("har_seasonal", "har_x", "lightgbm"), BOOK, horizons=(4,))
    walks = [
        walked(market.market(), config, 150)
        for market in (
            bursts(11, 420, 3, told=True),
            bursts(11, 420, 3, told=False),
            bursts(11, 420, 3, told=False, noise=1),
        )
    ]
    onset = walks[0].truth(4, "onset")
    assert 0.01 < float(np.nanmean(onset)) < 0.1
    told, untold, other = ((walk.column(4, "p_onset") - onset) ** 2 for walk in walks)
    days = np.arange(walks[0].grid.start, walks[0].grid.stop) // 24
    assert gain(told, untold, days).low > 0.02
    assert abs(gain(untold, other, days).value) < 0.01
