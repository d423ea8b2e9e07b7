"""A whole process: imports, data from disk, 400 warm GJR-t refits of T = 1,000; ours against arch.

    python benchmarks/garch_process.py [--store STORE] [--refits 400] [--rounds 5] [--quick]

Each side is a fresh Python that loads a returns file and its starts (the side's own optima of the windows before, made
outside), refits every window after one more bar, and writes its parameters. CPU time is that of the process, imports and
all; code compiled by numba comes from its cache on disk, filled by a run that is not timed. Peak memory is told beside.
Gate: the parameters that the processes wrote, as in ``garch_peer``, and no start of a process fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from garch_peer import Array, arch_fits, compared, gate, hourly_returns, own_fits, simulated
from measuring import Child, Gate, Result, Timing, child, note, of, tell
from threadpoolctl import threadpool_limits

LENGTH: Final = 1000
SPEC: Final = "GJR-t"
CHAINS: Final = 20  # series, each with as many windows in a row
# Each program stands alone: what it imports is what its user would.
OURS: Final = """
import sys
import numpy as np
from models.garch import GARCH, fit_many
windows, starts = np.load(sys.argv[1], mmap_mode="r"), np.load(sys.argv[2])
params, loglikelihood, certificates = fit_many(windows, GARCH(p=1, o=1, q=1, dist="t"), start=starts)
np.save(sys.argv[3], params)
print(loglikelihood.sum(), sum(certificate.certified for certificate in certificates))
"""
PEER: Final = """
import sys
import warnings
import numpy as np
from arch import arch_model
warnings.simplefilter("ignore")
windows, starts = np.load(sys.argv[1], mmap_mode="r"), np.load(sys.argv[2])
params, total = np.empty_like(starts), 0.0
for i, window in enumerate(windows):
    model = arch_model(np.asarray(window), mean="Zero", vol="GARCH", p=1, o=1, q=1, dist="t", rescale=False)
    result = model.fit(disp="off", show_warning=False, starting_values=starts[i])
    params[i], total = result.params, total + result.loglikelihood
np.save(sys.argv[3], params)
print(total)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="a store with hourly bars; without it, simulated series")
    parser.add_argument("--refits", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few refits, one round")
    given = parser.parse_args()
    if given.quick:
        given.refits, given.rounds = 20, 1
    with threadpool_limits(limits=1), tempfile.TemporaryDirectory() as folder:
        return tell(results(given, Path(folder)))


def results(given: argparse.Namespace, folder: Path) -> Iterator[Result]:
    windows, own_starts, arch_starts = prepared(given.store, given.refits)
    for name, values in (("windows", windows), ("ours-starts", own_starts), ("peer-starts", arch_starts)):
        np.save(folder / f"{name}.npy", values)
    note(f"{len(windows)} windows")
    for side in ("ours", "peer"):  # fills numba's cache, and makes what the gate judges
        run(side, folder)
    params = {side: np.load(folder / f"{side}.npy") for side in ("ours", "peer")}
    _, certificates = own_fits(windows, SPEC, own_starts)  # the same fits: the process tells parameters alone
    found = gate(compared(windows, SPEC, params["ours"], certificates, params["peer"]))
    pairs = [in_turn(number, folder) for number in range(given.rounds if found.passed else 0)]
    yield Result(
        "whole process, imports counted, 400 warm GJR-t refits",
        f"{len(windows)} refits, T = {LENGTH:,}",
        of("arch"),
        Timing(tuple(a.cpu_s for a, _ in pairs), tuple(b.cpu_s for _, b in pairs), with_memory(found, pairs)),
        floor=40,
        aim=60,
    )


def in_turn(number: int, folder: Path) -> tuple[Child, Child]:
    """One round; who goes first alternates."""
    if number % 2:
        peer = run("peer", folder)
        return run("ours", folder), peer
    return run("ours", folder), run("peer", folder)


def run(side: str, folder: Path) -> Child:
    files = [str(folder / name) for name in ("windows.npy", f"{side}-starts.npy", f"{side}.npy")]
    return child([sys.executable, "-c", OURS if side == "ours" else PEER, *files])


def with_memory(found: Gate, pairs: list[tuple[Child, Child]]) -> Gate:
    """The gate's figures and each side's peak memory."""
    if not pairs:
        return found
    peaks = {
        f"{side}_peak_mib": round(median(pair[k].peak_mib for pair in pairs), 1)
        for k, side in enumerate(("ours", "peer"))
    }
    return Gate(found.passed, found.what, {**found.figures, **peaks})


def prepared(store: str | None, refits: int) -> tuple[Array, Array, Array]:
    """Windows (refits, T) in chains of one bar a step, and each side's optima of the windows one bar before."""
    rng, each = np.random.default_rng(40), -(-refits // CHAINS)
    real = [x for x in hourly_returns(store).values() if len(x) >= LENGTH + each] if store else []
    series = [x[-LENGTH - each :] for x in real[:CHAINS]]
    series += list(simulated(CHAINS - len(series), LENGTH + each, rng, gamma=0.08, beta=0.86, tail=5.0))
    rolled = np.stack([np.lib.stride_tricks.sliding_window_view(x, LENGTH) for x in series])
    before, after = rolled[:, :-1].reshape(-1, LENGTH)[:refits], rolled[:, 1:].reshape(-1, LENGTH)[:refits]
    return after, own_fits(before, SPEC)[0], arch_fits(before, SPEC)


if __name__ == "__main__":
    sys.exit(main())
