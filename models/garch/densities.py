"""The error densities of the likelihood, mean zero and variance one: their logarithm and draws from them.

Normal, Student t by nu, and the skewed t of Hansen (1994), International Economic Review 35, eq. 10, by eta and lambda.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from features.errors import UsageError

__all__ = ["draws", "log_density"]

Array = NDArray[np.float64]


def log_density(dist: str, shape: Array, residuals: Array, variance: Array) -> Array:
    """Log densities (T,) of ``residuals`` (T,) of that ``variance`` (T,); ``shape``: none, (nu,) or (eta, lambda)."""
    z = residuals / np.sqrt(variance)
    if dist == "normal":
        return np.asarray(-0.5 * (math.log(2.0 * math.pi) + np.log(variance) + z * z))
    tail, log_scale = float(shape[0]), _log_constant(float(shape[0]))
    if dist == "skewt":
        a, b = _hansen(*shape)
        log_scale += math.log(b)
        z = (a + b * z) / (1.0 + np.where(z < -a / b, -shape[1], shape[1]))
    spread = np.log1p(z * z / (tail - 2.0))
    return np.asarray(log_scale - 0.5 * np.log(variance) - 0.5 * (tail + 1.0) * spread)


def draws(dist: str, shape: Array, paths: int, horizon: int, seed: int) -> Array:
    """Errors (paths, horizon) of ``dist``, shaped as in ``log_density``.

    Under a symmetric density, the second half of the paths mirrors the first, which makes the mean of an even number exact.
    """
    if paths < 1:
        raise UsageError(f"paths is {paths}: simulate one at least")
    random = np.random.default_rng(seed)
    if dist == "skewt":
        a, b = _hansen(*shape)
        size = np.abs(_student((paths, horizon), shape[0], random))
        # Each side of the symmetric density is stretched by its own scale, and as likely as that scale.
        right = random.random(size.shape) < 0.5 * (1.0 + shape[1])
        return np.asarray((np.where(right, 1.0 + shape[1], shape[1] - 1.0) * size - a) / b)
    half_size = (-(-paths // 2), horizon)
    half = random.standard_normal(half_size) if dist == "normal" else _student(half_size, shape[0], random)
    return np.concatenate([half, -half])[:paths]


def _student(size: tuple[int, int], tail: float, random: np.random.Generator) -> Array:
    return random.standard_t(tail, size) * math.sqrt((tail - 2.0) / tail)


def _log_constant(tail: float) -> float:
    """Log of the Student density of variance one at zero."""
    return math.lgamma(0.5 * (tail + 1.0)) - math.lgamma(0.5 * tail) - 0.5 * math.log(math.pi * (tail - 2.0))


def _hansen(eta: float, skew: float) -> tuple[float, float]:
    """The a and b that give the skewed t mean zero and variance one."""
    a = 4.0 * skew * math.exp(_log_constant(eta)) * (eta - 2.0) / (eta - 1.0)
    return a, math.sqrt(1.0 + 3.0 * skew * skew - a * a)
