"""The schedule as a state machine: any sequence of markets, faults, breakers, silences and overrides keeps the contract.

Each rule appends hours of lines for all symbols; what the lines may do is checked at once, as arrays. The ordinary run takes
tens of thousands of lines; FORECASTER_POLICY_STEPS=1000000 takes at least a million.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Any, ClassVar, Final

import numpy as np
import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from forecaster.policy import Params, PolicyState
from forecaster.policy.breakers import Action
from forecaster.policy.decide import advance
from forecaster.policy.feeds import OBSERVABLES, VENUE_OBSERVABLES, checked
from forecaster.policy.governor import BOUNDS
from forecaster.policy.inputs import NAN, STALE, USABLE, Inputs
from forecaster.policy.types import HOUR, MODES, PPM, Mode, Override

from .conftest import RETURN_Z

PARAMS: Final = Params.default()
SYMBOLS: Final = 6
HORIZONS: Final = (1, 4, 24)
START: Final = 1_704_067_200_000_000
ROOT: Final = np.sqrt(np.array(HORIZONS))
LIMITS: Final = [PARAMS.by_mode.get(mode, PARAMS.governor.normal) for mode in MODES]
LONGEST: Final = np.array(
    [0] + [getattr(PARAMS.breakers, f"{action.name.lower()}_hours") for action in Action if action is not Action.CLEAR]
)
CRASHES: Final = ("hour_move", "five_minute_move", "oracle_gap", "depth_median", "insurance_fund_usd")
FEEDS: Final = ("daily_volume_usd", "open_interest_usd", "stress_move", "stress_fall", "sentinel_variance", "drawdown")
LOOK_BACK: Final = 121
HOURS: Final = st.integers(6, 90)
SEED: Final = st.integers(0, 2**32 - 1)


def column(name: str) -> Any:
    """A constant by mode."""
    return np.array([getattr(limits, name) for limits in LIMITS], dtype=np.float64)


STEP_UP, STEP_HOURS, HALF_LIFE, DAY_RISE = (column(n) for n in ("step_up", "step_hours", "half_life_hours", "day_rise"))
CAPS: Final = {
    Mode.STRESS: PARAMS.exposure.stress_cap,
    Mode.COOLDOWN: PARAMS.exposure.stress_cap,
    Mode.CRISIS: PARAMS.exposure.crisis_cap,
    Mode.FAILSAFE: PARAMS.exposure.failsafe_cap,
}
EXPOSURE_CAP: Final = np.array([CAPS.get(mode, PARAMS.exposure.scale_max) for mode in MODES]) * 1e6
HARD: Final = np.array([mode in (Mode.CRISIS, Mode.FAILSAFE) for mode in MODES])


def test_only_the_modes_named_here_keep_what_they_have() -> None:
    assert [MODES[at] for at in np.flatnonzero(HALF_LIFE == 0)] == [Mode.FAILSAFE]


class Machine(RuleBasedStateMachine):
    """Six symbols on one clock, their lines decided block by block from the state before."""

    lines: ClassVar[int] = 0
    met: ClassVar[set[str]] = set()  # what the runs together came across

    @initialize(seed=SEED)
    def begin(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.state, self.now = PolicyState.initial(), START
        self.sigma = np.exp(rng.uniform(np.log(0.001), np.log(0.03), SYMBOLS))
        self.usual = self.sigma * np.sqrt(24)
        self.volume = np.exp(rng.uniform(np.log(1e5), np.log(1e11), SYMBOLS))
        self.ladder = self.volume.copy()
        self.overrides: list[Override] = []
        self.blocks: list[Inputs] = []
        self.decided: list[tuple[Any, ...]] = []
        # What was decided so far, (lines, symbols): instants, IM; the last line's columns; the last rise.
        self.times, self.margins = np.empty(0, dtype=np.int64), np.empty((0, SYMBOLS), dtype=np.int64)
        self.last: dict[str, Any] = {}
        self.risen = np.full(SYMBOLS, -np.inf)
        self.block(np.random.default_rng(seed), 24)

    @rule(seed=SEED, hours=HOURS, drift=st.floats(-0.1, 0.1), known=st.booleans())
    def trade(self, seed: int, hours: int, drift: float, known: bool) -> None:
        self.block(np.random.default_rng(seed), hours, drift=drift, known=known)

    @rule(seed=SEED, hours=HOURS, jump=st.floats(0.3, 30.0))
    def jump(self, seed: int, hours: int, jump: float) -> None:
        self.sigma = np.clip(self.sigma * jump, 1e-4, 0.2)
        self.block(np.random.default_rng(seed), hours)

    @rule(
        seed=SEED, hours=HOURS, share=st.floats(0.02, 1.0), kind=st.sampled_from(["stale", "nan", "absent", "fallback"])
    )
    def fail(self, seed: int, hours: int, share: float, kind: str) -> None:
        """Forecasts fail while volatility falls: what would loosen must not."""
        self.block(np.random.default_rng(seed), hours, drift=-0.1, failing=(kind, share))

    @rule(seed=SEED, hours=HOURS, feed=st.sampled_from(FEEDS), value=st.sampled_from([np.inf, -1.0, 1e30]))
    def break_feed(self, seed: int, hours: int, feed: str, value: float) -> None:
        self.block(np.random.default_rng(seed), hours, drift=-0.1, broken=(feed, value))

    @rule(seed=SEED, hours=HOURS, cause=st.sampled_from(CRASHES), share=st.sampled_from([0.05, 0.5, 1.0]))
    def trip(self, seed: int, hours: int, cause: str, share: float) -> None:
        self.block(np.random.default_rng(seed), hours, tripping=(cause, share))

    @rule(hours=st.integers(1, 300), minutes=st.integers(0, 59))
    def fall_silent(self, hours: int, minutes: int) -> None:
        self.now += hours * HOUR + minutes * HOUR // 60

    @rule(
        seed=SEED,
        hours=HOURS,
        low=st.none() | st.integers(10_000, 900_000),
        high=st.none() | st.integers(1_000, 900_000),
        acknowledged=st.booleans(),
        everyone=st.booleans(),
    )
    def override(
        self, seed: int, hours: int, low: int | None, high: int | None, acknowledged: bool, everyone: bool
    ) -> None:
        if low is not None and high is not None:
            low, high = min(low, high), max(low, high)
        name = "*" if everyone else "S0"
        expires = self.now + (hours + 1) // 2 * HOUR
        self.overrides.append(Override(name, self.now, expires, low, high, "desk", "drill", acknowledged))
        self.block(np.random.default_rng(seed), hours)

    # -- the lines ---------------------------------------------------------------------------------

    def block(self, rng: np.random.Generator, hours: int, **effects: Any) -> None:
        inputs = self.inputs(rng, hours, **effects)
        governed, hedges, self.state = advance(inputs, self.state, PARAMS, self.overrides)
        assert len(governed) == hours * SYMBOLS
        self.blocks.append(inputs)
        self.decided.append((governed.vector, governed.exposure, governed.reasons, governed.column("action"), hedges))
        self.check(inputs, governed, hedges, hours)
        type(self).lines += len(governed)

    def inputs(
        self,
        rng: np.random.Generator,
        hours: int,
        drift: float = 0.0,
        known: bool = True,
        failing: tuple[str, float] = ("", 0.0),
        broken: tuple[str, float] = ("", 0.0),
        tripping: tuple[str, float] = ("", 0.0),
    ) -> Inputs:
        shape = (hours, SYMBOLS)
        path = np.log(self.sigma) + np.cumsum(drift + 0.05 * rng.standard_normal(shape), axis=0)
        sigma = np.exp(np.clip(path, np.log(1e-4), np.log(0.2)))
        self.sigma = sigma[-1]
        origins = self.now + HOUR * np.arange(hours)
        self.now = int(origins[-1]) + HOUR
        flat = sigma.ravel()
        day = flat * np.sqrt(24)
        odds = rng.dirichlet((4, 4, 1, 0.5), flat.size) if known else np.full((flat.size, 4), np.nan)
        volume = np.tile(self.volume, hours)
        fresh = rng.random(SYMBOLS) < 0.4  # a new ladder at an hour of the block, as at a month's begin
        then, self.ladder = self.ladder, np.where(fresh, self.volume * np.exp(rng.uniform(-2, 2, SYMBOLS)), self.ladder)
        late = np.arange(hours)[:, None] >= rng.integers(0, hours)
        values: dict[str, Any] = dict.fromkeys((*OBSERVABLES, *VENUE_OBSERVABLES), np.nan)
        values |= {"bar_age_hours": 0.0, "daily_volume_usd": volume, "hour_share": 1.0}
        values |= {"ladder_volume_usd": np.where(late, self.ladder, then).ravel()}
        values |= {"funding_q": 1e-3, "funding_last": 1e-4, "funding_interval_hours": 8.0, "mark_present": 1.0}
        values |= {
            "sentinel_variance": day**2 * rng.uniform(0.1, 8.0, flat.size),
            "stress_move": 0.4,
            "stress_fall": 0.3,
        }
        values |= {"open_interest_usd": volume * rng.uniform(0.1, 30.0), "safe_im": 0.3, "history_days": 900.0}
        values |= {"hour_move": 0.01, "feed_lost": 0.0, "floor_im": 0.1, "implied_vol": rng.uniform(0.2, 2.0)}
        values |= {"conformal_im": 1.1, "conformal_mm": 1.0, "drawdown": rng.uniform(0, 0.4), "short_funding": 1e-3}
        values |= {"sigma_median": np.tile(self.usual, hours), "depth_median": volume / day**2}
        seen = {name: np.broadcast_to(np.float64(value), flat.shape).copy() for name, value in values.items()}
        if broken[0]:
            seen[broken[0]][rng.random(flat.size) < 0.5] = broken[1]
        if tripping[0]:
            worst = {"hour_move": 0.3, "five_minute_move": 0.5, "oracle_gap": 0.3, "depth_median": 1e300}
            seen[tripping[0]][rng.random(flat.size) < tripping[1]] = worst.get(tripping[0], 0.0)
        seen, doubtful = checked(seen, PARAMS.failsafe.own_history_days)
        hit = rng.random(flat.size) < failing[1]
        kinds = {"stale": STALE, "nan": NAN}
        made = Inputs(
            symbol=[f"S{s}" for s in range(SYMBOLS)] * hours,
            origin=np.repeat(origins, SYMBOLS),
            horizons=HORIZONS,
            q_mm=-np.expm1(-2.8 * flat[:, None] * ROOT),
            q_im=-np.expm1(-3.2 * day),
            q_far=-np.expm1(-4.0 * day),
            variance=day**2,
            sigma_annual=flat * np.sqrt(8760),
            probabilities=odds,
            returns=day[:, None] * np.array(list(RETURN_Z.values())),
            fault=np.where(hit, kinds.get(failing[0], USABLE), USABLE),
            fallback=hit & (failing[0] == "fallback"),
            stale_feed=doubtful,
            forecast_hash=["0" * 64] * flat.size,
            model_sha256=["0" * 64] * flat.size,
            observed=seen,
        )
        if failing[0] != "absent":
            return made
        hit[int(rng.integers(SYMBOLS)) :: SYMBOLS] = False  # an origin without any row is no origin
        return taken(made, np.flatnonzero(~hit))

    # -- what every line keeps -----------------------------------------------------------------------

    def check(self, inputs: Inputs, governed: Any, hedges: Any, hours: int) -> None:
        def grid(values: Any) -> Any:
            return np.asarray(values).reshape(hours, SYMBOLS, *np.shape(values)[1:])

        now = {name: grid(governed.column(name)) for name in ("mode", "exposure", "action", "since", "causes", "bound")}
        now |= {"vector": grid(governed.vector), "hedge": grid(hedges), "effective_at": grid(governed.effective_at)}
        now["caps"] = grid(governed.column("caps"))
        as_of = grid(governed.as_of)[:, 0]
        row = grid(governed.row)
        usable = (row >= 0) & (inputs.fault[row] == USABLE)
        doubtful = ~usable | inputs.fallback[row] | inputs.stale_feed[row]
        overridden = grid(governed.has("OVERRIDE"))
        lawful(now["vector"])
        begun = bool(self.last)
        then = {
            name: np.concatenate([self.last[name][None] if begun else values[:1], values[:-1]])
            for name, values in now.items()
        }
        gaps = np.diff(as_of, prepend=self.times[-1] if begun else as_of[0]) / HOUR
        moved = grid(governed.decomposition).sum(axis=2)
        base = then["vector"][..., 0].copy()
        if not begun:
            base[0] = 0
        np.testing.assert_array_equal(moved, now["vector"][..., 0] - base)
        self.check_speed(now, then, as_of, gaps, overridden)
        self.check_requirements(now, then, gaps, doubtful, overridden)
        up, down = (f(now["vector"], then["vector"]).any(axis=2) for f in (np.greater, np.less))
        assert not (down & doubtful & ~overridden).any(), "a fault loosened a margin"
        assert not (down & ~overridden & (HALF_LIFE[now["mode"]] == 0)).any(), "loosened in a mode without a half-life"
        assert (now["effective_at"] >= as_of[:, None]).all()
        assert (now["effective_at"][up] == np.broadcast_to(as_of[:, None], up.shape)[up]).all()
        later = np.broadcast_to(as_of[:, None] + PARAMS.limits.loosening_delay_hours * HOUR, down.shape)
        assert (now["effective_at"][down & ~up] == later[down & ~up]).all()
        # Exposure and hedge.
        halted = (now["action"] > Action.CLEAR) & (now["action"] < Action.GRACE)
        held = halted | HARD[now["mode"]] | ~usable
        if not begun:
            held[0] = False
        assert (now["exposure"] <= EXPOSURE_CAP[now["mode"]]).all()
        assert (now["exposure"] >= 0).all()
        assert not (held & (now["exposure"] > then["exposure"])).any(), "exposure grew in trouble"
        np.testing.assert_array_equal(now["hedge"][~usable], then["hedge"][~usable])
        assert (np.abs(now["hedge"][..., 2]) <= 1000).all()
        assert (now["hedge"][..., 3:6] >= 0).all()
        self.check_breakers(now, then, as_of, gaps)
        self.met |= {f"action {action}" for action in np.unique(now["action"])}
        self.met |= {f"mode {mode}" for mode in np.unique(now["mode"])}
        self.met |= {f"bound {bound}" for bound in np.unique(now["bound"])}
        self.met |= {f"hedge {kind}" for kind in np.unique(now["hedge"][..., 0])}
        self.met |= {"down"} if down.any() else set()
        self.times = np.concatenate([self.times, as_of])[-LOOK_BACK:]
        self.last = {name: values[-1] for name, values in now.items()}

    def check_speed(self, now: Any, then: Any, as_of: Any, gaps: Any, overridden: Any) -> None:
        """Steps of the mode, rises against the least margin in force, falls no faster than the half-life."""
        vector, before, mode = now["vector"], then["vector"], now["mode"]
        free = ~overridden
        assert not (free & (vector > before).any(axis=2) & (vector < before).any(axis=2)).any(), "moved both ways"
        most = before * (1 + STEP_UP[mode][..., None]) + 1
        assert ((vector <= most) | ~free[..., None]).all(), "a step beyond the mode's"
        half_life = np.maximum(HALF_LIFE[mode], 1e-9)[..., None]
        least = before * 0.5 ** (gaps[:, None, None] / half_life) - 1
        assert ((vector >= least) | ~free[..., None]).all(), "fell faster than the half-life"
        # In force within the window: every line that was not yet replaced when it began.
        times = np.concatenate([self.times, as_of])
        margins = np.concatenate([self.margins, vector[..., 0]])
        first, rises = len(self.times), vector[..., 0] > before[..., 0]
        acknowledged = now["bound"] == [name for name, _ in BOUNDS].index("acknowledged")
        for i in range(len(as_of)):
            at = first + i
            if at and rises[i].any():
                for days, multiple, free_rise in ((1, 2, DAY_RISE[mode[i]]), (5, 3, 2.0)):
                    begin = max(0, int(np.searchsorted(times[1 : at + 1], times[at] - days * 24 * HOUR)))
                    low = margins[begin:at].min(axis=0)
                    over = rises[i] & (vector[i, :, 0] > multiple * low + 1e-6)
                    assert not (over & ~acknowledged[i]).any(), f"rose beyond the limit of {days} days"
                    over = rises[i] & free[i] & (vector[i, :, 0] > np.floor(low * (1 + free_rise) + 1e-6))
                    assert not over.any(), f"rose beyond the mode's limit of {days} days"
            step = (vector[i] > before[i]).any(axis=1) & free[i]
            waited = (as_of[i] - self.risen) / HOUR
            assert not (step & (waited < STEP_HOURS[mode[i]])).any(), "stepped again too soon"
            self.risen = np.where(step, as_of[i], self.risen)
        self.margins = margins[-LOOK_BACK:]

    def check_requirements(self, now: Any, then: Any, gaps: Any, doubtful: Any, overridden: Any) -> None:
        """What a position of any size owes: at the caps of both lines, where it bends, and far beyond them."""
        far = 1e3 * np.maximum(now["caps"], then["caps"])[..., -1:]
        sizes = np.concatenate([now["caps"], then["caps"], far], axis=2).astype(np.float64)
        half_life = HALF_LIFE[now["mode"]]
        held = doubtful | (half_life == 0)
        slow = np.where(held, 1.0, 0.5 ** (gaps[:, None] / np.maximum(half_life, 1e-9)))[..., None]
        tiers = now["caps"].shape[2]
        for part in (slice(tiers), slice(tiers, 2 * tiers)):
            owed, before = (required(sizes, line["caps"], line["vector"][..., part]) for line in (now, then))
            assert ((owed >= slow * before * (1 - 1e-12)) | overridden[..., None]).all(), "a requirement fell too fast"
        grew = (now["caps"] > then["caps"]).any(axis=2)
        assert not (grew & held).any(), "a cap grew on a line that may not loosen"
        risen = (now["vector"] > then["vector"]).any(axis=2)
        assert not (grew & risen).any(), "a cap grew while a margin rose"
        self.met |= {"grown"} if grew.any() else set()
        self.met |= {"narrowed"} if (now["caps"] < then["caps"]).any() else set()

    def check_breakers(self, now: Any, then: Any, as_of: Any, gaps: Any) -> None:
        action, before = now["action"], then["action"]
        lasted = (as_of[:, None] - now["since"]) / HOUR
        standing = action != Action.CLEAR
        assert (lasted[standing] < LONGEST[action[standing]]).all(), "an action outlived its longest duration"
        np.testing.assert_array_equal(now["causes"] > 0, standing)
        hourly = np.broadcast_to((gaps == 1)[:, None], action.shape)
        halts = (before == Action.HALT) | (before == Action.WITHDRAW_GATE)
        ends = np.where(halts, Action.GRACE, Action.CLEAR)
        escalates = (action == before + 1) & (before < Action.WITHDRAW_GATE)
        assert ((action == before) | escalates | (action == ends) | ~hourly).all(), "an action out of turn"

    def teardown(self) -> None:
        """All blocks at once give what they gave one by one."""
        if not self.blocks:
            return
        governed, hedges, state = advance(joined(self.blocks), PolicyState.initial(), PARAMS, self.overrides)
        whole = (governed.vector, governed.exposure, governed.reasons, governed.column("action"), hedges)
        for parts, values in zip(zip(*self.decided, strict=True), whole, strict=True):
            np.testing.assert_array_equal(np.concatenate(parts), values)
        assert state == self.state


def lawful(vector: Any) -> None:
    tiers = (vector.shape[2] - 2) // 2
    im, mm, fee, haircut = vector[..., :tiers], vector[..., tiers:-2], vector[..., -2], vector[..., -1]
    assert (fee > 0).all()
    assert (fee <= PARAMS.penalty.share_of_mm * mm[..., 0]).all()
    assert (mm < im).all()
    assert (im - mm >= PARAMS.clamp_gap * 1e6).all()
    assert (im <= PPM).all()
    assert (np.diff(im, axis=2) >= 0).all()
    assert (np.diff(mm, axis=2) >= 0).all()
    assert ((haircut >= 0) & (haircut <= PPM)).all()


def required(sizes: Any, caps: Any, rates: Any) -> Any:
    """Margins of positions (..., S) under tiers (..., K), millionths of USD: each rate on its own part of the size."""
    upper = np.concatenate([caps[..., :-1].astype(np.float64), np.full((*caps.shape[:-1], 1), np.inf)], axis=-1)
    lower = np.concatenate([np.zeros((*caps.shape[:-1], 1)), upper[..., :-1]], axis=-1)
    parts = np.clip(sizes[..., None], lower[..., None, :], upper[..., None, :]) - lower[..., None, :]
    return (parts * rates[..., None, :]).sum(axis=-1)


def taken(inputs: Inputs, rows: Any) -> Inputs:
    """The lines of an index."""
    fields = {name: value for name, value in vars(inputs).items() if isinstance(value, np.ndarray)}
    return replace(
        inputs,
        symbol=[inputs.symbol[i] for i in rows],
        forecast_hash=[inputs.forecast_hash[i] for i in rows],
        model_sha256=[inputs.model_sha256[i] for i in rows],
        observed={name: value[rows] for name, value in inputs.observed.items()},
        **{name: value[rows] for name, value in fields.items()},
    )


def joined(blocks: list[Inputs]) -> Inputs:
    """The lines of all blocks."""
    fields = [name for name, value in vars(blocks[0]).items() if isinstance(value, np.ndarray)]
    lists = ("symbol", "forecast_hash", "model_sha256")
    return replace(
        blocks[0],
        **{name: np.concatenate([getattr(block, name) for block in blocks]) for name in fields},
        **{name: [value for block in blocks for value in getattr(block, name)] for name in lists},
        observed={n: np.concatenate([block.observed[n] for block in blocks]) for n in blocks[0].observed},
    )


def test_any_sequence_keeps_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = int(os.environ.get("FORECASTER_POLICY_STEPS", "30000"))
    Machine.lines, Machine.met, runs = 0, set(), 0
    quiet = settings(
        max_examples=10,
        stateful_step_count=25,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    while Machine.lines < wanted:
        run_state_machine_as_test(seed(runs)(Machine), settings=quiet)
        runs += 1
    with capsys.disabled():
        sys.stdout.write(f"\n{Machine.lines:,} lines of the schedule held the contract\n")
    places = (
        {f"action {a.value}" for a in Action} | {f"hedge {kind}" for kind in range(3)} | {"down", "grown", "narrowed"}
    )
    places |= {f"mode {at}" for at, mode in enumerate(MODES) if mode is not Mode.OVERRIDE}
    assert places <= Machine.met
    assert {f"bound {at}" for at in range(len(BOUNDS))} <= Machine.met
