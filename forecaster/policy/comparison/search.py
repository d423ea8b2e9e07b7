"""Constants of the margin target chosen inside the walk-forward, within bounds and one step of a grid at a time.

A steward who moves the parameters of a live venue must not be able to jump: a constant has a stated grid inside stated
bounds, a fold moves at most one of them by one step of its grid, and only if the past gains more than a stated share
by it. The target is all that may be searched; the governor that limits its speed, the modes and the hard bounds stay
with the pack, and limit what a change of constants does to a margin as they limit everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import UsageError
from features.panel import Array
from forecaster.policy.history import forecast_history
from forecaster.policy.inputs import read
from forecaster.policy.margin import Targets, targets
from forecaster.policy.observables import DAY
from forecaster.policy.params import Params

from .ablations import Variant
from .contest import Contest
from .governed import governed
from .ground import Floats, Ground, Mask
from .metrics import coverage_metrics

__all__ = ["KNOBS", "LEAST_GAIN", "TUNABLE", "Choice", "Knob", "Place", "Search", "search", "steps"]

Integers: TypeAlias = npt.NDArray[np.int64]
Place: TypeAlias = tuple[int, ...]
"""Where each knob stands on its grid."""

TUNABLE: Final = ("margin.stress_share", "margin.floor_quantile", "margin.gap", "conformal.gain")
"""Constants of the target; no other may be a knob."""
LEARNT: Final = ["conformal_im", "conformal_mm", "floor_im"]  # observables that these constants shape
LEAST_GAIN: Final = 0.01
"""Share of the past's pinball loss that a step must save: a hundredth, lest the choice follow noise."""


@dataclass(frozen=True)
class Knob:
    """One constant, ``section.name`` of the pack, the values it may take in rising order, and the bounds of any value.

    Raises UsageError naming the key for a constant that is not of the target, for values that do not rise or are fewer
    than two, and for one outside its bounds.
    """

    key: str
    values: tuple[float, ...]
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.key not in TUNABLE:
            raise UsageError(
                f"{self.key}: not a constant of the margin target, only those are searched ({', '.join(TUNABLE)}); "
                "change any other in the parameter pack"
            )
        if len(self.values) < 2 or not all(a < b for a, b in pairwise(self.values)):
            raise UsageError(f"{self.key}: the grid {self.values} must hold two values or more, rising")
        for value in self.values:
            if not self.low <= value <= self.high:
                raise UsageError(
                    f"{self.key} = {value:g} lies outside its bounds [{self.low:g}, {self.high:g}]; take it off the grid"
                )

    def standing(self, params: Params) -> int:
        """Where the pack's own constant stands. Raises UsageError naming it where it is not on the grid."""
        section, name = self.key.split(".")
        own = getattr(getattr(params, section), name)
        if own not in self.values:
            raise UsageError(
                f"{self.key} = {own:g} of pack {params.name!r} is not on the grid {self.values}; add it there"
            )
        return self.values.index(own)


KNOBS: Final = (
    Knob("margin.stress_share", (0.15, 0.2, 0.25, 0.3, 0.4), low=0.1, high=0.5),
    Knob("margin.floor_quantile", (0.0, 0.15, 0.3, 0.5), low=0.0, high=0.6),
    Knob("margin.gap", (0.2, 0.3, 0.4, 0.6), low=0.15, high=0.75),
    Knob("conformal.gain", (0.0005, 0.001, 0.002, 0.004), low=0.0, high=0.005),
)


@dataclass(frozen=True)
class Choice:
    """What one fold decided; constants by key."""

    at: pd.Timestamp
    origins: int  # whose 24 h had ended by then, all symbols together
    proposal: Mapping[str, float]  # the one constant that the best step would change
    gain: float  # share of the past's loss that it would have saved; nan without a past
    constants: Mapping[str, float]  # in force from here to the next fold


@dataclass(frozen=True)
class Search:
    """The choices by fold, and the initial margin that they led to."""

    choices: tuple[Choice, ...]
    im: Array  # (n_symbols, n_hours), a fraction of notional in force; NaN where there is no line


def search(
    met: Contest, forecasts: pd.DataFrame, knobs: Sequence[Knob] = KNOBS, least_gain: float = LEAST_GAIN
) -> Search:
    """Choose the constants anew at every fold of the ground that lines reach, and govern the targets they make.

    ``forecasts``: the table that ``met`` was made of. A fold judges packs by the pinball loss at 99.5 % of the margins
    that each would have had in force all along, at one mean, over the origins whose 24 h had ended by then. It keeps the
    constants in force, at first the pack's own, unless the best single step saves more than ``least_gain`` of their
    loss. Targets change constants where the fold begins and are governed once, as one path.

    Raises UsageError where there is no knob, one stands twice, or the pack's own constant is not on a grid.
    """
    if not knobs or len({knob.key for knob in knobs}) < len(knobs):
        raise UsageError(f"knobs {[knob.key for knob in knobs]}: name at least one constant, and none twice")
    packs = _Packs(met.variant, met.ground, read(forecasts, met.variant.params).lines, tuple(knobs))
    ground, own = met.ground, tuple(knob.standing(met.variant.params) for knob in knobs)
    folds = ground.folds[ground.folds <= ground.columns.max()].tolist()
    resolved = {fold: packs.resolved_by(fold) for fold in folds}
    found = steps(
        own,
        tuple(len(knob.values) for knob in knobs),
        folds,
        lambda place, fold: packs.loss(place, own, resolved[fold]),
        least_gain,
    )
    places = [own, *(place for _, _, place in found)]
    choices = tuple(
        Choice(
            at=ground.times[fold],
            origins=int(resolved[fold].sum()),
            proposal=dict(packs.constants(proposal).items() - packs.constants(before).items()),
            gain=gain,
            constants=packs.constants(place),
        )
        for fold, before, (proposal, gain, place) in zip(folds, places, found, strict=False)
    )
    fold_of = np.searchsorted(folds, ground.columns, side="right")
    return Search(choices, governed(met.variant, ground, wanted=packs.spliced(places, fold_of))[0].im)


