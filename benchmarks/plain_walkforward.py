"""The walk-forward against the plain loop a researcher would write: same members, rows and refit dates, pandas and arch.

    python benchmarks/plain_walkforward.py --store STORE [--folds 6] [--start T] [--end T] [--horizons 1,4,24]
        [--work DIR] [--set key=value] [--quick]

Ours is ``training.evaluation.evaluate`` with one job in a fresh folder. The peer reads the same store, makes the same
features with pandas (``feature_matrix.PandasPanel``), targets by ``rolling``, then fold by fold the members of
``plain_members`` (arch: one cold fit from its own start per symbol, model and refit date), and at the end trailing levels,
the mean of logs, empirical laws, scores and arch's confidence sets (``plain_scores``). Each side is a process of its own,
one thread, CPU time from an open market to written scores; imports and compilation are not counted.

LightGBM's own work is told apart on both sides alike: the peer gives ``lightgbm.train`` an unbuilt Dataset, so that it is
built inside, while ours builds it before. Construction of Datasets, wherever it happens, and ``train`` without it are two
figures of each side, and both are taken off both sides for the ratio without LightGBM's train.

``--folds k`` measures k folds of the peer spread over all and scales their seconds up; 0 measures every one. Finished
folds are kept in ``--work`` with their seconds (``folds.jsonl``) and are not made again by the same code and libraries on
the same machine; how many were taken over is told.

What ours does and the peer does not: certify each fit and try several starts; hash data, settings and parameters; commit
each fold atomically; quantiles of the members' training residuals; weights from resolved rows, states and Pareto tails of
the law, calibration of regime probabilities; status, reason and provenance of each row; the whole forecast table of every
member; scores by symbol, back-tests, bootstrap intervals of the gains. The peer's figure is lower for it.

Gate: on the folds measured, each member's QLIKE (at each symbol's best level, since both sides level every member on what
is resolved; horizons pooled) is not above the peer's by more than 1 %, ours leaves no row open that the peer forecasts and
that came, and both trained as many boosters a fold.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from measuring import Child, Gate, Result, Timing, child, machine, note, of, tell, undated
from plain_loop import boosting, boosting_counted, fold_file, loop, spread, total
from plain_members import MEMBERS, Seconds

from features.market import Market
from training.config import RunConfig
from training.evaluation import evaluate
from training.fold_store import read_fold
from training.folds import code_sha256
from training.material import prepare
from training.splits import utc
from training.walkforward import plan

GOAL: Final = "evaluate, against the plain loop a researcher would write"
NEWEST: Final = pd.Timestamp("2025-07-01", tz="UTC")  # so that the figures of a store that grows stay comparable
WORSE: Final = 1.01
PLAN: Final = "plan.json"
CAME: Final = "came.parquet"
OURS: Final = "ours"


def main() -> int:
    given = _options()
    if given.run is None:
        return tell(results(given))
    print(json.dumps(SIDES[given.run](given)))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--start", help="default: two years before the end, or half a year after the first bar")
    parser.add_argument("--end", help="default: the midnight after the last bar, at most 2025-07-01")
    parser.add_argument("--horizons", default="1,4,24")
    parser.add_argument("--folds", type=int, default=6, help="folds of the peer that are measured; 0: all")
    parser.add_argument("--work", default="build/bench/plain-walkforward", help="where finished folds are kept")
    parser.add_argument("--set", action="append", default=[], help="a setting of the run, key=value")
    parser.add_argument("--quick", action="store_true", help="no warm-up folds, one fold of the peer")
    parser.add_argument("--run", choices=sorted(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    first, last = _span(Path(given.store))
    given.end = given.end or f"{min(last.ceil('D'), NEWEST):%Y-%m-%d}"
    earliest = max(pd.Timestamp(given.end, tz="UTC") - pd.DateOffset(years=2), first + pd.DateOffset(months=6))
    given.start = given.start or f"{earliest.ceil('D'):%Y-%m-%d}"
    if given.quick:
        given.folds, given.set = 1, [*given.set, "walkforward.warmup_months=0"]
    given.folder = given.folder or _folder(given)
    return given


def _span(store: Path) -> tuple[pd.Timestamp, pd.Timestamp]:
    """First and last close of the store's hourly bars."""
    files = json.loads((store / "manifest.json").read_text())["files"]
    bars = [file for file in files if file["table"] == "bars" and file["interval"] == "1h"]
    return pd.Timestamp(min(f["first"] for f in bars)), pd.Timestamp(max(f["last"] for f in bars))


