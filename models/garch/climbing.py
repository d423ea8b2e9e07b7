"""The compiled part of ``models.garch.newton``: what happens to a lane between two evaluations of its likelihood.

A lane's workspace (see ``models.garch.lanes.Layout``) is read and written at column ``col``. ``shape`` of a workspace, the
last arguments of the functions that take it: number of the recursion's parameters, position of omega, density (0 normal,
1 t, 2 skewed t), whether the recursion is logarithmic, first row of the density's constants, row of the backcast, first row
of the results.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numba import njit

from models.garch.lanes import LANES

__all__ = ["FACTS", "advance", "collect"]

# A climb ends where one more step could win less than this many nats.
TOLERANCE: Final = 1e-6
MAX_ITERATIONS: Final = 120
MAX_DAMPING: Final = 1e12
ACTIVE: Final = 1e-9
LOG_TWO_PI: Final = math.log(2.0 * math.pi)
# Columns of a lane's own record, after x, gradient, trial point and Hessian.
VALUE, DAMPING, PREDICTED = 0, 1, 2
# Integers of a lane: its task (-1: none), iterations, active constraints (one bit each).
TASK, ITERATION, FACE = 0, 1, 2
# Columns of a result, after the parameters: value, Newton decrement in nats, gradient norm, curvature, face.
FACTS: Final = 5


@njit(cache=True, error_model="numpy")
def _polygamma(x: float) -> tuple[float, float]:
    """Digamma and trigamma of x > 0, by recurrence to x >= 10 and their asymptotic series."""
    first, second = 0.0, 0.0
    while x < 10.0:
        first -= 1.0 / x
        second += 1.0 / (x * x)
        x += 1.0
    i = 1.0 / x
    j = i * i
    first += math.log(x) - 0.5 * i - j * (1 / 12 - j * (1 / 120 - j * (1 / 252 - j * (1 / 240 - j * (1 / 132)))))
    second += i * (1.0 + 0.5 * i + j * (1 / 6 - j * (1 / 30 - j * (1 / 42 - j * (1 / 30 - j * (5 / 66))))))
    return first, second


@njit(cache=True, error_model="numpy")
def _constants(density: int, nu: float, skew: float, table: Any) -> None:
    """Fill ``table`` (18,): the density's constant with derivatives, then a and b of the skewed t with theirs.

    Order of the constant: value, by nu, by lambda, (nu, nu), (nu, lambda), (lambda, lambda). Hansen (1994), eq. 10.
    """
    table[:] = 0.0
    half, half1 = _polygamma(0.5 * nu)
    next_, next1 = _polygamma(0.5 * (nu + 1.0))
    room = nu - 2.0
    log_c = math.lgamma(0.5 * (nu + 1.0)) - math.lgamma(0.5 * nu) - 0.5 * math.log(math.pi * room)
    by, by2 = 0.5 * (next_ - half - 1.0 / room), 0.25 * (next1 - half1) + 0.5 / (room * room)
    table[0], table[1], table[3] = log_c, by, by2
    if density < 2:
        return
    c, one = math.exp(log_c), nu - 1.0
    k, k1, k2 = room / one, 1.0 / (one * one), -2.0 / (one * one * one)
    u, u1 = c * k, c * (by * k + k1)
    u2 = c * ((by2 + by * by) * k + 2.0 * by * k1 + k2)
    a, a1, a2, a11, a12 = 4.0 * skew * u, 4.0 * skew * u1, 4.0 * u, 4.0 * skew * u2, 4.0 * u1
    b = math.sqrt(1.0 + 3.0 * skew * skew - a * a)
    s1, s2 = -2.0 * a * a1, 6.0 * skew - 2.0 * a * a2
    s11, s12, s22 = -2.0 * (a1 * a1 + a * a11), -2.0 * (a1 * a2 + a * a12), 6.0 - 2.0 * a2 * a2
    b1, b2, cube = 0.5 * s1 / b, 0.5 * s2 / b, 0.25 / (b * b * b)
    b11, b12, b22 = 0.5 * s11 / b - s1 * s1 * cube, 0.5 * s12 / b - s1 * s2 * cube, 0.5 * s22 / b - s2 * s2 * cube
    table[0] += math.log(b)
    table[1] += b1 / b
    table[2] = b2 / b
    table[3] += b11 / b - (b1 / b) ** 2
    table[4] = b12 / b - b1 * b2 / (b * b)
    table[5] = b22 / b - (b2 / b) ** 2
    rest = (a, b, a1, b1, a2, b2, a11, b11, a12, b12, 0.0, b22)
    for i in range(12):
        table[6 + i] = rest[i]


@njit(cache=True, error_model="numpy")
def _place(w: Any, col: int, x: Any, N: int, density: int, CON: int, table: Any) -> None:
    """Write the working parameters ``x`` of lane ``col`` to the workspace, as the likelihood wants them."""
    for a in range(x.size):
        w[a * LANES + col] = x[a]
    if density > 0:
        w[N * LANES + col] = 1.0 / x[N]
        w[(CON + 12) * LANES + col] = 1.0 / (1.0 / x[N] - 2.0)
    if density > 1:
        _constants(density, 1.0 / x[N], x[N + 1], table)
        for i in range(12):
            w[(CON + i) * LANES + col] = table[6 + i]


@njit(cache=True, error_model="numpy")
def _gather(returns: Any, regressors: Any, col: int, series: Any, exogenous: Any) -> None:
    """Copy one series (T,) and its regressors (T, K) into lane ``col``."""
    for t in range(series.size):
        returns[t * LANES + col] = series[t]
    if exogenous.size:
        K = exogenous.shape[1]
        for t in range(series.size):
            for k in range(K):
                regressors[(t * K + k) * LANES + col] = exogenous[t, k]


@njit(cache=True, error_model="numpy")
def _value(w: Any, col: int, n: int, N: int, density: int, OUT: int, table: Any) -> float:
    """The log-likelihood of lane ``col`` in nats; ``table`` is filled for its density."""
    log_v = w[OUT * LANES + col]
    if density == 0:
        return float(-0.5 * (n * LOG_TWO_PI + log_v + w[(OUT + 2) * LANES + col]))
    nu = w[N * LANES + col]
    _constants(density, nu, w[(N + 1) * LANES + col] if density > 1 else 0.0, table)
    spread = w[(OUT + 1) * LANES + col]
    return float(n * table[0] - 0.5 * log_v - 0.5 * (nu + 1.0) * spread)


@njit(cache=True, error_model="numpy")
def collect(
    w: Any, col: int, n: int, x: Any, N: int, density: int, OUT: int, table: Any, gradient: Any, hessian: Any
) -> float:
    """Loss of lane ``col``, the negative mean log-likelihood, with gradient (S,) and Hessian (S, S) by ``x``."""
    S = x.size
    loss = -_value(w, col, n, N, density, OUT, table) / n
    for a in range(S):
        gradient[a] = w[(OUT + 5 + a) * LANES + col]
        for b in range(a + 1):
            hessian[a, b] = w[(OUT + 5 + S + a * S + b) * LANES + col]
    if density > 0:
        nu = 1.0 / x[N]
        spread = w[(OUT + 1) * LANES + col]
        gradient[N] += n * table[1] - 0.5 * spread
        hessian[N, N] += n * table[3]
        if density > 1:
            gradient[N + 1] += n * table[2]
            hessian[N + 1, N] += n * table[4]
            hessian[N + 1, N + 1] += n * table[5]
        # From nu to 1 / nu.
        square = nu * nu
        hessian[N, N] = square * square * hessian[N, N] + 2.0 * square * nu * gradient[N]
        gradient[N] *= -square
        for a in range(S):
            if a < N:
                hessian[N, a] *= -square
            elif a > N:
                hessian[a, N] *= -square
    for a in range(S):
        gradient[a] /= -n
        for b in range(a + 1):
            hessian[a, b] /= -n
            hessian[b, a] = hessian[a, b]
    return loss


@njit(cache=True, error_model="numpy")
def _basis(rows: Any, face: int, basis: Any, order: Any) -> int:
    """Orthonormal rows of ``basis`` (S, S): first the span of the active constraints, then its complement.

    ``order`` (S,) names the independent active constraints. Returns their number.
    """
    S = basis.shape[0]
    count = 0
    if face == 0:
        for i in range(S):
            for k in range(S):
                basis[i, k] = 1.0 if i == k else 0.0
        return 0
    for i in range(rows.shape[0]):
        if face >> i & 1 and count < S and _orthogonal(rows[i], basis, count):
            order[count] = i
            count += 1
    filled = count
    unit = np.zeros(S)
    for k in range(S):
        unit[:] = 0.0
        unit[k] = 1.0
        if filled < S and _orthogonal(unit, basis, filled):
            filled += 1
    return count


@njit(cache=True, error_model="numpy")
def _orthogonal(row: Any, basis: Any, count: int) -> bool:
    """Append to ``basis`` what of ``row`` is orthogonal to it; whether anything is."""
    S = row.size
    for k in range(S):
        basis[count, k] = row[k]
    for _ in range(2):
        for j in range(count):
            dot = 0.0
            for k in range(S):
                dot += basis[j, k] * basis[count, k]
            for k in range(S):
                basis[count, k] -= dot * basis[j, k]
    norm = 0.0
    for k in range(S):
        norm += basis[count, k] ** 2
    norm = math.sqrt(norm)
    if norm < 1e-7:
        return False
    for k in range(S):
        basis[count, k] /= norm
    return True


@njit(cache=True, error_model="numpy")
def _reduced(
    gradient: Any, hessian: Any, damping: float, basis: Any, count: int, step: Any, free: Any, y: Any
) -> tuple[float, bool]:
    """The damped Newton step on the complement of the first ``count`` rows of ``basis``.

    Returns the smallest pivot relative to its diagonal, and whether the model is convex there.
    """
    S = gradient.size
    m = S - count
    for i in range(m):
        y[i] = 0.0
        for k in range(S):
            y[i] -= basis[count + i, k] * gradient[k]
        for a in range(S):
            step[a] = damping * abs(hessian[a, a]) * basis[count + i, a]
            for b in range(S):
                step[a] += hessian[a, b] * basis[count + i, b]
        for j in range(i + 1):
            free[i, j] = 0.0
            for a in range(S):
                free[i, j] += basis[count + j, a] * step[a]
    curvature = 1.0
    for i in range(m):
        diagonal = free[i, i]
        for j in range(i + 1):
            total = free[i, j]
            for k in range(j):
                total -= free[i, k] * free[j, k]
            if i == j:
                if not total > 1e-13 * abs(diagonal) or not diagonal > 0.0:
                    return total / max(abs(diagonal), 1e-300), False
                curvature = min(curvature, total / diagonal)
                free[i, i] = math.sqrt(total)
            else:
                free[i, j] = total / free[j, j]
    for i in range(m):
        for k in range(i):
            y[i] -= free[i, k] * y[k]
        y[i] /= free[i, i]
    for i in range(m - 1, -1, -1):
        for k in range(i + 1, m):
            y[i] -= free[k, i] * y[k]
        y[i] /= free[i, i]
    for a in range(S):
        step[a] = 0.0
        for i in range(m):
            step[a] += y[i] * basis[count + i, a]
    return curvature, True


@njit(cache=True, error_model="numpy")
def _multipliers(
    gradient: Any, hessian: Any, step: Any, rows: Any, basis: Any, order: Any, count: int, y: Any, residual: Any
) -> None:
    """Multipliers ``y`` (count,) of the active constraints: gradient + H step = sum y rows; ``residual`` what is left
    of the gradient alone."""
    S = gradient.size
    for i in range(count):
        y[i] = 0.0
        for k in range(S):
            slope = gradient[k]
            for b in range(S):
                slope += hessian[k, b] * step[b]
            y[i] += basis[i, k] * slope
    # The rows are lower triangular in the basis: row i = sum over j <= i of (row i . basis j) basis j.
    for i in range(count - 1, -1, -1):
        diagonal = 0.0
        for k in range(S):
            diagonal += rows[order[i], k] * basis[i, k]
        for j in range(i + 1, count):
            dot = 0.0
            for k in range(S):
                dot += rows[order[j], k] * basis[i, k]
            y[i] -= dot * y[j]
        y[i] /= diagonal
    for k in range(S):
        residual[k] = gradient[k]
        for i in range(count):
            residual[k] -= y[i] * rows[order[i], k]


@njit(cache=True, error_model="numpy")
def _step(
    x: Any, gradient: Any, hessian: Any, damping: float, rows: Any, limits: Any, fixed: int, step: Any, residual: Any
) -> tuple[float, float, float, int]:
    """The step from ``x`` on the right face: (damping used, length allowed, curvature, face)."""
    S, M = x.size, limits.size
    basis, free = np.zeros((S + 1, S)), np.zeros((S, S))
    y, order = np.zeros(S), np.zeros(S, dtype=np.int64)
    face = 0
    for i in range(M):
        if i < fixed or _slack(rows, limits, x, i) < ACTIVE:
            face |= 1 << i
    released = 0
    curvature, length, blocking = 1.0, 1.0, -1
    for _ in range(3 * M):
        count = _basis(rows, face, basis[:S], order)
        # Constraints that hang on others leave the face; they block the step below if they must.
        face = 0
        for i in range(count):
            face |= 1 << order[i]
        curvature, convex = _reduced(gradient, hessian, damping, basis, count, step, free, y)
        while not convex:
            damping = max(4.0 * damping, 1e-3)
            if damping > MAX_DAMPING:
                step[:] = 0.0
                return damping, 0.0, curvature, face
            _, convex = _reduced(gradient, hessian, damping, basis, count, step, free, y)
        _multipliers(gradient, hessian, step, rows, basis, order, count, y, residual)
        worst, value = -1, -1e-10
        for i in range(count):
            if order[i] >= fixed and y[i] < value and not released >> order[i] & 1:
                worst, value = order[i], y[i]
        if worst >= 0:
            face &= ~(1 << worst)
            released |= 1 << worst
            continue
        length, blocking = 1.0, -1
        for i in range(M):
            if not face >> i & 1:
                slope = 0.0
                for k in range(S):
                    slope += rows[i, k] * step[k]
                if slope < 0.0:
                    reach = max(_slack(rows, limits, x, i), 0.0) / -slope
                    if reach < length:
                        length, blocking = reach, i
        if blocking < 0 or length > 1e-10 or count == S:
            break
        face |= 1 << blocking
    return damping, length, curvature, face


@njit(cache=True, error_model="numpy")
def _slack(rows: Any, limits: Any, x: Any, i: int) -> float:
    total = -limits[i]
    for k in range(x.size):
        total += rows[i, k] * x[k]
    return float(total)


@njit(cache=True, error_model="numpy")
def advance(
    w: Any, returns: Any, regressors: Any, lane: Any, whole: Any, queue: Any, starts: Any, task: Any, out: Any,
    data: Any, exogenous: Any, present: Any, backcast: Any, rows: Any, limits: Any,
    N: int, first: int, density: int, logarithmic: bool, CON: int, BACK: int, OUT: int, targeting: bool,
) -> int:  # fmt: skip
    """Move every lane on by one evaluation: judge the trial point, choose the next, or take the next task."""
    S = starts.shape[1]
    fixed = 1 if targeting else 0
    table, new_gradient, new_hessian = np.zeros(18), np.zeros(S), np.zeros((S, S))
    step, residual = np.zeros(S), np.zeros(S)
    running = 0
    for col in range(LANES):
        x, gradient, trial = lane[col, :S], lane[col, S : 2 * S], lane[col, 2 * S : 3 * S]
        hessian = lane[col, 3 * S : 3 * S + S * S].reshape(S, S)
        own = lane[col, 3 * S + S * S :]
        if whole[col, TASK] >= 0:
            number = whole[col, TASK]
            n = present[task[number]]
            loss = collect(w, col, n, trial, N, density, OUT, table, new_gradient, new_hessian)
            fresh = whole[col, ITERATION] == 0
            whole[col, ITERATION] += 1
            gain = own[VALUE] - loss
            sound = math.isfinite(loss)
            for a in range(S):
                sound = sound and math.isfinite(new_gradient[a])
                for b in range(a + 1):
                    sound = sound and math.isfinite(new_hessian[a, b])
            if sound and (fresh or gain >= 1e-4 * own[PREDICTED] or (own[PREDICTED] * n < 1e-6 and gain * n > -1e-9)):
                if not fresh:
                    if gain > 0.75 * own[PREDICTED]:
                        own[DAMPING] = own[DAMPING] / 16.0 if own[DAMPING] > 1e-5 else 0.0
                    elif gain < 0.25 * own[PREDICTED]:
                        own[DAMPING] = max(4.0 * own[DAMPING], 1e-3)
                own[VALUE] = loss
                x[:] = trial
                gradient[:] = new_gradient
                hessian[:, :] = new_hessian
            else:
                own[DAMPING] = max(8.0 * own[DAMPING], 1e-3)
            over = fresh and not sound
            length, curvature, decrement = 1.0, 0.0, 0.0
            if not over:
                for attempt in range(2):
                    damping, length, curvature, face = _step(
                        x, gradient, hessian, own[DAMPING], rows, limits, fixed, step, residual
                    )
                    slope, bend = 0.0, 0.0
                    for a in range(S):
                        slope += gradient[a] * step[a]
                        for b in range(S):
                            bend += step[a] * hessian[a, b] * step[b]
                    decrement = -n * (slope + 0.5 * bend)
                    # A short step may be the damping's doing: only an undamped one tells that this is the top.
                    if attempt == 0 and own[DAMPING] > 0.0 and decrement < TOLERANCE:
                        own[DAMPING] = 0.0
                    else:
                        break
                over = (decrement < TOLERANCE and length > 1e-10) or whole[col, ITERATION] >= MAX_ITERATIONS
                over = over or damping > MAX_DAMPING or length <= 1e-10
                if damping > MAX_DAMPING:
                    decrement = math.inf  # no step was found, which says nothing of the point
                own[DAMPING] = damping
                whole[col, FACE] = face
                if not over:
                    own[PREDICTED] = -(length * slope + 0.5 * length * length * bend)
                    for a in range(S):
                        trial[a] = x[a] + length * step[a]
                    _place(w, col, trial, N, density, CON, table)
            if over:
                out[number, :S] = x
                out[number, S] = -own[VALUE] * n if not (fresh and not sound) else -math.inf
                out[number, S + 1] = decrement
                norm = 0.0
                for a in range(S):
                    scale = abs(x[a]) if (a == first and not logarithmic) or (a == N and density > 0) else 1.0
                    norm = max(norm, abs(residual[a]) * scale)
                out[number, S + 2] = norm if sound or not fresh else math.inf
                out[number, S + 3] = curvature
                out[number, S + 4] = whole[col, FACE]
                whole[col, TASK] = -1
        if whole[col, TASK] < 0 and queue[0] < len(task):
            number = queue[0]
            queue[0] += 1
            _gather(returns, regressors, col, data[task[number]], exogenous[task[number]])
            w[BACK * LANES + col] = math.log(backcast[task[number]]) if logarithmic else backcast[task[number]]
            trial[:] = starts[number]
            _place(w, col, trial, N, density, CON, table)
            own[DAMPING], own[PREDICTED], own[VALUE] = 0.0, 0.0, math.inf
            whole[col, TASK], whole[col, ITERATION], whole[col, FACE] = number, 0, 0
        if whole[col, TASK] >= 0:
            running += 1
    return running
