"""The search against brute force over whole packs, its bounds, and what it may know."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import UsageError
from features.market import Market
from features.panel import Array
from forecaster.policy import Params, govern
from forecaster.policy.comparison.ablations import Variant, ungoverned
from forecaster.policy.comparison.contest import Contest, contest
from forecaster.policy.comparison.governed import governed
from forecaster.policy.comparison.search import KNOBS, TUNABLE, Knob, search, steps
from forecaster.policy.inputs import read_with_market
from forecaster.policy.margin import Targets, targets
from forecaster.policy.observables import MarketHistory

from .conftest import START

FOUR_DAYS = 96
SHARE = Knob("margin.stress_share", (0.0, 0.25, 0.5, 0.9), low=0.0, high=1.0)
FLOOR = Knob("margin.floor_quantile", (0.3, 0.7), low=0.0, high=0.8)
GAIN = Knob("conformal.gain", (0.001, 0.02), low=0.0, high=0.05)
LEAP = Knob("margin.stress_share", (0.0, 0.95), low=0.0, high=1.0)


@pytest.fixture(scope="module")
def folded(met: Contest) -> Contest:
    """The small market with a fold every four days in place of the one quarter that it touches."""
    return _with_folds(met)


def _with_folds(met: Contest) -> Contest:
    first = int(met.ground.times.searchsorted(START))
    return replace(met, ground=replace(met.ground, folds=first + FOUR_DAYS * np.arange(4)))


def _other(params: Params, key: str, value: float) -> Params:
    section, name = key.split(".")
    return replace(params, **{section: replace(getattr(params, section), **{name: value})})


def _own_schedule(forecasts: pd.DataFrame, market: Market, pack: Params) -> Variant:
    """What production decides with under a pack, read anew."""
    return Variant(read_with_market(forecasts, MarketHistory(market, pack)), pack)


def _planted(met: Contest, best: Variant) -> Contest:
    """Excursions that follow the margins of one variant but for noise of one law."""
    im = governed(best, met.ground)[0].im
    noise = np.random.default_rng(8).lognormal(sigma=0.1, size=im.shape)
    return replace(met, ground=replace(met.ground, excursion=im * noise))


def _tilted(margin: float, excursion: float) -> float:
    return 0.995 * (excursion - margin) if excursion > margin else 0.005 * (margin - excursion)


def test_every_choice_is_that_of_brute_force(folded: Contest, forecasts: pd.DataFrame, market: Market) -> None:
    knobs, ground, params = (SHARE, FLOOR, GAIN), folded.ground, folded.variant.params
    packs: dict[tuple[float, ...], Array] = {}
    for floor, gain in product(FLOOR.values, GAIN.values):
        learnt = _other(_other(params, FLOOR.key, floor), GAIN.key, gain)
        variant = _own_schedule(forecasts, market, learnt)
        for share in SHARE.values:
            packs[share, floor, gain] = governed(variant.assuming("margin", stress_share=share), ground)[0].im
    own = (params.margin.stress_share, params.margin.floor_quantile, params.conformal.gain)
    place = {values: [knob.values.index(v) for knob, v in zip(knobs, values, strict=True)] for values in packs}

    def loss(values: tuple[float, ...], fold: int) -> float:
        known = [
            (s, t) for s, t in np.argwhere(ground.origins) if t + 24 <= fold and not np.isnan(ground.excursion[s, t])
        ]
        ratios = sorted((ground.excursion[at] / packs[own][at] for at in known), reverse=True)
        mean = ratios[len(known) // 200] * sum(float(packs[own][at]) for at in known)  # 0.5 % lie beyond
        scale = mean / sum(float(packs[values][at]) for at in known)
        return sum(_tilted(scale * packs[values][at], ground.excursion[at]) for at in known) / len(known)

    now: tuple[float, ...] = own
    moved = 0
    found = search(folded, forecasts, knobs, least_gain=0.002)
    assert len(found.choices) == len(ground.folds)
    for fold, choice in zip(ground.folds.tolist(), found.choices, strict=True):
        near = [v for v in packs if sum(abs(a - b) for a, b in zip(place[v], place[now], strict=True)) == 1]
        best = min(near, key=lambda values: loss(values, fold))
        gain = 1 - loss(best, fold) / loss(now, fold)
        assert choice.gain == pytest.approx(gain, abs=1e-9)
        ((key, value),) = choice.proposal.items()
        assert value == best[[knob.key for knob in knobs].index(key)]
        moved += gain > 0.002
        now = best if gain > 0.002 else now
        assert tuple(choice.constants.values()) == now
        assert choice.at == ground.times[fold]
    assert moved


def test_a_planted_better_constant_is_found_step_by_step(
    folded: Contest, forecasts: pd.DataFrame, market: Market, params: Params
) -> None:
    world = _planted(folded, _own_schedule(forecasts, market, _other(params, "margin.stress_share", 0.5)))
    knob = Knob("margin.stress_share", (0.1, 0.25, 0.35, 0.5), low=0.0, high=1.0)
    found = search(world, forecasts, (knob, GAIN))
    assert [choice.constants["margin.stress_share"] for choice in found.choices] == [0.35, 0.5, 0.5, 0.5]
    assert {choice.constants["conformal.gain"] for choice in found.choices} == {params.conformal.gain}
    assert found.choices[0].gain > 0.01 >= found.choices[-1].gain


def test_without_a_gain_the_pack_stays_to_the_byte(folded: Contest, forecasts: pd.DataFrame, params: Params) -> None:
    found = search(folded, forecasts, least_gain=math.inf)
    np.testing.assert_array_equal(found.im, folded.runs["raw"]["ensemble"].im)
    for choice in found.choices:
        assert choice.constants == {
            key: getattr(getattr(params, key.split(".")[0]), key.split(".")[1]) for key in TUNABLE
        }


def test_without_a_past_nothing_moves(folded: Contest, forecasts: pd.DataFrame) -> None:
    first = int(folded.ground.columns.min())
    early = replace(folded.ground, folds=np.array([first, first + 23, first + 24]))
    found = search(replace(folded, ground=early), forecasts, (SHARE,), least_gain=-1.0)
    assert [choice.origins for choice in found.choices] == [0, 0, 3]
    assert [math.isnan(choice.gain) for choice in found.choices] == [True, True, False]
    assert [choice.constants["margin.stress_share"] == 0.25 for choice in found.choices] == [True, True, False]


@pytest.fixture(scope="module")
def leap(folded: Contest) -> tuple[Contest, Variant]:
    """A pack without a stress leg, and a world made for one whose single step multiplies the target."""
    bare = folded.variant.assuming("margin", stress_share=0.0, gap=0.95)
    runs = {"raw": {"ensemble": governed(bare, folded.ground)[0]}}
    stressed = bare.assuming("margin", stress_share=0.95)
    return _planted(replace(folded, variant=bare, runs=runs), stressed), stressed


def test_a_leap_of_the_constants_stays_within_the_governors_limits(
    leap: tuple[Contest, Variant], forecasts: pd.DataFrame
) -> None:
    world, stressed = leap
    found, fold = search(world, forecasts, (LEAP,)), int(world.ground.folds[0])
    assert [choice.constants["margin.stress_share"] for choice in found.choices] == [0.95] * 4
    asked = ungoverned(stressed, world.ground).im[:, fold] / ungoverned(world.variant, world.ground).im[:, fold - 1]
    assert asked.max() > 3  # more than five days' rise at once
    assert np.nanmax(found.im[:, -1] / found.im[:, fold - 1]) > 2  # which the path then makes, slowly
    limits = world.variant.params.limits
    lines = np.flatnonzero(~np.isnan(found.im[0]))
    for days, rise in ((1, limits.day_rise), (5, limits.five_day_rise)):
        for t in lines:
            least = np.nanmin(found.im[:, max(t - 24 * days, lines[0]) : t + 1], axis=1)
            assert (found.im[:, t] <= least * (1 + rise) + 1e-9).all()


def test_the_margin_is_that_of_targets_spliced_by_hand(leap: tuple[Contest, Variant], forecasts: pd.DataFrame) -> None:
    world, stressed = leap
    found = search(world, forecasts, (LEAP,)).im
    inputs, begins = world.variant.inputs, START
    before, after = (targets(inputs, variant.params) for variant in (world.variant, stressed))
    pairs = {field.name: (getattr(before, field.name), getattr(after, field.name)) for field in fields(Targets)}
    by_hand = {
        name: np.array([pair[int(origin >= begins)][i] for i, origin in enumerate(inputs.lines["origin"])])
        for name, pair in pairs.items()
    }
    lines = govern(inputs, world.variant.params, wanted=Targets(**by_hand))
    rows = {(lines.symbols[c], t): i for i, (c, t) in enumerate(zip(lines.code, lines.as_of, strict=True))}
    now: dict[str, int] = {}
    for (symbol, as_of), i in sorted(rows.items(), key=lambda item: item[0][1]):
        waiting = [j for j in range(max(0, i - 400), i + 1) if lines.code[j] == lines.code[i]]
        now[symbol] = max(j for j in waiting if lines.effective_at[j] <= as_of)
        place = world.ground.rows[lines.row[i]], world.ground.columns[lines.row[i]]
        assert found[place] == lines.im[now[symbol]] / 1e6
    assert np.isfinite(found).sum() == len(lines)


def test_later_data_change_no_earlier_choice_nor_margin(
    folded: Contest, forecasts: pd.DataFrame, tables: dict[str, pd.DataFrame], params: Params
) -> None:
    fold = int(folded.ground.folds[2])
    cut = folded.ground.times[fold]
    past = Market.from_tables({name: table[table["available_at"] <= cut] for name, table in tables.items()})
    known = contest(forecasts[forecasts["origin"] <= cut], past, params, start=START)
    knobs = (SHARE, FLOOR, GAIN)
    early = search(_with_folds(known), forecasts[forecasts["origin"] <= cut], knobs, least_gain=0.002)
    late = search(folded, forecasts, knobs, least_gain=0.002)
    assert early.choices == late.choices[:3]
    assert len({tuple(choice.constants.values()) for choice in early.choices}) > 1
    assert early.im.shape[1] == fold + 1
    np.testing.assert_array_equal(early.im, late.im[:, : fold + 1])


@given(
    sizes=st.lists(st.integers(2, 5), min_size=1, max_size=3),
    seed=st.integers(0, 2**32 - 1),
    least=st.floats(0, 0.9),
)
def test_no_path_leaves_its_grid_or_takes_two_steps(sizes: list[int], seed: int, least: float) -> None:
    rng = np.random.default_rng(seed)
    losses = rng.lognormal(size=(6, *sizes))
    place = own = tuple(int(rng.integers(size)) for size in sizes)
    found = steps(own, tuple(sizes), range(6), lambda at, fold: float(losses[(fold, *at)]), least)
    assert len(found) == 6
    for fold, (proposal, gain, after) in enumerate(found):
        near = {at: losses[(fold, *at)] for at in np.ndindex(*sizes) if np.abs(np.subtract(at, place)).sum() == 1}
        assert near[proposal] == min(near.values())
        assert gain == 1 - near[proposal] / losses[(fold, *place)]
        assert after == (proposal if gain > least else place)
        place = after


@given(
    key=st.sampled_from(TUNABLE),
    values=st.lists(st.floats(0, 1), max_size=5),
    low=st.floats(0, 0.6),
    high=st.floats(0.4, 1),
)
def test_no_knob_holds_a_value_outside_its_bounds(key: str, values: list[float], low: float, high: float) -> None:
    lawful = len(values) > 1 and values == sorted(set(values)) and all(low <= value <= high for value in values)
    if lawful:
        assert Knob(key, tuple(values), low, high).values == tuple(values)
    else:
        with pytest.raises(UsageError, match=key):
            Knob(key, tuple(values), low, high)


@pytest.mark.parametrize(
    "key",
    ["governor.normal.half_life_hours", "limits.day_rise", "modes.quiet_hours", "margin.im_max", "margin.gaps", "gap"],
)
def test_a_constant_that_is_not_of_the_target_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match=f"{key}: not a constant of the margin target.*parameter pack"):
        Knob(key, (0.2, 0.3), 0.0, 1.0)


def test_a_value_outside_its_bounds_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"margin.gap = 0.8 lies outside its bounds \[0.2, 0.6\]"):
        Knob("margin.gap", (0.3, 0.8), 0.2, 0.6)


def test_what_cannot_be_searched_is_refused(folded: Contest, forecasts: pd.DataFrame) -> None:
    with pytest.raises(UsageError, match="at least one"):
        search(folded, forecasts, ())
    with pytest.raises(UsageError, match=r"margin.stress_share.*none twice"):
        search(folded, forecasts, (SHARE, SHARE))
    with pytest.raises(UsageError, match=r"margin.gap = 0.3 of pack 'default-2' is not on the grid"):
        search(folded, forecasts, (Knob("margin.gap", (0.2, 0.4), 0.0, 1.0),))


def test_every_shipped_knob_holds_the_packs_own_constant(params: Params) -> None:
    assert {knob.key for knob in KNOBS} == set(TUNABLE)
    for knob in KNOBS:
        section, name = knob.key.split(".")
        assert knob.values[knob.standing(params)] == getattr(getattr(params, section), name)
