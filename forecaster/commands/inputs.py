"""What a user names (a store, an instant, symbols, horizons, a configuration) resolved, or refused with the cure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import pandas as pd

from features.errors import DataInvalid, DataStale, UsageError
from features.market import Market
from features.schemas import nearest
from forecaster.settings import Settings
from training.config import RunConfig
from training.engine import Engine
from training.registry import Registry
from training.tracking import Tracking

if TYPE_CHECKING:
    from forecaster.policy.audit.override import Governance

__all__ = [
    "Configuration",
    "StoreLike",
    "check_fresh",
    "check_symbols",
    "configuration",
    "engine",
    "forecast_table",
    "governance",
    "instant",
    "place_of",
    "read",
    "registry",
    "told_by_venue",
    "tracking",
    "workers",
]

StoreLike: TypeAlias = Market | str | Path | None
Configuration: TypeAlias = RunConfig | str | Path | None
Moment: TypeAlias = str | date | None

MAX_HORIZON: Final = 720
# A forecast made on a bar that closed earlier than this before the asked instant is no forecast of it.
PATIENCE: Final = pd.Timedelta(hours=3)


def read(store: StoreLike = None, settings: Settings | None = None) -> Market:
    """The market of a store folder (None: the one that ``FORECASTER_STORE`` names)."""
    if isinstance(store, Market):
        return store
    place = place_of(store, settings)
    if not place.is_dir():
        raise UsageError(
            f"store {place}: no such folder; fill one with: forecaster data import --from SOURCE PATH --store {place}"
        )
    market = Market.open(place)
    if not market.symbols:
        raise DataInvalid(f"store {place} holds no hourly bars; import some with: forecaster data import")
    return market


def place_of(store: str | Path | None, settings: Settings | None = None) -> Path:
    """The store's folder, whether or not it is there yet."""
    place = store or (settings or Settings.load()).store
    if place is None:
        raise UsageError("no store is named: give --store DIR, or set FORECASTER_STORE")
    return Path(place)


def instant(moment: Moment, option: str) -> pd.Timestamp | None:
    """An ISO date or instant in UTC; None stays None."""
    if moment is None:
        return None
    try:
        told = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
        at = pd.Timestamp(told)
    except ValueError:
        raise UsageError(
            f"{option} {moment}: write a date or an instant in UTC, such as 2024-01-31 or 2024-01-31T08:00Z"
        ) from None
    return (at.tz_localize(UTC) if at.tzinfo is None else at.tz_convert(UTC)).as_unit("us")


def configuration(config: Configuration, horizons: str | Sequence[int] | None, overrides: Sequence[str]) -> RunConfig:
    """The settings of a run: a TOML file (None: the recommended ones), then what the command line says."""
    if isinstance(config, RunConfig) and overrides:
        raise UsageError(f"overrides {list(overrides)} change a file's settings; change the RunConfig itself")
    chosen = config if isinstance(config, RunConfig) else RunConfig.load(config, overrides)
    if horizons is not None:
        words = horizons.split(",") if isinstance(horizons, str) else map(str, horizons)
        chosen = chosen.model_copy(update={"horizons": tuple(sorted({_hours(word) for word in words}))})
    if max(chosen.horizons) > MAX_HORIZON:
        raise UsageError(f"horizon {max(chosen.horizons)}: hours between 1 and {MAX_HORIZON} are forecast")
    return chosen


def _hours(word: str) -> int:
    if not word.strip().isdecimal() or not 1 <= int(word) <= MAX_HORIZON:
        raise UsageError(
            f"--horizons: {word.strip()!r} is no number of hours between 1 and {MAX_HORIZON}; write --horizons 1,4,24"
        )
    return int(word)


def check_fresh(market: Market, as_of: pd.Timestamp) -> None:
    """Refuse an instant that the data do not reach."""
    last = market.table("bars", "1h")["close_time"].max()
    if as_of - last > PATIENCE:
        raise DataStale(
            f"--as-of {as_of:%Y-%m-%dT%H:%MZ}: the newest bar closed at {last:%Y-%m-%dT%H:%MZ}; "
            f"import newer data, or ask --as-of {last:%Y-%m-%dT%H:%MZ}"
        )


