"""Which folds there are: warm-up reaches back as far as every member has rows enough to learn from."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from features.errors import DataInvalid
from training.config import Component, RunConfig
from training.folds import forecast_fold
from training.material import Material
from training.rows import training_rows
from training.walkforward import plan

START, END = pd.Timestamp("2023-05-01", tz="UTC"), pd.Timestamp("2023-06-30", tz="UTC")


def test_warm_up_begins_where_every_member_can_learn(material: Material, config: RunConfig) -> None:
    early, first = plan(material, config, START, END)[:2]
    assert (early.index, first.index) == (-1, 0)
    held = [
        int(np.isfinite(past.variance[past.within(None, 5)]).sum(axis=0).min())
        for past in (training_rows(fold, material.rows) for fold in (early, first))
    ]
    assert held[0] < held[1]

    def needing(rows: int) -> RunConfig:
        trees = Component(kind="lightgbm", params={"min_data_in_leaf": rows // 2, "rounds": 2})
        return config.model_copy(update={"members": (Component(kind="har_seasonal"), trees)})

    def indices(rows: int) -> list[int]:
        return [fold.index for fold in plan(material, needing(rows), START, END)]

    even = [count + count % 2 for count in held]
    assert indices(even[0] - 2) == [-1, 0, 1]
    assert indices(even[0] + 2) == [0, 1]
    # A scored fold is never left out: its member refuses, and says the way out.
    short = needing(even[1] + 2)
    assert [fold.index for fold in plan(material, short, START, END)] == [0, 1]
    with pytest.raises(DataInvalid, match=rf"'lightgbm' has {held[1]} training rows .* needs {even[1] + 2}; lower"):
        forecast_fold(first, material.rows, short.members)
