from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from features.errors import DataInvalid, Locked
from features.schemas import TABLES
from features.store import Store, digest, write_atomically

BARS = TABLES["bars"]


def bars(symbol: str = "BTCUSDT", count: int = 3, price: float = 100.0) -> pd.DataFrame:
    close_time = pd.date_range("2024-03-01", periods=count, freq="h", tz="UTC").as_unit("us")
    frame = pd.DataFrame({"interval": "1h", "symbol": symbol, "close_time": close_time})
    frame = frame.assign(open=price, high=price, low=price, close=price, volume=1.0)
    frame = frame.assign(available_at=close_time, source="parquet")
    return frame.reindex(columns=list(BARS.columns))


def put(folder: Path, rows: pd.DataFrame, import_id: str = "0123456789ab") -> list[str]:
    with Store(folder).writing() as writer:
        return writer.add(rows, BARS, "parquet", import_id)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_layout_and_manifest(tmp_path: Path) -> None:
    written = put(tmp_path, pd.concat([bars("ETHUSDT"), bars("BTCUSDT", 2)]))
    assert written == [
        "bars/interval=1h/symbol=BTCUSDT/parquet-0123456789ab.parquet",
        "bars/interval=1h/symbol=ETHUSDT/parquet-0123456789ab.parquet",
    ]
    listed = json.loads((tmp_path / "manifest.json").read_text())["files"]
    assert [entry["path"] for entry in listed] == written
    for entry in listed:
        path = tmp_path / entry["path"]
        assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        # Read without this package: Hive partitions give back the columns that the folders hold.
        rows = pq.read_table(path, partitioning="hive").to_pandas()
        assert entry["rows"] == len(rows)
        assert pd.Timestamp(entry["first"]) == rows["close_time"].min()
        assert pd.Timestamp(entry["last"]) == rows["close_time"].max()
    assert listed[0]["last"] == "2024-03-01T01:00:00+00:00"
    assert listed[0]["source"] == "parquet"
    symbols = pd.read_parquet(tmp_path / "symbols.parquet")
    assert symbols["symbol"].tolist() == ["BTCUSDT", "ETHUSDT"]
    assert (symbols["first_bar"] == pd.Timestamp("2024-03-01", tz="UTC")).all()


def test_the_same_import_again_changes_no_byte(tmp_path: Path) -> None:
    put(tmp_path, bars())
    before = contents(tmp_path)
    assert put(tmp_path, bars()) == []
    assert contents(tmp_path) == before


def test_two_stores_of_the_same_imports_are_equal_byte_for_byte(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put(tmp_path / name, bars())
        put(tmp_path / name, bars("ETHUSDT"), "ba9876543210")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert Store(tmp_path / "a").sha256 == Store(tmp_path / "b").sha256


def test_first_bar_only_moves_back(tmp_path: Path) -> None:
    put(tmp_path, bars())
    later = bars().assign(close_time=lambda d: d["close_time"] + pd.Timedelta(days=9))
    put(tmp_path, later, "ba9876543210")
    assert Store(tmp_path).symbols()["first_bar"].item() == pd.Timestamp("2024-03-01", tz="UTC")


def interrupted(folder: Path) -> None:
    with Store(folder).writing() as writer:
        writer.add(bars("ETHUSDT"), BARS, "parquet", "ba9876543210")
        raise RuntimeError("power cut")


def test_a_failed_import_leaves_the_manifest_untouched(tmp_path: Path) -> None:
    put(tmp_path, bars())
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(RuntimeError, match="power cut"):
        interrupted(tmp_path)
    assert (tmp_path / "manifest.json").read_bytes() == before
    assert [file.symbol for file in Store(tmp_path).files] == ["BTCUSDT"]
    assert put(tmp_path, bars("ETHUSDT"), "ba9876543210") != []
    assert [file.symbol for file in Store(tmp_path).files] == ["BTCUSDT", "ETHUSDT"]


def test_orphans_of_a_killed_writer_are_swept(tmp_path: Path) -> None:
    put(tmp_path, bars())
    orphan = tmp_path / "bars" / "interval=1h" / ".x.parquet.123.tmp"
    orphan.write_bytes(b"half")
    put(tmp_path, bars("ETHUSDT"), "ba9876543210")
    assert not orphan.exists()


KILLED = """
import os, sys
from pathlib import Path
from features.store import write_atomically
path = Path(sys.argv[1])
while True:
    for letter in b"ab":
        write_atomically(path, bytes([letter]) * 200_000)
        print("written", flush=True)
"""


def test_a_killed_write_leaves_the_old_or_the_new_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(5):
                process.stdout.readline()
            process.kill()
        content = path.read_bytes()
        assert content in (b"a" * 200_000, b"b" * 200_000)


def test_a_second_writer_is_turned_away_with_the_first_ones_name(tmp_path: Path) -> None:
    put(tmp_path, bars())
    (tmp_path / ".lock.owner").write_text("process 4711, since noon,")
    with FileLock(tmp_path / ".lock"), pytest.raises(Locked, match=r"4711.*wait"):
        put(tmp_path, bars("ETHUSDT"), "ba9876543210")


def test_a_broken_manifest_and_a_broken_file_are_refused_with_a_cure(tmp_path: Path) -> None:
    [path] = put(tmp_path, bars())
    (tmp_path / path).write_bytes(b"PAR1 and nothing else")
    store = Store(tmp_path)
    with pytest.raises(DataInvalid, match=r"cannot be read.*import"):
        store.read(store.files[0])
    (tmp_path / "manifest.json").write_text('{"files": [{"path": 1}]}')
    with pytest.raises(DataInvalid, match=r"no manifest.*restore"):
        Store(tmp_path)


def test_the_digest_depends_on_content_and_parameters_but_not_on_their_order() -> None:
    assert digest(b"x", {"a": 1, "b": 2}) == digest(b"x", {"b": 2, "a": 1})
    assert len({digest(b"x", {}), digest(b"y", {}), digest(b"x", {"a": 1})}) == 3
    assert len(digest(b"", {})) == 12


def test_write_atomically_replaces(tmp_path: Path) -> None:
    write_atomically(tmp_path / "new" / "file", b"one")
    write_atomically(tmp_path / "new" / "file", b"two")
    assert contents(tmp_path) == {"new/file": b"two"}
