"""Train a model, promote it, forecast with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pandas as pd

from features.errors import UsageError
from features.schemas import nearest
from forecaster.commands import inputs
from forecaster.commands.inputs import Configuration, Moment, StoreLike
from forecaster.settings import Settings
from forecaster.sinks.parquet import Written
from training.config import RunConfig
from training.registry import CHAMPION

__all__ = ["Forecasted", "Promoted", "Trained", "forecast", "promote", "train"]

SINKS: Final = ("parquet",)


@dataclass(frozen=True)
class Trained:
    """A registered challenger and its out-of-sample losses."""

    uri: str
    sha256: str
    as_of: str
    losses: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The facts as one JSON object."""
        return asdict(self)

    def summary(self) -> str:
        """The facts in a few lines."""
        told = ", ".join(f"{name} {loss:.4f}" for name, loss in sorted(self.losses.items()))
        return f"{self.uri} is the challenger, fitted on everything up to {self.as_of}\nlosses: {told}"


@dataclass(frozen=True)
class Promoted:
    """The champion."""

    uri: str

    def to_dict(self) -> dict[str, Any]:
        """The facts as one JSON object."""
        return asdict(self)

    def summary(self) -> str:
        """The facts in one line."""
        return f"{self.uri} is the champion"


@dataclass(frozen=True)
class Forecasted:
    """Forecasts, the model that made them, and what writing them changed in the sink (None: not written)."""

    forecasts: pd.DataFrame
    model_uri: str
    sink: str | None
    written: Written | None

    def to_dict(self) -> dict[str, Any]:
        """The facts as one JSON object."""
        return {
            "model_uri": self.model_uri,
            "origin": self._origin,
            "rows": len(self.forecasts),
            "sink": self.sink,
            "written": None if self.written is None else asdict(self.written),
        }

    def summary(self) -> str:
        """The facts in two lines."""
        lines = [f"{len(self.forecasts):,} forecasts of {self.model_uri} as of {self._origin}"]
        if self.written is not None:
            counts = asdict(self.written).items()
            lines.append(f"{self.sink}: " + ", ".join(f"{count:,} {what}" for what, count in counts))
        return "\n".join(lines)

    @property
    def _origin(self) -> str:
        return str(self.forecasts["origin"].max().isoformat())


def train(
    config: Configuration = None,
    store: StoreLike = None,
    as_of: Moment = None,
    *,
    overrides: Sequence[str] = (),
    settings: Settings | None = None,
) -> Trained:
    """Fit on everything known at ``as_of`` (None: all of the store), log it, register it as challenger."""
    environment = settings or Settings.load()
    chosen = inputs.configuration(config, None, overrides)
    market = inputs.read(store or chosen.data.store, environment)
    at = inputs.instant(as_of, "--as-of") or market.table("bars", "1h")["close_time"].max()
    inputs.check_fresh(market, at)
    from models import artifact
    from training import serving

    runs, models = inputs.tracking(chosen, environment), inputs.registry(chosen, environment)
    with runs.run(f"train-{chosen.name}", tags={"kind": "training"}) as run, TemporaryDirectory() as scratch:
        jobs = inputs.workers(None, chosen, environment)
        folder = serving.fit(market, chosen, as_of=at, out=Path(scratch) / "model", jobs=jobs)
        losses: dict[str, float] = artifact.load(folder).meta["losses"]
        run.params({"config": chosen.model_dump(mode="json"), "data_sha256": market.data_sha256, "as_of": str(at)})
        run.metrics(losses)
        version = models.register(folder, run_id=run.run_id, metrics=losses)
        return Trained(f"models:/{models.name}/{version}", artifact.sha256(folder), at.isoformat(), losses)


def promote(version: int | None = None, *, force: bool = False, settings: Settings | None = None) -> Promoted:
    """Make a version (None: the challenger) champion, if its losses pass the gate."""
    models = inputs.registry(RunConfig.recommended(), settings or Settings.load())
    return Promoted(f"models:/{models.name}/{models.promote(version, force=force)}")


def forecast(
    store: StoreLike = None,
    as_of: Moment = None,
    model: str | None = None,
    sink: str | None = None,
    *,
    settings: Settings | None = None,
) -> Forecasted:
    """Forecast at the newest origin known at ``as_of`` (None: of the store), with ``model`` (None: the champion).

    ``sink`` is ``parquet:DIR``; None writes nothing. Raises ``DataStale`` where the data do not reach ``as_of``.
    """
    environment = settings or Settings.load()
    place = None if sink is None else _sink(sink)
    market = inputs.read(store, environment)
    at = inputs.instant(as_of, "--as-of")
    if at is not None:
        inputs.check_fresh(market, at)
    models = inputs.registry(RunConfig.recommended(), environment)
    champion = models.resolve(model or f"models:/{models.name}@{CHAMPION}")
    from training import serving

    made_at = pd.Timestamp.now("UTC").as_unit("us")
    served = serving.serve(market, champion.folder, as_of=at, model_uri=champion.uri, made_at=made_at)
    if place is None:
        return Forecasted(served.forecasts, champion.uri, None, None)
    from forecaster.sinks.parquet import write

    return Forecasted(served.forecasts, champion.uri, sink, write(served.forecasts, place, served.contributions))


def _sink(sink: str) -> Path:
    kind, _, place = sink.partition(":")
    if kind not in SINKS:
        raise UsageError(f"--sink {sink}: there is no sink {kind!r}{nearest(kind, SINKS)}; write parquet:DIR")
    if not place:
        raise UsageError(f"--sink {sink}: names no folder; write parquet:DIR")
    return Path(place)
