"""Ten leaks, each planted by patching the shipped code path, must be found and named; without them all is clean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features import kernels, leakage, targets
from features.errors import LeakFound
from features.market import Market
from features.panel import Panel
from features.pipeline import FeaturePipeline
from features.sources.simulated import simulate
from training import folds
from training.config import Component, RunConfig
from training.leakcheck import check_forecasts, leakcheck

HORIZONS = (1, 24)
CUTS = {"cuts": 8, "deep_cuts": 3, "live_bars": 0, "seed": 5}
LATE = pd.Timedelta(minutes=20)


@pytest.fixture(scope="module")
def market() -> Market:
    """Three markets, 130 days; the largest is listed late; gaps in bars and funding; funding known 20 minutes late."""
    tables = dict(simulate(seed=3, days=130, symbols=3).tables)
    bars, funding = tables["bars"], tables["funding"]
    begin, (gappy, late, _) = bars["close_time"].min(), sorted(bars["symbol"].unique())
    day = (bars["close_time"] - begin) / pd.Timedelta(days=1)
    bars.loc[bars["symbol"] == late, "volume"] *= 1000
    tables["bars"] = bars[
        ~((bars["symbol"] == late) & (day < 70)) & ~((bars["symbol"] == gappy) & day.between(90, 90.3))
    ]
    paid = (funding["funding_time"] - begin) / pd.Timedelta(days=1)
    funding = funding[~((funding["symbol"] == gappy) & paid.between(40, 46))]
    tables["funding"] = funding.assign(available_at=funding["funding_time"] + LATE)
    return Market.from_tables({name: tables[name] for name in ("bars", "funding")})


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return RunConfig(horizons=HORIZONS, members=(Component(kind="ewma"), Component(kind="har_seasonal")))


@pytest.fixture(scope="module")
def clean(market: Market) -> leakage.LeakReport:
    """What the shipped code gets under the same cuts."""
    report = leakage.check(market, horizons=HORIZONS, **CUTS)
    report.raise_if_found()
    return report


def backfill(patch: pytest.MonkeyPatch) -> None:
    shipped = Panel.as_of

    def filled(self: Panel, frame: pd.DataFrame, values: dict[str, str], life_hours: int) -> dict[str, np.ndarray]:
        out = shipped(self, frame, values, life_hours)
        return out | {name: pd.DataFrame(out[name].T).bfill().to_numpy().T for name in values}

    patch.setattr(Panel, "as_of", filled)


def centred_window(patch: pytest.MonkeyPatch) -> None:
    shipped = kernels.window_mean

    def centred(x: np.ndarray, lengths: np.ndarray, coverage: float) -> np.ndarray:
        out = shipped(x, lengths, coverage)
        for j, length in enumerate(lengths):
            half = min(length // 2, out.shape[2])
            out[j, :, : out.shape[2] - half] = out[j, :, half:].copy()
        return out

    patch.setattr(kernels, "window_mean", centred)


def full_sample_z_score(patch: pytest.MonkeyPatch) -> None:
    def whole(self: Panel, x: np.ndarray, length: int, coverage: float = 0.8) -> np.ndarray:
        return np.repeat(pd.DataFrame(x).std(axis=1).to_numpy()[:, None], x.shape[1], axis=1)

    patch.setattr(Panel, "sd", whole)


def smoothed_regime(patch: pytest.MonkeyPatch) -> None:
    shipped = targets._regime

    def smoothed(variance: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
        classes = pd.DataFrame(shipped(variance, thresholds).T)
        return classes.rolling(5, center=True, min_periods=1).median().where(classes.notna()).to_numpy().T

    patch.setattr(targets, "_regime", smoothed)


def full_sample_thresholds(patch: pytest.MonkeyPatch) -> None:
    def whole(x: np.ndarray, length: int, minimum: int, levels: np.ndarray) -> np.ndarray:
        known = pd.DataFrame(x.T).quantile(levels).to_numpy()
        return np.repeat(known[:, :, None], x.shape[1], axis=2)

    patch.setattr(kernels, "trailing_quantiles", whole)


def target_one_bar_early(patch: pytest.MonkeyPatch) -> None:
    shipped = targets._ahead
    patch.setattr(targets, "_ahead", lambda x, h: shipped(x, h - 1))


def funding_by_its_label(patch: pytest.MonkeyPatch) -> None:
    shipped = Panel.as_of

    def labelled(self: Panel, frame: pd.DataFrame, values: dict[str, str], life_hours: int) -> Any:
        return shipped(self, frame.assign(available_at=frame["funding_time"]), values, life_hours)

    patch.setattr(Panel, "as_of", labelled)


def future_sorted_universe(patch: pytest.MonkeyPatch) -> None:
    def largest(self: Panel, x: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        order = np.argsort(-np.nansum(self.field("volume"), axis=1), kind="stable")
        values = statistic(np.ascontiguousarray(x[order[:2]]))
        return np.repeat(values[None, :], len(self.symbols), axis=0)

    patch.setattr(Panel, "across", largest)


def whole_sample_scaler(patch: pytest.MonkeyPatch) -> None:
    shipped = FeaturePipeline.transform

    def scaled(self: FeaturePipeline, market: Market) -> pd.DataFrame:
        frame = shipped(self, market)
        return (frame - frame.mean()) / frame.std().where(lambda sd: sd > 0, 1.0)

    patch.setattr(FeaturePipeline, "transform", scaled)


def open_time_for_close(patch: pytest.MonkeyPatch) -> None:
    shipped = Panel._widen

    def opened(self: Panel, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        closes = pd.DatetimeIndex(frame.index.get_level_values("close_time"))
        index = [frame.index.get_level_values("symbol"), closes - pd.Timedelta(hours=1)]
        return shipped(self, frame.set_index(pd.MultiIndex.from_arrays(index, names=["symbol", "close_time"])))

    patch.setattr(Panel, "_widen", opened)


FUNDING = {"funding_rate_1h", "abs_funding_rate_1h", "funding_sum_72h", "funding_surprise_168h"}
MARKET = {"market_log_ew_3h", "own_less_market_3h", "market_burst_dispersion", "market_alignment_24h"}

PLANTED: list[tuple[Callable[[pytest.MonkeyPatch], None], str, set[str], str]] = [
    (backfill, "features", FUNDING, r"funding|carry"),
    (centred_window, "features", {"log_rv_24h", "log_rv_raw_720h", "flow_imbalance_4h", "spillover_4h"}, ""),
    (full_sample_z_score, "features", {"funding_rate_z_168h", "log_rv_sd_24h", "log_rv_sd_168h"}, r"_z_|_sd_"),
    (smoothed_regime, "targets", {"regime_now", "regime"}, r"regime|onset"),
    (
        full_sample_thresholds,
        "targets",
        {"threshold_normal", "threshold_stress", "threshold_crisis"},
        r"threshold|regime|onset",
    ),
    (target_one_bar_early, "targets", {"variance", "log_return"}, r"variance|log_return|mae|regime|onset"),
    (funding_by_its_label, "features", {*FUNDING, "age_funding"}, r"funding"),
    (future_sorted_universe, "features", MARKET, r"market"),
    (whole_sample_scaler, "features", {"log_rv_1h", "hour", "funding_rate_1h", "log_listing_age"}, ""),
    (open_time_for_close, "features", {"log_rv_1h", "log_return_1h", "hour"}, ""),
]


@pytest.mark.parametrize(("plant", "table", "columns", "only"), PLANTED, ids=[p[0].__name__ for p in PLANTED])
def test_a_planted_leak_is_found_and_named(
    market: Market,
    clean: leakage.LeakReport,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[pytest.MonkeyPatch], None],
    table: str,
    columns: set[str],
    only: str,
) -> None:
    assert not clean.leaks
    plant(monkeypatch)
    report = leakage.check(market, horizons=HORIZONS, **CUTS)
    assert report.cuts == clean.cuts
    named = {leak.column for leak in report.leaks if leak.table == table}
    assert columns <= named
    assert all(pd.Series(sorted(named)).str.contains(only)), "what is not planted is not accused"
    assert report.first is not None
    assert report.first.symbol in market.symbols
    assert report.first.time <= report.first.cut
    with pytest.raises(LeakFound, match=r"table .*column '\w+', symbol \w+, time 20") as found:
        report.raise_if_found()
    assert found.value.exit_code == 5


def test_an_unpurged_label_is_found_in_the_forecasts(
    market: Market, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not check_forecasts(market, config, cuts=2, seed=1).leaks
    monkeypatch.setattr(folds, "purged_labels", lambda y, known_by: y)
    report = check_forecasts(market, config, cuts=2, seed=1)
    named = {(leak.table, leak.column, leak.model) for leak in report.leaks}
    assert ("forecasts", "variance") in {name[:2] for name in named}
    assert {"variance", "model_sha256"} <= {leak.column for leak in report.leaks}
    with pytest.raises(LeakFound, match="'forecasts'"):
        report.raise_if_found()


def test_the_whole_check_is_clean_and_stops_at_the_first_stage_that_leaks(
    market: Market, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int, int]] = []
    report = leakcheck(market, config, cuts=3, forecast_cuts=1, jobs=1, progress=lambda *step: seen.append(step))
    assert not report.leaks
    assert {"prefix features", "prefix targets", "poison features", "prefix forecasts"} <= set(report.cells)
    assert ("cuts", 3, 3) in seen
    assert ("forecasts", 1, 1) in seen
    assert report.to_dict()["clean"] is True
    target_one_bar_early(monkeypatch)
    with pytest.raises(LeakFound, match="'targets'"):
        leakcheck(market, config, cuts=3, forecast_cuts=1, jobs=1)
