"""What a search may choose: for each argument of a member or of the combination, a list of choices or a range.

The TOML file has a table a member (``[members.lightgbm]``) and one for the combination (``[ensemble]``). An argument's
entry is a list of choices, in which the word ``"default"`` leaves the constructor its own value, or a table ``{low, high}``
with ``step`` or ``log = true``; whole numbers give whole numbers.
"""

from __future__ import annotations

import inspect
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError

from features.errors import UsageError
from models.catalogue import KINDS, make
from models.ensemble import Ensemble
from training.config import RunConfig
from training.config_errors import explain

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

__all__ = ["DEFAULT", "Arguments", "Range", "Space", "arguments", "configured", "suggest"]

DEFAULT: Final = "default"
"""The choice that leaves an argument to the constructor."""
SHIPPED: Final = Path(__file__).with_name("space.toml")

Number: TypeAlias = StrictInt | StrictFloat
Choice: TypeAlias = StrictBool | StrictInt | StrictFloat | StrictStr


class Range(BaseModel):
    """Numbers from ``low`` to ``high``, evenly or, with ``log``, evenly in the logarithm; in steps if it has any."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    low: Number
    high: Number
    step: Number | None = None
    log: bool = False

    def holds(self, value: Any) -> bool:
        """Whether the value can be drawn."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        if self.whole and value != int(value):
            return False
        return self.step is None or abs((value - self.low) / self.step - round((value - self.low) / self.step)) < 1e-9

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Choices: TypeAlias = tuple[Choice, ...]
Arguments: TypeAlias = Mapping[str, Range | Choices]


class Space(BaseModel):
    """The arguments that may be chosen: of each member, by its kind, and of the combination."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    members: dict[str, dict[str, Range | Choices]] = {}
    ensemble: dict[str, Range | Choices] = Field(default={})

    @classmethod
    def load(cls, path: str | Path | None, config: RunConfig) -> Space:
        """Read a space (None: the shipped one, of the members that the configuration has) and check it.

        Raises ``UsageError`` naming the file, the key and the way out for what is not TOML, unknown, empty, or does not
        hold the configured value, from which every search starts.
        """
        source = Path(path or SHIPPED)
        try:
            told = tomllib.loads(source.read_text(encoding="utf-8"))
            space = cls.model_validate_json(json.dumps(told), strict=True)
        except OSError as error:
            raise UsageError(f"{source}: cannot be read ({error.strerror}); name an existing TOML file") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError) as error:
            raise UsageError(f"{source}: not a TOML file of numbers, words and tables: {error}") from None
        except ValidationError as error:
            faults = explain(cls, error.errors(include_url=False), told)
            raise UsageError("\n".join(f"{source}: {fault}" for fault in faults)) from None
        kinds = {member.kind for member in config.members}
        if path is None:
            space = space.model_copy(update={"members": {k: v for k, v in space.members.items() if k in kinds}})
        if unknown := sorted(set(space.members) - kinds):
            raise UsageError(
                f"{source}: members.{unknown[0]}: no member of the configuration; add it there, or drop it"
            )
        for subject in [*space.members, *(["ensemble"] if space.ensemble else [])]:
            _check(space.of(subject), subject, config, str(source))
        if not space.members and not space.ensemble:
            raise UsageError(f"{source}: nothing to search; name arguments under [members.KIND] or [ensemble]")
        return space

    def of(self, subject: str) -> Arguments:
        """The arguments of a member's kind or of ``ensemble``."""
        return self.ensemble if subject == "ensemble" else self.members[subject]


def _check(space: Arguments, subject: str, config: RunConfig, source: str) -> None:
    key = subject if subject == "ensemble" else f"members.{subject}"
    now = configured(space, subject, config)
    for name, allowed in space.items():
        if isinstance(allowed, Range):
            if not allowed.low < allowed.high or (allowed.log and allowed.low <= 0) or (allowed.log and allowed.step):
                raise UsageError(f"{source}: {key}.{name}: needs low < high; log needs low > 0 and no step")
            held = allowed.holds(now[name])
        else:
            if len(set(allowed)) < 2:
                raise UsageError(f"{source}: {key}.{name}: a list of fewer than two choices is no search; drop it")
            held = now[name] in allowed
        if not held:
            raise UsageError(
                f"{source}: {key}.{name}: the configured {now[name]!r} is not among what may be chosen; add it, since "
                "the search starts there"
            )


def configured(space: Arguments, subject: str, config: RunConfig) -> dict[str, Any]:
    """The values that the configuration has now, as the space spells them; raises ``UsageError`` for unknown arguments."""
    params = _params(subject, config)
    cls = Ensemble if subject == "ensemble" else KINDS[subject][0]
    if subject != "ensemble":
        make(subject, dict.fromkeys(space))
    known = inspect.signature(cls).parameters
    values = {}
    for name, allowed in space.items():
        if name not in known:
            raise UsageError(f"{subject} has no argument '{name}'; arguments are {', '.join(known)}")
        value = params.get(name, known[name].default)
        words = () if isinstance(allowed, Range) else allowed
        values[name] = DEFAULT if DEFAULT in words and value == known[name].default else value
    return values


def arguments(values: Mapping[str, Any], subject: str, config: RunConfig) -> dict[str, Any]:
    """The constructor's arguments under these values: the configured ones, changed; ``default`` leaves one out."""
    params = {name: value for name, value in _params(subject, config).items() if name not in values}
    return params | {name: value for name, value in values.items() if value != DEFAULT}


def suggest(trial: BaseTrial, space: Arguments) -> dict[str, Any]:
    """One value for every argument, as the trial's sampler proposes it."""
    values: dict[str, Any] = {}
    for name, allowed in space.items():
        if not isinstance(allowed, Range):
            values[name] = trial.suggest_categorical(name, allowed)
        elif allowed.whole:
            values[name] = trial.suggest_int(
                name, int(allowed.low), int(allowed.high), step=int(allowed.step or 1), log=allowed.log
            )
        else:
            values[name] = trial.suggest_float(name, allowed.low, allowed.high, step=allowed.step, log=allowed.log)
    return values


def _params(subject: str, config: RunConfig) -> Mapping[str, Any]:
    if subject == "ensemble":
        return config.ensemble.params
    return next(member.params for member in config.members if member.kind == subject)
