"""The comparison with arch: its verdicts on parameters whose quality is known, and the benchmarks that rest on it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import garch_likelihood
import garch_peer
import garch_refits
import numpy as np
import pytest
from garch_peer import Array, arch_fits, arch_loglikelihood, compared, gate, simulated

from models.garch import GARCH, Certificate

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
QUIET = [Certificate.refused("")] * 2  # of fits that were made elsewhere: nothing is flagged
FLAGGED = [Certificate.refused("off the optimum")] * 2


@pytest.fixture(scope="module")
def windows() -> Array:
    return simulated(2, 600, np.random.default_rng(3), gamma=0.06, beta=0.87, tail=6.0)


@pytest.fixture(scope="module")
def optima(windows: Array) -> Array:
    return arch_fits(windows, "GJR-t")


def verdicts(windows: Array, params: Array, theirs: Array, certificates: list[Certificate] = QUIET) -> list[str]:
    return [row["verdict"] for row in compared(windows, "GJR-t", params, certificates, theirs)]


def test_likelihoods_are_those_of_both_estimators(windows: Array, optima: Array) -> None:
    own = GARCH(p=1, o=1, q=1, dist="t").fix(optima[0], windows[0]).loglikelihood_
    assert arch_loglikelihood(windows[0], "GJR-t", optima[0]) == pytest.approx(own, rel=1e-9)


def test_the_same_parameters_are_equal_and_poorer_ones_worse(windows: Array, optima: Array) -> None:
    poorer = optima * np.array([1.5, 1.0, 1.0, 0.98, 1.0])
    assert verdicts(windows, optima, optima) == ["equal", "equal"]
    assert verdicts(windows, optima, poorer) == ["better", "better"]
    rows = compared(windows, "GJR-t", poorer, FLAGGED, optima)
    assert [row["verdict"] for row in rows] == ["worse flagged"] * 2
    assert all(row["gap"] < -1e-6 for row in rows)


def test_a_difference_of_a_millionth_counts_as_equal(windows: Array, optima: Array) -> None:
    nudged = optima * (1 + 1e-5)
    rows = compared(windows, "GJR-t", nudged, QUIET, optima)
    assert all(0 < abs(row["gap"]) < 1e-6 for row in rows)
    assert [row["verdict"] for row in rows] == ["equal", "equal"]


@pytest.mark.parametrize("bad", [{"alpha": -0.01}, {"beta": 1.01}, {"gamma": -0.2}, {"omega": 1e-12}, {"nu": 1.9}])
def test_what_arch_would_not_admit_is_told(bad: dict[str, float], windows: Array, optima: Array) -> None:
    params, names = optima.copy(), ("omega", "alpha", "gamma", "beta", "nu")
    for name, value in bad.items():
        params[:, names.index(name)] = value
    assert verdicts(windows, params, optima) == ["inadmissible", "inadmissible"]


def test_persistence_above_one_is_inadmissible(windows: Array, optima: Array) -> None:
    params = optima.copy()
    params[:, 1:4] = 0.2, 0.1, 0.9
    assert verdicts(windows, params, optima) == ["inadmissible", "inadmissible"]


def test_an_optimum_beyond_archs_own_constraint_is_drawn_in(windows: Array, optima: Array) -> None:
    outside = optima.copy()
    outside[:, 3] += 1.0 - (outside[:, 1] + 0.5 * outside[:, 2] + outside[:, 3]) + 1e-3
    drawn = garch_peer.drawn_in(windows[0], "GJR-t", outside[0], optima[0])
    assert drawn[1] + 0.5 * drawn[2] + drawn[3] == pytest.approx(1.0, abs=1e-8)
    assert garch_peer.admissible(windows[0], "GJR-t", drawn)
    rows = compared(windows, "GJR-t", optima, QUIET, outside)
    assert [row["arch_outside"] for row in rows] == [True, True]
    np.testing.assert_array_equal(garch_peer.drawn_in(windows[0], "GJR-t", optima[1], optima[0]), optima[1])


def test_a_refused_series_fails_the_gate(windows: Array, optima: Array) -> None:
    rows = compared(windows, "GJR-t", np.full_like(optima, np.nan), FLAGGED, optima)
    found = gate(rows)
    assert not found.passed
    assert found.figures["refused"] == 2
    assert gate(compared(windows, "GJR-t", optima, QUIET, optima)).passed


def test_windows_of_a_chain_move_by_their_step_and_start_from_the_one_before() -> None:
    case = garch_refits.Case("", 300, 5, True, 1, 1)
    series = list(simulated(2, 300 + 3 * 5, np.random.default_rng(4)))
    windows, own, theirs = garch_refits.prepared(series, case, 4, "GARCH-N")
    assert windows.shape == (6, 300)
    np.testing.assert_array_equal(windows[4], series[1][10:310])  # the third window of the second series
    before = np.stack([series[1][5:305], series[1][0:300]])
    assert theirs is not None
    assert own is not None
    np.testing.assert_allclose(theirs[4], arch_fits(before, "GARCH-N")[0], rtol=1e-3)
    assert arch_loglikelihood(before[0], "GARCH-N", own[4]) == pytest.approx(
        arch_loglikelihood(before[0], "GARCH-N", theirs[4]), rel=1e-6
    )


def test_a_series_is_decided_by_its_number() -> None:
    sources = garch_likelihood.Sources({"A": np.arange(1.0, 9000.0)}, {}, np.arange(1.0, 3000.0))
    named, x = sources.series(16)
    assert named.startswith("hourly A from ")
    np.testing.assert_array_equal(np.diff(x), np.ones(249))
    np.testing.assert_array_equal(sources.series(16)[1], x)
    assert sources.series(19)[0].startswith("daily S&P 500")
    assert sources.series(9 + 4 * garch_likelihood.CHUNK)[0].startswith("simulated")  # 4,000 returns: too long for it
    assert sources.absent == ""
    assert garch_likelihood.Sources({}, {}, np.arange(9.0)).absent == "the store's returns"
    lengths = {len(garch_likelihood.Sources({}, {}, np.empty(0)).series(40 * k)[1]) for k in range(5)}
    assert lengths == set(garch_likelihood.LENGTHS)


def test_without_a_folder_of_real_data_the_index_is_absent() -> None:
    assert garch_likelihood.Sources.of(None, None).absent == "the store's returns and daily S&P 500 returns"


def test_arch_is_asked_once_for_a_series_and_again_where_the_series_is_another(tmp_path: Path) -> None:
    x = simulated(2, 300, np.random.default_rng(5))
    first = garch_likelihood.kept(tmp_path, "GARCH-N-default", range(2), ("a", "b"), list(x), "GARCH-N")
    again = garch_likelihood.kept(tmp_path, "GARCH-N-default", range(2), ("a", "b"), list(x), "GARCH-N")
    assert again[1] == first[1]  # the seconds are those of the first time
    np.testing.assert_array_equal(again[0], first[0])
    other = garch_likelihood.kept(tmp_path, "GARCH-N-default", range(2), ("a", "b"), list(2 * x), "GARCH-N")
    assert other[0][0, 0] == pytest.approx(4 * first[0][0, 0], rel=1e-2)


def test_the_best_of_five_starts_is_no_worse_than_archs_own(windows: Array, optima: Array) -> None:
    best = garch_likelihood.best_of_five(windows[0], "GJR-t")
    own = arch_loglikelihood(windows[0], "GJR-t", optima[0])
    assert arch_loglikelihood(windows[0], "GJR-t", best) >= own


@pytest.mark.parametrize("goal", ["garch_refits", "garch_process"])
def test_the_benchmark_gives_figures(goal: str, tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / f"{goal}.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines, done.stderr
    assert done.returncode == 1 - all(line["gate"]["passed"] for line in lines), done.stderr
    assert all(line["gate"]["fits"] > 0 for line in lines)
    assert garch_peer.RELATIVE == 1e-6
