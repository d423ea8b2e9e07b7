from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import DataInvalid, UsageError
from features.market import Market
from features.sources import ImportReport, import_data

DAY = pd.Timedelta("24h")
MIDNIGHT = pd.Timestamp("2024-03-01", tz="UTC")


def save(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def wide(folder: Path) -> Path:
    dates = pa.array(["2024-03-01", "2024-03-02", "2024-03-03"])
    return save(folder / "wide.parquet", day=dates, vix=[13.1, None, 14.2], fng=[70.0, 71.0, 72.0])


def load(file: Path, folder: Path, **how: Any) -> tuple[ImportReport, Market]:
    report = import_data("parquet", file, folder / "store", **how)
    return report, Market.open(folder / "store")


def test_a_wide_file_fills_one_series_at_a_time_known_a_day_later(tmp_path: Path) -> None:
    file = wide(tmp_path)
    for series, column in (("VIX", "vix"), ("FNG", "fng")):
        report, market = load(
            file,
            tmp_path,
            table="daily",
            columns={"date": "day", "close": column},
            set_={"series": series},
            delay=DAY,
        )
        assert report.quarantined == ()
    rows = market.daily()
    assert rows["series"].tolist() == ["FNG"] * 3 + ["VIX"] * 2
    assert rows["close"].tolist() == [70.0, 71.0, 72.0, 13.1, 14.2]
    assert (rows["available_at"] - rows["date"] == DAY).all()
    assert set(rows["source"]) == {"parquet"}
    assert market.as_of(MIDNIGHT + DAY - pd.Timedelta("1us")).daily().empty
    assert len(market.as_of(MIDNIGHT + DAY).daily()) == 2


def test_rows_without_a_value_are_no_observations_and_are_counted(tmp_path: Path) -> None:
    how: dict[str, Any] = {
        "columns": {"date": "day", "close": "vix"},
        "set_": {"series": "VIX"},
        "delay": DAY,
    }
    report, _ = load(wide(tmp_path), tmp_path, table="daily", **how)
    assert report.rows == {"daily": 2}
    assert "1 rows hold no value" in report.notes[0][1]


def test_a_file_in_the_tables_own_names_needs_no_mapping(tmp_path: Path) -> None:
    times = pa.array([MIDNIGHT, MIDNIGHT + 8 * pd.Timedelta("1h")], pa.timestamp("ms", tz="UTC"))
    file = save(
        tmp_path / "funding.parquet",
        funding_time=times,
        exchange=["okx", "okx"],
        symbol=["BTCUSDT", "BTCUSDT"],
        funding_rate=[1e-4, -1e-4],
        remark=["a", "b"],
    )
    _, market = load(file, tmp_path, table="funding")
    rows = market.funding("okx")
    assert rows["funding_rate"].tolist() == [1e-4, -1e-4]
    assert (rows["available_at"] == rows["funding_time"]).all()
    assert rows["interval_hours"].isna().all()
    assert market.funding().empty


def test_open_times_become_close_times(tmp_path: Path) -> None:
    file = save(tmp_path / "dvol.parquet", time=pa.array([MIDNIGHT], pa.timestamp("ms", tz="UTC")), v=[55.5])
    _, market = load(
        file,
        tmp_path,
        table="implied_vol",
        columns={"open_time": "time", "close": "v"},
        set_={"underlying": "BTC", "interval": "1h"},
    )
    [row] = market.implied_vol().to_dict("records")
    assert row["close_time"] == row["available_at"] == MIDNIGHT + pd.Timedelta("1h")
    assert row["close"] == 55.5
    assert pd.isna(row["open"])


def test_available_at_may_be_a_column(tmp_path: Path) -> None:
    file = save(tmp_path / "x.parquet", date=["2024-03-01"], close=[1.0], published=["2024-03-05T06:00:00Z"])
    columns = {"date": "date", "close": "close", "available_at": "published"}
    _, market = load(file, tmp_path, table="daily", columns=columns, set_={"series": "X"})
    assert market.daily()["available_at"].item() == pd.Timestamp("2024-03-05 06:00", tz="UTC")


def test_csv_and_feather_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("date,close\n2024-03-01,1.5\n2024-03-02,oops\n2024-03-03,2\n")
    how: dict[str, Any] = {"table": "daily", "set_": {"series": "X"}, "delay": DAY}
    report, market = load(tmp_path / "x.csv", tmp_path, **how)
    assert market.daily()["close"].tolist() == [1.5, 2.0]
    [bad] = report.quarantined
    assert (bad.line, bad.column, bad.cause) == (3, "close", "'oops' is not a number")


def test_a_cell_of_a_csv_means_the_same_whatever_stands_beside_it(tmp_path: Path) -> None:
    days = [f"2024-03-0{n},{value}" for n, value in enumerate(["0x1A", "7", "true", "NULL", "5", "8"], 1)]
    how: dict[str, Any] = {"table": "daily", "set_": {"series": "X"}, "delay": DAY}
    # A blank line is a line: rows below it keep their number.
    (tmp_path / "x.csv").write_text("\n".join(["date,close", days[0], "", *days[1:], "now,9"]) + "\n")
    report, market = load(tmp_path / "x.csv", tmp_path, **how)
    assert market.daily()["close"].tolist() == [7.0, 5.0, 8.0]
    assert [(bad.line, bad.column) for bad in report.quarantined] == [(2, "close"), (5, "close"), (9, "date")]
    assert report.quarantined[-1].cause == "'now' is not an instant"
    assert "1 rows hold no value" in report.notes[0][1]
    [kept] = (tmp_path / "store" / "quarantine" / "daily").glob("*.jsonl")
    assert "date=now, close=9" in kept.read_text()


def test_epochs_of_a_csv_keep_every_microsecond(tmp_path: Path) -> None:
    stamps = [MIDNIGHT.value + 1_000 * micro for micro in range(1, 6)]
    (tmp_path / "x.csv").write_text("date,close\n" + "".join(f"{stamp},1\n" for stamp in stamps))
    _, market = load(tmp_path / "x.csv", tmp_path, table="daily", set_={"series": "X"}, delay=DAY)
    assert market.daily()["date"].tolist() == [MIDNIGHT + pd.Timedelta(n, "us") for n in range(1, 6)]


@pytest.mark.parametrize("rows", ['2024-03-01,1,"a\n2024-03-02,2,b"\n2024-03-03,3,c\n', '2024-03-01,1,"a\n'])
def test_a_quoted_line_break_is_refused_before_it_swallows_rows(tmp_path: Path, rows: str) -> None:
    (tmp_path / "x.csv").write_text(f"date,close,remark\n{rows}")
    with pytest.raises(DataInvalid, match=r"x\.csv has a line break inside"):
        load(tmp_path / "x.csv", tmp_path, table="daily", set_={"series": "X"}, delay=DAY)


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("date,close,close\n2024-03-01,1,2\n")
    with pytest.raises(DataInvalid, match="has the column 'close' twice"):
        load(tmp_path / "x.csv", tmp_path, table="daily", set_={"series": "X"}, delay=DAY)


def test_a_column_that_is_not_asked_for_may_be_there_twice_in_two_types(tmp_path: Path) -> None:
    arrays = [pa.array(["2024-03-01"]), pa.array([1.0]), pa.array(["a"]), pa.array([{"b": 1}])]
    twice = pa.Table.from_arrays(arrays, names=["date", "close", "remark", "remark"])
    pyarrow.feather.write_feather(twice, str(tmp_path / "x.feather"))
    _, market = load(tmp_path / "x.feather", tmp_path, table="daily", set_={"series": "X"}, delay=DAY)
    assert market.daily()["close"].tolist() == [1.0]


def test_one_unknown_interval_spoils_its_own_row(tmp_path: Path) -> None:
    one = [100.0] * 4
    times = pa.array([MIDNIGHT] * 4, pa.timestamp("us", tz="UTC"))
    lengths = ["1h", "7m", None, "1d"]
    columns: dict[str, Any] = {"open_time": times, "interval": lengths} | dict.fromkeys(
        ("open", "high", "low", "close", "volume"), one
    )
    report, market = load(save(tmp_path / "x.parquet", **columns), tmp_path, table="spot", set_={"symbol": "A"})
    assert [bad.line for bad in report.quarantined] == [2, 3]
    assert len(market.spot("1h")) == len(market.spot("1d")) == 1
    with pytest.raises(UsageError, match="interval '7m' is none of"):
        load(tmp_path / "x.parquet", tmp_path, table="spot", set_={"symbol": "A", "interval": "7m"})


@pytest.mark.parametrize("names", [["A", "", " "], [b"A", b"B", b"C"], [1.0, 2.0, 3.0], [True, False, True]])
def test_a_series_has_a_name_and_it_is_text(tmp_path: Path, names: list[object]) -> None:
    file = save(tmp_path / "x.parquet", date=["2024-03-01"] * 3, close=[1.0, 2.0, 3.0], series=names)
    with pytest.raises(DataInvalid, match="column series"):
        load(file, tmp_path, table="daily", delay=DAY)


def test_bars_of_several_symbols_go_to_their_own_partitions(tmp_path: Path) -> None:
    one = [100.0, 100.0]
    file = save(
        tmp_path / "bars.parquet",
        symbol=["A", "B"], close_time=[1709254800000] * 2, open=one, high=one, low=one, close=one, volume=one,
    )  # fmt: skip
    report, market = load(file, tmp_path, table="bars", set_={"interval": "1h"})
    assert [path.split("/")[2] for path in report.written] == ["symbol=A", "symbol=B"]
    assert market.symbols == ("A", "B")
    assert market.first_bar["A"] == pd.Timestamp("2024-03-01 01:00", tz="UTC")


def test_names_cannot_climb_out_of_the_store(tmp_path: Path) -> None:
    one = [100.0] * 3
    file = save(
        tmp_path / "bars.parquet",
        symbol=["A", "B", "../../../evil"], close_time=[1709254800000] * 3, open=one, high=one, low=one,
        close=one, volume=one,
    )  # fmt: skip
    report, market = load(file, tmp_path, table="bars", set_={"interval": "1h"})
    assert market.symbols == ("A", "B")
    assert [(bad.line, bad.column) for bad in report.quarantined] == [(3, "symbol")]
    assert not list(tmp_path.parent.rglob("*evil*"))


@pytest.mark.parametrize(
    ("how", "cure"),
    [
        ({"table": None}, "needs --table"),
        ({"table": "dayly"}, "did you mean 'daily'"),
        ({"columns": {"date": "day", "closs": "vix"}}, "did you mean 'close'"),
        ({"columns": {"date": "day", "close": "vixx"}}, "did you mean 'vix'"),
        ({"set_": {"serie": "X"}}, "did you mean 'series'"),
        ({"delay": None}, "--delay 24h"),
        ({"delay": pd.Timedelta("-1h")}, "negative"),
        ({"columns": {"close": "vix"}}, "--columns date="),
    ],
)
def test_wrong_usage_names_the_cure(tmp_path: Path, how: dict[str, Any], cure: str) -> None:
    right: dict[str, Any] = {
        "table": "daily", "columns": {"date": "day", "close": "vix"}, "set_": {"series": "X"}, "delay": DAY,
    }  # fmt: skip
    with pytest.raises(UsageError, match=cure):
        import_data("parquet", wide(tmp_path), tmp_path / "store", **(right | how))
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"junk")
    with pytest.raises(DataInvalid, match=r"x\.parquet is no parquet file"):
        import_data("parquet", tmp_path / "x.parquet", tmp_path / "store", table="funding")
    (tmp_path / "ragged.csv").write_text("date,close\n2024-03-01,1\n2024-03-02\n")
    with pytest.raises(DataInvalid, match=r"ragged\.csv is no csv file"):
        import_data("parquet", tmp_path / "ragged.csv", tmp_path / "store", table="daily", delay=DAY)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.one_of(st.floats(1.0, 100.0), st.sampled_from([float("inf"), float("-inf"), 0.0])),
        ),
        min_size=1,
        max_size=10,
    )
)
def test_daily_closes_agree_with_a_slow_reader(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, float]]
) -> None:
    folder = tmp_path_factory.mktemp("daily")
    file = save(
        folder / "x.parquet",
        date=[f"2024-03-0{day + 1}" for day, _ in rows],
        close=[value for _, value in rows],
    )
    expected: dict[int, float] = {}
    for day, value in rows:
        if abs(value) != float("inf"):
            expected.setdefault(day, value)
    if 2 * len(expected) < len(rows):
        with pytest.raises(DataInvalid, match="rows are bad"):
            load(file, folder, table="daily", set_={"series": "X"}, delay=DAY)
        return
    report, market = load(file, folder, table="daily", set_={"series": "X"}, delay=DAY)
    seen = market.daily()
    assert dict(zip((seen["date"] - MIDNIGHT).dt.days, seen["close"], strict=True)) == expected
    assert len(seen) + len(report.quarantined) == len(rows)


