from __future__ import annotations

import policy_speed


def test_hours_decided_one_by_one_are_the_schedule_and_are_timed() -> None:
    told = policy_speed.decisions(symbols=2, days=1)
    assert told["gate"]["passed"]
    assert told["hours"] == 23
    assert 0 < told["milliseconds"] <= told["slowest_hour_ms"]


def test_accounts_are_replayed_and_money_is_conserved() -> None:
    told = policy_speed.accounts(slots=200, hours=24 * 70)
    assert told["gate"]["passed"]
    assert told["seconds"] > 0
