"""Walks of the simulated market: random numbers, the chain, the jumps, and one symbol's path.

Given the variance and state of ``simulated_dynamics``, a step of the perpetual's price P is

    ln P' = ln P + sqrt(ν g) z_r ± sqrt(ν κ N) exp(η o) |z_J|

and its extremes are those of a Brownian bridge of variance v between the two prices (Asmussen, Glynn and
Pitman 1995), so hourly ranges are those of continuous trading. Streams are spawned per symbol and drawn in
the order of time: more symbols or more days never change the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from scipy.signal import lfilter

from features.sources.simulated_dynamics import STATES, STEPS_PER_HOUR, Array, Dynamics, Profile, persistence

BURN_IN: Final = 14 * 24 * STEPS_PER_HOUR
RETURN_COMMON: Final = 0.70  # correlation of diffusive returns between symbols
STATE_COMMON: Final = 0.60  # the same of the innovations of every state
JUMP_COMMON: Final = 0.5  # share of jumps that hit the whole market
NORMALS: Final = 18
INTENSITY_CEILING: Final = 0.2  # per step; some ten jumps within the hour would be needed to reach it


@dataclass(frozen=True)
class Shocks:
    """Random numbers of one stream: normals (T, NORMALS), uniforms (T, 2) for jumps and for extremes."""

    normal: Array
    jump: Array
    extreme: Array

    @classmethod
    def draw(cls, seed: int, stream: int, steps: int) -> Shocks:
        """Shocks of one stream (0 is the market, then the symbols); longer draws extend shorter ones."""
        normal, jump, extreme = (
            np.random.default_rng(child) for child in np.random.SeedSequence(seed, spawn_key=(stream,)).spawn(3)
        )
        return cls(normal.standard_normal((steps, NORMALS)), jump.random((steps, 2)), extreme.random((steps, 2)))


@dataclass(frozen=True)
class Path:
    """One symbol's walk. Boundaries have T + 1 rows, steps T; prices in logs, burn-in removed."""

    profile: Profile
    state: Array  # (T + 1, 6)
    variance: Array  # v by step
    log_price: Array  # boundaries
    log_high: Array
    log_low: Array
    premium: Array  # boundaries
    activity: Array  # ln ν + ½ ln g over level, by step
    imbalance: Array
    normal: Array

    @property
    def mark_shift(self) -> Array:
        """ln mark − ln perpetual at the boundaries: spot plus the premium smoothed over half an hour."""
        rho = persistence(0.5)
        return ar(rho, (1.0 - rho) * self.premium[:-1], float(self.premium[0])) - self.premium

    def shifted(self, shift: Array) -> tuple[Array, Array, Array]:
        """Log boundaries, highs and lows of a price that stands ``shift`` away from the perpetual."""
        boundary = self.log_price + shift
        middle = 0.5 * (shift[1:] + shift[:-1])
        high = np.maximum(self.log_high + middle, np.maximum(boundary[1:], boundary[:-1]))
        low = np.minimum(self.log_low + middle, np.minimum(boundary[1:], boundary[:-1]))
        return boundary, high, low


def ar(rho: float, inputs: Array, first: float = 0.0) -> Array:
    """y[0] = first, y[t + 1] = rho y[t] + inputs[t]; shape (T + 1,)."""
    return np.asarray(lfilter([1.0], [1.0, -rho], np.concatenate([[first], inputs])))


