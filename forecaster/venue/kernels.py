"""The venue's kernel: accounts, liquidation, impact and loss sharing, bar by bar.

Balances are int64 micro-USD and change only by transfers; positions are int64 lots that sum to zero with the
market maker's. A price is the micro-USD of one lot. ``history`` prices are the path's; ``seen`` prices carry
the impact of the venue's own liquidations. Equity at a price p is cash + lots * (p - reference), the
reference being the price at which everyone was last settled.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .state import Arrivals, Bars, Floats, Integers, Rules, State

MICRO = 1_000_000.0
LEGS_PER_BAR = 3
LEG_MINUTES = 60.0 / LEGS_PER_BAR
LEG_HOURS = 1.0 / LEGS_PER_BAR
BLOCK = 128

# Purse: balances beside the accounts', net deposits, and the market maker's lots.
MAKER, JUNIOR, SENIOR, FEES, GAS, LIQUIDATORS, DEPOSITS, MAKER_LOTS = range(8)
# Book: reference price, signed flow still consuming depth (USD, sold > 0), lasting impact (a factor), breakers, leg clock,
# price before the bar, what stands of the breakers.
REFERENCE, FLOW, LASTING, REDUCE_UNTIL, HALT_UNTIL, GRACE_UNTIL, LEG, PREVIOUS, ACTION = range(9)
CLEAR, HALT, WITHDRAW_GATE, GRACE = 0, 3, 4, 5  # places of forecaster.policy.breakers.Action
# Tally: sums over the run, micro-USD of notional or of money unless they count.
TALLIED = (
    "liquidated", "induced", "unnecessary", "discount", "drawn", "bad_debt", "haircut", "haircut_deficit",
    "socialised", "carried_legs", "carried_notional", "steps", "backstops", "topped_up", "refused", "entered",
    "penalties", "ramp_steps", "rounds", "untaken",
)  # fmt: skip
(
    LIQUIDATED, INDUCED, UNNECESSARY, DISCOUNT, DRAWN, BAD_DEBT, HAIRCUT, HAIRCUT_DEFICIT, SOCIALISED, CARRIED_LEGS,
    CARRIED_NOTIONAL, STEPS, BACKSTOPS, TOPPED_UP, REFUSED, ENTERED, PENALTIES, RAMP_STEPS, ROUNDS, UNTAKEN,
) = range(20)  # fmt: skip
# Series of the run, one row a bar.
OPEN_INTEREST, OFFSET, FUND = range(3)
SERIES = 3
WATER_FILLING, QUEUE, PRO_RATA, NO_ADL = range(4)


@njit(cache=True, inline="always")
def _whole(x: float) -> int:
    return int(np.rint(x))


@njit(cache=True, inline="always")
def _impact(b: Bars, r: Rules, t: int, flow: float) -> float:
    """Square-root law: relative displacement of the price by a signed flow (USD) that depth has not yet forgotten."""
    size = r.impact * b.sigma[t] * np.sqrt(abs(flow) * MICRO / b.depth[t])
    return float(-np.sign(flow) * min(size, r.slip_cap))


@njit(cache=True, inline="always")
def _lift(s: State, b: Bars, r: Rules, t: int) -> float:
    """Seen price over history's."""
    return float(s.book[LASTING] * (1.0 + r.transient * _impact(b, r, t, s.book[FLOW])))


@njit(cache=True, inline="always")
def _equity(s: State, i: int, price: float) -> float:
    return float(s.cash[i] + s.lots[i] * (price - s.book[REFERENCE]))


@njit(cache=True, inline="always")
def _aim(s: State, i: int) -> None:
    """The prices at which equity meets the maintenance margin."""
    lots, at_zero = s.lots[i], s.cash[i] - s.lots[i] * s.book[REFERENCE]
    s.below[i] = -at_zero / (lots * (1.0 - s.mm[i])) if lots > 0 else 0.0
    s.above[i] = -at_zero / (lots * (1.0 + s.mm[i])) if lots < 0 else np.inf


