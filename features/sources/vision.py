"""Reader of the Binance public archive, in its own folders, zipped or not, of every era.

``…/futures/um/…/klines``, ``markPriceKlines``, ``fundingRate``, ``metrics`` and ``…/spot/…/klines``. Spot
files never have a header, futures files since 2022; spot instants are microseconds from 2025 on and
milliseconds before, futures always milliseconds. The declared unit is checked against
``close_time - open_time``, which must be the interval less one. Files state a bar's last instant (``…999``);
a bar's ``close_time`` here is its exclusive end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from features.errors import DataInvalid
from features.schemas import INTERVALS, OHLC
from features.sources.archive import rows, unzip, verify
from features.sources.reading import BadRow, Reading, Skip

__all__ = ["read"]

NAME: Final = re.compile(r"(?P<symbol>[^\-]+)-(?P<what>\w+)-(?P<period>\d{4}-\d{2}(-\d{2})?)")
VENUE: Final = "binance"
KLINES: Final = (
    *("open_time", *OHLC, "volume", "close_time", "quote_volume", "count"),
    *("taker_buy_volume", "taker_buy_quote_volume", "ignore"),
)
FUNDING: Final = ("calc_time", "funding_interval_hours", "last_funding_rate")
METRICS: Final = (
    *("create_time", "symbol", "sum_open_interest", "sum_open_interest_value"),
    *("count_toptrader_long_short_ratio", "sum_toptrader_long_short_ratio"),
    *("count_long_short_ratio", "sum_taker_long_short_vol_ratio"),
)
BAR_TABLES: Final = {
    ("um", "klines"): "bars",
    ("um", "markPriceKlines"): "mark",
    ("spot", "klines"): "spot",
}
SPOT_MICROSECONDS: Final = pd.Timestamp("2025-01-01", tz="UTC")
# From here on a row of the metrics is labelled with the start of its five minutes, before with their end.
START_LABELLED: Final = pd.Timestamp("2026-06-25", tz="UTC")
# Spelt out, because pandas takes a part of it, or the word now, for an instant as well.
STAMP: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}"
FIVE_MINUTES: Final = pd.Timedelta(minutes=5)
# Settlements are stamped a few milliseconds late; a minute is no jitter any more.
MAX_JITTER: Final = pd.Timedelta(minutes=1)


@dataclass(frozen=True)
class _File:
    """What path and name say about a file."""

    path: Path
    market: str
    dataset: str
    symbol: str
    what: str
    start: pd.Timestamp
    end: pd.Timestamp

    @property
    def parameters(self) -> dict[str, str]:
        return {"market": self.market, "dataset": self.dataset, "name": self.path.stem}


def read(file: Path, content: bytes) -> Reading | Skip:
    """One file's rows; ``Skip`` if path or name say that no table holds them.

    Raises
    ------
    DataInvalid
        The checksum differs, the zip is not what the archive publishes, or the layout is not the dataset's.
    """
    known = _place(file)
    if isinstance(known, Skip):
        return known
    verify(file, content)
    text = unzip(file, content) if file.suffix == ".zip" else content
    if known.dataset == "fundingRate":
        return _funding(known, text)
    if known.dataset == "metrics":
        return _metrics(known, text)
    return _bars(known, text)


def _place(file: Path) -> _File | Skip:
    name = NAME.fullmatch(file.stem)
    if name is None or file.suffix not in {".zip", ".csv"}:
        return Skip("its name is not SYMBOL-WHAT-PERIOD.zip")
    folders = set(file.absolute().parts[:-1])
    market = next((m for m in ("um", "cm", "spot") if m in folders), None)
    what = name["what"]
    dataset = what if what in {"fundingRate", "metrics"} else None
    dataset = dataset or next((d for _, d in BAR_TABLES if d in folders), None)
    if market is None and dataset in {"fundingRate", "metrics"}:
        market = "um"
    if market == "cm":
        return Skip("coin-margined: its volumes are contracts")
    if "_" in name["symbol"]:
        return Skip("a dated future, not a perpetual")
    if market is None or dataset is None:
        raise DataInvalid(
            f"{file} does not say its market and dataset; keep the archive's folders, such as futures/um/monthly/klines"
        )
    barred = (market, dataset) in BAR_TABLES and what in INTERVALS
    if not barred and dataset not in {"fundingRate", "metrics"}:
        return Skip(f"no table holds {market} {dataset} of {what}")
    start = pd.Timestamp(name["period"], tz="UTC")
    end = start + (pd.DateOffset(months=1) if len(name["period"]) == 7 else pd.DateOffset(days=1))
    return _File(file, market, dataset, name["symbol"], what, start, end)


class _Sheet:
    """The lines of one file, from which bad ones are taken out with their cause."""

    def __init__(self, file: _File, content: bytes, columns: tuple[str, ...]) -> None:
        lines, fields, self.torn = rows(file.path, content, columns)
        self._file = str(file.path)
        index = pd.Index(lines, dtype="int64")
        self.frame = pd.DataFrame(fields, index=index, columns=list(columns), dtype="str")

    def number(self, column: str) -> pd.Series:
        """A column as float64; what is no number is NaN."""
        return pd.to_numeric(self.frame[column], errors="coerce").astype("float64")

    def epoch(self, column: str) -> pd.Series:
        """A column of whole numbers, written in digits alone as the archive does; what is none is NaN."""
        return self.number(column).where(self.frame[column].str.fullmatch("[0-9]+"))

    def remove(self, bad: pd.Series, column: str, cause: str) -> None:
        """Take out the lines where ``bad`` holds."""
        where = bad.to_numpy(dtype=bool)
        taken = self.frame[where]
        for line, *row in taken.itertuples(name=None):
            self.torn += ((BadRow(self._file, line, column, cause), ",".join(map(str, row))),)
        self.frame = self.frame[~where]

    def instants(self, column: str, per_second: int) -> pd.Series:
        """An epoch column as UTC instants; lines outside the years 1980 to 2200 are taken out."""
        seconds = self.epoch(column) / per_second
        unit = {1_000: "milliseconds", 1_000_000: "microseconds"}[per_second]
        outside = ~((seconds > 3.2e8) & (seconds < 7.3e9))
        self.remove(outside, column, f"is no instant in {unit}, the unit of this market and era")
        micro = self.number(column) * (1_000_000 // per_second)
        times = pd.Series(micro.to_numpy().astype("int64").astype("datetime64[us]"), index=self.frame.index)
        return times.dt.tz_localize("UTC")


def _outside(times: pd.Series, file: _File) -> pd.Series:
    return (times < file.start) | (times >= file.end)


def _bars(file: _File, content: bytes) -> Reading:
    sheet = _Sheet(file, content, KLINES)
    micro = file.market == "spot" and file.start >= SPOT_MICROSECONDS
    per_second = 1_000_000 if micro else 1_000
    step = int(INTERVALS[file.what].total_seconds()) * per_second
    sheet.instants("open_time", per_second)
    span = sheet.epoch("close_time") - sheet.epoch("open_time") + 1
    cause = f"is not open_time + {file.what} - 1 in the unit of this market and era"
    sheet.remove(span != step, "close_time", cause)
    opened = sheet.instants("open_time", per_second)
    sheet.remove(_outside(opened, file), "open_time", f"lies outside {file.path.stem}")
    frame = sheet.frame.rename(columns={"count": "trades"})
    table = BAR_TABLES[file.market, file.dataset]
    flow = ("volume", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")
    frame = frame[[*OHLC, *(() if table == "mark" else flow)]]
    close_time = sheet.instants("open_time", per_second) + INTERVALS[file.what]
    frame = frame.assign(interval=file.what, symbol=file.symbol, close_time=close_time, available_at=close_time)
    return Reading(table, frame, file.parameters, sheet.torn)


def _funding(file: _File, content: bytes) -> Reading:
    sheet = _Sheet(file, content, FUNDING)
    stated = sheet.instants("calc_time", 1_000)
    sheet.remove(_outside(stated.dt.round("h"), file), "calc_time", f"lies outside {file.path.stem}")
    stated = stated[sheet.frame.index]
    late = (stated - stated.dt.round("h")).abs() > MAX_JITTER
    sheet.remove(late, "calc_time", "is not within a minute of a full hour")
    stated = stated[sheet.frame.index]
    settled = stated.dt.round("h")
    frame = pd.DataFrame(
        {
            "exchange": VENUE,
            "symbol": file.symbol,
            "funding_time": settled,
            "funding_rate": sheet.frame["last_funding_rate"],
            "interval_hours": sheet.frame["funding_interval_hours"],
            "available_at": stated.where(stated > settled, settled),
        }
    )
    return Reading("funding", frame, file.parameters, sheet.torn)


def _metrics(file: _File, content: bytes) -> Reading:
    sheet = _Sheet(file, content, METRICS)
    repeated = sheet.frame.duplicated()
    notes = (f"{int(repeated.sum()):,} lines repeat an earlier one exactly",) if repeated.any() else ()
    sheet.frame = sheet.frame[~repeated]
    sheet.remove(sheet.frame["symbol"] != file.symbol, "symbol", f"is not {file.symbol}, the file's")
    text = sheet.frame["create_time"]
    label = pd.to_datetime(text.where(text.str.fullmatch(STAMP)), utc=True, errors="coerce", format="ISO8601")
    sheet.remove(label.isna(), "create_time", "is not an instant")
    label = label[sheet.frame.index].astype("datetime64[us, UTC]")
    # A day's last five minutes are labelled with the next midnight in the era of end labels.
    last = (label == file.end) & (label < START_LABELLED)
    sheet.remove(_outside(label, file) & ~last, "create_time", f"lies outside {file.path.stem}")
    label = label[sheet.frame.index]
    known = label.where(label < START_LABELLED, label + FIVE_MINUTES)
    frame = pd.DataFrame(
        {
            "symbol": file.symbol,
            "event_time": known,
            "open_interest": sheet.frame["sum_open_interest"],
            "open_interest_value": sheet.frame["sum_open_interest_value"].replace("", np.nan),
            "available_at": known,
        }
    )
    return Reading("open_interest", frame, file.parameters, sheet.torn, notes)
