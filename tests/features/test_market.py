from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features.errors import DataInvalid, LookAhead
from features.market import Market, merge
from features.schemas import TABLES
from features.store import Store

START = pd.Timestamp("2024-03-01", tz="UTC")
HOUR = pd.Timedelta(hours=1)


def hours(*numbers: float) -> list[pd.Timestamp]:
    return [START + HOUR * number for number in numbers]


def bars(symbol: str, at: list[pd.Timestamp], price: float = 100.0, **columns: Any) -> pd.DataFrame:
    frame = pd.DataFrame({"interval": "1h", "symbol": symbol, "close_time": at})
    frame = frame.assign(open=price, high=price, low=price, close=price, volume=1.0, available_at=at)
    return frame.assign(source="parquet", **columns)


def every_table() -> dict[str, pd.DataFrame]:
    """Six rows in each table, known one to three hours after they happened."""
    tables = {}
    for name, spec in TABLES.items():
        rows = []
        for number in range(6):
            row: dict[str, Any] = dict.fromkeys(spec.columns, 1.0)
            row |= {c: "1h" if c == "interval" else "A" for c in spec.identity if c != spec.clock}
            row |= {"source": "parquet", spec.clock: START + HOUR * number, "funding_rate": 1e-4}
            row |= {"available_at": row[spec.clock] + HOUR * (1 + number % 3), "min_notional": 0.0, "bid": 0.5}
            rows.append({column: row[column] for column in spec.columns} | ({"tier": 1} if "tier" in row else {}))
        tables[name] = pd.DataFrame(rows)
    return tables


def stored(folder: Path, *imports: tuple[str, pd.DataFrame]) -> Market:
    """A store of these imports, in this order."""
    for order, (source, frame) in enumerate(imports):
        rows = frame.assign(source=source)
        rows = rows.reindex(columns=[*TABLES["bars"].columns, *(c for c in rows if c == "vpin")])
        rows["close_time"] = rows["close_time"].dt.as_unit("us")
        rows["available_at"] = rows["available_at"].dt.as_unit("us")
        with Store(folder).writing() as writer:
            writer.add(rows, TABLES["bars"], source, f"{order:012d}")
    return Market.open(folder)


@pytest.fixture(scope="module")
def whole() -> Market:
    return Market.from_tables(every_table())


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_view_holds_what_was_known_and_nothing_else(whole: Market, name: str) -> None:
    known = every_table()[name]["available_at"]
    for hour in range(-1, 9):
        seen = whole.as_of(START + HOUR * hour).table(name)
        assert list(seen.columns) == list(TABLES[name].columns)
        assert sorted(seen["available_at"]) == sorted(known[known <= START + HOUR * hour])


def test_a_view_refuses_the_future_and_allows_the_past(whole: Market) -> None:
    view = whole.as_of(START + HOUR * 3)
    assert view.asof == START + HOUR * 3
    assert view.as_of(START).asof == START
    assert view.as_of(START + HOUR * 3).asof == view.asof
    with pytest.raises(LookAhead, match="whole market"):
        view.as_of(START + HOUR * 3 + pd.Timedelta(microseconds=1))
    with pytest.raises(LookAhead):
        view.since(START).as_of(START + HOUR * 9)


def test_symbols_and_first_bars_are_those_of_the_view() -> None:
    market = Market.from_tables(
        {"bars": pd.concat([bars("B", hours(0, 1)), bars("A", hours(5, 6)), bars("A", hours(4), interval="15m")])}
    )
    assert market.symbols == ("A", "B")
    assert market.as_of(START).symbols == ("B",)
    assert market.first_bar.to_dict() == {"A": START + 5 * HOUR, "B": START}
    assert market.as_of(START + HOUR).first_bar.to_dict() == {"B": START}
    recent = market.since(START + 2 * HOUR)
    assert recent.symbols == ("A",)
    assert recent.first_bar.to_dict() == {"A": START + 5 * HOUR, "B": START}


