"""A margin in plain language: what moved it, what held it back, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pandas as pd

from features.errors import DataInvalid, UsageError

from .replay import read_lines

__all__ = ["REASON_TEXT", "explain"]

REASON_TEXT: Final = {
    "VOL_UP": "forecast excursions rose",
    "REGIME_STRESS": "a stressed regime sets the pace",
    "DEPTH_THIN": "the market is thin, or its volume unknown",
    "OI_CROWD": "open interest is large against depth",
    "FUNDING_SKEW": "funding is at the top of its 90-day range",
    "STRESS_FLOOR": "the stress scenario exceeds the forecast margin and lifts it",
    "LONGRUN_FLOOR": "the long-run floor holds it up",
    "DECAY": "it is being lowered at the permitted half-life",
    "DEADBAND_HOLD": "the target lies within the dead-band, so it stays",
    "STEP_CAP": "a speed limit held the rise back",
    "NOTICE": "a rise of maintenance margin begins its notice for open positions",
    "CB1": "price moved too far within an hour",
    "CB2": "the price stands away from the oracle beyond its confidence",
    "CB3": "modelled depth collapsed",
    "CB4": "the insurance fund is nearly empty",
    "IF_LOW": "the insurance fund is below what it should hold, so margins rise",
    "STALE": "a forecast or feed is missing or too old, or a feed holds impossible values",
    "NAN": "the forecast holds numbers that cannot be",
    "SENTINEL": "the forecast lies far below recent volatility and was lifted",
    "OVERRIDE": "a signed override is in force",
    "HEDGE_INFEASIBLE": "no permitted hedge meets the budget of expected shortfall",
    "INVARIANT_HOLD": "the target does not fit inside the bounds, so nothing falls",
    "MARK_ABSENT": "no mark price; last prices stand in",
    "OI_ABSENT": "no open interest; its term is zero",
    "NEW_LISTING": "under 30 days of history; the static safe margin is the least",
}

ACTION_TEXT: Final = {
    "clear": "none stands",
    "reduce_only": "positions may only be reduced",
    "price_band": "positions may only be reduced, and orders lie within {band} of the reference price",
    "halt": "trading and liquidation are halted",
    "withdraw_gate": "trading and liquidation are halted, and withdrawals are gated",
    "grace": "trading is open again; nobody is liquidated for a move made while it was halted",
}


def explain(path: str | Path, symbol: str, time: str | pd.Timestamp) -> str:
    """Why the margin of ``symbol`` in force at ``time`` is what it is.

    Raises DataInvalid where the schedule has no such line, UsageError where ``time`` cannot be read.
    """
    try:
        instant = pd.Timestamp(time)
        instant = instant.tz_localize("UTC") if instant.tzinfo is None else instant.tz_convert("UTC")
    except ValueError:
        raise UsageError(f"{time!r} is not a time; write it as 2025-01-31T08:00Z") from None
    known: set[str] = set()
    line: dict[str, Any] | None = None
    for _, _, candidate in read_lines(path):
        known.add(candidate["symbol"])
        if pd.Timestamp(candidate["as_of"]) > instant:
            break
        if candidate["symbol"] == symbol and pd.Timestamp(candidate["effective_at"]) <= instant:
            line = candidate
    if line is None:
        raise DataInvalid(
            f"{path}: no line of {symbol!r} is in force at {instant.isoformat()}; "
            f"symbols by then: {', '.join(sorted(known))}"
        )
    return _text(line, instant)


def _text(line: dict[str, Any], instant: pd.Timestamp) -> str:
    expired = pd.Timestamp(line["expires_at"]) <= instant
    change = sum(line["decomposition"].values())
    rows = [
        f"{line['symbol']} at {instant:%Y-%m-%d %H:%M} UTC (line {line['seq']}, decided {line['as_of']}):",
        f"  initial margin {_percent(line['im_ppm'])}, maintenance margin {_percent(line['mm_ppm'])}, "
        f"at most {line['max_leverage_milli'] / 1000:.2f}x, mode {line['mode']}",
    ]
    if expired:
        rows.append(f"  EXPIRED at {line['expires_at']}: apply the fail-safe rule")
    rows.append(f"  change of initial margin in this line: {_percent(change, sign=True)}")
    parts = sorted(line["decomposition"].items(), key=lambda item: -abs(item[1]))
    rows += [f"    {name.replace('_', ' '):<14}{_percent(value, sign=True):>10}" for name, value in parts if value]
    rows += [f"  bound: {hit['parameter']} met {hit['bound']} ({hit['side']})" for hit in line["bounds_hit"]]
    rows += [f"  {name}: {REASON_TEXT.get(name, name)}" for name in line["reasons"]]
    rows += [f"  breakers: {_breakers(line['breakers'])}", f"  hedge of one unit long: {_hedge(line['hedge'])}"]
    rows.append(f"  model {line['model_sha256'][:12]}, forecast {line['forecast_hash'][:12]}")
    return "\n".join(rows)


def _breakers(breakers: dict[str, Any]) -> str:
    says = ACTION_TEXT[breakers["state"]].format(band=_percent(breakers["band_ppm"]))
    if not breakers["active"]:
        return says
    return f"{says}, until {breakers['until']} at the latest, after {', '.join(breakers['active'])}"


def _hedge(hedge: dict[str, Any]) -> str:
    if hedge["instrument"] == "none":
        return f"none, for {hedge['reason']}"
    side = "buy" if hedge["quantity_milli"] > 0 else "sell"
    return (
        f"{side} {abs(hedge['quantity_milli']) / 1000:.3f} of {_instrument(hedge['instrument'])}, "
        f"for {hedge['reason']}; it costs {hedge['cost_usd']:,} USD and avoids {hedge['avoided_es_usd']:,} USD of expected "
        f"shortfall; trade once it is off by more than {_percent(hedge['band_ppm'])}"
    )


def _instrument(name: str) -> str:
    if name == "perpetual":
        return "the perpetual"
    kind, hours, strike = name.split("-")
    return f"a {hours.removesuffix('h')} h {kind} struck at {_percent(int(strike.removesuffix('ppm')))} of spot"


def _percent(ppm: int, sign: bool = False) -> str:
    return f"{ppm / 1e4:{'+' if sign else ''}.2f} %"
