"""Every reader against files damaged at random: the store holds exactly the sound rows, all else is named."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzzing import archive, columnar, freqtrade, parquet, sheets, trades
from fuzzing.contract import refuse
from fuzzing.harness import Harness, LossError, Sample, SilentAcceptError
from fuzzing.mangling import Change

NOW = int(time.time() * 1e6)


def test_vision(fuzz: Callable[..., None]) -> None:
    fuzz("vision", archive.samples(NOW))


def test_freqtrade(fuzz: Callable[..., None]) -> None:
    fuzz("freqtrade", freqtrade.samples(NOW))


def test_parquet(fuzz: Callable[..., None]) -> None:
    fuzz("parquet", parquet.samples(NOW))


def test_trades(fuzz: Callable[..., None]) -> None:
    fuzz("trades", trades.samples(NOW))


@pytest.mark.parametrize("era", archive.ERAS, ids=lambda era: era.name)
@pytest.mark.parametrize("zipped", [False, True])
def test_undamaged_files_of_every_era_are_taken_whole(harness: Harness, era: archive.Era, zipped: bool) -> None:
    sample = archive.damaged(archive.sound(era, 12, 7, era.header), zipped, [], NOW)
    assert len(sample.verdict.rows) == 12
    harness.check(sample)


def _sample() -> Any:
    return archive.damaged(archive.sound(archive.ERAS[0], 5, 1, True), True, [], NOW)


def planted(change: Callable[[Any], None]) -> Any:
    sample = _sample()
    change(sample.verdict)
    return sample


def _forget(verdict: Any) -> None:
    verdict.rows.popitem()


def _expect(verdict: Any) -> None:
    key, row = verdict.rows.popitem()
    verdict.rows |= {key: row, (*key[:-1], key[-1] + 1): row}


def _alter(verdict: Any) -> None:
    row = next(iter(verdict.rows.values()))
    row["close"] = math.nextafter(row["close"], 0.0)


def _blame(verdict: Any) -> None:
    verdict.bad[3] = {"close"}


@pytest.mark.parametrize(
    ("change", "error"),
    [(_forget, SilentAcceptError), (_expect, LossError), (_alter, SilentAcceptError), (_blame, LossError)],
)
def test_the_harness_fails_where_store_and_verdict_differ(
    harness: Harness, change: Callable[[Any], None], error: type[AssertionError]
) -> None:
    with pytest.raises(error):
        harness.check(planted(change))


def test_the_harness_fails_where_a_file_should_have_been_refused(harness: Harness) -> None:
    sample = dataclasses.replace(_sample(), verdict=refuse("bars", "it was planted"))
    with pytest.raises(SilentAcceptError, match="planted"):
        harness.check(sample)


def _command_samples() -> dict[str, Any]:
    """Files whose way through the command line is watched: sound, partly bad, refused, and of another content."""
    era, sheet = archive.ERAS[0], lambda: archive.sound(archive.ERAS[0], 6, 3, True)
    candles = freqtrade.sound("bars", "1h", 6, 3)
    partly = columnar.encode(candles, ".feather", [Change(columnar.set_cell, 2, 3, 1)])
    name, kind = "BTC_USDT_USDT-1h-futures.feather", "freqtrade"
    return {
        "sound": archive.damaged(sheet(), True, [], NOW),
        "partly bad": archive.damaged(sheet(), False, [Change(sheets.set_field, 2, 1, 2)], NOW),
        "renamed": archive.damaged(sheet(), True, [Change("renamed", 0, 0, 0)], NOW),
        "cut": archive.damaged(sheet(), True, [Change("cut", 500, 0, 0)], NOW),
        "cell": Sample(name, partly, kind, freqtrade.verdict("bars", "1h", ".feather", partly, NOW)),
        "other": Sample(name, b"junk", kind, refuse(era.table, "it is junk")),
    }


@pytest.mark.parametrize("case", ["sound", "partly bad", "renamed", "cut", "cell", "other"])
def test_the_command_line_shows_no_traceback(harness: Harness, case: str) -> None:
    sample = _command_samples()[case]
    path = harness.write(sample)
    command = ["data", "import", "--from", sample.kind, str(path), "--store", str(harness.folder / "store")]
    program = Path(sys.executable).with_name("forecaster")
    done = subprocess.run([program, *command], capture_output=True, text=True, timeout=120, check=False)
    sound = sample.verdict.refused is None and not sample.verdict.bad
    assert done.returncode == (0 if sound else 3), done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert sound or path.name in (done.stdout + done.stderr).replace("\n", "")
