"""The command ``features report`` and its page."""

from __future__ import annotations

import copy
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from features.errors import UsageError
from features.pipeline import FAMILIES
from forecaster.cli import main
from forecaster.commands.features import FeatureReport, features_report
from forecaster.commands.schemas import schema
from forecaster.report.feature_pages import write_features

SPAN = {"start": "2023-04-15", "end": "2023-05-05"}
SETTINGS = (
    'features.families=["memory", "calendar", "volume"]',
    "members.lightgbm.params.min_data_in_leaf=50",
    "members.lightgbm.params.rounds=20",
    "walkforward.refit=1",
    "walkforward.warmup_months=0",
)
HOSTILE = "<script>alert(1)</script>"

pytestmark = pytest.mark.usefixtures("environment")


class Page(HTMLParser):
    """Tables as text, tags that were opened, and whether all were closed again."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.words = ""
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        self.links += [str(given[name]) for name in ("href", "src") if given.get(name)]
        if tag not in {"meta", "link", "wbr", "br"}:
            self._open.append(tag)
        if tag == "table":
            self._rows: list[list[str]] = self.tables.setdefault(str(given["id"]).removeprefix("table-"), [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data
        if {"td", "th"} & set(self._open):
            self._rows[-1][-1] += data


@pytest.fixture(scope="module")
def reported(store: Path, home: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureReport:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORECASTER_HOME", str(home))
        patch.setattr(FAMILIES["volume"], "group", "flow")
        out = tmp_path_factory.mktemp("features")
        return features_report(store, **SPAN, out=out, horizons=[1, 4], by_family=True, jobs=1, overrides=SETTINGS)


@pytest.fixture(scope="module")
def page(reported: FeatureReport) -> Page:
    return Page((reported.out / "features.html").read_text())


def test_result_names_its_files_and_has_the_published_shape(reported: FeatureReport) -> None:
    told = reported.to_dict()
    jsonschema.validate(told, schema("output.features.report").to_dict())
    assert json.loads(Path(told["document"]).read_text()) == reported.document
    assert Path(told["page"]).is_file()
    kinds = [(v["subject"], v["kind"]) for v in told["verdicts"]]
    assert kinds == [("volume" if "family" in kind else "flow", kind)
                     for kind in ("ladder", "removed", "family_added", "family_removed")]  # fmt: skip
    lines = reported.summary().splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["ladder", "flow:"], ["removed", "flow:"]]
    assert lines[-1] == f"report: {told['page']}"


def test_page_tells_every_verdict_and_every_feature(reported: FeatureReport, page: Page) -> None:
    document = reported.document
    verdicts = {row[0]: row for row in page.tables["verdicts"][1:]}
    for verdict in document["verdicts"]:
        column = 1 if verdict["kind"] in ("ladder", "family_added") else 2
        assert verdicts[verdict["subject"]][column] == verdict["verdict"] + verdict["reason"]
    assert "Every family that was studied is built by default." in page.words
    features = [name for family in document["families"] for name in family["columns"]]
    assert [row[0] for row in page.tables["coverage"][1:] if len(row) > 1] == features
    assert sorted(row[0] for row in page.tables["drift"][1:]) == sorted(features)
    several = [c["representative"] for c in document["clusters"] if len(c["features"]) > 1]
    assert [row[0] for row in page.tables["clusters"][1:]] == several
    assert len(page.tables["levels"]) == 1 + 2 + len(document["levels"])


def test_page_prints_the_figures(reported: FeatureReport, page: Page) -> None:
    step = next(s for s in reported.document["steps"] if s["model"] == "log_mean" and s["horizon_hours"] == 4)
    rows = page.tables["ladder"]
    at = next(k for k, row in enumerate(rows) if row == ["4 h ahead"])
    (row,) = [row for row in rows[at:] if row[1:2] == ["log_mean"]]
    percent = [f"{100 * step[name]:+.2f}\u00a0%".replace("-", "−") for name in ("gain", "gain_low", "gain_high")]
    assert row[2] == f"{percent[0]}{percent[1]} to {percent[2]}"
    assert row[4] == f"{step['gain_better']} of {step['gain_symbols']}"
    assert row[5].startswith(f"{100 * step['onset']:+.2f}".replace("-", "−"))


def test_page_stands_alone_and_is_the_same_again(reported: FeatureReport, page: Page, tmp_path: Path) -> None:
    assert [link for link in page.links if not link.startswith(("#", "data:"))] == []
    assert "script" not in page.tags
    write_features(tmp_path / "again.html", reported.document)
    assert (tmp_path / "again.html").read_bytes() == (reported.out / "features.html").read_bytes()


def test_page_escapes_names_and_says_what_is_missing(reported: FeatureReport, tmp_path: Path) -> None:
    document: dict[str, Any] = copy.deepcopy(dict(reported.document))
    document["focus"], document["symbols"] = HOSTILE, [HOSTILE]
    document["families"][2]["default"] = False
    for row in document["steps"]:
        row.update({name: None for name in row if name.startswith(("gain", "onset")) and row[name] is not None})
        row.update(gain_by_year={}, onset_by_year={}, gain_better=0, gain_symbols=0, onset_better=0, onset_symbols=0)
    document["coverage"][0].update(share=0.0, first=None, last=None, symbols=0)
    document["drift"][0].update(reference_until=None, quarters={}, worst_month=None, worst=None)
    write_features(tmp_path / "page.html", document)
    told = Page((tmp_path / "page.html").read_text())
    assert "script" not in told.tags
    assert HOSTILE in told.words
    assert "Not built by default: volume." in told.words
    assert f"Never present in these data: {document['coverage'][0]['feature']}." in told.words
    assert "intervals of 90 %" not in told.words


def test_one_group_has_no_ladder(reported: FeatureReport, tmp_path: Path) -> None:
    document = {**reported.document, "verdicts": [], "steps": [], "levels": []}
    write_features(tmp_path / "page.html", document)
    assert "there is no ladder to climb" in Page((tmp_path / "page.html").read_text()).words


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"start": "spring"}, "--start spring: write a date"),
        ({"symbols": ["BTCUSD"]}, "there is no symbol 'BTCUSD'"),
        ({"focus": "BTCUSD"}, "there is no symbol 'BTCUSD'"),
        ({"focus": "BTCUSDT", "symbols": ["BTCUSDT"]}, "give one of them"),
        ({"end": None}, "give --start T and --end T"),
        ({"overrides": [*SETTINGS, "members.garch.params.o=1"]}, "no item garch"),
    ],
)
def test_what_cannot_be_asked_is_refused(given: dict[str, Any], told: str, store: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=told):
        features_report(**{"store": store, **SPAN, "out": tmp_path, "overrides": SETTINGS, "jobs": 1, **given})


def test_command_line_reaches_the_study(
    store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FAMILIES["volume"], "group", "flow")
    words = ["features", "report", "--store", store, "--start", "2023-04-15", "--end", "2023-04-25", "--horizons", "4",
             "--focus", "BTCUSDT", "--out", tmp_path / "study", "--jobs", "1", "--json"]  # fmt: skip
    for setting in SETTINGS:
        words += ["--set", setting]
    assert main([str(word) for word in words]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["page"] == str(tmp_path / "study" / "features.html")
    document = json.loads((tmp_path / "study" / "features.json").read_text())
    assert (document["focus"], document["horizons"]) == ("BTCUSDT", [4])
    models = ["har_x", "lightgbm", "log_mean", "har_x_own"]
    assert [(r["kind"], r["model"], r["gain_symbols"]) for r in told["steps"]] == [
        (kind, model, 1) for model in models for kind in ("ladder", "removed")
    ]
