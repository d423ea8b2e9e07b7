"""What the features are worth, and what they are like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.errors import UsageError
from forecaster.commands import inputs
from forecaster.commands.inputs import Moment, StoreLike
from forecaster.settings import Settings
from forecaster.terminal import Progress

__all__ = ["FeatureList", "FeatureReport", "features_list", "features_report"]


@dataclass(frozen=True)
class FeatureList:
    """Every feature with what it declares; as text, the page that the documentation shows."""

    def to_dict(self) -> dict[str, Any]:
        """Name, family, group, formula, unit, look-back, sign, feeds and reference of each, and whether by default."""
        from features.pipeline import DEFAULT_FAMILIES, FAMILIES, FeaturePipeline

        described = FeaturePipeline(tuple(FAMILIES)).describe()
        described["default"] = described["family"].isin(DEFAULT_FAMILIES)
        return {"features": described.to_dict("records")}

    def summary(self) -> str:
        """The reference in Markdown."""
        from features.reference import markdown

        return markdown().rstrip("\n")


def features_list() -> FeatureList:
    """Every feature there is."""
    return FeatureList()


@dataclass(frozen=True)
class FeatureReport:
    """A finished feature study: its document, and the folder that holds ``features.json`` and ``features.html``."""

    out: Path
    document: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Where the files lie, the verdicts, and the steps behind them."""
        return {
            "document": str(self.out / "features.json"),
            "page": str(self.out / "features.html"),
            "verdicts": self.document["verdicts"],
            "steps": self.document["steps"],
        }

    def summary(self) -> str:
        """One line a verdict, and where the page lies."""
        lines = [f"{v['kind']:>14} {v['subject']}: {v['verdict']}; {v['reason']}" for v in self.document["verdicts"]]
        return "\n".join([*lines, f"report: {self.out / 'features.html'}"])


def features_report(
    store: StoreLike = None,
    *,
    start: Moment,
    end: Moment,
    out: str | Path,
    symbols: Sequence[str] = (),
    horizons: str | Sequence[int] | None = None,
    focus: str | None = None,
    by_family: bool = False,
    jobs: int | None = None,
    engine: str | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> FeatureReport:
    """Study every feature on forecasts of ``start <= origin < end``; resumes what was stopped.

    ``focus``: score this symbol alone, at the hours at which a group's own feeds exist. ``by_family``: also add and remove
    every family. ``engine``: where fits are made, ``loky`` (``jobs`` processes of this machine) or ``dask://HOST:PORT``.
    Raises ``UsageError`` for what cannot be asked, ``Interrupted`` when stopped.
    """
    from forecaster.report.feature_pages import write_features
    from training.feature_study import SETTINGS, study

    first, last = inputs.instant(start, "--start"), inputs.instant(end, "--end")
    if first is None or last is None:
        raise UsageError("no span is named: give --start T and --end T")
    if focus and symbols:
        raise UsageError("--focus scores one symbol, --symbols several; give one of them")
    config = inputs.configuration(None, horizons, [*SETTINGS, *overrides])
    environment = Settings.load()
    market = inputs.read(store, environment)
    inputs.check_symbols(market, [focus] if focus else symbols)
    document = study(
        market,
        config,
        start=first,
        end=last,
        out=out,
        symbols=symbols or None,
        focus=focus,
        by_family=by_family,
        engine=inputs.engine(engine, jobs, config, environment),
        progress=progress,
    )
    write_features(Path(out) / "features.html", document)
    return FeatureReport(Path(out), document)
