"""A policy's margins and a population meet one symbol's market: from frozen inputs to a frozen result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from features.errors import UsageError

from . import kernels as k
from .margins import PPM, Margins
from .params import ADL_METHODS, VenueParams
from .path import DAY, Path
from .population import Population
from .state import Arrivals, Bars, Rules, State

__all__ = ["VenueResult", "fills", "simulate"]

LOT_MICRO_USD: Final = 10_000.0  # one lot is worth a cent at the first bar's open


@dataclass(frozen=True)
class VenueResult:
    """What one run of the venue gave; money in USD, series one value a bar.

    Attributes
    ----------
    balances
        Last balances in micro-USD: accounts, maker, junior, senior, fees, gas, liquidators; they sum to
        ``net_deposits``.
    tallies
        Running sums (T,) at each bar's end by name (see ``metrics``), micro-USD unless they count.
    open_interest, fund
        (T,) one side's open interest at the bar's open; the fund at its end.
    offset
        (T,) log of the lasting impact on the price of history.
    """

    symbol: str
    hours: npt.NDArray[np.int64]
    balances: dict[str, int]
    net_deposits: int
    open_interest: npt.NDArray[np.float64]
    tallies: dict[str, npt.NDArray[np.float64]]
    fund: npt.NDArray[np.float64]
    offset: npt.NDArray[np.float64]

    @property
    def tally(self) -> dict[str, float]:
        """Sums over the run by name."""
        return {name: float(running[-1]) for name, running in self.tallies.items()}

    @property
    def liquidated(self) -> npt.NDArray[np.float64]:
        """(T,) notional liquidated in each bar, USD."""
        return np.diff(self.tallies["liquidated"], prepend=0.0) / k.MICRO

    @property
    def shortfall(self) -> npt.NDArray[np.float64]:
        """(T,) fund draws and bad debt of each bar, USD."""
        return np.diff(self.tallies["drawn"] + self.tallies["bad_debt"], prepend=0.0) / k.MICRO


def simulate(path: Path, margins: Margins, population: Population, params: VenueParams) -> VenueResult:
    """Replay ``path`` under ``margins`` for the accounts of ``population``.

    Raises UsageError where the three do not cover the same bars. Conservation of money and of lots is checked
    at every bar; a violation raises RuntimeError, for it would be an error of this program.
    """
    if len(margins) != len(path):
        raise UsageError(f"{path.symbol}: margins of {len(margins)} bars for a path of {len(path)}; make them alike")
    if population.hours <= path.hours[-1]:
        raise UsageError(
            f"{path.symbol}: the population ends after {population.hours} hours, the path lasts {path.hours[-1] + 1}; "
            "draw it for at least as many"
        )
    bars = _bars(path, margins, population, params)
    state = _state(population, bars, params)
    series = np.zeros((len(path), k.SERIES))
    tallies = np.zeros((len(path), len(k.TALLIED)))
    broken = k.run(state, bars, _arrivals(population), _rules(params, state), series, tallies)
    if broken >= 0:
        raise RuntimeError(f"{path.symbol}: conservation broken at bar {broken}")
    names = ("maker", "junior", "senior", "fees", "gas", "liquidators")
    balances = {"accounts": int(state.cash.sum())} | {name: int(state.purse[i]) for i, name in enumerate(names)}
    dollars = series / k.MICRO
    return VenueResult(
        symbol=path.symbol,
        hours=path.hours,
        balances=balances,
        net_deposits=int(state.purse[k.DEPOSITS]),
        open_interest=dollars[:, k.OPEN_INTEREST],
        tallies=dict(zip(k.TALLIED, tallies.T.copy(), strict=True)),
        fund=dollars[:, k.FUND],
        offset=series[:, k.OFFSET],
    )


def fills(path: Path, sales: Sequence[float], params: VenueParams) -> list[float]:
    """Prices over the mark at which sales (USD; below 0: purchases) fill, one right after another at a path's first open.

    What liquidations pay: half the spread and the square-root law, each sale on the depth that those before it left.
    """
    people = Population.draw(replace(params.population, slots=1), int(path.hours[-1]) + 1)
    bars = _bars(path, Margins.constant(1.0, len(path)), people, params)
    state, mark = _state(people, bars, params), float(bars.mark[0, 0])
    rules, out = _rules(params, state), []
    for usd in sales:
        lots = round(usd * k.MICRO / mark)
        price, flow = k._fill(state, bars, rules, 0, lots, mark, float(bars.last[0, 0]))
        k._push(state, bars, rules, 0, flow)
        out.append(price / mark)
    return out


def _bars(path: Path, margins: Margins, population: Population, params: VenueParams) -> Bars:
    price = LOT_MICRO_USD / path.mark[0, 0]
    volume = path.volume * k.MICRO
    capital = params.liquidators.capital_share * volume * path.liquidators
    return Bars(
        hour=path.hours,
        mark=path.mark * price,
        last=path.last * price,
        funding=path.funding,
        sigma=path.sigma,
        depth=volume * path.depth_scale * path.sigma_usual / path.sigma,
        unit=volume * params.population.open_interest_days / (population.slots * population.occupancy),
        capital=np.repeat(capital[:, None], len(params.liquidators.latency_minutes), axis=1),
        quorum=path.quorum,
        lowest=_day_ahead(path.mark[:, 2]).min(axis=1) * price,
        highest=_day_ahead(path.mark[:, 1]).max(axis=1) * price,
        im=margins.im / PPM,
        mm=margins.mm / PPM,
        allowed=margins.allowed / PPM,
        penalty=margins.penalty / PPM,
    )


def _day_ahead(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Each bar and the 24 after it, (T, 25): for the verdict on a liquidation afterwards, never for a decision."""
    return np.lib.stride_tricks.sliding_window_view(np.append(x, np.full(DAY, x[-1])), DAY + 1)


