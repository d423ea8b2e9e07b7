"""GARCH and GJR-GARCH: maximum likelihood with a certificate, causal filter, closed-form forecasts."""

from __future__ import annotations

from models.garch.estimation import Certificate
from models.garch.model import GARCH, fit_many

__all__ = ["GARCH", "Certificate", "fit_many"]
