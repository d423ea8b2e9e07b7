"""The shape of every file and table, for programs that read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from features.errors import UsageError
from features.schemas import TABLES, Table, nearest
from features.store import SYMBOLS_SCHEMA

__all__ = ["Names", "Schema", "schema"]


@dataclass(frozen=True)
class Schema:
    """One schema: a JSON Schema, or the key and the Arrow fields of a table."""

    document: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The schema."""
        return self.document

    def summary(self) -> str:
        """The schema, indented."""
        return json.dumps(self.document, indent=2)


@dataclass(frozen=True)
class Names:
    """What there is a schema of."""

    names: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The names as one JSON object."""
        return {"names": list(self.names)}

    def summary(self) -> str:
        """One name a line."""
        return "\n".join(self.names)


def schema(name: str | None = None) -> Schema | Names:
    """The schema of this name, or (None) all names.

    ``output.COMMAND`` is what a command prints with ``--json``; where it fails, it is ``error``.
    """
    from forecaster.commands.outputs import FILES, OUTPUTS, json_schema
    from forecaster.commands.policy_outputs import POLICY_FILES, POLICY_OUTPUTS

    makers: dict[str, Callable[[], dict[str, Any]]] = {
        "config": _config,
        "scores": _scores,
        "schedule": _schedule,
        **{file: partial(json_schema, kind) for file, kind in (FILES | POLICY_FILES).items()},
        "forecasts": _forecasts,
        "symbols": _symbols,
        **{table: partial(_table, spec) for table, spec in TABLES.items()},
        **{f"output.{command}": partial(json_schema, kind) for command, kind in (OUTPUTS | POLICY_OUTPUTS).items()},
    }
    if name is None:
        return Names(tuple(makers))
    if name not in makers:
        raise UsageError(f"there is no schema {name!r}{nearest(name, makers)}")
    return Schema(makers[name]())


def _config() -> dict[str, Any]:
    from training.config import RunConfig

    return RunConfig.json_schema()


def _scores() -> dict[str, Any]:
    from training.scorecard import scores_schema

    return scores_schema()


def _schedule() -> dict[str, Any]:
    from forecaster.policy import schedule_schema

    return schedule_schema()


def _forecasts() -> dict[str, Any]:
    from models.base import FORECAST_SCHEMA, KEY

    return {"table": "forecasts", "key": list(KEY), "fields": _fields(FORECAST_SCHEMA)}


def _symbols() -> dict[str, Any]:
    return {"table": "symbols", "key": ["symbol"], "fields": _fields(SYMBOLS_SCHEMA)}


def _table(spec: Table) -> dict[str, Any]:
    further = pa.schema([pa.field(name, pa.float64()) for name in spec.further])
    return {
        "table": spec.name,
        "key": list(spec.key),
        "clock": spec.clock,
        "partitions": list(spec.partitions),
        "fields": _fields(spec.schema),
        "further_fields": _fields(further),
    }


def _fields(fields: pa.Schema) -> list[dict[str, Any]]:
    return [{"name": f.name, "type": str(f.type), "nullable": f.nullable} for f in fields]
