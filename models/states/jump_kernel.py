"""Compiled passes of the statistical jump model: the dynamic programme, and a whole descent.

One compiled function serves fit, filter and update, and nothing in it adds in an order of its own choosing, so that a bar
alone and a bar among many give the same bits. A path is kept as its runs: the cost of a turn beyond the programme itself
is that of its changes of state, not of its bars.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numba import njit
from numba.cpython.unsafe.tuple import tuple_setitem
from numpy.typing import NDArray

__all__ = ["alternate", "runs_of", "walk"]

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

BLOCK: Final = 256
# A tuple with one of its elements replaced.
replaced: Final[Any] = tuple_setitem


@njit(cache=True, error_model="numpy")
def _losses(columns: Array, means: Array, loss: Array) -> None:
    """Half the squared distance (K, n) of each bar in ``columns`` (d, n) from each mean, over the values present."""
    for s in range(means.shape[0]):
        row = loss[s]
        row[:] = 0.0
        for c in range(means.shape[1]):
            values, mean = columns[c], means[s, c]
            for t in range(values.size):
                e = values[t] - mean
                row[t] += 0.5 * (e * e) if e == e else 0.0


@njit(cache=True, error_model="numpy")
def walk(
    columns: Array, means: Array, penalty: float, cost: Array, costs: Array, best: Labels, since: Labels, blank: Any
) -> float:
    """The dynamic programme over bars ``columns`` (d, T): the price of the cheapest path that ends in state s,

        cost_t(s) = loss(x_t, mean_s) + min(cost_{t-1}(s), penalty + min over r of cost_{t-1}(r)).

    ``cost`` (K,), in and out, is kept less its minimum; ``costs`` (T, K) takes its course, unless it is empty. A path
    only ever leaves the cheapest state, so its traces are ``best[t]``, the cheapest state, and ``since[t]``, the bar at
    which its path came there. Returns the sum of the minima. ``blank``: K pairs of zeros (price, bar), which put K into
    the type and the recursion into registers.
    """
    states, bars, total, path = len(blank), columns.shape[1], 0.0, blank
    for s in range(states):
        path = replaced(path, s, (cost[s], 0))
    loss = np.empty((states, BLOCK))
    for start in range(0, bars, BLOCK):
        stop = min(start + BLOCK, bars)
        _losses(columns[:, start:stop], means, loss[:, : stop - start])
        for t in range(start, stop):
            least, state, entered = math.inf, 0, 0
            for s in range(states):
                price, entry = path[s]
                entry = t if price > penalty else entry
                price = min(price, penalty) + loss[s, t - start]
                path = replaced(path, s, (price, entry))
                state = s if price < least else state
                entered = entry if price < least else entered
                least = min(price, least)
            for s in range(states):
                path = replaced(path, s, (path[s][0] - least, path[s][1]))
                if costs.size:
                    costs[t, s] = path[s][0]
            total += least
            best[t], since[t] = state, entered
    for s in range(states):
        cost[s] = path[s][0]
    return total


@njit(cache=True, error_model="numpy")
def runs_of(best: Labels, since: Labels, runs: Labels) -> int:
    """The cheapest path backwards as ``runs`` (n, 3) of state, first and last bar; return their number."""
    count, last = 0, best.size - 1
    while last >= 0:
        runs[count, 0], runs[count, 1], runs[count, 2] = best[last], since[last], last
        last = since[last] - 1
        count += 1
    return count


@njit(cache=True, error_model="numpy")
def _run_means(runs: Labels, sums: Array, counts: Array, means: Array) -> None:
    """The mean bar of each state, from running ``sums`` and ``counts`` (T + 1, d); without bars, it keeps its mean."""
    for s in range(means.shape[0]):
        for c in range(means.shape[1]):
            total, count = 0.0, 0.0
            for state, first, last in runs:
                if state == s:
                    total += sums[last + 1, c] - sums[first, c]
                    count += counts[last + 1, c] - counts[first, c]
            if count > 0.0:
                means[s, c] = total / count


@njit(cache=True, error_model="numpy")
def alternate(
    columns: Array, sums: Array, counts: Array, means: Array, penalty: float, tolerance: float, limit: int, blank: Any
) -> tuple[float, float, int, Labels]:
    """Turn by turn the cheapest path and its ``means`` (in place) until the path stays as it is, or gains too little.

    Returns the objective, its last gain, the number of turns and the path as runs.
    """
    bars, states = columns.shape[1], means.shape[0]
    best, since = np.empty(bars, dtype=np.int64), np.empty(bars, dtype=np.int64)
    old, new = np.zeros((bars, 3), dtype=np.int64), np.empty((bars, 3), dtype=np.int64)
    none = np.empty((0, states))
    objective, gain, turns, before = math.inf, math.inf, 0, 0
    while turns < limit and gain > tolerance:
        turns += 1
        least = walk(columns, means, penalty, np.zeros(states), none, best, since, blank)
        gain, objective = objective - least, least
        count = runs_of(best, since, new)
        if count == before and np.array_equal(old[:count], new[:count]):
            gain = 0.0
        else:
            _run_means(new[:count], sums, counts, means)
        before, old, new = count, new, old
    return objective, gain, turns, old[:before].copy()