def check_symbols(market: Market, symbols: Sequence[str] | None) -> None:
    """Refuse a symbol that the market does not have."""
    for symbol in symbols or ():
        if symbol not in market.symbols:
            raise UsageError(f"there is no symbol {symbol!r} in the store{nearest(symbol, market.symbols)}")


def forecast_table(source: pd.DataFrame | str | Path, *models: str) -> pd.DataFrame:
    """Some models' forecasts from a frame, a Parquet file, or the folder of a Parquet sink.

    Beside the forecast table's columns a file may hold ``obs_insurance_fund_usd`` and ``obs_oracle_gap``, which a venue
    joins to it. Raises ``DataInvalid`` naming file and column where it is no such table.
    """
    if isinstance(source, pd.DataFrame):
        return source
    if not Path(source).exists():
        raise UsageError(f"forecasts {source}: no such file; make it with forecaster evaluate or forecast")
    if Path(source).is_dir():
        from forecaster.sinks.parquet import read as read_sink

        return read_sink(source)
    from models.table import read_parquet

    told = told_by_venue(Path(source))
    return _joined(Path(source), models, told) if told else read_parquet(source, models=models)


def told_by_venue(path: Path) -> list[str]:
    """The columns of a forecast file that only a venue can fill."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from forecaster.policy.feeds import VENUE_OBSERVABLES

    try:
        names = pq.read_schema(path).names
    except (OSError, pa.ArrowException):
        return []  # no Parquet file: whoever reads it says so
    return [name for name in (f"obs_{observable}" for observable in VENUE_OBSERVABLES) if name in names]


def _joined(path: Path, models: Sequence[str], told: Sequence[str]) -> pd.DataFrame:
    """Some models' rows of a forecast file with a venue's columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from models.base import FORECAST_SCHEMA

    schema = pa.schema([*FORECAST_SCHEMA, *(pa.field(name, pa.float64()) for name in told)])
    found = pq.read_schema(path).names
    if odd := sorted(set(found).symmetric_difference(schema.names)):
        raise DataInvalid(
            f"{path}: missing or unknown column {odd[0]}; a forecast table has the schema's columns and, where a venue "
            f"joins them, {' and '.join(told)}"
        )
    # A plain file, never a data set: Hive names in the path must not add columns.
    rows = pq.read_table(path, columns=schema.names, filters=[("model", "in", models)], partitioning=None)
    try:
        frame: pd.DataFrame = rows.cast(schema).to_pandas()
    except (pa.ArrowException, ValueError) as error:
        raise DataInvalid(
            f"{path}: not of the forecast table's types: {error}; see forecaster schema forecasts"
        ) from None
    return frame


def governance(events: str | Path | None, registry: str | Path | None) -> Governance:
    """What the key holders of a registry have signed of a log of events; nothing where neither is named."""
    from forecaster.policy.audit.keys import Registry
    from forecaster.policy.audit.override import Governance

    if events is None or registry is None:
        if events is not None or registry is not None:
            raise UsageError("--events FILE and --registry FILE.toml belong together: name both, or neither")
        return Governance()
    return Governance.read(events, Registry.load(registry))


def workers(jobs: int | None, config: RunConfig, settings: Settings) -> int:
    """How many processes: as asked, as configured, or one a core."""
    return jobs or config.execution.workers or settings.workers or os.cpu_count() or 1


def engine(name: str | None, jobs: int | None, config: RunConfig, settings: Settings) -> Engine:
    """Where folds are made, as asked or as configured; ``UsageError`` where that place cannot be used."""
    chosen = Engine.named(name or config.execution.engine, workers(jobs, config, settings))
    chosen.check()
    return chosen


def tracking(config: RunConfig, settings: Settings) -> Tracking:
    """Where the run is tracked."""
    return Tracking(settings.tracking_uri, config.tracking.experiment)


def registry(config: RunConfig, settings: Settings) -> Registry:
    """The registered models."""
    return Registry(tracking(config, settings), settings.model_cache, settings.model_name)
