"""What is scheduled: releases whose hour is published long before, at which volatility is known to rise.

``calendars/united_states.csv`` holds the statements of the Federal Open Market Committee, consumer prices and the employment
situation, by date and hour in New York, as announced by federalreserve.gov/monetarypolicy/fomccalendars.htm and
bls.gov/schedule. Both publish a year's dates before the year begins; here a date counts as known from the first of December
before its year. Meetings that were called at short notice (March 2020) are not in it, nor is the one they replaced. Each kind
ends at its own last row: after that none of it is scheduled, and forecasts are those without. The file is there to be
extended.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataInvalid

__all__ = ["CALENDAR", "RELEASES", "Schedule", "scheduled"]

CALENDAR: Final = files("features") / "calendars" / "united_states.csv"
RELEASES: Final = ("fomc_statement", "consumer_prices", "employment")
ZONE: Final = "America/New_York"


@dataclass(frozen=True)
class Schedule:
    """Scheduled releases in order of time; arrays (n_events,).

    ``kind``: index into ``RELEASES``. ``hour``: hour since the epoch at which the bar closes that holds the release.
    ``known``: hour since the epoch from which the date counts as known.
    """

    kind: npt.NDArray[np.int64]
    hour: npt.NDArray[np.int64]
    known: npt.NDArray[np.int64]

    @property
    def end(self) -> pd.Timestamp:
        """Close of the last bar until which every kind is scheduled."""
        last = min(int(self.hour[self.kind == kind][-1]) for kind in np.unique(self.kind))
        return pd.Timestamp(last, unit="h", tz="UTC")


@cache
def scheduled() -> Schedule:
    """The calendar that comes with the package."""
    with CALENDAR.open() as file:
        rows = pd.read_csv(file)
    local = pd.DatetimeIndex(pd.to_datetime(rows["date"] + " " + rows["time"])).tz_localize(ZONE)
    hour = np.asarray(local.tz_convert("UTC").floor("h").as_unit("s").asi8 // 3600 + 1)
    december = pd.DatetimeIndex([pd.Timestamp(year - 1, 12, 1, tz="UTC") for year in local.year])
    kind = pd.Index(RELEASES).get_indexer(pd.Index(rows["release"])).astype(np.int64)
    if (kind < 0).any():
        row = int(np.flatnonzero(kind < 0)[0])
        raise DataInvalid(
            f"{CALENDAR}, row {row + 2}: release {rows['release'][row]!r} is none of {', '.join(RELEASES)}; correct its name"
        )
    order = np.argsort(hour, kind="stable")
    return Schedule(kind[order], hour[order], np.asarray(december.as_unit("s").asi8 // 3600)[order])