def test_since_goes_by_the_clock_and_only_narrows(whole: Market) -> None:
    for name, spec in TABLES.items():
        rows = whole.since(START + HOUR * 2).as_of(START + HOUR * 6).table(name)
        assert (rows[spec.clock] > START + HOUR * 2).all()
        assert (rows["available_at"] <= START + HOUR * 6).all()
        assert len(rows) == 2, name
    assert len(whole.since(START + HOUR * 2).since(START).table("funding")) == 3


def test_bars_are_indexed_and_sorted_and_filtered() -> None:
    market = Market.from_tables({"bars": pd.concat([bars("B", hours(1, 0)), bars("A", hours(2))])})
    assert list(market.bars().index) == [
        ("A", START + 2 * HOUR),
        ("B", START),
        ("B", START + HOUR),
    ]
    assert list(market.bars(symbols=["A"]).index.get_level_values(0)) == ["A"]
    assert market.bars("15m").empty
    assert list(market.bars("15m").columns) == list(market.bars().columns)
    assert market.spot().empty
    assert market.funding().empty


def test_columns_come_from_the_preferred_source_and_prices_together(tmp_path: Path) -> None:
    market = stored(
        tmp_path,
        ("freqtrade", bars("A", hours(0, 1, 2), 100.0, trades=7.0)),
        ("vision", bars("A", hours(1), 200.0, quote_volume=5.0)),
    )
    rows = market.bars().loc["A"]
    assert rows["close"].tolist() == [100.0, 200.0, 100.0]
    assert rows["open"].tolist() == [100.0, 200.0, 100.0]
    assert rows["trades"].tolist() == [7.0, 7.0, 7.0]
    assert rows["quote_volume"].fillna(-1).tolist() == [-1.0, 5.0, -1.0]
    assert rows["source"].tolist() == ["freqtrade", "vision+freqtrade", "freqtrade"]


def test_what_became_known_later_than_its_key_contributes_nothing(tmp_path: Path) -> None:
    late = {"available_at": hours(1 + 48)}
    early = stored(
        tmp_path / "a",
        ("vision", bars("A", hours(1))),
        ("freqtrade", bars("A", hours(1)).assign(trades=7.0, **late)),
    )
    assert early.bars()["available_at"].tolist() == hours(1)
    assert early.bars()["trades"].isna().all()
    preferred = stored(
        tmp_path / "b",
        ("freqtrade", bars("A", hours(1))),
        ("vision", bars("A", hours(1, 2), 200.0).assign(available_at=hours(49, 49))),
    )
    assert preferred.as_of(START + HOUR).bars()["close"].tolist() == [100.0]
    assert preferred.bars()["close"].tolist() == [100.0, 200.0]
    assert preferred.bars()["available_at"].tolist() == hours(1, 49)
    assert preferred.bars()["source"].tolist() == ["freqtrade", "vision"]


def test_a_settlement_stamped_a_moment_later_is_the_same_one() -> None:
    def settled(source: str, late: str, interval: float) -> pd.DataFrame:
        row = {"exchange": "binance", "symbol": "A", "funding_time": START, "funding_rate": 1e-4}
        row |= {"interval_hours": interval, "available_at": START + pd.Timedelta(late), "source": source}
        return pd.DataFrame([row])

    rough = settled("freqtrade", "0s", np.nan)
    for late, interval, source in (("3ms", 8.0, "vision"), ("1min", 8.0, "vision"), ("61s", np.nan, "freqtrade")):
        [row] = merge([rough, settled("vision", late, 8.0)], TABLES["funding"]).to_dict("records")
        assert (row["interval_hours"] == interval) or (np.isnan(row["interval_hours"]) and np.isnan(interval))
        assert row["source"] == source
        assert row["available_at"] == START + (pd.Timedelta(late) if source == "vision" else pd.Timedelta(0))


