"""Who trades on an announcement, who on a notice, and what a restart in the middle of a line leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path as File
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataInvalid
from features.market import Market
from forecaster.policy.replay import replay
from forecaster.policy.schedule import make_schedule, write_schedule
from forecaster.venue.engine import simulate
from forecaster.venue.margins import PPM, Margins, Variant
from forecaster.venue.synthetic import bars, forecast_rows, gaussian_walk, path_of, people_of

from .outcome import DAILY_VOLUME, FIRST, SIGMA, SYMBOL, WITHOUT_LIMIT, Outcome, Setting, holds_up_to, shortfall_usd

__all__ = ["announced_rise", "notice_run_down", "torn_schedule"]

Floats = npt.NDArray[np.float64]

ANNOUNCED: Final = 24
DELAY: Final = 24  # hours between announcement and effect where rises wait, as after a vote
BEFORE, AFTER = 0.08, 0.24
FALLS: Final = (0.06, 0.09, 0.12, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6)
PENALTY: Final = 0.0025


def announced_rise(setting: Setting, defended: bool) -> Outcome:
    """Toxic flow: whoever read the announcement opens at the highest leverage before the fall that caused it."""
    loss = _toxic(setting, 0.12, defended)
    most = holds_up_to(FALLS, lambda fall: _toxic(setting, fall, defended) == 0)
    return Outcome(
        name="announced_rise",
        done=f"a rise of the initial margin from {100 * BEFORE:g} % to {100 * AFTER:g} % is announced; "
        "100 accounts open at the highest leverage between the announcement and a fall of 12 % within an hour",
        defence="a tightening binds new positions at the instant of its announcement",
        expectation="the flow costs the fund nothing",
        measured={"shortfall_bps_of_oi": loss, "holds_up_to_fall": most},
        holds=loss == 0,
    )


def _toxic(setting: Setting, size: float, defended: bool) -> float:
    """Shortfall in bps of open interest where a fall of ``size`` follows the announcement."""
    hours, fall = ANNOUNCED + DELAY + 12, ANNOUNCED + 12
    closes = np.where(np.arange(hours) < fall, 100.0, 100 * (1 - size))
    people = people_of(np.ones(100), WITHOUT_LIMIT, hours, ANNOUNCED + 1 + np.arange(100) % (fall - ANNOUNCED - 2))
    effective = ANNOUNCED if defended else ANNOUNCED + DELAY
    margins = _published(np.where(np.arange(hours) < effective, BEFORE, AFTER), 0, 0, "now")
    result = simulate(path_of(closes, SIGMA, DAILY_VOLUME), margins, people, setting.venue)
    return 1e4 * shortfall_usd(result) / float(result.open_interest.max())


def notice_run_down(setting: Setting, defended: bool) -> Outcome:
    """Accounts with no more than the old margin sit out the notice; the fall comes when notice and ramp are over."""
    slow = setting.policy.governor.normal
    fall = ANNOUNCED + slow.notice_hours + slow.ramp_hours + 1
    variants: tuple[Variant, ...] = ("now", "notice", "grandfathered")
    loss = {variant: _run_down(setting, fall, variant) for variant in variants}
    early = _run_down(setting, ANNOUNCED + 4, "notice")
    held = loss["notice" if defended else "grandfathered"]
    return Outcome(
        name="notice_run_down",
        done="accounts open at the highest leverage just before a rise of the margin "
        f"from {100 * BEFORE:g} % to {100 * AFTER:g} % and hold through its notice; a fall of 12 % follows",
        defence=f"the notice of {slow.notice_hours} h and the ramp of {slow.ramp_hours} h end, by steps, in the new margin",
        expectation="after notice and ramp the loss is at most a tenth of that of positions that keep the old margin",
        measured={
            "shortfall_bps_of_oi": held,
            "at_once_bps": loss["now"],
            "grandfathered_bps": loss["grandfathered"],
            "within_the_notice_bps": early,
        },
        holds=loss["grandfathered"] > 0 and held <= 0.1 * loss["grandfathered"],
    )


def torn_schedule(setting: Setting, defended: bool) -> Outcome:
    """The writer dies in the middle of a line, starts again, and writes the schedule anew."""
    lines = list(_schedule(setting, 48))
    with TemporaryDirectory() as folder:
        file = File(folder, "schedule.jsonl")
        write_schedule(file, lines[:24])
        if defended:
            _dies_writing(file, lines)
        else:
            file.write_bytes(b"".join(line + b"\n" for line in lines[:30]) + lines[30][:100])
        readable = _readable(file)
        write_schedule(file, _schedule(setting, 48))
        whole = file.read_bytes() == b"".join(line + b"\n" for line in lines)
    return Outcome(
        name="torn_schedule",
        done="the writer of a schedule dies in the middle of line 31 and starts again",
        defence="a schedule is written beside and renamed; what is derived again has the same bytes",
        expectation="readers find the last whole schedule at all times; the new one has the bytes of an unbroken run",
        measured={"lines_readable_after_the_fall": readable, "same_bytes": float(whole)},
        holds=readable == 24 and whole,
    )


def _published(im: Floats, notice: float, ramp: float, variant: Variant) -> Margins:
    """Margins that follow ``im`` (T,), half of it for maintenance, with one notice and ramp in hours."""
    ppm, bars = np.rint(im * PPM).astype(np.int64), len(im)
    return Margins.published(
        im=ppm,
        mm=ppm // 2,
        penalty=np.full(bars, round(PENALTY * PPM), np.int64),
        hours=np.arange(bars),
        notice=np.full(bars, float(notice)),
        ramp=np.full(bars, float(ramp)),
        variant=variant,
    )


def _run_down(setting: Setting, fall: int, variant: Variant) -> float:
    """Shortfall in bps of open interest of accounts opened an hour before the rise, with a fall of 12 % at ``fall``."""
    hours, slow = fall + 6, setting.policy.governor.normal
    im = np.where(np.arange(hours) < ANNOUNCED, BEFORE, AFTER)
    margins = _published(im, slow.notice_hours, slow.ramp_hours, variant)
    people = people_of(np.ones(100), WITHOUT_LIMIT, hours, ANNOUNCED - 2)
    path = path_of(np.full(hours, 100.0), SIGMA, DAILY_VOLUME).with_gap(fall, -0.12)
    result = simulate(path, margins, people, setting.venue)
    return 1e4 * shortfall_usd(result) / float(result.open_interest.max())


def _schedule(setting: Setting, hours: int) -> Iterator[bytes]:
    sigma = np.full(hours, SIGMA / 24**0.5)
    times = pd.date_range(FIRST, periods=hours, freq="h").as_unit("us")
    market = Market.from_tables({"bars": bars(SYMBOL, gaussian_walk(sigma, setting.seed), times, DAILY_VOLUME)})
    return make_schedule(forecast_rows(SYMBOL, times, sigma), market, setting.policy)


def _dies_writing(file: File, lines: list[bytes]) -> None:
    def until_death() -> Iterator[bytes]:
        yield from lines[:30]
        raise InterruptedError("the writer dies")

    try:
        write_schedule(file, until_death())
    except InterruptedError:
        return


def _readable(file: File) -> int:
    """Lines of a lawful schedule; 0 where a reader refuses it."""
    try:
        return replay(file).lines
    except DataInvalid:
        return 0
