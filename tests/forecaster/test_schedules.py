"""Schedules under signed overrides, and from forecasts to which a venue has joined what only it knows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import forecaster as fc
from features.errors import DataInvalid, UsageError
from features.market import Market
from forecaster.cli import main
from forecaster.commands import backtesting
from forecaster.commands.evaluation import Evaluated
from forecaster.commands.schedules import policy_replay
from forecaster.commands.schemas import Schema, schema
from forecaster.commands.signing import policy_keys
from forecaster.policy import Params
from forecaster.policy.comparison.contest import contest
from forecaster.policy.comparison.ground import Margins

Invoke = Callable[..., dict[str, Any]]
FLOOR = 900_000
START, EXPIRES = "2023-04-15T00:00:00Z", "2023-04-16T12:00:00Z"

pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture
def invoke(capfd: pytest.CaptureFixture[str]) -> Invoke:
    """Run ``forecaster``; its JSON, which must have the promised shape, or the error it ends in."""

    def run(*words: str | Path, code: int = 0) -> dict[str, Any]:
        capfd.readouterr()
        assert main([*map(str, words), "--json"]) == code
        out, err = capfd.readouterr()
        told: dict[str, Any] = json.loads(out)
        name = ".".join(["output", *map(str, words[: 1 + (not str(words[1]).startswith("-"))])])
        shape = schema(name if code == 0 else "error")
        assert isinstance(shape, Schema), err
        jsonschema.validate(told, shape.to_dict())
        return told

    return run


@pytest.fixture
def desk(environment: None, tmp_path: Path, invoke: Invoke) -> Path:
    """A folder with three holders' keys, of which two must sign, and a log of events with signed bounds."""
    rows = ["threshold = 2\n"]
    for name in ("ann", "bob", "cid"):
        public = policy_keys(new=tmp_path / f"{name}.pem").to_dict()["public_key"]
        rows.append(
            f'[[keys]]\nname = "{name}"\npublic_key = "{public}"\nrevoked = false\n'
            "valid_from = 2020-01-01T00:00:00Z\nvalid_until = 2040-01-01T00:00:00Z\n"
        )
    (tmp_path / "keys.toml").write_text("\n".join(rows))
    caps = {
        **dict.fromkeys(("im_ppm", "mm_ppm", "liquidation_penalty_ppm", "haircut_ppm"), 1_000_000),
        "exposure_scale_ppm": 3_000_000,
        "max_leverage_milli": 200_000,
    }
    tables = (f'[symbols."*".{name}]\nfloor = 0\ncap = {cap}\nrise_ppm = 9000000\n' for name, cap in caps.items())
    (tmp_path / "bounds.toml").write_text("override_hours = 72\n" + "\n".join(tables))
    invoke("policy", "bounds", "events.jsonl", "bounds.toml", "--at", "2023-01-01T00:00:00Z")
    sign(invoke, "ann", "bob")
    return tmp_path


def sign(invoke: Invoke, *names: str, schedule: str | None = None) -> None:
    for name in names:
        words = ["--key", f"{name}.pem", "--registry", "keys.toml", "--events", "events.jsonl"]
        invoke("policy", "sign", *words, *([schedule] if schedule else []))


def propose(invoke: Invoke, symbol: str = "BTCUSDT", *further: str) -> None:
    told = ["--who", "ann", "--why", "depeg", "--start", START, "--expires", EXPIRES, "--at", "2023-04-14T00:00:00Z"]
    invoke("policy", "override", "events.jsonl", symbol, *told, "--floor", str(FLOOR), "--acknowledged", *further)


SIGNED = ("--events", "events.jsonl", "--registry", "keys.toml")


