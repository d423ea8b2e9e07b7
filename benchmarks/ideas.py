"""Ideas beyond the recipe, each tried once inside the walk-forward: what it saves of a forecast's QLIKE.

    python benchmarks/ideas.py --store DIR --out build/ideas.jsonl [--only NAME ...]    # one JSON line an idea, resumable
    python benchmarks/ideas.py --out build/ideas.jsonl --page docs/ideas.md

Quarterly refits from 2021-07-01, scored on 2022-01-01 to 2023-06-30, so that nothing here has seen what the goals are judged
on. Every idea is a small change of the same thing: LightGBM on the seasonal HAR, or its log mean with HAR-X, each on the level
of its own resolved forecasts. A gain is the share of the unchanged model's QLIKE that the change saves, without the worst day.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from threadpoolctl import threadpool_limits

from features.families.scheduled import Scheduled
from features.market import Market
from features.panel import Panel
from features.schedule import Schedule, scheduled
from features.store import write_atomically
from models.boosting import UNUSED_PREFIXES, LightGBM, equal_by_symbol
from models.combination import level
from models.distribution import States
from models.har import HAR
from models.panel_har import HARX
from models.parts import Run
from models.past import Past
from models.screening import daily_losses, model_confidence_set
from models.training_rows import TrainingRows
from training.comparison import gain
from training.config import RunConfig
from training.folds import Rows, code_sha256, micros, training_rows
from training.material import Material, prepare
from training.splits import Fold

Array = npt.NDArray[np.float64]
Grids = dict[int, Array]

START, SCORED, END = (pd.Timestamp(day, tz="UTC") for day in ("2021-07-01", "2022-01-01", "2023-07-01"))
BOOSTED, LINEAR = "lightgbm", "har_x"
HOURS_A_DAY: Final = 24


class LinearTrees(LightGBM):
    """A linear model in each leaf (Shi, Li and Li, 2019)."""

    def _parameters(self) -> dict[str, Any]:
        return {**super()._parameters(), "linear_tree": True, "linear_lambda": 10.0}


class Slow(LightGBM):
    """Smaller, slower trees on fewer features each."""

    def __init__(self) -> None:
        super().__init__(rounds=500, learning_rate=0.02, num_leaves=8, min_data_in_leaf=500, feature_fraction=0.3)


class Decayed(LightGBM):
    """Rows lose half their weight each year."""

    def _learn(self, past: TrainingRows) -> None:
        age = (past.origin.max() - past.origin) / micros(pd.Timestamp("1971-01-01", tz="UTC"))
        super()._learn(replace(past, weight=0.5**age))


class Neural(LightGBM):
    """Three small perceptrons on the boosters' inputs, each scaled by its spread and bounded; symbols weigh the same."""

    def _learn(self, past: TrainingRows) -> None:
        from sklearn.neural_network import MLPRegressor
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import FunctionTransformer, RobustScaler

        self.base_ = HAR.base(past)
        self.columns_ = tuple(c for c in past.columns if not c.startswith(UNUSED_PREFIXES))
        at = past.within(self.window_days, self.every_hours)
        base = self.base_.of(past, at)
        residual = np.clip(past.log_variance(at) - base, -self.largest_residual, self.largest_residual)
        self.networks_ = []
        for j, h in enumerate(self.horizons_):
            known = np.flatnonzero(np.isfinite(residual[:, j]))
            weight = equal_by_symbol(past.symbol[at[known]])
            # The library's perceptron takes no weights: rows are drawn by theirs.
            drawn = np.random.default_rng(0).choice(known, len(known), p=weight / weight.sum())
            inputs = self._inputs(past.values(self._taken(h), at[drawn], "neural"), base[drawn, j], h)
            scale = float(residual[drawn, j].std())
            self.networks_.append([
                (scale, make_pipeline(
                    RobustScaler(quantile_range=(10, 90), unit_variance=True),
                    FunctionTransformer(_bounded),
                    MLPRegressor(hidden_layer_sizes=(48, 24), alpha=30.0, batch_size=512, max_iter=6, tol=0.0,
                                 n_iter_no_change=7, random_state=seed),
                ).fit(inputs, residual[drawn, j] / scale))
                for seed in (1, 2, 3)
            ])  # fmt: skip

    def raw(self, j: int, inputs: Array) -> Array:
        return np.asarray(np.mean([scale * network.predict(inputs) for scale, network in self.networks_[j]], axis=0))


