"""The configuration of a run: TOML into frozen models that know every key.

A component is ``{kind, params}``; its params go to the constructor as they are, so no hyper-parameter is
declared twice and this module knows none. Keys and types are checked here, kinds and params where they are
used.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from features.errors import UsageError
from training.config_errors import explain

__all__ = [
    "Component",
    "Data",
    "Ensemble",
    "Execution",
    "Features",
    "Regimes",
    "RunConfig",
    "TrackingLabels",
    "WalkForward",
]

MEMBERS: Final = (
    *("ewma", "har", "har_seasonal", "har_scheduled", "harq", "har_wls"),
    *("garch", "gjr", "har_x", "lightgbm"),
)
BARE_WORD: Final = re.compile(r"[A-Za-z_][\w.:/-]*")
UNHASHED: Final = {"data", "execution"}


def _rising(horizons: tuple[int, ...]) -> tuple[int, ...]:
    if list(horizons) != sorted(set(horizons)):
        raise ValueError("list each horizon once, shortest first")
    return horizons


def _utc(value: Any) -> Any:
    instant = datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(instant, datetime):
        return value
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


Instant = Annotated[datetime, BeforeValidator(_utc)]
Horizons = Annotated[tuple[PositiveInt, ...], Field(min_length=1), AfterValidator(_rising)]
Name = Annotated[str, Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Component(_Section):
    """A part of the run: which kind, and the arguments of its constructor."""

    kind: Name
    params: dict[str, Any] = {}


class WalkForward(_Section):
    """Folds: a refit every ``refit`` months (``"month"`` is 1) on all of the past, or a window of it.

    Nothing is learnt from the symbols of ``exclude``: no label of theirs trains a member, and no outcome of theirs enters
    levels, weights or laws. They are forecast and scored, as a stranger to the model would be.
    """

    refit: PositiveInt | Literal["month"] = "month"
    warmup_months: NonNegativeInt = 12
    window_months: PositiveInt | None = None
    embargo_hours: NonNegativeInt = 0
    exclude: tuple[Name, ...] = ()

    @property
    def refit_months(self) -> int:
        """Months between refits."""
        return 1 if self.refit == "month" else self.refit


class Ensemble(_Section):
    """Which members are combined (None: all), and the arguments of the combination."""

    members: tuple[Name, ...] | None = None
    params: dict[str, Any] = {}


class Regimes(_Section):
    """Whether a classifier of regimes is fitted beside the members, and the arguments of its constructor."""

    classifier: bool = True
    params: dict[str, Any] = {}


class Features(_Section):
    """Which families of features are built (None: the default ones)."""

    families: tuple[Name, ...] | None = None


class TrackingLabels(_Section):
    """Under which experiment runs are tracked; where they are kept is the environment's to say."""

    experiment: Name = "forecaster"


class Data(_Section):
    """What a run reads and where it writes; command-line options come first. Not part of the hash."""

    store: str | None = None
    out: str | None = None
    start: Instant | None = None
    end: Instant | None = None
    symbols: tuple[Name, ...] | None = None


class Execution(_Section):
    """How a run is computed; no result depends on it. Not part of the hash."""

    engine: Name = "loky"
    workers: PositiveInt | None = None


