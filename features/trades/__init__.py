"""Single trades into bars: one compiled pass with a carried state, in constant memory."""
