"""The estimators of the HAR family on daily realised measures of the S&P 500, against the literature's figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from benchmarks.published_har import PUBLISHED, figures, in_sample

# Published figures have three or four decimals; the protocol's fine print (which days the filter reads) moves the last one.
TOLERANCE = 5e-4


@pytest.fixture(scope="module")
def sp500(real_data: Path) -> pd.DataFrame:
    return pd.read_parquet(real_data / "realized_library" / "BPQ2016_SP500-1997_2013.parquet")


@pytest.fixture(scope="module")
def made(sp500: pd.DataFrame) -> dict[tuple[str, str], float]:
    return figures(sp500)


@pytest.mark.real
def test_published_figures_are_reproduced(made: dict[tuple[str, str], float]) -> None:
    """HAR and HARQ in sample, and four models' losses out of sample (Bollerslev, Patton and Quaedvlieg, 2016)."""
    missed = {key: (made[key], value) for key, value in PUBLISHED.items() if not abs(made[key] - value) <= TOLERANCE}
    assert not missed


@pytest.mark.real
def test_weights_and_logs_beat_plain_least_squares(made: dict[tuple[str, str], float]) -> None:
    """Clements and Preve (2021): simple remedies outperform the HAR, and the HARQ too."""
    for window in ("rolling", "increasing"):
        for remedy in ("log", "wls"):
            assert made[remedy, f"qlike {window}"] < min(0.95, made["harq", f"qlike {window}"])


@pytest.mark.real
def test_in_sample_is_the_regression_of_statsmodels(sp500: pd.DataFrame) -> None:
    rv, root = sp500["RV"], np.sqrt(sp500["RQ"])
    columns = {"b1": rv, "b2": rv.rolling(5).mean(), "b3": rv.rolling(22).mean(), "b1q": rv * (root - root.mean())}
    peer = sm.OLS(rv.shift(-1), sm.add_constant(pd.DataFrame(columns)), missing="drop").fit()
    mine = in_sample(sp500)
    assert peer.nobs == 4074
    for ours, theirs in {"b0": "const", **{name: name for name in columns}}.items():
        assert mine["harq", ours] == pytest.approx(peer.params[theirs], rel=1e-7)
    assert mine["harq", "r2"] == pytest.approx(peer.rsquared, rel=1e-9)
