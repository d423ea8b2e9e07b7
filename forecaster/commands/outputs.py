"""The JSON objects of files and of ``--json`` as types, from which ``forecaster schema`` makes their JSON Schemas.

Where a result shows its own fields, its class is the type; the models here are of those that show something else.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, TypeAdapter, WithJsonSchema

from features.families import Group, Sign
from features.leak_report import Check
from features.quality import Finding
from features.sources import BadRow, Kind
from features.store import StoredFile
from forecaster.commands.diagnoses import Diagnostics
from forecaster.commands.explaining import Explained
from forecaster.commands.judgements import Climbed, LeftOut, Scored, Searched
from forecaster.commands.schedules import Explanation, Schedule
from forecaster.commands.schemas import Names
from forecaster.commands.serving import Promoted, Trained
from forecaster.policy.comparison import METRICS
from forecaster.sinks.parquet import Written
from forecaster.terminal import Failure
from training.costs import Costs
from training.feature_gains import Kind as StepKind
from training.scorecard import scores_schema

__all__ = ["FILES", "OUTPUTS", "json_schema"]

_NUMBER: Final = {"type": ["number", "null"]}
_MARGIN: Final = {
    "type": "object",
    "properties": {
        "policy": {"type": "string"},
        "symbol": {"type": "string", "description": "* is over all symbols"},
        **dict.fromkeys(METRICS, _NUMBER),
        "n": {"type": "integer", "minimum": 0},
    },
    "required": ["policy", "symbol", *METRICS],
}


class Manifest(BaseModel):
    """``manifest.json`` of a store: its files, in order of import."""

    schema_version: Literal[1]
    files: list[StoredFile]


class Error(BaseModel):
    """What any command prints in place of its result when it fails."""

    error: Failure


class Skipped(BaseModel):
    """A file that holds nothing for the store."""

    file: str
    reason: str


class Note(BaseModel):
    """A file that was read but looks odd."""

    file: str
    remark: str


class Imported(BaseModel):
    """Files written, sound rows by table, and what was kept out."""

    source: Kind
    written: list[str]
    rows: dict[str, int]
    quarantined: list[BadRow]
    skipped: list[Skipped]
    notes: list[Note]


class Fetched(BaseModel):
    """What was downloaded, found, and refused, and what became of the rows."""

    downloaded: list[str]
    present: list[str]
    revised: list[str]
    not_published: list[str]
    refused: list[Skipped]
    imports: list[Imported]
    rows: dict[str, int]
    newest: dict[str, str | None]


class Checked(BaseModel):
    """Findings, errors first, and the rows looked at, by table."""

    errors: int
    warnings: int
    rows: dict[str, int]
    findings: list[Finding]


class Evaluated(BaseModel):
    """Where everything lies, the mean scores over symbols, the margins, and what it cost."""

    forecasts: str
    scores: str
    report: str
    schedule: Schedule | None
    rows: int
    mean_scores: list[Annotated[dict[str, Any], WithJsonSchema(scores_schema()["properties"]["scores"]["items"])]]
    margins: list[Annotated[dict[str, Any], WithJsonSchema(_MARGIN)]]
    costs: Costs


class Forecasted(BaseModel):
    """The model, its newest origin, and what writing its forecasts changed in the sink."""

    model_uri: str
    origin: str
    rows: int
    sink: str | None
    written: Written | None


class Distance(BaseModel):
    """QLIKE of the ensemble, and of the forecast that knows the true state."""

    ensemble: float
    oracle: float


class Demonstrated(BaseModel):
    """Everything the product does, once; ``oracle`` by horizon."""

    evaluation: Evaluated
    oracle: dict[str, Distance]
    replay: Schedule
    forecast: Forecasted
    report: str
    seconds: float


class LeakedCell(BaseModel):
    """The first bad cell of a column."""

    check: Check
    table: str
    column: str
    symbol: str
    time: str
    cut: str
    horizon_hours: int | None
    model: str | None


class LeakChecked(BaseModel):
    """Instants at which data were cut, cells compared by check and table, and what differed."""

    clean: bool
    cuts: list[str]
    cells: dict[str, int]
    scope: str
    leaks: list[LeakedCell]


class FeatureVerdict(BaseModel):
    """What a group or a family of features is worth, in one word, and between which sets of families."""

    subject: str
    kind: StepKind
    base: list[str]
    full: list[str]
    verdict: Literal["pays", "harms", "no evidence", "not scored"]
    reason: str


class FeatureStep(BaseModel):
    """Share of QLIKE saved and onset skill added, with 90 % intervals, for one model and horizon."""

    subject: str
    kind: StepKind
    model: str
    horizon_hours: int
    rows: int
    days: int
    gain: float | None
    gain_low: float | None
    gain_high: float | None
    gain_joint_low: float | None
    gain_joint_high: float | None
    gain_better: int
    gain_symbols: int
    gain_full: float | None
    gain_by_year: dict[str, float | None]
    onset: float | None
    onset_low: float | None
    onset_high: float | None
    onset_joint_low: float | None
    onset_joint_high: float | None
    onset_better: int
    onset_symbols: int
    onset_by_year: dict[str, float | None]


class Feature(BaseModel):
    """What one feature declares; ``default``: whether a run without further settings computes it."""

    name: str
    family: str
    group: Group
    formula: str
    unit: str
    lookback: int
    sign: Sign
    feeds: str
    reference: str
    default: bool


class FeaturesListed(BaseModel):
    """Every feature there is."""

    features: list[Feature]


class FeaturesReported(BaseModel):
    """Where the study of the features lies, its verdicts, and the figures behind them."""

    document: str
    page: str
    verdicts: list[FeatureVerdict]
    steps: list[FeatureStep]


FILES: Final[dict[str, type]] = {"diagnostics": Diagnostics, "manifest": Manifest, "error": Error}
OUTPUTS: Final[dict[str, type]] = {
    "demo": Demonstrated,
    "run": Evaluated,
    "evaluate": Evaluated,
    "tune": Searched,
    "scorecard": Scored,
    "leave-out": LeftOut,
    "ladder": Climbed,
    "train": Trained,
    "promote": Promoted,
    "forecast": Forecasted,
    "leakcheck": LeakChecked,
    "schema": Names,
    "data.fetch": Fetched,
    "data.import": Imported,
    "data.check": Checked,
    "features.list": FeaturesListed,
    "features.report": FeaturesReported,
    "explain": Explained,
    "policy": Schedule,
    "policy.replay": Schedule,
    "policy.explain": Explanation,
}


def json_schema(kind: type) -> dict[str, Any]:
    """JSON Schema (2020-12) of a type; its objects have no fields but those named."""
    document = TypeAdapter(kind).json_schema()
    _close(document)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document}


def _close(node: Any) -> None:
    if isinstance(node, dict):
        if node.get("type") == "object" and "properties" in node:
            node.setdefault("additionalProperties", False)
        for part in node.values():
            _close(part)
    elif isinstance(node, list):
        for part in node:
            _close(part)
