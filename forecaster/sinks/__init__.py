"""Where forecast tables go, one module a kind of place; each write is idempotent by the table's key."""

__all__: list[str] = []
