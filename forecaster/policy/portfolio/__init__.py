"""Portfolios: cross-margin, account and system risk, calls of option books, size with hedge and collateral.

The parameter pack reads its constants from here, and everything else here reads the pack: import that from its module.
"""

from .params import PortfolioParams

__all__ = ["PortfolioParams"]
