"""Size, hedge and collateral in one linear programme: what a wanted position costs under a budget of expected shortfall.

The cost is that of size given up, puts, the hedging perpetual, carry of collateral and borrowing. The margin is the
schedule's by tiers, convex and so linear here. P(ruin) is bounded through CVaR: CVaR at level 1 - a of (loss - collateral) at
most 0 implies P(loss >= collateral) <= a, and is the tightest convex bound of its kind (Nemirovski and Shapiro 2006, *SIAM
Journal on Optimization* 17(4), 969-996). Draws are of the horizon's end; by the reflection principle a path reaches a level
about twice as often as it ends beyond it, so a is half the permitted probability.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.errors import DataInvalid, UsageError
from forecaster.policy.accounts import deductions
from forecaster.policy.hedging.protection import INFEASIBLE, Menu
from forecaster.policy.hedging.scenarios import expected_shortfall
from forecaster.policy.types import PPM

from .params import PortfolioParams

__all__ = ["Draws", "Plan", "Terms", "carries", "frontier", "plan"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

SIZE, PERP, STABLE, VOLATILE, BORROWED = range(5)
FIRST_PUT: Final = 5


@dataclass(frozen=True)
class Draws:
    """Losses over the horizon per USD held, (m,), with weights that sum to 1."""

    weights: Floats
    position: Floats
    perp: Floats  # of the short perpetual that hedges
    volatile: Floats  # of the volatile collateral


@dataclass(frozen=True)
class Terms:
    """What is wanted, owned and charged; USD, and fractions of USD over the horizon."""

    wanted: float  # position
    least: float  # of it that must be kept
    forgone: float  # cost of each USD of the wanted size given up
    caps: Integers  # USD, tiers of the position's initial margin ...
    rates: Integers  # ... in ppm, never falling
    perp_margin: float  # of the hedging perpetual
    perp_cost: float  # of trading it
    perp_cap: float
    stable: float  # owned stable collateral
    volatile: float  # owned volatile collateral
    haircut: float  # of the volatile one
    borrow_cap: float
    stable_carry: float
    volatile_carry: float
    borrow_rate: float


@dataclass(frozen=True)
class Plan:
    """The answer, USD. Where it is infeasible all is NaN but ``least_budget``, the smallest budget that can be met (NaN
    where margin or ruin cannot be met at any budget); else that is the budget given.
    """

    size: float
    puts: Floats  # (J,) units of underlying worth 1 USD
    perp: float
    stable: float
    volatile: float
    borrowed: float
    cost: float
    shortfall: float
    ruin_shortfall: float  # CVaR of loss less collateral, at most 0
    feasible: bool
    least_budget: float

    @property
    def reason(self) -> str:
        """HEDGE_INFEASIBLE, or nothing."""
        return "" if self.feasible else INFEASIBLE


def carries(portfolio: PortfolioParams, hours: float) -> dict[str, float]:
    """The annual rates of the pack over a horizon, by their names in ``Terms``."""
    years = hours / 8760
    names = ("stable_carry", "volatile_carry", "borrow_rate")
    return {name: getattr(portfolio, name) * years for name in names}


def plan(draws: Draws, menu: Menu, terms: Terms, budget: float, level: float, ruin: float) -> Plan:
    """The cheapest size, hedge and collateral whose CVaR at ``level`` stays within ``budget`` USD, P(ruin) within ``ruin``.

    ``menu``: puts on underlying worth 1 USD; caps in USD. Premiums and trading costs are paid out of stable collateral.
    An infeasible budget is never relaxed: a second programme finds the least feasible one.

    Raises UsageError where ``wanted`` is not above 0, rates fall, or the solver stops for another reason than the
    problem's own; DataInvalid where a draw or a price is not a number.
    """
    if not terms.wanted > 0 or (np.diff(terms.rates) < 0).any():
        raise UsageError(
            "the programme needs a wanted size above 0 and margin rates that never fall; correct the terms"
        )
    parts = {"position": draws.position, "perp": draws.perp, "volatile": draws.volatile, "weights": draws.weights}
    for name, values in (parts | {"payoffs": menu.payoffs, "price": menu.price}).items():
        if not np.isfinite(values).all():
            raise DataInvalid(f"{name}: a draw or a price is not a number; leave out the line that it comes from")
    system = _system(draws, menu, terms, level, 1 - ruin / 2)
    solved = _solved(system, budget / terms.wanted)
    if solved is not None:
        return _told(solved, system, draws, terms, budget)
    least = _solved(system, None)
    floor = float("nan") if least is None else _told(least, system, draws, terms, 0.0).shortfall
    return _told(np.full(system.loss.shape[1], np.nan), system, draws, terms, floor)


def frontier(draws: Draws, menu: Menu, terms: Terms, budgets: Iterable[float], level: float, ruin: float) -> list[Plan]:
    """Plans over budgets: the least cost is convex and never rises in the budget."""
    return [plan(draws, menu, terms, budget, level, ruin) for budget in budgets]


@dataclass(frozen=True)
class _System:
    """The programme in units of the wanted size; columns: decisions, then eta and excesses of budget and of ruin."""

    matrix: Any
    bounds: Floats
    limits: list[tuple[float | None, float | None]]
    cost: Floats
    loss: Floats  # (m, decisions)
    tail: Floats  # CVaR of the loss as a row over all columns
    levels: tuple[float, float]


def _system(draws: Draws, menu: Menu, terms: Terms, level: float, ruin_level: float) -> _System:
    from scipy.sparse import block_array, csr_array, eye_array, hstack, vstack

    m, puts, unit = len(draws.weights), len(menu.price), terms.wanted
    decisions = FIRST_PUT + puts
    loss = np.zeros((m, decisions))
    loss[:, SIZE], loss[:, PERP], loss[:, VOLATILE] = draws.position, draws.perp, draws.volatile
    loss[:, FIRST_PUT:] = -menu.payoffs
    uncovered = loss.copy()
    uncovered[:, [STABLE, VOLATILE]] -= 1
    own, none = hstack([csr_array(np.full((m, 1), -1.0)), -eye_array(m)]), csr_array((m, 1 + m))
    excess = block_array([[csr_array(loss), own, none], [csr_array(uncovered), none, own]])
    blank = np.zeros(1 + m)
    tail = np.concatenate([np.zeros(decisions), [1.0], draws.weights / (1 - level), blank])
    ruin = np.concatenate([np.zeros(decisions), blank, [1.0], draws.weights / (1 - ruin_level)])
    linear = np.zeros((len(terms.rates) + 1, decisions + 2 * (1 + m)))
    linear[:-1, SIZE], linear[:-1, PERP] = terms.rates / PPM, terms.perp_margin
    linear[:-1, STABLE], linear[:-1, VOLATILE] = -1.0, terms.haircut - 1
    linear[-1, [PERP, STABLE, BORROWED]] = terms.perp_cost, 1.0, -1.0
    linear[-1, FIRST_PUT:decisions] = menu.price
    taken = deductions(terms.caps, terms.rates) / PPM / unit
    tops = (terms.perp_cap, np.inf, terms.volatile, terms.borrow_cap, *menu.cap)
    cost = np.zeros(decisions + 2 * (1 + m))
    charges = (
        -terms.forgone,
        terms.perp_cost,
        terms.stable_carry,
        terms.volatile_carry,
        terms.borrow_rate,
        *menu.price,
    )
    cost[:decisions] = charges
    return _System(
        matrix=vstack([excess, csr_array(linear), csr_array(ruin[None, :])], format="csr"),
        bounds=np.concatenate([np.zeros(2 * m), taken, [terms.stable / unit, 0.0]]),
        limits=[
            (terms.least / unit, 1.0),
            *((0.0, None if np.isinf(top) else float(top) / unit) for top in tops),
            *([(None, None), *([(0.0, None)] * m)] * 2),
        ],
        cost=cost,
        loss=loss,
        tail=tail,
        levels=(level, ruin_level),
    )


def _solved(system: _System, budget: float | None) -> Floats | None:
    """The cheapest decisions within the budget in units, or without one those of least shortfall; None if there are none."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_array, vstack

    matrix, bounds, objective = system.matrix, system.bounds, system.tail
    if budget is not None:
        matrix, objective = vstack([matrix, csr_array(system.tail[None, :])], format="csr"), system.cost
        bounds = np.append(bounds, budget)
    result = linprog(objective, A_ub=matrix, b_ub=bounds, bounds=system.limits, method="highs")
    if result.status == 2:
        return None
    if result.status != 0:
        raise UsageError(
            f"the joint programme stopped: {result.message}; check that draws, prices and caps are numbers"
        )
    return np.asarray(result.x, dtype=np.float64)[: system.loss.shape[1]]


def _told(x: Floats, system: _System, draws: Draws, terms: Terms, least_budget: float) -> Plan:
    """Decisions in units as a plan in USD; ``least_budget`` in USD."""
    unit = terms.wanted
    losses = unit * (system.loss @ x)
    posted = unit * (x[STABLE] + x[VOLATILE])
    shortfall, ruin = (
        float(expected_shortfall(taken[None, :], draws.weights[None, :], level)[0])
        for taken, level in zip((losses, losses - posted), system.levels, strict=True)
    )
    feasible = bool(np.isfinite(x).all())
    return Plan(
        size=unit * float(x[SIZE]),
        puts=unit * x[FIRST_PUT:],
        perp=unit * float(x[PERP]),
        stable=unit * float(x[STABLE]),
        volatile=unit * float(x[VOLATILE]),
        borrowed=unit * float(x[BORROWED]),
        cost=unit * (terms.forgone + float(system.cost[: len(x)] @ x)),
        shortfall=shortfall,
        ruin_shortfall=ruin,
        feasible=feasible,
        least_budget=least_budget,
    )
