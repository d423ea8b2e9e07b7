"""What the pass over trades carries from one trade to the next, and what it hands over: the layouts of its records.

The kernels know these sizes by their arguments' types, so that compiled code never outlives a change of them.
"""

from __future__ import annotations

from typing import Final

import numpy as np

__all__ = ["AFTER", "BAR", "BUCKETS", "CELL", "LOST", "MEASURED", "NONE", "PARTS", "TAPE", "TRAILING_DAYS"]

PARTS: Final = 12
TRAILING_DAYS: Final = 7
BUCKETS: Final = 50

# Instants, ids and sides not known are ``NONE``; ids after trades that could not be taken, ``LOST``.
NONE: Final = -1
LOST: Final = -2

# Instants are microseconds since 1970; a price of 0 is one not known. ``gappy``: trades of the day are missing.
TAPE: Final = np.dtype(
    [
        *((name, "i8") for name in ("covered_since", "covered_until", "time", "agg_id", "trade_id", "day", "gappy")),
        *((name, "i8") for name in ("run", "side", "large_bin", "filled", "cut")),
        *((name, "f8") for name in ("price", "day_volume", "bucket", "fill", "fill_buy")),
        ("imbalance", "f8", (BUCKETS,)),
        ("days", "i8", (TRAILING_DAYS,)),
        ("volumes", "f8", (TRAILING_DAYS,)),
    ]
)
_COUNTS = ("count", "trades", "large", "waits", "wait", "runs", "run_total", "run_longest", "touched")
_SUMS = ("open", "high", "low", "close", "volume", "quote", "buy", "buy_quote", "wait_squares")
CELL: Final = np.dtype([("start", "i8"), *((name, "i8") for name in _COUNTS), *((name, "f8") for name in _SUMS)])
BAR: Final = np.dtype(
    [
        *CELL.descr,
        # Of a closed bar: vpin at its close, and large = -1 where no threshold was known.
        *(("length", "i8"), ("interval", "i8"), ("before", "f8"), ("vpin", "f8")),
        *((name, "f8", (PARTS,)) for name in ("part_close", "part_quote", "part_flow")),
    ]
)
# A closed bar with its measures.
MEASURED: Final = np.dtype(
    [
        *(("interval", "i8"), ("start", "i8"), ("touched", "i8")),
        *((name, "f8") for name in ("open", "high", "low", "close", "volume", "quote_volume", "trades")),
        *((name, "f8") for name in ("taker_buy_volume", "taker_buy_quote_volume")),
        *((name, "f8") for name in ("realised_variance", "realised_quarticity", "bipower_variation", "med_rv")),
        *((name, "f8") for name in ("semivariance_up", "semivariance_down", "signed_volume", "large_trades")),
        *((name, "f8") for name in ("kyle_lambda", "amihud", "vpin", "duration_mean", "duration_cv")),
        *((name, "f8") for name in ("run_length_mean", "run_length_max")),
    ]
)
# Trades that follow a batch.
AFTER: Final = np.dtype([("time", "i8"), ("price", "f8"), ("agg_id", "i8"), ("first_id", "i8")])
