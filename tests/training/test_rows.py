"""What a fold may learn from: rows before its border, labels known by then."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from models.training_rows import TrainingRows
from training.config import RunConfig, WalkForward
from training.material import Material
from training.rows import purged_labels, training_rows
from training.walkforward import plan

HOUR = pd.Timedelta(hours=1)
START, END = pd.Timestamp("2023-05-01", tz="UTC"), pd.Timestamp("2023-06-30", tz="UTC")


@pytest.mark.parametrize(("embargo", "window"), [(0, None), (36, None), (5, 1)])
def test_law_p_holds_on_the_folds_in_use(
    material: Material, config: RunConfig, embargo: int, window: int | None
) -> None:
    walk = WalkForward(warmup_months=1, embargo_hours=embargo, window_months=window)
    used = plan(material, config.model_copy(update={"walkforward": walk}), START, END)
    assert len(used) == 3
    rows = material.rows
    for fold in used:
        past = training_rows(fold, rows)
        origins = pd.DatetimeIndex(past.origin.astype("datetime64[us]"), tz="UTC")
        np.testing.assert_array_equal(past.features[past.row], rows.features[np.isin(rows.origin, past.origin)])
        assert origins.max() == fold.test_start - HOUR
        oldest = material.times[0] if window is None else fold.test_start - embargo * HOUR - pd.Timedelta(days=30)
        assert origins.min() == oldest
        for j, h in enumerate(rows.horizons):
            ends = origins + h * HOUR
            last = fold.test_start - embargo * HOUR
            known = ~np.isnan(past.variance[:, j])
            assert ends[known].max() == last  # nothing later, and the newest admissible label is there
            at = pd.DatetimeIndex(rows.origin.astype("datetime64[us]"), tz="UTC")
            trains = (at >= oldest) & (at < fold.test_start)
            had = ~np.isnan(rows.variance[trains, j])
            np.testing.assert_array_equal(known, had & np.asarray(ends <= last))


def test_purged_labels_against_a_loop() -> None:
    rng = np.random.default_rng(3)
    origins = pd.date_range("2023-01-01", periods=40, freq="h", tz="UTC")
    index = pd.MultiIndex.from_product([["A", "B"], origins], names=["symbol", "origin"])
    y = pd.DataFrame(rng.random((80, 3)), index=index, columns=[1, 4, 24])
    y.iloc[5, 1] = np.nan
    known_by = origins[30]
    past = TrainingRows.of(pd.DataFrame({"x": 0.0}, index=index), y)
    found = pd.DataFrame(purged_labels(past, known_by).variance, index=index, columns=y.columns)
    for (symbol, origin), row in y.iterrows():
        for h in y.columns:
            ends_later = origin + pd.Timedelta(hours=h) > known_by
            expected = np.nan if ends_later else row[h]
            np.testing.assert_equal(found.loc[(symbol, origin), h], expected)