def _bounded(x: Array) -> Array:
    return np.nan_to_num(np.clip(x, -4, 4), nan=0.0)


@dataclass(frozen=True)
class Study:
    """Everything an idea may touch: the market's panel, features and targets, and the quarterly folds."""

    panel: Panel
    material: Material
    folds: tuple[Fold, ...]
    data_sha256: str

    @classmethod
    def open(cls, store: Path) -> Study:
        market = Market.open(store).as_of(END + pd.Timedelta(days=4))
        borders = pd.date_range(START, END, freq="3MS")
        folds = tuple(Fold(k, a, b, None, a) for k, (a, b) in enumerate(pairwise(borders)))
        return cls(Panel(market), prepare(market, RunConfig()), folds, market.data_sha256)

    @property
    def horizons(self) -> tuple[int, ...]:
        return self.material.rows.horizons

    @property
    def times(self) -> pd.DatetimeIndex:
        return self.material.times[self._span]

    @property
    def _span(self) -> slice:
        first, last = self.material.times.searchsorted([START, END])
        return slice(int(first), int(last))

    def truth(self, h: int) -> Array:
        return self.material.targets[h]["variance"][:, self._span]

    def with_columns(self, columns: Mapping[str, Array], without: str | None = None) -> Rows:
        """The rows with more features, each (n_symbols, n_hours) on the material's grid, and without some by prefix."""
        rows = self.material.rows
        kept = [k for k, name in enumerate(rows.columns) if without is None or not name.startswith(without)]
        more = [values[rows.symbol, self.material.column] for values in columns.values()]
        names = (*(rows.columns[k] for k in kept), *columns)
        return replace(rows, features=np.column_stack([rows.features[:, kept], *more]), columns=names)

    def forecast(self, make: Callable[[], LightGBM | HARX], rows: Rows | None = None) -> Grids:
        """Levelled ``ln F`` of a member by horizon, out of sample, on the grid of the folds."""
        rows = rows or self.material.rows
        out = {h: np.full((len(rows.symbols), len(self.times)), np.nan) for h in self.horizons}
        for fold in self.folds:
            member = make()
            with threadpool_limits(limits=1):
                member.horizons_ = rows.horizons
                member._learn(training_rows(fold, rows))
            test = (rows.origin >= micros(fold.test_start)) & (rows.origin < micros(fold.test_end))
            values = member._predict_log(rows.frame(test)[0])
            column = self.material.column[test] - self._span.start
            for j, h in enumerate(self.horizons):
                out[h][rows.symbol[test], column] = values[:, j]
        return {h: level(x, self.truth(h), self.times, h) for h, x in out.items()}

    def loss(self, h: int, log_forecast: Array) -> Array:
        """QLIKE (n_symbols, n_hours) of the scored hours."""
        ratio = np.log(self.truth(h)) - log_forecast
        return np.where(np.asarray(self.times >= SCORED), np.exp(ratio) - ratio - 1, np.nan)


Idea = Callable[[Study], tuple[Grids, Grids]]


@cache
def boosted(study_id: int) -> Grids:
    return STUDIES[study_id].forecast(LightGBM)


@cache
def mixed(study_id: int) -> Grids:
    study, trees = STUDIES[study_id], boosted(study_id)
    linear = study.forecast(HARX)
    return {h: 0.5 * (trees[h] + linear[h]) for h in study.horizons} | {-h: linear[h] for h in study.horizons}


STUDIES: dict[int, Study] = {}


def member(make: Callable[[], LightGBM]) -> Idea:
    """The boosted member, made otherwise."""
    return lambda study: (study.forecast(make), boosted(id(study)))


def columns(make: Callable[[Study], Mapping[str, Array]], without: str | None = None) -> Idea:
    """The boosted member with more to read, or less."""
    return lambda study: (study.forecast(LightGBM, study.with_columns(make(study), without)), boosted(id(study)))


