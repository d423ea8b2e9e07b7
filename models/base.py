"""The forecast table, and what every model of this package promises.

The forecast table (one row per symbol, origin, horizon and model) is the product: systems read it, policies
consume it, scores judge it. Its columns, units and nullability are pinned; ``FORECAST_SCHEMA`` is their one
definition.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

SCHEMA_VERSION: Final = 1
REGIMES: Final = ("calm", "normal", "stress", "crisis")
STATUSES: Final = ("ok", "degraded", "fallback", "blocked")
ENSEMBLE: Final = "ensemble"

KEY: Final = ("symbol", "origin", "horizon_hours", "model")
TIMESTAMP: Final = pa.timestamp("us", tz="UTC")

# Probability levels, by column. Names of return and excursion columns carry the level per mille.
VARIANCE_LEVELS: Final = {"var_q05": 0.05, "var_q25": 0.25, "var_q50": 0.50, "var_q75": 0.75, "var_q95": 0.95}
RETURN_LEVELS: Final = {f"ret_q{p:03d}": p / 1000 for p in (1, 5, 10, 25, 50, 500, 950, 975, 990, 995, 999)}
SHORTFALL_LEVELS: Final = {f"ret_es{p:03d}": p / 1000 for p in (10, 25, 975, 990)}
EXCURSION_LEVELS: Final = (0.950, 0.990, 0.995, 0.999)
EXCURSION_COLUMNS: Final = {
    side: {f"mae_{side}_q{round(p * 1000):03d}": p for p in EXCURSION_LEVELS} for side in ("long", "short")
}
PROBABILITIES: Final = tuple(f"p_{regime}" for regime in REGIMES)
THRESHOLDS: Final = ("threshold_normal", "threshold_stress", "threshold_crisis")

FORECAST_SCHEMA: Final = pa.schema(
    [
        pa.field("schema_version", pa.int16(), nullable=False),
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("origin", TIMESTAMP, nullable=False),
        pa.field("horizon_hours", pa.int16(), nullable=False),
        pa.field("target_end", TIMESTAMP, nullable=False),
        pa.field("model", pa.string(), nullable=False),
        *(
            pa.field(name, pa.float64())
            for name in (
                "variance",
                "vol_annualised",
                *VARIANCE_LEVELS,
                *RETURN_LEVELS,
                *SHORTFALL_LEVELS,
                *EXCURSION_COLUMNS["long"],
                *EXCURSION_COLUMNS["short"],
                *PROBABILITIES,
                "p_onset",
                *THRESHOLDS,
            )
        ),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("made_at", TIMESTAMP, nullable=False),
        pa.field("data_asof", TIMESTAMP, nullable=False),
        pa.field("model_uri", pa.string(), nullable=False),
        pa.field("model_sha256", pa.string(), nullable=False),
        pa.field("config_sha256", pa.string(), nullable=False),
        pa.field("data_sha256", pa.string(), nullable=False),
    ]
)
