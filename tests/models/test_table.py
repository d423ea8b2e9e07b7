from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from features.errors import DataInvalid
from models.base import (
    EXCURSION_COLUMNS,
    FORECAST_SCHEMA,
    KEY,
    PROBABILITIES,
    RETURN_LEVELS,
    SHORTFALL_LEVELS,
    VARIANCE_LEVELS,
)
from models.table import read_horizons, read_parquet, to_arrow, validate, write_parquet, write_parts

START = pd.Timestamp("2024-03-01T00:00:00Z").as_unit("us")


def make_row(symbol: str, origin: pd.Timestamp, hours: int, model: str) -> dict[str, object]:
    variance = 1e-4 * hours
    row: dict[str, object] = {
        "schema_version": 1,
        "symbol": symbol,
        "origin": origin,
        "horizon_hours": hours,
        "target_end": origin + pd.Timedelta(hours=hours),
        "model": model,
        "variance": variance,
        "vol_annualised": (variance * 8760 / hours) ** 0.5,
        "p_onset": np.nan,
        "threshold_normal": 1e-5,
        "threshold_stress": 1e-3,
        "threshold_crisis": 1e-2,
        "status": "ok",
        "reason": "",
        "made_at": origin,
        "data_asof": origin,
        "model_uri": "fold:2024-03-01/" + model,
        "model_sha256": "a" * 64,
        "config_sha256": "b" * 64,
        "data_sha256": "0" * 64,
    }
    row |= {column: variance * (0.5 + level) for column, level in VARIANCE_LEVELS.items()}
    row |= {column: level - 0.5 for column, level in (RETURN_LEVELS | SHORTFALL_LEVELS).items()}
    row |= {column: level / 10 for side in EXCURSION_COLUMNS.values() for column, level in side.items()}
    row |= dict(zip(PROBABILITIES, (0.3, 0.6, 0.075, 0.025), strict=True))
    return row


@pytest.fixture
def frame() -> pd.DataFrame:
    rows = [
        make_row(symbol, START + pd.Timedelta(hours=hour), hours, model)
        for symbol in ("BTCUSDT", "ETHUSDT")
        for hour in range(3)
        for hours in (1, 24)
        for model in ("ensemble", "har")
    ]
    table = pd.DataFrame(rows)[FORECAST_SCHEMA.names]
    return table.astype({"schema_version": "int16", "horizon_hours": "int16"})


def test_a_lawful_frame_passes_and_survives_the_disk(frame: pd.DataFrame, tmp_path: Path) -> None:
    validate(frame)
    write_parquet(frame, tmp_path / "deep" / "forecasts.parquet")
    back = read_parquet(tmp_path / "deep" / "forecasts.parquet")
    validate(back)
    pd.testing.assert_frame_equal(back, frame.sort_values(list(KEY), ignore_index=True))
    assert pq.read_schema(tmp_path / "deep" / "forecasts.parquet").remove_metadata() == FORECAST_SCHEMA
    assert back["p_onset"].isna().all()


def test_missing_is_null_on_disk_not_nan(frame: pd.DataFrame) -> None:
    assert to_arrow(frame).column("p_onset").null_count == len(frame)


def test_equal_tables_are_equal_bytes_in_any_order(frame: pd.DataFrame, tmp_path: Path) -> None:
    write_parquet(frame, tmp_path / "a.parquet")
    write_parquet(frame.sample(frac=1, random_state=3)[sorted(frame.columns)], tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("variance", 0.0),
        ("variance", -1e-4),
        ("variance", np.inf),
        ("variance", np.nan),
        ("vol_annualised", 0.5),
        ("var_q25", 9e9),
        ("var_q05", -1e-9),
        ("ret_q500", -0.9),
        ("ret_es010", -np.inf),
        ("mae_short_q990", 0.0),
        ("mae_long_q950", -0.01),
        ("mae_long_q999", np.nan),
        ("p_stress", 0.2),
        ("p_stress", 1.2),
        ("p_crisis", np.nan),
        ("p_onset", -0.1),
        ("threshold_stress", 1e-6),
        ("threshold_normal", np.nan),
        ("status", "fine"),
        ("model_sha256", "A" * 64),
        ("data_sha256", "b" * 63),
        ("config_sha256", None),
        ("model_uri", ""),
        ("schema_version", 2),
        ("horizon_hours", 0),
        ("horizon_hours", 4),
        ("data_asof", START + pd.Timedelta(days=30)),
    ],
)
def test_each_broken_rule_names_row_and_column(frame: pd.DataFrame, column: str, value: object) -> None:
    # Row 4 is the ensemble's, one hour after the start.
    frame.loc[4, column] = value
    expected = {"horizon_hours": "target_end" if value == 4 else "horizon_hours"}.get(column, column)
    with pytest.raises(DataInvalid, match=r"row 4 \(BTCUSDT 2024-03-01 01:00:00\+00:00") as refusal:
        validate(frame)
    named = str(refusal.value).split("column ")[1].split(":")[0]
    group = PROBABILITIES if column in PROBABILITIES else (expected,)
    successors = {"var_q25": "var_q50", "ret_q500": "ret_q500", "threshold_stress": "threshold_stress"}
    assert named in {*group, successors.get(column, expected)}


