from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from features.errors import DataInvalid, Locked
from forecaster.sinks import parquet
from forecaster.sinks.parquet import Written
from models.base import (
    EXCURSION_COLUMNS,
    FORECAST_SCHEMA,
    KEY,
    PROBABILITIES,
    RETURN_LEVELS,
    SHORTFALL_LEVELS,
    THRESHOLDS,
    VARIANCE_LEVELS,
)
from models.table import validate, write_parquet

START = pd.Timestamp("2024-03-01T22:00:00Z")


def make_forecasts(
    hours: int = 4, scale: float = 1.0, symbols: tuple[str, ...] = ("BTCUSDT", "ETHUSDT")
) -> pd.DataFrame:
    """Forecasts from two hours before midnight on, so that they span two days."""
    key = pd.MultiIndex.from_product(
        [symbols, [START + pd.Timedelta(hours=hour) for hour in range(hours)], [1, 24], ["ensemble", "har"]],
        names=KEY,
    ).to_frame(index=False)
    variance = 1e-4 * scale * key["horizon_hours"]
    numbers = {"variance": variance, "vol_annualised": np.sqrt(variance * 8760 / key["horizon_hours"])}
    numbers |= {name: variance * (0.5 + level) for name, level in VARIANCE_LEVELS.items()}
    numbers |= {name: level - 0.5 for name, level in (RETURN_LEVELS | SHORTFALL_LEVELS).items()}
    numbers |= {name: level / 10 for side in EXCURSION_COLUMNS.values() for name, level in side.items()}
    numbers |= dict(zip(PROBABILITIES, (0.25, 0.5, 0.125, 0.125), strict=True))
    numbers |= dict(zip(THRESHOLDS, (1e-5, 1e-3, 1e-2), strict=True))
    frame = key.assign(
        schema_version=1,
        target_end=key["origin"] + pd.to_timedelta(key["horizon_hours"], unit="h"),
        p_onset=np.nan,
        status="ok",
        reason="",
        made_at=key["origin"],
        data_asof=key["origin"],
        model_uri="models:/forecaster/1",
        **{name: digit * 64 for name, digit in (("model_sha256", "a"), ("config_sha256", "b"), ("data_sha256", "c"))},
        **numbers,
    )
    times = dict.fromkeys(["origin", "target_end", "made_at", "data_asof"], "datetime64[us, UTC]")
    types = times | {"schema_version": "int16", "horizon_hours": "int16"}
    return frame[FORECAST_SCHEMA.names].astype(types).sort_values(list(KEY), ignore_index=True)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


def test_what_is_written_is_read_by_anyone(tmp_path: Path) -> None:
    frame = make_forecasts()
    assert parquet.write(frame, tmp_path / "sink") == Written(inserted=32, replaced=0, unchanged=0)
    pd.testing.assert_frame_equal(parquet.read(tmp_path / "sink"), frame)
    assert sorted(bytes_of(tmp_path / "sink")) == ["2024-03-01.parquet", "2024-03-02.parquet"]
    others = pd.read_parquet(tmp_path / "sink")
    assert list(others.columns) == FORECAST_SCHEMA.names
    assert len(others) == 32
    glob = str(tmp_path / "sink" / "*.parquet")
    counted = duckdb.sql(f"select count(*), count(distinct (symbol, origin, horizon_hours, model)) from '{glob}'")
    assert counted.fetchall() == [(32, 32)]


def test_an_empty_sink_is_an_empty_table(tmp_path: Path) -> None:
    empty = parquet.read(tmp_path / "none")
    assert list(empty.columns) == FORECAST_SCHEMA.names
    assert empty.empty
    assert parquet.write(empty, tmp_path / "sink") == Written(0, 0, 0)


def test_writing_again_changes_no_byte(tmp_path: Path) -> None:
    frame = make_forecasts()
    parquet.write(frame, tmp_path)
    before = bytes_of(tmp_path)
    shuffled = frame.sample(frac=1, random_state=1)
    later = shuffled.assign(made_at=shuffled["made_at"] + pd.Timedelta(minutes=5))
    for again in (frame, shuffled, later, frame[frame["symbol"] == "ETHUSDT"]):
        assert parquet.write(again, tmp_path) == Written(0, 0, len(again))
        assert bytes_of(tmp_path) == before


def test_the_order_of_writes_does_not_show(tmp_path: Path) -> None:
    frame = make_forecasts()
    parquet.write(frame, tmp_path / "once")
    for part in (frame[::2], frame[1::2]):
        parquet.write(part, tmp_path / "parts")
    assert bytes_of(tmp_path / "once") == bytes_of(tmp_path / "parts")


