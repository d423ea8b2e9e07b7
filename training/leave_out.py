"""Symbols that nothing was ever learnt from: what the model is worth to a stranger, and to one that was just listed.

Three walk-forwards on the same origins. *Own*: the classical members, trained on every symbol, the strangers' own seasonal
HAR among them. *Stranger*: the whole model, which learns nothing from these symbols: no label of theirs trains a member, no
outcome of theirs enters levels, weights or laws (``walkforward.exclude``). Their bars stay in the market, for their own
features and as one voice in the cross-section: at an origin they are as public as any other symbol's. *Newly listed*: the
same, with each symbol cut into listings of ``LISTED_DAYS`` days, so that no feature, threshold or filter reaches further
back; the symbol itself is not in that market.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from features.errors import UsageError
from features.market import Market
from features.schemas import TABLES
from features.store import write_atomically
from models import table
from models.base import ENSEMBLE
from training import losses
from training.comparison import gain
from training.config import Regimes, RunConfig
from training.engine import Engine, Progress
from training.evaluation import Evaluation, evaluate
from training.folds import code_sha256
from training.goals import Figure
from training.sample import SHOCK_MODELS, Sample, samples, scored
from training.scorecard import SCORED_COLUMNS, nullable, to_json_bytes

__all__ = ["DOCUMENT", "LISTED_DAYS", "figures", "leave_out", "relisted"]

DOCUMENT: Final = "leave_out.json"
LISTED_DAYS: Final = 30
OWN: Final = "har_seasonal"
STRANGER: Final = "stranger"


@dataclass(frozen=True)
class _Plan:
    """What all three walk-forwards share."""

    config: RunConfig
    start: pd.Timestamp
    end: pd.Timestamp
    folder: Path
    engine: Engine
    progress: Progress | None

    def run(self, name: str, market: Market, config: RunConfig, symbols: Sequence[str]) -> Evaluation:
        return evaluate(
            market, config, start=self.start, end=self.end, out=self.folder / name, symbols=symbols, engine=self.engine,
            progress=self.progress,
        )  # fmt: skip

    def without(self, symbols: Sequence[str]) -> RunConfig:
        settings = self.config.walkforward.model_copy(update={"exclude": tuple(symbols)})
        return self.config.model_copy(update={"walkforward": settings})


def leave_out(
    market: Market,
    config: RunConfig,
    symbols: Sequence[str],
    *,
    start: pd.Timestamp,
    end: pd.Timestamp,
    out: str | Path,
    every_months: int = 3,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare the model, a stranger to these symbols, with each symbol's own seasonal HAR; writes ``leave_out.json``.

    A listing begins every ``every_months`` from ``start``. Finished folds are kept in ``out``.

    Raises:
        UsageError: for fewer than one symbol or one symbol left to learn from, an unknown symbol, or a configuration
            without the seasonal HAR or without members beside the classical ones.
    """
    strangers = sorted(set(symbols))
    _check(strangers, market, config)
    # Losses are compared, not regimes: their classifier would be fitted for nothing.
    plain = config.model_copy(update={"regimes": Regimes(classifier=False)})
    plan = _Plan(plain, start, end, Path(out), engine or Engine(), progress)
    classical = tuple(m for m in config.members if m.kind in SHOCK_MODELS)
    alone = config.ensemble.model_copy(update={"members": (OWN,)})
    own = plan.run("own", market, plain.model_copy(update={"members": classical, "ensemble": alone}), strangers)
    stranger = plan.run(STRANGER, market, plan.without(strangers), strangers)
    listings = _listings(start, end, every_months)
    cut, names = relisted(market, strangers, listings)
    cold = plan.run("listed", cut, plan.without(sorted(names)), sorted(names))
    document = {
        "schema_version": 1,
        "proxy": config.proxy,
        "config_sha256": config.sha256,
        "data_sha256": market.data_sha256,
        "code_sha256": code_sha256(),
        "start": f"{start:%Y-%m-%dT%H:%M:%SZ}",
        "end": f"{end:%Y-%m-%dT%H:%M:%SZ}",
        "symbols": strangers,
        "listings": [f"{at:%Y-%m-%d}" for at in listings],
        "listed_days": LISTED_DAYS,
        STRANGER: _compared(own, stranger, {}),
        "listed": _compared(own, cold, names),
    }
    write_atomically(Path(out) / DOCUMENT, to_json_bytes(document))
    return document


def relisted(market: Market, symbols: Sequence[str], listings: Sequence[pd.Timestamp]) -> tuple[Market, dict[str, str]]:
    """The market without these symbols but with listings of each, and which symbol each listing is.

    A listing has the symbol's rows of ``LISTED_DAYS`` days from its beginning, and none before, in every table.
    """
    labels = {f"{symbol}@{at:%Y%m%d}": (symbol, at) for at in listings for symbol in symbols}
    tables = {spec.name: market.table(spec.name) for spec in TABLES.values() if spec.entity == "symbol"}
    bars = tables["bars"][tables["bars"]["interval"] == "1h"]
    first: dict[str, pd.Timestamp] = {}
    for label, (symbol, at) in labels.items():
        closes = _listed(bars, symbol, at, "close_time")["close_time"]
        if len(closes):
            first[label] = closes.min()
    for name, rows in tables.items():
        parts = [rows[~rows["symbol"].isin(list(symbols))]]
        parts += [_listed(rows, *labels[label], TABLES[name].clock).assign(symbol=label) for label in first]
        tables[name] = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    kept = market.first_bar[~market.first_bar.index.isin(list(symbols))]
    since = pd.concat([kept, pd.Series(first, dtype=kept.dtype)]).rename_axis("symbol").sort_index()
    relabelled = market.with_tables(**tables).with_symbols(since.rename("first_bar").reset_index())
    return relabelled, {label: labels[label][0] for label in first}


