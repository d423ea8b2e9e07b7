"""Does anything look ahead? Law T, checked bit for bit on the tables that the models are given.

At a cut ``t`` a lawful column is the same whether computed from the whole market or from what was known at ``t``:

- **prefix**: ``transform(market.as_of(t))`` equals ``transform(market)`` on every origin up to ``t``; a target that
  looks ahead is null until its interval has ended, and equal from then on.
- **poison**: nothing up to ``t`` moves when all that became known later is replaced by NaN, by 1e300 or by a permutation
  of itself.
- **restart**: the newest origins have the same bits when computed from the pipeline's warm-up alone.
- **arrival**: when feeds are late, earlier rows stay, rows that used them change, and the prefix law holds on the
  delayed market too, which finds joins on another clock than ``available_at``.
- **live**: bars fed one at a time to ``update``, with restarts, give the rows of the batch.

Few cuts at random miss much (a backward fill shows only at a gap), so half of them stand at gaps, arrivals, listings,
and the borders of days and weeks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from features import replay, targets
from features.errors import UsageError
from features.leak_report import Check, Finding, Leak, LeakReport, differences
from features.market import Market
from features.panel import Proxy
from features.pipeline import FeaturePipeline
from features.schemas import TABLES

__all__ = ["FORWARD", "Leak", "LeakReport", "check", "cut_times", "poisoned"]

Instants: TypeAlias = npt.NDArray[np.int64]  # microseconds since the epoch
Tables: TypeAlias = dict[str, pd.DataFrame]
Feed: TypeAlias = tuple[str, str | None]
Task: TypeAlias = tuple[pd.Timestamp, str, Tables]

FORWARD: Final = ["variance", "log_return", "mae_long", "mae_short", "regime", "onset"]
"""Target columns that speak of the interval after the origin."""

POISONS: Final = ("nan", "1e300", "permutation")
HOUR: Final = pd.Timedelta(hours=1)
ROWS_BACK: Final = pd.Timedelta(days=7)
POISONED_TAIL: Final = pd.Timedelta(days=10)
# Longer than a funding rate is carried, so that the delay empties the rows that it hits.
DELAY: Final = pd.Timedelta(hours=30)
# A feed without a row for so long has a gap.
SILENCE: Final = pd.Timedelta(days=1)
CUTS_PER_TASK: Final = 5


def check(
    market: Market,
    pipeline: FeaturePipeline | None = None,
    horizons: Sequence[int] = (1, 4, 24, 72),
    proxy: Proxy = "garman_klass",
    cuts: int = 50,
    seed: int = 0,
    *,
    deep_cuts: int = 5,
    live_bars: int = 48,
    restarts: int = 4,
    jobs: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> LeakReport:
    """Check Law T of all features and targets at ``cuts`` instants; the module says what is checked.

    At every cut the last seven days of rows are computed again from the warm-up before them (prefix and restart at
    once), and again after poisoning the ten days that follow. At ``deep_cuts`` of the cuts, evenly spread, every row of
    the history is, and feeds are delayed. ``live_bars`` hours are played again in ``restarts`` stretches. ``jobs``
    processes share the work; ``progress`` is called with a label, the number of finished steps, and their total. Raises
    ``UsageError`` where the cuts cannot be placed.
    """
    subject = _Subject(pipeline or FeaturePipeline(horizons=horizons, proxy=proxy), tuple(horizons), proxy, seed)
    instants = cut_times(market, cuts, seed)
    whole = subject.tables(market)
    deep = [instants[i] for i in np.linspace(0, cuts - 1, min(deep_cuts, cuts)).astype(int)]
    tasks: list[Task] = [(t, POISONS[i % len(POISONS)], _rows(whole, t - ROWS_BACK, t)) for i, t in enumerate(instants)]
    findings = []
    for t in deep:
        findings.append(subject.history(market, whole, t) + subject.arrival(market, whole, t))
        if progress is not None:
            progress("whole history", len(findings), len(deep))
    for done, finding in enumerate(_run(subject, market, tasks, jobs), start=1):
        findings.append(finding)
        if progress is not None:
            progress("cuts", done, len(tasks))
    if live_bars:
        played = replay.check(
            market, subject.pipeline, whole["features"], live_bars, restarts, seed, jobs=jobs, progress=progress
        )
        findings += [finding for _, finding in played]
    scope = (
        f"Features and targets: at every cut the rows of the {ROWS_BACK.days} days before it, from the warm-up alone and "
        f"with a poisoned future; at {len(deep)} of the cuts every row of the history, and late feeds; "
        f"{live_bars} bars live, begun {restarts if live_bars else 0} times."
    )
    return LeakReport.of(instants, findings, scope)


def cut_times(market: Market, count: int, seed: int) -> tuple[pd.Timestamp, ...]:
    """``count`` instants with bars on either side, ascending: half at borders, half random quarters of an hour.

    Borders are beginnings, ends and middles of gaps, listings, arrivals of other tables' rows, days and weeks. Raises
    ``UsageError`` where ``count`` is not positive or there are too few bars for so many cuts.
    """
    bars = market.table("bars", "1h")
    closes = _micros(bars["close_time"])
    hour = HOUR // pd.Timedelta(microseconds=1)
    if count < 1 or len(closes) == 0 or count > np.ptp(closes) // hour:
        raise UsageError(
            f"{count} cuts do not fit into {len(closes)} hourly bars; ask for at least one, at most one an hour"
        )
    first, last = closes.min() + hour, closes.max() - hour
    others = [market.table(name) for name in TABLES if name != "bars"]
    edges = [_edges(bars, HOUR), *(_edges(rows, SILENCE) for rows in others if "symbol" in rows)]
    borders = [
        *(middles for _, middles in edges),
        np.concatenate([ends for ends, _ in edges]),
        np.unique(np.concatenate([_micros(rows["available_at"]) for rows in others])),
        np.arange(first + -first % (24 * hour), last, 24 * hour),
        np.arange(first + (4 * 24 * hour - first) % (168 * hour), last, 168 * hour),  # Mondays
    ]
    rng = np.random.default_rng(seed)
    pools = [rng.permutation(border[(border >= first) & (border <= last)])[:count] for border in borders]
    in_turn = [at for turn in zip_longest(*pools) for at in turn if at is not None]
    anywhere = rng.permutation(np.arange(first, last, hour // 4))
    chosen = list(dict.fromkeys([*list(dict.fromkeys(in_turn))[: count // 2], *anywhere]))[:count]
    return tuple(pd.DatetimeIndex(np.sort(chosen).astype("datetime64[us]"), tz="UTC"))


def _edges(rows: pd.DataFrame, step: pd.Timedelta) -> tuple[Instants, Instants]:
    """Where a symbol's rows stop, and begin or resume after more than ``step``; and the middles of the gaps."""
    at = _micros(rows["available_at"])
    same = np.asarray(rows["symbol"] == rows["symbol"].shift())
    before = np.concatenate([at[:1], at[:-1]])
    gap = same & (at - before > step // pd.Timedelta(microseconds=1))
    return np.concatenate([at[~same | gap], before[~same | gap]]), (at[gap] + before[gap]) // 2


def _micros(times: pd.Series) -> Instants:
    return pd.DatetimeIndex(times).as_unit("us").asi8


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


@dataclass(frozen=True)
class _Subject:
    """The code path on trial: what makes features and targets of a market."""

    pipeline: FeaturePipeline
    horizons: tuple[int, ...]
    proxy: Proxy
    seed: int

    def tables(self, market: Market) -> Tables:
        with np.errstate(all="ignore"):  # poison overflows
            return {
                "features": self.pipeline.transform(market),
                "targets": targets.realised(market, self.horizons, self.proxy),
            }

    def history(self, market: Market, whole: Tables, t: pd.Timestamp) -> Finding:
        """Prefix law on every row."""
        return _compared("prefix", t, _known(whole, t), self.tables(market.as_of(t)))

    def recent(self, market: Market, t: pd.Timestamp, poison: str, expected: Tables) -> Finding:
        """Prefix, restart and poison on the newest rows; ``expected`` are those rows of the whole market."""
        expected = _known(expected, t)
        warm = self._warm(market, t)
        prefix = _compared("prefix", t, expected, self._newest(warm.as_of(t), t))
        if prefix.leaks and not _compared("prefix", t, expected, self._newest(market.as_of(t), t)).leaks:
            prefix = replace(prefix, leaks=tuple(replace(leak, check="restart") for leak in prefix.leaks))
        spoilt = poisoned(warm.as_of(t + POISONED_TAIL), t, poison, np.random.default_rng([self.seed, t.value]))
        return prefix + _compared("poison", t, expected, _known(self._newest(spoilt, t), t))

    def arrival(self, market: Market, whole: Tables, t: pd.Timestamp) -> Finding:
        """Feeds come late from ``t`` on: what must stay, what must change, and the prefix law once more."""
        feeds = self._feeds()
        late, missed = _delayed(self._warm(market, t).as_of(t + 2 * DELAY), t, sorted(set(feeds.values()), key=str))
        if not missed:
            return Finding({}, ())
        made, middle = self.tables(late), t + DELAY / 2
        stays = _compared(
            "arrival", t, _known(_rows(whole, t - ROWS_BACK, t), t), _known(_rows(made, t - ROWS_BACK, t), t)
        )
        seen = self.tables(late.as_of(middle))
        lawful = _compared("arrival", middle, _known(_rows(made, t, middle), middle), _rows(seen, t, middle))
        return stays + lawful + Finding({}, tuple(self._deaf(whole, made, missed, t)))

    def _deaf(
        self, whole: Tables, made: Tables, missed: Mapping[Feed, pd.DataFrame], t: pd.Timestamp
    ) -> Iterator[Leak]:
        """Feeds whose absence changed nothing: they are read by another clock."""
        usual, changed = (_rows({"features": of["features"]}, t, t + DELAY)["features"] for of in (whole, made))
        moved = {leak.column for leak in differences(usual, changed, "arrival", "features", t).leaks}
        symbols = set(usual.index.get_level_values("symbol"))
        for feed, rows in missed.items():
            users = [column for column, read in self._feeds().items() if read == feed]
            if "symbol" in rows:
                rows = rows[rows["symbol"].isin(symbols)]
            if len(rows) and symbols and not moved.intersection(users):
                symbol = rows["symbol"].iloc[0] if "symbol" in rows else min(symbols)
                yield Leak("arrival", "features", users[0], symbol, rows["available_at"].iloc[0], t)

    def _warm(self, market: Market, t: pd.Timestamp) -> Market:
        return market.since(t - ROWS_BACK - self.pipeline.warmup * HOUR)

    def _newest(self, market: Market, t: pd.Timestamp) -> Tables:
        return _rows(self.tables(market), t - ROWS_BACK, t)

    def _feeds(self) -> dict[str, Feed]:
        """For each feature that reads a table of its own beside the hourly bars: that table and its interval."""
        feeds: dict[str, Feed] = {}
        for name, read in self.pipeline.describe()[["name", "feeds"]].itertuples(index=False, name=None):
            for feed in read.split(", "):
                table, _, interval = feed.partition(" ")
                if table in TABLES and feed != "bars":
                    feeds[name] = (table, interval or None)
        return feeds


def _compared(check: Check, t: pd.Timestamp, expected: Tables, found: Tables) -> Finding:
    parts = [differences(expected[name], found[name], check, name, t) for name in expected]
    return sum(parts, Finding({}, ()))


def _known(tables: Tables, t: pd.Timestamp) -> Tables:
    """The rows up to ``t``; what speaks of intervals that end later is null."""
    kept = {}
    for name, frame in _rows(tables, None, t).items():
        if "target_end" in frame:
            ended = frame["target_end"] <= t
            frame = frame.assign(**{column: frame[column].where(ended) for column in FORWARD if column in frame})
        kept[name] = frame
    return kept


def _rows(tables: Tables, after: pd.Timestamp | None, upto: pd.Timestamp) -> Tables:
    """The rows with ``after < origin <= upto``."""
    kept = {}
    for name, frame in tables.items():
        index = cast(pd.MultiIndex, frame.index)
        level = index.names.index("origin")
        origins = index.levels[level]
        inside = np.asarray(origins <= upto) & (True if after is None else np.asarray(origins > after))
        kept[name] = frame[inside[index.codes[level]]]
    return kept


def _delayed(market: Market, t: pd.Timestamp, feeds: Sequence[Feed]) -> tuple[Market, dict[Feed, pd.DataFrame]]:
    """The market whose feeds come ``DELAY`` later from ``t`` on; per feed the rows missed in that time, if any."""
    changed: dict[str, pd.DataFrame] = {}
    missed = {}
    for name, interval in feeds:
        rows = changed.get(name, market.table(name))
        late = rows["available_at"] > t
        if interval is not None:
            late &= rows["interval"] == interval
        first = rows[late & (rows["available_at"] <= t + DELAY)].sort_values("available_at", kind="stable")
        # A single row may be no more than the beginning of an hour that never became complete.
        if len(first) > 1 and first["available_at"].iloc[-1] - first["available_at"].iloc[0] >= HOUR:
            missed[name, interval] = first
        changed[name] = rows.assign(available_at=rows["available_at"].mask(late, rows["available_at"] + DELAY))
    return market.with_tables(**changed), missed


def _run(subject: _Subject, market: Market, tasks: Sequence[Task], jobs: int) -> Iterator[Finding]:
    """The findings of all tasks, in order; processes take several tasks at once, as each reads the store."""
    if jobs == 1:
        yield from (subject.recent(market, *task) for task in tasks)
        return
    from joblib import Parallel, delayed

    groups = [tasks[i : i + CUTS_PER_TASK] for i in range(0, len(tasks), CUTS_PER_TASK)]
    made = Parallel(n_jobs=jobs, return_as="generator")(delayed(_group)(subject, market, group) for group in groups)
    with warnings.catch_warnings():
        # A process that has grown by 300 MB is replaced between its tasks, with this warning.
        warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
        for findings in made:
            yield from findings


def _group(subject: _Subject, market: Market, tasks: Sequence[Task]) -> list[Finding]:
    return [subject.recent(market, *task) for task in tasks]
