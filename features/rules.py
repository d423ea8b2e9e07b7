"""What a row must satisfy to enter a store: the boundary where outside data are judged.

Every rule is a vectorised pandera check; a row that breaks one is named by line, column and cause.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Number
from typing import Any, Final

import numpy as np
import pandas as pd
import pandera.pandas as pan
import pyarrow as pa
from pandera.errors import SchemaErrors

from features.errors import DataInvalid
from features.schemas import INTERVALS, OHLC, TIME_DTYPE, TRADE_MEASURES, Table, dtype, nearest, to_utc

__all__ = ["conform", "inspect"]

# No market record is older: an earlier instant is a number read in the wrong unit.
EARLIEST: Final = pd.Timestamp("1980-01-01", tz="UTC")
# The widest cap of any venue is 4 % a settlement; beyond 10 % a rate is a per-cent figure or an annual one.
FUNDING_LIMIT: Final = 0.1
# A single order may run far from what the rest of the bar trades at: perpetuals have reached three times their price and
# half of it within an hour, indices less. Ten times is a slipped decimal point or another unit.
FARTHEST: Final = 10
ROUNDING: Final = 1e-9
# What a cell should have been, by the column's type; any other is a number.
_WORDS: Final = {TIME_DTYPE: "an instant", "str": "text"}
# Names become folders of the store, so none may climb out of it.
NAME: Final = r"\w[\w.\-]{0,63}"


def inspect(frame: pd.DataFrame, spec: Table, now: pd.Timestamp | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split rows into those that satisfy the table and the reasons why the others do not.

    Parameters
    ----------
    frame
        One row per observation; its unique index is the line in the file that it came from. Columns may be
        of any readable type; nullable ones may be absent.
    now
        Rows that happened later are refused (default: the wall clock).

    Returns
    -------
    good, faults
        ``good``: the rows without fault, with the table's columns and types, index kept.
        ``faults``: ``line, column, cause``, the first cause of each faulty row, ordered by line.

    Raises
    ------
    DataInvalid
        A required column is missing, or a column belongs to no table.
    """
    typed, unreadable = conform(frame, spec)
    faults = [unreadable, _validate(typed, spec, now or pd.Timestamp.now("UTC"))]
    found = pd.concat(faults, ignore_index=True).drop_duplicates("line")
    sound = ~typed.index.isin(found["line"])
    repeated = typed[sound].duplicated(list(spec.identity)).to_numpy()
    lines = typed.index[sound][repeated]
    found = pd.concat([found, _faults(lines, spec.clock, "repeats the key of an earlier row")])
    good = typed[~typed.index.isin(found["line"])].astype({f.name: dtype(f.type) for f in spec.schema})
    return good, found.sort_values("line", kind="stable", ignore_index=True)


def _faults(lines: Sequence[Any] | pd.Index, column: str, cause: str | Sequence[str]) -> pd.DataFrame:
    causes = [cause] * len(lines) if isinstance(cause, str) else list(cause)
    found = {"line": np.asarray(lines, dtype="int64"), "column": [column] * len(lines), "cause": causes}
    return pd.DataFrame(found).astype({"column": "str", "cause": "str"})


def conform(frame: pd.DataFrame, spec: Table) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table's columns and types; text that is no number and times that are no instant are faults."""
    missing = [name for name in spec.required if name not in frame]
    if missing:
        raise DataInvalid(f"table {spec.name!r} needs the column {missing[0]!r}, which the input lacks")
    unknown = [name for name in frame if name not in spec.columns and name not in spec.further]
    if unknown:
        hint = nearest(str(unknown[0]), (*spec.columns, *spec.further))
        raise DataInvalid(f"table {spec.name!r} has no column {unknown[0]!r}{hint}")
    columns: dict[str, pd.Series] = {}
    faults = [_faults([], "", [])]
    fields = [*spec.schema, *(pa.field(n, pa.float64()) for n in spec.further if n in frame)]
    for column in fields:
        given = frame.get(column.name)
        if given is None:
            columns[column.name] = pd.Series(np.nan, index=frame.index)
        elif pa.types.is_timestamp(column.type):
            columns[column.name] = to_utc(given)
        elif pa.types.is_string(column.type):
            columns[column.name] = _text(given)
        else:
            columns[column.name] = _number(given)
        if given is None or not columns[column.name].hasnans:
            continue
        lost = (given.notna() & columns[column.name].isna()).to_numpy()
        if lost.any():
            kind = _WORDS.get(dtype(column.type), "a number")
            text = [f"{value!r} is not {kind}" for value in given[lost].astype("str")]
            faults.append(_faults(frame.index[lost], column.name, text))
    return pd.DataFrame(columns, index=frame.index), pd.concat(faults, ignore_index=True)


