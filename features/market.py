"""The Market: a store's tables, seen from one instant.

``Market.as_of(t)`` holds only what had been known at ``t`` and refuses to be asked for more: a model under
test gets such a view, never the frames, so that looking ahead is impossible and not merely forbidden.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Final

import pandas as pd

from features.errors import DataInvalid, LookAhead
from features.schemas import OHLC, SOURCES, TIME_DTYPE, Table, empty, in_time, table
from features.store import Store

__all__ = ["Market", "merge", "preferred"]

Instant = str | pd.Timestamp

# Tables whose rows speak of one symbol, and of its market rather than of the venue's rules.
BY_SYMBOL: Final = ("bars", "mark", "spot", "funding", "open_interest", "order_book")

# Sources stamp the same settlement up to so much apart; a bar is known at its close or, to hourly features, not at all.
JITTER: Final = pd.Timedelta(minutes=1)
PROMPT: Final = pd.Timedelta(0)


class Market:
    """The tables of one market, whole or as of an instant.

    A store is read lazily, once a table and interval, and shared by all views; frames handed out are copies
    on write. A pickled market of a store carries the list of its files, not their rows.

    Attributes
    ----------
    asof
        The instant that the view stands at; None for the whole market.
    store
        The store that the market was opened from, if any.
    """

    def __init__(self, store: Store | None, tables: Mapping[str, pd.DataFrame], symbols: pd.DataFrame) -> None:
        self.store = store
        self._tables = dict(tables)
        self._symbols = symbols
        self._cache: dict[tuple[str, str | None], pd.DataFrame] = {}
        self._since: pd.Timestamp | None = None
        self.asof: pd.Timestamp | None = None

    @classmethod
    def open(cls, store: str | Path) -> Market:
        """The market of a store folder, as its manifest stands now.

        Raises
        ------
        DataInvalid
            The folder is no store, or holds no files.
        """
        opened = Store(store)
        if not opened.files:
            raise DataInvalid(f"{store} is no store or holds nothing; fill it with: forecaster data import")
        return cls(opened, {}, opened.symbols())

    @classmethod
    def from_tables(
        cls, tables: Mapping[str, pd.DataFrame], symbols: pd.DataFrame | None = None, *, checked: bool = True
    ) -> Market:
        """A market of flat frames with the tables' columns.

        ``available_at`` may be left out of bars (it is then ``close_time``), ``source`` of any table.
        ``symbols`` (``symbol, first_bar``) is derived from the hourly bars if None. ``checked=False`` is for rows of a
        store, which were judged when they came in. Raises ``DataInvalid`` naming the first bad row.
        """
        held = {name: _complete(frame, table(name), checked) for name, frame in tables.items()}
        if symbols is None:
            bars = held.get("bars", empty(table("bars")))
            first = in_time(bars[bars["interval"] == "1h"]).groupby("symbol", sort=True)["close_time"].min()
            symbols = first.rename("first_bar").reset_index()
        return cls(None, held, symbols)

    def with_tables(self, **tables: pd.DataFrame) -> Market:
        """The same market with whole tables replaced, unchecked; the view's instant stays."""
        other = self._view(self.asof, self._since)
        patched = {name: _complete(frame, table(name), checked=False) for name, frame in tables.items()}
        other._tables = {**self._tables, **patched}
        other._cache = {}
        return other

    def with_symbols(self, symbols: pd.DataFrame) -> Market:
        """The same market with another list of symbols and their first bars (``symbol, first_bar``)."""
        other = self._view(self.asof, self._since)
        other._symbols = symbols
        return other

    def as_of(self, t: Instant) -> Market:
        """The view that holds only rows with ``available_at <= t``; ``LookAhead`` if this view is older."""
        instant = _instant(t)
        if self.asof is not None and instant > self.asof:
            raise LookAhead(
                f"a view as of {self.asof.isoformat()} was asked for {instant.isoformat()}; "
                "take the later view from the whole market"
            )
        return self._view(instant, self._since)

    def since(self, t: Instant) -> Market:
        """The view that holds only rows whose clock is later than ``t``; ``first_bar`` stays."""
        instant = _instant(t)
        return self._view(self.asof, instant if self._since is None else max(instant, self._since))

    def _view(self, asof: pd.Timestamp | None, since: pd.Timestamp | None) -> Market:
        view = Market(self.store, self._tables, self._symbols)
        view._cache, view.asof, view._since = self._cache, asof, since
        return view

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}}

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols with an hourly bar in the view, sorted."""
        return tuple(sorted(self.table("bars", "1h")["symbol"].unique()))

    @property
    def mentioned(self) -> tuple[str, ...]:
        """Symbols with a row that a feature could read, sorted: some have funding or a spot market before their first bar."""
        return tuple(sorted({symbol for name in BY_SYMBOL for symbol in self.table(name)["symbol"].unique()}))

    @property
    def first_bar(self) -> pd.Series:
        """Close of each symbol's first hourly bar ever stored, as far as the view can know it."""
        first = self._symbols.set_index("symbol")["first_bar"].astype(TIME_DTYPE).sort_index()
        return first if self.asof is None else first[first <= self.asof]

    @property
    def data_sha256(self) -> str:
        """64 hexadecimal digits that stand for the whole market's data, not for one view of them."""
        parts = [] if self.store is None else [self.store.sha256]
        for name, frame in sorted(self._tables.items()):
            content = pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes()
            parts.append(f"{name}:{','.join(frame.columns)}:{hashlib.sha256(content).hexdigest()}")
        if parts and self.store is not None and not self._tables:
            return parts[0]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def table(self, name: str, interval: str | None = None, symbols: Sequence[str] | None = None) -> pd.DataFrame:
        """One table of the view: flat, sorted by its key; without rows where the market has none.

        Sources are merged: each column comes from the first of ``SOURCES`` that has it, open, high, low and
        close together; a merged row is available once all its parts are.
        """
        spec = table(name)
        whole = self._whole(spec, interval)
        keep = pd.Series(True, index=whole.index)
        if self.asof is not None:
            keep &= whole["available_at"] <= self.asof
        if self._since is not None:
            keep &= whole[spec.clock] > self._since
        if symbols is not None:
            keep &= whole[spec.entity].isin(list(symbols))
        return whole.copy(deep=False) if keep.all() else whole[keep].reset_index(drop=True)

    def bars(self, interval: str = "1h", symbols: Sequence[str] | None = None) -> pd.DataFrame:
        """Perpetual bars, indexed by (symbol, close_time)."""
        return self._indexed("bars", interval, symbols)

    def mark(self, interval: str = "1h", symbols: Sequence[str] | None = None) -> pd.DataFrame:
        """Mark-price bars, indexed by (symbol, close_time)."""
        return self._indexed("mark", interval, symbols)

    def spot(self, interval: str = "1h", symbols: Sequence[str] | None = None) -> pd.DataFrame:
        """Spot bars, indexed by (symbol, close_time)."""
        return self._indexed("spot", interval, symbols)

    def funding(self, exchange: str = "binance") -> pd.DataFrame:
        """Settled funding of one exchange: a fraction a settlement, and the hours it covers."""
        rows = self.table("funding")
        return rows[rows["exchange"] == exchange].reset_index(drop=True)

    def open_interest(self) -> pd.DataFrame:
        """Open interest, in base and quote currency."""
        return self.table("open_interest")

    def implied_vol(self) -> pd.DataFrame:
        """Implied volatility indices, annualised, per cent."""
        return self.table("implied_vol")

    def daily(self) -> pd.DataFrame:
        """Daily closes of other markets' series."""
        return self.table("daily")

    def margin_tiers(self) -> pd.DataFrame:
        """The exchange's margin tiers as observed."""
        return self.table("margin_tiers")

    def _indexed(self, name: str, interval: str, symbols: Sequence[str] | None) -> pd.DataFrame:
        rows = self.table(name, interval, symbols)
        return rows.drop(columns="interval").set_index(["symbol", "close_time"])

    def _whole(self, spec: Table, interval: str | None) -> pd.DataFrame:
        """All rows of a table (and interval), merged, sorted by key; cached."""
        place = (spec.name, interval if "interval" in spec.partitions else None)
        if place not in self._cache:
            self._cache[place] = self._load(spec, place[1])
        return self._cache[place]

    def _load(self, spec: Table, interval: str | None) -> pd.DataFrame:
        held = self._tables.get(spec.name)
        if held is not None:
            return held if interval is None else held[held["interval"] == interval].reset_index(drop=True)
        files = [] if self.store is None else self.store.find(spec.name, interval)
        parts: dict[tuple[str | None, str | None], list[pd.DataFrame]] = {}
        for file in files:
            rows = self.store.read(file) if self.store is not None else empty(spec)
            parts.setdefault((file.interval, file.symbol), []).append(rows)
        ordered = [rows for _, rows in sorted(parts.items(), key=lambda item: str(item[0]))]
        # One import is written sorted and without repetition.
        merged = [rows[0] if len(rows) == 1 else merge(rows, spec) for rows in ordered]
        return pd.concat(merged, ignore_index=True) if merged else empty(spec)


