"""Protective puts bought by linear programme under a budget of expected shortfall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import UsageError

from .greeks import PUT, greeks
from .scenarios import expected_shortfall

__all__ = ["INFEASIBLE", "Allocation", "Limits", "Menu", "allocate", "floor_probabilities", "put_menu"]

Floats = npt.NDArray[np.float64]

INFEASIBLE: Final = "HEDGE_INFEASIBLE"
# A programme solved to this tolerance, a share of the largest loss, must not fail its own constraint by rounding.
TOLERANCE: Final = 1e-9


@dataclass(frozen=True)
class Menu:
    """What can be bought: J instruments, per unit of each; pay-offs over m draws."""

    payoffs: Floats  # (m, J)
    price: Floats  # (J,) ask and gas
    gamma: Floats  # (J,)
    vega: Floats  # (J,)
    cap: Floats  # (J,) most units of each


@dataclass(frozen=True)
class Limits:
    """Bounds of the programme: CVaR at ``level`` within ``budget``, |gamma| and vega of book
    and purchase together; an infinite one binds nothing.
    """

    budget: float
    level: float
    gamma_max: float
    vega_min: float
    book_gamma: float = 0.0
    book_vega: float = 0.0


@dataclass(frozen=True)
class Allocation:
    """The programme's answer. Nothing is bought where it is infeasible or not worth its cost.

    ``least_budget`` is the budget where that is feasible, else the smallest one that the menu can meet (NaN where gamma
    or vega alone forbid every purchase); ``break_even`` the probability of the tail event at which the purchase pays
    for itself, cost / avoided shortfall.
    """

    quantity: Floats
    cost: float
    shortfall_before: float
    shortfall_after: float
    feasible: bool
    bought: bool
    least_budget: float
    break_even: float

    @property
    def avoided(self) -> float:
        """Expected shortfall taken away by the purchase."""
        return self.shortfall_before - self.shortfall_after

    @property
    def reason(self) -> str:
        """HEDGE_INFEASIBLE, or nothing."""
        return "" if self.feasible else INFEASIBLE


def put_menu(
    spot: float,
    strikes: Floats,
    hours: float,
    iv_ask: npt.ArrayLike,
    returns: Floats,
    *,
    fee: float,
    fee_cap: float,
    gas: float,
    cap: npt.ArrayLike,
) -> Menu:
    """Puts (J,) that expire with the draws' horizon, at BSM value of the ask volatility plus fee and gas.

    ``fee`` is a fraction of the underlying, at most ``fee_cap`` of the put's value; ``gas`` is per unit bought.
    """
    each = greeks(PUT, spot, strikes, hours, iv_ask)
    fees = np.minimum(fee * spot, fee_cap * each.price)
    payoffs = np.maximum(strikes[None, :] - spot * np.exp(returns)[:, None], 0.0)
    most = np.broadcast_to(np.asarray(cap, dtype=np.float64), strikes.shape)
    return Menu(payoffs, each.price + fees + gas, each.gamma, each.vega, most)


def allocate(losses: Floats, weights: Floats, menu: Menu, limits: Limits) -> Allocation:
    """Cheapest purchase x that keeps CVaR(losses - payoffs @ x) within the budget.

    min price·x over 0 <= x <= cap with |book_gamma + gamma·x| <= gamma_max, book_vega + vega·x >= vega_min, and the
    shortfall as eta + sum(w u) / (1 - level) <= budget, u >= losses - payoffs @ x - eta, u >= 0 (Rockafellar and
    Uryasev 2000, *Journal of Risk* 2, 21–41), solved by HiGHS over losses (m,) with weights that sum to 1. An
    infeasible budget is never relaxed: a second programme finds the least feasible one, and nothing is bought.

    Raises UsageError where the solver stops for another reason than the problem's own.
    """
    before = _shortfall(losses, weights, limits)
    idle = np.zeros(len(menu.price))
    solved = _solve(losses, weights, menu, limits, cheapest=True)
    if solved is None:
        least = _solve(losses, weights, menu, limits, cheapest=False)
        floor = float("nan") if least is None else _shortfall(losses - menu.payoffs @ least, weights, limits)
        return Allocation(idle, 0.0, before, before, False, False, floor, float("nan"))
    cost = float(menu.price @ solved)
    after = _shortfall(losses - menu.payoffs @ solved, weights, limits)
    avoided = before - after
    worth = avoided > cost
    quantity = solved if worth else idle
    break_even = cost / avoided if avoided > 0 else float("nan")
    return Allocation(
        quantity=quantity,
        cost=cost if worth else 0.0,
        shortfall_before=before,
        shortfall_after=after if worth else before,
        feasible=True,
        bought=bool(worth),
        least_budget=limits.budget,
        break_even=break_even,
    )


def floor_probabilities(
    losses: Floats, weights: Floats, menu: Menu, quantity: Floats, floors: npt.ArrayLike
) -> pd.DataFrame:
    """P(loss <= floor) without and with ``quantity`` (J,) of the menu, its price paid, one row a floor.

    Over losses (m,) with weights that sum to 1. Columns: floor, bare, protected; the price of protection makes the
    small floors less likely to hold and the far ones more.
    """
    limits = np.asarray(floors, dtype=np.float64)
    paid = losses - menu.payoffs @ quantity + menu.price @ quantity
    held = {name: (result <= limits[:, None]) @ weights for name, result in (("bare", losses), ("protected", paid))}
    return pd.DataFrame({"floor": limits, **held})


def _shortfall(losses: Floats, weights: Floats, limits: Limits) -> float:
    return float(expected_shortfall(losses[None, :], weights[None, :], limits.level)[0])


def _solve(losses: Floats, weights: Floats, menu: Menu, limits: Limits, *, cheapest: bool) -> Floats | None:
    """x of the cheapest purchase within the budget, or of the least shortfall at any price; None if there is none."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_array, eye_array, hstack, vstack

    m, j = menu.payoffs.shape
    # The solver's tolerances are absolute: in USD a coin of a millionth of a dollar would meet any budget.
    scale = max(float(np.abs(losses).max()), float(menu.payoffs.max(initial=0.0))) or 1.0
    payoffs, price = menu.payoffs / scale, menu.price / scale
    tail = np.concatenate([np.zeros(j), [1.0], weights / (1 - limits.level)])
    excess = hstack([csr_array(-payoffs), csr_array(np.full((m, 1), -1.0)), -eye_array(m)])
    greek = np.zeros((3, j + 1 + m))
    greek[0, :j], greek[1, :j], greek[2, :j] = menu.gamma, -menu.gamma, -menu.vega
    room = np.array(
        [limits.gamma_max - limits.book_gamma, limits.gamma_max + limits.book_gamma, limits.book_vega - limits.vega_min]
    )
    bounded = np.isfinite(room)  # an infinite limit is none
    largest = np.abs(greek[bounded]).max(axis=1, keepdims=True)
    unit = np.where(largest > 0, largest, 1.0)
    rows = [excess, csr_array(greek[bounded] / unit)]
    bounds = [-losses / scale, room[bounded] / unit[:, 0]]
    if cheapest:
        rows.append(csr_array(tail[None, :]))
        bounds.append(np.array([limits.budget / scale + TOLERANCE]))
    objective = np.concatenate([price, np.zeros(1 + m)]) if cheapest else tail
    result = linprog(
        objective,
        A_ub=vstack(rows, format="csr"),
        b_ub=np.concatenate(bounds),
        bounds=[*((0.0, most) for most in menu.cap.tolist()), (None, None), *([(0.0, None)] * m)],
        method="highs",
    )
    if result.status == 2:
        return None
    if result.status != 0:
        raise UsageError(f"the put programme stopped: {result.message}; check that prices, caps and losses are numbers")
    return np.clip(np.asarray(result.x, dtype=np.float64)[:j], 0.0, menu.cap)
