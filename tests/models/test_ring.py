from __future__ import annotations

import numpy as np
import pytest

from models.ring import Ring


@pytest.mark.parametrize("begin", [0, 3, 7, 30])
def test_a_ring_holds_the_newest_columns(begin: int) -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 200))
    ring = Ring(values[:, :, :begin], width=7)
    for t in range(begin, 200):
        assert np.array_equal(ring.values, values[:, :, max(t - 7, 0) : t])
        ring.append(values[:, :, t])
    assert np.array_equal(ring.values, values[:, :, -7:])


def test_a_ring_takes_its_memory_once() -> None:
    ring = Ring(np.zeros((2, 3, 5)), width=50)
    before = ring._data
    for _ in range(500):
        ring.append(np.ones((2, 3)))
    assert ring._data is before


def test_a_view_may_be_written_to() -> None:
    ring = Ring(np.zeros((1, 2, 4)), width=4)
    ring.values[0, :, -2] = 9.0
    ring.append(np.ones((1, 2)))
    assert ring.values[0].tolist() == [[0, 9, 0, 1], [0, 9, 0, 1]]


def test_a_symbol_that_joins_has_no_past() -> None:
    ring = Ring(np.arange(8.0).reshape(1, 2, 4), width=3)
    ring.place(np.array([0, -1, 1]))
    assert ring.values[0, [0, 2]].tolist() == [[1, 2, 3], [5, 6, 7]]
    assert np.isnan(ring.values[0, 1]).all()
    ring.append(np.zeros((1, 3)))
    assert ring.values[0, 0].tolist() == [2, 3, 0]
