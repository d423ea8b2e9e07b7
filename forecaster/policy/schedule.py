"""The parameter schedule: one canonical JSON object a line, chained by hash.

Canonical: keys sorted, no spaces, UTF-8, integers only. ``hash`` is the sha256 of the object without
``hash``; each line names the one before, the first names 64 zeros. A schedule made from less data is a byte
prefix of the longer one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final

import numpy as np
import pandas as pd

from features.market import Market

from .breakers import BREAKERS
from .decide import ACTIONS, decisions, govern
from .hedging.reference import REASONS as HEDGE_REASONS
from .inputs import read_with_market
from .observables import MarketHistory
from .params import Params
from .types import STAGES, Decision, Override

__all__ = [
    "GENESIS",
    "SCHEMA_VERSION",
    "canonical",
    "chained",
    "line_hash",
    "make_schedule",
    "schedule_schema",
    "write_schedule",
]

SCHEMA_VERSION: Final = 1
GENESIS: Final = "0" * 64

_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical(value: dict[str, Any]) -> bytes:
    """The one byte form of an object."""
    return _ENCODER.encode(value).encode()


def line_hash(line: dict[str, Any]) -> str:
    """sha256 of a line without its ``hash``."""
    return sha256(canonical({key: value for key, value in line.items() if key != "hash"})).hexdigest()


def make_schedule(
    forecasts: pd.DataFrame,
    market: Market,
    params: Params,
    history: MarketHistory | None = None,
    overrides: Sequence[Override] = (),
) -> Iterator[bytes]:
    """The schedule of a forecast table, line by line without line ends; see ``decide`` for what a line rests
    on.

    Raises DataInvalid where the table lacks columns or rows of ``params.model``, or holds a key twice.
    """
    inputs = read_with_market(forecasts, history or MarketHistory(market, params))
    governed = govern(inputs, params, overrides=overrides)
    yield from chained(decisions(governed, inputs))


def chained(decided: Iterable[Decision], seq: int = 0, previous: str = GENESIS) -> Iterator[bytes]:
    """The lines of decisions, without line ends, from number ``seq`` on, behind the line with the hash ``previous``."""
    for number, decision in enumerate(decided, seq):
        line = _line(decision, number, previous)
        previous = line["hash"] = sha256(canonical(line)).hexdigest()
        yield canonical(line)


def write_schedule(path: str | Path, lines: Iterable[bytes]) -> int:
    """Write lines beside, flush to disk, rename; returns their number. A failure keeps the old file."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
        try:
            for line in lines:
                file.write(line + b"\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            Path(file.name).unlink()
            raise
    Path(file.name).chmod(0o644)
    Path(file.name).replace(target)
    return count


def _line(decision: Decision, seq: int, previous: str) -> dict[str, Any]:
    vector = decision.vector
    im, mm = vector.im, vector.mm
    return {
        "schema_version": SCHEMA_VERSION,
        "seq": seq,
        "prev_hash": previous,
        "symbol": decision.symbol,
        "as_of": iso(decision.as_of),
        "announced_at": iso(decision.announced_at),
        "effective_at": iso(decision.effective_at),
        "expires_at": iso(decision.expires_at),
        "mode": decision.mode.value,
        "im_ppm": im[0],
        "mm_ppm": mm[0],
        "max_leverage_milli": 1_000_000_000 // im[0],
        "tiers": [{"cap_usd": cap, "im_ppm": i, "mm_ppm": m} for cap, i, m in zip(decision.caps, im, mm, strict=True)],
        "liquidation_buffer_ppm": im[0] - mm[0],
        "liquidation_penalty_ppm": vector.penalty,
        "haircut_ppm": vector.haircut,
        "exposure_scale_ppm": decision.exposure,
        "hedge": decision.hedge,
        "insurance_target_usd": decision.insurance_target,
        "breakers": {
            "active": list(decision.breakers),
            "band_ppm": decision.breaker_band,
            "state": decision.breaker_state,
            "until": None if decision.breaker_until is None else iso(decision.breaker_until),
        },
        "reasons": list(decision.reasons),
        "bounds_hit": [dict(zip(("parameter", "bound", "side"), hit, strict=True)) for hit in decision.bounds_hit],
        "decomposition": dict(zip(STAGES, decision.decomposition, strict=True)),
        "forecast_hash": decision.forecast_hash,
        "params_hash": decision.params_hash,
        "model_sha256": decision.model_sha256,
        "fallback": decision.fallback,
    }


@lru_cache(maxsize=4096)
def iso(instant: int) -> str:
    """ISO 8601 in UTC with Z; a fraction of a second only where there is one."""
    seconds, micro = divmod(instant, 1_000_000)
    text = str(np.datetime64(seconds, "s"))
    return f"{text}.{micro:06d}Z" if micro else f"{text}Z"


def schedule_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of one line of the schedule."""
    ppm = {"type": "integer", "minimum": 1, "maximum": 1_000_000}
    count = {"type": "integer", "minimum": 0}
    instant = {"type": "string", "format": "date-time", "pattern": "Z$"}
    digest = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    words = {"type": "array", "items": {"type": "string"}}
    hedge = {
        "avoided_es_usd": count,
        "band_ppm": count,
        "cost_usd": count,
        "instrument": {"type": "string", "pattern": "^(none|perpetual|put-24h-[0-9]+ppm)$"},
        "quantity_milli": {"type": "integer", "minimum": -1000, "maximum": 1000},
        "reason": {"enum": list(HEDGE_REASONS)},
    }
    breakers = {
        "active": {"type": "array", "items": {"enum": list(BREAKERS)}},
        "band_ppm": count,
        "state": {"enum": list(ACTIONS)},
        "until": {"anyOf": [instant, {"type": "null"}]},
    }
    hit = _object({name: {"type": "string"} for name in ("parameter", "bound", "side")})
    tier = _object({"cap_usd": {"type": "integer", "minimum": 1}, "im_ppm": ppm, "mm_ppm": ppm})
    modes = ["calm", "normal", "stress", "crisis", "cooldown", "failsafe", "override"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "One line of a parameter schedule",
        **_object(
            {
                "schema_version": {"const": SCHEMA_VERSION},
                "seq": count,
                "prev_hash": digest,
                "hash": digest,
                "symbol": {"type": "string", "minLength": 1},
                "as_of": instant,
                "announced_at": instant,
                "effective_at": instant,
                "expires_at": instant,
                "mode": {"enum": modes},
                "im_ppm": ppm,
                "mm_ppm": ppm,
                "max_leverage_milli": {"type": "integer", "minimum": 1000},
                "tiers": {"type": "array", "items": tier, "minItems": 1},
                "liquidation_buffer_ppm": ppm,
                "liquidation_penalty_ppm": ppm,
                "haircut_ppm": {"type": "integer", "minimum": 0, "maximum": 1_000_000},
                "exposure_scale_ppm": count,
                "hedge": _object(hedge),
                "insurance_target_usd": count,
                "breakers": _object(breakers),
                "reasons": words,
                "bounds_hit": {"type": "array", "items": hit},
                "decomposition": _object({stage: {"type": "integer"} for stage in STAGES}),
                "forecast_hash": digest,
                "params_hash": digest,
                "model_sha256": digest,
                "fallback": {"type": "boolean"},
            }
        ),
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }
