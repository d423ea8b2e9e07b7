"""What the GARCH benchmarks share: series, arch as a careful user calls it, and the comparison of two sets of optima.

The comparison is made in arch's own terms: both parameter vectors go through arch's likelihood (``fix``), and both must lie
within arch's own bounds and constraints; arch's, where it overshot them, is drawn in (``arch_outside`` counts these). One
part in a million of the log-likelihood counts as equal.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from arch import arch_model
from measuring import Gate

from features.market import Market
from models.garch import GARCH, Certificate, fit_many

__all__ = [
    "RELATIVE", "SPECS", "Array", "arch_fit", "arch_fits", "arch_loglikelihood", "compared", "gate", "hourly_returns",
    "own_fits", "simulated", "specification",
]  # fmt: skip

Array = npt.NDArray[np.float64]

RELATIVE: Final = 1e-6
SPECS: Final[Mapping[str, Mapping[str, Any]]] = {
    "GARCH-N": {"p": 1, "o": 0, "q": 1, "dist": "normal"},
    "GARCH-t": {"p": 1, "o": 0, "q": 1, "dist": "t"},
    "GJR-t": {"p": 1, "o": 1, "q": 1, "dist": "t"},
    "GARCH-skewt": {"p": 1, "o": 0, "q": 1, "dist": "skewt"},
    "EGARCH-N": {"vol": "EGARCH", "p": 1, "o": 1, "q": 1, "dist": "normal"},
}
# Rounding of a bound or constraint, relative to it and absolute: an optimum may lie upon one.
SLACK: Final = (1e-9, 1e-12)
HALVINGS: Final = 40


def specification(name: str) -> GARCH | None:
    """Our estimator of that name; None where it is not offered."""
    try:
        return GARCH(**SPECS[name])
    except TypeError:
        return None


def hourly_returns(store: str) -> dict[str, Array]:
    """Hourly log returns in per cent of every symbol; hours next to a gap are left out, since arch knows none."""
    close = Market.open(store).bars("1h")["close"].unstack("symbol").asfreq("h")
    returns = 100.0 * np.log(close / close.shift())
    return {str(name): returns[name].dropna().to_numpy(np.float64) for name in returns}


def simulated(
    count: int,
    length: int,
    rng: np.random.Generator,
    *,
    alpha: float = 0.08,
    gamma: float = 0.0,
    beta: float = 0.9,
    tail: float | None = None,
    variance: float = 0.25,
) -> Array:
    """GJR-GARCH(1,1) series (count, length) with that unconditional variance; ``tail``: Student's degrees of freedom."""
    shocks = rng.standard_normal((count, length + 500))
    if tail is not None:
        shocks *= np.sqrt((tail - 2) / rng.chisquare(tail, shocks.shape))
    omega = variance * (1.0 - alpha - 0.5 * gamma - beta)
    now = np.full(count, variance)
    out = np.empty_like(shocks)
    for t in range(shocks.shape[1]):
        out[:, t] = np.sqrt(now) * shocks[:, t]
        now = omega + (alpha + gamma * (out[:, t] < 0)) * out[:, t] ** 2 + beta * now
    return out[:, 500:]


def arch_of(window: Array, name: str) -> Any:
    """arch's model of the window."""
    settings: dict[str, Any] = {"mean": "Zero", "vol": "GARCH", "rescale": False, **SPECS[name]}
    return arch_model(window, **settings)


def arch_fit(window: Array, name: str, start: Array | None = None) -> Array:
    """arch's parameters, from its own start or from the given one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = arch_of(window, name).fit(disp="off", show_warning=False, starting_values=start)
    return np.asarray(result.params, dtype=np.float64)


def arch_fits(windows: Array, name: str, starts: Array | None = None) -> Array:
    """arch's parameters (n, k) of each window (n, T), one after the other: it has no batch."""
    given = [None] * len(windows) if starts is None else list(starts)
    return np.stack([arch_fit(window, name, start) for window, start in zip(windows, given, strict=True)])


def own_fits(windows: Array, name: str, starts: Array | None = None) -> tuple[Array, Sequence[Certificate]]:
    """Our parameters (n, k) of all windows in one batch, and the certificates."""
    params, _, certificates = fit_many(windows, GARCH(**SPECS[name]), start=starts)
    return params, certificates


