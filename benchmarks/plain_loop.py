"""The plain loop over the refit dates: features by pandas once, then fold by fold, each kept with the seconds it took."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pandas as pd
from feature_matrix import PandasPanel
from measuring import note
from plain_members import Fold, Seconds, forecast
from plain_scores import Frames, finish, targets

from features.market import Market
from features.pipeline import DEFAULT_FAMILIES, FeaturePipeline
from training.config import RunConfig
from training.splits import utc

__all__ = ["Border", "boosting", "boosting_counted", "fold_file", "loop", "prepared", "spread", "total"]

Border = tuple[str, str, str]
"""First test origin, the one after the last, and by when labels must be known: ISO instants."""
WEEKS: Final = pd.Timedelta(weeks=8)
LINES: Final = "folds.jsonl"
# Told within a member's seconds, or not part of the loop: never added to the sum.
WITHIN: Final = ("train", "datasets", "boosters", "garch fits", "gjr fits", "garch warm fits", "gjr warm fits")


@contextmanager
def boosting_counted(seconds: Seconds) -> Iterator[None]:
    """CPU seconds inside LightGBM while inside, and its boosters.

    ``datasets``: in ``Dataset.construct``, whoever calls it; ``train``: in ``lightgbm.train`` less the construction of a
    Dataset that it is given unbuilt. So it does not matter on which side of ``train`` a Dataset is built.
    """
    import lightgbm

    train, construct = lightgbm.train, lightgbm.Dataset.construct

    def constructed(data: Any) -> Any:
        with seconds.of("datasets"):
            return construct(data)

    def trained(*arguments: Any, **named: Any) -> Any:
        earlier = seconds.get("datasets", 0.0)
        with seconds.of("train"):
            booster = train(*arguments, **named)
        seconds["train"] -= seconds.get("datasets", 0.0) - earlier
        seconds["boosters"] = seconds.get("boosters", 0.0) + 1
        return booster

    lightgbm.train, lightgbm.Dataset.construct = trained, constructed
    try:
        yield
    finally:
        lightgbm.train, lightgbm.Dataset.construct = train, construct


def total(seconds: Mapping[str, float], *, warm: bool = False) -> float:
    """All seconds of a fold; with ``warm``, arch's fits at what they took from an earlier fold's parameters."""
    out = sum(spent for what, spent in seconds.items() if what not in WITHIN)
    if warm:
        for name in ("garch", "gjr"):
            if f"{name} warm fits" in seconds:
                out += seconds[f"{name} warm fits"] - seconds[f"{name} fits"]
    return out


def boosting(seconds: Mapping[str, float]) -> float:
    """Seconds inside LightGBM: building Datasets and training."""
    return seconds.get("train", 0.0) + seconds.get("datasets", 0.0)


def spread(count: int, wanted: int) -> list[int]:
    """Indices of ``wanted`` folds spread evenly over ``count``; all for 0."""
    size = min(wanted, count) if wanted else count
    return [int((k + 0.5) * count / size) for k in range(size)]


def fold_file(work: Path, fold: str) -> Path:
    """Where the forecasts of the fold that begins then are kept."""
    return work / f"fold-{pd.Timestamp(fold):%Y%m%dT%H%M}.parquet"


def loop(
    store: str, config: RunConfig, given: tuple[str, str], borders: Sequence[Border], chosen: list[int], work: Path
) -> dict[str, Any]:
    """Measure the chosen folds, those not in ``work`` yet; seconds of what is done once, of each fold, and the scores.

    ``taken_over`` counts the chosen folds that an earlier run left there, whose seconds are that run's.
    """
    import arch  # noqa: F401  # imports are not counted
    import lightgbm  # noqa: F401

    # Nor is loading what is compiled: a few weeks do it.
    prepared(Market.open(store).since(utc(given[1]) - WEEKS), config)
    once, market = Seconds(), Market.open(store)
    with once.of("features and targets"):
        features, labels, came = prepared(market, config)
    lines = _held(work)
    taken_over = sum(borders[number][0] in lines for number in chosen)
    for number in chosen:
        if borders[number][0] not in lines:
            line = _fold(features, labels, borders[number], config, lines, work)
            lines[line["fold"]] = line
            with (work / LINES).open("a") as file:
                file.write(json.dumps(line) + "\n")
        spent = lines[borders[number][0]]["seconds"]
        note(f"fold {number + 1} of {len(borders)}: {total(spent):.1f} s, {boosting(spent):.1f} of it LightGBM's")
    with once.of("levels, laws and scores"):
        forecasts = pd.concat([pd.read_parquet(fold_file(work, borders[k][0])) for k in chosen]).sort_index()
        names = [name.rpartition(":") for name in forecasts.columns]
        forecasts.columns = pd.MultiIndex.from_tuples(
            [(m, int(h)) for m, _, h in names], names=["member", "horizon_hours"]
        )
        scores = finish(forecasts, came, utc(given[0]), utc(given[1]), work)
    folds = [lines[borders[k][0]]["seconds"] for k in chosen]
    return {"once": once, "folds": folds, "taken_over": taken_over, "scores": scores}


def prepared(market: Market, config: RunConfig) -> tuple[pd.DataFrame, pd.DataFrame, dict[int, Frames]]:
    """Features and V of every (symbol, origin), and all targets on the grid by horizon."""
    panel = PandasPanel(market, config.proxy)
    families = config.features.families or DEFAULT_FAMILIES
    features = FeaturePipeline(families, config.horizons, config.proxy).transform_panel(panel)
    came = {h: targets(panel, h) for h in config.horizons}
    stacked = {h: frames["variance"].stack(future_stack=True).swaplevel() for h, frames in came.items()}
    return features, pd.DataFrame({h: column.reindex(features.index) for h, column in stacked.items()}), came


def _fold(
    features: pd.DataFrame,
    labels: pd.DataFrame,
    border: Border,
    config: RunConfig,
    lines: Mapping[str, Any],
    work: Path,
) -> dict[str, Any]:
    """One refit date: its forecasts to a file, what they cost, and arch's parameters."""
    start, end, known_by = (pd.Timestamp(t) for t in border)
    earlier = [line for line in lines.values() if pd.Timestamp(line["fold"]) < start]
    before = max(earlier, key=lambda line: pd.Timestamp(line["fold"]))["params"] if earlier else {}
    seconds = Seconds()
    with boosting_counted(seconds):
        with seconds.of("rows"):
            origins = pd.DatetimeIndex(features.index.get_level_values("origin"))
            past, ahead = origins < start, (origins >= start) & (origins < end)
            y = labels[past]
            y = pd.DataFrame(
                {h: y[h].where(origins[past] + pd.Timedelta(hours=int(h)) <= known_by) for h in config.horizons}
            )
            fold = Fold(features[past], y, features[ahead], before)
        forecasts = forecast(fold, {member.kind: member.params for member in config.members}, seconds)
    forecasts.columns = pd.Index([f"{member}:{h}" for member, h in forecasts.columns])
    forecasts.to_parquet(fold_file(work, border[0]))
    return {"fold": border[0], "seconds": seconds, "params": fold.after}


def _held(work: Path) -> dict[str, Any]:
    """Finished folds by their first origin; one without its forecasts does not count."""
    file = work / LINES
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {line["fold"]: line for line in lines if fold_file(work, line["fold"]).exists()}
