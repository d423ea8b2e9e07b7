"""HEAVY: the variance of returns driven by a realised measure instead of squared returns.

Shephard and Sheppard (2010), J. Applied Econometrics 25, eq. 1 and 2. With h the variance of the return and m the expected
realised measure R, each given the past,

    h[t] = omega  + alpha  R[t-1] + beta  h[t-1]
    m[t] = omega' + alpha' R[t-1] + beta' m[t-1]

Both are fitted by Gaussian quasi-likelihood, apart, since they share no parameters: the first is a GARCH without shocks
of its own and R as its regressor, the second a GARCH of the signed roots of R, whose squares are R.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from features.errors import DataInvalid, UsageError
from models.garch.model import GARCH

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["HEAVY"]

Array = NDArray[np.float64]


class HEAVY:
    """The HEAVY model of returns and a realised measure in the same units, such as realised variance of the same bars.

    Attributes after ``fit`` or ``fix``: ``returns_`` and ``measure_``, the two fitted equations (``GARCH``), with their
    certificates, likelihoods and parameters; ``params_`` joins the latter, those of the measure primed.
    """

    returns_: GARCH
    measure_: GARCH

    def __init__(self, dist: str = "normal", targeting: bool = False) -> None:
        self.dist = dist
        self.targeting = targeting

    def __repr__(self) -> str:
        return f"HEAVY(dist={self.dist!r}, targeting={self.targeting!r})"

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor arguments."""
        return {"dist": self.dist, "targeting": self.targeting}

    @property
    def params_(self) -> pd.Series[float]:
        """Parameters of both equations."""
        import pandas as pd

        measure = self.measure_.params_
        return pd.concat([self.returns_.params_, measure.set_axis([f"{name}'" for name in measure.index])])

    def _equations(self) -> tuple[GARCH, GARCH]:
        returns = GARCH(p=0, o=0, q=1, dist=self.dist, exogenous=1, targeting=self.targeting)
        return returns, GARCH(p=1, o=0, q=1, targeting=self.targeting)

    def fit(self, returns: ArrayLike, measure: ArrayLike, start: HEAVY | None = None) -> Self:
        """Estimate on ``returns`` (T,) and the realised ``measure`` (T,) of the same bars, and stand at their end.

        A missing return is a gap, a missing measure is not: ``DataInvalid`` names its row. ``start``: an earlier fit.
        """
        driver = _measure(measure, np.size(returns))
        self.returns_, self.measure_ = self._equations()
        first, second = (None, None) if start is None else (start.returns_.params_, start.measure_.params_)
        self.returns_.fit(returns, first, exogenous=driver)
        self.measure_.fit(np.sqrt(driver), second)
        return self

    def fix(self, params: ArrayLike, returns: ArrayLike, measure: ArrayLike) -> Self:
        """Adopt known ``params`` (order of ``params_``) and stand at the end of the data."""
        driver, values = _measure(measure, np.size(returns)), np.asarray(params, dtype=np.float64)
        self.returns_, self.measure_ = self._equations()
        count = len(self.returns_.parameter_names)
        self.returns_.fix(values[:count], returns, exogenous=driver)
        self.measure_.fix(values[count:], np.sqrt(driver))
        return self

    def filter(self, returns: ArrayLike, measure: ArrayLike) -> Array:
        """The variance (T,) of each return given what came before it."""
        return self.returns_.filter(returns, exogenous=_measure(measure, np.size(returns)))

    def update(self, r: float, measure: float) -> float:
        """Absorb the next return and its measure, and return the variance of the return after it, in O(1)."""
        driver = float(_measure([measure], 1)[0])
        variance = self.returns_.update(r, [driver])  # first, since it may refuse the return
        self.measure_.update(float(np.sqrt(driver)))
        return variance

    def forecast(self, horizon: int) -> Array:
        """The expected variance (horizon,) of each of the next returns, in closed form."""
        return self.returns_.forecast(horizon, exogenous=self.measure_.forecast(horizon)[:-1])


def _measure(measure: ArrayLike, length: int) -> Array:
    values = np.ascontiguousarray(measure, dtype=np.float64)
    if values.shape != (length,):
        raise UsageError(f"measure has shape {values.shape}: one value a return makes {(length,)}")
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0.0)))
    if wrong.size:
        raise DataInvalid(
            f"measure[{wrong[0]}] is {values[wrong[0]]:g}: a realised variance is known and not negative; leave out bars "
            "whose measure is missing, from the returns as well"
        )
    return values
