"""The likelihood of the GARCH family with exact gradient and Hessian, many series at a time.

Sixteen series ("lanes") stand side by side in memory, so that the compiler turns one time step of all of them into a few
vector instructions; what would be one long chain of dependent operations becomes wide. Lanes never mix: a series' bits do
not depend on its neighbours. One source serves every specification: orders and terms are constants of the compiled
function, and what they switch off costs nothing.

Variance, and log variance for EGARCH (Nelson 1991), with the threshold term of Glosten, Jagannathan and Runkle (1993):

    v[t]    = omega + sum alpha[i] e[t-i]² + sum gamma[j] e[t-j]² 1(e[t-j] < 0) + sum beta[k] v[t-k] + sum pi[m] x[t,m]
    ln v[t] = omega + sum alpha[i] (|z[t-i]| - sqrt(2 / pi)) + sum gamma[j] z[t-j] + sum beta[k] ln v[t-k]

Below, s[t] is what the recursion runs on, v or ln v. Its derivatives follow recursions of their own, with the same b:

    s_a[t]  = d_a + sum_j b[j] s_a[t-j]
    s_ab[t] = d_ab + sum_j ( b[j] s_ab[t-j] + c_a[j] s_b[t-j] + c_b[j] s_a[t-j] + r[j] s_a[t-j] s_b[t-j] )

d is the direct derivative, b[j] = ds[t]/ds[t-j], c_a = db/da, r = db/ds. A missing return (NaN) enters at its
expectation, e² = v and e² 1(e < 0) = v / 2, in EGARCH z = 0; the likelihood gains no term.

Densities: normal, Student t and Hansen's (1994) skewed t, the last two by nu (eta) and lambda. What does not depend on
time, such as log-gamma terms, is added by ``models.garch.climbing``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Final

from numba import njit

from models.garch.specification import Specification

__all__ = ["LANES", "Layout", "likelihood"]

# Two vectors of eight doubles: enough to fill the pipeline, and long enough for the loop vectoriser to take the loop.
LANES: Final = 16
MEAN_ABSOLUTE: Final = math.sqrt(2.0 / math.pi)
# Logs are taken of running products, over so few steps that they stay inside the range of doubles: factors lie between
# 1e-8, the least omega, and a few million, the square of the largest return. EGARCH, whose variance has no least, adds up
# the logs that it runs on.
FLUSH: Final = 32
# Rows of constants: a and b of the skewed t, their derivatives by eta, lambda, (eta, eta), (eta, lambda), (lambda, lambda),
# and 1 / (nu - 2).
CONSTANTS: Final = 13


@dataclass(frozen=True)
class Layout:
    """Rows of the workspace, each ``LANES`` wide: what the caller writes, then state, then results."""

    spec: Specification
    gaps: bool

    @property
    def constants(self) -> int:
        """First row of the skewed t's constants; the parameters lie before them."""
        return self.spec.size

    @property
    def backcast(self) -> int:
        """Row of the variance (log variance for EGARCH) before the sample."""
        return self.constants + CONSTANTS

    @property
    def lags(self) -> int:
        """Lags on whose derivatives the next ones depend."""
        spec = self.spec
        return max(spec.p, spec.o, spec.q) if spec.logarithmic or self.gaps else spec.q

    @property
    def state(self) -> int:
        """First row of the state."""
        return self.backcast + 1

    @cached_property
    def results(self) -> int:
        """First of the result rows: log v, log spread, squares, gradient (size,), Hessian (size, size), lower part."""
        spec, pairs = self.spec, self.spec.dynamics * (self.spec.dynamics + 1) // 2
        own = 2 + 3 * spec.p + 3 * spec.o + max(spec.q, 1) + max(self.lags, spec.p, spec.o)
        moments = spec.dynamics + pairs
        return self.state + own + self.lags * (2 + spec.dynamics) + spec.dynamics + (self.lags + 1) * moments

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.results + 5 + self.spec.size + self.spec.size**2


@cache
def likelihood(spec: Specification, gaps: bool) -> Callable[[Any, Any, Any, int], None]:
    """The compiled function ``f(returns, regressors, work, steps)`` of one specification.

    ``returns`` is (steps, LANES) flattened, NaN where missing or past a series' end; ``regressors`` (steps, exogenous,
    LANES) flattened; ``work`` (rows, LANES) flattened, see ``Layout``. Without ``gaps`` a NaN must only follow the last
    return.
    """
    layout = Layout(spec, gaps)
    return _compiled(
        spec.p, spec.o, spec.q, spec.exogenous, bool(spec.first), ("normal", "t", "skewt").index(spec.dist),
        spec.logarithmic, gaps, layout.lags, layout.constants, layout.backcast, layout.state, layout.results,
    )  # fmt: skip


