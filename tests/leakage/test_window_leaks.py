"""Planted leaks of windows and fills: values that reach over their own hour, or over the whole sample."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd

from features import kernels
from features.families import comovement, cross
from features.panel import Panel
from features.pipeline import FeaturePipeline

Array = np.ndarray[Any, np.dtype[np.float64]]


def along_time(x: Array) -> pd.DataFrame:
    return pd.DataFrame(x.T)


def earlier(x: Array, hours: int) -> Array:
    """Every value ``hours`` columns before its time."""
    out = np.full_like(x, np.nan)
    if hours < x.shape[-1]:
        out[..., : x.shape[-1] - hours] = x[..., hours:]
    return out


VARIANCE = "rv|ew|trend|season|rsq|quarticity"
MARKET = "market|breadth|concentration|burst|contagion|connectedness"
FUNDING = {"funding_rate_1h", "abs_funding_rate_1h", "funding_sum_72h", "funding_surprise_168h"}


def test_funding_filled_backward(trial: Any) -> None:
    shipped = Panel.as_of

    def filled(self: Panel, frame: pd.DataFrame, values: dict[str, str], life_hours: int) -> dict[str, Array]:
        out = shipped(self, frame, values, life_hours)
        return out | {name: along_time(out[name]).bfill().to_numpy().T for name in values}

    trial.plant(Panel, "as_of", filled)
    trial.is_found_by("prefix", FUNDING, only="funding|venue", sample="funded")


def test_gaps_of_bars_filled_backward(trial: Any) -> None:
    shipped = Panel._widen

    def filled(self: Panel, frame: pd.DataFrame) -> dict[str, Array]:
        return {name: along_time(x).bfill().to_numpy().T for name, x in shipped(self, frame).items()}

    trial.plant(Panel, "_widen", filled)
    trial.is_found_by("prefix", {"log_return_1h", "log_season_1h"}, only="", sample="history")


def test_daily_closes_interpolated(trial: Any) -> None:
    shipped = Panel.common

    def between(self: Panel, frame: pd.DataFrame, values: dict[str, str], life_hours: int) -> dict[str, Array]:
        out = shipped(self, frame, values, life_hours)
        known = along_time(np.where(np.diff(out["close"], axis=1, prepend=np.nan) != 0, out["close"], np.nan))
        return out | {"close": known.interpolate(limit_area="inside").to_numpy().T}

    trial.plant(Panel, "common", between)
    trial.is_found_by("prefix", {"log_vix", "log_dxy"}, only="vix|dxy|spy", sample="daily")


def test_mean_window_centred(trial: Any) -> None:
    shipped = kernels.window_mean

    def centred(x: Array, lengths: Array, coverage: float, first_hour: int, first: int) -> Array:
        out = shipped(x, lengths, coverage, first_hour, first)
        return np.stack([earlier(mean, length // 2) for mean, length in zip(out, lengths, strict=True)])

    trial.plant(kernels, "window_mean", centred)
    trial.is_found_by("prefix", {"log_rv_24h", "log_rv_raw_168h", "log_rv_raw_4h"}, only=VARIANCE, sample="history")


def test_sd_window_centred(trial: Any) -> None:
    shipped = Panel.sd
    trial.plant(
        Panel, "sd", lambda self, x, length, coverage=0.8: earlier(shipped(self, x, length, coverage), length // 2)
    )
    trial.is_found_by("prefix", {"log_rv_sd_24h", "log_rv_sd_168h"}, only="_sd_", sample="history")


def test_pair_window_centred(trial: Any) -> None:
    shipped = Panel.pair

    def centred(self: Panel, x: Array, y: Array, length: int, coverage: float = 0.8) -> Array:
        return earlier(shipped(self, x, y, length, coverage), length // 2)

    trial.plant(Panel, "pair", centred)
    named = {"flow_autocorrelation_72h", "flow_return_correlation_168h"}
    only = "correlation|impact|beyond"
    trial.is_found_by("prefix", named, only=only, sample="flow")


def test_beta_window_centred(trial: Any) -> None:
    shipped = comovement._regress

    def centred(panel: Panel, y: Array, x: Array, hours: int, coverage: float = 0.8) -> tuple[Array, Array]:
        slope, correlation = shipped(panel, y, x, hours, coverage)
        return earlier(slope, hours // 2), correlation

    trial.plant(comovement, "_regress", centred)
    named = {"beta_btc_24h", "beta_btc_168h", "lagged_beta_btc_168h", "lead_lag_residual_1h"}
    trial.is_found_by("prefix", named, only="beta|lead_lag|vol_spill|spillover", sample="cross")


def test_sd_of_the_whole_sample(trial: Any) -> None:
    def whole(self: Panel, x: Array, length: int, coverage: float = 0.8) -> Array:
        return np.repeat(along_time(x).std().to_numpy()[:, None], x.shape[1], axis=1)

    trial.plant(Panel, "sd", whole)
    trial.is_found_by("prefix", {"log_rv_sd_24h", "log_rv_sd_168h"}, only="_sd_", sample="history")


def test_shift_by_one_forward(trial: Any) -> None:
    shipped = Panel.shift
    trial.plant(Panel, "shift", lambda self, x, hours: shipped(self, x, hours) if hours > 1 else earlier(x, 1))
    named = {"oi_change_1h", "log_long_liquidations_1h"}
    trial.is_found_by("prefix", named, sample="interest")


def test_open_of_the_coming_bar_as_close(trial: Any) -> None:
    shipped = Panel.field

    def coming(self: Panel, name: str, table: Any = "bars") -> Array:
        close = shipped(self, name, table)
        if name != "close":
            return close
        opened = earlier(shipped(self, "open", table), 1)
        return np.where(np.isnan(opened), close, opened)

    trial.plant(Panel, "field", coming)
    # A bar opens at the close before it: only a future that never was tells the two apart.
    settings = {"families": ("path",), "of": "listed_market", "cuts": 3}
    trial.is_found_by("poison", {"log_return_1h", "trend_2h"}, misses=("prefix", "restart"), **settings)


def test_ewma_run_both_ways(trial: Any) -> None:
    shipped = Panel.ewma

    def both_ways(self: Panel, x: Array, half_life: float) -> Array:
        forward = shipped(self, x, half_life)
        return along_time(forward)[::-1].ewm(halflife=half_life).mean()[::-1].to_numpy().T

    trial.plant(Panel, "ewma", both_ways)
    trial.is_found_by("prefix", {"log_ew_2h", "log_ew_336h", "log_ew_raw_24h"}, only="_ew_|trend|rsq", sample="history")


def test_ewma_with_the_weight_of_the_whole_sample(trial: Any) -> None:
    shipped = Panel.ewma

    def weighted(self: Panel, x: Array, half_life: float) -> Array:
        return shipped(self, x, half_life) / (1 - 0.5 ** (x.shape[1] / half_life))

    trial.plant(Panel, "ewma", weighted)
    trial.is_found_by("prefix", {"log_ew_336h", "log_ew_raw_192h"}, only="_ew_|trend|rsq", sample="history")


def test_lead_and_lag_reversed(trial: Any) -> None:
    shipped = Panel.shift
    trial.plant(Panel, "shift", lambda self, x, hours: earlier(x, hours) if len(x) == 1 else shipped(self, x, hours))
    named = {"lagged_beta_btc_168h", "lagged_r2_btc_168h"}
    trial.is_found_by("prefix", named, only="lagged", sample="cross")


def test_rank_over_the_whole_sample(trial: Any) -> None:
    def ranked(x: Array) -> Array:
        return along_time(x).rank(pct=True).to_numpy().T

    trial.plant(cross, "rank", ranked)
    trial.is_found_by("prefix", {"vol_rank_24h"}, only="vol_rank", sample="cross")


def test_returns_winsorised_at_quantiles_of_the_whole_sample(trial: Any) -> None:
    shipped = Panel.log_return.func

    def clipped(self: Panel) -> Array:
        low, high = along_time(shipped(self)).quantile([0.01, 0.99]).to_numpy()[..., None]
        return np.clip(shipped(self), low, high)

    trial.plant(Panel, "log_return", property(clipped))
    trial.is_found_by("prefix", {"log_return_1h"}, only="return|trend|rsq", sample="history")


def test_cap_of_variance_reads_the_coming_hour(trial: Any) -> None:
    def capped(self: Panel) -> Array:
        around = earlier(self.mean(self.variance, (24,), coverage=0.5)[0], 1)
        return np.fmin(self.variance, around)

    trial.plant(Panel, "capped_variance", property(capped))
    trial.is_found_by("prefix", {"log_rv_1h", "log_rv_raw_1h"}, only=VARIANCE, sample="history")


def test_season_fitted_on_the_whole_sample(trial: Any) -> None:
    shipped = kernels.season_curves

    def fitted(log_v: Array, refresh: Array, first_slot: int, length: int, shrinkage: float) -> Array:
        return shipped(log_v, np.full_like(refresh, log_v.shape[1]), first_slot, length, shrinkage)

    trial.plant(kernels, "season_curves", fitted)
    trial.is_found_by("prefix", {"log_season_1h", "log_season_ahead_1h", "log_rv_1h"}, only=VARIANCE, sample="history")


def test_season_refreshed_at_the_end_of_its_week(trial: Any) -> None:
    shipped = kernels.season_curves

    def later(log_v: Array, refresh: Array, first_slot: int, length: int, shrinkage: float) -> Array:
        ended = np.minimum(refresh + 168, log_v.shape[1])
        return shipped(log_v, ended, first_slot, length, shrinkage)

    trial.plant(kernels, "season_curves", later)
    trial.is_found_by("prefix", {"log_season_1h", "log_season_ahead_1h"}, only=VARIANCE, sample="history")


def test_season_reads_the_first_hour_of_its_week(trial: Any) -> None:
    shipped = kernels.season_curves

    def own(log_v: Array, refresh: Array, first_slot: int, length: int, shrinkage: float) -> Array:
        return shipped(log_v, np.minimum(refresh + 1, log_v.shape[1]), first_slot, length, shrinkage)

    trial.plant(kernels, "season_curves", own)
    # It shows at one origin a week: Monday 00:00, whose season ahead would know the bar that opens then.
    trial.is_found_by("prefix", {"log_season_ahead_1h"}, only="season_ahead", sample="history")


def test_scaler_of_the_whole_sample(trial: Any) -> None:
    shipped = FeaturePipeline._frame

    def scaled(self: FeaturePipeline, panel: Panel, wanted: Any) -> pd.DataFrame:
        frame = shipped(self, panel, wanted)
        return (frame - frame.mean()) / frame.std().where(lambda sd: sd > 0, 1.0)

    trial.plant(FeaturePipeline, "_frame", scaled)
    trial.is_found_by(
        "prefix",
        {"hour", "weekday", "log_listing_age", "log_season_ahead_1h"},
        only="^(?!variance|regime|mae|target)",
        sample="history",
    )


def test_missing_values_imputed_by_the_mean_of_the_whole_sample(trial: Any) -> None:
    shipped = FeaturePipeline._frame

    def imputed(self: FeaturePipeline, panel: Panel, wanted: Any) -> pd.DataFrame:
        frame = shipped(self, panel, wanted)
        return frame.fillna(frame.mean())

    trial.plant(FeaturePipeline, "_frame", imputed)
    trial.is_found_by("prefix", {"log_rv_raw_720h"}, sample="history")


def test_market_factor_of_the_whole_sample(trial: Any) -> None:
    def factor(self: Panel, x: Array, statistic: Any) -> Array:
        filled = np.clip(np.nan_to_num(x), -1e3, 1e3)
        loadings = np.linalg.eigh(np.einsum("it,jt->ij", filled, filled))[1][:, -1]
        return np.repeat(np.einsum("i,it->t", loadings, filled)[None, :], len(x), axis=0)

    trial.plant(Panel, "across", factor)
    trial.is_found_by(
        "prefix",
        {"market_log_ew_3h", "own_less_market_3h"},
        only="market|breadth|concentration|burst|contagion|connectedness",
        sample="cross",
    )


def test_noise_seeded_by_the_clock_on_the_wall(trial: Any) -> None:
    shipped = Panel.ewma

    def jittered(self: Panel, x: Array, half_life: float) -> Array:
        noise = np.random.default_rng(time.time_ns()).normal(0, 1e-9, x.shape)
        return shipped(self, x, half_life) * (1 + noise)

    trial.plant(Panel, "ewma", jittered)
    trial.is_found_by("prefix", {"log_ew_2h", "log_ew_336h"}, only="_ew_|trend|rsq", sample="history")
