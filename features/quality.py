"""What is wrong with a store's data: gaps, disagreements, impossible prices, dead feeds, damaged files.

A check repairs nothing and hides nothing: each finding names table, symbol and time. An ``error`` makes the
data unfit until it is mended; a ``warning`` is a fact about the data that a reader of results should know.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd

from features.market import Market, preferred
from features.schemas import INTERVALS, TABLES, Table
from features.store import QUARANTINE, Store

__all__ = ["Finding", "QualityReport", "check"]

Severity = Literal["error", "warning"]

BAR_TABLES: Final = ("bars", "mark", "spot")
MAX_RETURN: Final = float(np.log(1.5))
MAX_RANGE: Final = 2.0
# Sources round sums of trades differently in the last digits.
AGREEMENT: Final = 1e-9
# How long a feed may be silent before it counts as stale, beyond the longest pause it takes in health.
PATIENCE: Final = {
    "funding": pd.Timedelta(hours=16),
    "open_interest": pd.Timedelta(hours=3),
    "implied_vol": pd.Timedelta(hours=3),
    "daily": pd.Timedelta(days=5),
    "order_book": pd.Timedelta(hours=3),
}
BARS_OF_PATIENCE: Final = 3


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: what kind, where, from when to when, how often."""

    severity: Severity
    check: str
    table: str
    entity: str
    interval: str | None
    first: str | None
    last: str | None
    count: int
    message: str

    def __str__(self) -> str:
        place = " ".join(part for part in (self.table, self.entity, self.interval) if part)
        span = "" if self.first is None else f" {self.first}"
        span += f" to {self.last}" if self.last not in (None, self.first) else ""
        return f"{self.severity}: {self.check}: {place}{span}: {self.message}"