def _instant(t: Instant) -> pd.Timestamp:
    instant = pd.Timestamp(t)
    return instant.tz_localize("UTC") if instant.tzinfo is None else instant.tz_convert("UTC")


def _complete(frame: pd.DataFrame, spec: Table, checked: bool = True) -> pd.DataFrame:
    """The frame in the table's columns and types, sorted by key; ``DataInvalid`` names the first bad row."""
    from features.rules import conform, inspect

    rows = frame.reset_index(drop=True)
    if "available_at" not in rows and "interval" in spec.partitions:
        rows["available_at"] = rows[spec.clock]
    if "source" not in rows:
        rows["source"] = "tables"
    if checked:
        # What is simulated may lie in the future: the clock on the wall has no say here.
        rows, faults = inspect(rows, spec, now=pd.Timestamp.max.tz_localize("UTC"))
        for line, column, cause in faults.itertuples(index=False, name=None):
            raise DataInvalid(f"table {spec.name!r}, row {line}, column {column}: {cause}")
    else:
        rows, _ = conform(rows, spec)
    return rows.sort_values(list(spec.identity), kind="stable", ignore_index=True)


def merge(imports: Iterable[pd.DataFrame], spec: Table) -> pd.DataFrame:
    """One row a key, out of the rows of several imports (in order of import).

    Within one source the first import stands, and no row contributes that became known later than the key was from
    another source: what was known does not change, nor does it become unknown again. Of the others each column is
    taken from the first of ``SOURCES`` that has a value; open, high, low and close come together, from the first that
    has the row. ``available_at`` is the latest of the rows that contributed, ``source`` names them.
    """
    key = list(spec.identity)
    rows = preferred(pd.concat(list(imports), ignore_index=True), key)
    sources = list(dict.fromkeys(sorted(rows["source"].unique(), key=_rank)))
    if len(sources) <= 1:
        return rows.drop_duplicates(key, ignore_index=True)
    offered = [rows[rows["source"] == name].drop_duplicates(key).set_index(key) for name in sources]
    patience = PROMPT if "interval" in spec.partitions else JITTER
    return _merge_sources(offered, patience).sort_index().reset_index()[list(rows.columns)]


