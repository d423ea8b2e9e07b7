"""Fits of the statistical jump model, against jumpmodels.

    python benchmarks/jump_model.py [--store STORE] [--bars 26000] [--rounds 5] [--quick]

Both minimise the same objective on log variance of the day and of the hour, with ten starts each and the same rule to stop
(labels as before, a gain below 1e-8, or 1,000 turns). Gate: our objective, computed anew from our means and labels, is not
above that of jumpmodels by more than 1e-9 relative, and at our means its online labels are ours.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from jumpmodels.jump import JumpModel as Peer
from measuring import Gate, Result, note, of, paired, tell
from states_peer import Array, observations, options
from threadpoolctl import threadpool_limits

from models.states.jump import JumpModel

CASES: Final = ((2, 10.0), (2, 50.0), (3, 50.0))
STARTS: Final = 10
SLACK: Final = 1e-9
GOAL: Final = "jump model, fit of ten starts"


def main() -> int:
    given = options(__doc__)
    with threadpool_limits(limits=1):
        return tell(results(given))


def results(given: Any) -> Iterator[Result]:
    source, columns = observations(given)
    x = np.column_stack([columns["day"], columns["hour"]])
    for states, penalty in CASES:
        case = Case(x, states, penalty)
        label = f"{states} states, penalty {penalty:g}, {source}"
        note(f"{GOAL}: {label}")
        timing = paired(case.ours, case.peer, given.rounds, gate=case.gate)
        yield Result(GOAL, label, of("jumpmodels"), timing, 100, 240, f"{STARTS} starts each, {x.shape[1]} columns")


class Case:
    """One number of states and penalty, fitted by both."""

    def __init__(self, x: Array, states: int, penalty: float) -> None:
        self.x, self.states, self.penalty = x, states, penalty

    def ours(self) -> JumpModel:
        return JumpModel(self.states, self.penalty, random_starts=STARTS - 1).fit(self.x)

    def peer(self) -> Peer:
        return Peer(self.states, jump_penalty=self.penalty, n_init=STARTS, random_state=0).fit(self.x)

    def gate(self, ours: JumpModel, peer: Peer) -> Gate:
        path = ours.smooth(self.x)
        changes = np.count_nonzero(np.diff(path))
        objective = 0.5 * np.sum((self.x - ours.means_[path]) ** 2) + self.penalty * changes
        better = (peer.val_ - objective) / peer.val_
        peer.centers_ = ours.means_
        equal = bool((peer.predict_online(self.x) == ours.filter(self.x)).all())
        figures = {"objective": objective, "better_by": better, "changes": changes, "online_labels_equal": equal}
        return Gate(
            bool(better >= -SLACK and equal and ours.certificate_.certified),
            "objective not above that of jumpmodels, online labels equal",
            figures,
        )


if __name__ == "__main__":
    sys.exit(main())
