"""Forecasts as the hours close: what ``serving.forecast`` gives at each origin, for the work of one hour.

Everything that an origin needs of the past is kept in memory of bounded length: the feature pipeline's tape, the GARCH
members' filters, two years of interval variances for the thresholds, and a year of forecasts and outcomes for the ensemble.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataStale, UsageError
from features.freshness import FEED_LIVES, feed_ages
from features.live import LiveMarket
from features.market import Market
from features.panel import Panel
from features.pipeline import DEFAULT_FAMILIES, FeaturePipeline
from features.schemas import TABLES
from models.base import ENSEMBLE
from models.ensemble import Assembly, LiveEnsemble
from models.past import Hour, Outcome, Record
from models.regimes import CLASSIFIED
from models.ring import Ring
from training.assembly import PRESENT_HOURS, Origin, Provenance, ensemble, records, split_inputs, symbol_rows
from training.live_targets import LiveTargets, Resolved, bars_of
from training.material import Material, prepare
from training.rows import Rows, micros
from training.serving import DELISTED, open_model, predicted, since_trained

__all__ = ["LiveForecaster"]

Array = npt.NDArray[np.float64]

HOUR: Final = pd.Timedelta(hours=1)


class LiveForecaster:
    """A trained model on a market that goes on: ``push`` each hour's rows, get that origin's forecasts.

    ``folder``: the artifact; ``market``: the history so far, of which the newest hourly bar is the last origin before the
    first ``push``. ``origin`` is the newest one taken in. Raises as ``serving.forecast`` does.
    """

    def __init__(self, folder: str | Path, market: Market, *, model_uri: str) -> None:
        trained = open_model(folder)
        material = prepare(market, trained.config)
        self.origin = material.times[-1]
        if self.origin < trained.as_of:
            raise DataStale(
                f"the model was fitted as of {trained.as_of.isoformat()}, the data end at {self.origin.isoformat()}; "
                "import newer data, or use an older model"
            )
        self._trained, self._uri = trained, model_uri
        self._sound = True
        self._data_sha256 = market.data_sha256
        families = trained.config.features.families or DEFAULT_FAMILIES
        self._pipeline = FeaturePipeline(families, trained.config.horizons, trained.config.proxy)
        self._market = LiveMarket()
        view = market.since(self.origin - (self._pipeline.warmup + 1) * HOUR).as_of(self.origin)
        tables = {name: rows for name in TABLES if len(rows := view.table(name))}
        panel = self._market.step(tables, trained.config.proxy, checked=False)
        self._pipeline.transform_panel(panel)
        feed_ages(panel)  # takes its place on the tape
        self._symbols = material.symbols
        self._begin(material, panel)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Every symbol ever mentioned, sorted."""
        return self._symbols

    def _begin(self, material: Material, panel: Panel) -> None:
        """The memories, filled from the batch."""
        config, n = self._trained.config, len(material.symbols)
        bars = np.full((4, n, len(panel)), np.nan)
        place = pd.Index(material.symbols).get_indexer(pd.Index(panel.symbols))
        bars[:, place[place >= 0]] = bars_of(panel)[:, place >= 0]  # some have funding before their first bar
        self._targets = LiveTargets(bars, {h: material.targets[h]["trailing_variance"] for h in config.horizons})
        ages = np.stack([material.ages[feed] for feed in FEED_LIVES])
        self._ages = Ring(ages, PRESENT_HOURS + 1)
        newest = np.where(material.alive, np.arange(len(material.times)), -np.inf).max(axis=1)
        self._hours_silent = len(material.times) - 1 - newest
        known, times = self._records(material)
        self._trained = replace(
            self._trained, history=self._trained.history.head(0).copy()
        )  # it is in the memories now
        self._ensemble = LiveEnsemble(ensemble(config), known, times)

    def _records(self, material: Material) -> tuple[list[Record], pd.DatetimeIndex]:
        """The members' forecasts since the history began, and what came of them, up to the newest hour."""
        trained = self._trained
        rows, told = since_trained(trained, material)
        raw = pd.concat([trained.history, told])
        for member in trained.members.values():
            member.follow(rows)
        if trained.regimes is not None:
            trained.regimes.follow(rows)
        known, span = records(material, raw, trained.config, newest=True)
        return known, material.times[span]

    def push(self, rows: Mapping[str, pd.DataFrame], *, made_at: pd.Timestamp, checked: bool = True) -> pd.DataFrame:
        """Take in all tables' new rows up to one origin; rows of the forecast table at that origin, all models.

        As ``FeaturePipeline.update`` asks for its rows, and ``serving.forecast`` gives its own; ``data_sha256`` stands for the
        history at the start and everything pushed since. After an outage one push brings all missed rows. Raises
        ``DataInvalid`` as ``update`` does, which leaves everything as it was, and ``UsageError`` after a push that was
        interrupted midway.
        """
        if not self._sound:
            raise UsageError(
                "a push was interrupted midway; begin again with a new LiveForecaster on the stored history"
            )
        market = self._market.copy()
        panel = market.step(rows, self._trained.config.proxy, checked)
        frame = self._pipeline.transform_panel(panel)
        ages = feed_ages(panel)
        told = predicted(self._trained, frame)
        self._sound = False
        for member in self._trained.members.values():
            member.follow(frame)
        self._market, self.origin = market, panel.times[-1]
        self._data_sha256 = _chained(self._data_sha256, rows)
        self._place(panel.symbols)
        out = self._rows(panel, frame, ages, told, made_at)
        self._sound = True
        return out

    def _place(self, symbols: tuple[str, ...]) -> None:
        """Make room for symbols never mentioned before."""
        every = tuple(sorted({*self._symbols, *symbols}))
        if every == self._symbols:
            return
        rows = pd.Index(self._symbols).get_indexer(pd.Index(every))
        for memory in (self._targets, self._ages, self._ensemble):
            memory.place(rows)
        self._hours_silent = np.where(rows >= 0, self._hours_silent[rows], np.inf)
        self._symbols = every

    def _rows(
        self,
        panel: Panel,
        frame: pd.DataFrame,
        ages: Mapping[str, Array],
        told: pd.DataFrame,
        made_at: pd.Timestamp,
    ) -> pd.DataFrame:
        """Every hour of the panel goes through the memories; the newest one's rows."""
        config, n = self._trained.config, len(self._symbols)
        place = pd.Index(self._symbols).get_indexer(pd.Index(panel.symbols))
        code = pd.Index(self._symbols).get_indexer(frame.index.get_level_values("symbol"))
        column = panel.times.get_indexer(pd.DatetimeIndex(frame.index.get_level_values("origin")).as_unit("us"))
        names, horizons = (told.columns.get_level_values(level) for level in ("member", "horizon_hours"))
        grids = np.full((told.shape[1], n, len(panel)), np.nan)
        grids[:, code, column] = told.to_numpy(np.float64).T
        bars, age = np.full((4, n, len(panel)), np.nan), np.full((len(FEED_LIVES), n, len(panel)), np.nan)
        bars[:, place], age[:, place] = bars_of(panel), np.stack([ages[feed] for feed in FEED_LIVES])
        for t in range(len(panel)):
            hour, resolved_at = {}, self._targets.step(bars[:, :, t])
            logits = self._logits(frame[column == t], code[column == t], resolved_at)
            for h, resolved in resolved_at.items():
                made = {name: grid[:, t] for grid, name, of in zip(grids, names, horizons, strict=True) if of == h}
                members, inputs = split_inputs(made | logits.get(h, {}), config)
                hour[h] = Hour(members, Outcome(*resolved.outcome), resolved.thresholds, resolved.now, inputs)
            assemblies = self._ensemble.step(hour)
            self._ages.append(age[:, :, t])
            self._hours_silent = np.where(np.isnan(bars[1, :, t]), self._hours_silent + 1, 0)
        newest = column == len(panel) - 1
        material = self._material(frame[newest], code[newest])
        span = slice(len(material.times) - 1, len(material.times))
        owed = np.flatnonzero(self._hours_silent < DELISTED / HOUR)
        hashes = dict.fromkeys([*self._trained.members, ENSEMBLE], self._trained.sha256)
        provenance = Provenance(config.sha256, self._data_sha256, {self.origin: hashes}, made_at, self._uri)
        return _table(assemblies, self._symbols, owed, Origin.of(material, span), self.origin, provenance)

    def _logits(
        self, frame: pd.DataFrame, code: npt.NDArray[np.intp], resolved: Mapping[int, Resolved]
    ) -> dict[int, dict[str, Array]]:
        """What the classifier of regimes says at one hour, by horizon and name, each (n_symbols,)."""
        regimes = self._trained.regimes
        if regimes is None or frame.empty:
            return {}
        at = [resolved[h] for h in regimes.horizons_]
        thresholds = np.stack([one.thresholds[:, code].T for one in at], axis=1)
        told = regimes.logits(frame, thresholds, np.stack([one.now[code] for one in at], axis=1))
        regimes.follow(frame)
        out: dict[int, dict[str, Array]] = {}
        for h in regimes.horizons_:
            out[h] = {name: np.full(len(self._symbols), np.nan) for name in CLASSIFIED}
            for name, values in out[h].items():
                values[code] = told[name, h].to_numpy()
        return out

    def _material(self, frame: pd.DataFrame, code: npt.NDArray[np.intp]) -> Material:
        """The newest hour's features, and the ages of the feeds that its status looks back on."""
        ages = self._ages.values
        times = pd.date_range(end=self.origin, periods=ages.shape[2], freq="h", unit="us")
        rows = Rows(
            frame.to_numpy(np.float64),
            tuple(map(str, frame.columns)),
            np.full((len(frame), len(self._trained.config.horizons)), np.nan),
            self._trained.config.horizons,
            code.astype(np.int64),
            self._symbols,
            np.full(len(frame), micros(self.origin)),
        )
        column = np.full(len(frame), len(times) - 1, dtype=np.int64)
        return Material(rows, times, self._symbols, column, {}, dict(zip(FEED_LIVES, ages, strict=True)))


