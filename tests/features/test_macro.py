"""Daily series against a loop over rows, on their true clock."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from features.families.macro import Macro, session_change
from features.leakage import cut_times
from features.market import Market
from features.panel import Panel
from features.sources import import_data

Array = npt.NDArray[np.float64]
HOUR = pd.Timedelta(hours=1)
DAY = pd.Timedelta(days=1)
LIFE = 5 * DAY
FUNDS = ("SPY", "GLD", "HYG", "IEF")


def features_of(panel: Panel) -> dict[str, Array]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return {c.name: c.values for c in Macro().columns(panel)}


@pytest.fixture(scope="module")
def closes(rough_market: Market) -> pd.DataFrame:
    """The simulated indices and four funds, with a holiday, two equal closes in a row and a silence of nine days."""
    rows = rough_market.daily()
    days = rows.loc[rows["series"] == "VIX", ["date", "available_at"]]
    rng = np.random.default_rng(6)
    funds = [
        days.assign(series=name, close=100 * np.exp(np.cumsum(0.01 * rng.normal(size=len(days))))) for name in FUNDS
    ]
    table = pd.concat([rows, *funds], ignore_index=True)
    table["available_at"] = table["date"] + pd.Timedelta(hours=21, minutes=30)
    table = table[table["date"] != pd.Timestamp("2023-02-20", tz="UTC")]
    spy = table.index[table["series"] == "SPY"]
    table.loc[spy[41], "close"] = table.loc[spy[40], "close"]
    silent = (table["series"] == "DXY") & table["date"].between("2023-04-03", "2023-04-12")
    return table[~silent].assign(source="tables").reset_index(drop=True)


@pytest.fixture(scope="module")
def panel(rough_market: Market, closes: pd.DataFrame) -> Panel:
    return Panel(rough_market.with_tables(daily=closes))


@pytest.fixture(scope="module")
def made(panel: Panel) -> dict[str, Array]:
    return features_of(panel)


class Tape:
    """One series as a reader of that hour had it."""

    def __init__(self, closes: pd.DataFrame, series: str) -> None:
        self.rows = closes[closes["series"] == series].sort_values("date")

    def known(self, t: pd.Timestamp) -> pd.DataFrame:
        return self.rows[self.rows["available_at"] <= t]

    def level(self, t: pd.Timestamp) -> float:
        known = self.known(t)
        if known.empty or t - known["available_at"].iloc[-1] > LIFE:
            return math.nan
        return math.log(known["close"].iloc[-1])

    def session(self, t: pd.Timestamp) -> float:
        known = self.known(t)
        if len(known) < 2 or math.isnan(self.level(t)):
            return math.nan
        return math.log(known["close"].iloc[-1] / known["close"].iloc[-2])


def hours_to_check(panel: Panel) -> list[int]:
    """Every few hours through a weekend, a holiday and the silence, and some at random."""
    spans = [("2023-02-17", 150), ("2023-03-03", 90), ("2023-04-03", 330)]
    starts = [(panel.times.get_loc(pd.Timestamp(day, tz="UTC")), length) for day, length in spans]
    rng = np.random.default_rng(4)
    return [*(s + k for s, length in starts for k in range(0, length, 7)), *rng.integers(900, len(panel), 8).tolist()]


def test_by_hand(panel: Panel, closes: pd.DataFrame, made: dict[str, Array]) -> None:
    tapes = {name: Tape(closes, name) for name in ("VIX", "DXY", *FUNDS)}
    for t in hours_to_check(panel):
        now = panel.times[t]
        expected = {
            "log_vix": tapes["VIX"].level(now),
            "log_dxy": tapes["DXY"].level(now),
            "vix_change_168h": tapes["VIX"].level(now) - tapes["VIX"].level(now - 7 * DAY),
            "dxy_change_168h": tapes["DXY"].level(now) - tapes["DXY"].level(now - 7 * DAY),
            "spy_return_session": tapes["SPY"].session(now),
            "abs_spy_return_session": abs(tapes["SPY"].session(now)),
            "spy_change_168h": tapes["SPY"].level(now) - tapes["SPY"].level(now - 7 * DAY),
            "gld_return_session": tapes["GLD"].session(now),
            "credit_return_session": tapes["HYG"].session(now) - tapes["IEF"].session(now),
            "age_vix": (now - tapes["VIX"].known(now)["available_at"].iloc[-1]) / HOUR,
            "age_dxy": (now - tapes["DXY"].known(now)["available_at"].iloc[-1]) / HOUR,
            "age_etf": (now - tapes["SPY"].known(now)["available_at"].iloc[-1]) / HOUR,
        }
        for name, value in expected.items():
            np.testing.assert_allclose(made[name][:, t], value, rtol=1e-9, atol=1e-12, err_msg=f"{name} {now}")


def test_scores_by_hand(panel: Panel, closes: pd.DataFrame, made: dict[str, Array]) -> None:
    tape = Tape(closes, "VIX")
    for t in (800, 1500, 2900):
        path = np.array([tape.level(panel.times[s]) for s in range(t - 719, t + 1)])
        score = np.clip((path[-1] - np.nanmean(path)) / np.nanstd(path, ddof=1), -5, 5)
        np.testing.assert_allclose(made["vix_z_720h"][:, t], score, rtol=1e-8)


def test_nothing_is_known_before_its_hour(panel: Panel, closes: pd.DataFrame, made: dict[str, Array]) -> None:
    vix = closes[closes["series"] == "VIX"]
    for row in vix.iloc[20:40].itertuples():
        at = int(np.searchsorted(panel.times, row.available_at))
        assert panel.times[at] >= row.available_at > panel.times[at - 1]
        assert made["log_vix"][0, at] == pytest.approx(math.log(row.close))
        assert made["log_vix"][0, at - 1] != pytest.approx(math.log(row.close))


def test_a_silent_series_dies_after_five_days(panel: Panel, made: dict[str, Array]) -> None:
    age = made["age_dxy"]
    assert age.max() > 200
    assert np.isnan(made["log_dxy"][age > 120]).all()
    assert np.isfinite(made["log_dxy"][:, 100:][age[:, 100:] <= 120]).all()
    weekend = panel.times.get_loc(pd.Timestamp("2023-03-05 12:00", tz="UTC"))
    assert np.isfinite(made["log_vix"][0, weekend])


def test_session_change_reads_its_window_alone() -> None:
    rng = np.random.default_rng(9)
    session = np.repeat(np.arange(40.0), 24)[None, :]
    session[0, 200:260] = np.nan
    level = np.repeat(np.round(rng.normal(size=40), 1), 24)[None, :]
    level[np.isnan(session)] = np.nan
    whole = session_change(level, session, 168, 0)
    assert np.isnan(whole[0, :24]).all()
    assert np.isnan(whole[0, 200:260]).all()
    one = np.array([[0.0, *[1.0] * 168]])
    found = session_change(one, one, 168, 0)[0]
    assert (found[1:168] == 1.0).all()
    assert np.isnan(found[168])  # the session before ended 168 hours ago, one more than the window holds
    for t in (30, 199, 260, 300, 959):
        earlier = [s for s in range(max(t - 167, 0), t) if session[0, s] < session[0, t]]
        expected = level[0, t] - level[0, earlier[-1]] if earlier else math.nan
        np.testing.assert_equal(whole[0, t], expected)
        if t >= 167:
            a, b = (np.ascontiguousarray(x[:, t - 167 : t + 1]) for x in (level, session))
            np.testing.assert_equal(session_change(a, b, 168, 167)[0, 0], expected)


def test_prefix_law(panel: Panel, made: dict[str, Array]) -> None:
    for t in cut_times(panel.market, 6, seed=5):
        view = Panel(panel.market.as_of(t))
        rows = [panel.symbols.index(symbol) for symbol in view.symbols]
        for name, values in features_of(view).items():
            assert np.array_equal(values, made[name][rows, : len(view)], equal_nan=True), (name, t)


def test_without_the_feed_all_is_nan_but_the_age(rough_market: Market) -> None:
    made = features_of(Panel(Market.from_tables({"bars": rough_market.table("bars")})))
    for name, values in made.items():
        if name.startswith("age_"):
            assert (values == 720).all(), name
        else:
            assert np.isnan(values).all(), name


def test_no_column_is_dead(made: dict[str, Array]) -> None:
    for name, values in made.items():
        assert not np.isinf(values).any(), name
        assert np.nanstd(values) > 0, name
        assert (~np.isnan(values[:, 1000:])).mean() > 0.6, name


@pytest.mark.real
def test_real_closes_wait_for_their_day_to_end(real_data: Path, tmp_path: Path) -> None:
    for file in (real_data / "freqtrade" / "futures").glob("BTC_*-1h-futures.feather"):
        (tmp_path / file.name).symlink_to(file)
    import_data("freqtrade", tmp_path, tmp_path / "store")
    folder, day = real_data / "cross_asset", DAY
    for series in ("vix", "dxy"):
        columns = {"date": "date", "close": series}
        file = folder / "vix_dxy_feargreed-1d.parquet"
        import_data(
            "parquet",
            file,
            tmp_path / "store",
            table="daily",
            columns=columns,
            set_={"series": series.upper()},
            delay=day,
        )
    columns = {"series": "symbol", "date": "date", "close": "close"}
    import_data("parquet", folder / "etf-1d.parquet", tmp_path / "store", table="daily", columns=columns, delay=day)
    market = Market.open(tmp_path / "store")
    panel = Panel(market)
    made = {name: pd.Series(values[0], panel.times) for name, values in features_of(panel).items()}
    closes = market.daily()
    for series, name in (("VIX", "log_vix"), ("DXY", "log_dxy")):
        rows = closes[closes["series"] == series].set_index("date")
        seen = made[name].dropna()
        for t, value in seen.iloc[::977].items():
            past = rows[rows.index + DAY <= t]
            assert value == pytest.approx(math.log(past["close"].iloc[-1])), (series, t)
    # The shock of Monday 2024-08-05 enters with Tuesday, and Friday's close lasts the weekend.
    assert made["log_vix"][pd.Timestamp("2024-08-05 23:00", tz="UTC")] == pytest.approx(math.log(23.39), abs=0.01)
    assert made["log_vix"][pd.Timestamp("2024-08-06 00:00", tz="UTC")] == pytest.approx(math.log(38.57), abs=0.01)
    assert made["spy_return_session"][pd.Timestamp("2024-08-06 00:00", tz="UTC")] == pytest.approx(-0.029, abs=0.002)
    assert made["age_vix"].max() <= 120
    for name, values in made.items():
        assert not np.isinf(values).any(), name
        assert values.iloc[1000:].notna().mean() > 0.95, name