def test_the_last_write_of_a_key_stands_and_is_counted(tmp_path: Path) -> None:
    parquet.write(make_forecasts(hours=3), tmp_path)
    newer = make_forecasts(hours=4, scale=2.0)
    mixed = pd.concat([newer[newer["symbol"] == "BTCUSDT"], make_forecasts(3, symbols=("ETHUSDT",))])
    assert parquet.write(mixed, tmp_path) == Written(inserted=4, replaced=12, unchanged=12)
    pd.testing.assert_frame_equal(parquet.read(tmp_path), mixed.sort_values(list(KEY), ignore_index=True))


def test_a_broken_table_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match="column variance"):
        parquet.write(make_forecasts().assign(variance=-1.0), tmp_path / "sink")
    assert not (tmp_path / "sink").exists()


def test_a_damaged_day_is_named(tmp_path: Path) -> None:
    parquet.write(make_forecasts(), tmp_path)
    (tmp_path / "2024-03-02.parquet").write_bytes(b"PAR1")
    for use in (lambda: parquet.read(tmp_path), lambda: parquet.write(make_forecasts(), tmp_path)):
        with pytest.raises(DataInvalid, match=r"2024-03-02\.parquet"):
            use()


def start(program: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE)


def test_a_second_writer_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from forecaster.sinks import parquet\n"
        "with parquet._writing(parquet.Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(600)\n"
    )
    holder = start(program, tmp_path)
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Locked, match=rf"process {holder.pid}, since \d{{4}}-\d\d-\d\d") as refusal:
            parquet.write(make_forecasts(), tmp_path)
        holder.kill()
        holder.wait()
    assert refusal.value.exit_code == 7
    # The lock dies with its holder.
    assert parquet.write(make_forecasts(), tmp_path).inserted == 32


DYING = """
import os, sys
import pandas as pd
from forecaster.sinks import parquet
sync, calls = os.fsync, []
def dying(descriptor):
    calls.append(1)
    if len(calls) == int(sys.argv[3]):
        os._exit(9)
    sync(descriptor)
os.fsync = dying
parquet.write(pd.read_parquet(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.parametrize("deadly", [1, 2, 3, 4])
def test_a_writer_killed_at_any_sync_leaves_a_readable_sink(tmp_path: Path, deadly: int) -> None:
    old, new = make_forecasts(), make_forecasts(scale=2.0)
    sink = tmp_path / "sink"
    parquet.write(old, sink)
    write_parquet(new, tmp_path / "new.parquet")
    command = [sys.executable, "-c", DYING, str(tmp_path / "new.parquet"), str(sink), str(deadly)]
    assert subprocess.run(command, check=False).returncode == 9
    found = parquet.read(sink)
    validate(found)
    # Syncs: file and folder of the first day, then of the second; a day is old or new as a whole.
    first_day = (found["origin"] < pd.Timestamp("2024-03-02", tz="UTC")).to_numpy()
    is_new = (found["variance"] == new["variance"]).to_numpy()
    assert is_new[first_day].tolist() == [deadly > 1] * 16
    assert is_new[~first_day].tolist() == [deadly > 3] * 16
    assert len(list(sink.glob(".*.tmp"))) == deadly % 2
    counts = parquet.write(new, sink)
    assert counts.replaced + counts.unchanged == 32
    assert counts.unchanged == 16 * (deadly // 2)
    pd.testing.assert_frame_equal(parquet.read(sink), new)
    assert not list(sink.glob(".*.tmp"))
    parquet.write(new, tmp_path / "fresh")
    assert bytes_of(sink) == bytes_of(tmp_path / "fresh")


def test_a_writer_killed_from_outside_leaves_a_readable_sink(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "import pandas as pd\n"
        "from forecaster.sinks import parquet\n"
        "frames = [pd.read_parquet(path) for path in sys.argv[1:3]]\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for frame in frames:\n"
        "        parquet.write(frame, sys.argv[3])\n"
    )
    frames = [make_forecasts(), make_forecasts(scale=2.0)]
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for frame, file in zip(frames, files, strict=True):
        write_parquet(frame, file)
    parquet.write(frames[0], tmp_path / "sink")
    for attempt in range(4):
        writer = start(program, *files, tmp_path / "sink")
        assert writer.stdout is not None
        with writer.stdout:
            writer.stdout.readline()
            time.sleep(0.05 + 0.037 * attempt)
            writer.kill()
            writer.wait()
        found = parquet.read(tmp_path / "sink")
        validate(found)
        assert len(found) == 32
    assert os.listdir(tmp_path / "sink")
    parquet.write(frames[0], tmp_path / "sink")
    pd.testing.assert_frame_equal(parquet.read(tmp_path / "sink"), frames[0])