def _table(
    assemblies: Mapping[int, Assembly],
    symbols: tuple[str, ...],
    owed: npt.NDArray[np.intp],
    status_of: Origin,
    origin: pd.Timestamp,
    provenance: Provenance,
) -> pd.DataFrame:
    """Rows of one hour, as ``training.assembly.table_rows``, of the symbols that a forecast is owed."""
    # One hour of many symbols is laid out like many hours of one symbol.
    lying = Origin(status_of.absent.T, status_of.flat.T, status_of.degraded.T)
    turned = [_turned(assemblies[h]) for h in sorted(assemblies)]
    pairs = [(assembly, model) for assembly in turned for model in sorted(assembly.columns)]
    hours = pd.DatetimeIndex([origin] * len(owed))
    rows = symbol_rows("", 0, owed, pairs, hours, lying, provenance)
    named = np.repeat(np.array(symbols, dtype=object)[owed], len(pairs))
    return rows.assign(symbol=pd.Series(named, dtype=rows["symbol"].dtype))


def _turned(assembly: Assembly) -> Assembly:
    columns = {model: {name: x.T for name, x in of_model.items()} for model, of_model in assembly.columns.items()}
    return replace(assembly, columns=columns, answered=assembly.answered.T)


def _chained(digest: str, rows: Mapping[str, pd.DataFrame]) -> str:
    """The hash of what was there before and of these rows."""
    content = hashlib.sha256(digest.encode())
    for name, frame in sorted(rows.items()):
        content.update(f"{name}:{','.join(map(str, frame.columns))}:".encode())
        content.update(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
    return content.hexdigest()
