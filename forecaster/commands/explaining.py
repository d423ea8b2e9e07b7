"""Why a forecast is what it is: its terms as factors, read from the contributions that lie beside the forecasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from features.errors import DataInvalid, UsageError
from features.schemas import nearest
from forecaster.commands import inputs
from models.base import ENSEMBLE
from models.explanation import ADJUSTMENT, FILTER, LEVEL, REMAINDER, REVERSION, SEASON, USUAL, total
from training.contributions import TERM, WEIGHT, place

__all__ = ["Explained", "ForecastExplained", "MemberShare", "Term", "explain"]

MOST: Final = 5
# A factor that rounds to less than half a per cent says nothing.
SMALL: Final = 0.005
# Two logarithms of one variance.
SAME: Final = 1e-12
PUBLISHED: Final = ("model", "horizon_hours", "variance", "vol_annualised", "status", "reason")
WORDS: Final = {
    USUAL: "usual variance of the past month",
    SEASON: "time of day and week, and releases, ahead",
    REVERSION: "pull to the long run",
    FILTER: "what filters of returns say beyond that",
    LEVEL: "level corrected by past errors",
    ADJUSTMENT: "bounds of the combination",
    REMAINDER: "rounding of the terms above",
    "memory": "longer and shorter memory of variance",
    "path": "path of returns",
    "calendar": "clock and calendar",
    "realised": "shape of recent returns",
    "volume": "trading volume",
    "cross": "volatility of the other markets",
    "comovement": "co-movement with the other markets",
    "funding": "funding rates",
    "venues": "differences between venues",
    "basis": "basis of the perpetual",
    "open_interest": "open interest",
    "flow": "order flow",
    "spot_flow": "order flow of spot",
    "flow_proxy": "order flow, inferred from bars",
    "trades": "order flow of single trades",
    "order_book": "order book",
    "implied": "implied volatility",
    "macro": "other asset classes",
    "scheduled": "scheduled events",
    "quarticity": "noise in recent variance",
    "regime": "state of the market",
}


@dataclass(frozen=True)
class Term:
    """One term of ``ln F``; ``percent``: by how much it raises the expected variance, as a factor (None: the anchor)."""

    name: str
    meaning: str
    value: float
    percent: float | None


@dataclass(frozen=True)
class MemberShare:
    """A member's weight in the forecast, and how far its own forecast of the variance lies from the ensemble's."""

    name: str
    weight: float
    percent: float


@dataclass(frozen=True)
class ForecastExplained:
    """One horizon: the published variance, the terms whose sum is its log, and the members."""

    horizon_hours: int
    variance: float
    vol_annualised: float
    log_variance: float
    sum_of_terms: float
    sentence: str
    terms: list[Term]
    members: list[MemberShare]


@dataclass(frozen=True)
class Explained:
    """Why the forecasts of one symbol at one origin are what they are."""

    symbol: str
    origin: str
    horizons: list[ForecastExplained]

    def to_dict(self) -> dict[str, Any]:
        """All of it as one JSON object."""
        return asdict(self)

    def summary(self) -> str:
        """A sentence for each horizon, then all terms side by side with their sums, then the members."""
        lines = [one.sentence for one in self.horizons]
        names = list(dict.fromkeys(term.name for one in self.horizons for term in one.terms))
        terms = [{term.name: term for term in one.terms} for one in self.horizons]
        width = max(len(_meaning(name)) for name in names) + 2
        lines += ["", " " * width + "".join(f"{f'{one.horizon_hours} h':>20}" for one in self.horizons)]
        for name in names:
            lines.append(f"{_meaning(name):<{width}}" + "".join(_cell(row.get(name)) for row in terms))
        lines.append(f"{'sum':<{width}}" + "".join(_number(one.sum_of_terms) for one in self.horizons))
        lines.append(f"{'ln F, as published':<{width}}" + "".join(_number(one.log_variance) for one in self.horizons))
        lines.append("")
        lines += [f"{one.horizon_hours} h: " + ", ".join(map(_share, one.members)) for one in self.horizons]
        return "\n".join(lines)


def explain(forecasts: str | Path, symbol: str, time: str, horizon: int | None = None) -> Explained:
    """Why the ensemble's forecasts of ``symbol`` made at ``time`` are what they are; one ``horizon``, or (None) all.

    ``forecasts``: a forecast table, or the folder of a Parquet sink, with its contributions beside it. Raises ``UsageError``
    where there is no such file, symbol, origin or horizon, naming the nearest, and ``DataInvalid`` where the contributions
    belong to other forecasts.
    """
    at = inputs.instant(time, "TIME")
    assert at is not None  # only a time that is None is none
    source = Path(forecasts)
    if not source.exists():
        raise UsageError(f"forecasts {source}: no such file; make it with forecaster evaluate or forecast")
    beside = place(source)
    if not beside.exists():
        raise UsageError(
            f"forecasts {source}: no contributions lie beside it at {beside}; evaluate and forecast write them with the "
            "forecasts: make both again"
        )
    rows = _rows(beside, symbol, at)
    published = _read(_day(source, at), _of(symbol, at), PUBLISHED).set_index(["model", "horizon_hours"])
    known = [int(h) for h in rows["horizon_hours"]]
    if horizon is not None and horizon not in known:
        raise UsageError(f"--horizon {horizon}: {symbol} is forecast {', '.join(map(str, known))} hours ahead")
    told = []
    for row in rows.to_dict("records"):
        h = int(row["horizon_hours"])
        if horizon in (None, h):
            forecast = _checked(beside, symbol, at, h, published, row)
            told.append(
                _horizon(f"{symbol} at {at:%Y-%m-%d %H:%M} UTC, next {h} h", h, row, published["variance"], forecast)
            )
    return Explained(symbol, at.isoformat(), told)


def _rows(file: Path, symbol: str, at: pd.Timestamp) -> pd.DataFrame:
    """The contributions of the symbol's forecasts made then, by horizon."""
    if _day(file, at).exists():
        rows = _read(_day(file, at), _of(symbol, at)).sort_values("horizon_hours")
        if len(rows):
            return rows
    symbols = sorted(set(_read(file, None, ["symbol"])["symbol"]))
    if symbol not in symbols:
        raise UsageError(f"{file} explains no forecast of {symbol!r}{nearest(symbol, symbols)}")
    origins = pd.DatetimeIndex(_read(file, [("symbol", "=", symbol)], ["origin"])["origin"]).unique().sort_values()
    after = int(origins.searchsorted(at))
    around = [f"{t:%Y-%m-%dT%H:%MZ}" for t in origins[max(after - 1, 0) : after + 1]]
    raise UsageError(
        f"{file} explains no forecast of {symbol} made at {at:%Y-%m-%dT%H:%MZ}; the nearest was made at {' and '.join(around)}"
    )


