"""The best forecast that anyone could make in the simulated market: the mean of V given its true state.

The model of ``simulated_dynamics`` is affine in (y, λ) given the chain, so the expected variance of every
future step has a closed form, the discrete-time twin of Duffie, Pan and Singleton (2000). With the exponent
u_n'y + w_n λ + c_n at lead n, from u_0 = (0, 1, 1, 1, 0) for the diffusion and (0, 1, 1, 1, 2η) for jumps,

    u' = A'u,   c' = c + ½ |L'u|² + λ̄ (1 − ρ_λ) w,   w' = ρ_λ w + Σ_side p_side exp(u'b_side + α w) − 1

and E[λ_n exp(u_0'y_n)] is its derivative in w_0. The chain is independent of both and enters by its
transition matrix, the season by the calendar.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import pandas as pd

from features.errors import UsageError
from features.sources.simulated_dynamics import (
    PROFILES,
    STATES,
    STEPS_PER_HOUR,
    STEPS_PER_WEEK,
    Array,
    Dynamics,
    Profile,
    step_of_week,
)

VARIANCE_FLOOR: Final = 1e-8

# E[Garman-Klass variance of an hourly bar] / E[its integrated variance]. A range estimator is unbiased for a
# driftless Brownian motion under any clock independent of it; bars here see the extremes of the continuous
# path and open where the last one closed. What is left, the leverage effect and the independent draws of a
# step's high and low, is too small to see: 1.0005 with standard error 0.0018 over 460,000 bars (eight seeds).
GARMAN_KLASS_RATIO: Final = 1.0


@dataclass(frozen=True)
class _Transform:
    """Coefficients of the exponent by lead, and their derivatives in w_0."""

    constant: Array  # (leads,)
    slope: Array  # (leads, 5)
    intensity: Array  # (leads,)
    constant_derivative: Array
    intensity_derivative: Array


@lru_cache(maxsize=16)
def _transform(dynamics: Dynamics, leverage_weight: float, leads: int) -> _Transform:
    """The recursion from the exponent x₁ + x₂ + x₃ + ``leverage_weight`` o; ``leads`` is a power of two."""
    slope = np.array([[0.0, 1.0, 1.0, 1.0, leverage_weight]])
    power = dynamics.autoregression
    while len(slope) < leads:
        slope = np.concatenate([slope, np.einsum("nj,jk->nk", slope, power)])
        power = power @ power
    gaussian = (0.5 * np.square(np.einsum("nj,jk->nk", slope, dynamics.loadings)).sum(axis=1)).tolist()
    exponents = np.einsum("nj,jk->nk", slope, dynamics.jump_effects).tolist()
    down, up = dynamics.jump_shares.tolist()
    decay, alpha = dynamics.intensity_persistence, dynamics.excitation
    immigration = dynamics.intensity_base * (1.0 - decay)
    rows = []
    constant, w, constant_d, w_d = 0.0, 0.0, 0.0, 1.0
    for drift, (effect_down, effect_up) in zip(gaussian, exponents, strict=True):
        rows.append((constant, w, constant_d, w_d))
        rise = down * math.exp(effect_down + alpha * w) + up * math.exp(effect_up + alpha * w)
        constant += drift + immigration * w
        constant_d += immigration * w_d
        w_d *= decay + alpha * rise
        w = decay * w + rise - 1.0
    table = np.array(rows)
    return _Transform(table[:, 0], slope, table[:, 1], table[:, 2], table[:, 3])


def _exponent(transform: _Transform, lead: int, state: Array) -> Array:
    slope = np.append(transform.slope[lead], transform.intensity[lead])
    return np.asarray(transform.constant[lead] + np.einsum("ij,j->i", state, slope))


def step_variance(state: Array, chain: Array, lead: int, dynamics: Dynamics) -> Array:
    """Expected v, over level and season, of the step that starts ``lead`` steps ahead; shape (n,).

    ``state`` has the columns of ``STATES`` and the intensity, shape (n, 6); ``chain`` (n,) is 1 in stress.
    """
    # Few table lengths, so that the cache serves all leads.
    leads = max(1024, 1 << lead.bit_length())
    plain = _transform(dynamics, 0.0, leads)
    burst = _transform(dynamics, 2.0 * dynamics.fragility, leads)
    expected = np.exp(_exponent(plain, lead, state))
    arrivals = burst.constant_derivative[lead] + burst.intensity_derivative[lead] * state[:, 5]
    expected += dynamics.jump_variance * arrivals * np.exp(_exponent(burst, lead, state))
    stress = np.linalg.matrix_power(dynamics.transition, lead)[:, 1]
    probability = np.where(chain > 0.5, stress[1], stress[0])
    return np.asarray(expected * (1.0 + probability * math.expm1(dynamics.stress_shift)))


@lru_cache(maxsize=16)
def _stationary_multiplier(dynamics: Dynamics) -> float:
    """Long-run mean of v over level: what is expected once today's state is forgotten."""
    lead = round(12 * STEPS_PER_HOUR * max(dynamics.factor_half_lives))
    state = np.array([[0.0] * len(STATES) + [dynamics.intensity_mean]])
    return float(step_variance(state, np.zeros(1), lead, dynamics)[0])


def level(profile: Profile, dynamics: Dynamics) -> float:
    """The symbol's level: variance of a step at rest, set by its annualised volatility."""
    return profile.volatility**2 / (365 * 24 * STEPS_PER_HOUR) / _stationary_multiplier(dynamics)


def best_forecast(truth: pd.DataFrame, horizons: Sequence[int], dynamics: Dynamics | None = None) -> pd.DataFrame:
    """The conditional mean of V given the true state at each origin: the ceiling of every forecaster.

    ``truth`` is (rows of) ``Simulation.truth``; an origin is its ``close_time``. Returns ``symbol, origin,
    horizon_hours, variance`` sorted by them; variance is of Garman-Klass bars, summed over the horizon. Exact
    for the integrated variance; ``GARMAN_KLASS_RATIO`` carries it to the scored proxy. Raises ``UsageError``
    for a horizon that is not a positive number of hours.
    """
    dynamics = dynamics or Dynamics()
    if not horizons or min(horizons) < 1:
        raise UsageError(f"horizons {list(horizons)}: give one or more positive numbers of hours")
    levels = truth["symbol"].map({profile.symbol: level(profile, dynamics) for profile in PROFILES})
    scale = GARMAN_KLASS_RATIO * levels.to_numpy(np.float64)
    state = truth[[*STATES, "jump_intensity"]].to_numpy(np.float64)
    chain = truth["stress"].to_numpy(np.float64)
    clock = step_of_week(truth["close_time"])
    total = np.zeros(len(truth))
    frames = []
    for lead in range(max(horizons) * STEPS_PER_HOUR):
        total += dynamics.season[(clock + lead) % STEPS_PER_WEEK] * step_variance(state, chain, lead, dynamics)
        hours, rest = divmod(lead + 1, STEPS_PER_HOUR)
        if rest == 0 and hours in horizons:
            frames.append(
                pd.DataFrame(
                    {
                        "symbol": truth["symbol"],
                        "origin": truth["close_time"],
                        "horizon_hours": np.int16(hours),
                        "variance": np.maximum(scale * total, VARIANCE_FLOOR),
                    }
                )
            )
    key = ["symbol", "origin", "horizon_hours"]
    return pd.concat(frames).sort_values(key, ignore_index=True)
