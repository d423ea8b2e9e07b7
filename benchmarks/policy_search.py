"""Whether constants of the margin target chosen inside the walk-forward do better than those of the pack.

    python benchmarks/policy_search.py --store STORE --forecasts FORECASTS [--params PACK] [--least-gain G]
                                        [--start T] [--end T]

At each quarter the search may move one constant by one step of its grid if the past gains enough by it. First every fold's
choice, then the governed margins of tier 1 over the scored origins: as they are, with ``matched_mean_im`` (the mean once
scaled to cover exactly 99.5 % of the excursions), and pinball loss and expected shortfall beyond the margin at one realised
mean, that at which the fixed pack covers exactly 99.5 %. Both scales are hindsight, the same kind for every row. The
constants of the pack ``default-2`` were themselves chosen on days before 2023-07, which flatters the fixed pack there;
``--params`` takes another start. The default ``--end`` keeps the days that policies are scored on out of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from time import process_time

import pandas as pd
import pyarrow.parquet as pq

from features.market import Market
from features.panel import Array
from forecaster.policy import Params
from forecaster.policy.comparison.contest import contest
from forecaster.policy.comparison.ground import Ground
from forecaster.policy.comparison.metrics import coverage_metrics
from forecaster.policy.comparison.scaling import levelled, matching_scale
from forecaster.policy.comparison.search import KNOBS, LEAST_GAIN, Choice, search

__all__ = ["choices", "figures"]


def choices(found: tuple[Choice, ...]) -> Iterator[str]:
    """One row a fold: its past, the constant proposed, what that would have gained, the constants in force."""
    keys = [knob.key for knob in KNOBS]
    yield f"| fold | origins | proposed | gain | {' | '.join(keys)} |"
    yield "|---" * (4 + len(keys)) + "|"
    for choice in found:
        asked = ", ".join(f"{key} {value:g}" for key, value in choice.proposal.items())
        values = " | ".join(f"{value:g}" for value in choice.constants.values())
        yield f"| {choice.at:%Y-%m-%d} | {choice.origins:,} | {asked} | {100 * choice.gain:+.2f} % | {values} |"


def figures(rows: Mapping[str, Array], fixed: Array, ground: Ground) -> Iterator[str]:
    """One row a policy, margins (n_symbols, n_hours) over the scored origins."""
    yield "| policy | mean | coverage | matched_mean_im | pinball_995 x 1e4 | es_beyond x 1e4 |"
    yield "|---|---|---|---|---|---|"
    excursion = ground.excursion[ground.scored]
    fixed = fixed * matching_scale(excursion / fixed[ground.scored])
    for name, im in rows.items():
        plain = coverage_metrics(im[ground.scored], excursion)
        level = coverage_metrics(levelled(im, fixed, ground)[ground.scored], excursion)
        yield (
            f"| {name} | {plain['mean_im']:.4f} | {plain['coverage_24h_995']:.4f} | {plain['matched_mean_im']:.4f} "
            f"| {1e4 * level['pinball_995']:.2f} | {1e4 * level['es_beyond_margin']:.2f} |"
        )


def main() -> int:
    """Search on the forecasts' origins before ``--end`` and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--forecasts", required=True)
    parser.add_argument("--params", help="a parameter pack in the place of the default one")
    parser.add_argument(
        "--least-gain", type=float, default=LEAST_GAIN, help="share of the past's loss that a step must save"
    )
    parser.add_argument("--start")
    parser.add_argument("--end", default="2023-07-01")
    asked = parser.parse_args()
    params = Params.load(asked.params) if asked.params else Params.default()
    before = ("origin", "<", pd.Timestamp(asked.end, tz="UTC"))  # later rows would only be decided for nothing
    forecasts = pq.read_table(asked.forecasts, filters=[("model", "=", params.model), before]).to_pandas()
    met = contest(forecasts, Market.open(asked.store), params, start=asked.start, end=asked.end)
    begun = process_time()
    found = search(met, forecasts, least_gain=asked.least_gain)
    print(
        f"pack {params.name}, a step must save {100 * asked.least_gain:g} %; search: {process_time() - begun:.0f} CPU s\n"
    )
    print(*choices(found.choices), sep="\n", end="\n\n")
    raw = {name: met.runs["raw"][name].im for name in ("ensemble", "fhs_apc")}
    rows = {"searched": found.im, f"fixed pack {params.name}": raw["ensemble"], "fhs_apc": raw["fhs_apc"]}
    print(*figures(rows, raw["ensemble"], met.ground), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
