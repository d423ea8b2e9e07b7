"""Nested tuning: arguments of members and of the combination, chosen on inner folds before an instant.

Members are searched one after the other, each on shared features, targets and reference (see ``training.inner``), then the
combination of all of them at their chosen values. A search is a sequence of trials by a tree-structured Parzen estimator
(Bergstra, Bardenet, Bengio and Kegl 2011), each seeded by the search and its own place in it; the first trial has the
configured values, and a trial that is worse than the median of the others after some folds is cut short.

What is promised of a search that was killed and run again: finished trials are read back, the trial in flight is proposed
again with the same values, of which finished folds are kept, and the outcome is that of a search that was never stopped,
with the same code, libraries, data and processor family. Numbers that the storage gives to trials skip the killed ones, and
no time that anything took is part of the outcome.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from features import locking
from features.errors import Interrupted, UsageError
from features.market import Market
from features.store import write_atomically
from training.config import RunConfig
from training.engine import Engine, Progress
from training.folds import code_sha256
from training.inner import Inner
from training.scorecard import nullable, to_json_bytes
from training.sensitivity import sensitivity
from training.space import Space, configured
from training.tracking import Run, Tracking
from training.trials import COMBINATION, Search, Searcher, with_values

__all__ = ["CHOSEN", "DOCUMENT", "Tuned", "tune"]

SCHEMA_VERSION: Final = 1
DOCUMENT: Final = "tuning.json"
CHOSEN: Final = "chosen.toml"
IDENTITY: Final = "search.json"


@dataclass(frozen=True)
class Tuned:
    """A finished search: the configuration with the chosen values, the document that tells of it, and where both lie."""

    out: Path
    config: RunConfig
    document: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Where the files lie, and what was found for each subject, without the single trials."""
        return {
            "config": str(self.out / CHOSEN),
            "document": str(self.out / DOCUMENT),
            "subjects": [{k: v for k, v in subject.items() if k != "trials"} for subject in self.document["subjects"]],
        }

    def summary(self) -> str:
        """One line a subject, and where the configuration lies."""
        lines = []
        for told in self.document["subjects"]:
            gain = told["gain"]
            best = "the best tried" if told["best"] == told["configured"] else "best tried"
            verdict = "takes" if told["taken"] else f"keeps the configured values; {best}"
            lines.append(
                f"{told['subject']}: {verdict} {json.dumps(told['best'])}, loss {told['loss_best']:.4f} of har_seasonal's "
                f"against {told['loss_configured']:.4f}, saves {_percent(gain['value'])} [{_percent(gain['low'])}, "
                f"{_percent(gain['high'])}] over {told['finished']} trials, {told['cut_short']} cut short"
            )
        return "\n".join([*lines, f"configuration: {self.out / CHOSEN}"])


