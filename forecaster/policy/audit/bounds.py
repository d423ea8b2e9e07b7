"""The bounds that key holders set: floor, cap and largest rise of each parameter, whatever a proposer computes.

A bounded steward (Aave's RiskSteward): absolute floors and caps, and a relative limit on one step, each stated
for each parameter. Rises alone are limited, of margins as of maximum leverage and exposure, so that a step in
either direction is bounded by the parameter that rises with it, and a retreat to safety is never held up.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from features.errors import DataInvalid, UsageError
from forecaster.policy.types import PPM

__all__ = ["BOUNDED", "EVERY_SYMBOL", "Bounds", "Limit"]

# The parameters of a line that bounds are stated for; margins are bounded in every tier.
BOUNDED: Final = (
    "im_ppm",
    "mm_ppm",
    "liquidation_penalty_ppm",
    "haircut_ppm",
    "exposure_scale_ppm",
    "max_leverage_milli",
)
EVERY_SYMBOL: Final = "*"


@dataclass(frozen=True, slots=True)
class Limit:
    """Floor and cap of a parameter in its own unit, and its largest rise from one line to the next in ppm of
    the earlier value. From zero a relative limit says nothing: floor and cap alone bound that step.
    """

    floor: int
    cap: int
    rise_ppm: int


@dataclass(frozen=True)
class Bounds:
    """Limits by symbol (``*``: all that are not named) and parameter, and the longest override in hours."""

    override_hours: int
    symbols: Mapping[str, Mapping[str, Limit]]

    @classmethod
    def load(cls, path: str | Path) -> Bounds:
        """Read bounds from TOML: ``override_hours``, and a table ``[symbols."*".im_ppm]`` for each parameter.

        Raises UsageError or DataInvalid naming file and key.
        """
        try:
            values = tomllib.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise UsageError(
                f"{path}: no readable file of bounds: {error.strerror}; write override_hours and [symbols] tables"
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: not a TOML file: {error}") from None
        return cls.from_dict(values, str(path))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> Bounds:
        """Checked bounds. Raises DataInvalid naming the key that is missing, unknown or of the wrong kind."""
        _same_names(values, ("override_hours", "symbols"), where)
        hours, tables = values["override_hours"], values["symbols"]
        if type(hours) is not int or hours < 1:
            raise DataInvalid(f"{where}: override_hours = {hours!r} must be a whole number of hours from 1")
        if not isinstance(tables, dict) or EVERY_SYMBOL not in tables:
            raise DataInvalid(f'{where}: symbols must be tables, among them [symbols."*"] for all that are not named')
        return cls(hours, {symbol: _limits(table, f"{where}: {symbol}") for symbol, table in tables.items()})

    def to_dict(self) -> dict[str, Any]:
        """The bounds as nested objects of integers."""
        return {
            "override_hours": self.override_hours,
            "symbols": {
                symbol: {name: asdict(limit) for name, limit in limits.items()}
                for symbol, limits in self.symbols.items()
            },
        }

    def of(self, symbol: str) -> Mapping[str, Limit]:
        """The limits of a symbol, by parameter."""
        return self.symbols.get(symbol, self.symbols[EVERY_SYMBOL])

    def breaches(
        self, line: Mapping[str, Any], before: Mapping[str, Any] | None, free: Collection[str] = ()
    ) -> list[str]:
        """What of a schedule line breaks the bounds, in words; ``before`` is the symbol's previous line.

        ``free``: parameters whose step an acknowledged override frees; floor and cap it never does.
        """
        found = []
        for name, limit in self.of(line["symbol"]).items():
            values = _values(line, name)
            if min(values) < limit.floor:
                found.append(f"{name} {min(values)} is below the floor {limit.floor}")
            if max(values) > limit.cap:
                found.append(f"{name} {max(values)} is above the cap {limit.cap}")
            if before is None or name in free:
                continue
            steps = zip(_values(before, name), values, strict=False)  # a tier that is new has no step
            steep = ((last, now) for last, now in steps if last and (now - last) * PPM > limit.rise_ppm * last)
            if step := next(steep, None):
                found.append(f"{name} rises from {step[0]} to {step[1]}, by more than {limit.rise_ppm} ppm")
        return found


def _values(line: Mapping[str, Any], name: str) -> list[int]:
    values = [line[name]]
    if name in ("im_ppm", "mm_ppm"):
        values += [tier[name] for tier in line["tiers"]]
    return values


def _limits(table: Any, where: str) -> dict[str, Limit]:
    _same_names(table, BOUNDED, where)
    names = [field.name for field in fields(Limit)]
    limits = {}
    for name in BOUNDED:
        _same_names(table[name], names, f"{where}.{name}")
        if any(type(value) is not int or value < 0 for value in table[name].values()):
            raise DataInvalid(f"{where}.{name}: floor, cap and rise_ppm must be whole numbers from 0")
        limits[name] = Limit(**table[name])
        if limits[name].floor > limits[name].cap:
            raise DataInvalid(f"{where}.{name}: floor is above cap")
    return limits


def _same_names(table: Any, names: Any, where: str) -> None:
    if not isinstance(table, dict):
        raise DataInvalid(f"{where}: must be a table of {', '.join(names)}")
    if odd := set(names).symmetric_difference(table):
        raise DataInvalid(f"{where}: missing or unknown keys {', '.join(sorted(odd))}")
