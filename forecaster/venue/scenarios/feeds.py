"""Price feeds that are late, silent, lying or broken for an instant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from forecaster.policy.oracle import Quote, read_price
from forecaster.policy.params import Params
from forecaster.venue.engine import VenueResult, simulate
from forecaster.venue.kernels import MICRO
from forecaster.venue.path import Path
from forecaster.venue.population import Population
from forecaster.venue.synthetic import gaussian_walk, path_of, people_of

from .outcome import DAILY_VOLUME, SIGMA, Outcome, Setting, crowd, flat_margins, gain_usd

__all__ = ["flash_print", "late_sources", "lying_source", "oracle_outage", "outage_exits"]

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Heard = Callable[[int], list[Quote]]

SOURCES: Final = 5
ERROR: Final = 0.0002  # honest sources differ by so much, one standard deviation
HOUR: Final = 3600.0
IM: Final = 0.10
BAD: Final = slice(60, 66)  # hours in which a feed misbehaves
HOURS: Final = 120
HOURLY: Final = SIGMA / 24**0.5
QUIET: Final = 0.0005  # an hour's volatility in which nobody is liquidated for the true price


def late_sources(setting: Setting, defended: bool) -> Outcome:
    """Whoever knows the price trades against a venue whose sources are an hour late, some of the time all of them."""
    params = setting.policy if defended else _oracle(setting.policy, max_age_seconds=2 * HOUR)
    price, truth, closed = _late(setting, params)
    free = np.flatnonzero(~closed[:-2])
    people = people_of(np.where(truth > price, 1.0, -1.0)[free], 2.0, len(truth), free, free + 1)
    result = _run(price, truth, people, setting)
    gain = _gain_bps(result, people, setting)
    return Outcome(
        name="late_sources",
        done=f"0 to {SOURCES} of {SOURCES} price sources are an hour late; an attacker who knows the price opens a position "
        "in every hour in which that is allowed",
        defence="sources older than the limit do not count; without a quorum nothing is opened",
        expectation="who opens on late prices gains nothing after fees",
        measured={"gain_bps_of_notional": gain, "attacks": result.tally["entered"]},
        holds=gain <= 0,
    )


def outage_exits(setting: Setting, defended: bool) -> Outcome:
    """A long and a short opened before each loss of the quorum: the side that the truth hurts asks to leave at once.

    Measured by a walk of known volatility: the last good price moved against the taker by a band of one (two) standard
    deviations of the outage leaves the pair -1 (-9) bps where the truth moves as assumed, but 29 (8) bps at twice and
    60 (38) bps at three times that volatility, which is when feeds fail. The first good price leaves nothing at any, needs
    no constant, and costs who only wants to leave nothing on average: he bears the move of the outage, either way.
    """
    price, truth, closed = _late(setting, setting.policy)
    gain = _exit_option(price, truth, closed, ~closed if defended else None, setting)
    return Outcome(
        name="outage_exits",
        done="a long and a short are opened before each loss of the quorum; the side that the true price hurts is to be "
        "closed at once, the other one when the quorum is back",
        defence="orders to close wait for the first good price, instead of being filled at the last one",
        expectation="the pair gains nothing after fees",
        measured={"gain_bps_of_notional": gain},
        holds=gain <= 0,
    )


def oracle_outage(setting: Setting, defended: bool) -> Outcome:
    """All sources but a thin one fall silent, and the thin one drifts away."""
    truth = _quiet(setting)

    def heard(t: int) -> list[Quote]:
        silent = BAD.start <= t < BAD.stop
        thin = truth[t] * (1 - 0.05 * (t - BAD.start + 1)) if silent else truth[t]
        honest = [] if silent else _honest(truth[t], t, SOURCES - 1)
        return [*honest, Quote("thin", thin, HOUR * t)]

    price, closed = _venue_price(truth, heard, setting.policy if defended else _oracle(setting.policy, quorum=1))
    result = _crowd_run(price, truth, setting)
    share = _liquidated_share(result)
    return Outcome(
        name="oracle_outage",
        done=f"{SOURCES - 1} of {SOURCES} sources are silent for 6 h; the last one, a thin market, drifts 30 % away",
        defence="without a quorum the last good price stands and positions may only be reduced",
        expectation="nobody is liquidated, and nothing can be opened in any hour of the outage",
        measured={"liquidated_share_of_oi": share, "reduce_only_hours": float(closed.sum())},
        holds=share == 0 and bool(closed[BAD].all()),
    )


def lying_source(setting: Setting, defended: bool) -> Outcome:
    """One source of five says 40 % less for six hours."""
    truth = _quiet(setting)

    def heard(t: int) -> list[Quote]:
        lie = 0.6 if BAD.start <= t < BAD.stop else 1.0
        liar = Quote("liar", truth[t] * lie, HOUR * t)
        return [*_honest(truth[t], t, SOURCES - 1), liar] if defended else [liar]

    price, _ = _venue_price(truth, heard, setting.policy if defended else _oracle(setting.policy, quorum=1))
    share = _liquidated_share(_crowd_run(price, truth, setting))
    error = float(np.abs(price / truth - 1).max())
    return Outcome(
        name="lying_source",
        done=f"one of {SOURCES} sources quotes 40 % less for 6 h",
        defence="the price is the median of the sources",
        expectation=f"the price errs by no more than the worst honest source ({100 * 2 * ERROR:g} %); nobody is liquidated",
        measured={"largest_error": error, "liquidated_share_of_oi": share},
        holds=share == 0 and error <= 2 * ERROR,
    )


def flash_print(setting: Setting, defended: bool) -> Outcome:
    """The venue's own last price prints 35 % less for an instant, and in the same hour comes back."""
    truth = _quiet(setting)
    path = path_of(truth, SIGMA, DAILY_VOLUME)
    last = path.last.copy()
    last[BAD.start, 2] *= 0.65
    path = replace(path, last=last, mark=path.mark if defended else last)
    result = simulate(path, flat_margins(IM, HOURS), crowd(setting, HOURS), setting.venue)
    share = _liquidated_share(result)
    return Outcome(
        name="flash_print",
        done="the venue's last price prints 35 % less within one bar and comes back",
        defence="triggers read the mark, a median of outside sources, never the last price",
        expectation="nobody is liquidated",
        measured={"liquidated_share_of_oi": share},
        holds=share == 0,
    )


def _late(setting: Setting, params: Params) -> tuple[Floats, Floats, Flags]:
    """The oracle's price, the true one, and whether reducing only was allowed, where 0 to all sources are an hour late."""
    hours = 3000
    rng = np.random.default_rng(setting.seed)
    truth = gaussian_walk(np.full(hours, HOURLY), setting.seed)
    late = rng.integers(0, SOURCES + 1, hours)
    error = 1 + ERROR * rng.normal(size=(hours, SOURCES))

    def heard(t: int) -> list[Quote]:
        before = max(t - 1, 0)
        return [
            Quote(
                f"{k}",
                (truth[before] if k < late[t] else truth[t]) * error[t, k],
                HOUR * (before if k < late[t] else t),
            )
            for k in range(SOURCES)
        ]

    price, closed = _venue_price(truth, heard, params)
    return price, truth, closed


def _exit_option(price: Floats, truth: Floats, closed: Flags, quorum: Flags | None, setting: Setting) -> float:
    """Gain, bps of notional, of a long and a short opened just before each loss of the quorum: the side that the true
    price hurts asks to be closed at once, the other when the quorum is back. 0 without any loss of it.
    """
    openings = np.flatnonzero(~closed)
    before = openings[:-1][np.diff(openings) > 1]
    if not len(before):
        return 0.0
    back = openings[np.searchsorted(openings, before + 1)]
    fell = truth[before + 1] < price[before]
    leave = np.concatenate([np.where(fell, before + 1, back), np.where(fell, back, before + 1)])
    people = people_of(np.repeat([1.0, -1.0], len(before)), 2.0, len(price), np.tile(before, 2), leave)
    return _gain_bps(_run(price, truth, people, setting, quorum), people, setting)


def _gain_bps(result: VenueResult, people: Population, setting: Setting) -> float:
    """What the accounts took out, over the notional they opened, all of one size."""
    size = DAILY_VOLUME * setting.venue.population.open_interest_days / people.slots
    return 1e4 * gain_usd(result) / (result.tally["entered"] * size)


def _quiet(setting: Setting) -> Floats:
    return gaussian_walk(np.full(HOURS, QUIET), setting.seed)


def _honest(price: float, t: int, count: int) -> list[Quote]:
    """Sources spread evenly within two standard errors of the truth."""
    return [
        Quote(f"{k}", price * (1 + ERROR * offset), HOUR * t)
        for k, offset in enumerate(np.linspace(-2, 2, count).tolist())
    ]


def _oracle(params: Params, **changes: float) -> Params:
    """The pack with other constants of the oracle: how a defence is switched off."""
    return replace(params, oracle=replace(params.oracle, **changes))  # type: ignore[arg-type]


def _venue_price(truth: Floats, heard: Heard, params: Params) -> tuple[Floats, Flags]:
    """The oracle's price at each hour's end, and whether it allowed reducing only."""
    price, closed = np.empty(len(truth)), np.zeros(len(truth), np.bool_)
    last = float(truth[0])
    for t in range(len(truth)):
        reading = read_price(heard(t), HOUR * t, last, params)
        price[t] = last = reading.price
        closed[t] = reading.reduce_only
    return price, closed


def _run(
    price: Floats, truth: Floats, people: Population, setting: Setting, quorum: Flags | None = None
) -> VenueResult:
    """The venue with the oracle's price as its mark; without ``quorum`` (T,) it takes every one for a good price."""
    believed, real = (path_of(x, SIGMA, DAILY_VOLUME) for x in (price, truth))
    path: Path = replace(real, mark=believed.mark).with_market(quorum=quorum)
    return simulate(path, flat_margins(IM, len(truth)), people, setting.venue.replace(fund={"size_share": 0.0}))


def _crowd_run(price: Floats, truth: Floats, setting: Setting) -> VenueResult:
    return _run(price, truth, crowd(setting, len(truth)), setting)


def _liquidated_share(result: VenueResult) -> float:
    return result.tally["liquidated"] / MICRO / float(result.open_interest.max())