def _listed(rows: pd.DataFrame, symbol: str, at: pd.Timestamp, clock: str) -> pd.DataFrame:
    until = at + pd.Timedelta(days=LISTED_DAYS)
    return rows[(rows["symbol"] == symbol) & (rows[clock] > at) & (rows[clock] <= until)]


def figures(document: Mapping[str, Any]) -> dict[str, Figure]:
    """The figures of goal A6."""
    return {
        f"stranger's excess loss, {row['horizon_hours']} h": Figure.of(
            row["excess"], row["low"], row["high"], why=f"listings of {', '.join(document['symbols'])}"
        )
        for row in document["listed"]
    }


def _check(strangers: Sequence[str], market: Market, config: RunConfig) -> None:
    if unknown := sorted(set(strangers) - set(market.symbols)):
        raise UsageError(f"symbol {unknown[0]} has no bars in this market; it has {', '.join(market.symbols)}")
    if not strangers or len(strangers) == len(market.symbols):
        raise UsageError(
            f"{len(strangers)} of {len(market.symbols)} symbols are left out; some must be, and some must stay"
        )
    kinds = {member.kind for member in config.members}
    if OWN not in kinds:
        raise UsageError(f"members has no {OWN}, with which the stranger is compared; add it")
    if kinds <= set(SHOCK_MODELS):
        raise UsageError("members has classical ones alone, and the stranger is one more model; add har_x or lightgbm")
    if config.walkforward.exclude:
        raise UsageError("walkforward.exclude: leave-out excludes the symbols that it is given; leave the setting out")


def _listings(start: pd.Timestamp, end: pd.Timestamp, every_months: int) -> list[pd.Timestamp]:
    listings, at = [], start
    while at + pd.Timedelta(days=LISTED_DAYS) <= end:
        listings.append(at)
        at = start + len(listings) * pd.DateOffset(months=every_months)
    if not listings:
        raise UsageError(f"from {start:%Y-%m-%d} to {end:%Y-%m-%d} no listing of {LISTED_DAYS} days fits; end later")
    return listings


def _compared(own: Evaluation, other: Evaluation, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """By horizon: the stranger's loss over that of the symbols' own seasonal HAR, on the hours both forecast."""
    beside = dict(zip(*_by_horizon(own), strict=True))
    rows = []
    for horizon, strange in zip(*_by_horizon(other), strict=True):
        strange = strange[strange["model"] == ENSEMBLE]
        symbol = strange["symbol"].astype(str)
        renamed = strange.assign(model=STRANGER, symbol=symbol.map(names) if names else symbol)
        plain = beside[horizon]
        plain = plain[plain["model"].isin(SHOCK_MODELS)]
        both = pd.concat([plain.astype({"symbol": str, "model": str}), renamed], ignore_index=True)
        rows += [{"horizon_hours": horizon} | _row(s) for s in samples(both, own.realised, own.start, own.end)]
    return rows


def _by_horizon(evaluation: Evaluation) -> tuple[list[int], list[pd.DataFrame]]:
    frames = list(table.read_horizons(evaluation.path, SCORED_COLUMNS))
    return [int(frame["horizon_hours"].iloc[0]) for frame in frames], frames


def _row(sample: Sample) -> dict[str, Any]:
    strange, own = sample.models.index(STRANGER), sample.models.index(OWN)
    first, second = sample.qlike_x[strange], sample.qlike_x[own]
    found = gain(first, second, sample.days)
    both = np.isfinite(first) & np.isfinite(second)
    stacked = {
        name: np.concatenate([sample.column(strange, s, name) for s in range(len(sample.symbols))])
        for name in ("var_q05", "var_q95", "ret_q010")
    }
    y, r = sample.truth["variance"].ravel(), sample.truth["log_return"].ravel()
    by_symbol = {}
    for s, symbol in enumerate(sample.symbols):
        alone = gain(first[[s]], second[[s]], sample.days, reps=0)
        by_symbol[symbol] = nullable(-alone.value)
    return {
        "rows": int(both.sum()),
        "excess": nullable(-found.value),
        "low": nullable(-found.high),
        "high": nullable(-found.low),
        "symbols_better": found.better,
        "symbols": found.symbols,
        "excess_by_symbol": by_symbol,
        "coverage_var_90": nullable(scored(losses.coverage, y, stacked["var_q05"], stacked["var_q95"])),
        "var_hit_010": nullable(scored(losses.hit_rate, r, stacked["ret_q010"])),
    }