def preferred(rows: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """Rows of several imports (in order of import) by key; of equal keys the preferred source first."""
    ranked = rows.assign(_rank=rows["source"].map({name: _rank(name) for name in rows["source"].unique()}))
    return ranked.sort_values([*key, "_rank"], kind="stable", ignore_index=True).drop(columns="_rank")


def _rank(source: str) -> int:
    return SOURCES.index(source) if source in SOURCES else len(SOURCES)


def _merge_sources(offered: list[pd.DataFrame], patience: pd.Timedelta) -> pd.DataFrame:
    """``merge`` of frames indexed by key, one a source, the preferred first; later rows wait no longer than this."""
    index = reduce(lambda a, b: a.union(b), (frame.index for frame in offered))
    aligned = [frame.reindex(index) for frame in offered]
    known = pd.concat([frame["available_at"] for frame in aligned], axis=1).min(axis=1)
    present = [frame["available_at"] <= known + patience for frame in aligned]
    used = [pd.Series(False, index=index) for _ in offered]
    merged = pd.DataFrame(index=index)
    for column in (c for c in offered[0].columns if c not in {"available_at", "source"}):
        together = column in OHLC and "open" in offered[0].columns
        open_places = pd.Series(True, index=index)
        values = pd.Series(float("nan"), index=index)
        for rank, frame in enumerate(aligned):
            has = open_places & present[rank] & (together | frame[column].notna())
            values = values.where(~has, frame[column])
            used[rank] |= has
            open_places &= ~has
        merged[column] = values
    merged["available_at"] = pd.concat(
        [frame["available_at"].where(took) for frame, took in zip(aligned, used, strict=True)], axis=1
    ).max(axis=1)
    names = [frame["source"].where(took).fillna("") for frame, took in zip(aligned, used, strict=True)]
    merged["source"] = reduce(lambda a, b: (a + "+" + b).str.strip("+"), names)
    return merged
