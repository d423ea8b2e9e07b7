"""What the models of hidden states share: three verbs, the check of what comes in, and a certificate of the fit.

``fit`` estimates and stands at the end of its data, ``filter`` runs the frozen model over a series from its beginning,
``update`` absorbs one bar more, ``advance`` many, and ``restart`` stands before the first. All of the latter know the past
only, and agree bit for bit. ``state`` is everything that ``restore`` needs to go on with the next bar, in JSON values and
arrays. A shallow copy goes its own way: what moves on is never written in place.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from features.errors import DataInvalid, UsageError

__all__ = ["Certificate", "StateModel", "stored"]

Array = NDArray[np.float64]

MIN_BARS_PER_STATE: Final = 20
FLAT: Final = 1e-12
LARGEST: Final = 1e100  # the square of a larger value is infinite before long


@dataclass(frozen=True)
class Certificate:
    """What is known of a fit.

    ``gain``: by how much the last iteration bettered the objective. ``agreeing``: how many of the ``starts`` that were
    climbed to the end came to the best objective found. ``degenerate``: the states that hold next to nothing, or whose
    variance has run to its floor. ``reason`` is empty, or says why the fit must not be used.
    """

    converged: bool
    iterations: int
    gain: float
    starts: int
    agreeing: int
    degenerate: tuple[int, ...]
    reason: str = ""

    @property
    def certified(self) -> bool:
        """Whether the fit may be used."""
        return self.converged and not self.reason

    @classmethod
    def of(
        cls, gain: float, iterations: int, tolerance: float, starts: int, agreeing: int, empty: list[int]
    ) -> Certificate:
        """The certificate of a fit that stopped at ``gain`` after ``iterations``; ``empty``: its degenerate states."""
        checks = [
            (
                not abs(gain) <= tolerance,
                f"still gaining {gain:.1e} after {iterations} iterations: raise max_iterations",
            ),
            (bool(empty), f"states {empty} hold next to nothing: use fewer states"),
        ]
        reason = "; ".join(text for failed, text in checks if failed)
        # Told to three digits: the last ones of a likelihood depend on how its kernel was compiled.
        told = float(f"{gain:.2e}")
        return cls(bool(abs(gain) <= tolerance), iterations, told, starts, agreeing, tuple(empty), reason)

    def plain(self) -> dict[str, Any]:
        """The certificate in JSON values, for ``Certificate.read``."""
        return {**asdict(self), "degenerate": list(self.degenerate)}

    @classmethod
    def read(cls, values: dict[str, Any]) -> Certificate:
        """The inverse of ``plain``."""
        return cls(**{**values, "degenerate": tuple(values["degenerate"])})


class StateModel(BaseEstimator):  # type: ignore[misc]
    """Checks of bars (T, d), shared by the models of this package; NaN is a missing value everywhere."""

    certificate_: Certificate

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there are parameters to filter with."""
        return hasattr(self, "_columns")

    _columns: int

    def _bars(self, X: ArrayLike) -> Array:
        """``X`` as an array (T, d); a series (T,) is one column."""
        x = np.ascontiguousarray(X, dtype=np.float64)
        x = x[:, None] if x.ndim == 1 else x
        if x.ndim != 2:
            raise UsageError(f"X has shape {x.shape}: pass bars by columns (T, d), or one series (T,)")
        self._refuse_infinite(x)
        return x

    def _known_bars(self, X: ArrayLike) -> Array:
        """``X`` as an array (T, d) with the columns that the model was fitted on."""
        self._check_fitted()
        x = self._bars(X)
        if x.shape[1] != self._columns:
            raise UsageError(f"X has {x.shape[1]} columns, {self!r} was fitted on {self._columns}: pass the same ones")
        return x

    def _known_bar(self, x: ArrayLike) -> Array:
        """One bar as an array (d,)."""
        bar: Array = self._known_bars(np.asarray(x, dtype=np.float64).reshape(1, -1))[0]
        return bar

    def _training_bars(self, X: ArrayLike, states: int) -> Array:
        """``X`` as an array (T, d), refused where nothing can be learnt from it."""
        if states != int(states) or states < 1:
            raise UsageError(f"{self!r}: the number of states is a whole number >= 1")
        x = self._bars(X)
        least = MIN_BARS_PER_STATE * states
        for column in range(x.shape[1]):
            present = x[np.isfinite(x[:, column]), column]
            if present.size < least:
                raise DataInvalid(
                    f"column {column} of X has {present.size} values in {len(x)} bars: {states} states need at least "
                    f"{least}; give a longer history, or leave the column out"
                )
            if np.ptp(present) <= FLAT * float(np.abs(present).max()):
                raise DataInvalid(
                    f"column {column} of X is flat: all {present.size} values equal {present[0]:g}; check its feed, "
                    "or leave the column out"
                )
        return x

    def _check_fitted(self) -> None:
        if not hasattr(self, "_columns"):
            raise UsageError(f"{self!r} has no parameters yet: call fit(X) or restore(state) first")

    @staticmethod
    def _refuse_infinite(x: Array) -> None:
        beyond = np.abs(x) > LARGEST
        if beyond.any():
            row, column = np.argwhere(beyond)[0]
            raise DataInvalid(f"X[{row}, {column}] is infinite ({x[row, column]:g}): pass NaN where a value is missing")


def stored(state: dict[str, Any], name: str, shape: tuple[int, ...]) -> Array:
    """An array of a saved state; raises ``UsageError`` where it has another shape, or values that are no numbers."""
    values = np.array(state[name], dtype=np.float64)
    if values.shape != shape or np.isnan(values).any():
        raise UsageError(f"state {name!r} has shape {values.shape}: this model holds numbers of shape {shape}")
    return values
