from __future__ import annotations

import copy
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats

from features.errors import DataInvalid, UsageError
from forecaster.report import cover, write
from forecaster.report.canvas import COLOURS, model_colour
from forecaster.report.evidence import excursion_hits, gather, storm
from forecaster.report.findings import Numbers, findings, percent, sentences
from forecaster.report.sections import regimes, risk
from models.base import EXCURSION_COLUMNS, FORECAST_SCHEMA, PROBABILITIES, RETURN_LEVELS, VARIANCE_LEVELS
from training.diagnostics import diagnostics
from training.scorecard import score

START, END = "2024-03-01", "2024-05-10"
DAYS, HISTORY = 70, 20 * 24
HORIZONS = (1, 24)
HOSTILE = "<script>alert(1)</script>"
SYMBOLS = ("A$B$USDT", HOSTILE, "ZZZ&币USDT")
NOISE = {"ensemble": 0.1, "har_seasonal": 0.3, "har": 0.4, "garch": 0.5, "ewma": 0.6, "other": 0.7}
HOUR = pd.Timedelta(hours=1)
CRASH = pd.Timestamp("2024-04-10 13:00", tz="UTC")
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "wbr"}


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, tables as text and as values."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.values: dict[str, list[list[str | None]]] = {}
        self.words: list[str] = []
        self._open: list[str] = []
        self._table = ""
        self.feed(text)
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.elements.append((tag, given))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self._table = str(given["id"]).removeprefix("table-")
            self.tables[self._table], self.values[self._table] = [], []
        elif tag == "tr":
            self.tables[self._table].append([])
            self.values[self._table].append([])
        elif tag in ("td", "th"):
            self.tables[self._table][-1].append("")
            self.values[self._table][-1].append(None)
        elif tag == "data":
            self.values[self._table][-1][-1] = given["value"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1:] == [tag], f"</{tag}> inside {self._open}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if "td" in self._open[-3:] or "th" in self._open[-2:]:
            self.tables[self._table][-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def market() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Forecasts of known quality in the contract's columns, and what came; one crash hour, one gap."""
    rng = np.random.default_rng(11)
    origins = pd.date_range(
        pd.Timestamp(START, tz="UTC") - HISTORY * HOUR, periods=HISTORY + DAYS * 24, freq="h", unit="us"
    )
    came, made = [], []
    for symbol in SYMBOLS:
        for horizon in HORIZONS:
            truth = horizon * np.exp(-9 + 0.8 * rng.normal(size=len(origins)))
            realised = truth * rng.gamma(10, 0.1, len(origins))
            realised[origins == CRASH] *= 60
            cuts = np.quantile(truth, [0.3, 0.9, 0.975])
            regime = np.searchsorted(cuts, realised).astype(float)
            now = rng.choice(4, len(origins), p=[0.3, 0.6, 0.075, 0.025])
            regime[:100] = np.nan
            ends = origins + horizon * HOUR
            frame = pd.DataFrame(
                {
                    "symbol": symbol,
                    "origin": origins,
                    "horizon_hours": horizon,
                    "target_end": ends,
                    "variance": realised,
                    "log_return": np.sqrt(realised) * rng.normal(size=len(origins)),
                    "mae_long": np.sqrt(realised) * np.abs(rng.normal(size=len(origins))),
                    "mae_short": np.sqrt(realised) * np.abs(rng.normal(size=len(origins))),
                    "regime": regime,
                    "regime_now": now,
                    "onset": np.where((now < 2) & ~np.isnan(regime), regime >= 2, np.nan),
                }
            )
            unfinished = ["variance", "log_return", "mae_long", "mae_short", "regime", "onset"]
            frame.loc[frame.index[-horizon:], unfinished] = np.nan
            came.append(frame)
            made += [member(symbol, horizon, origins[HISTORY:], truth[HISTORY:], cuts, model, rng) for model in NOISE]
    forecasts = pd.concat(made, ignore_index=True)
    hole = forecasts["origin"].between(CRASH + 72 * HOUR, CRASH + 80 * HOUR)
    realised = pd.concat(came).set_index(["symbol", "origin", "horizon_hours"]).sort_index()
    return forecasts[~hole].sort_values(["symbol", "origin", "horizon_hours", "model"], ignore_index=True), realised


def member(
    symbol: str,
    horizon: int,
    origins: pd.DatetimeIndex,
    truth: np.ndarray,
    cuts: np.ndarray,
    model: str,
    rng: np.random.Generator,
) -> pd.DataFrame:
    variance = truth * np.exp(NOISE[model] * rng.normal(size=len(truth)))
    columns: dict[str, Any] = {
        field.name: np.full(len(truth), np.nan) if pa.types.is_floating(field.type) else "a" * 64
        for field in FORECAST_SCHEMA
    }
    columns |= {
        "schema_version": np.int16(1),
        "symbol": symbol,
        "origin": origins,
        "horizon_hours": np.int16(horizon),
        "target_end": origins + horizon * HOUR,
        "model": model,
        "variance": variance,
        "vol_annualised": np.sqrt(variance * 8760 / horizon),
        "status": "ok",
        "reason": "",
        "made_at": origins,
        "data_asof": origins,
    }
    if model in ("ensemble", "har_seasonal"):
        width = math.hypot(NOISE[model], 0.33)
        for name, level in VARIANCE_LEVELS.items():
            columns[name] = variance * np.exp(width * stats.norm.ppf(level))
        for name, level in RETURN_LEVELS.items():
            columns[name] = np.sqrt(variance) * stats.norm.ppf(level)
        columns["ret_es025"] = -np.sqrt(variance) * 2.338
        for levels in EXCURSION_COLUMNS.values():
            columns |= {name: np.sqrt(variance) * stats.norm.ppf((1 + q) / 2) for name, q in levels.items()}
        below = stats.norm.cdf((np.log(cuts)[:, None] - np.log(variance)) / width)
        table = np.diff(np.vstack([np.zeros(len(truth)), below, np.ones(len(truth))]), axis=0)
        columns |= dict(zip(PROBABILITIES, table, strict=True))
        columns["p_onset"] = 1 - below[1]
    return pd.DataFrame(columns)


@pytest.fixture(scope="module")
def inputs() -> dict[str, Any]:
    forecasts, realised = market()
    day = realised.xs(24, level="horizon_hours")
    schedule = pd.DataFrame(
        {
            "symbol": day.index.get_level_values("symbol"),
            "as_of": day.index.get_level_values("origin"),
            "im": 0.1,
            "mm": 0.06,
        }
    )
    margins = pd.DataFrame(
        [
            (policy, symbol, 100, im, 0.9961, 0.0002, 0.0011, im * 1.1, 3.0)
            for policy, im in (("static", 0.2), ("ensemble", 0.15))
            for symbol in (*SYMBOLS, "*")
        ],
        columns=[
            "policy",
            "symbol",
            "n",
            "mean_im",
            "coverage_24h_995",
            "es_beyond_margin",
            "pinball_995",
            "matched_mean_im",
            "peak_to_trough",
        ],
    )
    importance = pd.DataFrame({1: [0.7, 0.3], 24: [0.2, 0.8]}, index=["har_rv_24h", "<b>hour</b>"])
    return {
        "title": "Forecasts & <i>what</i> came",
        "forecasts": forecasts,
        "realised": realised,
        "scores": score(forecasts, realised, start=START, end=END),
        "diagnostics": diagnostics(forecasts, realised, start=START, end=END),
        "importance": importance,
        "margins": margins,
        "schedule": schedule,
        "facts": {"version": "1.2.3", "oracle": {1: {"qlike": 0.0512}}},
        "examples": SYMBOLS,
    }


@pytest.fixture(scope="module")
def source(inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write(path, **inputs)
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def rewritten(inputs: dict[str, Any], tmp_path: Path, **changed: Any) -> Page:
    write(tmp_path / "report.html", **(inputs | changed))
    return Page((tmp_path / "report.html").read_text("utf-8"))


def numbers(inputs: dict[str, Any], **changed: Any) -> Numbers:
    given = inputs | changed
    forecasts, realised = given["forecasts"], given["realised"]
    evidence = gather(forecasts, realised, start=START, end=END)
    hits = excursion_hits(forecasts, realised)
    return Numbers(given["scores"], given["diagnostics"], evidence, hits, given["margins"])


def test_the_page_asks_nothing_of_a_network(source: str, page: Page) -> None:
    assert "http" not in re.sub(r'http-equiv="', "", source)
    assert "url(" not in source.replace("url(#", "")
    assert "@import" not in source
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "iframe", "object", "embed", "base", "form"}
    for tag, given in page.elements:
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            assert (given.get(name) or "#").startswith(("#", "data:,")), (tag, given)
        assert not [name for name in given if name.startswith("on")]
    policy = next(given for _, given in page.elements if given.get("http-equiv") == "Content-Security-Policy")
    assert str(policy["content"]).startswith("default-src 'none'")


def test_symbols_features_and_title_are_text_whatever_they_hold(source: str, page: Page) -> None:
    assert HOSTILE not in source
    assert HOSTILE in page.text
    assert "<b>hour</b>" in page.text
    assert "Forecasts & <i>what</i> came" in page.text
    for symbol in SYMBOLS:
        assert [row for row in page.tables["gains"] if row[0] == symbol]


@pytest.mark.parametrize("name", ["losses", "risks"])
def test_score_tables_hold_the_numbers_of_the_scores(inputs: dict[str, Any], page: Page, name: str) -> None:
    expected = {(r["model"], r["horizon_hours"]): r for r in inputs["scores"]["scores"] if r["symbol"] == "*"}
    head, *body = page.tables[name]
    hours, seen = 0, 0
    for texts, values in zip(body, page.values[name][1:], strict=True):
        if len(texts) == 1:
            hours = int(texts[0].split()[0])
            continue
        row = expected[texts[0], hours]
        seen += 1
        for field, text, value in list(zip(head, texts, values, strict=True))[1:]:
            if row[field] is None:
                assert (text, value) == ("–", None), field
            elif isinstance(row[field], bool):
                assert (text, value) == ("yes" if row[field] else "no", str(row[field]).lower())
            else:
                assert value is not None
                assert float(value) == row[field], field
                shown = float(re.sub("\u202f", "", text).replace("−", "-"))
                assert shown == pytest.approx(row[field], abs=0.5001e-3), field
    assert seen == len(expected) == len(NOISE) * len(HORIZONS)


def test_the_two_score_tables_show_every_field(inputs: dict[str, Any], page: Page) -> None:
    fields = set(inputs["scores"]["scores"][0]) - {"model", "horizon_hours", "symbol"}
    assert set(page.tables["losses"][0] + page.tables["risks"][0]) - {""} == fields


def test_gains_by_symbol_are_those_of_the_scores_and_of_the_diagnostics(inputs: dict[str, Any], page: Page) -> None:
    loss = {(r["symbol"], r["horizon_hours"], r["model"]): r["qlike_x"] for r in inputs["scores"]["scores"]}
    for texts, values in zip(page.tables["gains"][1:], page.values["gains"][1:], strict=True):
        symbol = "*" if texts[0] == "all symbols" else texts[0]
        for k, hours in enumerate(HORIZONS):
            own, other, saved = (float(str(value)) for value in values[1 + 3 * k : 4 + 3 * k])
            assert own == loss[symbol, hours, "ensemble"]
            assert other == loss[symbol, hours, "har_seasonal"]
            assert saved == pytest.approx(1 - own / other)
    last = page.values["gains"][-1]
    for k, hours in enumerate(HORIZONS):
        row = numbers(inputs).gain(hours, "har_seasonal")
        assert row is not None
        assert float(str(last[3 + 3 * k])) == pytest.approx(row["gain"])


def test_symbol_table_holds_the_scores_of_the_ensemble(inputs: dict[str, Any], page: Page) -> None:
    expected = {(r["symbol"], r["horizon_hours"]): r for r in inputs["scores"]["scores"] if r["model"] == "ensemble"}
    head, *body = page.tables["symbols"]
    hours = 0
    for texts, values in zip(body, page.values["symbols"][1:], strict=True):
        if len(texts) == 1:
            hours = int(texts[0].split()[0])
            continue
        for field, value in list(zip(head, values, strict=True))[1:-1]:
            wanted = expected[texts[0], hours][field]
            assert (None if value is None else float(value)) == wanted


def cells(page: Page, name: str) -> dict[str, list[str | None]]:
    """Values of a table by its first column, the heading above put before it."""
    found: dict[str, list[str | None]] = {}
    group = ""
    for texts, values in zip(page.tables[name][1:], page.values[name][1:], strict=True):
        if len(texts) == 1:
            group = f"{texts[0]}: "
        else:
            found[group + texts[0]] = values[1:]
    return found


def test_claims_are_shown_as_the_diagnostics_hold_them(inputs: dict[str, Any], page: Page) -> None:
    told = inputs["diagnostics"]
    shown = cells(page, "tests")
    fields = ["dm_statistic", "dm_p", "holm_p", "sign_p", "gw_lagged_p", "gw_regime_p"]
    for row in told["tests"]:
        values = shown[f"{row['horizon_hours']} h ahead: {row['opponent']}"]
        expected = [row[name] for name in (*fields, "t_calm", "t_normal", "t_stress")]
        assert [None if value is None else float(value) for value in values] == expected
    assert len(shown) == len(told["tests"]) == 8
    small = [row for row in told["tests"] if row["dm_p"] < 0.0001]
    assert small
    assert "< 0.0001" in page.text
    over_all = cells(page, "superiority")
    for row in told["superiority"]:
        values = over_all[f"{row['benchmark']}, {row['horizon_hours']} h"]
        assert float(str(values[2])) == row["spa_p"]
    assert "deflated" not in page.text.lower()


def test_strata_are_shown_as_the_diagnostics_hold_them(inputs: dict[str, Any], page: Page) -> None:
    shown = cells(page, "strata")
    at = {(r["kind"], r["value"], r["horizon_hours"]): r for r in inputs["diagnostics"]["strata"]}
    for label, key in (
        ("all", ("all", "all")),
        ("2024 Q2", ("quarter", "2024 Q2")),
        ("at the origin: crisis", ("regime", "crisis")),
        ("stress: just begun", ("onset", "just begun")),
        ("origins a horizon apart", ("grid", "non-overlapping")),
    ):
        for k, hours in enumerate(HORIZONS):
            row = at[(*key, hours)]
            expected = [row["gain"], row["rows"], row["var_hit_010"]]
            assert [float(str(value)) for value in shown[label][3 * k : 3 * k + 3]] == expected
    assert not [label for label in shown if ":00" in label]


def test_alarms_are_shown_as_the_diagnostics_hold_them(inputs: dict[str, Any], page: Page) -> None:
    shown = cells(page, "alarms")
    rows = [row for row in inputs["diagnostics"]["alarm_points"] if row["event"] == "trailing"]
    assert rows
    title = f"Event: the trailing day enters stress ({rows[0]['events']} events)"
    for row in rows:
        values = shown[f"{title}: {row['model']}, ≤\u00a0{row['rate']:g}"]
        fields = ("false_alarms", "alarms", "precision", "recall", "shifted_recall", "shifted_p", "lead")
        assert [None if value is None else float(value) for value in values[:7]] == [row[name] for name in fields]


def test_back_tests_are_shown_beside_their_floors(inputs: dict[str, Any]) -> None:
    told = copy.deepcopy(inputs["diagnostics"])
    key = {"model": "ensemble", "horizon_hours": 24}
    passed = {"kupiec": 30, "christoffersen": 20, "dynamic_quantile": 30, "band": 29, "z2": 25, "esr": 24}
    told["risk"] = [
        key
        | {
            "test": test,
            "symbol_years": 30,
            "passed": n,
            "share": 0.9,
            "p_values": [3] * 10 if test != "band" else None,
        }
        for test, n in passed.items()
    ]
    lower = {"difference": 0.1, "low": 0.05, "high": 0.15, "saved": 0.0952, "symbols_better": 3, "symbols": 3}
    told["shortfall"] = [key | {"level": 0.025, "base": "gjr", "rows": 9, "fz0": -3.0, "fz0_filtered": -2.9} | lower]
    n = numbers(inputs, diagnostics=told)
    page = Page("".join(risk(n)))
    rows = {row[0]: row[1:] for row in page.tables["risk-tests"]}
    assert rows["Kupiec, 1 % hits"] == ["30 of 30", "90.0\u00a0%"]
    assert rows["1 % hits inside the 95 % band"] == ["29 of 30", "90.0\u00a0%"]
    assert cells(page, "shortfall")["24 h, 2.5 %"][:4] == ["9", "-3.0", "-2.9", "0.1"]
    found = {f.check: f for f in findings(n) if f.hours == 24}
    assert found["symbol-years that pass Kupiec, 1 % hits, p ≥ 0.05"].verdict == "held"
    assert found["symbol-years that pass Christoffersen, 1 % hits, p ≥ 0.05"].verdict == "missed"
    assert found["symbol-years that pass Z2, 2.5 % shortfall, p ≥ 0.05"].verdict == "held"
    assert found["FZ0 saved against filtered simulation"].figure == "+9.5\u00a0%"
    point = next(
        r for r in told["alarm_points"] if (r["model"], r["event"], r["rate"]) == ("ensemble", "trailing", 15.0)
    )
    above = found["events announced beyond chance, 15 false alarms a symbol-year"]
    assert above.figure == percent(point["recall"] - point["shifted_recall"], signed=True)
    assert above.verdict == "shown"

    def suspect(least: int, symbol_years: int = 30) -> bool:
        for row in told["risk"]:
            row |= {"passed": max(row["passed"], least), "symbol_years": symbol_years}
        n = numbers(inputs, diagnostics=told)
        return any(word.startswith("Suspect: ") and "24 h" in word for word in sentences(n, findings(n)))

    for row in told["gains"]:
        row["gain"] = 0.05
    for row in (scores := copy.deepcopy(inputs["scores"]))["scores"]:
        row["brier_skill_onset"] = 0.1
    inputs = inputs | {"scores": scores}
    assert not suspect(29)
    assert suspect(30)
    for row in told["risk"]:
        row["passed"] = 0
    assert not suspect(23, 23)  # 0.88^23 is more than one in twenty
    assert suspect(24, 24)


def test_margin_tables_hold_the_comparison(inputs: dict[str, Any], page: Page) -> None:
    overall = {texts[0]: values for texts, values in zip(page.tables["margins"], page.values["margins"], strict=True)}
    assert [float(str(value)) for value in overall["ensemble"][1:]] == [
        100, 0.15, 0.9961, 0.0002, 0.0011, pytest.approx(0.165), 3.0
    ]  # fmt: skip
    assert page.tables["margins"][1][2] == "20.00\u00a0%"
    assert len(page.tables["margins-by-symbol"]) == 1 + len(SYMBOLS)
    assert "99.61 % of the 24 h excursions (aim 99.5 %) at a mean initial margin of 15.0 %" in page.text
    assert "25.0 % less than static" in page.text


def test_equal_inputs_give_equal_bytes(inputs: dict[str, Any], source: str, tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    write(tmp_path / "again.html", **inputs)
    assert (tmp_path / "again.html").read_text("utf-8") == source
    assert dict(mpl.rcParams) == before


def test_figures_and_tables_speak_to_those_who_do_not_see_them(source: str, page: Page) -> None:
    figures = re.findall(r"<figure>.*?</figure>", source, flags=re.DOTALL)
    assert len(figures) == 12
    identifiers = []
    for figure in figures:
        svg = re.search(r"<svg.*</svg>", figure, flags=re.DOTALL)
        assert svg is not None
        root = ElementTree.fromstring(f'<r xmlns:xlink="x">{svg[0]}</r>')[0]
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert "<figcaption>" in figure
        identifiers += [element.get("id") for element in root.iter() if element.get("id")]
        used = set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', svg[0]))
        assert used <= set(identifiers)
        # Every colour has a name, so that dark pages can replace it.
        assert not re.findall(r"#[0-9a-f]{6}", svg[0])
    assert len(identifiers) == len(set(identifiers))
    assert len([tag for tag, _ in page.elements if tag == "table"]) == source.count("<caption>")
    assert all(given.get("scope") for tag, given in page.elements if tag == "th")
    ids = [given["id"] for _, given in page.elements if given.get("id")]
    assert len(ids) == len(set(ids))
    links = [str(given["href"])[1:] for tag, given in page.elements if tag == "a"]
    assert set(links) <= set(ids)


def test_missing_pieces_are_said_not_hidden(inputs: dict[str, Any], tmp_path: Path) -> None:
    realised = inputs["realised"].assign(onset=np.nan)
    bare = rewritten(
        inputs,
        tmp_path,
        realised=realised,
        scores=score(inputs["forecasts"], realised, start=START, end=END),
        diagnostics={},
        importance=pd.DataFrame(),
        margins=None,
        schedule=None,
        facts=None,
        examples=None,
    )
    for sentence in (
        "The diagnostics hold no gains",
        "no comparison with har_seasonal could be made",
        "No regime probability could be judged",
        "No alarms are judged",
        "The diagnostics hold no coverage",
        "The diagnostics hold no strata",
        "The diagnostics hold no tests of equal ability",
        "No back-test of value at risk was made",
        "No margin schedule was made",
        "Policies were not compared",
        "No feature importance was given",
        "not computed",
    ):
        assert sentence in bare.text
    assert "nan" not in bare.text.lower().split()


def test_onset_without_an_outcome_is_said(inputs: dict[str, Any]) -> None:
    told = copy.deepcopy(inputs["diagnostics"])
    told["reliability"] = [
        row for row in told["reliability"] if (row["outcome"], row["horizon_hours"]) != ("onset", 24)
    ]
    assert "Onset could not be judged at 24 h:" in "".join(regimes(numbers(inputs, diagnostics=told), SYMBOLS[0]))


def test_no_regime_known_and_no_reference_model(inputs: dict[str, Any], tmp_path: Path) -> None:
    forecasts = inputs["forecasts"].query("model != 'har_seasonal' and horizon_hours == 1")
    realised = inputs["realised"].assign(onset=np.nan, regime=np.nan)
    page = rewritten(
        inputs,
        tmp_path,
        forecasts=forecasts,
        realised=realised,
        scores=score(forecasts, realised, start=START, end=END),
        diagnostics=diagnostics(forecasts, realised, start=START, end=END),
    )
    assert "No regime probability could be judged" in page.text
    assert "no comparison with har_seasonal could be made" in page.text


def test_verdicts_follow_the_floors(inputs: dict[str, Any]) -> None:
    changed = copy.deepcopy(inputs["diagnostics"])
    for row in changed["gains"]:
        if row["opponent"] == "har_seasonal":
            row |= {"gain": 0.0401 if row["horizon_hours"] == 1 else -0.0212, "low": -0.03, "high": 0.05}
            row |= {"symbols_better": 2}
    n = numbers(inputs, diagnostics=changed)
    found = {(f.check, f.hours): f for f in findings(n)}
    short, long = (found["QLIKE saved against har_seasonal", hours] for hours in HORIZONS)
    assert (short.verdict, short.figure) == ("held", "+4.0\u00a0% (−3.0 to 5.0)")
    assert (long.verdict, long.figure) == ("missed", "−2.1\u00a0% (−3.0 to 5.0)")
    assert found["symbols with lower QLIKE than har_seasonal", 1].verdict == "missed"
    words = list(sentences(n, list(found.values())))
    verdicts = [f.verdict for f in found.values()]
    held, missed = verdicts.count("held"), verdicts.count("missed")
    assert words[0].startswith(f"Of {held + missed} figures with a floor, {held} held and {missed} missed it")
    assert "QLIKE saved against har_seasonal (24\u00a0h)" in next(w for w in words if w.startswith("Missed: "))
    assert any("24 h ahead the ensemble's QLIKE is 2.1\u00a0% higher than that of har_seasonal" in w for w in words)


def test_gains_too_good_are_called_suspect(inputs: dict[str, Any]) -> None:
    def suspect(gain: float) -> bool:
        changed = copy.deepcopy(inputs["diagnostics"])
        scores = copy.deepcopy(inputs["scores"])
        for row in changed["gains"]:
            row["gain"] = gain
        for row in scores["scores"]:
            row["brier_skill_onset"] = 0.2
        n = numbers(inputs, diagnostics=changed, scores=scores)
        return any(word.startswith("Suspect: ") for word in sentences(n, findings(n)))

    assert not suspect(0.149)
    assert suspect(0.151)


def test_excursion_hits_count_what_went_beyond(inputs: dict[str, Any]) -> None:
    hits = excursion_hits(inputs["forecasts"], inputs["realised"]).set_index(["horizon_hours", "side"])
    own = inputs["forecasts"].query("model == 'ensemble' and horizon_hours == 24")
    beyond, n = 0, 0
    for row in own.itertuples():
        came = inputs["realised"].loc[(row.symbol, row.origin, 24), "mae_short"]
        if not math.isnan(came):
            beyond += came > row.mae_short_q995
            n += 1
    assert hits.loc[(24, "short"), "n"] == n
    assert hits.loc[(24, "short"), "share"] == pytest.approx(beyond / n)


def test_evidence_matches_plain_group_means(inputs: dict[str, Any]) -> None:
    evidence = {h.hours: h for h in gather(inputs["forecasts"], inputs["realised"], start=START, end=END)}[24]
    joined = (
        inputs["forecasts"]
        .query("horizon_hours == 24")
        .join(
            inputs["realised"].rename(columns={"variance": "variance_came"})[["variance_came", "regime", "onset"]],
            on=["symbol", "origin", "horizon_hours"],
        )
    )
    joined = joined[joined["variance_came"].notna()]
    ratio = joined["variance_came"] / joined["variance"]
    joined["loss"] = ratio - np.log(ratio) - 1
    joined["month"] = joined["origin"].dt.strftime("%Y-%m")
    monthly = joined.groupby(["model", "month", "symbol"])["loss"].mean().groupby(level=[0, 1]).mean().unstack()
    np.testing.assert_allclose(evidence.monthly, monthly.loc[list(evidence.models), list(evidence.months)])

    own = joined[joined["model"] == "ensemble"]
    assert evidence.step_hours == 4
    first = own[own["symbol"] == SYMBOLS[0]].set_index("origin")["variance_came"].resample("4h").mean()
    at = evidence.symbols.index(SYMBOLS[0])
    shown = pd.Series(evidence.realised[at], index=evidence.times)
    np.testing.assert_allclose(shown.reindex(first.index), first)


def test_a_storm_surrounds_the_largest_move_and_keeps_gaps(inputs: dict[str, Any]) -> None:
    table = storm(inputs["forecasts"], inputs["realised"], inputs["schedule"], SYMBOLS[0], 24, 20)
    day = inputs["realised"].xs((SYMBOLS[0], 24), level=("symbol", "horizon_hours"))
    scored = day[day.index.isin(inputs["forecasts"]["origin"])][["mae_long", "mae_short"]].max(axis=1)
    assert table["excursion"].idxmax() == scored.idxmax()
    assert table["excursion"].max() == scored.max()
    assert (np.diff(table.index) == np.timedelta64(1, "h")).all()
    assert table.index[-1] - table.index[0] <= pd.Timedelta(days=20)
    gap = table.loc[CRASH + 72 * HOUR : CRASH + 80 * HOUR, "variance"]
    assert len(gap) in (0, 9)
    assert gap.isna().all()


def test_cover_is_one_repeatable_picture(inputs: dict[str, Any], tmp_path: Path) -> None:
    frames = {name: inputs[name] for name in ("forecasts", "realised", "schedule")}
    cover(tmp_path / "a.png", **frames)
    cover(tmp_path / "b.png", **frames, symbol=SYMBOLS[0])
    cover(tmp_path / "c.png", **frames, symbol=sorted(SYMBOLS)[0])
    first, other, same = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert first.startswith(b"\x89PNG")
    assert first == same != other
    with pytest.raises(UsageError, match="no forecasts of symbol NOPE; choose one of"):
        cover(tmp_path / "d.png", **frames, symbol="NOPE")


def test_forecasts_without_the_ensemble_are_refused(inputs: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match="no row of model ensemble at horizon 1 h; evaluate with the ensemble"):
        rewritten(inputs, tmp_path, forecasts=inputs["forecasts"].query("model != 'ensemble'"))
    assert not (tmp_path / "report.html").exists()


def test_colours_are_told_apart_and_stay_with_their_model() -> None:
    lights = [light for light, _ in COLOURS.values()]
    assert len(set(lights)) == len(lights)
    assert model_colour("ensemble", ["zeta", "ensemble"]) == COLOURS["ensemble"][0]
    assert model_colour("zeta", ["zeta", "alpha"]) == COLOURS["other_2"][0]


def test_percent_has_a_true_minus_and_no_break() -> None:
    assert percent(-0.0125, signed=True) == "−1.2\u00a0%"
    assert percent(0.0514) == "5.1\u00a0%"