def _config(given: argparse.Namespace, *more: str) -> RunConfig:
    """What the peer has, too: its members, and no classifier."""
    members = ", ".join(f'{{kind = "{kind}"}}' for kind in MEMBERS)
    peer = [f"members=[{members}]", "regimes.classifier=false", f"horizons=[{given.horizons}]"]
    return RunConfig.load(overrides=[*peer, *given.set, *more])


def results(given: argparse.Namespace) -> Iterator[Result]:
    """Two figures from one pair of processes: without the time inside LightGBM, and everything."""
    _side("plan", given)
    note("ours")
    mine, own = _side("ours", given)
    note("the plain loop")
    other, theirs = _side("peer", given)
    folds = len(json.loads((given.folder / PLAN).read_text()))
    measured = len(theirs["folds"])
    scale = folds / measured
    once = sum(theirs["once"].values())
    inside = boosting(own), scale * sum(map(boosting, theirs["folds"]))
    whole = once + scale * sum(map(total, theirs["folds"]))
    warm = once + scale * sum(total(fold, warm=True) for fold in theirs["folds"])
    found = _gate(given, own, theirs)
    figures = {
        **_inside("train", own, theirs["folds"], scale),
        **_inside("datasets", own, theirs["folds"], scale),
        "once_peer_s": theirs["once"],
        "by_member_peer_s": _by_member(theirs["folds"], scale),
        "peak_ours_mib": round(mine.peak_mib),
        "peak_peer_mib": round(other.peak_mib),
    }
    detailed = Gate(found.passed, found.what, {**found.figures, **figures})
    told = f"{found.figures['symbols']} symbols, {given.start} to {given.end}, horizons {given.horizons} h; "
    told += f"{measured} of the peer's {folds} folds measured" + ("" if measured == folds else ", scaled up")
    told += f", {theirs['taken_over']} of them taken over with their seconds from an earlier run"
    for case, less_own, less_peer, gate, floor, aim in (
        ("without the time inside LightGBM's train and its Datasets", *inside, detailed, 8.0, 20.0),
        ("everything", 0.0, 0.0, found, 1.5, 2.0),
    ):
        started = f"with arch started from an earlier fold's optimum the peer takes {warm - less_peer:.0f} s"
        timing = Timing((own["all"] - less_own,), (whole - less_peer,), gate)
        peer = f"{of('arch')}, {of('pandas')}, {of('lightgbm')}"
        yield Result(GOAL, case, peer, timing, floor, aim, f"{told}; {started}")


def _inside(what: str, own: dict[str, float], folds: list[dict[str, float]], scale: float) -> dict[str, float]:
    """Seconds of LightGBM's ``train`` or of its Datasets on both sides."""
    theirs = scale * sum(fold.get(what, 0.0) for fold in folds)
    return {f"{what}_ours_s": round(own.get(what, 0.0), 1), f"{what}_peer_s": round(theirs, 1)}


def _by_member(folds: list[dict[str, float]], scale: float) -> dict[str, float]:
    names = sorted({name for fold in folds for name in fold})
    return {name: round(scale * sum(fold.get(name, 0.0) for fold in folds), 1) for name in names}


def _gate(given: argparse.Namespace, own: dict[str, float], theirs: dict[str, Any]) -> Gate:
    """Each member's QLIKE against the peer's, levelled, on the folds measured; no row left out; as many boosters a fold."""
    work = given.folder
    borders = json.loads((work / PLAN).read_text())
    made = {(held := read_fold(file.parent)).first_origin: held.forecasts for file in (work / OURS).rglob("fold.json")}
    came = pd.read_parquet(work / CAME)
    terms: dict[str, list[tuple[float, float, int]]] = {}
    for number in spread(len(borders), given.folds):
        ours, peer = made[pd.Timestamp(borders[number][0])], pd.read_parquet(fold_file(work, borders[number][0]))
        for column in peer:
            member, _, h = str(column).rpartition(":")
            terms.setdefault(member, []).append(compared(ours[member, int(h)], peer[column], np.log(came[h])))
    means = {member: np.mean(rows, axis=0)[:2] for member, rows in terms.items()}
    figures = {member: {"ours": round(a, 5), "peer": round(b, 5)} for member, (a, b) in means.items()}
    left = {member: sum(row[2] for row in rows) for member, rows in terms.items()}
    boosters = {
        "ours": own.get("boosters", 0.0) / len(borders),
        "peer": sum(fold.get("boosters", 0.0) for fold in theirs["folds"]) / len(theirs["folds"]),
    }
    passed = all(a <= WORSE * b for a, b in means.values()) and not any(left.values())
    passed &= boosters["ours"] == boosters["peer"]
    what = (
        "each member's QLIKE, levelled, not above the peer's by more than 1 %, no row left out, as many boosters a fold"
    )
    symbols = came.index.get_level_values("symbol").nunique()
    return Gate(
        passed, what, {"qlike": figures, "rows_left_out": left, "boosters_a_fold": boosters, "symbols": symbols}
    )


