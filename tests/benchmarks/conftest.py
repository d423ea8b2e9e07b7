"""Benchmarks are scripts beside each other: their folder is put on the path, as Python does when one of them runs."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
