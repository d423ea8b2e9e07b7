"""The log of governance: bounds and overrides, each a chained event that takes effect with k of n signatures.

An event is dated by whoever proposes it (``at``), never before the one ahead of it, and an override begins no
earlier than its date: what a line rests on was in the log when the line was made. A log that is cut together with
its signatures passes for an older one; its ``head`` tells which one was read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from features.errors import DataInvalid, UsageError
from forecaster.policy.schedule import iso
from forecaster.policy.types import HOUR, Override

from .bounds import EVERY_SYMBOL, Bounds
from .chain import EVENTS, append, micros, read_chain
from .keys import Registry
from .signatures import attest, signature_path

__all__ = ["Governance", "append_bounds", "append_override", "read_events"]

LINE: Final = frozenset({"schema_version", "seq", "prev_hash", "hash", "kind", "at"})
OVERRIDE: Final = frozenset({"symbol", "start", "expires", "im_floor_ppm", "im_cap_ppm", "who", "why", "acknowledged"})
SCHEMA_VERSION: Final = 1


@dataclass(frozen=True)
class Governance:
    """What k of n key holders have set: bounds by the instant from which they hold (microseconds), overrides in
    the order of the log, how many of the log's last events still wait for signatures, and the hash of the last
    event in effect.
    """

    bounds: tuple[tuple[int, Bounds], ...] = ()
    overrides: tuple[Override, ...] = ()
    waiting: int = 0
    head: str | None = None

    @classmethod
    def read(cls, path: str | Path, registry: Registry) -> Governance:
        """The effective events of a log, whose signatures lie beside it (``events.sig.jsonl``).

        Raises DataInvalid where log or signatures do not hold, an override breaks the bounds in force, or its
        ``who`` has not signed it. Whose key was revoked since cannot sign any more: the k others vouch for it.
        """
        lines = read_events(path)
        found = attest(lines, EVENTS, signature_path(path), registry)
        bounds, overrides = _events(lines[: found.effective], str(path))
        revoked = {key.name for key in registry.keys if key.revoked}
        for seq, override in overrides:
            if found.vouched.get(override.who, 0) <= seq and override.who not in revoked:
                raise DataInvalid(
                    f"{path}: line {seq + 1}: who: {override.who} has not signed this override; "
                    f"{override.who} signs the log, or stays in the registry as revoked"
                )
        head = lines[found.effective - 1]["hash"] if found.effective else None
        acting = tuple(override for _, override in overrides)
        return cls(tuple(bounds), acting, found.lines - found.effective, head)

    def guard(self, lines: Iterator[dict[str, Any]], path: str | Path) -> Iterator[dict[str, Any]]:
        """Pass schedule lines on, each within the bounds in force when it was announced.

        Raises DataInvalid naming the first line and parameter beyond them, or a line that no bounds cover.
        """
        before: dict[str, Mapping[str, Any]] = {}
        for line in lines:
            symbol = line["symbol"]
            if found := self.breaches(line, before.get(symbol), path):
                where = f"{path}: line {line['seq'] + 1}"
                raise DataInvalid(f"{where}: {symbol}: {'; '.join(found)}; only the key holders can move their bounds")
            before[symbol] = line
            yield line

    def breaches(self, line: Mapping[str, Any], before: Mapping[str, Any] | None, path: str | Path) -> list[str]:
        """What of a schedule line breaks the bounds in force when it was announced, in words.

        ``before`` is the symbol's previous line. Raises DataInvalid where no bounds cover the line.
        """
        where = f"{path}: line {line['seq'] + 1}"
        at = micros(line["announced_at"], where)
        return _in_force(self.bounds, at, where).breaches(line, before, self.freed(line["symbol"], at))

    def freed(self, symbol: str, at: int) -> set[str]:
        """Parameters whose step acknowledged overrides of the symbol free at an instant.

        A floor lifts initial margins alone; a cap lowers them, so that maximum leverage rises.
        """
        named = (o for o in self.overrides if o.symbol in (symbol, EVERY_SYMBOL))
        acting = [o for o in named if o.acknowledged and o.start <= at < o.expires]
        floors = {"im_ppm" for o in acting if o.im_floor_ppm is not None}
        return floors | {"max_leverage_milli" for o in acting if o.im_cap_ppm is not None}


def read_events(path: str | Path, registry: Registry | None = None) -> list[dict[str, Any]]:
    """Every event of a log, signed or not, checked.

    Raises DataInvalid naming the line that does not hold or, with a registry, whose ``who`` could never sign it:
    once others have signed such a line, no reader would accept the log.
    """
    lines = list(read_chain(path, EVENTS))
    _, overrides = _events(lines, str(path))
    if registry is not None:
        known = {key.name for key in registry.keys}
        for seq, override in overrides:
            if override.who not in known:
                raise DataInvalid(
                    f"{path}: line {seq + 1}: who: {override.who} is not in the registry; register that holder "
                    "(as revoked, if the key is no more), or remove the line while nobody has signed it"
                )
    return lines


def append_bounds(path: str | Path, bounds: Bounds, at: int) -> dict[str, Any]:
    """Propose bounds that hold from ``at`` (microseconds); returns the event, which key holders then sign."""
    return _propose(path, "BOUNDS", at, bounds.to_dict())


def append_override(path: str | Path, override: Override, at: int) -> dict[str, Any]:
    """Propose an override dated ``at`` (microseconds); returns the event, which key holders then sign.

    Raises DataInvalid where it breaks the bounds of the log, or begins before ``at``.
    """
    body = {name: getattr(override, name) for name in OVERRIDE}
    return _propose(path, "OVERRIDE", at, {**body, "start": iso(override.start), "expires": iso(override.expires)})


def _propose(path: str | Path, kind: str, at: int, body: Mapping[str, Any]) -> dict[str, Any]:
    event = {**body, "schema_version": SCHEMA_VERSION, "kind": kind, "at": iso(at)}
    return append(path, EVENTS, event, lambda lines: _events(lines, str(path)))


def _events(lines: Sequence[dict[str, Any]], path: str) -> tuple[list[tuple[int, Bounds]], list[tuple[int, Override]]]:
    bounds: list[tuple[int, Bounds]] = []
    overrides: list[tuple[int, Override]] = []
    latest: int | None = None
    for line in lines:
        where = f"{path}: line {line['seq'] + 1}"
        kind, at = line.get("kind"), micros(line["at"], f"{where}: at")
        body = {name: value for name, value in line.items() if name not in LINE}
        if line.get("schema_version") != SCHEMA_VERSION or kind not in ("BOUNDS", "OVERRIDE"):
            raise DataInvalid(f"{where}: kind {kind!r} of another version or unknown; known: BOUNDS, OVERRIDE")
        if latest is not None and at < latest:
            raise DataInvalid(f"{where}: at: lies before the event ahead of it; date it later")
        latest = at
        if kind == "BOUNDS":
            bounds.append((at, Bounds.from_dict(body, where)))
        else:
            override = _override(body, at, where)
            _within(override, _in_force(bounds, at, where), where)
            overrides.append((line["seq"], override))
    return bounds, overrides


def _override(body: dict[str, Any], at: int, where: str) -> Override:
    if odd := OVERRIDE.symmetric_difference(body):
        raise DataInvalid(f"{where}: missing or unknown keys {', '.join(sorted(odd))}")
    texts = all(isinstance(body[name], str) and body[name].strip() for name in ("symbol", "who", "why"))
    margins = [body[name] for name in ("im_floor_ppm", "im_cap_ppm")]
    numbers = all(value is None or type(value) is int for value in margins)
    if not texts or not numbers or type(body["acknowledged"]) is not bool:
        raise DataInvalid(f"{where}: symbol, who and why must be texts, floor and cap whole numbers or null")
    given = [value for value in margins if value is not None]
    if sorted(given) != given:
        raise DataInvalid(f"{where}: im_floor_ppm is above im_cap_ppm")
    start, expires = (micros(body[name], f"{where}: {name}") for name in ("start", "expires"))
    if not at <= start < expires:
        raise DataInvalid(f"{where}: must hold at <= start < expires; an override neither looks back nor lacks an end")
    try:
        return Override(**{**body, "start": start, "expires": expires})
    except UsageError as error:
        raise DataInvalid(f"{where}: {error}") from None


def _within(override: Override, bounds: Bounds, where: str) -> None:
    if override.expires - override.start > bounds.override_hours * HOUR:
        raise DataInvalid(f"{where}: lasts longer than the {bounds.override_hours} hours that the bounds allow")
    tables = bounds.symbols.values() if override.symbol == EVERY_SYMBOL else (bounds.of(override.symbol),)
    for limit in (table["im_ppm"] for table in tables):
        for value in (override.im_floor_ppm, override.im_cap_ppm):
            if value is not None and not limit.floor <= value <= limit.cap:
                raise DataInvalid(f"{where}: im_ppm {value} lies outside the bounds {limit.floor}..{limit.cap}")


def _in_force(bounds: tuple[tuple[int, Bounds], ...] | list[tuple[int, Bounds]], at: int, where: str) -> Bounds:
    found = next((item for since, item in reversed(bounds) if since <= at), None)
    if found is None:
        raise DataInvalid(f"{where}: no signed bounds hold at {iso(at)}; the key holders set them first")
    return found