@pytest.mark.parametrize("sources", [("vision", "trades"), ("freqtrade", "vision"), ("parquet", "freqtrade")])
@pytest.mark.parametrize("reviser", [0, 1])
def test_a_revision_changes_no_view_of_the_past(tmp_path: Path, sources: tuple[str, str], reviser: int) -> None:
    """What every earlier instant shows has the same bits, whatever the revision adds or restates."""
    generator = np.random.default_rng(len(sources[0]) + reviser)

    def offered(source: str, fetched: float | None = None) -> tuple[str, pd.DataFrame]:
        size = 9 if fetched is None else 20
        chosen = sorted(generator.choice(20, size, replace=False))
        frame = bars("A", hours(*chosen), float(generator.integers(50, 150)))
        for column in ("trades", "quote_volume", *(("vpin",) if source == "trades" else ())):
            frame[column] = np.where(generator.random(size) < 0.5, np.nan, generator.random(size))
        known = frame["close_time"] + pd.to_timedelta(generator.choice([0, 0, 1, 6], size), unit="h")
        late = known if fetched is None else known.clip(lower=START + HOUR * fetched)
        return source, frame.assign(available_at=late)

    first = [offered(source) for source in sources]
    before = stored(tmp_path / "before", *first)
    fetched = 9.5
    after = stored(tmp_path / "after", *first, offered(sources[reviser], fetched))
    assert len(after.bars()) > len(before.bars())
    for quarter in range(-1, int(4 * fetched) + 1):
        t = min(START + HOUR * quarter / 4, START + HOUR * fetched - pd.Timedelta(microseconds=1))
        then, now = before.as_of(t).table("bars"), after.as_of(t).table("bars")
        pd.testing.assert_frame_equal(now, then.reindex(columns=now.columns), check_exact=True)


def test_within_one_source_the_first_import_stands(tmp_path: Path) -> None:
    market = stored(
        tmp_path,
        ("parquet", bars("A", hours(0, 1), 100.0)),
        ("parquet", bars("A", hours(1, 2), 300.0, trades=1.0)),
    )
    rows = market.bars().loc["A"]
    assert rows["close"].tolist() == [100.0, 100.0, 300.0]
    assert rows["trades"].fillna(0).tolist() == [0.0, 0.0, 1.0]