@dataclass(frozen=True)
class QualityReport:
    """All findings, errors first, and the rows that were looked at, by table."""

    findings: tuple[Finding, ...]
    rows: dict[str, int]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that make the data unfit."""
        return tuple(f for f in self.findings if f.severity == "error")

    def to_dict(self) -> dict[str, Any]:
        """The report as one JSON object."""
        counts = Counter(f.severity for f in self.findings)
        return {
            "errors": counts["error"],
            "warnings": counts["warning"],
            "rows": self.rows,
            "findings": [asdict(finding) for finding in self.findings],
        }

    def summary(self, limit: int = 3) -> str:
        """Counts by kind of finding, with the first few of each."""
        lines = [f"{sum(self.rows.values()):,} rows in {len(self.rows)} tables; {len(self.findings)} findings"]
        kinds = Counter((f.severity, f.check) for f in self.findings)
        for (severity, kind), count in kinds.items():
            lines.append(f"{severity}: {kind}: {count}")
            told = [f for f in self.findings if (f.severity, f.check) == (severity, kind)]
            lines += [f"  {finding}" for finding in told[:limit]]
        return "\n".join(lines)


def check(market: Market | str | Path) -> QualityReport:
    """Look at everything a market (or the store at a path) holds."""
    whole = market if isinstance(market, Market) else Market.open(market)
    store = whole.store
    found: list[Finding] = []
    if store is not None:
        found += _files(store)
        damaged = {f.entity for f in found if f.severity == "error"}
        if damaged:  # what cannot be trusted is reported once and left out of everything else
            store = store.without(damaged)
            whole = Market(store, {}, store.symbols())
    rows = {}
    newest = whole.table("bars")["close_time"].max()
    for spec in TABLES.values():
        frame = whole.table(spec.name)
        if frame.empty:
            continue
        rows[spec.name] = len(frame)
        if spec.name in BAR_TABLES:
            found += [*_prices(frame, spec), *_idle(frame, spec)]
        if spec.name == "funding":
            found += _settlements(frame, spec)
        elif spec.name not in {"daily", "margin_tiers", "order_book"}:  # without a beat of their own
            found += _gaps(frame, spec)
        found += _stale(frame, spec, newest)
        if store is not None:
            found += _disagreements(store, spec)
    return QualityReport(tuple(sorted(found, key=lambda f: f.severity)), rows)


def _files(store: Store) -> Iterator[Finding]:
    def about(severity: Severity, kind: str, path: str, message: str, count: int = 1) -> Finding:
        return Finding(severity, kind, path.split("/")[0], path, None, None, None, count, message)

    for file in store.files:
        path = store.path / file.path
        if not path.is_file():
            yield about("error", "file missing", file.path, "import its input into a new store")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != file.sha256:
            yield about("error", "file changed", file.path, "differs from its sha256; import into a new store")
    for path in sorted((store.path / QUARANTINE).rglob("*.jsonl")):
        count = len(path.read_bytes().splitlines())
        name = str(path.relative_to(store.path))
        yield about("warning", "quarantine", name, f"{count:,} rows were kept out; the file says why", count)


def _series(frame: pd.DataFrame, spec: Table) -> Iterator[tuple[str, str | None, pd.DataFrame]]:
    """``entity, interval, rows`` of each series of a table, in order of time."""
    by = [name for name in spec.identity if name not in (spec.clock, "tier")]
    for names, rows in frame.groupby(by, sort=True):
        labels = dict(zip(by, map(str, names), strict=True))
        interval = labels.pop("interval", None)
        yield " ".join(labels.values()), interval, rows


def _found(
    kind: str, spec: Table, place: tuple[str, str | None], times: Iterable[Any], message: str, **more: Any
) -> Finding:
    known = [pd.Timestamp(time).isoformat() for time in times]
    entity, interval = place
    fields = {"severity": "warning", "count": len(known), **more}
    return Finding(
        check=kind, table=spec.name, entity=entity, interval=interval, first=known[0], last=known[-1],
        message=message, **fields,
    )  # fmt: skip


def _gaps(frame: pd.DataFrame, spec: Table) -> Iterator[Finding]:
    for entity, interval, rows in _series(frame, spec):
        clock = rows[spec.clock]
        spacing = clock.diff()
        step = spacing.mode().iloc[0] if interval is None and len(rows) > 1 else INTERVALS.get(interval or "")
        if step is None:
            continue
        for place in np.flatnonzero((spacing > step).to_numpy()):
            before, after = clock.iloc[place - 1], clock.iloc[place]
            missing = round((after - before) / step) - 1
            span = (before + step, after - step)
            yield _found("gap", spec, (entity, interval), span, f"{missing:,} rows missing", count=missing)


def _prices(frame: pd.DataFrame, spec: Table) -> Iterator[Finding]:
    for entity, interval, rows in _series(frame, spec):
        place = (entity, interval)
        move = np.log(rows["close"]).diff()
        back = move + move.shift(-1)
        jump = move.abs() > MAX_RETURN
        spike = jump & (back.abs() < move.abs() / 2)
        # The bar after a spike is the way back, not another jump.
        jump &= ~spike & ~spike.shift(1, fill_value=False)
        for time, size in zip(rows["close_time"][spike], move[spike], strict=True):
            message = f"the close moves by {np.expm1(size):+.0%} and comes back in the next bar"
            yield _found("impossible price", spec, place, [time], message, severity="error")
        for time, size in zip(rows["close_time"][jump], move[jump], strict=True):
            yield _found("extreme return", spec, place, [time], f"the close moves by {np.expm1(size):+.0%}")
        width = rows["high"] / rows["low"]
        for time, ratio in zip(rows["close_time"][width > MAX_RANGE], width[width > MAX_RANGE], strict=True):
            yield _found("extreme range", spec, place, [time], f"the high is {ratio:.3g} times the low")


def _idle(frame: pd.DataFrame, spec: Table) -> Iterator[Finding]:
    """Runs of bars in which nothing was traded."""
    if "volume" not in frame:
        return
    for entity, interval, rows in _series(frame, spec):
        still = rows["volume"] == 0
        run = (still != still.shift()).cumsum()[still]
        for _, times in rows["close_time"][still].groupby(run):
            message = f"{len(times)} bars without any trade"
            yield _found("no trades", spec, (entity, interval), times, message)


def _settlements(frame: pd.DataFrame, spec: Table) -> Iterator[Finding]:
    """Holes in the settlements, and changes of their interval."""
    for entity, _, rows in _series(frame, spec):
        clock = rows["funding_time"]
        spacing = clock.diff().dt.total_seconds() / 3600
        stated = rows["interval_hours"].fillna(spacing.mode().iloc[0] if len(rows) > 1 else np.nan)
        for place in np.flatnonzero((spacing > stated).to_numpy()):
            span = (clock.iloc[place - 1], clock.iloc[place])
            message = f"{spacing.iloc[place]:g} hours without a settlement"
            yield _found("gap", spec, (entity, None), span, message, count=1)
        known = rows.dropna(subset="interval_hours")
        hours = known["interval_hours"]
        for place in np.flatnonzero((hours.diff().fillna(0) != 0).to_numpy()):
            message = f"the interval goes from {hours.iloc[place - 1]:g} to {hours.iloc[place]:g} hours"
            yield _found("interval change", spec, (entity, None), [known["funding_time"].iloc[place]], message)


def _stale(frame: pd.DataFrame, spec: Table, newest: pd.Timestamp) -> Iterator[Finding]:
    for entity, interval, rows in _series(frame, spec):
        patience = INTERVALS[interval] * BARS_OF_PATIENCE if interval else PATIENCE.get(spec.name)
        last = rows[spec.clock].iloc[-1]
        if patience is not None and newest - last > patience:
            message = f"ends {newest - last} before the newest bar"
            yield _found("stale", spec, (entity, interval), [last], message)


def _disagreements(store: Store, spec: Table) -> Iterator[Finding]:
    """Values that a second import states differently from the one that the reader takes."""
    groups: dict[tuple[str | None, str | None], list[pd.DataFrame]] = {}
    for order, file in enumerate(store.find(spec.name)):
        rows = store.read(file).assign(import_order=order)
        groups.setdefault((file.interval, file.symbol), []).append(rows)
    key = list(spec.identity)
    for parts in groups.values():
        if len(parts) == 1:
            continue
        rows = preferred(pd.concat(parts, ignore_index=True), key)
        again = rows.duplicated(key)
        pairs = rows[again].merge(rows[~again], on=key, suffixes=("", "_taken"))
        yield from _differences(pairs, spec)


def _differences(pairs: pd.DataFrame, spec: Table) -> Iterator[Finding]:
    labels = [name for name in spec.identity if name not in (spec.clock, "tier", "interval")]
    for column in (name for name in spec.values if name in pairs):
        other, taken = pairs[column], pairs[f"{column}_taken"]
        apart = (other - taken).abs() > AGREEMENT * np.maximum(other.abs(), taken.abs())
        wrong = pairs[apart]
        for names, rows in wrong.groupby([*labels, "source", "source_taken"], sort=True):
            *entity, offered, used = map(str, names)
            gap = ((other - taken).abs() / taken.abs())[rows.index].max()
            interval = str(rows["interval"].iloc[0]) if "interval" in rows else None
            times = rows.drop_duplicates(list(spec.identity))[spec.clock].sort_values()
            message = f"{column}: {offered} differs from {used} on {len(times):,} rows, by up to {gap:.2g}"
            yield _found("disagreement", spec, (" ".join(entity), interval), times, message)
