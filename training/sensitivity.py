"""How much each argument mattered to a search: its share of the loss's variance, and the losses along its values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["sensitivity"]

PARTS: Final = 4
LEAST_TRIALS: Final = 4


def sensitivity(trials: Sequence[FrozenTrial], seed: int) -> list[dict[str, Any]]:
    """One entry an argument, the most important first.

    ``importance``: share of the loss's variance over the space that the argument alone explains (functional ANOVA of a
    random forest: Hutter, Hoos and Leyton-Brown 2014), null under four complete trials or where all losses are the same.
    ``losses``: trials, mean and least loss by value, or by quarters of the values tried where these are many. Trials that
    were cut short are left out: their losses are of fewer folds.
    """
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    shares = _importance(complete, seed)
    told = [
        {"argument": name, "importance": shares.get(name), "losses": _losses(complete, name)}
        for name in sorted({name for trial in complete for name in trial.params})
    ]
    return sorted(told, key=lambda entry: -(entry["importance"] or 0.0))


def _importance(trials: Sequence[FrozenTrial], seed: int) -> dict[str, float]:
    import optuna

    losses = np.array([trial.value for trial in trials])
    if len(trials) < LEAST_TRIALS or np.ptp(losses) == 0.0:
        return {}
    study = optuna.create_study()
    study.add_trials(list(trials))
    # Not ``get_param_importances``: it scales the shares to a sum of one, as if no two arguments acted together.
    return dict(optuna.importance.FanovaImportanceEvaluator(seed=seed).evaluate(study))


def _losses(trials: Sequence[FrozenTrial], name: str) -> list[dict[str, Any]]:
    values = [trial.params[name] for trial in trials]
    losses = np.array([trial.value for trial in trials], dtype=np.float64)
    distinct = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    if len(distinct) <= PARTS or any(isinstance(value, str) for value in distinct):
        groups = [(value, value, np.array([v == value for v in values])) for value in distinct]
    else:
        order = np.argsort(np.array(values, dtype=np.float64), kind="stable")
        groups = []
        for part in np.array_split(order, PARTS):
            chosen = np.zeros(len(values), dtype=np.bool_)
            chosen[part] = True
            groups.append((values[part[0]], values[part[-1]], chosen))
    return [
        {
            "from": low,
            "to": high,
            "trials": int(chosen.sum()),
            "mean": float(losses[chosen].mean()),
            "least": float(losses[chosen].min()),
        }
        for low, high, chosen in groups
    ]