@njit(cache=True, inline="always")
def _trade(s: State, i: int, lots: int, paid: float, filled: float) -> None:
    """The account parts with ``lots`` (signed) at ``paid``; the maker takes them at ``filled``; liquidators differ."""
    gain = _whole(lots * (paid - s.book[REFERENCE]))
    cost = _whole(lots * (filled - s.book[REFERENCE]))
    s.cash[i] += gain
    s.purse[MAKER] -= cost
    s.purse[LIQUIDATORS] += cost - gain
    s.lots[i] -= lots
    s.purse[MAKER_LOTS] += lots


@njit(cache=True, inline="always")
def _feed_fund(s: State, r: Rules, amount: int) -> None:
    """Inflows make the senior tranche whole first."""
    senior = min(amount, max(0, r.senior_size - s.purse[SENIOR]))
    s.purse[SENIOR] += senior
    s.purse[JUNIOR] += amount - senior


@njit(cache=True, inline="always")
def _withdraw(s: State, i: int) -> None:
    s.purse[DEPOSITS] -= s.cash[i]
    s.cash[i] = 0
    s.offer[i] = 0.0
    _aim(s, i)


# -- loss sharing -------------------------------------------------------------------------------------------------


@njit(cache=True)
def adl_room(notional: float, equity: float, mm: float, gap: float) -> float:
    """Reduction at a haircut of ``gap`` that leaves a payer at its maintenance margin; none for one below it."""
    spare = equity - mm * notional
    if spare < 0:
        return 0.0
    return np.inf if gap <= mm else spare / (gap - mm)


@njit(cache=True)
def adl_shares(method: int, notional: Floats, equity: Floats, room: Floats, score: Floats, amount: float) -> Floats:
    """How much each winner is reduced, (n,), for a total of ``amount``; see adl.py. ``room`` caps each reduction."""
    x = np.zeros(len(notional))
    if method == QUEUE:
        left = amount
        for i in np.argsort(-score):
            if left > 0 and room[i] >= notional[i]:
                x[i] = notional[i]
                left -= notional[i]
        return x
    open_ = (equity > 0) & (notional > 0) & (room > 0)
    while open_.any():
        x[:] = 0.0
        if method == PRO_RATA:
            x[open_] = notional[open_] * min(1.0, amount / notional[open_].sum())
        else:
            level = _water_level(notional[open_], equity[open_], amount)
            x[open_] = np.maximum(0.0, notional[open_] - level * equity[open_])
        breach = open_ & (x > room * (1 + 1e-12))
        if not breach.any():
            return x
        open_ &= ~breach
    x[:] = 0.0
    return x


@njit(cache=True)
def _water_level(notional: Floats, equity: Floats, amount: float) -> float:
    """l with sum max(0, N - l E) = amount; 0 where even all of N is not enough."""
    order = np.argsort(-notional / equity)
    total, base = 0.0, 0.0
    for k in range(len(order)):
        total += notional[order[k]]
        base += equity[order[k]]
        level = (total - amount) / base
        following = notional[order[k + 1]] / equity[order[k + 1]] if k + 1 < len(order) else 0.0
        if level >= following:
            return float(level)
    return 0.0


@njit(cache=True)
def _deleverage(s: State, r: Rules, loser: int, lots: int, deficit: int, price: float) -> int:
    """Reduce winners by the loser's closed lots at its bankruptcy price; returns what their haircuts pay."""
    winners = np.flatnonzero(s.lots < 0) if lots > 0 else np.flatnonzero(s.lots > 0)
    amount, n = abs(lots) * price, len(winners)
    gap = deficit / amount
    notional, equity, room, score = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for k in range(n):
        i = winners[k]
        notional[k], equity[k] = abs(s.lots[i]) * price, _equity(s, i, price)
        room[k] = adl_room(notional[k], equity[k], s.mm[i], gap)
        profit = s.lots[i] * (price - s.entry[i]) / max(equity[k], 1.0)
        leverage = notional[k] / max(equity[k], 1.0)
        score[k] = profit * leverage if profit > 0 else profit / leverage
    x = adl_shares(r.adl, notional, equity, room, score, amount)
    raised, due = 0, 0.0
    for k in range(n):
        i = winners[k]
        due += x[k]
        if x[k] <= 0:
            continue
        haircut = _whole(deficit * (due / amount)) - raised
        size = min(abs(s.lots[i]), _whole(x[k] / price))
        _trade(s, i, size if s.lots[i] > 0 else -size, price, price)
        s.cash[i] -= haircut
        s.cash[loser] += haircut
        raised += haircut
        if s.lots[i] == 0:
            _withdraw(s, i)
        _aim(s, i)
    return raised


@njit(cache=True)
def _socialise(s: State, loser: int, deficit: int, price: float) -> None:
    """deficit / (OI_long + OI_short) of everyone's notional, no account below zero; the maker bears what is left."""
    gross = (np.abs(s.lots).sum() + abs(s.purse[MAKER_LOTS])) * price
    left = deficit
    for i in range(len(s.lots)):
        if s.lots[i] == 0 or gross <= 0:
            continue
        share = min(int(deficit * (abs(s.lots[i]) * price / gross)), max(0, int(_equity(s, i, price))), left)
        s.cash[i] -= share
        left -= share
        _aim(s, i)
    s.purse[MAKER] -= left
    s.cash[loser] += deficit


@njit(cache=True)
def _cover(s: State, r: Rules, i: int, lots: int, price: float) -> None:
    """The waterfall below an account's equity: junior tranche, senior tranche, ADL, everyone."""
    deficit = -s.cash[i]
    for tranche in (JUNIOR, SENIOR):
        drawn = min(-s.cash[i], s.purse[tranche])
        s.purse[tranche] -= drawn
        s.cash[i] += drawn
        s.tally[DRAWN] += drawn
    left = -s.cash[i]
    s.tally[BAD_DEBT] += left
    if left > 0 and r.adl != NO_ADL:
        raised = _deleverage(s, r, i, lots, left, price)
        s.tally[HAIRCUT] += raised
        s.tally[HAIRCUT_DEFICIT] += min(left, raised)
        if raised > left:
            s.cash[i] -= raised - left
            _feed_fund(s, r, raised - left)
        left = max(0, left - raised)
    if left > 0:
        s.tally[SOCIALISED] += left
        _socialise(s, i, left, price)
    if deficit > 0 and s.cash[i] != 0:
        raise ValueError("a deficit was not covered to the micro-dollar")


# -- liquidation --------------------------------------------------------------------------------------------------


@njit(cache=True, inline="always")
def _fill(s: State, b: Bars, r: Rules, t: int, lots: int, mark: float, last: float) -> tuple[float, float]:
    """Price of selling ``lots`` (signed) after the flow before it, and the flow (USD) then; prices of history.

    The lasting part of that flow's impact is in the base already and is not paid twice: a sale in pieces ends where the
    whole would.
    """
    base = min(max(last, mark * (1 - r.print_band)), mark * (1 + r.print_band)) * s.book[LASTING]
    flow = s.book[FLOW] + lots * base / MICRO
    slip = _impact(b, r, t, flow) - r.permanent * _impact(b, r, t, s.book[FLOW]) - np.sign(lots) * r.spread / 2
    return base * (1 + min(max(slip, -r.slip_cap), r.slip_cap)), flow


@njit(cache=True, inline="always")
def _push(s: State, b: Bars, r: Rules, t: int, flow: float) -> None:
    """The flow consumes depth; a part of the impact it adds stays for good."""
    added = _impact(b, r, t, flow) - _impact(b, r, t, s.book[FLOW])
    s.book[LASTING] *= 1.0 + r.permanent * added
    s.book[FLOW] = flow


@njit(cache=True, inline="always")
def may_liquidate(action: int, below_now: bool, below_at_halt: bool) -> bool:
    """The policy's rule, ``policy.breakers.may_liquidate``, compiled: nobody pays for a move made while halted."""
    if action in (HALT, WITHDRAW_GATE):
        return False
    return bool(below_now and (action != GRACE or below_at_halt))


@njit(cache=True, inline="always")
def _engage(s: State, b: Bars, r: Rules, t: int, notional: float, reward: float) -> float:
    """Notional that liquidators take, fastest first: reward rate, less gas, covers capital and risk of the latency."""
    taken = 0.0
    margin = reward - r.gas / max(notional, 1.0)
    for k in range(len(r.latency)):
        if r.latency[k] > LEG_MINUTES or margin < s.asked[k]:
            continue
        use = min(s.capital[k], notional - taken)
        s.capital[k] -= use
        taken += use
    return taken


