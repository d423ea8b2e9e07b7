"""Bars of one minute as they come in, made into the bars that features read, and forgotten.

Features and forecasts read bars of an hour and of 15 minutes. Where only minutes come in, an hour is what its sixty minutes
say: the first open, the highest high, the lowest low, the last close, and sums of volume. An hour that lacks a minute is no
bar; a gap stays a gap. Rows of other tables wait for the end of the hour in which they became known.

An hour ends with the first push that holds its last minute of any symbol, or a minute after it: its forecasts wait for no
other push, so all symbols of a minute go into one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataInvalid
from features.panel import MICROSECONDS_PER_HOUR
from features.schemas import OHLC, TABLES, TIME_DTYPE, table

__all__ = ["MinuteBars"]

MINUTES: Final = 60
MICROSECONDS_PER_MINUTE: Final = MICROSECONDS_PER_HOUR // MINUTES
NEVER: Final = np.iinfo(np.int64).min  # no hour has begun
# A bar made of minutes stands as known at its close; one known later than this may not move it, whatever push it is in.
LATEST: Final = MICROSECONDS_PER_MINUTE
PARTS: Final = {"15m": 15, "1h": 60}
SUMS: Final = tuple(name for name in TABLES["bars"].values if name in TABLES["bars"].columns and name not in OHLC)
FIELDS: Final = (*OHLC, *SUMS)


class MinuteBars:
    """Collects one hour.

    A bar made of minutes is known at its close, as every bar of the tables is. A minute counts where its four prices are
    there and it was known no later than a minute after the end of its hour. ``gaps``: of the symbols seen so far, those
    whose last hour was no bar, and how many of its minutes were missing (60 of one that was silent).
    """

    def __init__(self) -> None:
        self.gaps: dict[str, int] = {}
        self._end = NEVER
        self._symbols: dict[str, int] = {}
        self._minutes = np.empty((len(FIELDS), 0, MINUTES))
        self._waiting: dict[str, list[pd.DataFrame]] = {}
        self._source = "tables"

    def push(self, rows: Mapping[str, pd.DataFrame]) -> list[dict[str, pd.DataFrame]]:
        """Take in new rows of any tables; for each hour that ends with them and has a bar, all tables' rows of it.

        What it gives is what ``FeaturePipeline.update`` takes. ``bars`` must be of one minute, all symbols of a minute
        together. Raises ``DataInvalid`` for another interval, a minute that does not close on the minute, one that is there
        already, one whose hour has ended, and a row of any table without ``available_at``; nothing of such a push is taken in.
        """
        for name, frame in rows.items():
            _check_known(name, frame)
        bars = rows.get("bars")
        others = {name: frame for name, frame in rows.items() if name != "bars" and len(frame)}
        closes = self._closes(bars) if bars is not None and len(bars) else np.empty(0, dtype=np.int64)
        for name, frame in others.items():
            self._waiting.setdefault(name, []).append(frame)
        out = []
        ends = -(-closes // MICROSECONDS_PER_HOUR) * MICROSECONDS_PER_HOUR
        for end in np.unique(ends):
            if self._symbols and end > self._end:
                out += self._finish()
            self._end = int(end)
            inside = ends == end
            self._absorb(bars[inside], closes[inside])  # type: ignore[index]
            if (closes == end).any():
                out += self._finish()
        return out

    def _closes(self, bars: pd.DataFrame) -> npt.NDArray[np.int64]:
        """The closes of new minutes, in microseconds, once they are known to be sound."""
        closes = pd.DatetimeIndex(bars["close_time"]).as_unit("us").asi8
        odd = (bars["interval"] != "1m").to_numpy() | (closes % MICROSECONDS_PER_MINUTE != 0)
        late = closes <= self._begun
        twice = bars.duplicated(["symbol", "close_time"]).to_numpy() | self._there(bars, closes)
        for bad, cause in (
            (odd, "is no bar of one minute; pass others to update directly"),
            (late, "came after its hour had ended; pass all symbols of a minute in one push, in order of time"),
            (twice, "is there already; pass each minute once"),
        ):
            if bad.any():
                row = bars.iloc[int(np.flatnonzero(bad)[0])]
                raise DataInvalid(
                    f"table 'bars', row {row['interval']}, {row['symbol']}, {row['close_time']}: it {cause}"
                )
        return closes

    @property
    def _begun(self) -> int:
        """When the hour that is being collected began."""
        return self._end - MICROSECONDS_PER_HOUR if self._end > NEVER else NEVER

    def _there(self, bars: pd.DataFrame, closes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether the hour under way has these minutes already."""
        rows = np.array([self._symbols.get(symbol, -1) for symbol in bars["symbol"]])
        known = np.flatnonzero((rows >= 0) & (closes <= self._end))
        out = np.zeros(len(bars), dtype=np.bool_)
        out[known] = self._complete[rows[known], _minute(closes[known])]
        return out

    @property
    def _complete(self) -> npt.NDArray[np.bool_]:
        """Which minutes have all their prices; (n_symbols, 60)."""
        return np.asarray(~np.isnan(self._minutes[: len(OHLC)]).any(axis=0))

    def _absorb(self, bars: pd.DataFrame, closes: npt.NDArray[np.int64]) -> None:
        """Put minutes of the hour under way in their places."""
        for symbol in bars["symbol"]:
            self._symbols.setdefault(symbol, len(self._symbols))
        if "available_at" in bars:
            known = pd.DatetimeIndex(bars["available_at"]).as_unit("us").asi8
            in_time = known <= self._end + LATEST
            bars, closes = bars[in_time], closes[in_time]
        if "source" in bars and len(bars):
            self._source = str(bars["source"].iloc[0])
        if more := len(self._symbols) - self._minutes.shape[1]:
            fresh = np.full((len(FIELDS), more, MINUTES), np.nan)
            self._minutes = np.concatenate([self._minutes, fresh], axis=1)
        rows = np.array([self._symbols[symbol] for symbol in bars["symbol"]], dtype=np.int64)
        for field, values in zip(FIELDS, self._minutes, strict=True):
            if field in bars:
                values[rows, _minute(closes)] = bars[field].to_numpy(np.float64)

    def _finish(self) -> list[dict[str, pd.DataFrame]]:
        """End the hour: its bars and what waited for it, or nothing where no symbol has a bar; its minutes are forgotten."""
        end = pd.Timestamp(self._end, unit="us", tz="UTC")
        missing = (~self._complete).sum(axis=1)
        self.gaps = {symbol: int(missing[i]) for symbol, i in self._symbols.items() if missing[i]}
        made = pd.concat([self._bars(name, length, end) for name, length in PARTS.items()], ignore_index=True)
        if len(made):
            self._waiting.setdefault("bars", []).append(made)
        ended = bool((made["interval"] == "1h").any())
        self._minutes[:] = np.nan
        self._end += MICROSECONDS_PER_HOUR
        return [self._known(end)] if ended else []

    def _bars(self, interval: str, length: int, end: pd.Timestamp) -> pd.DataFrame:
        """Complete bars of one length inside the hour."""
        count = MINUTES // length
        cut = self._minutes.reshape(len(FIELDS), len(self._symbols), count, length)
        row, part = np.nonzero(self._complete.reshape(cut.shape[1:]).all(axis=2))
        whole = dict(zip(FIELDS, cut[:, row, part], strict=True))
        values = {"open": whole["open"][:, 0], "high": whole["high"].max(axis=1), "low": whole["low"].min(axis=1)}
        values["close"] = whole["close"][:, -1]
        values |= {name: whole[name].sum(axis=1) for name in SUMS}
        closes = pd.Series(end - (count - 1 - part) * pd.Timedelta(minutes=length), dtype=TIME_DTYPE)
        keys = {"interval": interval, "symbol": np.array(list(self._symbols), dtype=object)[row], "close_time": closes}
        bars = pd.DataFrame(keys | values | {"available_at": closes, "source": self._source})
        return bars.astype({"interval": "str", "symbol": "str", "source": "str"})

    def _known(self, end: pd.Timestamp) -> dict[str, pd.DataFrame]:
        """All rows known by the end of the hour; the others go on waiting."""
        out = {}
        for name, frames in list(self._waiting.items()):
            rows = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
            known = rows["available_at"] <= end
            if known.any():
                out[name] = rows[known].reset_index(drop=True)
            if known.all():
                del self._waiting[name]
            else:
                self._waiting[name] = [rows[~known].copy()]
        return out


def _check_known(name: str, frame: pd.DataFrame) -> None:
    """Refuse a row of which nobody knows when it was known: it would wait for ever."""
    if "available_at" in frame and (never := frame["available_at"].isna()).any():
        row = frame[never].iloc[0]
        key = ", ".join(str(row[column]) for column in table(name).identity if column in row)
        raise DataInvalid(
            f"table {name!r}, row {key}: it has no available_at; pass each row with the instant it was known"
        )


def _minute(closes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Which of the hour's minutes ends at each close, 0 to 59."""
    return (closes // MICROSECONDS_PER_MINUTE - 1) % MINUTES