def test_a_repeated_key_is_refused(frame: pd.DataFrame) -> None:
    with pytest.raises(DataInvalid, match="repeats a key"):
        validate(pd.concat([frame, frame.iloc[[7]]], ignore_index=True))


def test_members_may_leave_columns_null_but_not_the_ensemble(frame: pd.DataFrame) -> None:
    members = frame["model"] == "har"
    frame.loc[members, [*RETURN_LEVELS, *PROBABILITIES, "var_q50"]] = np.nan
    validate(frame)
    frame.loc[members, "var_q05"] = 1.0  # crosses var_q25 although the level between is absent
    with pytest.raises(DataInvalid, match="var_q25"):
        validate(frame)


def test_young_symbols_have_no_regimes_and_blocked_rows_no_numbers(frame: pd.DataFrame) -> None:
    frame.loc[0, [*PROBABILITIES, "threshold_normal", "threshold_stress", "threshold_crisis"]] = np.nan
    with pytest.raises(DataInvalid, match="row 0"):
        validate(frame)
    frame.loc[0, "status"] = "degraded"
    numbers = [field.name for field in FORECAST_SCHEMA if field.nullable]
    frame.loc[2, numbers] = np.nan
    frame.loc[2, "status"] = "blocked"
    validate(frame)
    frame.loc[2, "status"] = "fallback"
    with pytest.raises(DataInvalid, match="row 2"):
        validate(frame)


def test_wrong_columns_and_types_are_named(frame: pd.DataFrame) -> None:
    with pytest.raises(DataInvalid, match="column var_q50 is missing"):
        validate(frame.drop(columns="var_q50"))
    with pytest.raises(DataInvalid, match="unknown column extra"):
        validate(frame.assign(extra=1.0))
    with pytest.raises(DataInvalid, match=r"column origin: expected timestamp\[us, tz=UTC\]"):
        validate(frame.assign(origin=frame["origin"].dt.tz_localize(None)))
    with pytest.raises(DataInvalid, match="column variance"):
        to_arrow(frame.assign(variance="high"))
    with pytest.raises(DataInvalid, match="column data_sha256: 12 rows are null"):
        to_arrow(frame.assign(data_sha256=frame["data_sha256"].where(frame["model"] == "har")))


def test_files_that_are_no_forecast_tables_are_named(frame: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match=r"none\.parquet"):
        read_parquet(tmp_path / "none.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(DataInvalid, match=r"broken\.parquet"):
        read_parquet(tmp_path / "broken.parquet")
    frame.astype({"variance": "float32"}).to_parquet(tmp_path / "narrow.parquet")
    with pytest.raises(DataInvalid, match="column"):
        read_parquet(tmp_path / "narrow.parquet")


def test_horizons_come_apart_and_lose_nothing(frame: pd.DataFrame, tmp_path: Path) -> None:
    """Parts of a symbol each, in which one model leaves columns empty; words are categories."""
    frame.loc[frame["model"] == "har", ["ret_q010", "p_onset"]] = np.nan
    parts = [part for _, part in frame.groupby("symbol")]
    parts.insert(1, frame.iloc[:0])  # of a symbol without rows
    write_parts(parts, tmp_path / "forecasts.parquet")
    columns = ["origin", "symbol", "status", "model", "variance", "ret_q010", "p_onset"]
    found = list(read_horizons(tmp_path / "forecasts.parquet", columns))
    assert len(found) == 2
    for h, part in zip((1, 24), found, strict=True):
        expected = frame[frame["horizon_hours"] == h].sort_values(["symbol", "model", "origin"], ignore_index=True)
        assert isinstance(part["model"].dtype, pd.CategoricalDtype)
        words = dict.fromkeys(("symbol", "status", "model"), "str")
        pd.testing.assert_frame_equal(part.astype(words), expected[columns].astype(words), check_exact=True)


def test_horizons_of_another_table_are_refused(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.drop(columns="variance").to_parquet(tmp_path / "narrow.parquet")
    with pytest.raises(DataInvalid, match=r"narrow\.parquet, column"):
        list(read_horizons(tmp_path / "narrow.parquet", ["variance"]))


@pytest.mark.parametrize("column", KEY)
def test_rows_out_of_order_by_any_part_of_the_key_are_put_in_order(frame: pd.DataFrame, column: str) -> None:
    ordered = frame.sort_values(list(KEY), ignore_index=True)
    turned = ordered.sort_values(column, ascending=False, kind="stable")
    assert not turned.index.is_monotonic_increasing
    assert to_arrow(turned).equals(to_arrow(ordered))
    assert to_arrow(ordered).to_pandas()[list(KEY)].equals(ordered[list(KEY)])
    assert to_arrow(ordered.iloc[:0]).num_rows == 0