class RunConfig(_Section):
    """Everything that decides the forecasts of a run; the defaults are the recommended full ensemble."""

    name: Name = "recommended"
    proxy: Literal["garman_klass", "squared_returns"] = "garman_klass"
    horizons: Horizons = (1, 4, 24, 72)
    walkforward: WalkForward = WalkForward()
    members: tuple[Component, ...] = tuple(Component(kind=kind) for kind in MEMBERS)
    ensemble: Ensemble = Ensemble()
    regimes: Regimes = Regimes()
    features: Features = Features()
    tracking: TrackingLabels = TrackingLabels()
    data: Data = Data()
    execution: Execution = Execution()

    @model_validator(mode="after")
    def _members_are_distinct(self) -> RunConfig:
        kinds = [member.kind for member in self.members]
        if repeated := sorted({kind for kind in kinds if kinds.count(kind) > 1}):
            raise ValueError(f"members: {repeated[0]} is listed twice; a member's kind is its name in the forecasts")
        if absent := sorted(set(self.ensemble.members or ()) - set(kinds)):
            raise ValueError(f"ensemble.members: {absent[0]} is no member; members are {', '.join(kinds)}")
        return self

    @classmethod
    def recommended(cls) -> RunConfig:
        """The full ensemble."""
        return cls()

    @classmethod
    def load(cls, path: str | Path | None = None, overrides: Sequence[str] = ()) -> RunConfig:
        """Read a TOML file (None: the recommended settings), then apply overrides, ``key=value``.

        An item of a list is addressed by its index or by its kind: ``members.lightgbm.params.max_bin=63``.
        Raises ``UsageError`` naming the file, the key, and the nearest known key or the expected type.
        """
        source = "settings" if path is None else str(path)
        settings = _merged(cls().model_dump(mode="json"), {} if path is None else _toml(Path(path)))
        for override in overrides:
            _override(settings, override)
        try:
            return cls.model_validate_json(json.dumps(settings, default=_instant, allow_nan=False), strict=True)
        except ValidationError as error:
            told = explain(cls, error.errors(include_url=False), settings)
            raise UsageError("\n".join(f"{source}: {fault}" for fault in told)) from None
        except (TypeError, ValueError) as error:
            raise UsageError(f"{source}: {error}; write finite numbers, text, dates, lists and tables") from None

    def to_toml(self) -> str:
        """The settings as a file that ``load`` reads to the same configuration; what is None by default is left out.

        Raises ``UsageError`` for an argument that is None, which TOML has no word for.
        """
        components = [(f"members.{m.kind}", m.params) for m in self.members] + [
            ("ensemble", self.ensemble.params), ("regimes", self.regimes.params)
        ]  # fmt: skip
        for component, params in components:
            for name, value in params.items():
                if value is None:
                    raise UsageError(f"{component}.params.{name} is None, for which TOML has no word; leave it out")
        settings = self.model_dump(mode="json", exclude_none=True)
        return "".join(f"{key} = {_toml_value(value)}\n" for key, value in settings.items())

    @property
    def sha256(self) -> str:
        """64 hex digits of the resolved settings but paths, store, dates, symbols, engine and workers."""
        settings = self.model_dump(mode="json", exclude=UNHASHED)
        return hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON Schema of the TOML file."""
        return cls.model_json_schema()


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    # Strings, numbers and truth values are written alike in TOML and JSON.
    return json.dumps(value)


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); name an existing TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not TOML: {error}") from None


def _instant(value: Any) -> str:
    if isinstance(value, date):  # an instant, too, is a date
        return value.isoformat()
    raise TypeError(f"{value!r} has no place in a configuration")


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = base.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _override(settings: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    *parents, last = keys = path.strip().split(".")
    if not equals or not all(keys):
        raise UsageError(f"--set {override}: write key=value, such as walkforward.warmup_months=6")
    place: Any = settings
    for depth, key in enumerate(parents):
        place = _item(place, key, ".".join(keys[: depth + 1]), override)
    value = _value(text.strip(), override)
    if isinstance(place, list):
        place[_index(place, last, override)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise UsageError(f"--set {override}: {'.'.join(parents)} is {place!r}, it has no key {last}")


def _item(place: Any, key: str, path: str, override: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, key, override)]
    if isinstance(place, dict):
        if place.get(key) is None:
            place[key] = {}
        return place[key]
    raise UsageError(f"--set {override}: there is nothing under {path}")


def _index(items: list[Any], key: str, override: str) -> int:
    kinds = [item.get("kind") if isinstance(item, dict) else None for item in items]
    if key in kinds:
        return kinds.index(key)
    if key.isdigit() and int(key) < len(items):
        return int(key)
    named = ", ".join(str(kind) for kind in kinds if kind is not None) or f"0 to {len(items) - 1}"
    raise UsageError(f"--set {override}: no item {key} in that list; it has {named}")


def _value(text: str, override: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if BARE_WORD.fullmatch(text):
            return text
    example = 'a number, true, "text", [1, 4] or {a = 1}'
    raise UsageError(f"--set {override}: {text or 'nothing'!r} is no TOML value; write {example}")
