from __future__ import annotations

import numpy as np
import pytest

from features.errors import UsageError
from forecaster.policy import Params, position_mm
from forecaster.policy.notice import Published
from forecaster.policy.types import HOUR, Mode
from forecaster.venue import Margins


def _follow(margins: Margins, entry: int) -> list[float]:
    binding, out = float(margins.mm[entry]), []
    for t in range(entry, len(margins)):
        binding = min(margins.mm[t], max(binding, margins.allowed[t]))
        out.append(float(binding))
    return out


@pytest.mark.parametrize("entry", [0, 7, 25])
def test_allowed_is_the_notice_ledger_of_the_policy(entry: int) -> None:
    params = Params.default()
    limits = params.by_mode[Mode.NORMAL]
    rng = np.random.default_rng(3)
    mm = np.repeat(rng.integers(20_000, 90_000, 20), 5).astype(np.int64)
    hours = np.arange(100, dtype=np.int64)
    margins = Margins.published(
        im=2 * mm,
        mm=mm,
        penalty=np.full(100, 2500, np.int64),
        hours=hours,
        notice=np.full(100, float(limits.notice_hours)),
        ramp=np.full(100, float(limits.ramp_hours)),
    )
    lines = [Published(int(t) * HOUR, int(mm[t]), Mode.NORMAL) for t in range(100) if t == 0 or mm[t] != mm[t - 1]]
    expected = position_mm(lines, entry * HOUR, [t * HOUR for t in range(entry, 100)], params)
    np.testing.assert_allclose(_follow(margins, entry), expected, atol=1.0)


def test_variants_differ_in_who_follows_a_rise() -> None:
    mm = np.array([20_000] * 3 + [40_000] * 20, np.int64)
    hours, wait = np.arange(23, dtype=np.int64), np.full(23, 4.0)
    args = (2 * mm, mm, np.full(23, 2500, np.int64), hours, wait, wait)
    assert Margins.published(*args, variant="now").allowed[3] == 40_000
    assert Margins.published(*args, variant="grandfathered").allowed.max() == 20_000
    notice = Margins.published(*args, variant="notice").allowed
    assert list(notice[[6, 7, 9, 11]]) == [20_000, 20_000, 30_000, 40_000]


def test_a_fall_takes_back_the_pending_rise_first() -> None:
    mm = np.array([20_000, 60_000, 30_000, 30_000, 30_000], np.int64)
    hours = np.arange(5, dtype=np.int64)
    margins = Margins.published(2 * mm, mm, np.full(5, 2500, np.int64), hours, np.full(5, 2.0), np.zeros(5), "notice")
    assert list(margins.allowed) == [20_000, 20_000, 20_000, 30_000, 30_000]


def test_a_fall_takes_back_no_rise_that_binds_already() -> None:
    # The rise of 20,000 waits 9 hours, the one of 10,000 binds after 2: a fall of 10,000 at 4 shortens the one that waits.
    mm = np.array([20_000, 40_000, 50_000, 50_000, 40_000] + [40_000] * 8, np.int64)
    hours, notice = np.arange(13, dtype=np.int64), np.array([0.0, 9.0, 2.0] + [0.0] * 10)
    margins = Margins.published(2 * mm, mm, np.full(13, 2500, np.int64), hours, notice, np.zeros(13), "notice")
    assert margins.allowed[4:11].tolist() == [30_000] * 6 + [40_000]


def test_unlawful_margins_are_refused() -> None:
    good = Margins.constant(0.1, 3)
    assert list(good.mm) == [50_000] * 3
    for name, value in (("im", 1_100_000), ("mm", 100_000), ("penalty", 60_000), ("allowed", 60_000)):
        parts = {field: getattr(good, field) for field in ("im", "mm", "allowed", "penalty")}
        with pytest.raises(UsageError, match="break 0 < penalty < mm < im"):
            Margins(**{**parts, name: np.full(3, value, np.int64)})
    with pytest.raises(UsageError, match="int64"):
        Margins(good.im, good.mm, good.allowed, good.penalty.astype(np.float64))
    with pytest.raises(UsageError, match="variant"):
        Margins.published(good.im, good.mm, good.penalty, good.im, np.zeros(3), np.zeros(3), "soon")  # type: ignore[arg-type]
