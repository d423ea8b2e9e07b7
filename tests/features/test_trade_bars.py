"""The pass over trades against slow oracles: DuckDB for the bar, plain Python for every measure."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.trades.bars import NOTHING_AFTER, TradeBars, Trades, bulk_volume
from features.trades.kernels import AHEAD, FAULTS

START = 1_704_067_200_000
DAY = 86_400_000
LENGTHS = {"1m": 60_000_000, "1h": 3_600_000_000, "1d": 86_400_000_000}
PARTS = 12
PLAIN = ("open", "high", "low", "close", "volume", "quote_volume", "trades", "taker_buy_volume")


def tape(seed: int, count: int, days: int, first_day: int = 0) -> pd.DataFrame:
    """Trades at random instants, many at once, of widely spread size, in runs of one side."""
    rng = np.random.default_rng(seed)
    time = np.sort(rng.integers(0, days * DAY // 50, count)) * 50 + START + first_day * DAY
    last = rng.geometric(0.5, count).cumsum() + 100
    sides = rng.random(count).cumsum().astype(int) // 2 % 2
    return pd.DataFrame(
        {
            "time": time,
            "price": np.round(100 * np.exp(rng.normal(0, 3e-4, count).cumsum()), 2),
            "quantity": np.round(rng.lognormal(-1, 1.6, count), 3) + 0.001,
            "agg_id": np.arange(count) + 5,
            "first_id": np.concatenate([[100], last[:-1]]) + 1,
            "last_id": last,
            "maker": sides == 1,
        }
    )


def arrays(frame: pd.DataFrame, offset: int = 0) -> Trades:
    columns = [frame[name].to_numpy() for name in ("time", "price", "quantity", "agg_id", "first_id", "last_id")]
    maker = np.concatenate([np.ones(offset, dtype=bool), frame["maker"].to_numpy(dtype=bool)])
    return Trades(*columns, np.packbits(maker, bitorder="little"), offset)


def limits(days: int = 400) -> tuple[int, int, int]:
    return START, START + days * DAY, 1_000


def bars_of(
    frame: pd.DataFrame, days: int, cuts: tuple[int, ...] = (), lengths: dict[str, int] = LENGTHS, first_day: int = 0
) -> dict[str, npt.NDArray[np.void]]:
    made = TradeBars(lengths)
    made.begin((START + first_day * DAY) * 1_000, continues=False)
    edges = sorted({0, *cuts, len(frame)})
    for low, high in itertools.pairwise(edges):
        refused = made.feed(arrays(frame.iloc[low:high], offset=low % 8), limits())
        assert not len(refused.faults)
    made.finish((START + (first_day + days) * DAY) * 1_000)
    return made.closed()


def same(a: dict[str, npt.NDArray[np.void]], b: dict[str, npt.NDArray[np.void]]) -> bool:
    return all(a[name].tobytes() == b[name].tobytes() for name in a) and a.keys() == b.keys()


@pytest.mark.parametrize("minutes", [1, 60, 1440])
def test_sums_equal_duckdb(minutes: int) -> None:
    frame = tape(1, 60_000, 3)
    name = {1: "1m", 60: "1h", 1440: "1d"}[minutes]
    made = bars_of(frame, 3)[name]
    made = made[made["trades"] > 0]
    oracle = duckdb.query(
        f"""
        SELECT time // ({minutes} * 60000) AS bar, arg_min(price, agg_id) AS open, max(price) AS high,
            min(price) AS low, arg_max(price, agg_id) AS close, sum(quantity) AS volume,
            sum(price * quantity) AS quote_volume, sum(last_id - first_id + 1) AS trades,
            sum(CASE WHEN maker THEN 0 ELSE quantity END) AS taker_buy_volume,
            sum(CASE WHEN maker THEN 0 ELSE price * quantity END) AS taker_buy_quote_volume
        FROM frame GROUP BY bar ORDER BY bar
        """
    ).df()
    assert (made["start"] // LENGTHS[name] == oracle["bar"]).all()
    for column in ("open", "high", "low", "close", "trades"):
        np.testing.assert_array_equal(made[column], oracle[column])
    for column in ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume"):
        np.testing.assert_allclose(made[column], oracle[column], rtol=1e-12)


def size_bin(quantity: float) -> tuple[int, int]:
    mantissa, exponent = math.frexp(quantity)
    return exponent, math.floor((2 * mantissa - 1) * 32)


def clock(frame: pd.DataFrame) -> tuple[dict[int, int], dict[int, float]]:
    """By trade: is it large (-1: not known); and VPIN after it (NaN: not known), by the definitions."""
    days = (frame["time"] // DAY).to_numpy()
    whole = frame.groupby(days)["quantity"].sum()
    large: dict[int, int] = {}
    vpin: dict[int, float] = {}
    done: list[float] = []
    for day in sorted(set(days)):
        before = [d for d in range(day - 7, day) if d in whole.index]
        sizes = sorted(size_bin(q) for q in frame["quantity"][np.isin(days, before)])
        bucket = sum(whole[d] for d in before) / len(before) / 50 if before else math.inf
        threshold = sizes[math.ceil(0.99 * len(sizes)) - 1] if sizes else None
        fill = bought = 0.0
        for i in np.flatnonzero(days == day):
            rest, buys = float(frame["quantity"].iloc[i]), not frame["maker"].iloc[i]
            large[i] = -1 if threshold is None else int(size_bin(rest) > threshold)
            while fill + rest >= bucket:
                part = bucket - fill
                done.append(abs(2 * (bought + part * buys) - bucket) / bucket)
                rest, fill, bought = rest - part, 0.0, 0.0
            fill, bought = fill + rest, bought + rest * buys
            vpin[i] = statistics.fmean(done[-50:]) if len(done) >= 50 else math.nan
    return large, vpin


def measures(frame: pd.DataFrame, start: int, length: int, before: float) -> dict[str, float]:
    """Every measure of one bar that is made of its parts, by its definition."""
    inside = frame[(frame["time"] * 1_000 >= start) & (frame["time"] * 1_000 < start + length)]
    part = (inside["time"] * 1_000 - start) // (length // PARTS)
    closes = inside.groupby(part)["price"].last().reindex(range(PARTS)).ffill().fillna(before)
    r = np.diff(np.log(np.concatenate([[before], closes])))
    value = inside["price"] * inside["quantity"]
    quote = value.groupby(part).sum().reindex(range(PARTS), fill_value=0.0).to_numpy()
    signed = value.where(~inside["maker"], -value).groupby(part).sum().reindex(range(PARTS), fill_value=0.0).to_numpy()
    size = abs(r)
    x = np.sign(signed) * np.sqrt(abs(signed))
    middles = [statistics.median(size[j - 2 : j + 1]) for j in range(2, PARTS)]
    scale = math.pi / (6 - 4 * math.sqrt(3) + math.pi) * PARTS / (PARTS - 2)
    return {
        "realised_variance": sum(r**2),
        "realised_quarticity": PARTS / 3 * sum(r**4),
        "bipower_variation": math.pi / 2 * PARTS / (PARTS - 1) * sum(size[1:] * size[:-1]),
        "med_rv": scale * sum(m**2 for m in middles),
        "semivariance_up": sum(r[r > 0] ** 2),
        "semivariance_down": sum(r[r < 0] ** 2),
        "amihud": np.mean(size[quote > 0] / quote[quote > 0]) if (quote > 0).any() else math.nan,
        "kyle_lambda": np.polyfit(x, r, 1)[0] if np.ptp(x) > 0 else math.nan,
    }


def test_every_measure_equals_its_definition() -> None:
    frame = tape(2, 6_000, 3)
    large, vpin = clock(frame)
    waits = frame["time"].diff().to_numpy() / 1_000
    turns = frame["maker"].ne(frame["maker"].shift())
    lengths = frame.groupby(turns.cumsum()).cumcount().to_numpy() + 1
    for name, rows in bars_of(frame, 3).items():
        length = LENGTHS[name]
        index = frame["time"].to_numpy() * 1_000 // length * length
        members = defaultdict(list, {start: np.flatnonzero(index == start) for start in set(index)})
        for row in rows[:: max(1, len(rows) // 400)]:
            own = members[row["start"]]
            past = frame["price"][frame["time"] * 1_000 < row["start"]]
            expected: dict[str, float] = {
                "large_trades": sum(large[i] for i in own),
                "signed_volume": sum(np.where(frame["maker"], -1, 1)[own] * frame["quantity"].to_numpy()[own]),
                "run_length_max": max(lengths[own]) if len(own) else math.nan,
            }
            if row["start"] < (START + DAY) * 1_000:
                expected["large_trades"] = math.nan
            known = waits[own][~np.isnan(waits[own])]
            expected["duration_mean"] = known.mean() if len(known) else math.nan
            spread = len(known) and known.mean() > 0
            expected["duration_cv"] = known.std() / known.mean() if spread else math.nan
            ended = [lengths[i - 1] for i in own if i > 0 and turns.iloc[i]]
            expected["run_length_mean"] = np.mean(ended) if ended else math.nan
            last = np.flatnonzero(frame["time"] * 1_000 < row["start"] + length)
            expected["vpin"] = vpin[last[-1]] if len(last) else math.nan
            whole = dict.fromkeys(measures(frame, row["start"], length, 1.0), math.nan)
            expected |= measures(frame, row["start"], length, past.iloc[-1]) if len(past) else whole
            for column, value in expected.items():
                assert row[column] == pytest.approx(value, rel=1e-7, abs=1e-11, nan_ok=True), (
                    name,
                    column,
                    row["start"],
                )
    assert np.isfinite(rows["vpin"][-1])


@given(st.integers(0, 5), st.lists(st.integers(0, 4_000), max_size=12))
@settings(max_examples=40, deadline=None)
def test_batches_do_not_change_a_bit(seed: int, cuts: list[int]) -> None:
    frame = tape(seed, 4_000, 2)
    assert same(bars_of(frame, 2), bars_of(frame, 2, tuple(cuts)))


def test_other_intervals_do_not_change_a_bit() -> None:
    frame = tape(3, 5_000, 2)
    whole = bars_of(frame, 2)
    for name, length in LENGTHS.items():
        alone = bars_of(frame, 2, lengths={name: length})[name]
        kept = [column for column in alone.dtype.names or () if column != "interval"]
        assert all(alone[c].tobytes() == whole[name][c].tobytes() for c in kept)


def test_buffers_that_fill_up_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = tape(4, 3_000, 2).drop(index=range(700, 2_500, 7))
    made, refused = gappy(frame)
    monkeypatch.setattr("features.trades.bars.BUFFER", 3)
    again, refused_again = gappy(frame)
    assert same(made, again)
    np.testing.assert_array_equal(refused, refused_again)


def gappy(frame: pd.DataFrame) -> tuple[dict[str, npt.NDArray[np.void]], npt.NDArray[np.int64]]:
    made = TradeBars(LENGTHS)
    made.begin(START * 1_000, continues=False)
    gaps = made.feed(arrays(frame), limits()).gaps
    made.finish((START + 2 * DAY) * 1_000)
    return made.closed(), gaps


def test_jumps_in_ids_are_found_and_their_bars_marked() -> None:
    frame = tape(5, 4_000, 1)
    missing = slice(1_000, 1_300)
    kept = frame.drop(index=frame.index[missing])
    made, gaps = gappy(kept)
    assert gaps.tolist() == [[1_000, 300, frame["time"].iloc[1_300] * 1_000]]
    low, high = (frame["time"].iloc[i] * 1_000 // LENGTHS["1m"] * LENGTHS["1m"] for i in (999, 1_300))
    rows, whole = made["1m"], bars_of(frame, 1)["1m"]
    assert not whole["touched"].any()
    assert rows["start"][rows["touched"] > 0].tolist() == [low, high]
    inside = (whole["start"] > low) & (whole["start"] < high)
    assert inside.sum() > 100
    assert rows["start"].tolist() == whole["start"][~inside & (whole["start"] < rows["start"][-1] + 1)].tolist()


def measures_of(rows: npt.NDArray[np.void]) -> npt.NDArray[np.float64]:
    names = rows.dtype.names or ()
    return np.array([rows[name] for name in names[names.index("taker_buy_quote_volume") + 1 :]])


def test_bars_beside_missing_trades_keep_their_sums_and_have_no_measures() -> None:
    frame = tape(5, 4_000, 2)
    kept = frame.drop(index=range(1_000, 1_300))
    made, _ = gappy(kept)
    for name, length in LENGTHS.items():
        rows = made[name][made[name]["touched"] > 0]
        assert len(rows) == (1 if name == "1d" else 2)
        assert np.isnan(measures_of(rows)).all()
        for row in rows:
            inside = kept[kept["time"] * 1_000 // length * length == row["start"]]
            assert row["volume"] == pytest.approx(inside["quantity"].sum(), rel=1e-12)
            assert row["close"] == inside["price"].iloc[-1]
        sound = made[name][(made[name]["touched"] == 0) & (made[name]["trades"] > 0)]
        assert np.isfinite(sound["realised_variance"][1:]).all()


def test_a_day_with_missing_trades_is_no_measure_of_the_next() -> None:
    frame = tape(5, 4_000, 2)
    assert np.isfinite(gappy(frame)[0]["1d"]["large_trades"][1])
    assert math.isnan(gappy(frame.drop(index=[1_000]))[0]["1d"]["large_trades"][1])


def test_runs_do_not_reach_over_missing_trades() -> None:
    frame = tape(5, 400, 1).assign(maker=True)
    made, _ = gappy(frame.drop(index=range(200, 210)))
    assert made["1m"]["run_length_max"][-1] == 190
    assert gappy(frame)[0]["1m"]["run_length_max"][-1] == 400


def test_trades_missing_at_the_end_are_told_like_those_missing_between() -> None:
    frame = tape(5, 4_000, 2)
    end = START + DAY
    first, second = frame[frame["time"] < end - 7_200_000], frame[frame["time"] >= end]
    made = TradeBars(LENGTHS)
    made.begin(START * 1_000, continues=False)
    made.feed(arrays(first), limits())
    made.finish(end * 1_000, gap=True)
    found = made.closed()
    made.begin(end * 1_000, continues=True)
    assert len(made.feed(arrays(second), limits()).gaps) == 1
    made.finish((end + DAY) * 1_000)
    again = made.closed()
    expected, _ = gappy(pd.concat([first, second]))
    assert same({name: np.concatenate([found[name], again[name]]) for name in LENGTHS}, expected)
    assert found["1h"]["start"][-1] == first["time"].iloc[-1] * 1_000 // LENGTHS["1h"] * LENGTHS["1h"]
    assert found["1h"]["touched"].tolist() == [0] * (len(found["1h"]) - 1) + [1]
    assert math.isnan(again["1d"]["large_trades"][0])


@pytest.mark.parametrize("jump", [0, 1])
def test_time_without_trades_is_flat_once_the_next_trade_follows(jump: int) -> None:
    frame = tape(9, 3, 1).assign(time=START + np.array([90_000, 250_000, DAY + 150_000]))
    frame.loc[2, "agg_id"] += jump
    made = TradeBars({"1m": 60_000_000})
    made.begin(START * 1_000, continues=False)
    made.feed(arrays(frame[:2]), limits())
    made.finish((START + DAY) * 1_000)
    assert (made.closed()["1m"]["start"] // 60_000_000 - START // 60_000).tolist() == [1, 2, 3, 4]
    assert made.silent_bars == 1_440 - 5
    made.begin((START + DAY) * 1_000, continues=True)
    made.feed(arrays(frame[2:]), limits())
    flat = made.closed()["1m"]
    assert len(flat) == (0 if jump else 1_440 - 5 + 2)
    assert not flat["volume"].any()
    assert (flat["close"] == frame["price"][1]).all()


# A trade that is far ahead: what is wrong with it, and the column that is told.
AHEAD_OF_ALL: dict[str, tuple[dict[str, int], str]] = {
    "time": ({"time": START + DAY - 1}, "transact_time"),
    "seconds": ({"time": 2_000}, "transact_time"),
    "agg_id": ({"agg_id": 10**12}, "agg_trade_id"),
    "last_id": ({"last_id": 900_000}, "last_trade_id"),
    "price": ({"price": 1}, "price"),
}


@pytest.mark.parametrize("rows", [[1_000], [1_000, 1_001], [0], [0, 2], [1_023], [1_022, 1_024]])
@pytest.mark.parametrize("name", AHEAD_OF_ALL)
def test_a_trade_that_most_after_it_contradict_is_the_wrong_one(name: str, rows: list[int]) -> None:
    change, column = AHEAD_OF_ALL[name]
    frame = tape(10, 2_000, 1)
    if name == "price":
        frame["price"] *= 100
        rows = [0]
    if name == "seconds":
        # Many trades in little time: none of them is lost, either.
        frame["time"] = START + np.arange(len(frame)) * 10
        rows = rows[:1]
    broken = frame.copy()
    for key, value in change.items():
        broken.loc[rows, key] = broken.loc[rows, "time"] + value if name == "seconds" else value
    for cut in (2_000, 1_024, 1_001):
        made = TradeBars(LENGTHS)
        made.begin(START * 1_000, continues=False)
        head, tail = broken[:cut], broken[cut:]
        after = arrays(tail).first(AHEAD) if len(tail) else NOTHING_AFTER
        faults = made.feed(arrays(head), limits(1), after).faults.tolist()
        faults += [[row + cut, fault] for row, fault in made.feed(arrays(tail), limits(1)).faults.tolist()]
        assert [(row, FAULTS[fault][0]) for row, fault in faults] == [(row, column) for row in rows]
        made.finish((START + DAY) * 1_000)
        bars = made.closed()["1h"]
        assert bars["volume"].sum() == pytest.approx(frame["quantity"].drop(index=rows).sum(), rel=1e-12)
        assert not ((bars["volume"] == 0) & (bars["touched"] > 0)).any()
        assert bars["touched"].sum() in (1, 2)


def test_a_block_of_trades_that_comes_twice_counts_once() -> None:
    frame = tape(10, 2_000, 1)
    made = TradeBars(LENGTHS)
    made.begin(START * 1_000, continues=False)
    doubled = pd.concat([frame[:1_000], frame[950:990], frame[1_000:]])
    refused = made.feed(arrays(doubled), limits())
    assert refused.faults[:, 0].tolist() == list(range(1_000, 1_040))
    assert not len(refused.gaps)
    made.finish((START + DAY) * 1_000)
    assert same(made.closed(), bars_of(frame, 1))


@pytest.mark.parametrize(("column", "value"), [("first_id", -500), ("last_id", 2_000_000)])
def test_ids_of_single_trades_are_bounded_on_both_sides(column: str, value: int) -> None:
    broken = tape(10, 2_000, 1)
    broken.loc[1_000, column] += value
    made = TradeBars(LENGTHS)
    made.begin(START * 1_000, continues=False)
    faults = made.feed(arrays(broken), limits()).faults
    assert [(int(row), FAULTS[code][0].split("_")[1]) for row, code in faults] == [(1_000, "trade")]


def test_before_any_trade_nothing_is_known() -> None:
    made = TradeBars(LENGTHS)
    assert (made.last_agg_id, made.last_time) == (-1, -1)


def test_what_was_lost_before_the_first_trade_is_remembered() -> None:
    frame = tape(10, 2_000, 1)
    found = []
    for torn, frame_ in (
        (False, frame.assign(quantity=frame["quantity"].where(frame.index > 0, -1.0))),
        (True, frame[1:]),
    ):
        made = TradeBars(LENGTHS)
        made.begin(START * 1_000, continues=False)
        if torn:
            made.lose()
        assert not len(made.feed(arrays(frame_), limits()).gaps)
        made.finish((START + DAY) * 1_000)
        found.append(made.closed())
    assert same(*found)
    assert found[0]["1h"]["touched"].tolist() == [1] + [0] * 23


def test_the_hash_of_the_state_knows_no_other_intervals() -> None:
    frame = tape(3, 5_000, 2)
    found = set()
    for names in (["1m", "1h"], ["1h", "1m"], ["1h"], ["1d", "1h"]):
        made = TradeBars({name: LENGTHS[name] for name in names})
        made.begin(START * 1_000, continues=False)
        made.feed(arrays(frame[:3_000]), limits())
        made.closed()
        found.add(made.digest("1h"))
    assert len(found) == 1


def test_a_border_between_files_changes_no_bit() -> None:
    frame = tape(6, 6_000, 3)
    made = TradeBars(LENGTHS)
    kept: dict[str, list[Any]] = {name: [] for name in LENGTHS}
    for day in range(3):
        begin, end = START + day * DAY, START + (day + 1) * DAY
        made.begin(begin * 1_000, continues=day > 0)
        made.feed(arrays(frame[(frame["time"] >= begin) & (frame["time"] < end)]), (begin, end, 1_000))
        made.finish(end * 1_000)
        for name, rows in made.closed().items():
            kept[name].append(rows)
    assert same(bars_of(frame, 3), {name: np.concatenate(rows) for name, rows in kept.items()})


def test_nothing_depends_on_what_lies_ten_days_back() -> None:
    frame = tape(7, 24_000, 12)
    late = frame[frame["time"] >= START + DAY]
    since = (START + 10 * DAY) * 1_000
    long, short = bars_of(frame, 12), bars_of(late, 11, first_day=1)
    for name in LENGTHS:
        assert (
            long[name][long[name]["start"] >= since].tobytes() == short[name][short[name]["start"] >= since].tobytes()
        )
    assert (long["1h"]["start"] < since).any()


def test_missing_time_has_no_bars_and_empties_the_volume_clock() -> None:
    frame = tape(8, 20_000, 5)
    made = TradeBars(LENGTHS)
    rows = []
    for day in (0, 1, 3, 4):
        begin = START + day * DAY
        made.begin(begin * 1_000, continues=day in (1, 4))
        inside = frame[(frame["time"] >= begin) & (frame["time"] < begin + DAY)]
        assert not len(made.feed(arrays(inside), limits()).gaps)
        made.finish((begin + DAY) * 1_000)
        rows.append(made.closed()["1h"])
    assert len(rows[2]) == 24
    assert math.isnan(rows[2]["realised_variance"][0])
    assert math.isnan(rows[2]["vpin"][0])
    # The days before the hole still set bucket and threshold.
    assert np.isfinite(rows[3]["vpin"][-1])
    assert np.isfinite(rows[2]["large_trades"]).all()


def test_quiet_minutes_are_flat_and_cut_bars_are_left_out() -> None:
    frame = tape(9, 3, 1).assign(time=START + np.array([90_000, 250_000, 600_001]))
    made = TradeBars({"1m": 60_000_000})
    made.begin((START + 90_000) * 1_000, continues=False)
    made.feed(arrays(frame), limits())
    made.finish((START + 720_000) * 1_000)
    rows = made.closed()["1m"]
    assert made.cut == 1
    assert ((rows["start"] // 1_000 - START) // 60_000).tolist() == list(range(2, 11))
    flat = rows[rows["trades"] == 0]
    prices = frame["price"].to_numpy()
    expected = np.where(flat["start"] < (START + 240_000) * 1_000, prices[0], np.where(
        flat["start"] < (START + 600_000) * 1_000, prices[1], prices[2]
    ))  # fmt: skip
    for column in ("open", "high", "low", "close"):
        np.testing.assert_array_equal(flat[column], expected)
    assert not flat["volume"].any()


@pytest.mark.parametrize(
    ("column", "value", "fault"),
    [
        ("time", START - 1, "transact_time"),
        ("time", START + 500 * DAY, "transact_time"),
        ("time", START, "transact_time"),
        ("time", 2**62, "transact_time"),
        *(("price", bad, "price") for bad in (0.0, -1.0, math.nan, math.inf, 1e12, 1e6, 1e-3)),
        *(("quantity", bad, "quantity") for bad in (0.0, -1.0, math.nan, math.inf, 1e16)),
        ("agg_id", 5, "agg_trade_id"),
        ("agg_id", -2, "agg_trade_id"),
        ("last_id", 3, "last_trade_id"),
        ("first_id", -1, "last_trade_id"),
    ],
)
def test_bad_trades_are_named_and_not_counted(column: str, value: float, fault: str) -> None:
    frame = tape(10, 2_000, 1)
    broken = frame.copy()
    broken.loc[1_000, column] = value
    made = TradeBars(LENGTHS)
    made.begin(START * 1_000, continues=False)
    faults = made.feed(arrays(broken), limits()).faults
    assert [(int(row), FAULTS[code][0]) for row, code in faults] == [(1_000, fault)]
    made.finish((START + DAY) * 1_000)
    bars = made.closed()["1h"]
    assert bars["volume"].sum() == pytest.approx(frame["quantity"].drop(index=1_000).sum(), rel=1e-12)


def test_one_giant_trade_fills_the_volume_clock_in_finite_time() -> None:
    frame = tape(11, 4_000, 2)
    frame.loc[3_000, "quantity"] = 1e14
    rows = bars_of(frame, 2)["1m"]
    at = np.searchsorted(rows["start"], frame["time"][3_000] * 1_000, side="right") - 1
    assert rows["vpin"][at] == pytest.approx(1.0)


def test_bulk_volume_is_the_normal_share() -> None:
    change, volume, scale = np.array([0.0, 0.01, -0.03, 0.01]), np.full(4, 10.0), np.array([0.01, 0.01, 0.02, 0.0])
    normal = statistics.NormalDist()
    found = bulk_volume(change, volume, scale)
    assert found[:3] == pytest.approx([10 * normal.cdf(z) for z in (0.0, 1.0, -1.5)])
    assert math.isnan(found[3])