def arch_loglikelihood(window: Array, name: str, params: Array) -> float:
    """The log-likelihood of ``params`` as arch computes it; minus infinity where it cannot."""
    if not np.isfinite(params).all():
        return -np.inf
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        value = float(arch_of(window, name).fix(params).loglikelihood)
    return value if np.isfinite(value) else -np.inf


def admissible(window: Array, name: str, params: Array) -> bool:
    """Whether ``params`` lie within arch's own bounds and linear constraints of the variance and the density."""
    model = arch_of(window, name)
    split = model.volatility.num_params
    for part, values, bounds in (
        (model.volatility, params[:split], model.volatility.bounds(window)),
        (model.distribution, params[split:], model.distribution.bounds(window)),
    ):
        low, high = np.array(bounds, dtype=np.float64).reshape(-1, 2).T
        rows, limits = part.constraints()
        if (values < low - slack(low)).any() or (values > high + slack(high)).any():
            return False
        if np.size(rows) and (rows @ values < limits - slack(limits)).any():
            return False
    return True


def slack(limits: Array) -> Array:
    return np.where(np.isfinite(limits), SLACK[0] * np.abs(limits) + SLACK[1], 0.0)


def drawn_in(window: Array, name: str, theirs: Array, ours: Array) -> Array:
    """arch's parameters, drawn towards ours until they lie within arch's own set, where its optimiser left it.

    SLSQP overshoots a constraint by some 1e-6 of it, which on a ridge is worth more likelihood than that. The set is convex.
    """
    if not np.isfinite(ours + theirs).all() or admissible(window, name, theirs) or not admissible(window, name, ours):
        return theirs
    inside, outside = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = 0.5 * (inside + outside)
        if admissible(window, name, ours + middle * (theirs - ours)):
            inside = middle
        else:
            outside = middle
    return np.asarray(ours + inside * (theirs - ours))


def compared(
    windows: Sequence[Array] | Array, name: str, ours: Array, certificates: Sequence[Certificate], theirs: Array
) -> list[dict[str, Any]]:
    """One row a fit: both log-likelihoods, the relative gap (positive where ours is better), and the verdict.

    ``worse silent``: ours is below arch's by more than 1e-6 of it and the certificate raises no flag.
    """
    rows = []
    for window, own, certificate, optimum in zip(windows, ours, certificates, theirs, strict=True):
        other = drawn_in(window, name, optimum, own)
        level, reference = arch_loglikelihood(window, name, own), arch_loglikelihood(window, name, other)
        gap = 0.0 if level == reference else (level - reference) / max(abs(reference), 1.0)
        verdict = "better" if gap > RELATIVE else "equal"
        if gap < -RELATIVE:
            verdict = "worse silent" if certificate.certified else "worse flagged"
        if not np.isfinite(own).all():
            verdict = "refused"
        elif not admissible(window, name, own):
            verdict = "inadmissible"
        rows.append(
            {"spec": name, "ours": level, "arch": reference, "gap": gap, "verdict": verdict, "n": len(window)}
            | {"flag": certificate.reason, "method": certificate.method, "at": own.tolist(), "arch_at": other.tolist()}
            | {"arch_outside": bool((other != optimum).any())}
        )
    return rows


def gate(rows: Sequence[Mapping[str, Any]]) -> Gate:
    """No fit worse than arch's, flagged or not, none outside arch's bounds, none refused."""
    verdicts = [row["verdict"] for row in rows]
    figures = {
        verdict.replace(" ", "_"): verdicts.count(verdict)
        for verdict in ("better", "equal", "worse flagged", "worse silent", "inadmissible", "refused")
    }
    figures |= {"fits": len(rows), "flagged": sum(bool(row["flag"]) for row in rows)}
    figures |= {"arch_outside": sum(row["arch_outside"] for row in rows)}
    worst = min((row["gap"] for row in rows if np.isfinite(row["gap"])), default=0.0)
    passed = figures["better"] + figures["equal"] == len(rows)
    what = "log-likelihood, by arch's own function and within its bounds, not below arch's by more than 1e-6 of it"
    return Gate(passed, what, figures | {"better_share": figures["better"] / len(rows), "worst_gap": worst})