@njit(cache=True, inline="always")
def _count(s: State, b: Bars, t: int, i: int, notional: float, mark: float, history: float) -> None:
    """What a liquidation of ``notional`` was: spared by the earlier margin, or of an account that would have lived."""
    lots, worst = s.lots[i], (b.mark[t, 2] if s.lots[i] > 0 else b.mark[t, 1]) * mark / history
    if s.mm[i] > s.mm_before[i] and _equity(s, i, worst) >= s.mm_before[i] * abs(lots) * worst:
        s.tally[INDUCED] += notional
    if s.twin[i] == 0.0:
        s.twin[i] = max((s.book[REFERENCE] - s.cash[i] / lots) * history / mark, 1e-300)
    survives = b.lowest[t] > s.twin[i] if lots > 0 else b.highest[t] < s.twin[i]
    s.tally[UNNECESSARY] += notional if survives else 0.0
    s.tally[LIQUIDATED] += notional


@njit(cache=True)
def _settle_close(
    s: State,
    r: Rules,
    i: int,
    lots: int,
    mark: float,
    paid: float,
    filled: float,
    rate: float,
    share: float,
    tip: float,
) -> None:
    """Close ``lots`` of account i at ``paid``, its penalty bounded by its surplus, and share the loss if it is beyond."""
    before = s.lots[i]
    notional = abs(lots) * mark
    s.tally[DISCOUNT] += (mark - paid) * lots
    s.tally[STEPS] += 1
    _trade(s, i, lots, paid, filled)
    surplus = max(0.0, _equity(s, i, mark)) * (lots / before)
    penalty = int(min(rate * notional, surplus))
    reward = min(penalty, int(share * penalty + tip))
    gas = min(r.gas, reward)
    s.cash[i] -= penalty
    s.purse[GAS] += gas
    s.purse[LIQUIDATORS] += reward - gas
    _feed_fund(s, r, penalty - reward)
    s.tally[PENALTIES] += penalty
    if s.lots[i] == 0:
        if s.cash[i] < 0:
            _cover(s, r, i, lots, mark)
        _withdraw(s, i)
    _aim(s, i)


@njit(cache=True)
def _auction(s: State, b: Bars, r: Rules, t: int, i: int, mark: float, last: float, history: float) -> int:
    """One leg of a Dutch auction for the whole position: 1 sold, 0 running, -1 run out without a bid."""
    lots, side = s.lots[i], np.sign(s.lots[i])
    notional = abs(lots) * mark
    if s.offer[i] == 0.0:
        s.offer[i], s.elapsed[i] = mark * (1 + side * r.buffer), 0.0
        s.frozen[i] = min(b.penalty[t], r.penalty_cap * s.mm[i])
    filled, flow = _fill(s, b, r, t, lots, history, last)
    first, past = int(s.elapsed[i] / r.step_minutes), int((s.elapsed[i] + LEG_MINUTES) / r.step_minutes)
    for k in range(first, past):
        price = s.offer[i] * (1 - side * r.cut) ** k
        bidding = s.asked <= side * (filled - price) / mark - r.gas / max(notional, 1.0)
        willing = s.capital[bidding].sum()
        if willing >= notional:
            s.capital[bidding] *= 1 - notional / willing
            _count(s, b, t, i, notional, mark, history)
            _settle_close(s, r, i, lots, mark, price, filled, s.frozen[i], 0.0, r.tip + r.chip * notional)
            _push(s, b, r, t, flow)
            return 1
    s.elapsed[i] += LEG_MINUTES
    if s.elapsed[i] >= r.tail_minutes or (1 - r.cut) ** past < r.cusp:
        s.offer[i] = 0.0
        return -1
    return 0


