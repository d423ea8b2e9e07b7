from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from features.families.flow_kernels import same_hour_mean, same_hour_reach, sign_run

Array = npt.NDArray[np.float64]
HOURS = 400


@pytest.fixture(scope="module")
def holed() -> Array:
    """A series of three symbols, a tenth of it missing, one with a long hole."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((3, HOURS))
    x[rng.random(x.shape) < 0.1] = np.nan
    x[1, 100:160] = np.nan
    return x


def test_the_same_hour_is_that_of_the_days_before(holed: Array) -> None:
    x = holed
    found = same_hour_mean(x, 7, 0.5, 0)
    for i in range(3):
        for t in range(HOURS):
            past = np.array([x[i, t - 24 * k] for k in range(1, 8) if t >= 24 * k])
            past = past[~np.isnan(past)]
            wanted = past.mean() if len(past) >= 3.5 else np.nan
            np.testing.assert_allclose(found[i, t], wanted, rtol=1e-12)


def test_runs_by_hand() -> None:
    x = np.array([[1.0, 2.0, -1.0, -0.5, -3.0, -1.0, 0.0, 2.0, np.nan, 4.0, 5.0]])
    expected = [1.0, 2.0, -1.0, -2.0, -3.0, -3.0, 0.0, 1.0, np.nan, 1.0, 2.0]
    np.testing.assert_array_equal(sign_run(x, 3, 0)[0], expected)


@pytest.mark.parametrize(
    ("kernel", "parameters", "reach"),
    [
        (same_hour_mean, (7, 0.5), same_hour_reach(7)),
        (sign_run, (48,), 48),
    ],
)
def test_columns_asked_for_alone_have_the_bits_of_the_whole(
    holed: Array, kernel: Callable[..., Array], parameters: tuple[Any, ...], reach: int
) -> None:
    whole = kernel(holed, *parameters, 0)
    for first in (reach - 1, 250, HOURS - 1):
        begin = first - reach + 1
        part = kernel(np.ascontiguousarray(holed[:, begin:]), *parameters, reach - 1)
        np.testing.assert_array_equal(whole[..., first:], part)
        alone = kernel(np.ascontiguousarray(holed[:, : first + 1]), *parameters, first)
        np.testing.assert_array_equal(whole[..., first : first + 1], alone)
    assert np.isfinite(whole).any()