def _compiled(
    P: int, M: int, Q: int, K: int, MEAN: bool, DIST: int, LOG: bool, GAPS: bool,
    L: int, CON: int, BACK: int, STATE: int, OUT: int,
) -> Callable[[Any, Any, Any, int], None]:  # fmt: skip
    W = LANES
    # Orders p, o, q are P, M, Q; positions of the parameters follow.
    MU, OM, AL = 0, int(MEAN), int(MEAN) + 1
    GA, BE, PI = AL + P, AL + P + M, AL + P + M + Q
    N = PI + K  # parameters of the recursion
    S = N + DIST  # and of the density
    PAIRS = N * (N + 1) // 2
    # Second derivatives that are not zero throughout: without gaps and mean, those by some beta.
    FULL = LOG or GAPS or MEAN
    LS = max(L, P, M)
    # Rows of the state. SHOCK, ASYM, LEVEL: what alpha, gamma and beta multiply. D…: derivative by mu; DD…: second one.
    NEXT, VAR = STATE, STATE + 1
    SHOCK = STATE + 2
    ASYM = SHOCK + P
    LEVEL = ASYM + M
    DSHOCK = LEVEL + max(Q, 1)
    DASYM = DSHOCK + P
    DDSHOCK = DASYM + M
    DDASYM = DDSHOCK + P
    SIZE = DDASYM + M  # |z| for EGARCH, 1 where missing for GARCH
    B = SIZE + LS
    FED = B if LOG or GAPS else BE
    R = B + L
    C = R + L
    D = C + L * N
    G = D + N
    H = G + L * N
    # The newest derivatives; with one lag they take the place of the last ones, second derivatives first.
    GN = H + L * PAIRS if L != 1 else G
    HN = GN + N if L != 1 else H
    LOGV, LOGD, SQUARES, PV, PD = OUT, OUT + 1, OUT + 2, OUT + 3, OUT + 4
    AG = OUT + 5
    AH = AG + S
    END = AH + S * S

    @njit(cache=True, error_model="numpy")
    def kernel(returns: Any, regressors: Any, w: Any, steps: int) -> None:  # pragma: no cover - compiled
        for i in range(STATE * W, END * W):
            w[i] = 0.0
        for col in range(W):
            w[PV * W + col] = 1.0
            w[PD * W + col] = 1.0
            for i in range(Q):
                w[(LEVEL + i) * W + col] = w[BACK * W + col]
            if not LOG:
                for i in range(P):
                    w[(SHOCK + i) * W + col] = w[BACK * W + col]
                for i in range(M):
                    w[(ASYM + i) * W + col] = 0.5 * w[BACK * W + col]
        for t in range(steps):
            for col in range(W):
                s = w[OM * W + col]
                for i in range(P):
                    s += w[(AL + i) * W + col] * w[(SHOCK + i) * W + col]
                for i in range(M):
                    s += w[(GA + i) * W + col] * w[(ASYM + i) * W + col]
                for i in range(Q):
                    s += w[(BE + i) * W + col] * w[(LEVEL + i) * W + col]
                for i in range(K):
                    s += w[(PI + i) * W + col] * regressors[(t * K + i) * W + col]
                w[NEXT * W + col] = s
            if LOG:
                for col in range(W):
                    w[VAR * W + col] = math.exp(w[NEXT * W + col])
            for col in range(W):
                s = w[NEXT * W + col]
                v = w[VAR * W + col] if LOG else s
                e = returns[t * W + col]
                present = 1.0 if e == e else 0.0
                e = e - w[MU * W + col] if MEAN else e
                e = e if e == e else 0.0
                inverse = 1.0 / v
                # Without gaps or logs, what a lag feeds back is its beta.
                if LOG or GAPS:
                    for j in range(L):
                        b = 0.0
                        if j < Q:
                            b += w[(BE + j) * W + col]
                        if LOG:
                            if j < P:
                                b -= 0.5 * w[(AL + j) * W + col] * w[(SIZE + j) * W + col]
                            if j < M:
                                b -= 0.5 * w[(GA + j) * W + col] * w[(ASYM + j) * W + col]
                        elif GAPS:
                            if j < P:
                                b += w[(AL + j) * W + col] * w[(SIZE + j) * W + col]
                            if j < M:
                                b += 0.5 * w[(GA + j) * W + col] * w[(SIZE + j) * W + col]
                        w[(B + j) * W + col] = b
                if FULL:
                    for j in range(L):
                        for a in range(N):
                            c = 0.0
                            if a == BE + j and j < Q:
                                c = 1.0
                            elif LOG:
                                if a == AL + j and j < P:
                                    c = -0.5 * w[(SIZE + j) * W + col]
                                elif a == GA + j and j < M:
                                    c = -0.5 * w[(ASYM + j) * W + col]
                                elif MEAN and a == MU:
                                    if j < P:
                                        c -= 0.5 * w[(AL + j) * W + col] * w[(DSHOCK + j) * W + col]
                                    if j < M:
                                        c -= 0.5 * w[(GA + j) * W + col] * w[(DASYM + j) * W + col]
                            elif GAPS:
                                if a == AL + j and j < P:
                                    c = w[(SIZE + j) * W + col]
                                elif a == GA + j and j < M:
                                    c = 0.5 * w[(SIZE + j) * W + col]
                            w[(C + j * N + a) * W + col] = c
                        r = 0.0
                        if LOG:
                            if j < P:
                                r += 0.25 * w[(AL + j) * W + col] * w[(SIZE + j) * W + col]
                            if j < M:
                                r += 0.25 * w[(GA + j) * W + col] * w[(ASYM + j) * W + col]
                        w[(R + j) * W + col] = r
                    if MEAN:
                        for a in range(N):
                            d = 0.0
                            if a == MU:
                                for i in range(P):
                                    d += w[(AL + i) * W + col] * w[(DDSHOCK + i) * W + col]
                                for i in range(M):
                                    d += w[(GA + i) * W + col] * w[(DDASYM + i) * W + col]
                            elif a >= AL and a < GA:
                                d = w[(DSHOCK + a - AL) * W + col]
                            elif a >= GA and a < BE:
                                d = w[(DASYM + a - GA) * W + col]
                            w[(D + a) * W + col] = d
                    for a in range(N):
                        for b_ in range(a + 1):
                            k = a * (a + 1) // 2 + b_
                            x = w[(D + a) * W + col] if MEAN and b_ == MU else 0.0
                            for j in range(L):
                                ga = w[(G + j * N + a) * W + col]
                                gb = w[(G + j * N + b_) * W + col]
                                x += w[(FED + j) * W + col] * w[(H + j * PAIRS + k) * W + col]
                                x += w[(C + j * N + a) * W + col] * gb + w[(C + j * N + b_) * W + col] * ga
                                if LOG:
                                    x += w[(R + j) * W + col] * ga * gb
                            w[(HN + k) * W + col] = x
                else:
                    for a in range(N):
                        for b_ in range(a + 1):
                            if (a >= BE and a < PI) or (b_ >= BE and b_ < PI):
                                k = a * (a + 1) // 2 + b_
                                x = 0.0
                                if a >= BE and a < PI:
                                    x += w[(G + (a - BE) * N + b_) * W + col]
                                if b_ >= BE and b_ < PI:
                                    x += w[(G + (b_ - BE) * N + a) * W + col]
                                for j in range(L):
                                    x += w[(FED + j) * W + col] * w[(H + j * PAIRS + k) * W + col]
                                w[(HN + k) * W + col] = x
                for a in range(N):
                    x = 0.0
                    if MEAN and a == MU:
                        for i in range(P):
                            x += w[(AL + i) * W + col] * w[(DSHOCK + i) * W + col]
                        for i in range(M):
                            x += w[(GA + i) * W + col] * w[(DASYM + i) * W + col]
                    elif a == OM:
                        x = 1.0
                    elif a < GA:
                        x = w[(SHOCK + a - AL) * W + col]
                    elif a < BE:
                        x = w[(ASYM + a - GA) * W + col]
                    elif a < PI:
                        x = w[(LEVEL + a - BE) * W + col]
                    else:
                        x = regressors[(t * K + a - PI) * W + col]
                    for j in range(L):
                        x += w[(FED + j) * W + col] * w[(G + j * N + a) * W + col]
                    w[(GN + a) * W + col] = x
                # The term of the likelihood: by v, then by what the recursion runs on; by e; by the density's shape.
                if LOG:
                    w[LOGV * W + col] += s * present
                else:
                    w[PV * W + col] *= v if present > 0.0 else 1.0
                le, lee, lev, lesh, lesk, lvsh, lvsk = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
                if DIST == 0:
                    u = e * e * inverse
                    w[SQUARES * W + col] += u
                    lv = 0.5 * (u - present) * inverse
                    lvv = (0.5 * present - u) * inverse * inverse
                    le, lee, lev = -e * inverse, -present * inverse, e * inverse * inverse
                else:
                    i2 = w[(CON + 12) * W + col]
                    k = w[N * W + col] + 1.0
                    if DIST == 1:
                        spread = 1.0 + e * e * inverse * i2
                        id_ = i2 * inverse / spread
                        r = e * e * id_
                        lv = 0.5 * (k * r - present) * inverse
                        lvv = 0.5 * (present - k * r * (2.0 - r)) * inverse * inverse
                        lvsh = 0.5 * (r - k * r * (1.0 - r) * i2) * inverse
                        le, lee = -k * e * id_, -k * (1.0 - 2.0 * r) * id_ * present
                        lev, lesh = k * e * id_ * (1.0 - r) * inverse, -e * id_ * (1.0 - k * (1.0 - r) * i2)
                    else:
                        root = math.sqrt(inverse)
                        z = e * root
                        m = w[(CON + 1) * W + col] * z + w[CON * W + col]
                        sign = 1.0 if m >= 0.0 else -1.0
                        kappa = present / (1.0 + sign * w[(N + 1) * W + col])
                        y = kappa * m
                        spread = 1.0 + y * y * i2
                        id_ = i2 / spread
                        r = y * y * id_
                        ly, lyy = -k * y * id_, -k * (1.0 - 2.0 * r) * id_
                        lny = -y * id_ * (1.0 - k * id_)
                        bz = kappa * w[(CON + 1) * W + col] * z
                        yv, yvv = -0.5 * bz * inverse, 0.75 * bz * inverse * inverse
                        ye = kappa * w[(CON + 1) * W + col] * root
                        ysh = kappa * (w[(CON + 2) * W + col] + w[(CON + 3) * W + col] * z)
                        msk = kappa * (w[(CON + 4) * W + col] + w[(CON + 5) * W + col] * z)
                        bend = sign * kappa
                        ysk = msk - bend * y
                        yshsh = kappa * (w[(CON + 6) * W + col] + w[(CON + 7) * W + col] * z)
                        yshsk = kappa * (w[(CON + 8) * W + col] + w[(CON + 9) * W + col] * z) - bend * ysh
                        ysksk = kappa * (w[(CON + 10) * W + col] + w[(CON + 11) * W + col] * z)
                        ysksk += -bend * msk + bend * bend * y - bend * ysk
                        dsh = kappa * w[(CON + 3) * W + col]
                        dsk = kappa * w[(CON + 5) * W + col] - bend * kappa * w[(CON + 1) * W + col]
                        lv = -0.5 * present * inverse + ly * yv
                        lvv = 0.5 * present * inverse * inverse + lyy * yv * yv + ly * yvv
                        lvsh = lny * yv + lyy * ysh * yv - 0.5 * ly * dsh * z * inverse
                        lvsk = lyy * ysk * yv - 0.5 * ly * dsk * z * inverse
                        le, lee = ly * ye, lyy * ye * ye
                        lev = lyy * yv * ye - 0.5 * ly * ye * inverse
                        lesh, lesk = lny * ye + lyy * ysh * ye + ly * dsh * root, lyy * ysk * ye + ly * dsk * root
                        w[(AG + N) * W + col] += ly * ysh
                        w[(AG + N + 1) * W + col] += ly * ysk
                        w[(AH + N * S + N) * W + col] += 2.0 * lny * ysh + lyy * ysh * ysh + ly * yshsh
                        w[(AH + (N + 1) * S + N) * W + col] += lny * ysk + lyy * ysh * ysk + ly * yshsk
                        w[(AH + (N + 1) * S + N + 1) * W + col] += lyy * ysk * ysk + ly * ysksk
                    w[PD * W + col] *= spread if present > 0.0 else 1.0
                    w[(AG + N) * W + col] += 0.5 * k * r * i2
                    w[(AH + N * S + N) * W + col] += r * i2 - 0.5 * k * r * (2.0 - r) * i2 * i2
                ls, lss, les, lssh, lssk = lv, lvv, lev, lvsh, lvsk
                if LOG:
                    ls, lss, les, lssh, lssk = v * lv, v * (v * lvv + lv), v * lev, v * lvsh, v * lvsk
                for a in range(N):
                    ga = w[(GN + a) * W + col]
                    w[(AG + a) * W + col] += ls * ga
                    for b_ in range(a + 1):
                        x = lss * ga * w[(GN + b_) * W + col]
                        if FULL or (a >= BE and a < PI) or (b_ >= BE and b_ < PI):
                            x += ls * w[(HN + a * (a + 1) // 2 + b_) * W + col]
                        if MEAN and b_ == MU:
                            x -= les * ga
                            if a == MU:
                                x += lee - les * ga
                        w[(AH + a * S + b_) * W + col] += x
                    if DIST > 0:
                        w[(AH + N * S + a) * W + col] += lssh * ga
                    if DIST > 1:
                        w[(AH + (N + 1) * S + a) * W + col] += lssk * ga
                if MEAN:
                    w[(AG + MU) * W + col] -= le
                    if DIST > 0:
                        w[(AH + N * S + MU) * W + col] -= lesh
                    if DIST > 1:
                        w[(AH + (N + 1) * S + MU) * W + col] -= lesk
                # The step: every lag moves by one.
                for i in range(P - 1, 0, -1):
                    w[(SHOCK + i) * W + col] = w[(SHOCK + i - 1) * W + col]
                    if MEAN:
                        w[(DSHOCK + i) * W + col] = w[(DSHOCK + i - 1) * W + col]
                        w[(DDSHOCK + i) * W + col] = w[(DDSHOCK + i - 1) * W + col]
                for i in range(M - 1, 0, -1):
                    w[(ASYM + i) * W + col] = w[(ASYM + i - 1) * W + col]
                    if MEAN:
                        w[(DASYM + i) * W + col] = w[(DASYM + i - 1) * W + col]
                        w[(DDASYM + i) * W + col] = w[(DDASYM + i - 1) * W + col]
                for i in range(Q - 1, 0, -1):
                    w[(LEVEL + i) * W + col] = w[(LEVEL + i - 1) * W + col]
                if Q > 0:
                    w[LEVEL * W + col] = s
                if LOG or GAPS:
                    for i in range(LS - 1, 0, -1):
                        w[(SIZE + i) * W + col] = w[(SIZE + i - 1) * W + col]
                if LOG:
                    unit = math.sqrt(inverse)
                    z = e * unit
                    size = z if z >= 0.0 else -z
                    side = present if z >= 0.0 else -present
                    w[SIZE * W + col] = size
                    if P > 0:
                        w[SHOCK * W + col] = size - MEAN_ABSOLUTE * present
                        if MEAN:
                            w[DSHOCK * W + col] = -side * unit
                    if M > 0:
                        w[ASYM * W + col] = z
                        if MEAN:
                            w[DASYM * W + col] = -present * unit
                else:
                    square = e * e
                    down = present if e < 0.0 else 0.0
                    if GAPS:
                        square = square + (1.0 - present) * v
                        w[SIZE * W + col] = 1.0 - present
                    if P > 0:
                        w[SHOCK * W + col] = square
                        if MEAN:
                            w[DSHOCK * W + col] = -2.0 * e
                            w[DDSHOCK * W + col] = 2.0 * present
                    if M > 0:
                        w[ASYM * W + col] = down * e * e + (0.5 * (1.0 - present) * v if GAPS else 0.0)
                        if MEAN:
                            w[DASYM * W + col] = -2.0 * down * e
                            w[DDASYM * W + col] = 2.0 * down
                if L > 1:
                    for j in range(L - 1, 0, -1):
                        for a in range(N):
                            w[(G + j * N + a) * W + col] = w[(G + (j - 1) * N + a) * W + col]
                        for a in range(PAIRS):
                            w[(H + j * PAIRS + a) * W + col] = w[(H + (j - 1) * PAIRS + a) * W + col]
                    for a in range(N):
                        w[(G + a) * W + col] = w[(GN + a) * W + col]
                    for a in range(PAIRS):
                        w[(H + a) * W + col] = w[(HN + a) * W + col]
            if t % FLUSH == FLUSH - 1 or t == steps - 1:
                for col in range(W):
                    if not LOG:
                        w[LOGV * W + col] += math.log(w[PV * W + col])
                        w[PV * W + col] = 1.0
                    if DIST > 0:
                        w[LOGD * W + col] += math.log(w[PD * W + col])
                        w[PD * W + col] = 1.0

    return kernel