def _number(values: pd.Series) -> pd.Series:
    """Float64; what is no number is NaN, and so are truth values and instants, which pandas would count."""
    if values.dtype.kind in "bmM":
        return pd.Series(np.nan, index=values.index)
    if values.dtype.kind == "O" and not isinstance(values.dtype, pd.StringDtype):
        known = values.astype("object")
        countable = known.map(lambda v: isinstance(v, (str, Number)) and not isinstance(v, bool))
        values = known.where(countable.astype("bool"))
    return pd.to_numeric(values, errors="coerce").astype("float64")


def _text(values: pd.Series) -> pd.Series:
    """Text; anything else (bytes, numbers, truth values) is missing instead of being spelt out."""
    if not isinstance(values.dtype, pd.StringDtype):
        values = values.astype("object").map(lambda value: value if isinstance(value, str) else None)
    return values.astype("str")


def _validate(frame: pd.DataFrame, spec: Table, now: pd.Timestamp) -> pd.DataFrame:
    """All violations of the table's row rules, as ``line, column, cause``."""
    try:
        _row_rules(spec, now).validate(frame, lazy=True)
    except SchemaErrors as refused:
        # A value's own fault comes before what it breaks in relation to others: "Column…" < "DataFrame…".
        cases = refused.failure_cases.sort_values("schema_context", kind="stable")
        causes = cases["check"].astype("str").replace({"not_nullable": "is missing"})
        # pandera lists every column for a rule over several, which names the one at fault in its words.
        parts = causes.str.extract(r"^(?:(?P<column>\w+): )?(?P<cause>.*)$")
        column = parts["column"].fillna(cases["column"])
        line = cases["index"].astype("int64")
        found = pd.DataFrame({"line": line, "column": column, "cause": parts["cause"]})
        return found.drop_duplicates(ignore_index=True).sort_values("line", kind="stable")
    return _faults([], "", [])


def _row_rules(spec: Table, now: pd.Timestamp) -> pan.DataFrameSchema:
    columns = {}
    for column in spec.schema:
        checks = []
        if pa.types.is_timestamp(column.type):
            checks = [_rule(lambda s: s >= EARLIEST, "is before 1980: check the unit of the time stamps")]
        elif not pa.types.is_string(column.type):
            checks = [_rule(np.isfinite, "is not finite"), *_VALUES.get((spec.name, column.name), ())]
        elif column.name in {"symbol", "exchange", "underlying"}:
            checks = [_rule(lambda s: s.str.fullmatch(NAME), "is no name of letters, digits, '.', '_', '-'")]
        elif column.name == "series":
            checks = [_rule(lambda s: s.str.strip() != "", "is empty")]
        elif column.name == "interval":
            checks = [_rule(lambda s: s.isin(INTERVALS), f"is none of {', '.join(INTERVALS)}")]
        columns[column.name] = pan.Column(checks=checks, nullable=column.nullable)
    for name in spec.further:
        checks = [_rule(np.isfinite, "is not finite"), *_VALUES.get((spec.name, name), ())]
        columns[name] = pan.Column(checks=checks, nullable=True, required=False)
    across = [
        _rule(lambda d: ~(d[spec.clock] > now), f"{spec.clock}: lies in the future"),
        _rule(lambda d: ~(d["available_at"] < d[spec.clock]), f"available_at: is before {spec.clock}"),
        *_ACROSS.get(spec.name, ()),
    ]
    return pan.DataFrameSchema(columns, checks=across, ordered=False)


def _rule(test: Callable[[Any], Any], error: str) -> pan.Check:
    return pan.Check(test, error=error)


def _on_grid(bars: pd.DataFrame) -> pd.Series:
    step = bars["interval"].map(INTERVALS).astype("timedelta64[us]")
    known = step.notna() & bars["close_time"].notna()
    length = step[known].astype("int64")
    aligned = bars["close_time"][known].astype("int64") % length == 0
    return aligned.reindex(bars.index, fill_value=True)


