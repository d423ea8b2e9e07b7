"""The observables by name, and the values that none of them can have.

A value outside its range says that the feed is broken, not that the market moved: it counts as absent, and its
line never loosens a margin. Nor does a line where a feed is silent that spoke before.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["OBSERVABLES", "VENUE_OBSERVABLES", "checked", "speaking"]

Floats = npt.NDArray[np.float64]

USD: Final = (0.0, 1e14)  # beyond any day's volume or open interest of one market
MOVE: Final = (0.0, 1e3)  # a price that grew a thousandfold
HOURS: Final = (1e-3, 24.0 * 31)

# Name and lawful range.
_STORE: Final = {
    "bar_age_hours": (0.0, np.inf),
    "daily_volume_usd": USD,
    "hour_share": (0.0, 24.0),
    "ladder_volume_usd": USD,
    "funding_q": (0.0, 1.0),
    "funding_last": (0.0, 1.0),
    "funding_interval_hours": HOURS,
    "short_funding": (-24.0, 24.0),
    "open_interest_usd": USD,
    "mark_present": (0.0, 1.0),
    "sentinel_variance": (0.0, 1e3),
    "stress_move": MOVE,
    "stress_fall": (0.0, 1.0),
    "safe_im": MOVE,
    "history_days": (0.0, 1e5),
    "hour_move": MOVE,
    "mark_gap": MOVE,
    "five_minute_move": MOVE,
    "implied_vol": (0.0, 100.0),
    "drawdown": (0.0, 1.0),
    "usual_vol": (0.0, 100.0),
    "feed_lost": (0.0, 1.0),
    "conformal_im": (1e-3, 1e3),
    "conformal_mm": (1e-3, 1e3),
    "floor_im": MOVE,
    "sigma_median": (0.0, 1e3),
    "depth_median": (0.0, np.finfo(np.float64).max),
}
# What no store of market data holds: whoever runs a venue joins it to the forecast rows; absent is lawful.
_VENUE: Final = {
    "insurance_fund_usd": (-1e14, 1e14),
    "oracle_gap": (0.0, 1e3),
}
OBSERVABLES: Final = tuple(_STORE)
VENUE_OBSERVABLES: Final = tuple(_VENUE)
# A symbol with this much history and a bar has all of these.
_ALWAYS: Final = (
    "daily_volume_usd",
    "hour_share",
    "ladder_volume_usd",
    "sentinel_variance",
    "safe_im",
    "stress_move",
    "stress_fall",
    "conformal_im",
    "conformal_mm",
    "drawdown",
)
SETTLED_DAYS: Final = 31
# The floor begins after its own least history, the month of bars that its first value needs, and holes.
FLOOR_LATE_DAYS: Final = 90


def speaking(seen: dict[str, Floats]) -> npt.NDArray[np.int64]:
    """Bits of the feeds that speak (n,): the market at all, its bars, then each of ``VENUE_OBSERVABLES``.

    ``seen``: checked, by name, (n,). Whether silence is lawful only the lines before can tell.
    """
    market = np.any([~np.isnan(seen[name]) for name in OBSERVABLES], axis=0)
    known = (market, *(~np.isnan(seen[name]) for name in ("bar_age_hours", *VENUE_OBSERVABLES)))
    bits = np.zeros(len(market), dtype=np.int64)
    for place, speaks in enumerate(known):
        bits |= speaks.astype(np.int64) << place
    return bits


def checked(seen: dict[str, Floats], floor_min_days: int) -> tuple[dict[str, Floats], npt.NDArray[np.bool_]]:
    """Observables with impossible values taken out (NaN), and the lines that had one or lack what must be there.

    ``seen``: by name, (n,); NaN is absent. A symbol that the market knows has its age, and with age the rest.
    """
    clean, doubtful = {}, seen["feed_lost"] > 0
    for name, (low, high) in (_STORE | _VENUE).items():
        broken = (seen[name] < low) | (seen[name] > high) | np.isinf(seen[name]) & np.isfinite(high)
        clean[name] = np.where(broken, np.nan, seen[name])
        doubtful = doubtful | broken
    days, alive = clean["history_days"], ~np.isnan(clean["bar_age_hours"])
    for name in _ALWAYS:
        doubtful |= alive & (days >= SETTLED_DAYS) & np.isnan(clean[name])
    doubtful |= alive & (days >= floor_min_days + FLOOR_LATE_DAYS) & np.isnan(clean["floor_im"])
    return clean, doubtful | (alive & np.isnan(days))