@njit(cache=True, inline="always")
def _step_lots(s: State, b: Bars, r: Rules, t: int, i: int, equity: float, mark: float, ramp: bool) -> int:
    """A partial step that liquidators take: toward restore x MM, bounded by share, depth and their capital."""
    lots = s.lots[i]
    notional, penalty = abs(lots) * mark, min(b.penalty[t], r.penalty_cap * s.mm[i])
    restore = r.restore * s.mm[i]
    size = max(r.step_least, (restore * notional - equity) / (restore - penalty))
    band = b.depth[t] * (r.step_move / max(r.impact * b.sigma[t], 1e-12)) ** 2
    size = min(size, r.step_share * notional, r.participation * band)
    if notional < r.dust and not ramp:
        size = notional
    taken = _engage(s, b, r, t, size, r.reward_share * min(penalty, max(0.0, equity) / notional))
    s.tally[UNTAKEN] += size - taken
    return int(np.sign(lots) * min(abs(lots), int(taken / mark + 1e-9)))


@njit(cache=True)
def _act(s: State, b: Bars, r: Rules, t: int, i: int, mark: Floats, last: Floats) -> bool:
    """Liquidate account i where this leg (prices of history at its two ends) meets its trigger; True if it traded."""
    lift, lots, span = _lift(s, b, r, t), s.lots[i], mark[1] - mark[0]
    below = s.below[i] > mark[1] * lift or s.above[i] < mark[1] * lift  # earlier ones may have moved the price since
    if not may_liquidate(int(s.book[ACTION]), below, s.fallen[i]):
        return False
    target = (s.below[i] if lots > 0 else s.above[i]) / lift
    already = target >= mark[0] if lots > 0 else target <= mark[0]
    along = 0.0 if already or span == 0.0 else min(1.0, max(0.0, (target - mark[0]) / span))
    fresh = s.leg[i] != int(s.book[LEG])
    along = along if fresh else max(along, s.done[i])
    s.leg[i], s.done[i] = int(s.book[LEG]), along
    history, print_ = mark[0] + along * span, last[0] + along * (last[1] - last[0])
    price = history * lift
    equity, notional = _equity(s, i, price), abs(lots) * price
    ramp = s.mm[i] > s.mm_least[i] and equity >= s.mm_least[i] * notional
    lost = equity < r.backstop * s.mm[i] * notional and not ramp
    if r.auction and not ramp:
        if not fresh:
            return False
        sold = _auction(s, b, r, t, i, price, print_, history)
        if sold >= 0 or not lost:
            return sold > 0
    share = 0.0 if lost else r.reward_share
    closing = lots if lost else _step_lots(s, b, r, t, i, equity, price, ramp)
    if closing == 0:
        return False
    s.tally[BACKSTOPS] += lost
    s.tally[RAMP_STEPS] += ramp
    filled, flow = _fill(s, b, r, t, closing, history, print_)
    _count(s, b, t, i, abs(closing) * price, price, history)
    _settle_close(s, r, i, closing, price, filled, filled, min(b.penalty[t], r.penalty_cap * s.mm[i]), share, 0.0)
    _push(s, b, r, t, flow)
    return True


@njit(cache=True)
def _triggered(s: State, price: float) -> Integers:
    """Accounts under maintenance at a seen price, most under water first."""
    found = 0
    for start in range(0, len(s.below), BLOCK):  # counting a block is vectorised; few blocks hold a hit
        below, above, count = s.below[start : start + BLOCK], s.above[start : start + BLOCK], 0
        for j in range(len(below)):
            count += (below[j] > price) | (above[j] < price)
        for j in range(len(below) if count > 0 else 0):
            if below[j] > price or above[j] < price:
                s.hits[found] = start + j
                s.depth[found] = below[j] / price if below[j] > 0 else price / max(above[j], 1e-300)
                found += 1
    return s.hits[:found][np.argsort(-s.depth[:found], kind="mergesort")]


@njit(cache=True)
def _leg(s: State, b: Bars, r: Rules, t: int, mark: Floats, last: Floats) -> None:
    """Triggers and their impact in rounds, at most K; what is left is carried to the next leg."""
    s.book[LEG] += 1
    hit = _triggered(s, mark[1] * _lift(s, b, r, t))
    rounds, acted = 0, True
    while len(hit) > 0 and acted and rounds < r.rounds:
        acted = False
        for i in hit:
            if s.lots[i] != 0:  # the deleveraging of an earlier one may have closed it
                acted |= _act(s, b, r, t, i, mark, last)
        rounds += 1
        hit = _triggered(s, mark[1] * _lift(s, b, r, t))
    s.tally[ROUNDS] = max(s.tally[ROUNDS], rounds)
    if acted and len(hit) > 0:
        s.tally[CARRIED_LEGS] += 1
        for i in hit:
            s.tally[CARRIED_NOTIONAL] += abs(s.lots[i]) * mark[1]


