"""Adversarial scenarios: seeded, each with a quantitative expectation that fails without its defence."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from features.errors import UsageError
from forecaster.policy.params import Params
from forecaster.venue.params import VenueParams

from . import announcements, attackers, feeds, markets
from .outcome import Outcome, Scenario, Setting

__all__ = ["SCENARIOS", "SEED", "Outcome", "Scenario", "Setting", "run"]

SEED: Final = 20240312

SCENARIOS: Final[dict[str, Scenario]] = {
    scenario.__name__: scenario
    for scenario in (
        feeds.late_sources,
        feeds.outage_exits,
        feeds.oracle_outage,
        feeds.lying_source,
        feeds.flash_print,
        attackers.withdrawing_whale,
        attackers.liquidation_sandwich,
        announcements.announced_rise,
        announcements.notice_run_down,
        attackers.splitting_adl,
        attackers.splitting_tiers,
        attackers.wash_open_interest,
        markets.liquidator_strike,
        markets.liquidator_collusion,
        markets.thin_depth,
        markets.gap_over_settlement,
        markets.broken_peg,
        markets.stale_quotes_taken,
        announcements.torn_schedule,
    )
}


def run(
    venue: VenueParams | None = None,
    policy: Params | None = None,
    seed: int = SEED,
    names: Collection[str] | None = None,
    defended: bool = True,
) -> list[Outcome]:
    """The outcomes of all scenarios, or of ``names``, in the order of ``SCENARIOS``; packs that ship unless given.

    ``defended=False`` switches off, in each scenario, the defence that its outcome names. Raises UsageError for a
    name that is no scenario.
    """
    wanted = SCENARIOS.keys() if names is None else set(names)
    unknown = wanted - SCENARIOS.keys()
    if unknown:
        raise UsageError(f"no scenario is called {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    setting = Setting(venue or VenueParams.default(), policy or Params.default(), seed)
    return [scenario(setting, defended) for name, scenario in SCENARIOS.items() if name in wanted]
