"""GARCH, GJR-GARCH, EGARCH, GARCH-X and HEAVY: maximum likelihood with a certificate, causal filter, forecasts."""

from __future__ import annotations

from models.garch.estimation import Certificate
from models.garch.heavy import HEAVY
from models.garch.model import GARCH, fit_many

__all__ = ["GARCH", "HEAVY", "Certificate", "fit_many"]