# -- the bar ------------------------------------------------------------------------------------------------------


@njit(cache=True)
def _settle_open(s: State, b: Bars, r: Rules, t: int) -> tuple[float, float]:
    """Funding and mark-to-market at the open, notice ledger; notional at risk at the bar's low and at its high."""
    price, reference = b.mark[t, 0] * _lift(s, b, r, t), s.book[REFERENCE]
    low, high = price * b.mark[t, 2] / b.mark[t, 0], price * b.mark[t, 1] / b.mark[t, 0]
    moved, longs, shorts = 0, 0.0, 0.0
    s.book[REFERENCE] = price
    for i in range(len(s.cash)):
        lots = s.lots[i]
        if lots == 0:
            continue
        change = _whole(lots * (price - reference)) - _whole(lots * price * b.funding[t])
        s.cash[i] += change
        moved += change
        s.mm_before[i] = s.mm[i]
        s.mm[i] = min(b.mm[t], max(s.mm[i], b.allowed[t]))
        s.mm_least[i] = min(s.mm_least[i], s.mm[i])
        _aim(s, i)
        longs += lots * low if s.below[i] > low else 0.0
        shorts -= lots * high if s.above[i] < high else 0.0
    s.purse[MAKER] -= moved
    return longs, shorts


@njit(cache=True, inline="always")
def _charge(s: State, r: Rules, i: int, notional: float) -> None:
    fee = min(int(r.taker * notional), s.cash[i])
    fund = int(r.fee_to_fund * fee)
    s.cash[i] -= fee
    s.purse[FEES] += fee - fund
    _feed_fund(s, r, fund)


@njit(cache=True)
def _owners(s: State, b: Bars, r: Rules, t: int, price: float, open_: bool) -> None:
    """At the close: exits of the solvent, top-ups on a warning, deleveraging where IM rose."""
    rises = t > 0 and b.im[t] > b.im[t - 1]
    for i in range(len(s.cash)):
        lots = s.lots[i]
        if lots == 0:
            continue
        equity, notional = _equity(s, i, price), abs(lots) * price
        if open_ and s.leave[i] <= b.hour[t] and equity >= s.mm[i] * notional:
            _trade(s, i, lots, price, price)
            _charge(s, r, i, notional)
            _withdraw(s, i)
            continue
        if s.topups[i] > 0 and equity < r.warning * s.mm[i] * notional:
            paid = _whole(r.topup_level * s.mm[i] * notional - equity)
            s.cash[i] += paid
            s.purse[DEPOSITS] += paid
            s.tally[TOPPED_UP] += paid
            s.topups[i] -= 1
            _aim(s, i)
        elif rises and open_ and s.deleverages[i] and s.mm[i] * notional <= equity < b.im[t] * notional:
            cut = int(np.sign(lots)) * int((notional - equity / b.im[t]) / price)
            filled, flow = _fill(s, b, r, t, cut, b.mark[t, 3], b.last[t, 3])
            _trade(s, i, cut, filled, filled)
            _push(s, b, r, t, flow)
            _aim(s, i)
        if s.offer[i] > 0 and equity >= r.release * s.mm[i] * notional:
            s.offer[i] = 0.0


@njit(cache=True)
def _enter(s: State, b: Bars, a: Arrivals, r: Rules, t: int, first: int, price: float, open_: bool) -> int:
    """New positions at the close, under the margins in force; returns the next arrival."""
    k = first
    while k < len(a.enter) and a.enter[k] <= b.hour[t]:
        i, lots = a.slot[k], _whole(a.weight[k] * b.unit[t] / price)
        k += 1
        if a.leave[k - 1] <= b.hour[t] or lots == 0:
            continue
        if not open_ or s.lots[i] != 0:
            s.tally[REFUSED] += 1
            continue
        notional = abs(lots) * price
        deposit = _whole(notional / min(a.leverage[k - 1], 1.0 / b.im[t]) + r.taker * notional)
        s.purse[DEPOSITS] += deposit
        s.cash[i] = deposit
        _charge(s, r, i, notional)
        _trade(s, i, -lots, price, price)
        s.entry[i], s.leave[i], s.twin[i], s.offer[i] = price, a.leave[k - 1], 0.0, 0.0
        s.fallen[i] = False
        s.mm[i] = s.mm_before[i] = s.mm_least[i] = b.mm[t]
        s.topups[i], s.deleverages[i] = r.topups * a.tops_up[k - 1], a.deleverages[k - 1]
        s.tally[ENTERED] += 1
        _aim(s, i)
    return k


