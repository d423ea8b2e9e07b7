from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features.market import Market
from features.quality import QualityReport, check
from features.schemas import TABLES
from features.sources import import_data
from features.store import Store

START = pd.Timestamp("2024-03-01", tz="UTC")
HOUR = pd.Timedelta(hours=1)


def bars(count: int = 48, symbol: str = "A", source: str = "freqtrade", **columns: Any) -> pd.DataFrame:
    """A calm random walk, hourly."""
    close = 100 * np.exp(np.random.default_rng(1).normal(0, 0.005, count).cumsum())
    close_time = pd.date_range(START, periods=count, freq="h").as_unit("us")
    frame = pd.DataFrame({"interval": "1h", "symbol": symbol, "close_time": close_time, "open": close})
    frame = frame.assign(high=close * 1.001, low=close * 0.999, close=close, volume=5.0)
    frame = frame.assign(available_at=close_time, source=source, **columns)
    return frame.reindex(columns=list(TABLES["bars"].columns))


def put(folder: Path, rows: pd.DataFrame, order: int) -> None:
    with Store(folder).writing() as writer:
        writer.add(rows, TABLES["bars"], rows["source"].iloc[0], f"{order:012d}")


def found(report: QualityReport, kind: str) -> list[tuple[Any, ...]]:
    return [
        (f.severity, f.table, f.entity, f.interval, f.first, f.last, f.count)
        for f in report.findings
        if f.check == kind
    ]


def at(hour: float) -> str:
    return (START + HOUR * hour).isoformat()


def test_sound_data_have_no_findings(tmp_path: Path) -> None:
    put(tmp_path, bars(), 0)
    for market in (tmp_path, Market.open(tmp_path), Market.from_tables({"bars": bars()})):
        report = check(market)
        assert report.findings == ()
        assert report.rows == {"bars": 48}


def test_a_gap_is_named_from_to_and_how_many() -> None:
    rows = bars()
    market = Market.from_tables({"bars": pd.concat([rows.drop(index=[7, 20, 21, 22]), bars(symbol="B")])})
    assert found(check(market), "gap") == [
        ("warning", "bars", "A", "1h", at(7), at(7), 1),
        ("warning", "bars", "A", "1h", at(20), at(22), 3),
    ]


def test_a_price_that_jumps_and_comes_back_is_impossible_one_that_stays_is_extreme() -> None:
    spike, jump = bars(), bars(symbol="B")
    spike.loc[10, ["open", "high", "low", "close"]] *= 10
    jump.loc[30:, ["open", "high", "low", "close"]] *= 2
    report = check(Market.from_tables({"bars": pd.concat([spike, jump])}))
    assert found(report, "impossible price") == [("error", "bars", "A", "1h", at(10), at(10), 1)]
    assert found(report, "extreme return") == [("warning", "bars", "B", "1h", at(30), at(30), 1)]
    assert len(report.errors) == 1
    assert report.findings[0].severity == "error"


def test_a_wide_bar_and_bars_without_trades_are_found() -> None:
    rows = bars()
    rows.loc[5, "low"] = rows.loc[5, "close"] / 3
    rows.loc[[15, 16, 17, 40], "volume"] = 0.0
    report = check(Market.from_tables({"bars": rows}))
    assert found(report, "extreme range") == [("warning", "bars", "A", "1h", at(5), at(5), 1)]
    assert found(report, "no trades") == [
        ("warning", "bars", "A", "1h", at(15), at(17), 3),
        ("warning", "bars", "A", "1h", at(40), at(40), 1),
    ]


def test_a_feed_that_ends_early_is_stale() -> None:
    market = Market.from_tables({"bars": pd.concat([bars(), bars(44, "B"), bars(46, "C")])})
    assert found(check(market), "stale") == [("warning", "bars", "B", "1h", at(43), at(43), 1)]


def test_settlements_missing_and_intervals_changed() -> None:
    times = [START + HOUR * hour for hour in (0, 8, 16, 40, 48, 52, 56)]
    funding = pd.DataFrame({"exchange": "binance", "symbol": "A", "funding_time": times, "funding_rate": 1e-4})
    funding["interval_hours"] = [np.nan, 8, 8, np.nan, 8, 4, 4]
    funding["available_at"] = funding["funding_time"]
    report = check(Market.from_tables({"bars": bars(60), "funding": funding}))
    assert found(report, "gap") == [("warning", "funding", "binance A", None, at(16), at(40), 1)]
    assert found(report, "interval change") == [("warning", "funding", "binance A", None, at(52), at(52), 1)]


def test_disagreements_between_sources_and_between_imports_are_listed(tmp_path: Path) -> None:
    put(tmp_path, bars(), 0)
    other = bars(source="vision", trades=1.0)
    other.loc[[10, 12], "volume"] = 5.5
    other.loc[12, "high"] *= 1 + 1e-12
    put(tmp_path, other, 1)
    again = bars(count=20)
    again.loc[3, "close"] *= 1.0005
    put(tmp_path, again, 2)
    report = check(tmp_path)
    assert found(report, "disagreement") == [
        ("warning", "bars", "A", "1h", at(3), at(3), 1),
        ("warning", "bars", "A", "1h", at(10), at(12), 2),
    ]


def test_a_changed_a_missing_and_a_quarantined_file_are_found(tmp_path: Path) -> None:
    put(tmp_path, bars(), 0)
    put(tmp_path, bars(symbol="B"), 1)
    with Store(tmp_path).writing() as writer:
        writer.quarantine("bars", "vision", "000000000002", [{"line": 3, "cause": "x"}, {"line": 4, "cause": "x"}])
    assert [row[3:] for row in found(check(tmp_path), "quarantine")] == [(None, None, None, 2)]
    one, two = (tmp_path / file.path for file in Store(tmp_path).files)
    market = Market.open(tmp_path)
    market.bars()
    one.write_bytes(one.read_bytes() + b"\0")
    report = check(market)
    assert [row[:2] for row in found(report, "file changed")] == [("error", "bars")]
    assert report.rows == {"bars": 48}
    two.unlink()
    assert "symbol=B" in found(check(tmp_path), "file missing")[0][2]


def test_the_report_is_json_and_prose() -> None:
    rows = bars().drop(index=[7])
    report = check(Market.from_tables({"bars": rows}))
    told = report.to_dict()
    assert (told["errors"], told["warnings"]) == (0, 1)
    assert told["findings"][0]["first"] == at(7)
    assert "warning: gap: bars A 1h 2024-03-01T07:00:00+00:00: 1 rows missing" in report.summary()


@pytest.mark.real
def test_the_known_incident_in_quarter_hour_bars_is_flagged(real_data: Path, tmp_path: Path) -> None:
    import_data("freqtrade", real_data / "freqtrade" / "futures" / "BTC_USDT_USDT-15m-futures.feather", tmp_path)
    report = check(tmp_path)
    assert found(report, "no trades") == [
        ("warning", "bars", "BTCUSDT", "15m", "2024-10-28T20:15:00+00:00", "2024-10-28T21:00:00+00:00", 4)
    ]
    assert report.errors == ()