def steps(
    own: Place, sizes: Place, folds: Iterable[int], loss: Callable[[Place, int], float], least_gain: float
) -> list[tuple[Place, float, Place]]:
    """By fold the best place one step away, the share of the loss it saves, and the place in force from then on.

    ``sizes``: values of each grid; ``loss(place, fold)``: loss of a place on what the fold may know, nan if nothing.
    """
    place, out = own, []
    for fold in folds:
        losses = {other: loss(other, fold) for other in _neighbours(place, sizes)}
        proposal = min(losses, key=losses.__getitem__)
        gain = 1 - losses[proposal] / loss(place, fold)
        place = proposal if gain > least_gain else place
        out.append((proposal, gain, place))
    return out


def _neighbours(place: Place, sizes: Place) -> Iterator[Place]:
    """All places with one knob one step lower or higher."""
    for knob, size in enumerate(sizes):
        for at in (place[knob] - 1, place[knob] + 1):
            if 0 <= at < size:
                yield (*place[:knob], at, *place[knob + 1 :])


@dataclass(frozen=True)
class _Packs:
    """The packs that a search looks at, each decided once, on the same lines."""

    base: Variant
    ground: Ground
    lines: pd.DataFrame  # of the forecasts alone: what production learns from
    knobs: tuple[Knob, ...]
    _learnt: dict[tuple[float, float], dict[str, Floats]] = field(default_factory=dict)
    _margins: dict[Place, Floats] = field(default_factory=dict)

    def constants(self, place: Place) -> dict[str, float]:
        return {knob.key: knob.values[at] for knob, at in zip(self.knobs, place, strict=True)}

    def variant(self, place: Place) -> Variant:
        """The lines with what they teach under the constants, and the pack that holds them."""
        tables: dict[str, dict[str, float]] = {}
        for key, value in self.constants(place).items():
            section, name = key.split(".")
            tables.setdefault(section, {})[name] = value
        pack = self.base.params.overlaid(tables, "the search's grid")
        inputs = self.base.inputs
        return Variant(replace(inputs, observed=inputs.observed | self._taught(pack)), pack)

    def _taught(self, pack: Params) -> dict[str, Floats]:
        key = pack.conformal.gain, pack.margin.floor_quantile
        if key not in self._learnt:
            learnt = forecast_history(self.lines, self.ground.history, pack)
            self._learnt[key] = {name: learnt[name].to_numpy(np.float64) for name in LEARNT}
        return self._learnt[key]

    def resolved_by(self, fold: int) -> Mask:
        """Lines (n_lines,) whose 24 h ended by the fold's start."""
        return (self.ground.columns <= fold - DAY) & ~np.isnan(self._excursion)

    def loss(self, place: Place, own: Place, lines: Mask) -> float:
        """Pinball loss of a pack's margins over some lines, all packs at one mean; nan without lines.

        The mean is that of the own pack's margins once they cover exactly 99.5 % of these excursions: at the mean they
        have, far fewer may lie beyond, and then no pack differs from another.
        """
        if not lines.any():
            return float("nan")
        margin, usual = (self._in_force(pack)[lines] for pack in (place, own))
        came = self._excursion[lines]
        level = coverage_metrics(usual, came)["matched_mean_im"]
        return coverage_metrics(margin * (level / margin.mean()), came, 1.0)["pinball_995"]

    @property
    def _excursion(self) -> Floats:
        return self.ground.excursion[self.ground.rows, self.ground.columns]

    def _in_force(self, place: Place) -> Floats:
        if place not in self._margins:
            im = governed(self.variant(place), self.ground)[0].im
            self._margins[place] = im[self.ground.rows, self.ground.columns]
        return self._margins[place]

    def spliced(self, places: Sequence[Place], of_line: Integers) -> Targets:
        """Targets of each line under the place that ``of_line`` (n_lines,) numbers."""
        number = np.array([places.index(place) for place in places])[of_line]  # one number a place, not a fold
        out: dict[str, Any] = {}
        for which in np.unique(number).tolist():
            variant = self.variant(places[which])
            made, mine = targets(variant.inputs, variant.params), number == which
            for column in fields(Targets):
                values = getattr(made, column.name)
                out.setdefault(column.name, np.empty_like(values))[mine] = values[mine]
        return Targets(**out)