def _state(population: Population, bars: Bars, params: VenueParams) -> State:
    slots = population.slots
    fund = math.floor(params.fund.size_share * bars.unit[0] * slots * population.occupancy)
    purse, book = np.zeros(8, np.int64), np.zeros(9)
    purse[k.JUNIOR] = math.floor(fund * params.fund.junior_share)
    purse[k.SENIOR] = fund - purse[k.JUNIOR]
    purse[k.DEPOSITS] = fund
    book[k.LASTING] = 1.0
    book[k.REFERENCE] = book[k.PREVIOUS] = bars.mark[0, 0]

    def floats(value: float = 0.0) -> npt.NDArray[np.float64]:
        return np.full(slots, value)

    def integers() -> npt.NDArray[np.int64]:
        return np.zeros(slots, np.int64)

    return State(
        cash=integers(), lots=integers(), entry=floats(), leave=integers(), mm=floats(), mm_before=floats(),
        mm_least=floats(), below=floats(), above=floats(np.inf), topups=integers(),
        deleverages=np.zeros(slots, np.bool_), twin=floats(), leg=integers(), done=floats(),
        fallen=np.zeros(slots, np.bool_), offer=floats(),
        elapsed=floats(), frozen=floats(), capital=np.zeros(bars.capital.shape[1]),
        asked=np.zeros(bars.capital.shape[1]), hits=integers(), depth=floats(), purse=purse, book=book,
        tally=np.zeros(len(k.TALLIED)),
    )  # fmt: skip


def _arrivals(population: Population) -> Arrivals:
    return Arrivals(*(getattr(population, name) for name in Arrivals._fields))


def _rules(params: VenueParams, state: State) -> Rules:
    rule, impact, people, auction = params.liquidation, params.impact, params.liquidators, params.auction
    return Rules(
        restore=rule.restore_level,
        warning=rule.warning_level,
        release=rule.release_level,
        backstop=rule.backstop_level,
        topup_level=rule.topup_level,
        topups=rule.topups,
        step_share=rule.step_share,
        step_move=rule.step_move,
        participation=rule.participation,
        step_least=rule.step_least_usd * k.MICRO,
        dust=rule.dust_usd * k.MICRO,
        penalty_cap=rule.penalty_cap,
        rounds=min(rule.rounds, int(60 * k.LEG_MINUTES / rule.cooldown_seconds)),
        adverse_first=rule.adverse_first,
        auction=rule.auction,
        impact=impact.coefficient,
        spread=impact.spread,
        transient=impact.transient_share,
        permanent=impact.permanent_share,
        half_life=impact.half_life_hours,
        slip_cap=impact.slip_cap,
        print_band=impact.print_band,
        latency=np.array(people.latency_minutes),
        capital_charge=np.array(people.capital_charge),
        risk_charge=people.risk_charge,
        reward_share=people.reward_share,
        gas=round(people.gas_usd * k.MICRO),
        buffer=auction.buffer,
        cut=auction.cut,
        step_minutes=auction.step_minutes,
        tail_minutes=auction.tail_minutes,
        cusp=auction.cusp,
        chip=auction.chip,
        tip=auction.tip_usd * k.MICRO,
        senior_size=int(state.purse[k.SENIOR]),
        adl=ADL_METHODS.index(params.fund.adl),
        reduce_move=params.breakers.reduce_only_move,
        reduce_hours=params.breakers.reduce_only_hours,
        halt_move=params.breakers.halt_move,
        halt_hours=params.breakers.halt_hours,
        grace_hours=params.breakers.grace_hours,
        taker=params.fees.taker,
        fee_to_fund=params.fees.fund_share,
    )
