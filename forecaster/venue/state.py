"""What the kernel works on: plain tuples of arrays and of the pack's constants."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Arrivals", "Bars", "Flags", "Floats", "Integers", "Rules", "State"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Bars(NamedTuple):
    """The path in the kernel's units, (T,) or (T, 4); fractions for margins, micro-USD for ``unit`` and ``depth``."""

    hour: Integers
    mark: Floats
    last: Floats
    funding: Floats
    sigma: Floats
    depth: Floats
    unit: Floats
    capital: Floats
    quorum: Flags
    lowest: Floats
    highest: Floats
    im: Floats
    mm: Floats
    allowed: Floats
    penalty: Floats


class Arrivals(NamedTuple):
    """Positions in order of entry; see population.Population."""

    enter: Integers
    leave: Integers
    slot: Integers
    weight: Floats
    leverage: Floats
    tops_up: Flags
    deleverages: Flags


class Rules(NamedTuple):
    """The pack's constants that the kernel reads."""

    restore: float
    warning: float
    release: float
    backstop: float
    topup_level: float
    topups: int
    step_share: float
    step_move: float
    participation: float
    step_least: float
    dust: float
    penalty_cap: float
    rounds: int
    adverse_first: bool
    auction: bool
    impact: float
    spread: float
    transient: float
    permanent: float
    half_life: float
    slip_cap: float
    print_band: float
    latency: Floats
    capital_charge: Floats
    risk_charge: float
    reward_share: float
    gas: int
    buffer: float
    cut: float
    step_minutes: float
    tail_minutes: float
    cusp: float
    chip: float
    tip: float
    senior_size: int
    adl: int
    reduce_move: float
    reduce_hours: int
    halt_move: float
    halt_hours: int
    grace_hours: int
    taker: float
    fee_to_fund: float


class State(NamedTuple):
    """Accounts (n,) and everything else that a bar changes."""

    cash: Integers
    lots: Integers
    entry: Floats  # price at entry
    leave: Integers
    mm: Floats  # binding maintenance margin
    mm_before: Floats  # ... one bar earlier
    mm_least: Floats  # ... the least since entry
    below: Floats  # a long is triggered below this seen price, 0 for none
    above: Floats  # a short is triggered above this one, inf for none
    topups: Integers
    deleverages: Flags
    twin: Floats  # price of history at which the account untouched by liquidation is bankrupt; 0 before any
    leg: Integers  # the last leg in which it was acted on ...
    done: Floats  # ... and how far along it
    fallen: Flags  # stood below maintenance when the last halt began
    offer: Floats  # running auction: price it began at (0 for none), minutes gone, frozen penalty
    elapsed: Floats
    frozen: Floats
    capital: Floats  # liquidators' unused capital in this bar
    asked: Floats  # what each asks for: capital and the risk of its latency
    hits: Integers  # room for the triggered accounts ...
    depth: Floats  # ... and how far under water they are
    purse: Integers
    book: Floats
    tally: Floats
