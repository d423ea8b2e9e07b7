"""The market as it arrives: one step a bar, on a panel that remembers what it needs."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pandas as pd

from features.errors import DataInvalid
from features.market import Market
from features.panel import Panel, Proxy
from features.schemas import TABLES
from features.tape import Tape

__all__ = ["LiveMarket"]

HOUR = pd.Timedelta(hours=1)


class LiveMarket:
    """Takes in rows origin by origin; see ``FeaturePipeline.update``."""

    def __init__(self) -> None:
        self._tape = Tape()
        self._first_bar = pd.Series(dtype="datetime64[us, UTC]")
        self._quarters = pd.DataFrame()

    def copy(self) -> LiveMarket:
        """The same market, to take a step with that may fail."""
        other = copy.copy(self)
        other._tape = self._tape.copy()
        return other

    def step(self, rows: Mapping[str, pd.DataFrame], proxy: Proxy, checked: bool = True) -> Panel:
        """The panel of the hours after the last step, up to the newest hourly bar of ``rows``."""
        new = Market.from_tables({name: frame for name, frame in rows.items() if len(frame)}, checked=checked)
        bars = new.table("bars", "1h")
        last = self._tape.end
        if bars.empty or (last is not None and bars["close_time"].max() <= last):
            raise DataInvalid(
                "update needs new 1h rows of table 'bars'"
                + ("" if last is None else f", closing after {last.isoformat()}")
                + "; pass every table's rows up to one origin"
            )
        origin = bars["close_time"].max()
        tables = {name: new.table(name) for name in TABLES}
        for name, frame in tables.items():
            _check_arrival(name, frame, last, origin)
        first = self._first_bar.combine_first(new.first_bar).rename_axis("symbol").rename("first_bar")
        market = new.with_tables(bars=self._with_quarters(tables["bars"], origin)).with_symbols(first.reset_index())
        panel = Panel(market, proxy, self._tape)
        self._first_bar = first
        return panel

    def _with_quarters(self, bars: pd.DataFrame, origin: pd.Timestamp) -> pd.DataFrame:
        """The bars, and those inside the hour before them: the return of a first quarter reads the quarter before."""
        joined = pd.concat([self._quarters, bars], ignore_index=True) if len(self._quarters) else bars
        self._quarters = joined[(joined["interval"] != "1h") & (joined["close_time"] > origin - HOUR)]
        return joined


def _check_arrival(name: str, frame: pd.DataFrame, last: pd.Timestamp | None, origin: pd.Timestamp) -> None:
    """Refuse rows that batch would have used at another hour."""
    known = frame["available_at"]
    for bad, when in ((known > origin, f"after this origin ({origin.isoformat()})"), *_early(known, last)):
        if bad.any():
            row = frame[bad].iloc[0]
            key = ", ".join(str(row[column]) for column in TABLES[name].identity)
            raise DataInvalid(
                f"table {name!r}, row {key}: it was known at {row['available_at'].isoformat()}, {when}; "
                "pass each row with the first origin that knows it, or begin again with a new pipeline"
            )


def _early(known: pd.Series, last: pd.Timestamp | None) -> list[tuple[pd.Series, str]]:
    return [] if last is None else [(known <= last, f"before the last origin ({last.isoformat()})")]