def _at_most(part: str, whole: str) -> pan.Check:
    return _rule(lambda d: ~(d[part] > d[whole] * (1 + ROUNDING)), f"{part}: is more than {whole}")


_POSITIVE: Final = _rule(lambda s: s > 0, "is not positive")
_NOT_NEGATIVE: Final = _rule(lambda s: s >= 0, "is negative")
_WHOLE: Final = _rule(lambda s: s % 1 == 0, "is not a whole number")
_SHAPE: Final = (
    _rule(lambda d: ~(d["low"] > d[["open", "close"]].min(axis=1)), "low: is above open or close"),
    _rule(lambda d: ~(d["high"] < d[["open", "close"]].max(axis=1)), "high: is below open or close"),
)
_HIGH: Final = _rule(
    lambda d: ~(d["high"] > FARTHEST * d[["open", "close"]].max(axis=1)),
    f"high: is more than {FARTHEST} times open and close",
)
_LOW: Final = _rule(
    lambda d: ~(FARTHEST * d["low"] < d[["open", "close"]].min(axis=1)),
    f"low: is less than 1/{FARTHEST} of open and close",
)
_GRID: Final = _rule(_on_grid, "close_time: is not a whole multiple of the interval")
_PARTS: Final = (
    _at_most("taker_buy_volume", "volume"),
    _at_most("taker_buy_quote_volume", "quote_volume"),
)
_FLOW: Final = ("volume", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")
# Measures of trades that may be of either sign.
_SIGNED: Final = {"signed_volume", "kyle_lambda", "bvc_signed_volume"}

_VALUES: Final[dict[tuple[str, str], tuple[pan.Check, ...]]] = {
    **{(t, c): (_POSITIVE,) for t in ("bars", "mark", "spot", "implied_vol") for c in OHLC},
    **{(t, c): (_NOT_NEGATIVE,) for t in ("bars", "spot") for c in _FLOW if c != "trades"},
    **{(t, "trades"): (_NOT_NEGATIVE, _WHOLE) for t in ("bars", "spot")},
    **{(t, c): (_NOT_NEGATIVE,) for t in ("bars", "spot") for c in TRADE_MEASURES if c not in _SIGNED},
    **{(t, "vpin"): (_rule(lambda s: (s >= 0) & (s <= 1), "is not within [0, 1]"),) for t in ("bars", "spot")},
    ("funding", "funding_rate"): (
        _rule(lambda s: s.abs() <= FUNDING_LIMIT, f"is beyond ±{FUNDING_LIMIT} a settlement"),
    ),
    ("funding", "interval_hours"): (_rule(lambda s: (s > 0) & (s <= 24), "is not within (0, 24] hours"),),
    ("open_interest", "open_interest"): (_POSITIVE,),
    ("open_interest", "open_interest_value"): (_POSITIVE,),
    **{("order_book", column): (_POSITIVE,) for column in ("bid", "ask", "bid_size", "ask_size")},
    **{("order_book", f"{side}_depth_1pct"): (_NOT_NEGATIVE,) for side in ("bid", "ask")},
    ("margin_tiers", "tier"): (_rule(lambda s: (s >= 1) & (s % 1 == 0), "is not 1, 2, 3 …"),),
    ("margin_tiers", "min_notional"): (_NOT_NEGATIVE,),
    ("margin_tiers", "maint_margin_rate"): (
        _rule(lambda s: (s > 0) & (s <= 1), "is not within (0, 1]: a fraction, not per cent"),
    ),
    ("margin_tiers", "max_leverage"): (_rule(lambda s: s >= 1, "is below 1"),),
}
_ACROSS: Final[dict[str, tuple[pan.Check, ...]]] = {
    "bars": (*_SHAPE, _HIGH, _LOW, *_PARTS, _GRID),
    # A spot book can be sold empty, down to its tick (LINKUSDT at 0.0001 on 2020-03-12): no low is too low.
    "spot": (*_SHAPE, _HIGH, *_PARTS, _GRID),
    "mark": (*_SHAPE, _HIGH, _LOW, _GRID),
    "implied_vol": _SHAPE,
    "order_book": (_rule(lambda d: ~(d["bid"] >= d["ask"]), "bid: is not below ask"),),
    "margin_tiers": (
        _rule(lambda d: d["max_notional"] > d["min_notional"], "max_notional: is not above min_notional"),
    ),
}
