"""Hedging: Greeks, deltas in perpetuals, puts by linear programme, replication, the variance premium."""

from .greeks import Book, Greeks, greeks
from .params import HedgingParams
from .protection import INFEASIBLE, Allocation, Limits, Menu, allocate, put_menu
from .reference import HedgeInputs, Hedges, hedge_of, hedges_of

__all__ = [
    "INFEASIBLE",
    "Allocation",
    "Book",
    "Greeks",
    "HedgeInputs",
    "Hedges",
    "HedgingParams",
    "Limits",
    "Menu",
    "allocate",
    "greeks",
    "hedge_of",
    "hedges_of",
    "put_menu",
]
