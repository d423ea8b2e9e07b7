"""The page of mechanisms: what each is, where it lives, what shows it; every adversarial scenario is run for it.

``python benchmarks/mechanisms.py --page docs/mechanisms.md``; ends with 1 where the page names what is not there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from features.store import write_atomically
from forecaster.policy.comparison.rows import FIELDS
from forecaster.policy.mechanisms import faults, mechanisms, render
from forecaster.venue import scenarios
from forecaster.venue.metrics import METRICS

TESTS = Path(__file__).resolve().parent.parent / "tests"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path, required=True, help="where the page goes")
    given = parser.parse_args()
    outcomes, table = scenarios.run(), mechanisms()
    write_atomically(given.page, render(table, outcomes).encode())
    for outcome in outcomes:
        print(f"{outcome.name:<28} {'holds' if outcome.holds else 'DOES NOT HOLD':<14} {outcome.measured}")
    gone = faults(table, {o.name for o in outcomes if o.holds}, {*FIELDS, *METRICS}, TESTS)
    for fault in gone:
        print(fault, file=sys.stderr)
    return 1 if gone else 0


if __name__ == "__main__":
    sys.exit(main())
