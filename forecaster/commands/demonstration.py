"""The whole product on the embedded simulated market, where the best possible forecast is known."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from features.market import Market
from features.sources.simulated import DEMO, best_forecast
from features.store import write_atomically
from forecaster.commands import inputs
from forecaster.commands.backtesting import Backtested, backtest
from forecaster.commands.data import data_import
from forecaster.commands.evaluation import Evaluated, Job
from forecaster.commands.schedules import Schedule, policy_replay
from forecaster.commands.serving import Forecasted, forecast, promote, train
from forecaster.settings import Settings
from forecaster.terminal import Progress
from forecaster.venue import VenueParams
from training.config import RunConfig
from training.evaluation import Evaluation
from training.losses import qlike

__all__ = ["Demonstration", "demo"]

# The regimes' first 90 days and as much again to learn from; the rest is out of sample.
OUT_OF_SAMPLE: Final = pd.Timedelta(days=DEMO["days"] // 2)
# What keeps the demonstration under two minutes; the method is the same.
LIGHTER: Final = ("name=demo", "horizons=[1, 4, 24]", "walkforward.warmup_months=2")
ACCOUNTS: Final = 1000
# The first scalars of the comparison are fitted on what lies before.
SCALED_AFTER: Final = pd.Timedelta(days=30)


@dataclass(frozen=True)
class Demonstration:
    """Everything the product does, once.

    ``evaluated.facts["oracle"]``: by horizon, QLIKE of the ensemble and of the forecast that knows the true state.
    """

    evaluated: Evaluated
    replayed: Schedule
    tested: Backtested
    forecasted: Forecasted
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The facts as one JSON object."""
        return {
            "evaluation": self.evaluated.to_dict(),
            "oracle": self.evaluated.facts["oracle"],
            "replay": self.replayed.to_dict(),
            "backtest": self.tested.to_dict(),
            "forecast": self.forecasted.to_dict(),
            "report": str(self.evaluated.out / "report.html"),
            "seconds": round(self.seconds, 1),
        }

    def summary(self) -> str:
        """What was done, how far it is from perfect, and where to look."""
        oracle = [
            f"{hours:>3} h: QLIKE {row['ensemble']:.4f}, with the true state known {row['oracle']:.4f}"
            for hours, row in self.evaluated.facts["oracle"].items()
        ]
        return "\n".join(
            [
                self.evaluated.summary(),
                "distance to the best possible forecast:",
                *oracle,
                f"replay: all {self.replayed.lines:,} lines of the schedule derived again, byte for byte",
                "margin policies against each other, in a simulated venue:",
                self.tested.summary(),
                self.forecasted.summary(),
                f"done in {self.seconds:.0f} s; open {self.evaluated.out / 'report.html'}",
            ]
        )


def demo(out: str | Path = "demo-output", progress: Progress | None = None) -> Demonstration:
    """Simulate a market, evaluate on it, train, promote, forecast, set margins, back-test and report, all in ``out``."""
    began = time.monotonic()
    folder = Path(out)
    environment = Settings.load().model_copy(update={"home": folder, "tracking": None})
    market = _simulated(folder)
    config = RunConfig.load(None, LIGHTER)
    end = market.table("bars", "1h")["close_time"].max()
    engine = inputs.engine(None, None, config, environment)
    job = Job(market, config, end - OUT_OF_SAMPLE, end, None, folder, environment, engine)
    evaluated = job.perform(progress, lambda evaluation: {"oracle": _distance(evaluation, market)})
    replayed = policy_replay(folder / "schedule.jsonl", evaluated.evaluation.ensemble, market)
    crowd = VenueParams.default().replace(population={"slots": ACCOUNTS})
    tested = backtest(
        config, market, forecasts=folder / "forecasts.parquet", out=folder / "backtest", venue=crowd,
        start=end - OUT_OF_SAMPLE + SCALED_AFTER, progress=progress,
    )  # fmt: skip
    train(config, market, settings=environment)
    promote(settings=environment)
    forecasted = forecast(market, sink=f"parquet:{folder / 'live'}", settings=environment)
    return Demonstration(evaluated, replayed, tested, forecasted, time.monotonic() - began)


def _simulated(folder: Path) -> Market:
    size = folder / "simulation.json"
    write_atomically(size, (json.dumps(DEMO) + "\n").encode())
    data_import("simulated", size, folder / "store")
    return inputs.read(folder / "store")


def _distance(evaluation: Evaluation, market: Market) -> dict[int, dict[str, float]]:
    """QLIKE by horizon of the ensemble, and of the forecast from the true state, on the same rows."""
    key = ["symbol", "origin", "horizon_hours"]
    truth = _truth(market)
    truth = truth[(truth["close_time"] >= evaluation.start) & (truth["close_time"] < evaluation.end)]
    columns = {
        "ensemble": evaluation.ensemble.set_index(key)["variance"],
        "oracle": best_forecast(truth, evaluation.config.horizons).set_index(key)["variance"],
    }
    rows = pd.DataFrame(columns).join(evaluation.realised["variance"], how="inner").dropna()
    return {
        hours: {name: qlike(some["variance"], some[name]) for name in columns}
        for hours in evaluation.config.horizons
        for some in [rows.xs(hours, level="horizon_hours")]
    }


def _truth(market: Market) -> pd.DataFrame:
    store = market.store
    files = [] if store is None else [store.path / file.path for file in store.find("truth")]
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