def test_merging_agrees_with_a_row_by_row_merge(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    imports = []
    for source in ("freqtrade", "vision", "parquet", "vision"):
        chosen = sorted(generator.choice(12, size=8, replace=False))
        frame = bars("A", hours(*chosen), float(generator.integers(50, 150)))
        holes = generator.random((8, 2)) < 0.5
        frame["trades"] = np.where(holes[:, 0], np.nan, generator.random(8))
        frame["quote_volume"] = np.where(holes[:, 1], np.nan, generator.random(8))
        frame["available_at"] += pd.to_timedelta(generator.integers(0, 2, 8), unit="h")
        imports.append((source, frame))
    rows = stored(tmp_path, *imports).bars().loc["A"]
    for hour in range(12):
        offers: dict[str, Any] = {}
        for source, frame in imports:
            match = frame[frame["close_time"] == START + HOUR * hour]
            if len(match):
                offers.setdefault(source, match.iloc[0])
        ranked = [offers[source] for source in ("vision", "parquet", "freqtrade") if source in offers]
        if not ranked:
            assert START + HOUR * hour not in rows.index
            continue
        known = min(offer["available_at"] for offer in ranked)
        ranked = [offer for offer in ranked if offer["available_at"] == known]
        got, used = rows.loc[START + HOUR * hour], {0}
        assert got["close"] == ranked[0]["close"]
        for column in ("trades", "quote_volume"):
            givers = [place for place, offer in enumerate(ranked) if pd.notna(offer[column])]
            assert pd.isna(got[column]) if not givers else got[column] == ranked[givers[0]][column]
            used |= set(givers[:1])
        assert got["available_at"] == max(ranked[place]["available_at"] for place in used)


def test_measures_from_trades_appear_only_where_a_source_has_them(tmp_path: Path) -> None:
    plain = stored(tmp_path / "a", ("freqtrade", bars("A", hours(0))))
    assert "vpin" not in plain.bars()
    rich = stored(tmp_path / "b", ("freqtrade", bars("A", hours(0, 1))), ("trades", bars("A", hours(1), vpin=0.5)))
    assert rich.bars()["vpin"].fillna(-1).tolist() == [-1.0, 0.5]


def test_a_market_travels_light_and_arrives_whole(tmp_path: Path) -> None:
    market = stored(tmp_path, ("freqtrade", bars("A", hours(*range(500)))))
    view = market.as_of(START + 99 * HOUR)
    assert len(view.bars()) == 100
    parcel = pickle.dumps(view)
    assert len(parcel) < 10_000
    arrived = pickle.loads(parcel)
    pd.testing.assert_frame_equal(arrived.bars(), view.bars())
    with pytest.raises(LookAhead):
        arrived.as_of(START + 100 * HOUR)


def test_an_open_market_does_not_see_later_imports(tmp_path: Path) -> None:
    market = stored(tmp_path, ("freqtrade", bars("A", hours(0))))
    sha = market.data_sha256
    later = stored(tmp_path, ("freqtrade", bars("A", hours(0))), ("vision", bars("A", hours(1))))
    assert len(market.bars()) == 1
    assert len(later.bars()) == 2
    assert market.data_sha256 == sha != later.data_sha256


def test_the_hash_stands_for_the_content() -> None:
    one, same, other = (Market.from_tables({"bars": bars("A", hours(0), price)}) for price in (100.0, 100.0, 101.0))
    assert one.data_sha256 == same.data_sha256 != other.data_sha256
    assert len(one.data_sha256) == 64
    patched = one.with_tables(bars=bars("A", hours(0), 101.0))
    assert patched.data_sha256 == other.data_sha256


def test_a_patched_table_replaces_only_itself_and_keeps_the_view(whole: Market) -> None:
    view = whole.as_of(START + HOUR * 4)
    broken = every_table()["funding"].assign(funding_rate=np.nan)
    patched = view.with_tables(funding=broken)
    assert patched.table("funding")["funding_rate"].isna().all()
    assert view.table("funding")["funding_rate"].notna().all()
    assert len(patched.table("funding")) == len(view.table("funding"))
    pd.testing.assert_frame_equal(patched.table("daily"), view.table("daily"))


def test_what_is_handed_out_can_be_changed_without_harm() -> None:
    market = Market.from_tables({"bars": bars("A", hours(0, 1))})
    frame = market.table("bars", "1h")
    frame.loc[:, "close"] = -1.0
    assert (market.table("bars", "1h")["close"] == 100.0).all()


def test_bad_tables_and_empty_stores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match=r"row 0, column low: is above"):
        Market.from_tables({"bars": bars("A", hours(0)).assign(low=200.0)})
    with pytest.raises(DataInvalid, match="'available_at'"):
        Market.from_tables({"daily": every_table()["daily"].drop(columns="available_at")})
    with pytest.raises(DataInvalid, match="data import"):
        Market.open(tmp_path / "nothing")


def test_a_bar_that_came_late_lists_no_symbol() -> None:
    """The age of a listing would otherwise be known before the listing was."""
    closes = pd.date_range("2024-01-01 01:00", periods=3, freq="h", tz="UTC", unit="us")
    bars = pd.DataFrame({"symbol": "NEWUSDT", "interval": "1h", "close_time": closes, "source": "parquet"})
    bars = bars.assign(available_at=bars["close_time"], open=1.0, high=1.0, low=1.0, close=1.0, volume=1.0)
    bars.loc[0, "available_at"] = closes[2]
    assert Market.from_tables({"bars": bars}).first_bar.to_dict() == {"NEWUSDT": closes[1]}
