"""The single leak checks: one code path, one market, one cut; ``leakage`` says what each of them demands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from features import targets
from features.leak_report import Check, Finding, Leak, Part, differences
from features.market import Market
from features.panel import FEED_AGE_CAP_HOURS, Proxy
from features.pipeline import FeaturePipeline
from features.schemas import TABLES

__all__ = ["DELAY", "POISONS", "ROWS_BACK", "Feed", "Subject", "Tables", "delayed", "joined_by_stranger", "poisoned"]

Tables: TypeAlias = dict[str, pd.DataFrame]

POISONS: Final = ("nan", "1e300", "permutation")
HOUR: Final = pd.Timedelta(hours=1)
ROWS_BACK: Final = pd.Timedelta(days=7)
POISONED_TAIL: Final = pd.Timedelta(days=10)
# Longer than a funding rate is carried, so that the delay empties the rows that it hits.
DELAY: Final = pd.Timedelta(hours=30)
# Both sides of that comparison begin there: it needs regimes (90 days of intervals), not the whole warm-up.
ARRIVAL_HISTORY: Final = pd.Timedelta(days=120)
# Sorts before any symbol of an exchange, and so moves the row of every other one.
STRANGER: Final = "0NEWUSDT"


class Feed(NamedTuple):
    """A table, or its rows of one interval or symbol."""

    table: str
    interval: str | None = None
    symbol: str | None = None

    def among(self, rows: pd.DataFrame) -> pd.Series:
        """Which of the table's rows are the feed's."""
        ours = pd.Series(True, index=rows.index)
        for column, value in (("interval", self.interval), ("symbol", self.symbol)):
            if value is not None:
                ours &= rows[column] == value
        return ours


@dataclass(frozen=True)
class Subject:
    """The code path on trial: what makes features and targets of a market."""

    pipeline: FeaturePipeline
    horizons: tuple[int, ...]
    proxy: Proxy
    seed: int

    def tables(self, market: Market) -> Tables:
        """Features and targets of every origin."""
        with np.errstate(all="ignore"):  # poison overflows
            return {
                "features": self.pipeline.transform(market),
                "targets": targets.realised(market, self.horizons, self.proxy),
            }

    def history(self, market: Market, whole: Tables, t: pd.Timestamp) -> Finding:
        """Prefix law on every row; ``whole`` are the tables of the whole market."""
        return _compared("prefix", t, _parts(whole, None, t, known=t), _parts(self.tables(market.as_of(t))))

    def recent(self, market: Market, whole: Tables, t: pd.Timestamp, poison: str) -> Finding:
        """Prefix, restart and poison on the newest rows."""
        expected = _parts(whole, t - ROWS_BACK, t, known=t)
        warm = market.since(t - ROWS_BACK - self.pipeline.warmup * HOUR)
        clean = _parts(self.tables(warm.as_of(t)), t - ROWS_BACK, t)
        prefix = _compared("prefix", t, expected, clean)
        if prefix.leaks:
            from_all = _parts(self.tables(market.as_of(t)), t - ROWS_BACK, t)
            if not _compared("prefix", t, expected, from_all).leaks:
                prefix = replace(prefix, leaks=tuple(replace(leak, check="restart") for leak in prefix.leaks))
        tail = joined_by_stranger(warm.as_of(t + POISONED_TAIL), t)
        spoilt = poisoned(tail, t, poison, np.random.default_rng([self.seed, t.value]))
        made = {name: frame.drop(STRANGER, errors="ignore") for name, frame in self.tables(spoilt).items()}
        return prefix + _compared("poison", t, clean, _parts(made, t - ROWS_BACK, t, known=t))

    def arrival(self, market: Market, t: pd.Timestamp) -> Finding:
        """Feeds come late from ``t`` on: by their latency, then by a long delay that hits one symbol's bars too."""
        usual = market.since(t - ARRIVAL_HISTORY).as_of(t + 2 * DELAY)
        symbols = usual.symbols
        if not symbols:
            return Finding({}, ())
        made, read = self.tables(usual), self._feeds()
        feeds = sorted(set(read.values()), key=str)
        late = delayed(usual, {feed: max(TABLES[feed.table].latency, HOUR) for feed in feeds}, t)
        found = self.tables(late)
        missed = {feed: rows for feed in feeds if len(rows := _missed(usual, feed, t))}
        deaf = Finding({}, tuple(_deaf(made, found, read, missed, t)))
        # In turn, so that many cuts delay every symbol; the others' rows must not notice what they do not read.
        alone = Feed("bars", "1h", symbols[t.value // HOUR.value % len(symbols)])
        later = delayed(usual, dict.fromkeys([*feeds, alone], DELAY), t)
        finding = self._late(made, late, found, t) + deaf
        return finding + self._late(made, later, self.tables(later), t)

    def _late(self, usual: Tables, late: Market, found: Tables, t: pd.Timestamp) -> Finding:
        """What came before ``t`` stays, and the prefix law holds while rows are under way."""
        stays = _compared(
            "arrival", t, _parts(usual, t - ROWS_BACK, t, known=t), _parts(found, t - ROWS_BACK, t, known=t)
        )
        middle = t + DELAY / 2
        seen = self.tables(late.as_of(middle))
        return stays + _compared("arrival", middle, _parts(found, t, middle, known=middle), _parts(seen, t, middle))

    def _feeds(self) -> dict[str, Feed]:
        """For each feature that reads a table of its own beside the hourly bars: that table and its interval."""
        feeds: dict[str, Feed] = {}
        for name, read in self.pipeline.describe()[["name", "feeds"]].itertuples(index=False, name=None):
            for feed in read.split(", "):
                table, _, interval = feed.partition(" ")
                if table in TABLES and feed != "bars":
                    feeds[name] = Feed(table, interval or None)
        return feeds


def poisoned(market: Market, t: pd.Timestamp, kind: str, rng: np.random.Generator) -> Market:
    """The market with every value that became known after ``t`` replaced: "nan", "1e300" or "permutation"."""
    changed = {}
    for name, spec in TABLES.items():
        rows = market.table(name)
        late = np.flatnonzero(rows["available_at"] > t)
        if not late.size:
            continue
        values = [column for column in spec.values if column in rows]
        content = rows[values].to_numpy(np.float64, copy=True)
        content[late] = content[rng.permutation(late)] if kind == "permutation" else float(kind)
        changed[name] = rows.assign(**dict(zip(values, content.T, strict=True)))
    return market.with_tables(**changed)


def joined_by_stranger(market: Market, t: pd.Timestamp) -> Market:
    """The market in which a symbol nobody had heard of is listed just after ``t``, and all later listings are, too."""
    changed = {}
    for name in (name for name, spec in TABLES.items() if "symbol" in spec.columns):
        rows = market.table(name)
        late = rows[rows["available_at"] > t]
        if len(late):
            twin = late[late["symbol"] == late["symbol"].iloc[0]]
            changed[name] = pd.concat([rows, twin.assign(symbol=STRANGER)], ignore_index=True)
    listed = market.first_bar.mask(market.first_bar > t, t + HOUR)
    listed[STRANGER] = t + HOUR
    return market.with_tables(**changed).with_symbols(listed.rename_axis("symbol").rename("first_bar").reset_index())


def delayed(market: Market, delays: Mapping[Feed, pd.Timedelta], t: pd.Timestamp) -> Market:
    """The market whose feeds come later from ``t`` on, each by its own delay."""
    changed: dict[str, pd.DataFrame] = {}
    for feed, delay in delays.items():
        rows = changed.get(feed.table, market.table(feed.table))
        late = feed.among(rows) & (rows["available_at"] > t)
        changed[feed.table] = rows.assign(available_at=rows["available_at"].mask(late, rows["available_at"] + delay))
    return market.with_tables(**changed)


def _missed(market: Market, feed: Feed, t: pd.Timestamp) -> pd.DataFrame:
    """The rows that a delay at ``t`` hits, in order of arrival; none where they would not span an hour.

    A single row may be no more than the beginning of an hour that never became complete.
    """
    rows = market.table(feed.table)
    known = rows["available_at"]
    first = rows[feed.among(rows) & (known > t) & (known <= t + DELAY)].sort_values("available_at", kind="stable")
    spans = len(first) > 1 and first["available_at"].iloc[-1] - first["available_at"].iloc[0] >= HOUR
    return first if spans else first[:0]


def _deaf(
    usual: Tables, changed: Tables, read: Mapping[str, Feed], missed: Mapping[Feed, pd.DataFrame], t: pd.Timestamp
) -> Iterator[Leak]:
    """Feeds whose absence changed nothing although they are read: another clock rules there."""
    before, after = (Part.of(of["features"], t, t + DELAY) for of in (usual, changed))
    moved = {leak.column for leak in differences(before, after, "arrival", "features", t).leaks}
    symbols = set(before.index.get_level_values("symbol"))
    for feed, rows in missed.items():
        users = [column for column, of in read.items() if of == feed]
        ages = [column for column in users if column.startswith("age_")]
        # A table may hold nothing but rows that no feature reads, such as those of an exchange without a family.
        known = not ages or bool((usual["features"][ages].iloc[before.rows] < FEED_AGE_CAP_HOURS).any(axis=None))
        rows = rows[rows["symbol"].isin(symbols)] if "symbol" in rows else rows
        if len(rows) and symbols and known and not moved.intersection(users):
            symbol = rows["symbol"].iloc[0] if "symbol" in rows else min(symbols)
            yield Leak("arrival", "features", users[0], symbol, rows["available_at"].iloc[0], t)


def _parts(
    tables: Tables,
    after: pd.Timestamp | None = None,
    upto: pd.Timestamp | None = None,
    known: pd.Timestamp | None = None,
) -> dict[str, Part]:
    return {name: Part.of(frame, after, upto, known) for name, frame in tables.items()}


def _compared(check: Check, t: pd.Timestamp, expected: Mapping[str, Part], found: Mapping[str, Part]) -> Finding:
    parts = [differences(expected[name], found[name], check, name, t) for name in expected]
    return sum(parts, Finding({}, ()))