def _day(table: Path, at: pd.Timestamp) -> Path:
    """The file that holds an origin; a folder holds one a day."""
    return table / f"{at:%Y-%m-%d}.parquet" if table.is_dir() else table


def _of(symbol: str, at: pd.Timestamp) -> list[tuple[str, str, Any]]:
    return [("symbol", "=", symbol), ("origin", "=", at)]


def _read(file: Path, filters: Any, columns: Sequence[str] | None = None) -> pd.DataFrame:
    try:
        table: pd.DataFrame = pq.read_table(
            file, filters=filters, columns=columns and list(columns), partitioning=None
        ).to_pandas()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataInvalid(f"{file}: cannot be read ({error}); make the forecasts again") from None
    return table


def _checked(
    file: Path, symbol: str, at: pd.Timestamp, h: int, published: pd.DataFrame, row: Mapping[Any, Any]
) -> Mapping[Any, Any]:
    """The ensemble's forecast that the terms of ``row`` belong to."""
    made: dict[Any, Any] = {}
    if (ENSEMBLE, h) in published.index:
        made = published.loc[[(ENSEMBLE, h)]].to_dict("records")[0]
    if made and np.isnan(made["variance"]):
        raise UsageError(
            f"{symbol} at {at:%Y-%m-%dT%H:%MZ} over {h} hours is {made['status']} ({made['reason']}): no forecast"
        )
    if not made or abs(np.log(made["variance"]) - _added(_values(row, TERM))) > SAME:
        raise DataInvalid(
            f"{file}: the terms of {symbol} at {at:%Y-%m-%dT%H:%MZ} over {h} hours do not add up to the forecast beside it; "
            "the two files are of different runs: make both again"
        )
    return made


def _values(row: Mapping[Any, Any], prefix: str) -> dict[str, float]:
    """The columns of one kind that the row has."""
    named = {name.removeprefix(prefix): float(value) for name, value in row.items() if name.startswith(prefix)}
    return {name: value for name, value in named.items() if not np.isnan(value)}


def _added(values: Mapping[str, float]) -> float:
    return float(total({name: np.array([value]) for name, value in values.items()})[0])


def _horizon(
    subject: str, h: int, row: Mapping[Any, Any], variances: pd.Series, forecast: Mapping[Any, Any]
) -> ForecastExplained:
    values, weights = _values(row, TERM), _values(row, WEIGHT)
    variance, vol = float(forecast["variance"]), float(forecast["vol_annualised"])
    terms = [_term(name, value) for name, value in values.items() if name == REMAINDER or value]
    members = [
        MemberShare(name, weight, 100 * (float(variances[name, h]) / variance - 1))
        for name, weight in sorted(weights.items(), key=lambda item: -item[1])
        if weight
    ]
    log_variance = float(np.log(variance))
    sentence = _sentence(f"{subject}: volatility of {vol:.1%} a year", log_variance - values[USUAL], terms)
    return ForecastExplained(h, variance, vol, log_variance, _added(values), sentence, terms, members)


def _term(name: str, value: float) -> Term:
    return Term(name, _meaning(name), value, None if name == USUAL else 100 * np.expm1(value).item())


def _sentence(told: str, beyond: float, terms: Sequence[Term]) -> str:
    moving = sorted((t for t in terms if t.name != USUAL and abs(t.value) >= SMALL), key=lambda t: -abs(t.value))
    factors = ", ".join(f"{t.meaning} {t.percent:+.0f} %" for t in moving[:MOST])
    return f"{told}, {np.exp(beyond):.2f} times the usual variance of the past month" + (
        f": {factors}." if factors else "."
    )


def _meaning(name: str) -> str:
    if name.startswith("lag_"):
        hours = name.removeprefix("lag_").removesuffix("h")
        return "past hour" if hours == "1" else f"past {hours} hours"
    return WORDS.get(name, name.replace("_", " "))


def _cell(term: Term | None) -> str:
    if term is None:
        return " " * 20
    factor = "" if term.percent is None or term.name == REMAINDER else f"{term.percent:+.1f} %"
    return f"{term.value:+11.6f} {factor:>8}"


def _number(value: float) -> str:
    return f"{value:+11.6f}" + " " * 9


def _share(member: MemberShare) -> str:
    return f"{member.name} weighs {member.weight:.1%}, its own variance {member.percent:+.1f} %"
