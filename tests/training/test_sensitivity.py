from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from training.sensitivity import sensitivity

SPACE = {
    "matters": FloatDistribution(0.0, 1.0),
    "idle": FloatDistribution(0.0, 1.0),
    "choice": CategoricalDistribution((3, "default")),
}


@pytest.fixture(scope="module")
def trials() -> list[FrozenTrial]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    generator = np.random.default_rng(3)
    out = []
    for k in range(60):
        values = {
            "matters": float(generator.random()),
            "idle": float(generator.random()),
            "choice": (3, "default")[int(generator.integers(2))],
        }
        loss = values["matters"] + (0.2 if values["choice"] == 3 else 0.0)
        state = TrialState.COMPLETE if k % 10 else TrialState.PRUNED
        out.append(create_trial(state=state, params=values, distributions=SPACE, value=9.0 if k % 10 == 0 else loss))
    return out


def test_what_matters_comes_first(trials: list[FrozenTrial]) -> None:
    told = sensitivity(trials, seed=1)
    assert [entry["argument"] for entry in told][:2] == ["matters", "choice"]
    assert told[0]["importance"] > 0.7
    assert told[2]["importance"] < 0.05


def test_losses_along_the_values_are_those_of_complete_trials(trials: list[FrozenTrial]) -> None:
    told = {entry["argument"]: entry["losses"] for entry in sensitivity(trials, seed=1)}
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    for part in told["matters"]:
        inside = [float(t.value or 0) for t in complete if part["from"] <= t.params["matters"] <= part["to"]]
        assert part["trials"] == len(inside)
        assert part["mean"] == pytest.approx(np.mean(inside))
        assert part["least"] == min(inside)
    assert [part["mean"] for part in told["matters"]] == sorted(part["mean"] for part in told["matters"])
    assert {(part["from"], part["to"]) for part in told["choice"]} == {(3, 3), ("default", "default")}


def test_few_trials_or_equal_losses_have_no_importance(trials: list[FrozenTrial]) -> None:
    assert {entry["importance"] for entry in sensitivity(trials[:4], seed=1)} == {None}
    flat = [create_trial(params=t.params, distributions=SPACE, value=1.0) for t in trials]
    assert {entry["importance"] for entry in sensitivity(flat, seed=1)} == {None}


def test_what_two_arguments_do_together_is_no_share_of_either() -> None:
    """A loss that is a product of centred values is all interaction: neither argument alone explains half of it."""
    generator = np.random.default_rng(5)
    axis = {name: FloatDistribution(-1.0, 1.0) for name in ("a", "b")}
    points = generator.uniform(-1.0, 1.0, (80, 2))
    made = [create_trial(params={"a": a, "b": b}, distributions=axis, value=a * b) for a, b in points.tolist()]
    assert sum(entry["importance"] for entry in sensitivity(made, seed=1)) < 0.7
