"""One picture of the product: forecast and realised volatility, regimes and margin through a storm."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pandas as pd

from features.errors import UsageError
from features.store import write_atomically
from forecaster.report.canvas import png
from forecaster.report.evidence import storm
from forecaster.report.figures import storm_panels
from forecaster.report.sections import storm_hours

__all__ = ["cover"]

_SIZE: Final = (9.6, 6.2)


def cover(
    path: str | Path,
    *,
    forecasts: pd.DataFrame,
    realised: pd.DataFrame,
    schedule: pd.DataFrame | None = None,
    symbol: str | None = None,
    days: int = 40,
) -> None:
    """Write a PNG of the ``days`` around a symbol's largest adverse excursion.

    Frames as in ``write``; ``symbol`` defaults to the first one forecast.

    Raises:
        UsageError: where the symbol has no forecasts.
    """
    known = sorted(map(str, forecasts["symbol"].unique()))
    chosen = known[0] if symbol is None and known else symbol
    if chosen is None or chosen not in known:
        raise UsageError(f"no forecasts of symbol {chosen}; choose one of {', '.join(known)}")
    hours = storm_hours(forecasts)
    table = storm(forecasts, realised, schedule, chosen, hours, days)
    write_atomically(Path(path), png(_SIZE, lambda figure: storm_panels(figure, table, chosen, hours)))