def compared(ours: pd.Series, peer: pd.Series, came: pd.Series) -> tuple[float, float, int]:
    """QLIKE of both on the rows that both forecast and that came, and how many more the peer forecasts; logs of variances."""
    rows = pd.DataFrame({"ours": ours.reindex(peer.index), "peer": peer, "came": came.reindex(peer.index)})
    asked = rows[np.isfinite(rows[["peer", "came"]]).all(axis=1)]
    both = asked[np.isfinite(asked["ours"])]
    losses = [_qlike(_levelled(both["came"] - both[side])) for side in ("ours", "peer")]
    return losses[0], losses[1], len(asked) - len(both)


def _levelled(error: pd.Series) -> pd.Series:
    """Log errors less the log of each symbol's mean of V / F."""
    return error - np.log(np.exp(error).groupby(level="symbol").transform("mean"))


def _qlike(error: pd.Series) -> float:
    return float((np.exp(error) - error - 1.0).mean())


# -- both sides, each a process of its own ---------------------------------------------------------------------------


def _side(name: str, given: argparse.Namespace) -> tuple[Child, dict[str, Any]]:
    """Run one side and read what it told."""
    settings = [part for setting in given.set for part in ("--set", setting)]
    named = [f"--{key}={getattr(given, key)}" for key in ("store", "start", "end", "horizons", "folds", "folder")]
    done = child([sys.executable, __file__, "--run", name, *named, *settings])
    return done, json.loads(done.told.splitlines()[-1])


def borders(given: argparse.Namespace) -> dict[str, Any]:
    """The refit dates of ours, and what came, to files."""
    config, work = _config(given), given.folder
    material = prepare(Market.open(given.store), config)
    folds = plan(material, config, utc(given.start), utc(given.end))
    lines = [[str(t) for t in (fold.test_start, fold.test_end, fold.train_end)] for fold in folds]
    (work / PLAN).write_text(json.dumps(lines))
    rows = material.rows
    _, came = rows.frame(np.ones(len(rows.origin), dtype=np.bool_))
    came.rename(columns=str).to_parquet(work / CAME)
    return {}


def ours(given: argparse.Namespace) -> dict[str, float]:
    """The evaluation, after a short one that compiles and loads; its folder stays for the gate."""
    last, out, seconds = utc(given.end), given.folder / OURS, Seconds()
    short = _config(given, "walkforward.warmup_months=0")
    with tempfile.TemporaryDirectory() as folder:
        evaluate(Market.open(given.store), short, start=last - pd.DateOffset(days=3), end=last, out=folder, jobs=1)
    shutil.rmtree(out, ignore_errors=True)
    market = Market.open(given.store)
    with boosting_counted(seconds), seconds.of("all"):
        evaluate(market, _config(given), start=given.start, end=given.end, out=out, jobs=1)
    return seconds


def peer(given: argparse.Namespace) -> dict[str, Any]:
    """The plain loop over the folds that are to be measured."""
    work = given.folder
    planned = [tuple(line) for line in json.loads((work / PLAN).read_text())]
    chosen = spread(len(planned), given.folds)
    return loop(given.store, _config(given), (given.start, given.end), planned, chosen, work)


SIDES: Final = {"plan": borders, "ours": ours, "peer": peer}


def _folder(given: argparse.Namespace) -> Path:
    """A folder for every question asked of every state of data, code and libraries, on every machine."""
    here = Path(__file__).parent
    files = (
        here / "plain_loop.py",
        here / "plain_members.py",
        here / "feature_matrix.py",
        Path(given.store) / "manifest.json",
    )
    asked = f"{given.start} {given.end} {_config(given).sha256} {code_sha256()} {undated(machine())}"
    digest = hashlib.sha256(asked.encode() + b"".join(file.read_bytes() for file in files)).hexdigest()
    folder = Path(given.work) / digest[:12]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
