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
    least_budget: Floats  # the budget, or the least one that a lawful hedge meets; NaN without a usable forecast

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
    """One way to meet the budget, or to come as near as is lawful, arrays (n,).

    Units in whole thousandths, their cost, expected net cost, avoided shortfall and gamma, and whether they meet it.
    """

    units: Floats
    cost: Floats
    net: Floats
    avoided: Floats
    sensitivity: Floats
    meets: npt.NDArray[np.bool_]


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
    costs. Where neither can, the lawful one that avoids the most, flagged. Quantities round away from zero as far as
    limits allow, and the rest is that of the rounded quantity: costs round up, avoided shortfall and bands down.
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
    # The stress move says what must be survived, not what is likely: it takes no part in an expected pay-off.
    likely = np.append(weights, 0.0)
    perp = _perpetual(inputs, shortfall, gap, (likely * change).sum(axis=1), params)
    put, strike = _puts(inputs, change, likely, tail, gap, params)
    neither = ~perp.meets & ~put.meets
    put_wins = np.where(neither, put.avoided > perp.avoided, put.meets & (~perp.meets | (put.net < perp.net)))
    over = gap > 0
    both = {f.name: np.where(put_wins, getattr(put, f.name), getattr(perp, f.name)) for f in fields(_Offer)}
    best = _Offer(**both)
    worth = best.avoided > best.cost
    kind = np.select([~usable, ~over, ~worth, put_wins], [NONE, NONE, NONE, PUTS], PERPETUAL)
    reason = np.select(
        [~usable, ~over, neither, ~worth, put_wins, put.meets],
        [UNUSABLE, WITHIN, BEYOND, WORTHLESS, PUT_CHEAPER, PERP_CHEAPER],
        NO_IV,
    )
    active = kind != NONE
    band = half_width(params.trade_cost, 1.0, best.sensitivity, params.risk_aversion)
    sign = np.where(kind == PUTS, 1, -1)
    return Hedges(
        instrument=kind.astype(np.int64),
        strike_ppm=np.where(kind == PUTS, np.rint(strike * PPM), 0).astype(np.int64),
        quantity_milli=_whole(np.where(active, sign * np.rint(best.units * 1000), 0), n),
        band_ppm=_whole(np.where(active, np.floor(band * PPM), 0), n),
        cost_usd=_whole(np.where(active, np.ceil(best.cost * params.notional_usd), 0), n),
        avoided_es_usd=_whole(np.where(active, np.floor(best.avoided * params.notional_usd), 0), n),
        reason=reason.astype(np.int64),
        infeasible=usable & over & neither,
        least_budget=np.where(usable, np.where(over & neither, shortfall - best.avoided, params.budget), np.nan),
    )


def _whole(values: Floats, n: int) -> npt.NDArray[np.int64]:
    return np.asarray(np.broadcast_to(values, (n,)), dtype=np.int64)


def _at_least(units: Floats) -> Floats:
    return np.asarray(np.ceil(units * 1000 - 1e-9) / 1000)


def _at_most(units: Floats) -> Floats:
    return np.asarray(np.floor(units * 1000 + 1e-9) / 1000)


def _perpetual(inputs: HedgeInputs, shortfall: Floats, gap: Floats, drift: Floats, params: HedgingParams) -> _Offer:
    """The short that brings the shortfall to the budget, or the largest there is room for.

    ``drift`` is the expected change of the price, which a short pays as a put gets its expected pay-off.
    """
    volume = np.nan_to_num(inputs.daily_volume_usd)
    room = np.clip(params.participation * volume / params.notional_usd, 0.0, 1.0)
    most = _at_most(room)
    need = _at_least(np.divide(gap, shortfall, out=np.zeros_like(gap), where=shortfall > 0))
    units = np.minimum(need, most)
    gas = 2 * params.gas_usd / params.notional_usd * (units > 0)
    held = units * (2 * params.trade_cost + np.nan_to_num(inputs.short_funding))
    cost = np.maximum(held, 0.0) + gas
    # The holding moves with the forecast, not with the price: d<phi>/d<S> = ((1 - units) * volvol / (sigma S))^2.
    ratio = np.divide(params.vol_of_vol, inputs.sigma, out=np.zeros_like(gap), where=inputs.sigma > 0)
    return _Offer(units, cost, held + gas + units * drift, units * shortfall, (1 - units) * ratio, need <= most)


def _puts(
    inputs: HedgeInputs, change: Floats, likely: Floats, tail: Floats, gap: Floats, params: HedgingParams
) -> tuple[_Offer, Floats]:
    """Of the strikes that meet the budget the one with the least expected net cost, else the one that avoids the most;
    and that strike."""
    known = np.isfinite(inputs.implied) & (inputs.implied > 0)
    implied = np.where(known, inputs.implied, 1.0)
    deviation = implied * np.sqrt(HORIZON / YEAR_HOURS)
    steps = np.asarray(params.put_steps)[None, :]
    strikes = np.exp(-steps * deviation[:, None])
    quoted = implied[:, None] * (1 + params.iv_markup + params.iv_skew * steps)
    ask = greeks(PUT, 1.0, strikes, float(HORIZON), quoted)
    price = ask.price + np.minimum(params.option_fee, params.option_fee_cap * ask.price)
    payoff = np.maximum(strikes[:, :, None] - 1 - change[:, None, :], 0.0)
    in_tail, fair = np.einsum("njm,nm->nj", payoff, tail), payoff @ likely
    need = np.full_like(strikes, np.inf)
    np.divide(np.broadcast_to(gap[:, None], strikes.shape), in_tail, out=need, where=in_tail > 0)
    steepest = np.full_like(strikes, np.inf)
    np.divide(params.gamma_max, ask.gamma * 0.01, out=steepest, where=ask.gamma > 1e-12)
    need, most = _at_least(need), _at_most(np.minimum(steepest, params.put_cap))
    units = np.minimum(need, most)
    units = np.where(known[:, None] & (units * ask.vega * 0.01 >= params.vega_min), units, 0.0)
    meets = (units > 0) & (units >= need)
    cost = units * price + params.gas_usd / params.notional_usd * (units > 0)
    avoided, net = units * in_tail, np.where(meets, cost - units * fair, np.inf)
    at = np.where(np.any(meets, axis=1, keepdims=True), net, -avoided).argmin(axis=1)[:, None]

    def pick(x: Floats) -> Floats:
        return np.asarray(np.take_along_axis(x, at, axis=1)[:, 0])

    offer = _Offer(
        units=pick(units),
        cost=pick(cost),
        net=pick(net),
        avoided=pick(avoided),
        sensitivity=pick(units * ask.gamma),
        meets=np.asarray(np.take_along_axis(meets, at, axis=1)[:, 0]),
    )
    return offer, pick(strikes)
