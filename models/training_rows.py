"""Rows that members are fitted on: features and labels up to a cut, and what members derive from them in common.

Nothing is copied until a member asks for the rows and columns that it needs, and what several members need, such as the
seasonal HAR under the linear panel and the boosters, is made once and kept as long as the rows are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataInvalid
from features.panel import MICROSECONDS_PER_HOUR

__all__ = ["TrainingRows", "evenly", "places", "symbol_codes"]

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
T = TypeVar("T")

BLOCK: Final = 1024


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """``n`` rows with their labels.

    ``features`` (any number of rows, n_features) is the table they stand in, at ``row`` (n,). ``symbol`` (n,) holds codes
    into ``symbols``, ``origin`` (n,) microseconds since the epoch. ``variance`` (n, n_horizons): V, NaN where a label is
    missing or not known by the cut; ``horizons`` in hours. ``weight`` (n,): of each row; None for all the same.
    ``thresholds`` (n, n_horizons, 3) of the regimes and ``now`` (n, n_horizons), the class of the trailing interval, are there
    for those who learn of regimes.
    """

    features: Array
    columns: tuple[str, ...]
    row: Integers
    symbol: Integers
    symbols: tuple[str, ...]
    origin: Integers
    variance: Array
    horizons: tuple[int, ...]
    weight: Array | None = None
    thresholds: Array | None = None
    now: Array | None = None
    _made: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, X: pd.DataFrame, y: pd.DataFrame, weight: Array | None = None) -> Self:
        """From frames as ``Member.fit`` takes them; raises ``DataInvalid`` where they are not on the same rows."""
        if len(X) != len(y) or not X.index.equals(y.index):
            raise DataInvalid("X and y must have the same (symbol, origin) index; align y with y.reindex(X.index)")
        symbol, symbols = symbol_codes(X.index)
        return cls(
            X.to_numpy(np.float64),
            tuple(map(str, X.columns)),
            np.arange(len(X)),
            symbol,
            symbols,
            pd.DatetimeIndex(X.index.get_level_values("origin")).as_unit("us").asi8,
            y.to_numpy(np.float64),
            tuple(int(h) for h in y.columns),
            weight,
        )

    def __len__(self) -> int:
        return len(self.row)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` makes of these rows; of the same ``key`` it is made once, so the key names all it depends on."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    def within(self, window_days: int | None, every_hours: int = 1) -> Integers:
        """Places of the rows within ``window_days`` of the newest origin (None: of all), on every n-th hour of the epoch."""
        hour = self.origin // MICROSECONDS_PER_HOUR
        kept = hour % every_hours == 0
        if window_days is not None:
            kept &= self.origin > self.origin.max() - window_days * 24 * MICROSECONDS_PER_HOUR
        return np.flatnonzero(kept)

    def by_symbol(self, at: Integers) -> list[tuple[str, Integers]]:
        """Of the rows at these places, each symbol's with its name, in the order of their first rows."""
        order = at[np.argsort(self.symbol[at], kind="stable")]
        borders = np.searchsorted(self.symbol[order], np.arange(1, len(self.symbols)))
        parts = zip(self.symbols, np.split(order, borders), strict=True)
        return sorted(((name, part) for name, part in parts if len(part)), key=lambda named: int(named[1][0]))

    def values(self, columns: Sequence[str], at: Integers, model: str) -> Array:
        """The named features (n_places, n_columns); raises ``DataInvalid`` as ``places`` does."""
        chosen, rows = places(self.columns, columns, model), self.row[at]
        out = np.empty((len(rows), len(chosen)))
        # By blocks that stay in the cache: whole rows are read fastest, and few of their columns are wanted.
        for start in range(0, len(rows), BLOCK):
            block = slice(start, start + BLOCK)
            np.take(self.features[rows[block]], chosen, axis=1, out=out[block], mode="clip")
        return out

    def frame(self, at: Integers, prefixes: tuple[str, ...] = ("",)) -> pd.DataFrame:
        """The features so named, of the rows at these places, indexed by (symbol, origin)."""
        columns = [name for name in self.columns if name.startswith(prefixes)]
        origins = pd.DatetimeIndex(self.origin[at].astype("datetime64[us]"), tz="UTC")
        symbols = pd.Index(self.symbols)[self.symbol[at]]
        index = pd.MultiIndex.from_arrays([symbols, origins], names=["symbol", "origin"])
        return pd.DataFrame(self.values(columns, at, "any"), index=index, columns=columns, copy=False)

    def log_variance(self, at: Integers) -> Array:
        """Natural log of V at these places, NaN where unknown; (n_places, n_horizons)."""
        return np.asarray(np.log(self.variance[at]))

    def weights(self, at: Integers) -> Array:
        """Of the rows at these places."""
        return np.ones(len(at)) if self.weight is None else self.weight[at]


def places(columns: Sequence[str], wanted: Sequence[str], model: str) -> list[int]:
    """Where the wanted columns stand; raises ``DataInvalid`` naming those that are missing."""
    known = {name: k for k, name in enumerate(columns)}
    missing = [name for name in wanted if name not in known]
    if missing:
        raise DataInvalid(
            f"model '{model}' needs feature columns {missing}; enable their families in [features] of the config"
        )
    return [known[name] for name in wanted]


def evenly(n: int, count: int) -> Integers:
    """At most ``count`` of the places ``0 ... n - 1``, evenly spread from the first to the last."""
    return np.linspace(0, n - 1, min(count, n)).astype(np.int64)


def symbol_codes(index: pd.Index) -> tuple[Integers, tuple[str, ...]]:
    """Each row's symbol as a code, and the symbols that the codes stand for, of a (symbol, origin) index."""
    rows = cast(pd.MultiIndex, index)
    level = rows.names.index("symbol")
    return np.asarray(rows.codes[level], dtype=np.int64), tuple(map(str, rows.levels[level]))