def stress_chain(seed: int, steps: int, dynamics: Dynamics) -> Array:
    """The market's calm (0) / stress (1) chain at the T + 1 boundaries, from geometric sojourns."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, 99)))
    state = np.zeros(steps + 1)
    now, stress = 0, False
    while now <= steps:
        stay = int(rng.geometric(dynamics.transition[int(stress), int(not stress)]))
        state[now : now + stay] = float(stress)
        now, stress = now + stay, not stress
    return state


def hawkes(uniform: Array, share: float, dynamics: Dynamics) -> tuple[Array, Array]:
    """Intensity at the boundaries (T + 1,) and counts of down- and up-jumps (T, 2) of one Hawkes process.

    ``share`` of the base intensity is this process's own; superposed processes with one kernel are again
    Hawkes. A step jumps where its uniforms ask for less intensity than there is; the others are passed over.
    """
    base, decay, alpha = (
        dynamics.intensity_base * share,
        dynamics.intensity_persistence,
        dynamics.excitation,
    )
    first = dynamics.intensity_mean * share
    needed = (-np.log1p(-uniform) / dynamics.jump_shares).min(axis=1)
    candidates = np.flatnonzero(needed < INTENSITY_CEILING)
    counts = np.zeros(uniform.shape)
    last, intensity = 0, first
    for t, least in zip(candidates.tolist(), needed[candidates].tolist(), strict=True):
        intensity, last = base + (intensity - base) * decay ** (t - last), t
        if least < intensity:
            means = intensity * dynamics.jump_shares
            counts[t] = [_poisson_quantile(float(u), float(m)) for u, m in zip(uniform[t], means, strict=True)]
            # The excitation acts from the next step on: undo that step's decay ahead of time.
            intensity += alpha * float(counts[t].sum()) / decay
    return base + ar(decay, alpha * counts.sum(axis=1), first - base), counts


def _poisson_quantile(upper_tail: float, mean: float) -> int:
    """The count N with P(N > count) <= upper_tail < P(N >= count)."""
    count, term = 0, math.exp(-mean)
    survival = 1.0 - term
    while upper_tail < survival:
        count += 1
        term *= mean / count
        survival -= term
    return count


def walk(
    profile: Profile,
    market: Array,
    own: Shocks,
    market_jumps: tuple[Array, Array],
    level_at_rest: float,
    multiplier: Array,
    dynamics: Dynamics,
) -> Path:
    """Walk one symbol; ``multiplier`` is season × exp(δ s) by step."""
    common = np.full(NORMALS, STATE_COMMON)
    common[0] = RETURN_COMMON
    normal = np.sqrt(common) * market + np.sqrt(1.0 - common) * own.normal
    own_intensity, own_counts = hawkes(own.jump, 1.0 - JUMP_COMMON, dynamics)
    intensity, counts = market_jumps[0] + own_intensity, market_jumps[1] + own_counts
    state = _states(normal[:, :6], counts, dynamics)
    rate = level_at_rest * multiplier * np.exp(state[:-1, 1:4].sum(axis=1))
    clock = np.exp(dynamics.clock_noise * (normal[:, 16] - 0.5 * dynamics.clock_noise))
    fragile = np.exp(2.0 * dynamics.fragility * state[:-1, 4])
    burst = rate * dynamics.jump_variance * counts.sum(axis=1) * fragile
    variance = rate * clock + burst
    side = np.sign(counts[:, 1] - counts[:, 0])
    returns = np.sqrt(rate * clock) * normal[:, 0] + side * np.sqrt(burst) * np.abs(normal[:, 6])
    log_price = math.log(profile.price) + np.concatenate([[0.0], np.cumsum(returns)])
    reach = np.sqrt(returns[:, None] ** 2 - 2.0 * variance[:, None] * np.log1p(-own.extreme))
    middle = 0.5 * (log_price[1:] + log_price[:-1])
    direction = ar(persistence(1.0), 0.2 * (0.5 * normal[:, 0] + 0.85 * normal[:, 7]))[:-1]
    toxicity = np.exp(0.5 * state[:-1, 0])
    imbalance = np.tanh(0.12 * toxicity * (direction + 0.7 * normal[:, 8] + 0.6 * normal[:, 0]) + 0.6 * side)
    premium_shock = 4e-5 * (0.7 * normal[:, 0] + 0.5 * direction + 0.7 * normal[:, 9]) + 5e-4 * side
    keep = slice(BURN_IN, None)
    return Path(
        profile,
        np.column_stack([state, intensity])[keep],
        variance[keep],
        log_price[keep],
        (middle + 0.5 * reach[:, 0])[keep],
        (middle - 0.5 * reach[:, 1])[keep],
        (1e-4 + ar(persistence(6.0), premium_shock))[keep],
        np.log(rate * np.sqrt(clock) / level_at_rest)[keep],
        imbalance[keep],
        normal[keep],
    )


def _states(normal: Array, counts: Array, dynamics: Dynamics) -> Array:
    """The state y at the boundaries, shape (T + 1, 5); only the slow factor starts away from zero."""
    # einsum, not BLAS: its sums do not depend on how many rows there are.
    inputs = np.einsum("tk,jk->tj", normal, dynamics.loadings)
    inputs += np.einsum("tk,jk->tj", counts, dynamics.jump_effects)
    matrix = dynamics.autoregression
    state = np.empty((len(normal) + 1, len(STATES)))
    for k in (0, 2, 3, 1, 4):  # flow before the fast factor, the medium factor before leverage
        driver = inputs[:, k]
        for j in np.flatnonzero(matrix[k]):
            if j != k:
                driver = driver + matrix[k, j] * state[:-1, j]
        # The slow factor outlives the burn-in, so it starts at its own stationary spread.
        first = dynamics.factor_sds[2] * float(normal[0, 4]) if k == 3 else 0.0
        state[:, k] = ar(float(matrix[k, k]), driver, first)
    return state


def truth_of(paths: list[Path], chain: Array, hours: pd.DatetimeIndex) -> pd.DataFrame:
    """What nobody in the market sees, per symbol and hour; the columns stand at ``Simulation``."""
    hourly = slice(STEPS_PER_HOUR, None, STEPS_PER_HOUR)
    frames = [
        pd.DataFrame(
            {
                "symbol": path.profile.symbol,
                "close_time": hours,
                "integrated_variance": path.variance.reshape(-1, STEPS_PER_HOUR).sum(axis=1),
                "stress": chain[hourly].astype(np.int8),
            }
            | dict(zip((*STATES, "jump_intensity"), path.state[hourly].T, strict=True))
        )
        for path in paths
    ]
    return pd.concat(frames, ignore_index=True)
