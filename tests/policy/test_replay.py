"""Replay names line and field of the first difference; explain says why in words."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from features.errors import DataInvalid, UsageError
from features.market import Market
from forecaster.policy import Params, explain, make_schedule, replay, write_schedule
from forecaster.policy.explain import REASON_TEXT
from forecaster.policy.schedule import canonical, line_hash
from forecaster.policy.types import HOUR, REASONS, Override


@pytest.fixture(scope="module")
def few(forecasts: pd.DataFrame) -> pd.DataFrame:
    return forecasts[forecasts["origin"] < forecasts["origin"].min() + pd.Timedelta(hours=40)]


@pytest.fixture
def path(tmp_path: Path, few: pd.DataFrame, market: Market, params: Params) -> Path:
    file = tmp_path / "schedule.jsonl"
    write_schedule(file, make_schedule(few, market, params))
    return file


def edit(path: Path, number: int, change, rehash: bool = False) -> None:
    """Change one line; ``rehash`` repairs every hash from there on, as a forger would."""
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    change(lines[number - 1])
    if rehash:
        for before, line in zip([None, *lines], lines, strict=False):
            line["prev_hash"] = before["hash"] if before else "0" * 64
            line["hash"] = line_hash(line)
    path.write_bytes(b"".join(canonical(line) + b"\n" for line in lines))


def test_a_true_schedule_replays(path: Path, few: pd.DataFrame, market: Market, params: Params) -> None:
    alone = replay(path)
    assert (alone.lines, alone.symbols, alone.derived) == (120, ("ADAUSDT", "BTCUSDT", "ETHUSDT"), False)
    assert replay(path, few, market, params).derived


def test_a_changed_byte_breaks_the_hash(path: Path) -> None:
    edit(path, 7, lambda line: line.update(haircut_ppm=line["haircut_ppm"] + 1))
    with pytest.raises(DataInvalid, match=r"line 7: hash") as refusal:
        replay(path)
    assert refusal.value.exit_code == 3


def test_a_repaired_chain_is_caught_by_the_inputs(
    path: Path, few: pd.DataFrame, market: Market, params: Params
) -> None:
    edit(path, 9, lambda line: line.update(insurance_target_usd=1), rehash=True)
    assert replay(path).lines == 120
    with pytest.raises(DataInvalid, match=r"line 9: insurance_target_usd is 1, its inputs give \d+"):
        replay(path, few, market, params)


def test_inputs_name_the_field_even_where_the_hash_is_broken(
    path: Path, few: pd.DataFrame, market: Market, params: Params
) -> None:
    edit(path, 4, lambda line: line.update(exposure_scale_ppm=5))
    with pytest.raises(DataInvalid, match="line 4: exposure_scale_ppm is 5"):
        replay(path, few, market, params)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("mm_ppm", lambda line: line.update(im_ppm=line["mm_ppm"])),
        ("decomposition", lambda line: line["decomposition"].update(core=line["decomposition"]["core"] + 1)),
        ("max_leverage_milli", lambda line: line.update(max_leverage_milli=99)),
        ("liquidation_penalty_ppm", lambda line: line.update(liquidation_penalty_ppm=0)),
        ("liquidation_buffer_ppm", lambda line: line.update(liquidation_buffer_ppm=1)),
        ("tiers", lambda line: line["tiers"][1].update(cap_usd=1)),
        ("effective_at", lambda line: line.update(effective_at="2020-01-01T00:00:00Z")),
        ("seq", lambda line: line.update(seq=1000)),
        ("breakers", lambda line: line["breakers"].update(state="halt")),
        ("breakers", lambda line: line["breakers"].update(active=["CB1"])),
        ("as_of", lambda line: line.update(as_of="2020-01-01T00:00:00Z")),
        ("wrong type", lambda line: line.update(mm_ppm="x")),
        ("im_ppm", lambda line: line.update(im_ppm=1_000_001)),
    ],
)
def test_broken_invariants_are_named(path: Path, field: str, change) -> None:
    edit(path, 50, change, rehash=True)
    with pytest.raises(DataInvalid, match=f"line 50: .*{field}|line 50: (im_ppm|tiers)"):
        replay(path)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("im_ppm", 100_000.0, "is no integer"),
        ("haircut_ppm", True, "line 3: haircut_ppm: has the wrong type"),
        ("fallback", 0, "line 3: fallback: has the wrong type"),
    ],
)
def test_a_number_that_is_no_integer_is_refused(path: Path, field: str, value: object, why: str) -> None:
    edit(path, 3, lambda line: line.update({field: value}), rehash=True)
    with pytest.raises(DataInvalid, match=why):
        replay(path)


def test_a_rise_beyond_the_limit_is_named(path: Path) -> None:
    def triple(line: dict) -> None:
        rise = 2 * line["im_ppm"]
        line["im_ppm"] += rise
        line["decomposition"]["governor"] += rise
        line["liquidation_buffer_ppm"] += rise
        line["max_leverage_milli"] = 1_000_000_000 // line["im_ppm"]
        line["tiers"] = [{**tier, "im_ppm": line["im_ppm"]} for tier in line["tiers"]]

    edit(path, 100, triple, rehash=True)
    with pytest.raises(DataInvalid, match="line 100: im_ppm: rose above 2 times its 1-day minimum"):
        replay(path)


def test_a_slow_climb_beyond_the_day_limit_is_named(path: Path) -> None:
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    own = [i for i, line in enumerate(lines) if line["symbol"] == "ADAUSDT"][10:14]
    for step, i in enumerate(own, start=1):

        def climb(line: dict, factor: float = 1.25**step) -> None:
            line["im_ppm"] = round(line["im_ppm"] * factor)
            line["liquidation_buffer_ppm"] = line["im_ppm"] - line["mm_ppm"]
            line["max_leverage_milli"] = 1_000_000_000 // line["im_ppm"]
            line["tiers"] = [{**tier, "im_ppm": line["im_ppm"]} for tier in line["tiers"]]

        edit(path, i + 1, climb)
    _balance(path, "ADAUSDT")
    with pytest.raises(DataInvalid, match=f"line {own[-1] + 1}: im_ppm: rose above 2 times its 1-day minimum"):
        replay(path)


def _balance(path: Path, symbol: str) -> None:
    """Make every decomposition of the symbol sum to its change again, and repair the chain."""
    margin = 0
    for i, line in enumerate(json.loads(raw) for raw in path.read_bytes().splitlines()):
        if line["symbol"] == symbol:
            gap = line["im_ppm"] - margin - sum(line["decomposition"].values())
            edit(
                path,
                i + 1,
                lambda line, gap=gap: line["decomposition"].update(core=line["decomposition"]["core"] + gap),
            )
            margin = line["im_ppm"]
    edit(path, 1, lambda line: None, rehash=True)


def test_overrides_are_derived_again_and_acknowledged_rises_counted(
    tmp_path: Path, few: pd.DataFrame, market: Market, params: Params
) -> None:
    file, start = tmp_path / "schedule.jsonl", few["origin"].min().value // 1000
    asked = Override("ADAUSDT", start + 5 * HOUR, start + 20 * HOUR, 600_000, None, "desk", "drill", True)
    write_schedule(file, make_schedule(few, market, params, overrides=[asked]))
    assert replay(file).acknowledged == 1
    assert replay(file, few, market, params, [asked]).derived
    with pytest.raises(DataInvalid, match="its inputs give"):
        replay(file, few, market, params)
    edit(file, 16, lambda line: line.update(bounds_hit=[]), rehash=True)
    with pytest.raises(DataInvalid, match="line 16: im_ppm: rose above 2 times its 1-day minimum"):
        replay(file)


def test_a_dropped_swapped_or_foreign_line_is_found(
    path: Path, few: pd.DataFrame, market: Market, params: Params
) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:10] + lines[11:]))
    with pytest.raises(DataInvalid, match="line 11: prev_hash"):
        replay(path)
    path.write_bytes(b"".join(lines[:10]))
    with pytest.raises(DataInvalid, match="the end: the schedule holds fewer lines"):
        replay(path, few, market, params)
    path.write_bytes(lines[0] + b'{"a":1}\n')
    with pytest.raises(DataInvalid, match="line 2: missing or unknown fields a, "):
        replay(path)
    path.write_bytes(lines[0] + lines[1][:40])
    with pytest.raises(DataInvalid, match=r"line 2: torn: .*; remove that line and go on from the one before"):
        replay(path)
    path.write_bytes(lines[0] + lines[1].removesuffix(b"\n"))
    with pytest.raises(DataInvalid, match="line 2: torn"):
        replay(path)
    path.write_bytes(lines[0] + b"{,}\n")
    with pytest.raises(DataInvalid, match="line 2: not JSON"):
        replay(path)
    path.write_bytes(b"")
    with pytest.raises(DataInvalid, match="holds no line"):
        replay(path)
    with pytest.raises(DataInvalid, match="no such schedule"):
        replay(path.with_name("absent.jsonl"))


def test_some_inputs_are_not_enough(path: Path, params: Params) -> None:
    with pytest.raises(UsageError, match="together"):
        replay(path, params=params)


def test_explain_says_level_change_and_reasons(path: Path) -> None:
    line = json.loads(path.read_bytes().splitlines()[60])
    text = explain(path, line["symbol"], line["as_of"])
    assert line["symbol"] in text
    assert f"{line['im_ppm'] / 1e4:.2f} %" in text
    assert all(reason in text for reason in line["reasons"])
    assert "EXPIRED" in explain(path, line["symbol"], "2030-01-01")


def test_explain_tells_breakers_and_hedge_in_words(path: Path) -> None:
    line = json.loads(path.read_bytes().splitlines()[60])
    assert "breakers: none stands" in explain(path, line["symbol"], line["as_of"])

    def shaken(line: dict) -> None:
        until = "2099-01-01T00:00:00Z"
        line["breakers"] = {"active": ["CB1", "CB3"], "band_ppm": 100_000, "state": "price_band", "until": until}
        line["hedge"] |= {"instrument": "put-24h-950000ppm", "quantity_milli": 120, "cost_usd": 1234, "reason": "why"}

    edit(path, 61, shaken)
    text = explain(path, line["symbol"], line["as_of"])
    assert (
        "orders lie within 10.00 % of the reference price, until 2099-01-01T00:00:00Z at the latest, after CB1, CB3"
        in text
    )
    assert "buy 0.120 of a 24 h put struck at 95.00 % of spot, for why; it costs 1,234 USD" in text


def test_explain_refuses_what_it_does_not_know(path: Path) -> None:
    with pytest.raises(DataInvalid, match="symbols by then: ADAUSDT, BTCUSDT, ETHUSDT"):
        explain(path, "DOGEUSDT", "2030-01-01")
    with pytest.raises(DataInvalid, match="no line of 'BTCUSDT'"):
        explain(path, "BTCUSDT", "2001-01-01")
    with pytest.raises(UsageError, match="is not a time"):
        explain(path, "BTCUSDT", "soon")


def test_every_reason_has_words() -> None:
    assert set(REASON_TEXT) == set(REASONS)


def test_instants_with_and_without_fractions_are_ordered_by_time(path: Path) -> None:
    lines = [json.loads(line) for line in path.read_bytes().splitlines()][:6]
    before = "0" * 64
    for line in lines[3:]:
        for name in ("as_of", "announced_at", "effective_at", "expires_at"):
            line[name] = lines[0][name].replace("Z", ".500000Z")
    for line in lines:
        line["prev_hash"] = before
        before = line["hash"] = line_hash(line)
    path.write_bytes(b"".join(canonical(line) + b"\n" for line in lines))
    assert replay(path).lines == 6
