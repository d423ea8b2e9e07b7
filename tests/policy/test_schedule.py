"""The schedule's bytes: shape, chain, invariants, prefixes, and vectors for other languages."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest

from features.errors import DataInvalid
from features.market import Market
from forecaster.policy import (
    Params,
    PolicyState,
    decide,
    make_schedule,
    prepare,
    schedule_schema,
    write_schedule,
)
from forecaster.policy.schedule import canonical, iso, line_hash

VECTORS = Path(__file__).with_name("vectors.json")


@pytest.fixture(scope="module")
def lines(forecasts: pd.DataFrame, market: Market, params: Params) -> list[bytes]:
    return list(make_schedule(forecasts, market, params))


@pytest.fixture(scope="module")
def objects(lines: list[bytes]) -> list[dict]:
    return [json.loads(line) for line in lines]


def test_every_line_meets_the_published_schema(objects: list[dict]) -> None:
    validator = jsonschema.Draft202012Validator(schedule_schema())
    for line in objects[::97]:
        validator.validate(line)


def test_lines_are_canonical_and_hold_no_float(lines: list[bytes]) -> None:
    def refuse(text: str) -> None:
        raise AssertionError(f"a float: {text}")

    for line in lines:
        value = json.loads(line, parse_float=refuse)
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert text.encode() == line


def test_chain_runs_over_the_whole_file(objects: list[dict]) -> None:
    previous = "0" * 64
    for seq, line in enumerate(objects):
        assert (line["seq"], line["prev_hash"]) == (seq, previous)
        bare = {key: value for key, value in line.items() if key != "hash"}
        text = json.dumps(bare, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert line["hash"] == hashlib.sha256(text.encode()).hexdigest()
        previous = line["hash"]


def test_one_line_per_symbol_and_origin_in_order(objects: list[dict], forecasts: pd.DataFrame) -> None:
    keys = forecasts[["origin", "symbol"]].drop_duplicates().sort_values(["origin", "symbol"])
    wanted = [(o.strftime("%Y-%m-%dT%H:%M:%SZ"), s) for o, s in keys.itertuples(index=False)]
    assert [(line["as_of"], line["symbol"]) for line in objects] == wanted


def test_invariants_hold_on_every_line(objects: list[dict]) -> None:
    history: dict[str, list[int]] = {}
    for line in objects:
        im, mm = line["im_ppm"], line["mm_ppm"]
        assert 0 < line["liquidation_penalty_ppm"] < mm < im <= 1_000_000
        tiers = line["tiers"]
        assert (tiers[0]["im_ppm"], tiers[0]["mm_ppm"]) == (im, mm)
        for name, strict in (("cap_usd", True), ("im_ppm", False), ("mm_ppm", False)):
            steps = np.diff([tier[name] for tier in tiers])
            assert (steps > 0).all() if strict else (steps >= 0).all()
        past = history.setdefault(line["symbol"], [])
        assert sum(line["decomposition"].values()) == im - (past[-1] if past else 0)
        # Hourly origins: the last 25 (121) lines cover the day (five days) before this one.
        assert im <= 2 * min(past[-24:], default=im)
        assert im <= 3 * min(past[-120:], default=im)
        past.append(im)


def test_a_line_in_force_stands_at_every_hour(objects: list[dict]) -> None:
    expiry: dict[str, pd.Timestamp] = {}
    for line in objects:
        as_of, effective = pd.Timestamp(line["as_of"]), pd.Timestamp(line["effective_at"])
        assert as_of <= pd.Timestamp(line["announced_at"]) <= effective
        if line["symbol"] in expiry:
            assert effective < expiry[line["symbol"]]
        else:
            assert effective == as_of
        expiry[line["symbol"]] = pd.Timestamp(line["expires_at"])


def test_tightening_is_never_later_than_loosening(objects: list[dict]) -> None:
    before: dict[str, dict] = {}
    seen = {"up": 0, "down": 0}
    for line in objects:
        prior = before.get(line["symbol"])
        delay = pd.Timestamp(line["effective_at"]) - pd.Timestamp(line["as_of"])
        if prior and line["im_ppm"] > prior["im_ppm"]:
            assert delay == pd.Timedelta(0)
            seen["up"] += 1
        elif prior and line["im_ppm"] < prior["im_ppm"]:
            assert delay == pd.Timedelta(hours=1)
            seen["down"] += 1
        before[line["symbol"]] = line
    assert min(seen.values()) > 50


@pytest.mark.parametrize("hours", [1, 100, 500])
def test_less_data_give_a_byte_prefix(
    hours: int, lines: list[bytes], forecasts: pd.DataFrame, market: Market, params: Params
) -> None:
    cut = forecasts["origin"].min() + pd.Timedelta(hours=hours)
    earlier = forecasts[forecasts["origin"] <= cut].assign(data_sha256="c" * 64)
    short = list(make_schedule(earlier, market.as_of(cut), params))
    assert len(short) == 3 * (hours + 1)
    assert short == lines[: len(short)]


def test_other_models_and_row_order_do_not_matter(
    lines: list[bytes], forecasts: pd.DataFrame, market: Market, params: Params
) -> None:
    start = forecasts["origin"].min()
    first = forecasts[forecasts["origin"] <= start + pd.Timedelta(hours=9)]
    mixed = pd.concat([first.assign(model="har", variance=np.nan), first]).sample(frac=1.0, random_state=3)
    assert list(make_schedule(mixed, market, params)) == lines[:30]


def test_decide_on_prepared_rows_gives_the_same_margins(
    objects: list[dict], forecasts: pd.DataFrame, market: Market, params: Params
) -> None:
    decisions, _ = decide(prepare(forecasts, market, params), PolicyState.initial(), params)
    assert [(d.symbol, d.vector.im[0], d.mode.value, d.forecast_hash) for d in decisions] == [
        (line["symbol"], line["im_ppm"], line["mode"], line["forecast_hash"]) for line in objects
    ]


def test_forecast_hash_sees_every_number_and_word(
    lines: list[bytes], forecasts: pd.DataFrame, market: Market, params: Params
) -> None:
    first = forecasts[forecasts["origin"] == forecasts["origin"].min()]
    original = json.loads(lines[0])["forecast_hash"]
    for changed in (first.assign(ret_q001=first["ret_q001"] * (1 - 1e-15)), first.assign(reason="other")):
        assert json.loads(next(make_schedule(changed, market, params)))["forecast_hash"] != original


def test_written_atomically(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "out" / "schedule.jsonl"
    assert write_schedule(path, lines[:5]) == 5
    assert path.read_bytes() == b"".join(line + b"\n" for line in lines[:5])

    def broken():
        yield lines[0]
        raise DataInvalid("stops here")

    with pytest.raises(DataInvalid, match="stops here"):
        write_schedule(path, broken())
    assert path.read_bytes().count(b"\n") == 5
    assert [p.name for p in path.parent.iterdir()] == ["schedule.jsonl"]


def test_vectors_for_other_languages() -> None:
    for vector in json.loads(VECTORS.read_text("utf-8")):
        assert canonical(vector["input"]).decode() == vector["bytes"]
        assert hashlib.sha256(vector["bytes"].encode()).hexdigest() == vector["sha256"]
        assert line_hash({**vector["input"], "hash": "anything"}) == vector["sha256"]


def test_instants_are_iso_8601_utc() -> None:
    instant = pd.Timestamp("2024-02-29T23:59:59Z").value // 1000
    assert iso(instant) == "2024-02-29T23:59:59Z"
    assert iso(instant + 5) == "2024-02-29T23:59:59.000005Z"


def test_missing_columns_models_and_double_keys_are_refused(
    forecasts: pd.DataFrame, market: Market, params: Params
) -> None:
    few = forecasts.head(3)
    with pytest.raises(DataInvalid, match="mae_long_q995"):
        next(make_schedule(few.drop(columns="mae_long_q995"), market, params))
    with pytest.raises(DataInvalid, match="'ensemble'"):
        next(make_schedule(few.assign(model="har"), market, params))
    with pytest.raises(DataInvalid, match=r"ADAUSDT .* 1 h stands twice"):
        next(make_schedule(pd.concat([few, few.head(1)]), market, params))