def tune(
    market: Market,
    config: RunConfig,
    space: Space,
    *,
    before: pd.Timestamp,
    out: str | Path,
    trials: int = 40,
    months: int = 18,
    seed: int = 1,
    engine: Engine | None = None,
    tracking: Tracking | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Choose what the ``space`` leaves open, on inner folds of the ``months`` before the instant ``before``.

    Nothing that became known later is read. Writes ``chosen.toml``, which ``RunConfig.load`` takes, and ``tuning.json``. The
    best values are taken where the 90 % interval of what they save over the configured ones lies above zero. ``tracking``
    gets one run with a child a trial.

    Raises ``UsageError`` where ``out`` holds another search or history is too short, ``Locked``, and ``Interrupted`` when
    stopped.
    """
    if trials < 1:
        raise UsageError(f"trials {trials}: at least one is needed, that of the configured values")
    folder = Path(out)
    identity = {
        "config": config.sha256,
        "space": space.model_dump(mode="json"),
        "data": market.as_of(before).data_sha256,
        "before": before.isoformat(),
        "months": months,
        "seed": seed,
        "code": code_sha256(),
    }
    try:
        with locking.writing(folder):
            _claim(folder, identity)
            return _search(market, config, space, identity, folder, trials, engine or Engine(), tracking, progress)
    except KeyboardInterrupt:
        raise Interrupted(f"the search was stopped; its trials are kept in {folder}, run again to resume") from None


def _search(
    market: Market,
    config: RunConfig,
    space: Space,
    identity: Mapping[str, Any],
    folder: Path,
    trials: int,
    engine: Engine,
    tracking: Tracking | None,
    progress: Progress | None,
) -> Tuned:
    before, months, seed = pd.Timestamp(identity["before"]), int(identity["months"]), int(identity["seed"])
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    with _parent(tracking, config, key, identity) as run:
        inner = Inner.of(market, config, before, months, folder / "folds", engine)
        told, chosen = [], config
        subjects = [*space.members, *([COMBINATION] if space.ensemble else [])]
        for subject in subjects:
            searcher = Searcher(inner, chosen, space, subject, folder, trials, seed, tracking, run, key, progress)
            search = searcher.search()
            document = _subject(search, searcher)
            told.append(document)
            if document["taken"]:
                chosen = with_values(chosen, subject, search.values)
        document = _facts(identity, inner, trials) | {"subjects": told, "chosen_sha256": chosen.sha256}
        write_atomically(folder / DOCUMENT, to_json_bytes(document))
        write_atomically(folder / CHOSEN, chosen.to_toml().encode())
        if run is not None:
            run.artifacts(folder / DOCUMENT)
            run.artifacts(folder / CHOSEN)
    return Tuned(folder, chosen, document)


def _claim(folder: Path, identity: Mapping[str, Any]) -> None:
    """Make the folder this search's, or refuse one that holds another's trials."""
    place, text = folder / IDENTITY, to_json_bytes(dict(identity))
    if not place.is_file():
        write_atomically(place, text)
        return
    held = json.loads(place.read_bytes())
    if held != json.loads(text):
        differing = next(name for name in identity if held.get(name) != json.loads(text)[name])
        raise UsageError(f"{folder} holds the trials of another search (its {differing} differs); name another --out")


def _subject(search: Search, searcher: Searcher) -> dict[str, Any]:
    """What the search of one subject found, as the document tells it."""
    found = search.best.gain_over(search.configured)
    start = configured(searcher.space.of(searcher.subject), searcher.subject, searcher.config)
    return {
        "subject": searcher.subject,
        "configured": start,
        "best": search.values,
        "taken": bool(found.low > 0.0),
        "loss_configured": search.configured.mean,
        "loss_best": search.best.mean,
        "by_horizon": {
            str(h): {"configured": search.configured.by_horizon[h], "best": loss}
            for h, loss in search.best.by_horizon.items()
        },
        "gain": {name: nullable(getattr(found, name)) for name in ("value", "low", "high")},
        "finished": len(search.trials),
        "cut_short": sum(t.state.name == "PRUNED" for t in search.trials),
        "sensitivity": sensitivity(search.trials, searcher.seed),
        "trials": [{"values": dict(t.params), "loss": t.value, "state": t.state.name.lower()} for t in search.trials],
    }


def _facts(identity: Mapping[str, Any], inner: Inner, trials: int) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        **{name: identity[name] for name in ("before", "months", "seed", "config", "data", "space")},
        "trials": trials,
        "horizons": list(inner.config.horizons),
        "proxy": inner.config.proxy,
        "folds": [[f"{fold.test_start:%Y-%m-%d}", f"{fold.test_end:%Y-%m-%d}"] for fold in inner.folds],
        "rows_scored": {str(h): int(np.isfinite(loss).sum()) for h, loss in inner.reference.items()},
    }


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:+.2%}"


@contextmanager
def _parent(
    tracking: Tracking | None, config: RunConfig, key: str, identity: Mapping[str, Any]
) -> Iterator[Run | None]:
    if tracking is None:
        yield None
        return
    with tracking.run(f"tune {config.name}", run_key=f"tune-{key}", tags={"kind": "tuning"}) as run:
        run.params({"search": {k: v for k, v in identity.items() if k != "space"}, "space": identity["space"]})
        yield run