def partner(make: Callable[[], LightGBM]) -> Idea:
    """A third member in the mix of LightGBM and HAR-X."""

    def idea(study: Study) -> tuple[Grids, Grids]:
        third, mix = study.forecast(make), mixed(id(study))
        return {h: (2 * mix[h] + third[h]) / 3 for h in study.horizons}, mix

    return idea


def on_the_mix(change: Callable[[Study, int, Array], Array]) -> Idea:
    """Something done to the mix afterwards."""

    def idea(study: Study) -> tuple[Grids, Grids]:
        mix = mixed(id(study))
        return {h: change(study, h, mix[h]) for h in study.horizons}, mix

    return idea


def nothing(study: Study) -> Mapping[str, Array]:
    return {}


def new_york(study: Study) -> Mapping[str, Array]:
    local = study.panel.times.tz_convert("America/New_York")
    shape = (len(study.panel.symbols), 1)
    summer = np.array([bool(t.dst()) for t in local], dtype=np.float64)
    return {"new_york_hour": np.tile(local.hour.to_numpy(np.float64), shape), "new_york_summer": np.tile(summer, shape)}


def longer_memory(study: Study) -> Mapping[str, Array]:
    means = study.panel.mean(study.panel.deseasonalised, (2160, 4380, 8760), coverage=0.33)
    return {f"log_rv_{n}h": np.log(x) for n, x in zip((2160, 4380, 8760), means, strict=True)}


def recent_diurnal(study: Study) -> Mapping[str, Array]:
    """Mean log variance at the coming four hours of day over the last 7 and 28 days, against that of all hours."""
    log_v = np.log(study.panel.deseasonalised)
    out = {}
    for days in (7, 28):
        away = log_v - study.panel.mean(log_v, (days * HOURS_A_DAY,), coverage=0.5)[0]
        lagged = [study.panel.shift(away, HOURS_A_DAY * d - j) for d in range(1, days + 1) for j in range(1, 5)]
        known = [np.isfinite(x) for x in lagged]
        total = sum(np.where(k, x, 0.0) for k, x in zip(known, lagged, strict=True))
        out[f"recent_diurnal_{days}d"] = total / np.maximum(sum(known), 1)
    return out


def further_releases(study: Study) -> Mapping[str, Array]:
    """Minutes of the committee three weeks on, surveys of purchasing managers, and monthly expiries, as kinds of their own."""
    known, zone = scheduled(), "America/New_York"
    statements = pd.to_datetime((known.hour[known.kind == 0] - 1) * 3600, unit="s", utc=True).tz_convert(zone)
    minutes = statements.tz_localize(None).normalize() + pd.Timedelta(days=21, hours=14)
    first = pd.bdate_range("2019-10-01", "2025-12-31", freq="BMS")
    services = first + pd.offsets.BusinessDay(2)
    fridays = pd.date_range("2019-10-01", "2025-12-31", freq="W-FRI")
    expiries = pd.DatetimeIndex(pd.Series(fridays).groupby(fridays.to_period("M")).max())
    lists = [(d, zone) for d in (minutes, first + pd.Timedelta(hours=10), services + pd.Timedelta(hours=10))]
    lists.append((expiries + pd.Timedelta(hours=8), "UTC"))
    kinds, hours = [known.kind], [known.hour]
    for number, (local, where) in enumerate(lists, start=int(known.kind.max()) + 1):
        hour = local.tz_localize(where).tz_convert("UTC").as_unit("s").asi8 // 3600 + 1
        kinds.append(np.full(len(hour), number))
        hours.append(hour)
    kind, hour = np.concatenate(kinds), np.concatenate(hours)
    order = np.argsort(hour, kind="stable")
    every = Schedule(kind[order], hour[order], hour[order] - 60 * HOURS_A_DAY)
    return {column.name: column.values for column in Scheduled(study.horizons, every).columns(study.panel)}


