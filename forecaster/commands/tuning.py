"""The nested search for arguments of members and of the combination."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import UsageError
from forecaster.commands import inputs
from forecaster.commands.hours import Hours
from forecaster.commands.inputs import Configuration, Moment, StoreLike
from forecaster.settings import Settings
from forecaster.terminal import Progress

if TYPE_CHECKING:
    from training.tuning import Tuned

__all__ = ["Searched", "tune"]


@dataclass(frozen=True)
class Searched:
    """A finished search, and the hours of all its sessions."""

    tuned: Tuned
    hours: Hours

    def to_dict(self) -> dict[str, Any]:
        """What was chosen, and the hours."""
        return self.tuned.to_dict() | {"hours": self.hours.total}

    def summary(self) -> str:
        """One line a subject, where the configuration lies, and the hours."""
        return f"{self.tuned.summary()}\n{self.hours.summary()}"


def tune(
    config: Configuration = None,
    store: StoreLike = None,
    *,
    before: Moment,
    out: str | Path,
    trials: int = 40,
    months: int = 18,
    space: str | Path | None = None,
    horizons: str | Sequence[int] | None = None,
    jobs: int | None = None,
    engine: str | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> Searched:
    """Search on inner folds of the ``months`` before an instant, reading nothing later; resumes what was stopped.

    Writes to ``out`` a configuration that ``evaluate`` takes, and the search's document. ``space``: a TOML file (None: the
    shipped one). Raises ``UsageError`` for what cannot be asked, ``Interrupted`` when stopped.
    """
    from training.space import Space
    from training.tuning import tune as search

    instant = inputs.instant(before, "--before")
    if instant is None:
        raise UsageError("no instant is named before which to search: give --before T")
    environment = Settings.load()
    chosen = inputs.configuration(config, horizons, overrides)
    market = inputs.read(store or chosen.data.store, environment)
    with Hours(out) as hours:
        tuned = search(
            market, chosen, Space.load(space, chosen), before=instant, out=out, trials=trials, months=months,
            engine=inputs.engine(engine, jobs, chosen, environment), tracking=inputs.tracking(chosen, environment),
            progress=hours.counting(progress),
        )  # fmt: skip
    return Searched(tuned, hours)
