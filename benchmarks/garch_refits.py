"""GARCH refits against arch: warm after one bar and after one week, and cold.

    python benchmarks/garch_refits.py [--store STORE] [--rounds 5] [--windows 20] [--quick]

A window rolls over hourly returns (per cent) of every symbol of the store and over simulated series. Warm: each fit starts
from the parameters of the window before, arch's from arch's and ours from ours. arch is called as a careful user would,
with one BLAS thread: ``arch_model(x, mean="Zero", ..., rescale=False).fit(disp="off", starting_values=...)``. Ours is
``fit_many`` on all windows at once; a second, smaller case calls ``GARCH.fit`` window by window. Cold fits have no start,
and all retries and fallbacks count. Gate: see ``garch_peer``, on every window that is timed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from garch_peer import SPECS, Array, arch_fits, compared, gate, hourly_returns, own_fits, simulated
from measuring import Gate, Result, note, of, paired, tell
from threadpoolctl import threadpool_limits

from models.garch import GARCH, Certificate

Fits = tuple[Array, Sequence[Certificate]]


@dataclass(frozen=True)
class Case:
    """Windows of ``length`` returns that move by ``step``; ``floor`` and ``aim`` of the batch."""

    goal: str
    length: int
    step: int
    warm: bool
    floor: float
    aim: float


CASES: Final = (
    Case("warm refit after 1 bar, T = 1,000", 1000, 1, True, 200, 800),
    Case("warm refit after 1 week of hourly bars, T = 4,000", 4000, 168, True, 60, 250),
    Case("cold fit, T = 1,000, all retries and fallbacks counted", 1000, 168, False, 60, 200),
)
SEED: Final = 20
WHERE_LOOPED: Final = 4  # every fourth window also goes through ``GARCH.fit`` alone


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="a store with hourly bars; without it, simulated series alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--windows", type=int, default=20, help="windows a series (a quarter of it for T = 4,000)")
    parser.add_argument("--quick", action="store_true", help="few windows, one round")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.windows = 1, 4
    with threadpool_limits(limits=1):
        return tell(results(given))


def results(given: argparse.Namespace) -> Iterator[Result]:
    rng = np.random.default_rng(SEED)
    real = hourly_returns(given.store) if given.store else {}
    for case in CASES:
        count = given.windows if case.length < 4000 else max(given.windows // 4, 2)
        series = sample(real, case, count, rng, 1 if given.quick else 3)
        for name in ("GARCH-N", "GJR-t"):
            windows, own_starts, arch_starts = prepared(series, case, count, name)
            batch = Measured(name, windows, own_starts, arch_starts)
            told = f"{len(windows)} windows of {len(series)} series ({len(series) - len(real)} simulated)"
            note(f"{case.goal}, {name}: {told}")
            timing = paired(batch.ours, batch.peer, given.rounds, gate=batch.gate)
            yield Result(case.goal, f"{name}, batch", of("arch"), timing, case.floor, case.aim, told)
            thin = slice(None, None, WHERE_LOOPED)
            single = Measured(name, windows[thin], part(own_starts, thin), part(arch_starts, thin))
            timing = paired(single.looped, single.peer, given.rounds, gate=single.gate)
            yield Result(
                case.goal, f"{name}, one call a window", of("arch"), timing, note=f"{len(windows[thin])} windows"
            )


@dataclass(frozen=True)
class Measured:
    """Windows (n, T) under one specification, with each side's starts, or none."""

    name: str
    windows: Array
    own_starts: Array | None
    arch_starts: Array | None

    def ours(self) -> Fits:
        return own_fits(self.windows, self.name, self.own_starts)

    def looped(self) -> Fits:
        starts: Any = [None] * len(self.windows) if self.own_starts is None else self.own_starts
        fitted = [
            GARCH(**SPECS[self.name]).fit(window, start=start)
            for window, start in zip(self.windows, starts, strict=True)
        ]
        return np.stack([model.params_.to_numpy() for model in fitted]), [model.certificate_ for model in fitted]

    def peer(self) -> Array:
        return arch_fits(self.windows, self.name, self.arch_starts)

    def gate(self, ours: Fits, theirs: Array) -> Gate:
        return gate(compared(self.windows, self.name, *ours, theirs))


def sample(real: dict[str, Array], case: Case, count: int, rng: np.random.Generator, each: int) -> list[Array]:
    """A stretch of every real series, and of simulated ones, just long enough for the windows."""
    length = case.length + (count - 1) * case.step
    stretches = []
    for returns in real.values():
        if len(returns) >= length:
            first = int(rng.integers(0, len(returns) - length + 1))
            stretches.append(returns[first : first + length])
    for gamma, tail in ((0.0, None), (0.08, 5.0)):
        stretches += list(simulated(each, length, rng, gamma=gamma, beta=0.9 - gamma / 2, tail=tail))
    return stretches


def prepared(series: list[Array], case: Case, count: int, name: str) -> tuple[Array, Array | None, Array | None]:
    """The windows that are timed, (n, T), and both sides' starts: each side's own chain of fits, not timed."""
    rolled = np.stack([np.lib.stride_tricks.sliding_window_view(x, case.length)[:: case.step] for x in series])
    if not case.warm:
        return rolled.reshape(-1, case.length), None, None
    own, theirs = [own_fits(rolled[:, 0], name)[0]], [arch_fits(rolled[:, 0], name)]
    for k in range(1, count - 1):
        own.append(own_fits(rolled[:, k], name, own[-1])[0])
        theirs.append(arch_fits(rolled[:, k], name, theirs[-1]))
    starts = [np.stack(chain, axis=1).reshape(-1, chain[0].shape[1]) for chain in (own, theirs)]
    return rolled[:, 1:].reshape(-1, case.length), starts[0], starts[1]


def part(starts: Array | None, rows: slice) -> Array | None:
    return None if starts is None else starts[rows]


if __name__ == "__main__":
    sys.exit(main())
