"""Does a later import rewrite what was known? Checked on the files of a store, below everything else.

A view of a market shows rows that were merged out of all imports. Whatever such a view shows at an instant must have the
same bits when merged out of the imports' rows that were known by then: otherwise a revised file would speak in the name of
the first one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import pandas as pd

from features.leak_report import Finding, Leak
from features.market import Market, merge
from features.schemas import TABLES, Table

__all__ = ["revisions"]

INSTANTS: Final = 50
TICK: Final = pd.Timedelta(microseconds=1)


def revisions(market: Market) -> Finding:
    """Keys that a store's imports repeat, as shown just before a later import of them became known.

    Empty for a market that is not read from a store.
    """
    return sum((_of_part(market, spec, rows) for spec, rows in _repeated(market)), Finding({}, ()))


def _repeated(market: Market) -> Iterator[tuple[Table, pd.DataFrame]]:
    """By part of a table: the imports' rows whose key comes more than once, in order of import."""
    store = market.store
    if store is None:
        return
    parts: dict[tuple[str, str | None, str | None], list[pd.DataFrame]] = {}
    places = [(file.table, file.interval, file.symbol) for file in store.files if file.table in TABLES]
    for file in store.files:
        place = (file.table, file.interval, file.symbol)
        if places.count(place) > 1:
            parts.setdefault(place, []).append(store.read(file))
    for (name, _, _), imports in parts.items():
        rows = pd.concat(imports, ignore_index=True)
        again = rows[rows.duplicated(list(TABLES[name].identity), keep=False)]
        if len(again):
            yield TABLES[name], again


def _of_part(market: Market, spec: Table, rows: pd.DataFrame) -> Finding:
    key = list(spec.identity)
    interval = rows["interval"].iloc[0] if "interval" in rows else None
    shown = market.table(spec.name, interval).set_index(key)
    shown = shown[shown.index.isin(rows.set_index(key).index)]
    later = rows[rows.duplicated(key)]["available_at"].unique()
    later = np.sort(later)[np.linspace(0, len(later) - 1, min(INSTANTS, len(later))).astype(int)]
    values = [name for name in spec.values if name in rows and name in shown]
    cells, leaks = 0, []
    for t in (pd.Timestamp(at) - TICK for at in later):
        then = shown[shown["available_at"] <= t]
        known = merge([rows[rows["available_at"] <= t]], spec).set_index(key).reindex(then.index)
        cells += then[values].size
        for name in values:
            differs = ~((then[name] == known[name]) | (then[name].isna() & known[name].isna()))
            if differs.any():
                first = then[differs].reset_index().sort_values(spec.clock, kind="stable").iloc[0]
                leaks.append(Leak("prefix", spec.name, name, str(first[spec.entity]), first[spec.clock], t))
    return Finding({f"prefix {spec.name}": cells}, tuple(leaks))
