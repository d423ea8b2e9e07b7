from __future__ import annotations

import hashlib
import json
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pydantic
import pytest

from features.errors import UsageError
from training.config import Component, RunConfig


@pytest.fixture
def write(tmp_path: Path) -> object:
    def writer(text: str) -> Path:
        (tmp_path / "run.toml").write_text(text)
        return tmp_path / "run.toml"

    return writer


FULL = """
name = "small"
proxy = "squared_returns"
horizons = [1, 24]
[walkforward]
refit = 3
window_months = 24
[[members]]
kind = "har"
[[members]]
kind = "lightgbm"
params = { num_leaves = 31, learning_rate = 0.1, monotone = [1, 0] }
[ensemble]
members = ["har"]
params.shrink = 0.5
[features]
families = ["memory"]
[data]
store = "my store"
start = 2023-07-01
end = "2024-01-01T12:00:00+02:00"
[execution]
workers = 2
"""


def test_a_file_is_read_as_written(write) -> None:
    config = RunConfig.load(write(FULL))
    assert config.horizons == (1, 24)
    assert config.walkforward.refit_months == 3
    assert config.walkforward.warmup_months == 12
    assert config.members[1] == Component(
        kind="lightgbm", params={"num_leaves": 31, "learning_rate": 0.1, "monotone": [1, 0]}
    )
    assert config.ensemble.params == {"shrink": 0.5}
    assert config.data.start == datetime(2023, 7, 1, tzinfo=UTC)
    assert config.data.end == datetime(2024, 1, 1, 10, tzinfo=UTC)


