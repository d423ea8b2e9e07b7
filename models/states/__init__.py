"""Hidden states of the market: causal filters for regimes and change points."""
