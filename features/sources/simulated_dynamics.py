"""The law of motion of the simulated market.

Time runs in steps of five minutes, t = 0, 1, … Every symbol has a state y = (q, x₁, x₂, x₃, o): flow
toxicity, three log-variance factors (fast, medium, slow), log open interest against its trend; a jump
intensity λ; and, shared by all symbols, a calm/stress chain s. With z ~ N(0, I), correlated across symbols,
and counts N = N⁻ + N⁺ of down- and up-jumps, N⁻ ~ Poisson(p λ), N⁺ ~ Poisson((1 − p) λ):

    q'  = ρ_q q + σ_q z_q
    x₁' = ρ₁ x₁ + φ q + σ₁ (−l z_r + √(1−l²) z₁) + k N        flow leads, jumps raise, leverage effect l
    x₂' = ρ₂ x₂ + σ₂ (−l z_r + √(1−l²) z₂)
    x₃' = ρ₃ x₃ + σ₃ z₃
    o'  = ρ_o o + b z_r − c x₂ + σ_o z_o − d⁻ N⁻ − d⁺ N⁺      builds in trend and calm, liquidated in jumps
    λ'  = λ̄ (1 − ρ_λ) + ρ_λ λ + α N                           jumps excite jumps
    ν   = level · season(hour of week) · exp(δ s + x₁ + x₂ + x₃)
    v   = ν · (g + κ N exp(2 η o)),  ln g ~ N(−τ²/2, τ²)      variance of the step

A jump is a normal burst inside one step, larger where open interest is high: the forced orders of the
liquidated feed the move that liquidates them. Log-normal volatility after Scott (1987), the random clock g
after Clark (1973), jumps after Bates (1996), self-excitation after Hawkes (1971), the chain after Hamilton
(1989), toxic flow before volatility after Easley, López de Prado and O'Hara (2012).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

Array = npt.NDArray[np.float64]

STEPS_PER_HOUR: Final = 12
STEPS_PER_WEEK: Final = 168 * STEPS_PER_HOUR
STATES: Final = ("flow_toxicity", "log_variance_fast", "log_variance_medium", "log_variance_slow", "leverage")


@dataclass(frozen=True)
class Profile:
    """One perpetual; open interest is at rest, in days of volume, and volatility is annualised."""

    symbol: str
    price: float
    volatility: float
    daily_quote_volume: float
    open_interest_ratio: float


PROFILES: Final = (
    Profile("BTCUSDT", 30_000.0, 0.50, 15e9, 0.45),
    Profile("ETHUSDT", 1_800.0, 0.62, 9e9, 0.50),
    Profile("SOLUSDT", 24.0, 0.95, 2.2e9, 0.35),
    Profile("XRPUSDT", 0.48, 0.85, 1.4e9, 0.45),
    Profile("ADAUSDT", 0.32, 0.85, 5e8, 0.45),
    Profile("DOGEUSDT", 0.075, 1.00, 1.1e9, 0.40),
    Profile("BNBUSDT", 290.0, 0.60, 6e8, 0.50),
    Profile("LTCUSDT", 88.0, 0.78, 4e8, 0.45),
    Profile("LINKUSDT", 6.8, 0.88, 4e8, 0.40),
    Profile("AVAXUSDT", 14.0, 0.95, 4e8, 0.35),
    Profile("TRXUSDT", 0.065, 0.70, 2e8, 0.50),
    Profile("DOTUSDT", 5.3, 0.82, 3e8, 0.45),
)


@dataclass(frozen=True)
class Dynamics:
    """Parameters of the model, named in the comments as in the module's equations.

    Half-lives and sojourns are in hours, standard deviations those of the stationary law, jumps per day and
    symbol. Each symbol's level follows from its annualised volatility. Setting an effect to zero removes that
    mechanism, so a signal can be planted and removed.
    """

    flow_half_life: float = 2.0
    flow_effect: float = 0.35  # sd that flow alone gives to x₁
    factor_half_lives: tuple[float, float, float] = (3.0, 48.0, 700.0)
    factor_sds: tuple[float, float, float] = (0.25, 0.50, 0.45)
    volatility_leverage: float = 0.30  # l
    jump_rate: float = 0.7
    jump_branching: float = 0.55
    jump_half_life: float = 2.0
    jump_variance: float = 110.0  # κ
    jump_kick: float = 0.40  # k
    jump_down_share: float = 0.6  # p
    clock_noise: float = 1.0  # τ
    leverage_half_life: float = 120.0
    leverage_sd: float = 0.12
    leverage_trend: float = 0.004  # b
    leverage_calm: float = 2e-4  # c
    liquidation: tuple[float, float] = (0.09, 0.04)  # d⁻, d⁺
    fragility: float = 1.0  # η
    stress_shift: float = 1.0  # δ
    calm_hours: float = 300.0
    stress_hours: float = 36.0
    season_amplitude: float = 1.0

    @cached_property
    def transition(self) -> Array:
        """One-step transition matrix of the calm/stress chain, shape (2, 2)."""
        leave = 1.0 / (STEPS_PER_HOUR * np.array([self.calm_hours, self.stress_hours]))
        return np.array([[1 - leave[0], leave[0]], [leave[1], 1 - leave[1]]])

    @cached_property
    def autoregression(self) -> Array:
        """Matrix A of y' = A y + …, shape (5, 5)."""
        slow_down = [persistence(h) for h in (self.flow_half_life, *self.factor_half_lives, self.leverage_half_life)]
        matrix = np.diag(slow_down)
        rho_q, rho_1 = slow_down[0], slow_down[1]
        # Variance of an AR(1) driven by a unit AR(1); flow enters one step late, which is what makes it lead.
        gain = (1 + rho_1 * rho_q) / ((1 - rho_1**2) * (1 - rho_1 * rho_q))
        matrix[1, 0] = self.flow_effect / math.sqrt(gain)
        matrix[4, 2] = -self.leverage_calm
        return matrix

    @cached_property
    def loadings(self) -> Array:
        """Loadings of y's innovations on (z_r, z_q, z₁, z₂, z₃, z_o), shape (5, 6)."""
        sds = np.array([1.0, *self.factor_sds, self.leverage_sd])
        scale = sds * np.sqrt(1.0 - np.diag(self.autoregression) ** 2)
        matrix = np.zeros((5, 6))
        matrix[np.arange(5), np.arange(1, 6)] = scale
        tilt = self.volatility_leverage
        for factor in (1, 2):
            matrix[factor, 0] = -tilt * scale[factor]
            matrix[factor, factor + 1] = math.sqrt(1 - tilt**2) * scale[factor]
        matrix[4, 0] = self.leverage_trend
        return matrix

    @cached_property
    def jump_effects(self) -> Array:
        """What one down-jump and one up-jump add to y, shape (5, 2)."""
        matrix = np.zeros((5, 2))
        matrix[1] = self.jump_kick
        matrix[4] = -np.array(self.liquidation)
        return matrix

    @property
    def jump_shares(self) -> Array:
        """Shares of down- and up-jumps, shape (2,)."""
        return np.array([self.jump_down_share, 1.0 - self.jump_down_share])

    @property
    def intensity_mean(self) -> float:
        """Stationary jump intensity per step."""
        return self.jump_rate / (24 * STEPS_PER_HOUR)

    @property
    def intensity_persistence(self) -> float:
        """ρ_λ per step."""
        return persistence(self.jump_half_life)

    @property
    def excitation(self) -> float:
        """α: what one jump adds to the intensity; ``jump_branching`` offspring are expected of it."""
        return self.jump_branching * (1.0 - self.intensity_persistence)

    @property
    def intensity_base(self) -> float:
        """λ̄: the intensity of jumps that no jump has caused."""
        return self.intensity_mean * (1.0 - self.jump_branching)

    @cached_property
    def season(self) -> Array:
        """Variance multiplier by step of the week from Monday 00:00 UTC, mean 1, shape (2016,)."""
        hour = np.arange(STEPS_PER_WEEK) / STEPS_PER_HOUR
        of_day = hour % 24
        day_night = 0.45 * np.cos(2 * np.pi * (of_day - 15) / 24) + 0.15 * np.cos(4 * np.pi * (of_day - 15) / 24)
        weekend = np.where(hour >= 120, -0.55, 0.0)
        settlement = np.where(of_day % 8 < 0.5, 0.5, 0.0)
        multiplier: Array = np.exp(self.season_amplitude * (day_night + weekend + settlement))
        return np.asarray(multiplier / multiplier.mean())


def persistence(half_life_hours: float) -> float:
    """AR(1) coefficient per step of a process with that half-life."""
    return float(2.0 ** (-1.0 / (half_life_hours * STEPS_PER_HOUR)))


def step_of_week(times: pd.Series | pd.DatetimeIndex) -> npt.NDArray[np.int64]:
    """Step of the week that starts at each instant (UTC; 0 is Monday 00:00)."""
    monday = pd.Timestamp("1970-01-05", tz="UTC")
    steps = (pd.DatetimeIndex(times) - monday) // pd.Timedelta(minutes=60 // STEPS_PER_HOUR)
    return np.asarray(steps, dtype=np.int64) % STEPS_PER_WEEK