def read(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


@pytest.mark.usefixtures("desk")
def test_a_signed_override_reaches_the_schedule_and_its_replay(
    evaluated: Evaluated, store: Path, invoke: Invoke
) -> None:
    inputs = ("--forecasts", evaluated.evaluation.path, "--store", store)
    free = (evaluated.out / "schedule.jsonl").read_bytes()
    propose(invoke)
    made = invoke("policy", *inputs, "--out", "s.jsonl", *SIGNED)
    assert (made["overrides"], made["events_waiting"]) == (0, 1)  # proposed is not signed
    assert Path("s.jsonl").read_bytes() == free
    sign(invoke, "ann")
    assert invoke("policy", *inputs, "--out", "s.jsonl", *SIGNED)["events_waiting"] == 1
    sign(invoke, "cid")

    made = invoke("policy", *inputs, "--out", "s.jsonl", *SIGNED)
    assert (made["overrides"], made["events_waiting"], made["overrides_unmatched"]) == (1, 0, [])
    assert made["acknowledged"] >= 1
    lines = read("s.jsonl")
    acting = [(line["symbol"], line["as_of"]) for line in lines if "OVERRIDE" in line["reasons"]]
    hours = pd.date_range(START, EXPIRES, freq="h", inclusive="left").strftime("%Y-%m-%dT%H:%M:%SZ")
    assert acting == [("BTCUSDT", hour) for hour in hours]
    held = {line["im_ppm"] for line in lines if (line["symbol"], line["as_of"]) in set(acting)}
    assert held == {FLOOR}
    before = [line for line in read(evaluated.out / "schedule.jsonl") if line["as_of"] < START]
    assert lines[: len(before)] == before
    others = [line["im_ppm"] for line in lines if line["symbol"] != "BTCUSDT"]
    assert others == [line["im_ppm"] for line in read(evaluated.out / "schedule.jsonl") if line["symbol"] != "BTCUSDT"]

    first = Path("s.jsonl").read_bytes()
    invoke("policy", *inputs, "--out", "again.jsonl", *SIGNED)
    assert Path("again.jsonl").read_bytes() == first
    replayed = invoke("policy", "replay", "s.jsonl", *inputs, *SIGNED)
    assert replayed == {**made, "derived": True}
    told = invoke("policy", "replay", "s.jsonl", *inputs, code=3)["error"]["message"]
    assert f"line {len(before) + 1}: " in told
    assert "replay with the forecasts" in told

    sign(invoke, "bob", "cid", schedule="s.jsonl")
    checked = invoke("policy", "verify", "s.jsonl", *SIGNED)
    assert (checked["lines"], checked["events_head"]) == (made["lines"], made["events_head"])


@pytest.mark.usefixtures("desk")
def test_what_does_not_hold_is_refused_before_it_acts(evaluated: Evaluated, store: Path, invoke: Invoke) -> None:
    propose(invoke)
    sign(invoke, "ann", "bob")
    words = ("policy", "--forecasts", evaluated.evaluation.path, "--store", store, "--out", "s.jsonl", *SIGNED)

    def refused(code: int, told: str) -> None:
        assert told in invoke(*words, code=code)["error"]["message"]
        assert not Path("s.jsonl").exists()

    signatures, log, registry = (Path(name) for name in ("events.sig.jsonl", "events.jsonl", "keys.toml"))
    whole = signatures.read_bytes(), log.read_bytes(), registry.read_text()
    *_, last = whole[0].splitlines()
    forged = json.loads(last)
    digit = "1" if forged["signature"][-2] == "0" else "0"
    changed = forged["signature"][:-2] + digit + forged["signature"][-1]
    signatures.write_bytes(whole[0].replace(forged["signature"].encode(), changed.encode()))
    refused(3, "events.sig.jsonl: line 4: the signature of bob is wrong")
    signatures.write_bytes(whole[0])
    log.write_bytes(whole[1].replace(b'floor_ppm":900000', b'floor_ppm":900001'))
    refused(3, "events.jsonl: line 2: hash")
    log.write_bytes(whole[1].splitlines(keepends=True)[0])
    refused(3, "which ends before")
    log.write_bytes(whole[1])
    registry.write_text(whole[2].replace(forged["key"], "ab" * 32))
    refused(3, "is not registered")
    registry.write_text(whole[2].replace("valid_until = 2040", "valid_until = 2023"))
    refused(3, "not valid at that instant")
    registry.write_text(whole[2])
    invoke(*words)


@pytest.mark.usefixtures("desk")
def test_events_and_registry_belong_together_and_to_inputs(evaluated: Evaluated, store: Path, invoke: Invoke) -> None:
    words = ("policy", "--forecasts", evaluated.evaluation.path, "--store", store, "--out", "s.jsonl")
    for half in (SIGNED[:2], SIGNED[2:]):
        assert "belong together" in invoke(*words, *half, code=2)["error"]["message"]
    invoke(*words)
    assert "needs --forecasts" in invoke("policy", "replay", "s.jsonl", *SIGNED, code=2)["error"]["message"]


@pytest.mark.usefixtures("desk")
def test_an_override_of_a_symbol_that_is_not_there_is_told(evaluated: Evaluated, store: Path, invoke: Invoke) -> None:
    propose(invoke, "BTCUSTD")
    sign(invoke, "ann", "bob")
    made = fc.policy(evaluated.evaluation.path, store, None, "s.jsonl", "events.jsonl", "keys.toml")
    assert made.overrides_unmatched == ("BTCUSTD",)
    assert "without effect, of symbols that it does not hold: BTCUSTD" in made.summary()


@pytest.mark.usefixtures("desk")
def test_the_backtest_makes_its_schedule_under_signed_overrides(
    evaluated: Evaluated, store: Path, invoke: Invoke
) -> None:
    propose(invoke)
    sign(invoke, "ann", "bob")
    inputs = ("--forecasts", evaluated.evaluation.path, "--store", store)
    invoke("policy", *inputs, "--out", "s.jsonl", *SIGNED)
    span = ("--no-venue", "--start", "2023-04-12")
    told = invoke("backtest", *inputs, *span, "--out", "under", *SIGNED)
    assert (told["schedule"]["overrides"], told["schedule"]["derived"]) == (1, True)
    assert Path("under/schedule.jsonl").read_bytes() == Path("s.jsonl").read_bytes()
    assert "the scores are without them" in Path("under/report.html").read_text("utf-8")
    free = fc.backtest(
        store=store, forecasts=evaluated.evaluation.path, out="free", simulated=False, start="2023-04-12"
    )
    assert free.schedule.overrides == 0
    for name in ("policy_scores.json", "policy_goals.json"):
        assert Path("under", name).read_bytes() == Path("free", name).read_bytes()


# Forecasts to which a venue joined what only it knows.


@pytest.fixture(scope="module")
def joined(evaluated: Evaluated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All members' forecasts with an insurance fund that nearly empties for two days, and a gap to the oracle."""
    table = pd.read_parquet(evaluated.evaluation.path)
    empty = table["origin"].between(pd.Timestamp("2023-04-10", tz="UTC"), pd.Timestamp("2023-04-12", tz="UTC"))
    table["obs_insurance_fund_usd"] = np.where(empty, 1.0, 1e12)
    table["obs_oracle_gap"] = 0.0
    file = tmp_path_factory.mktemp("joined") / "model=x" / "forecasts.parquet"  # no name of a folder is a column
    file.parent.mkdir()
    table.to_parquet(file)
    return file


def in_force(lines: list[dict[str, Any]], symbol: str) -> dict[str, int]:
    """Initial margin in force at each ``as_of``: of the newest line whose ``effective_at`` has come."""
    own = [line for line in lines if line["symbol"] == symbol]
    return {
        now["as_of"]: next(line["im_ppm"] for line in reversed(own[: i + 1]) if line["effective_at"] <= now["as_of"])
        for i, now in enumerate(own)
    }


def test_a_schedule_from_file_holds_the_contest_s_margins(
    joined: Path, evaluated: Evaluated, store: Path, tmp_path: Path
) -> None:
    made = fc.policy(joined, store, out=tmp_path / "s.jsonl")
    lines = read(made.path)
    assert any("IF_LOW" in line["reasons"] for line in lines)
    assert made.path.read_bytes() != (evaluated.out / "schedule.jsonl").read_bytes()
    frame = pd.read_parquet(joined, partitioning=None)
    again = fc.policy(frame, store, out=tmp_path / "frame.jsonl")
    assert again.path.read_bytes() == made.path.read_bytes()
    assert policy_replay(made.path, joined, store).derived

    params = Params.default()
    met = contest(backtesting._table(joined, params), Market.open(store), params, start="2023-04-08")
    ours: Margins = met.runs["raw"]["ensemble"]
    for symbol in made.symbols:
        row = met.ground.symbols.index(symbol)
        for as_of, im in in_force(lines, symbol).items():
            column = met.ground.times.get_loc(pd.Timestamp(as_of))
            assert round(float(1e6 * ours.im[row, column])) == im, (symbol, as_of)


def test_the_backtest_takes_a_venue_s_columns_from_file(joined: Path, store: Path, tmp_path: Path) -> None:
    tested = fc.backtest(store=store, forecasts=joined, out=tmp_path / "b", simulated=False, start="2023-04-12")
    made = fc.policy(joined, store, out=tmp_path / "s.jsonl")
    assert (tested.out / "schedule.jsonl").read_bytes() == made.path.read_bytes()
    assert {row["policy"] for row in tested.board.rows["extended"]} >= {"har", "har_apc"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda table: table.drop(columns="variance"), "unknown column variance"),
        (lambda table: table.assign(obs_orakle_gap=0.0), "unknown column obs_orakle_gap"),
        (lambda table: table.assign(obs_oracle_gap="wide"), "types"),
        (lambda table: table.assign(variance="low"), "types"),
    ],
)
def test_a_file_that_is_no_such_table_is_named(
    joined: Path, store: Path, tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], told: str
) -> None:
    file = tmp_path / "odd.parquet"
    change(pd.read_parquet(joined, partitioning=None)).to_parquet(file)
    with pytest.raises(DataInvalid, match=rf"odd\.parquet: .*{told}"):
        fc.policy(file, store, out=tmp_path / "s.jsonl")


