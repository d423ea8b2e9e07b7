"""The report: one HTML file of an evaluation, and one picture of it.

Importing this package imports matplotlib; import it where a report is written.
"""

from .cover import cover
from .page import write

__all__ = ["cover", "write"]