def by_state(study: Study, h: int, mix: Array) -> Array:
    """Another level where the forecast stands low, middling or high against its own month."""
    past_of_mix = Past.beginning(study.times, h, {"forecast": mix, "variance": study.truth(h)})
    Run([States()], past_of_mix).advance(slice(0, mix.shape[1]))
    state, ratio = past_of_mix["state"], study.truth(h) / np.exp(mix)
    out = mix.copy()
    for t in range(60 * HOURS_A_DAY, mix.shape[1], 7 * HOURS_A_DAY):
        past = slice(max(0, t - h - 8760), t - h + 1)
        block, now = ratio[:, past], slice(t, t + 7 * HOURS_A_DAY)
        whole = np.nanmean(block)
        for k in range(3):
            here = (state[:, past] == k) & np.isfinite(block)
            n = here.sum() / h
            own = (n * block[here].mean() + 1000 * whole) / (n + 1000) if n else whole
            out[:, now][state[:, now] == k] += np.log(own / whole)
    return out


def again_on_its_level(study: Study, h: int, mix: Array) -> Array:
    return level(mix, study.truth(h), study.times, h)


def screened(size: float) -> Idea:
    """LightGBM and HAR-X with equal weights, of which the confidence set of the last half year is kept."""

    def change(study: Study, h: int, mix: Array) -> Array:
        pair = np.stack([boosted(id(study))[h], mixed(id(study))[-h]])
        first = int(study.times[0].value // 3_600_000_000_000)
        out = mix.copy()
        for t in range(100 * HOURS_A_DAY, mix.shape[1], 28 * HOURS_A_DAY):
            past = slice(max(0, t - h - 180 * HOURS_A_DAY), t - h + 1)
            losses = daily_losses(pair[:, :, past], study.truth(h)[:, past], first + past.start)
            kept = model_confidence_set(losses, 10, size=size)
            out[:, t : t + 28 * HOURS_A_DAY] = pair[kept][:, :, t : t + 28 * HOURS_A_DAY].mean(axis=0)
        return out

    return on_the_mix(change)


def segments(study: Study) -> tuple[Grids, Grids]:
    """Beyond 4 h: the sum of what the shorter horizon forecasts and of a booster for the rest of the interval."""
    rows, trees = study.material.rows, boosted(id(study))
    out = dict(trees)
    for j in range(2, len(rows.horizons)):
        h, shorter = rows.horizons[j], rows.horizons[j - 1]
        rest = np.maximum(rows.variance[:, j] - rows.variance[:, j - 1], 1e-9)
        only = replace(rows, variance=np.where(np.arange(len(rows.horizons)) == j, rest[:, None], rows.variance))
        late = study.forecast(LightGBM, only)[h]
        truth = study.truth(h) - study.truth(shorter)
        late = level(late, np.where(truth > 0, truth, np.nan), study.times, h)
        out[h] = np.logaddexp(trees[shorter], late)
    return out, trees


IDEAS: Final[dict[str, tuple[str, Idea]]] = {
    "without the calendar": ("releases of prices, employment and rates taken away again", columns(nothing, "log_scheduled")),
    "further releases": ("minutes, two surveys, monthly expiries as well", columns(further_releases, "log_scheduled")),
    "New York's clock": ("hour in New York and summer time as features", columns(new_york)),
    "longer memory": ("mean variance of 90, 180 and 365 days as features", columns(longer_memory)),
    "recent diurnal": ("the last 7 and 28 days at the coming hours of day as features", columns(recent_diurnal)),
    "linear leaves": ("a linear model in each leaf", member(LinearTrees)),
    "slow trees": ("500 rounds of 8 leaves at half the pace", member(Slow)),
    "decaying rows": ("training rows lose half their weight a year", member(Decayed)),
    "one year": ("training rows of the last year only", member(lambda: LightGBM(window_days=365))),
    "two years": ("training rows of the last two years only", member(lambda: LightGBM(window_days=730))),
    "segments": ("24 h as 4 h and the rest, 72 h as 24 h and the rest", segments),
    "second seed": ("a second LightGBM with another seed in the mix", partner(lambda: LightGBM(seed=2))),
    "gamma": ("LightGBM on the gamma deviance in the mix", partner(lambda: LightGBM(objective="gamma"))),
    "neural": ("three perceptrons of 48 and 24 units in the mix", partner(Neural)),
    "level by state": ("levels of the mix apart for low, middling and high forecasts", on_the_mix(by_state)),
    "level again": ("the mix put on its own level once more", on_the_mix(again_on_its_level)),
    "hard screen": ("the 75 % confidence set of the mix's two members", screened(0.25)),
    "soft screen": ("their 98 % confidence set", screened(0.02)),
}  # fmt: skip


# What was decided on these figures.
VERDICTS: Final = {
    "without the calendar": "the calendar is kept",
    "further releases": "no: no kind of them has a lift of its own",
    "linear leaves": "not yet: exact Shapley values and the check of stored boosters know plain leaves only",
    "slow trees": "no: nothing but 72 h gains; open to the nested search",
    "second seed": "no: under 1 % for twice the cost",
    "neural": "no: nothing but 72 h gains",
    "level by state": "no: a third of a per cent for one more part",
    "soft screen": "kept: costs nothing here, and keeps out a member that breaks",
}


def figures(study: Study, idea: Idea) -> Iterator[dict[str, Any]]:
    """What the idea saves, by horizon, with its interval by date and on how many symbols."""
    changed, before = idea(study)
    days = study.times.as_unit("us").asi8 // 86_400_000_000
    for h in study.horizons:
        own, other = study.loss(h, changed[h]), study.loss(h, before[h])
        by_day = pd.Series(np.nansum(other, axis=0)).groupby(days).sum()
        shock = np.abs(days - int(np.asarray(by_day.index)[by_day.to_numpy().argmax()])) <= -(-h // HOURS_A_DAY)
        both = np.isfinite(own) & np.isfinite(other) & ~shock
        found = gain(np.where(both, own, np.nan), np.where(both, other, np.nan), days)
        yield {"hours": h, "gain": found.value, "low": found.low, "high": found.high,
               "better": found.better, "symbols": found.symbols}  # fmt: skip


def page(lines: list[dict[str, Any]]) -> str:
    told = [
        "# Ideas beyond the recipe",
        "",
        "<!-- Generated by `python benchmarks/ideas.py --page`; do not edit. -->",
        "",
        "Each was tried once inside the walk-forward: quarterly refits from 2021-07, scored on 2022-01-01 to 2023-06-30, "
        "five symbols at first, 18 from 2023. A figure is the share of QLIKE, without its worst day, that the change saves of "
        "the unchanged LightGBM, or of its log mean with HAR-X, with its 90 % interval by date and the number of symbols, of "
        "18, that it helps. A negative figure is a loss.",
        "",
        "| idea | what it is | 1 h | 4 h | 24 h | 72 h | kept |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        cells = [
            f"{100 * f['gain']:+.1f} % ({100 * f['low']:+.1f} – {100 * f['high']:+.1f}), {f['better']}"
            for f in line["figures"]
        ]
        told.append(f"| {line['idea']} | {line['what']} | {' | '.join(cells)} | {VERDICTS.get(line['idea'], 'no')} |")
    return "\n".join([*told, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--store", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=list(IDEAS), default=list(IDEAS))
    parser.add_argument("--page", type=Path)
    asked = parser.parse_args()
    known = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    if asked.page is not None:
        order = list(IDEAS)
        asked.page.write_text(page(sorted(known, key=lambda line: order.index(line["idea"]))))
        return 0
    if asked.store is None:
        parser.error("name a store of real data: --store DIR")
    study = Study.open(asked.store)
    STUDIES[id(study)] = study
    made_of = {"data_sha256": study.data_sha256, "code_sha256": code_sha256()}
    for name, (what, idea) in IDEAS.items():
        if name not in asked.only or any({**line, "idea": name, **made_of} == line for line in known):
            continue
        found = list(figures(study, idea))
        known = [line for line in known if line["idea"] != name]
        known.append({"idea": name, "what": what, "figures": found, **made_of})
        write_atomically(asked.out, "".join(json.dumps(line) + "\n" for line in known).encode())
        told = "  ".join(f"{f['hours']} h {100 * f['gain']:+.2f} %" for f in found)
        print(f"{name:22} {told}", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
