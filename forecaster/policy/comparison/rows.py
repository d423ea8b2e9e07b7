"""The rows of a scoreboard file: every policy, symbol and window, with the account-level fields of the venue beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from features.panel import Array
from training.scorecard import nullable

from .ground import ALL, HOURS_A_YEAR, WHOLE, Ground, Mask, event_windows
from .leads import Leads
from .metrics import RISES, coverage_metrics, movement_metrics
from .overlay import COSTS_BPS, Overlay, overlay, settled_funding, volatility_target
from .scaling import matching_scale

__all__ = ["ALL", "FIELDS", "VENUE_FIELDS", "WHOLE", "Exposures", "Table", "Venue", "Warned", "policy_rows"]

Venue = Mapping[tuple[str, str, str, str], Mapping[str, float]]
"""Account-level fields by (comparison, policy, symbol, window), from the simulated venue."""

COST_BPS: Final = 5.0
"""Cost of trading at which the overlay's columns are told."""
Warned = tuple[Leads, list[Leads]]
"""How a margin warned: over all symbols, and by symbol."""
VENUE_FIELDS: Final = (
    "shortfall_bps_oi_year",
    "bad_debt_usd",
    "insurance_draw_usd",
    "liquidations_per_oi_year",
    "policy_induced_liquidations_per_oi_year",
    "unnecessary_liquidation_rate",
    "adl_haircut_ratio",
)
FIELDS: Final = (
    "mean_im",
    "coverage_24h_995",
    "es_beyond_margin",
    "pinball_995",
    "matched_mean_im",
    "peak_to_trough",
    *RISES,
    "lead_hours",
    "false_alarms_per_symbol_year",
    "lead_skill",
    "max_drawdown",
    "calmar",
    "turnover",
    *VENUE_FIELDS,
)


@dataclass(frozen=True)
class Exposures:
    """Exposure scales by policy, (n_symbols, n_hours), and the funding that a long position pays."""

    by_policy: dict[str, Array]
    funding: Array
    compared: Mask
    ground: Ground

    @classmethod
    def of(cls, ground: Ground, published: Array, compared: Mask) -> Exposures:
        """The published scale; raw volatility targets of the baselines that have a volatility; a constant for ``static``."""
        history, constants = ground.history, ground.history.params.baselines
        squared = history.panel.log_return**2
        half_lives = {"ewma": constants.ewma_half_life_hours, "fhs": constants.fhs_half_life_hours}
        scales = {
            name: volatility_target(np.sqrt(HOURS_A_YEAR * history.panel.ewma(squared, hours)), history)
            for name, hours in half_lives.items()
        }
        scales["oracle"] = volatility_target(np.sqrt(HOURS_A_YEAR / 24 * ground.variance), history)
        average = np.nanmean(np.where(compared, published, np.nan))
        constant = np.full(published.shape, average)
        return cls({**scales, "ensemble": published, "static": constant}, settled_funding(history), compared, ground)

    def held(self, policy: str, cost_bps: float = COST_BPS) -> Overlay | None:
        """The overlay of a policy; None where it sets no exposure."""
        if policy not in self.by_policy:
            return None
        return overlay(self.by_policy[policy], self.compared, self.ground.history, self.funding, cost_bps)

    def table(self) -> list[dict[str, Any]]:
        """Medians over symbols of every policy's overlay at each cost of ``COSTS_BPS``."""
        return [
            {"policy": policy, "cost_bps": cost}
            | {n: nullable(_of(x, -1, np.median)) for n, x in held._asdict().items()}
            for policy in self.by_policy
            for cost in COSTS_BPS
            if (held := self.held(policy, cost)) is not None
        ]


@dataclass(frozen=True)
class Table:
    """One comparison: margins by policy, and the origins that all of them are scored on where they have a margin.

    ``leads``: by policy, of the margin as it stands: a scalar that is fitted anew is no warning.
    """

    comparison: str
    margins: dict[str, Array]
    compared: Mask
    ground: Ground
    exposures: Exposures
    venue: Venue
    leads: Mapping[str, Warned]


def policy_rows(table: Table) -> list[dict[str, Any]]:
    """One row per policy, symbol (``*`` first: pooled; medians of movement, the worst rise) and window."""
    return [row for policy in table.margins for row in _policy(table, policy)]


def _policy(table: Table, policy: str) -> Iterator[dict[str, Any]]:
    ground, im = table.ground, table.margins[policy]
    rows = table.compared & ~np.isnan(im)
    scale = matching_scale(ground.excursion[rows] / im[rows])
    whole = _whole_span(table, policy)
    windows = {WHOLE: np.ones(len(ground.times), dtype=np.bool_), **event_windows(ground.times)}
    for window, inside in windows.items():
        within = rows & inside
        moved = movement_metrics(im[:, inside], within[:, inside])
        for s, symbol in enumerate((ALL, *ground.symbols), start=-1):
            at = within if s < 0 else within & (np.arange(len(im)) == s)[:, None]
            found = coverage_metrics(im[at], ground.excursion[at], scale)
            found |= {
                name: _of(values, s, np.nanmax if name in RISES else np.nanmedian) for name, values in moved.items()
            }
            found |= whole[symbol] if window == WHOLE else {}
            found |= table.venue.get((table.comparison, policy, symbol, window), {})
            yield {"policy": policy, "symbol": symbol, "window": window} | {
                name: nullable(found.get(name, float("nan"))) for name in FIELDS
            }


def _whole_span(table: Table, policy: str) -> dict[str, dict[str, float]]:
    """Fields that only the whole span gives, by symbol: leads, and the overlay's."""
    symbols = (ALL, *table.ground.symbols)
    pooled, by_symbol = table.leads[policy]
    names = ("lead_hours", "false_alarms_per_symbol_year", *(("lead_skill",) if pooled.comparable else ()))
    out = {s: {n: getattr(told, n) for n in names} for s, told in zip(symbols, (pooled, *by_symbol), strict=True)}
    held = table.exposures.held(policy)
    if held is not None:
        for name in ("max_drawdown", "calmar", "turnover"):
            for s, symbol in enumerate(symbols, start=-1):
                out[symbol][name] = _of(getattr(held, name), s, np.nanmedian)
    return out


def _of(values: Any, symbol: int, pooled: Any) -> float:
    """One symbol's value, or that of all symbols with a known one; nan without any."""
    known = values[~np.isnan(values)]
    if symbol >= 0:
        return float(values[symbol])
    return float(pooled(known)) if len(known) else float("nan")