@njit(cache=True)
def _breakers(s: State, b: Bars, r: Rules, t: int, price: float) -> None:
    """Trip on the bar's move as seen; a halt is followed by a grace. Both remember who was below maintenance before."""
    previous, scale, now = s.book[PREVIOUS], price / b.mark[t, 3], b.hour[t] + 1
    move = max(b.mark[t, 1] * scale / previous - 1, 1 - b.mark[t, 2] * scale / previous)
    if move >= r.reduce_move:
        s.book[REDUCE_UNTIL] = now + r.reduce_hours
    if move >= r.halt_move < 1 and now > s.book[GRACE_UNTIL]:
        s.book[HALT_UNTIL] = now + r.halt_hours
        s.book[GRACE_UNTIL] = now + r.halt_hours + r.grace_hours
        s.fallen[:] = (s.below > price) | (s.above < price)
    s.book[PREVIOUS] = price


@njit(cache=True)
def conserved(s: State) -> bool:
    """Accounts, maker, fund, fees, gas and liquidators together hold the net deposits; lots sum to zero."""
    held = s.cash.sum() + s.purse[: LIQUIDATORS + 1].sum()
    return bool(held == s.purse[DEPOSITS] and s.lots.sum() + s.purse[MAKER_LOTS] == 0)


@njit(cache=True)
def run(s: State, b: Bars, a: Arrivals, r: Rules, series: Floats, tallies: Floats) -> int:
    """All bars in the order of events of the venue; the first bar that breaks conservation, else -1."""
    arrival = 0
    ends = np.empty((2, 2))
    for t in range(len(b.hour)):
        if t > 0:
            s.book[FLOW] *= 0.5 ** ((b.hour[t] - b.hour[t - 1] - 1) / r.half_life)
        s.capital[:] = b.capital[t]
        s.asked[:] = r.capital_charge + r.risk_charge * b.sigma[t] * np.sqrt(r.latency / 1440.0)
        longs, shorts = _settle_open(s, b, r, t)
        series[t, OPEN_INTEREST] = (np.abs(s.lots).sum() + abs(s.purse[MAKER_LOTS])) / 2 * s.book[REFERENCE]
        s.book[ACTION] = HALT if b.hour[t] < s.book[HALT_UNTIL] else GRACE if b.hour[t] < s.book[GRACE_UNTIL] else CLEAR
        low_first = (longs >= shorts) == r.adverse_first
        order = (0, 0, 2, 1, 3) if low_first else (0, 0, 1, 2, 3)  # open, open, extreme, extreme, close
        for k in range(4):
            for end in range(2):
                ends[0, end], ends[1, end] = b.mark[t, order[k + end]], b.last[t, order[k + end]]
            if s.book[ACTION] != HALT:
                _leg(s, b, r, t, ends[0], ends[1])
            s.book[FLOW] *= 0.5 ** (LEG_HOURS / r.half_life) if k > 0 else 1.0  # the first leg is the open itself
        price, now = b.mark[t, 3] * _lift(s, b, r, t), b.hour[t] + 1
        _breakers(s, b, r, t, price)
        open_ = b.quorum[t] and now >= s.book[HALT_UNTIL]  # without a price or while halted, owners' orders wait
        _owners(s, b, r, t, price, open_)
        arrival = _enter(s, b, a, r, t, arrival, price, open_ and now >= s.book[REDUCE_UNTIL])
        tallies[t] = s.tally
        series[t, OFFSET] = np.log(s.book[LASTING])
        series[t, FUND] = s.purse[JUNIOR] + s.purse[SENIOR]
        if not conserved(s):
            return t
    return -1