def test_an_empty_file_is_the_recommended_ensemble(write) -> None:
    config = RunConfig.load(write(""))
    assert config == RunConfig.recommended() == RunConfig.load()
    kinds = [member.kind for member in config.members]
    assert kinds == [
        *("ewma", "har", "har_seasonal", "har_scheduled", "harq", "har_wls"),
        *("garch", "gjr", "har_x", "lightgbm"),
    ]
    assert config.horizons == (1, 4, 24, 72)
    assert config.walkforward.refit_months == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[walkfoward]\nrefit = 1", r"unknown key `walkfoward\.refit`; did you mean `walkforward\.refit`\?"),
        (
            "horizon = [1]",
            r"unknown key `horizon`; did you mean `horizons`\? known keys: name, proxy, horizons",
        ),
        ("warmup_months = 3", r"did you mean `walkforward\.warmup_months`\?"),
        (
            "[[members]]\nkind='har'\nparms={a=1}",
            r"unknown key `members\[0\]\.parms\.a`; did you mean `members",
        ),
        ("zzz = 1", r"unknown key `zzz`; known keys: name"),
        ('horizons = ["1"]', r"key `horizons\[0\]`: expected a valid integer, found '1'$"),
        ("horizons = [4, 1]", "key `horizons`: list each horizon once, shortest first"),
        ("horizons = []", "key `horizons`: .*at least 1"),
        ("horizons = [0]", r"key `horizons\[0\]`: expected greater than 0"),
        (
            'walkforward.refit = "week"',
            r"key `walkforward\.refit`: expected a valid integer or expected 'month', found",
        ),
        ("walkforward = 3", "key `walkforward`: expected an object, found 3"),
        (
            'proxy = "parkinson"',
            "key `proxy`: expected 'garman_klass' or 'squared_returns', found 'parkinson'",
        ),
        ("[[members]]\nparams = {}", r"key `members\[0\]\.kind`: Field required"),
        ("execution.workers = 2.5", r"key `execution\.workers`: expected a valid integer, found 2\.5"),
        ("data.start = 'soon'", r"key `data\.start`: .*soon"),
        ("[[members]]\nkind='har'\n[[members]]\nkind='har'", "har is listed twice"),
        ("ensemble.members = ['arima']", "arima is no member; members are ewma, har"),
        ("[[members]]\nkind='har'\nparams={x=inf}", "finite"),
        ("name = ", "not TOML: "),
    ],
)
def test_each_mistake_names_file_key_and_cure(write, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refusal:
        RunConfig.load(write(text))
    assert "run.toml" in str(refusal.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.toml"):
        RunConfig.load(tmp_path / "absent.toml")


def test_overrides_reach_every_setting(write) -> None:
    overrides = [
        "proxy=squared_returns",
        "horizons=[1, 4]",
        'walkforward.refit="month"',
        "members.lightgbm.params.num_leaves = 31",
        "members.1.params.bias=false",
        "ensemble.params.deep.shrink=0.25",
        "data.start=2023-07-01",
        "data.symbols=['BTCUSDT']",
    ]
    config = RunConfig.load(
        write(FULL.replace('kind = "har"', 'kind = "ewma"').replace('["har"]', '["ewma"]')), overrides
    )
    assert config.proxy == "squared_returns"
    assert config.horizons == (1, 4)
    assert config.members[1].params == {
        "num_leaves": 31,
        "learning_rate": 0.1,
        "monotone": [1, 0],
        "bias": False,
    }
    assert config.ensemble.params == {"shrink": 0.5, "deep": {"shrink": 0.25}}
    assert config.data.symbols == ("BTCUSDT",)
    assert RunConfig.load(None, ["members.har.params.lags=[1,24]"]).members[1].params == {"lags": [1, 24]}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("proxy", "write key=value"),
        ("=3", "write key=value"),
        ("a..b=3", "write key=value"),
        ("horizons=[1,", "no TOML value"),
        ("horizons=", "'nothing' is no TOML value"),
        ("members.arima.params.p=1", "no item arima in that list; it has ewma, har"),
        ("members.10={}", "no item 10"),
        ("proxy.x=1", "proxy is 'garman_klass', it has no key x"),
        ("walkforward.warmup_month=6", "did you mean `walkforward.warmup_months`"),
        (
            "walkforward.warmup_months=six",
            r"key `walkforward\.warmup_months`: expected a valid integer, found 'six'",
        ),
        ("name=1\nproxy=2", "no TOML value|name"),
    ],
)
def test_each_wrong_override_is_told(override: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        RunConfig.load(None, [override])


def test_the_hash_covers_what_decides_results_and_nothing_else(write) -> None:
    config = RunConfig.load(write(FULL))
    assert len(config.sha256) == 64
    assert int(config.sha256, 16) >= 0
    assert config.sha256 == config.sha256.lower()
    for same in (
        "data.store=elsewhere",
        "data.start=2020-01-01",
        "data.symbols=['A']",
        "execution.workers=7",
    ):
        assert RunConfig.load(write(FULL), [same]).sha256 == config.sha256
    others = ["proxy=garman_klass", "members.har.params.x=1", "ensemble.params.shrink=0.6", "horizons=[1]"]
    assert len({RunConfig.load(write(FULL), [other]).sha256 for other in others} | {config.sha256}) == 5
    # Defaults written out, and keys in another order, are the same settings.
    assert RunConfig.load(write("walkforward.refit = 'month'\nproxy = 'garman_klass'")).sha256 == RunConfig().sha256
    resolved = json.loads(config.model_dump_json(exclude={"data", "execution"}))
    canonical = json.dumps(resolved, sort_keys=True, separators=(",", ":")).encode()
    assert config.sha256 == hashlib.sha256(canonical).hexdigest()


def test_the_schema_is_a_json_schema_of_the_file() -> None:
    schema = RunConfig.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    settings = json.loads(json.dumps(tomllib.loads(FULL), default=lambda day: f"{day.isoformat()}T00:00:00Z"))
    jsonschema.validate(settings, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(settings | {"horizon": [1]}, schema)


def test_a_config_cannot_be_changed() -> None:
    config = RunConfig()
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.proxy = "squared_returns"


def test_a_configuration_survives_its_own_file(tmp_path: Path) -> None:
    config = RunConfig.load(
        None,
        [
            'members=[{kind="har_seasonal", params={window_days=365, lags=[1, 24]}}, {kind="lightgbm"}]',
            'ensemble={members=["lightgbm"], params={shrinkage=0.25}}',
            'walkforward={refit=3, exclude=["BTCUSDT"]}',
            "data.start=2024-01-31T08:00:00Z",
        ],
    )
    file = tmp_path / "again.toml"
    file.write_text(config.to_toml())
    assert RunConfig.load(file) == config


def test_toml_has_no_word_for_none() -> None:
    config = RunConfig(members=(Component(kind="har_x", params={"window_days": None}),))
    with pytest.raises(UsageError, match=r"members\.har_x\.params\.window_days is None"):
        config.to_toml()


def test_symbols_that_are_left_out_are_another_configuration() -> None:
    assert RunConfig().sha256 != RunConfig.load(None, ['walkforward.exclude=["BTCUSDT"]']).sha256
