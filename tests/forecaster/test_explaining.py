"""Why this forecast: sums that hold, words that say what moved it, and refusals that name the way out."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features.errors import DataInvalid, UsageError
from features.pipeline import FAMILIES
from forecaster.commands.evaluation import Evaluated
from forecaster.commands.explaining import WORDS, Explained, explain
from forecaster.commands.serving import forecast, promote, train
from models.base import ENSEMBLE
from models.table import read_parquet
from training.contributions import CONTRIBUTIONS

AT = "2023-04-10T12:00Z"


@pytest.fixture(scope="module")
def told(evaluated: Evaluated) -> Explained:
    return explain(evaluated.evaluation.path, "BTCUSDT", AT)


def test_terms_add_up_to_the_published_forecast(told: Explained, evaluated: Evaluated) -> None:
    rows = read_parquet(evaluated.evaluation.path, models=[ENSEMBLE])
    rows = rows[(rows["symbol"] == "BTCUSDT") & (rows["origin"] == pd.Timestamp(AT))].set_index("horizon_hours")
    assert [one.horizon_hours for one in told.horizons] == [1, 24]
    for one in told.horizons:
        assert one.variance == rows.loc[one.horizon_hours, "variance"]
        assert one.log_variance == pytest.approx(np.log(one.variance), rel=1e-15)
        assert sum(term.value for term in one.terms) == pytest.approx(one.log_variance, rel=1e-12)
        assert one.sum_of_terms == pytest.approx(one.log_variance, rel=1e-15)
        assert one.terms[0].name == "usual"
        product = np.prod([1 + (term.percent or 0) / 100 for term in one.terms])
        assert product * np.exp(one.terms[0].value) == pytest.approx(one.variance)
        assert sum(member.weight for member in one.members) == pytest.approx(1)


def test_the_sentence_has_the_five_largest_factors_in_order(told: Explained) -> None:
    for one in told.horizons:
        moving = [term for term in one.terms if term.name not in ("usual", "remainder") and abs(term.value) >= 0.005]
        largest = sorted(moving, key=lambda term: -abs(term.value))[:5]
        found = re.findall(r"([+-]\d+) %", one.sentence)
        assert [int(word) for word in found] == [round(term.percent or 0) for term in largest]
        assert all(term.meaning in one.sentence for term in largest)
        assert one.sentence.startswith(f"BTCUSDT at 2023-04-10 12:00 UTC, next {one.horizon_hours} h")


def test_the_summary_shows_both_sums(told: Explained) -> None:
    lines = told.summary().splitlines()
    sums = next(line for line in lines if line.startswith("sum"))
    published = next(line for line in lines if line.startswith("ln F"))
    assert sums.split()[1:] == published.split()[4:] == [f"{one.log_variance:+.6f}" for one in told.horizons]
    # What is printed can be added up again.
    for j, one in enumerate(told.horizons):
        printed = [re.findall(r"[+-]\d+\.\d{6}", line) for line in lines]
        column = [float(numbers[j]) for numbers in printed if len(numbers) == 2][:-2]
        assert sum(column) == pytest.approx(one.log_variance, abs=2e-5)


def test_one_horizon_alone(evaluated: Evaluated, told: Explained) -> None:
    alone = explain(evaluated.evaluation.path, "BTCUSDT", "2023-04-10 12:00", 24)
    assert alone.horizons == told.horizons[1:]


@pytest.mark.parametrize(
    ("symbol", "time", "horizon", "words"),
    [
        ("BTCUSD", AT, None, "did you mean 'BTCUSDT'"),
        ("BTCUSDT", "2023-04-10T12:30Z", None, "2023-04-10T12:00Z and 2023-04-10T13:00Z"),
        ("BTCUSDT", "2023-05-10", None, "2023-04-24T23:00Z"),
        ("BTCUSDT", "2020-01-01", None, "2023-04-05T00:00Z"),
        ("BTCUSDT", AT, 4, "1, 24 hours ahead"),
        ("BTCUSDT", "soon", None, "such as 2024-01-31"),
    ],
)
def test_what_is_not_there_is_named_with_the_nearest(
    evaluated: Evaluated, symbol: str, time: str, horizon: int | None, words: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        explain(evaluated.evaluation.path, symbol, time, horizon)


def test_forecasts_without_their_contributions_are_refused(evaluated: Evaluated, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        explain(tmp_path / "forecasts.parquet", "BTCUSDT", AT)
    alone = shutil.copy(evaluated.evaluation.path, tmp_path / "forecasts.parquet")
    with pytest.raises(UsageError, match="no contributions lie beside it"):
        explain(alone, "BTCUSDT", AT)


def beside(evaluated: Evaluated, folder: Path, name: str, **changed: Any) -> Path:
    """A copy of both tables, columns of one of them changed: each to a value, or by a function."""
    for file in (evaluated.evaluation.path, evaluated.evaluation.path.with_name(CONTRIBUTIONS)):
        shutil.copy(file, folder)
    table = pq.read_table(folder / name, partitioning=None)
    for column, change in changed.items():
        old = table[column]
        new = change(old) if callable(change) else pa.array([change] * len(old), old.type)
        table = table.set_column(table.schema.get_field_index(column), table.schema.field(column), new)
    pq.write_table(table, folder / name)
    return folder / "forecasts.parquet"


def test_contributions_of_another_run_are_refused(evaluated: Evaluated, tmp_path: Path) -> None:
    path = beside(evaluated, tmp_path, CONTRIBUTIONS, **{"term:remainder": lambda old: pc.add(old, 1e-9)})
    with pytest.raises(DataInvalid, match="of different runs"):
        explain(path, "BTCUSDT", AT)


def test_a_damaged_file_is_named(evaluated: Evaluated, tmp_path: Path) -> None:
    path = shutil.copy(evaluated.evaluation.path, tmp_path)
    (tmp_path / CONTRIBUTIONS).write_bytes(b"PAR1")
    with pytest.raises(DataInvalid, match=re.escape(str(tmp_path / CONTRIBUTIONS))):
        explain(path, "BTCUSDT", AT)


def test_a_blocked_forecast_says_why(evaluated: Evaluated, tmp_path: Path) -> None:
    told = {"variance": None, "status": "blocked", "reason": "prices were flat"}
    path = beside(evaluated, tmp_path, "forecasts.parquet", **told)
    with pytest.raises(UsageError, match=r"blocked \(prices were flat\)"):
        explain(path, "BTCUSDT", AT)


@pytest.mark.usefixtures("environment")
def test_served_forecasts_are_explained_from_the_sink(
    store: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECASTER_MODEL_NAME", "explained")
    train(config, store, "2023-05-09")
    promote(force=True)
    for as_of in ("2023-05-10T05:00Z", "2023-05-10T06:00Z", "2023-05-10T06:00Z"):
        made = forecast(store, as_of, sink="parquet:sink")
    rows = made.forecasts
    told = explain("sink", "BTCUSDT", "2023-05-10T06:00Z")
    assert [one.horizon_hours for one in told.horizons] == [1, 24]
    for one in told.horizons:
        row = rows[
            (rows["symbol"] == "BTCUSDT") & (rows["model"] == ENSEMBLE) & (rows["horizon_hours"] == one.horizon_hours)
        ]
        assert one.variance == row["variance"].item()
    explain("sink", "ETHUSDT", "2023-05-10T05:00Z")
    with pytest.raises(UsageError, match="2023-05-10T05:00Z"):
        explain("sink", "BTCUSDT", "2023-05-09T05:00Z")
    # The folder is still one forecast table for any reader.
    assert set(pd.read_parquet("sink")["model"]) == {"ensemble", "ewma", "har", "har_seasonal"}
    assert len(pd.read_parquet("sink")) == 2 * 2 * 2 * 4


def test_every_family_of_features_has_words() -> None:
    assert set(FAMILIES) <= set(WORDS)
