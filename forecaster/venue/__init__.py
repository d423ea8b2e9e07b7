"""The venue: a back-test of margins on real price paths, account by account, with liquidation and loss sharing."""

from __future__ import annotations

from .engine import VenueResult, simulate
from .margins import Margins
from .metrics import METRICS, metrics
from .params import VenueParams
from .path import Path
from .population import Population

__all__ = ["METRICS", "Margins", "Path", "Population", "VenueParams", "VenueResult", "metrics", "simulate"]
