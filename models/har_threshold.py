"""The threshold HAR: one HAR for calm hours and one for stressed ones, mixed by the filtered probability of stress.

References: Hamilton (1989), Econometrica 57 (the filter); McAleer and Medeiros (2008), J. Econometrics 147 (a HAR whose
coefficients move with a state).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.explanation import REVERSION
from models.har import HAR, filled
from models.members import require
from models.state_signals import STRESS, StateSignals
from models.training_rows import TrainingRows

__all__ = ["HARThreshold"]

Array = npt.NDArray[np.float64]

TERM: Final = "regime"


class HARThreshold(HAR):
    """The seasonal HAR whose every coefficient moves with P(stress): ``ln F = a + p a' + sum_L (b_L + p b'_L) x_L``.

    ``p`` is the filtered probability of the stressed state, zero where no filter could be fitted. Rows hang together: the
    filters stand at the end of the fit and go on with the rows that follow.
    """

    name = "har_threshold"
    independent_rows: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ("log_rv_", "log_season_ahead_")

    def __init__(
        self,
        lags: Sequence[int] = (1, 4, 24, 168, 720),
        window_days: int | None = 730,
        shrinkage: float = 20_000.0,
    ) -> None:
        super().__init__(True, lags, window_days, shrinkage)

    def _learn(self, past: TrainingRows) -> None:
        signals = StateSignals.of(past)
        self.signals_ = signals.copied()
        every = np.arange(len(past))
        columns = [*self._ladder, *self.seasons]
        stress = _known(signals.training[:, :1])
        beside = np.hstack([past.values(columns, every, self.name), stress])
        super()._learn(replace(past, features=beside, columns=(*columns, STRESS), row=every))

    @property
    def _inputs(self) -> list[str]:
        return [*self._ladder, STRESS]

    def _terms(self, values: Array) -> Array:
        ladder, stress = filled(values[:, :-1]), values[:, -1:]
        return np.hstack([ladder, stress, stress * ladder])

    def _with_stress(self, X: pd.DataFrame) -> pd.DataFrame:
        columns = [*self._ladder, *self.seasons]
        beside = pd.DataFrame(require(X, columns, self.name), index=X.index, columns=columns)
        return beside.assign(**{STRESS: _known(self.signals_.filter(X)[:, :1])[:, 0]})

    def _predict_log(self, X: pd.DataFrame) -> Array:
        return super()._predict_log(self._with_stress(X))

    def follow(self, X: pd.DataFrame) -> None:
        """Move the filters to the end of the rows, so that the next forecast goes on from there."""
        self.signals_.follow(X)

    def contributions(self, X: pd.DataFrame, families: Mapping[str, str]) -> dict[str, Array]:
        """Those of the HAR, and what the stressed state moves; see ``Member.contributions``."""
        beside, n = self._with_stress(X), len(self.lags)
        terms = super().contributions(beside, families)
        slopes = self._each(beside)[:, :, n + 1 :]
        further = self._terms(require(beside, self._inputs, self.name))[:, None, n:]
        typical = (slopes * self.typical_[n:]).sum(axis=2)
        terms[REVERSION] = terms[REVERSION] + typical
        terms[TERM] = (slopes * further).sum(axis=2) - typical
        return terms

    def state(self) -> dict[str, Any]:
        """That of the HAR, and of the filters."""
        return {**super().state(), "signals": self.signals_.state()}

    def restore(self, state: dict[str, Any]) -> Self:
        """From ``state``."""
        self.signals_ = StateSignals.restore(state["signals"])
        return super().restore(state)


def _known(stress: Array) -> Array:
    """Where nothing is known of the state, it is taken as the calm one."""
    return np.nan_to_num(stress, nan=0.0)
