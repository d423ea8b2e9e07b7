"""EM iterations of a Gaussian hidden Markov model, against hmmlearn.

    python benchmarks/hidden_markov.py [--store STORE] [--bars 26000] [--rounds 5] [--quick]

Both fit log variance and scaled return, diagonal covariances, from the same parameters and for the same number of
iterations; ours includes its checks and the filter at the end. The goal is against hmmlearn as it comes (recursions in
logarithms); the case "scaling" is against its faster option. Gate, judged by hmmlearn's own ``score`` at both parameters:
the likelihood after those iterations, and that of our cold fit against the best of three cold fits of hmmlearn's, are
not lower by more than 1e-6 relative; and our own likelihood is the one that hmmlearn finds.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from hmmlearn.hmm import GaussianHMM as Peer
from measuring import Gate, Result, note, of, paired, tell
from states_peer import Array, observations, options
from threadpoolctl import threadpool_limits

from models.states.hmm import GaussianHMM

ITERATIONS: Final = 100
COLD_ITERATIONS: Final = 300
SLACK: Final = 1e-6
GOAL: Final = "HMM, per EM iteration"


def main() -> int:
    given = options(__doc__)
    logging.getLogger("hmmlearn").setLevel(logging.CRITICAL)  # its convergence is judged by the gate
    with threadpool_limits(limits=1):
        return tell(results(given))


def results(given: Any) -> Iterator[Result]:
    source, columns = observations(given)
    x = np.column_stack([columns["hour"], columns["return"]])
    for states in (2, 3):
        begin = GaussianHMM(states, max_iterations=1, random_starts=0, tolerance=-np.inf).fit(x)
        for implementation in ("log", "scaling"):
            case = Case(x, states, implementation, begin.state())
            note(f"{GOAL}: {states} states, {implementation}, {source}")
            timing = paired(case.ours, case.peer, given.rounds, gate=case.gate)
            default = implementation == "log"
            label = f"{states} states, {source}" + ("" if default else ", hmmlearn's scaling")
            told = f"{ITERATIONS} iterations each, {x.shape[1]} columns; seconds are those of all iterations"
            floor, aim = (30.0, 50.0) if default else (None, None)
            yield Result(GOAL, label, of("hmmlearn"), timing, floor, aim, told)


class Case:
    """One number of states, fitted by both from the same parameters."""

    def __init__(self, x: Array, states: int, implementation: str, start: dict[str, Any]) -> None:
        self.x, self.states, self.implementation, self.start = x, states, implementation, start

    def ours(self) -> GaussianHMM:
        return GaussianHMM(self.states, max_iterations=ITERATIONS, tolerance=-np.inf).fit(self.x, start=self.start)

    def peer(self) -> Peer:
        model = self._peer(n_iter=ITERATIONS, tol=-np.inf, init_params="")
        return _adopting(model, self.start).fit(self.x)

    def gate(self, ours: GaussianHMM, peer: Peer) -> Gate:
        seen = _adopting(self._peer(), ours.state()).score(self.x)
        cold = GaussianHMM(self.states).fit(self.x)
        found = _adopting(self._peer(), cold.state()).score(self.x)
        reached = max(
            self._peer(n_iter=COLD_ITERATIONS, tol=1e-4, random_state=seed).fit(self.x).score(self.x)
            for seed in range(3)
        )
        same = abs(seen - ours.loglikelihood_) <= 1e-9 * abs(seen)
        warm_gap, cold_gap = seen - peer.score(self.x), found - reached
        slack = -SLACK * abs(seen)
        figures = {"loglikelihood": seen, "above_peer": warm_gap, "cold_above_peer": cold_gap, "same_score": same}
        return Gate(
            bool(same and warm_gap >= slack and cold_gap >= slack and cold.certificate_.certified),
            "log-likelihood by hmmlearn's score not below its own by more than 1e-6 relative, warm and cold",
            figures,
        )

    def _peer(self, **settings: Any) -> Peer:
        return Peer(
            self.states,
            covariance_type="diag",
            implementation=self.implementation,
            min_covar=0,
            covars_prior=0,
            covars_weight=1,
            **settings,
        )


def _adopting(model: Peer, state: dict[str, Any]) -> Peer:
    """hmmlearn's model with the parameters of a state of ours."""
    model.startprob_, model.transmat_ = state["startprob"].copy(), state["transmat"].copy()
    model.means_, model.covars_ = state["means"].copy(), state["variances"].copy()
    return model


if __name__ == "__main__":
    sys.exit(main())