def test_a_file_that_is_no_parquet_is_named(store: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.parquet").write_text("no")
    with pytest.raises(DataInvalid, match=r"odd\.parquet: not a readable"):
        fc.policy(tmp_path / "odd.parquet", store, out=tmp_path / "s.jsonl")
    with pytest.raises(UsageError, match="no such file"):
        fc.policy(tmp_path / "none.parquet", store, out=tmp_path / "s.jsonl")


# The way of a policy into use.


@pytest.fixture
def rolled(desk: Path, evaluated: Evaluated, store: Path, invoke: Invoke) -> Callable[..., dict[str, Any]]:
    """The roll-out of a schedule of 20 days with two symbols, made with a pack of small blocks."""
    text = files("forecaster.policy").joinpath("packs/default-2.toml").read_text("utf-8")
    text = re.sub("(?m)^block_hours = .*$", "block_hours = 48", text)  # 96 origins
    (desk / "pack.toml").write_text(re.sub("(?m)^silent_steps = .*$", "silent_steps = 30", text))
    inputs = ("--forecasts", evaluated.evaluation.path, "--store", store, "--params", "pack.toml")
    invoke("policy", *inputs, "--out", "s.jsonl")

    def run(as_of: str, record: str = "rollout.jsonl", *further: str, code: int = 0) -> dict[str, Any]:
        given = ("--record", record, *SIGNED, "--store", store, "--params", "pack.toml", "--as-of", as_of)
        return invoke("policy", "rollout", "s.jsonl", *given, *further, code=code)

    return run


def by_hand(lines: list[dict[str, Any]], store: Path, until: pd.Timestamp) -> list[tuple[str, pd.Timestamp]]:
    """Changes of stage and retreats, from the bars themselves: no other code of the product but the limits' arithmetic."""
    bars = Market.open(store).bars("1h")
    stages, block, allowed = ["shadow", "canary", "live"], 96, 0  # 96 * 0.8 % is less than one miss
    stage, origins, misses, moves = 0, 0, 0, []
    for hour in pd.date_range(lines[0]["as_of"], until, freq="h"):
        for line in lines:
            made = pd.Timestamp(line["as_of"])
            if made + pd.Timedelta(hours=24) == hour:
                own = bars.xs(line["symbol"], level="symbol")
                after = own.loc[made + pd.Timedelta(hours=1) : hour]
                close = own.loc[made, "close"]
                move = max(1 - after["low"].min() / close, after["high"].max() / close - 1)
                origins, misses = origins + 1, misses + (1e6 * move > line["im_ppm"] + 1e-6)
        if misses > allowed:
            stage, origins, misses = 0, 0, 0
            moves.append((stages[stage], hour))
        elif origins >= block:
            origins, misses = 0, 0
            if stage < 2:
                stage += 1
                moves.append((stages[stage], hour))
    return moves


def test_a_policy_comes_into_use_as_its_margins_hold(rolled: Callable[..., dict[str, Any]], store: Path) -> None:
    expected = by_hand(read("s.jsonl"), store, pd.Timestamp("2023-04-20T00:00Z"))
    assert {stage for stage, _ in expected} >= {"canary", "live"}
    for stage, hour in expected:
        before = rolled(f"{hour - pd.Timedelta(hours=1):%Y-%m-%dT%H:%MZ}")
        now = rolled(f"{hour:%Y-%m-%dT%H:%MZ}")
        assert (now["stage"], now["since"]) == (stage, f"{hour:%Y-%m-%dT%H:%M:%SZ}")
        assert before["since"] < now["since"]
        assert now["applied"] == {"shadow": [], "canary": ["BTCUSDT", "ETHUSDT"], "live": ["BTCUSDT", "ETHUSDT"]}[stage]
    end = rolled("2023-04-20")
    whole = Path("rollout.jsonl").read_bytes()
    assert rolled("2023-04-20T00:30") == end
    assert Path("rollout.jsonl").read_bytes() == whole
    once = rolled("2023-04-20", "once.jsonl")
    assert [{**one, "path": "", "head": ""} for one in (end, once)] == [{**end, "path": "", "head": ""}] * 2


def test_a_symbol_that_is_listed_later_changes_no_block(
    rolled: Callable[..., dict[str, Any]], evaluated: Evaluated, store: Path, invoke: Invoke
) -> None:
    rows = pq.read_table(evaluated.evaluation.path)
    ether, origin = (rows.column(name).to_pandas() for name in ("symbol", "origin"))
    ether = ether == "ETHUSDT"
    inputs = ("--store", store, "--params", "pack.toml")
    pq.write_table(rows.filter(pa.array(~ether)), "alone.parquet")
    invoke("policy", "--forecasts", "alone.parquet", *inputs, "--out", "s.jsonl")
    alone = rolled("2023-04-08", "alone.jsonl", "--canary", "BTCUSDT")
    late = ether & (origin < origin.min() + pd.Timedelta(days=3))
    pq.write_table(rows.filter(pa.array(~late)), "listed.parquet")
    invoke("policy", "--forecasts", "listed.parquet", *inputs, "--out", "s.jsonl")
    listed = rolled("2023-04-08", "listed.jsonl", "--canary", "BTCUSDT")
    assert alone["limits"] == listed["limits"]
    assert listed["limits"]["block_origins"] == 48


def test_silence_and_the_canaries_of_a_roll_out(rolled: Callable[..., dict[str, Any]]) -> None:
    for day in range(6, 12):
        now = rolled(f"2023-04-{day:02d}", "canary.jsonl", "--canary", "ETHUSDT")
        if now["stage"] == "canary":
            break
    assert now["applied"] == ["ETHUSDT"]
    assert "canaries" in rolled("2023-04-20", "canary.jsonl", code=2)["error"]["message"]
    assert (
        "of the canary DOGEUSDT" in rolled("2023-04-20", "c.jsonl", "--canary", "DOGEUSDT", code=2)["error"]["message"]
    )
    # The last line is of 2023-04-24T23:00; what it foresaw is known a day later, and 30 hours of silence are borne.
    assert rolled("2023-04-27T05:00")["cause"] != "SILENCE"
    now = rolled("2023-04-27T06:00")
    assert (now["stage"], now["cause"], now["since"]) == ("shadow", "SILENCE", "2023-04-27T06:00:00Z")
