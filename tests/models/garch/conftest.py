"""Simulated returns, and the recursions and densities of the papers in plain Python, for the tests of the package."""

from __future__ import annotations

import math

import numpy as np
import pytest
from arch.univariate import SkewStudent
from numpy.typing import NDArray
from scipy import stats

from models.garch import GARCH

Array = NDArray[np.float64]

PARAMS: dict[str, float] = {
    "mu": 0.03, "omega": 0.05, "alpha[1]": 0.06, "alpha[2]": 0.02, "gamma[1]": 0.04, "beta[1]": 0.6, "beta[2]": 0.2,
    "pi[1]": 0.03, "pi[2]": 0.02, "nu": 5.0, "eta": 6.0, "lambda": -0.1,
}  # fmt: skip
LOG_PARAMS = PARAMS | {"omega": -0.02, "alpha[1]": 0.2, "alpha[2]": -0.05}


class Lab:
    """What the tests share; a fixture, since test modules do not import one another."""

    @staticmethod
    def simulated(length: int, seed: int = 0, persistence: float = 0.97, scale: float = 0.01) -> Array:
        """GJR-t returns: alpha 0.06, gamma 0.06, beta the rest, five degrees of freedom."""
        rng = np.random.default_rng(seed)
        shocks = rng.standard_t(5, length + 500) * math.sqrt(3 / 5)
        variance, out = 1.0, []
        for z in shocks:
            r = z * math.sqrt(variance)
            out.append(r)
            variance = (1 - persistence) + (0.06 + 0.06 * (r < 0)) * r * r + (persistence - 0.09) * variance
        return scale * np.array(out[500:])

    @staticmethod
    def with_gaps(returns: Array) -> Array:
        out = returns.copy()
        out[[7, 40, 41, 42]] = math.nan
        out[200:260] = math.nan
        return out

    @staticmethod
    def params_of(model: GARCH) -> Array:
        """Parameters at which no model of the family has its optimum."""
        return np.array([(LOG_PARAMS if model.vol == "egarch" else PARAMS)[name] for name in model.parameter_names])

    @staticmethod
    def regressors_of(model: GARCH, length: int) -> Array:
        return np.random.default_rng(9).chisquare(2, (length, model.exogenous))

    @staticmethod
    def variance(model: GARCH, params: Array, returns: Array, backcast: float, known: Array) -> Array:
        """The recursion as it stands in the papers, with expectations in place of what is missing."""
        named = dict(zip(model.parameter_names, params, strict=True))
        residuals = returns - named.get("mu", 0.0)
        logarithmic = model.vol == "egarch"
        out: list[float] = []

        def lagged(t: int, kind: str) -> float:
            before = out[t] if t >= 0 else backcast
            if kind == "level":
                return math.log(before) if logarithmic else before
            missing = t < 0 or math.isnan(residuals[t])
            if logarithmic:
                z = 0.0 if missing else residuals[t] / math.sqrt(before)
                return float(z if kind == "asymmetric" else 0.0 if missing else abs(z) - math.sqrt(2 / math.pi))
            if missing:
                return 0.5 * before if kind == "asymmetric" else before
            return float(residuals[t] ** 2 * (kind == "shock" or residuals[t] < 0))

        for t in range(len(returns)):
            s = named["omega"]
            s += sum(named[f"alpha[{i}]"] * lagged(t - i, "shock") for i in range(1, model.p + 1))
            s += sum(named[f"gamma[{i}]"] * lagged(t - i, "asymmetric") for i in range(1, model.o + 1))
            s += sum(named[f"beta[{i}]"] * lagged(t - i, "level") for i in range(1, model.q + 1))
            s += sum(named[f"pi[{k + 1}]"] * known[t - 1, k] for k in range(model.exogenous) if t > 0)
            out.append(math.exp(s) if logarithmic else s)
        return np.array(out)

    @staticmethod
    def loglikelihood(model: GARCH, params: Array, returns: Array, backcast: float, known: Array) -> float:
        """The sum of the log densities of the returns present."""
        variance = Lab.variance(model, params, returns, backcast, known)
        named = dict(zip(model.parameter_names, params, strict=True))
        present = np.isfinite(returns)
        residuals, variance = returns[present] - named.get("mu", 0.0), variance[present]
        if model.dist == "normal":
            return float(stats.norm.logpdf(residuals, scale=np.sqrt(variance)).sum())
        if model.dist == "t":
            spread = np.sqrt(variance * (named["nu"] - 2) / named["nu"])
            return float(stats.t.logpdf(residuals, named["nu"], scale=spread).sum())
        return float(SkewStudent().loglikelihood([named["eta"], named["lambda"]], residuals, variance))


@pytest.fixture(scope="session")
def lab() -> type[Lab]:
    return Lab
