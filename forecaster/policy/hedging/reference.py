"""The hedge of the reference portfolio, one long unit of the symbol, for every line of a schedule.

Bought puts and a short perpetual compete. A put whose cap is one unit, or a short of at most one unit, leaves the
loss falling in the price, so the worst draws stay the worst: the shortfall is linear in the quantity, and the linear
programme of ``protection`` with one instrument has the closed form (shortfall - budget) / (mean pay-off in the tail).
All is in units of the reference: spot 1, quantities in thousandths of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .delta import half_width
from .greeks import PUT, YEAR_HOURS, greeks
from .params import HedgingParams
from .protection import INFEASIBLE
from .scenarios import predictive_draws, tail_weights, with_stress

__all__ = ["BEYOND", "REASONS", "UNHEDGED", "HedgeInputs", "Hedges", "described", "hedge_of", "hedges_of"]

Floats = npt.NDArray[np.float64]

HORIZON: Final = 24
PPM: Final = 1_000_000
# Few enough that the draws of a chunk stay in the cache.
CHUNK: Final = 512

NONE, PUTS, PERPETUAL = 0, 1, 2
INSTRUMENTS: Final = ("none", "put", "perpetual")
WITHIN, PUT_CHEAPER, PERP_CHEAPER, NO_IV, WORTHLESS, UNUSABLE, BEYOND = range(7)
REASONS: Final = (
    "the expected shortfall is within its budget",
    "puts meet the budget at the lower expected cost",
    "a short perpetual meets the budget at the lower expected cost",
    "a short perpetual: puts cannot meet the budget here or have no implied volatility",
    "the hedge would cost more than the shortfall it avoids",
    "no usable forecast",
    f"{INFEASIBLE}: the largest lawful hedge misses the budget",
)
# Instrument, strike, quantity, band, cost, avoided shortfall, reason: the record where there never was a forecast.
UNHEDGED: Final = (NONE, 0, 0, 0, 0, 0, UNUSABLE)


@dataclass(frozen=True)
class HedgeInputs:
    """What n lines know, arrays (n,) unless noted."""

    returns: Floats  # (n, 11) quantiles of the 24 h log return at models.base.RETURN_LEVELS
    sigma: Floats  # forecast volatility, annual
    implied: Floats  # implied volatility, annual; NaN where none is known
    stress_move: Floats  # worst 24 h fall on record, a fraction; NaN where none is known
    short_funding: Floats  # what a short pays in funding over 24 h, a fraction; NaN counts as nothing
    daily_volume_usd: Floats  # NaN: nothing can be traded
    usable: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.sigma)

    def take(self, rows: Any) -> HedgeInputs:
        """The lines of an index or a mask."""
        return HedgeInputs(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True)
class Hedges:
    """The hedges of n lines, integer arrays (n,), and what they rest on."""

    instrument: npt.NDArray[np.int64]
    strike_ppm: npt.NDArray[np.int64]
    quantity_milli: npt.NDArray[np.int64]
    band_ppm: npt.NDArray[np.int64]
    cost_usd: npt.NDArray[np.int64]
    avoided_es_usd: npt.NDArray[np.int64]
    reason: npt.NDArray[np.int64]
    infeasible: npt.NDArray[np.bool_]
    least_budget: Floats  # shortfall that the largest lawful hedge leaves; NaN without a usable forecast

    def __len__(self) -> int:
        return len(self.instrument)

    def objects(self) -> Iterator[dict[str, int | str]]:
        """The ``hedge`` objects of the schedule, in order."""
        return map(described, self.table.tolist())

    @property
    def table(self) -> npt.NDArray[np.int64]:
        """The published numbers as one record a line (n, 7), in the order of ``UNHEDGED``."""
        columns = (self.instrument, self.strike_ppm, self.quantity_milli, self.band_ppm, self.cost_usd)
        return np.column_stack([*columns, self.avoided_es_usd, self.reason])


@dataclass(frozen=True)
class _Offer:
    """One way to meet the budget, arrays (n,): units, cost, expected net cost, avoided shortfall, and gamma."""

    units: Floats
    cost: Floats
    net: Floats
    avoided: Floats
    sensitivity: Floats
    lawful: npt.NDArray[np.bool_]


def described(record: Sequence[int]) -> dict[str, int | str]:
    """The ``hedge`` object of one record of ``Hedges.table``."""
    kind, strike, quantity, band, cost, avoided, reason = record
    return {
        "avoided_es_usd": avoided,
        "band_ppm": band,
        "cost_usd": cost,
        "instrument": f"put-{HORIZON}h-{strike}ppm" if kind == PUTS else INSTRUMENTS[kind],
        "quantity_milli": quantity,
        "reason": REASONS[reason],
    }


def hedge_of(inputs: HedgeInputs, params: HedgingParams) -> tuple[dict[str, int | str], bool]:
    """The ``hedge`` object of one line (n = 1) and whether its budget is infeasible."""
    made = hedges_of(inputs, params)
    return next(made.objects()), bool(made.infeasible[0])


def hedges_of(inputs: HedgeInputs, params: HedgingParams) -> Hedges:
    """The hedge of every line; a line depends on its own inputs alone.

    The shortfall at ``level`` over the forecast's draws and the stress move must come within ``budget``. Where it
    does not: of the puts (one strike, expiring with the horizon, where an implied volatility is known) and the
    short perpetual that meet it, the one with the lower expected net cost, if it avoids more shortfall than it
    costs. Where neither can, the largest lawful short, flagged. Quantities round away from zero, costs up, avoided
    shortfall and bands down.
    """
    parts = [_hedge(inputs.take(slice(i, i + CHUNK)), params) for i in range(0, len(inputs), CHUNK)]
    if not parts:
        parts = [_hedge(inputs, params)]
    return Hedges(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Hedges)})


def _hedge(inputs: HedgeInputs, params: HedgingParams) -> Hedges:
    n = len(inputs)
    usable = (
        inputs.usable & np.isfinite(inputs.returns).all(axis=1) & (np.diff(inputs.returns, axis=1) >= 0).all(axis=1)
    )
    # An unusable line is computed on a law of zeros and overruled below.
    quantiles = np.where(usable[:, None], inputs.returns, 0.0)
    draws, weights = predictive_draws(quantiles)
    moves = np.log1p(-np.clip(inputs.stress_move, 0.0, 1 - 1e-9))[:, None]
    draws, mass = with_stress(draws, weights, moves, params.stress_weight)
    change = np.expm1(draws)
    tail = tail_weights(-change, mass, params.level)
    shortfall = -(tail * change).sum(axis=1)
    gap = np.maximum(shortfall - params.budget, 0.0)
    perp, room = _perpetual(inputs, shortfall, gap, params)
    # The stress move says what must be survived, not what is likely: it takes no part in a put's expected pay-off.
    likely = np.append(weights, 0.0)
    put, strike = _puts(inputs, change, likely, tail, gap, params)
    put_wins = put.lawful & (~perp.lawful | (put.net < perp.net))
    over, infeasible = gap > 0, ~perp.lawful & ~put.lawful
    both = {f.name: np.where(put_wins, getattr(put, f.name), getattr(perp, f.name)) for f in fields(_Offer)}
    best = _Offer(**both)
    worth = best.avoided > best.cost
    kind = np.select([~usable, ~over, ~worth, put_wins], [NONE, NONE, NONE, PUTS], PERPETUAL)
    reason = np.select(
        [~usable, ~over, infeasible, ~worth, put_wins, put.lawful],
        [UNUSABLE, WITHIN, BEYOND, WORTHLESS, PUT_CHEAPER, PERP_CHEAPER],
        NO_IV,
    )
    active = kind != NONE
    band = half_width(params.trade_cost, 1.0, best.sensitivity, params.risk_aversion)
    sign = np.where(kind == PUTS, 1, -1)
    return Hedges(
        instrument=kind.astype(np.int64),
        strike_ppm=np.where(kind == PUTS, np.rint(strike * PPM), 0).astype(np.int64),
        quantity_milli=_whole(np.where(active, sign * np.ceil(best.units * 1000 - 1e-9), 0), n),
        band_ppm=_whole(np.where(active, np.floor(band * PPM), 0), n),
        cost_usd=_whole(np.where(active, np.ceil(best.cost * params.notional_usd), 0), n),
        avoided_es_usd=_whole(np.where(active, np.floor(best.avoided * params.notional_usd), 0), n),
        reason=reason.astype(np.int64),
        infeasible=usable & over & infeasible,
        least_budget=np.where(usable, np.minimum(shortfall * (1 - room), shortfall), np.nan),
    )


def _whole(values: Floats, n: int) -> npt.NDArray[np.int64]:
    return np.asarray(np.broadcast_to(values, (n,)), dtype=np.int64)


def _perpetual(inputs: HedgeInputs, shortfall: Floats, gap: Floats, params: HedgingParams) -> tuple[_Offer, Floats]:
    """The short that brings the shortfall to the budget, or the largest there is room for; and that room."""
    volume = np.nan_to_num(inputs.daily_volume_usd)
    room = np.clip(params.participation * volume / params.notional_usd, 0.0, 1.0)
    need = np.divide(gap, shortfall, out=np.zeros_like(gap), where=shortfall > 0)
    units = np.minimum(need, room)
    gas = 2 * params.gas_usd / params.notional_usd * (units > 0)
    cost = np.maximum(units * (2 * params.trade_cost + np.nan_to_num(inputs.short_funding)), 0.0) + gas
    # The holding moves with the forecast, not with the price: d<phi>/d<S> = ((1 - units) * volvol / (sigma S))^2.
    ratio = np.divide(params.vol_of_vol, inputs.sigma, out=np.zeros_like(gap), where=inputs.sigma > 0)
    offer = _Offer(units, cost, cost, units * shortfall, (1 - units) * ratio, need <= room)
    return offer, room


def _puts(
    inputs: HedgeInputs, change: Floats, likely: Floats, tail: Floats, gap: Floats, params: HedgingParams
) -> tuple[_Offer, Floats]:
    """The strike with the least expected net cost, and that strike; not lawful where no strike meets all limits."""
    known = inputs.implied > 0
    implied = np.where(known, inputs.implied, 1.0)
    deviation = implied * np.sqrt(HORIZON / YEAR_HOURS)
    steps = np.asarray(params.put_steps)[None, :]
    strikes = np.exp(-steps * deviation[:, None])
    quoted = implied[:, None] * (1 + params.iv_markup + params.iv_skew * steps)
    ask = greeks(PUT, 1.0, strikes, float(HORIZON), quoted)
    price = ask.price + np.minimum(params.option_fee, params.option_fee_cap * ask.price)
    payoff = np.maximum(strikes[:, :, None] - 1 - change[:, None, :], 0.0)
    in_tail, fair = np.einsum("njm,nm->nj", payoff, tail), payoff @ likely
    units = np.full_like(strikes, np.inf)
    np.divide(np.broadcast_to(gap[:, None], strikes.shape), in_tail, out=units, where=in_tail > 0)
    lawful = known[:, None] & (units <= params.put_cap)
    units = np.where(lawful, units, 0.0)
    lawful &= (units * ask.gamma * 0.01 <= params.gamma_max) & (units * ask.vega * 0.01 >= params.vega_min)
    cost = units * price + params.gas_usd / params.notional_usd
    net = np.where(lawful, cost - units * fair, np.inf)
    at = net.argmin(axis=1)[:, None]

    def pick(x: Floats) -> Floats:
        return np.asarray(np.take_along_axis(x, at, axis=1)[:, 0])

    offer = _Offer(
        units=pick(units),
        cost=pick(cost),
        net=pick(net),
        avoided=pick(units * in_tail),
        sensitivity=pick(units * ask.gamma),
        lawful=np.asarray(np.take_along_axis(lawful, at, axis=1)[:, 0]),
    )
    return offer, pick(strikes)
