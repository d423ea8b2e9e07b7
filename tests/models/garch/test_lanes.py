"""The lanes' likelihood against the papers' formulas, its derivatives against differences of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.garch import GARCH, climbing, newton
from models.garch.lanes import LANES, likelihood
from models.garch.specification import working

Array = NDArray[np.float64]

# Every process, density, mean, kind of order and regressor at least once; each pair costs a compilation.
MODELS = [
    (GARCH(), False),
    (GARCH(p=2, q=0, mean="constant"), False),
    (GARCH(o=1, dist="t"), False),
    (GARCH(o=1, dist="t"), True),
    (GARCH(p=2, o=1, q=2, dist="skewt", mean="constant"), False),
    (GARCH(p=2, o=1, q=2, dist="skewt", mean="constant"), True),
    (GARCH(p=0, q=1, exogenous=1), False),
    (GARCH(o=1, exogenous=2), True),
    (GARCH(o=1, dist="t", vol="egarch"), False),
    (GARCH(p=2, o=1, q=2, dist="skewt", mean="constant", vol="egarch"), False),
    (GARCH(p=2, o=1, q=2, dist="skewt", mean="constant", vol="egarch"), True),
]
LENGTH = 300
BACKCAST = 1.2
every_model = pytest.mark.parametrize(("model", "gaps"), MODELS, ids=str)


class Evaluation:
    """The loss, the negative mean log-likelihood, of one series in one lane, with its derivatives."""

    def __init__(self, model: GARCH, gaps: bool, returns: Array, known: Array) -> None:
        self.spec, self.gaps, self.present = model.specification, gaps, int(np.isfinite(returns).sum())
        lagged = np.concatenate([np.zeros_like(known[:1]), known[:-1]])
        one = np.array([1])
        self.bench = newton._Bench(self.spec, newton.Series(returns[None], lagged[None], one, one, gaps))
        self.bench.returns.reshape(-1, LANES)[:, 0] = returns
        if self.spec.exogenous:
            self.bench.regressors.reshape(len(returns), -1, LANES)[:, :, 0] = lagged

    def __call__(self, x: Array) -> tuple[float, Array, Array]:
        bench, size, table = self.bench, self.spec.size, np.zeros(18)
        count, _, density, logarithmic, constants, backcast, results = bench.shape
        climbing._place(bench.work, 0, x, count, density, constants, table)
        bench.work[backcast * LANES] = math.log(BACKCAST) if logarithmic else BACKCAST
        likelihood(self.spec, self.gaps)(bench.returns, bench.regressors, bench.work, bench.steps)
        gradient, hessian = np.zeros(size), np.zeros((size, size))
        loss = climbing.collect(bench.work, 0, self.present, x, count, density, results, table, gradient, hessian)
        return loss, gradient, hessian


@pytest.fixture
def at(lab: Any) -> Any:
    """An evaluation on simulated returns and the working parameters of ``lab``."""

    def made(model: GARCH, gaps: bool) -> tuple[Evaluation, Array, Array, Array]:
        returns = lab.simulated(LENGTH, seed=6, scale=1.0)
        returns = lab.with_gaps(returns) if gaps else returns
        known = lab.regressors_of(model, LENGTH)
        return (
            Evaluation(model, gaps, returns, known),
            working(model.specification, lab.params_of(model)),
            returns,
            known,
        )

    return made


@every_model
def test_likelihood_is_that_of_the_papers(model: GARCH, gaps: bool, at: Any, lab: Any) -> None:
    evaluation, x, returns, known = at(model, gaps)
    expected = lab.loglikelihood(model, lab.params_of(model), returns, BACKCAST, known)
    assert -evaluation(x)[0] * np.isfinite(returns).sum() == pytest.approx(expected, rel=1e-12)


@every_model
def test_derivatives_are_limits_of_differences(model: GARCH, gaps: bool, at: Any) -> None:
    evaluation, x, _, _ = at(model, gaps)
    _, gradient, hessian = evaluation(x)
    slopes, bends = np.empty_like(gradient), np.empty_like(hessian)
    for a in range(x.size):
        step = np.zeros(x.size)
        step[a] = 1e-5 * max(abs(x[a]), 0.01)
        (above, slope_above, _), (below, slope_below, _) = evaluation(x + step), evaluation(x - step)
        slopes[a] = (above - below) / (2 * step[a])
        bends[a] = (slope_above - slope_below) / (2 * step[a])
    np.testing.assert_allclose(gradient, slopes, atol=2e-6 * np.abs(gradient).max())
    np.testing.assert_allclose(hessian, bends, atol=2e-6 * np.abs(hessian).max())
    np.testing.assert_array_equal(hessian, hessian.T)


def test_padding_after_the_last_return_is_inert(at: Any, lab: Any) -> None:
    model = GARCH(o=1, dist="t")
    evaluation, x, returns, _ = at(model, False)
    padded = Evaluation(model, False, np.append(returns, np.full(37, np.nan)), np.zeros((LENGTH + 37, 0)))
    for own, other in zip(evaluation(x), padded(x), strict=True):
        np.testing.assert_array_equal(own, other)


def test_lanes_do_not_mix(at: Any, lab: Any) -> None:
    """Whatever stands in the other lanes, even what is not finite, one lane's results keep their bits."""
    model = GARCH(o=1, dist="t")
    evaluation, x, _, _ = at(model, False)
    expected = evaluation(x)
    work = evaluation.bench.work.reshape(-1, LANES)
    rng = np.random.default_rng(0)
    for lane in range(1, LANES):
        evaluation.bench.returns.reshape(-1, LANES)[:, lane] = 1e200 if lane == 5 else rng.standard_normal(LENGTH)
        work[: evaluation.spec.size, lane] = work[: evaluation.spec.size, 0] * (1 + 0.01 * lane)
    for own, other in zip(expected, evaluation(x), strict=True):
        np.testing.assert_array_equal(own, other)
