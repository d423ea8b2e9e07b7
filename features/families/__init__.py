"""What a feature is: a named formula on the panel, with everything a reader needs to recompute it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from features.panel import Array, Panel

__all__ = ["Column", "Family", "Group", "Sign"]

Sign: TypeAlias = Literal["+", "-", "±"]
Group: TypeAlias = Literal["history", "scheduled", "cross", "funding", "flow", "implied"]


@dataclass(frozen=True)
class Column:
    """One feature: its values of shape (n_symbols, n_hours), and its meaning.

    ``lookback`` in hours counts the feature's own window; windows of deseasonalised variance also read the season curve
    (two years). ``feeds`` are the tables that it needs. ``sign``: how the coming variance is expected to move with the
    feature, given what past variance says already; ± where theory is silent or the effect is not monotone.
    """

    name: str
    values: Array
    formula: str
    unit: str
    lookback: int
    feeds: tuple[str, ...] = ("bars",)
    reference: str = ""
    sign: Sign = "±"


class Family(ABC):
    """A group of features from the same idea. Learns nothing: the same code serves history and the next bar."""

    name: ClassVar[str]
    group: ClassVar[Group] = "history"

    @abstractmethod
    def columns(self, panel: Panel) -> Iterator[Column]:
        """Yield the family's features on ``panel``; names, order and meaning never depend on the data."""