def test_a_simulated_market_enters_by_seed_or_file_and_keeps_its_truth_apart(tmp_path: Path) -> None:
    config = tmp_path / "simulation.toml"
    config.write_text("seed = 3\ndays = 40\nsymbols = 2\n")
    report = import_data("simulated", config, tmp_path / "store")
    assert report.quarantined == ()
    market = Market.open(tmp_path / "store")
    assert len(market.bars()) == 2 * 40 * 24
    assert set(market.bars()["source"]) == {"simulated"}
    [truth] = (tmp_path / "store" / "truth").glob("*.parquet")
    assert len(pd.read_parquet(truth)) >= 2 * 40 * 24
    assert import_data("simulated", config, tmp_path / "store").written == ()


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("seed = 3\ndayz = 4", "did you mean 'days'"),
        ("seed = 'x'", "of type int"),
        ("seed = ", "cannot be read"),
    ],
)
def test_a_wrong_simulation_file_names_the_cure(tmp_path: Path, text: str, cure: str) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(UsageError, match=cure):
        import_data("simulated", tmp_path / "s.toml", tmp_path / "store")
    with pytest.raises(UsageError, match="seed:7"):
        import_data("simulated", "7", tmp_path / "store")


@pytest.mark.real
def test_real_margin_tiers_and_implied_volatility_are_read_whole(real_data: Path, tmp_path: Path) -> None:
    tiers = real_data / "risk_params" / "binance_leverage_tiers_history.parquet"
    report, market = load(tiers, tmp_path, table="margin_tiers")
    assert report.rows["margin_tiers"] == pq.read_metadata(tiers).num_rows
    assert report.quarantined == ()
    rows = market.margin_tiers()
    first = rows[(rows["symbol"] == "SOLUSDT") & (rows["tier"] == 1)].set_index("observed_at")["max_leverage"]
    assert first.loc["2022-11-25":"2022-11-26"].min() == 12.0  # type: ignore[misc]
