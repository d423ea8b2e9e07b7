"""What every portfolio measure reads: one market at one instant, arrays over symbols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataInvalid
from forecaster.policy.accounts import requirement
from forecaster.policy.types import PPM

__all__ = ["RiskState", "ewma_correlation", "tiers_of"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

LEVELS: Final = 4  # of the excursion quantiles


def ewma_correlation(standardised: Floats, half_life_hours: float) -> Floats:
    """Correlation (s, s) as known after the last row of standardised returns (T, s), zero mean assumed.

    Hours weigh half as much every half-life; a pair counts the hours that both have, in the covariance and in both
    variances, so that every entry lies in [-1, 1]. NaN where a pair has none; 1 on the diagonal of a known symbol.
    """
    known = np.isfinite(standardised)
    z = np.where(known, standardised, 0.0)
    weight = 0.5 ** (np.arange(len(z))[::-1, None] / half_life_hours)
    own = (weight * z * z).T @ known
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.clip((weight * z).T @ z / np.sqrt(own * own.T), -1.0, 1.0))


def tiers_of(lines: Sequence[Mapping[str, Any]], as_of: int) -> dict[str, Any]:
    """``symbols``, ``caps``, ``im``, ``mm`` (s, K) and ``usable`` (s,) of schedule lines, one a symbol, at ``as_of``.

    ``as_of`` in microseconds. A line is stale once it has expired, and not yet known before its own instant.

    Raises DataInvalid naming the symbol that has two lines or another number of tiers than the first.
    """
    symbols = tuple(str(line["symbol"]) for line in lines)
    counts = [len(line["tiers"]) for line in lines]
    for place, symbol in enumerate(symbols):
        if symbol in symbols[:place] or counts[place] != counts[0]:
            raise DataInvalid(
                f"{symbol}: a second line, or another number of tiers; pass one line a symbol of one pack"
            )
    instants = {name: pd.DatetimeIndex([line[name] for line in lines]) for name in ("as_of", "expires_at")}
    now = pd.Timestamp(as_of, unit="us", tz="UTC")
    columns = {"caps": "cap_usd", "im": "im_ppm", "mm": "mm_ppm"}
    tables = {
        name: np.array([[tier[key] for tier in line["tiers"]] for line in lines], dtype=np.int64)
        for name, key in columns.items()
    }
    usable = np.asarray((instants["as_of"] <= now) & (now < instants["expires_at"]))
    return {"symbols": symbols, "usable": usable, **tables}


@dataclass(frozen=True)
class RiskState:
    """The market as known at ``as_of`` (microseconds); s symbols, K tiers, H horizons.

    ``standardised`` (T, s): past 24 h log returns, one an hour, each over the standard deviation that was forecast at
    its origin; NaN where unknown. ``long`` and ``short`` (s, H, 4): excursion quantiles at ``EXCURSION_LEVELS``.
    """

    as_of: int
    symbols: tuple[str, ...]
    price: Floats  # (s,) USD
    caps: Integers  # (s, K) USD
    im: Integers  # (s, K) ppm, marginal rates
    mm: Integers
    usable: Flags  # (s,) whether the schedule line is in force
    sigma: Floats  # (s,) forecast standard deviation of the 24 h log return; NaN without a usable forecast
    standardised: Floats
    correlation: Floats  # (s, s)
    horizons: tuple[int, ...]
    long: Floats
    short: Floats
    stress: Floats  # (s,) worst 24 h move on record, a fraction; NaN where none is known

    def aligned(self, symbols: Sequence[str]) -> RiskState:
        """This state for other columns; a symbol without a line is margined in full, unusable, and all else is NaN."""
        place = pd.Index(self.symbols).get_indexer(pd.Index(symbols))
        known = place >= 0

        def row(values: npt.NDArray[Any], empty: Any) -> npt.NDArray[Any]:
            shaped = known.reshape(-1, *([1] * (values.ndim - 1)))
            return np.where(shaped, values[place], empty)

        correlation = row(row(self.correlation, np.nan).T, np.nan).T
        return RiskState(
            as_of=self.as_of,
            symbols=tuple(symbols),
            price=row(self.price, np.nan),
            caps=row(self.caps, np.arange(1, self.caps.shape[1] + 1)),
            im=row(self.im, PPM),
            mm=row(self.mm, PPM),
            usable=row(self.usable, False),
            sigma=row(self.sigma, np.nan),
            standardised=row(self.standardised.T, np.nan).T,
            correlation=correlation,
            horizons=self.horizons,
            long=row(self.long, np.nan),
            short=row(self.short, np.nan),
            stress=row(self.stress, np.nan),
        )

    @cached_property
    def clean(self) -> RiskState:
        """Unknown numbers replaced by zeros, for arithmetic whose result a fault overrules."""
        values = {name: np.nan_to_num(getattr(self, name), posinf=0.0) for name in ("sigma", "correlation")}
        return RiskState(**{**{name: getattr(self, name) for name in self.__dataclass_fields__}, **values})

    def required(self, notional: Floats, rates: Integers) -> Floats:
        """Stand-alone requirement (a, s) in USD of positions (a, s), unsigned: ``N r_k - ded_k``, notional rounded up."""
        whole = np.ceil(notional).astype(np.int64)
        columns = [requirement(whole[:, i], self.caps[i], rates[i]) for i in range(len(self.symbols))]
        return np.column_stack(columns).astype(np.float64).reshape(notional.shape) / PPM
