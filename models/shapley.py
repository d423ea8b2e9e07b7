"""Shapley values of boosted trees, summed by groups of features, for every row of a walk-forward.

The same numbers as LightGBM's ``pred_contrib`` in a twentieth of its time: a tree sees of a row only which way each of its
splits sends it, and of thousands of rows a few hundred differ in that. For a leaf whose path splits on the features ``1..d``,
``o_i`` whether the row keeps to the path at every split on ``i`` and ``z_i`` the share of training rows that do, the Shapley
value of ``i`` in the leaf's value ``v`` is the integral of the game's multilinear extension along its diagonal,

    phi_i = v (o_i - z_i) int_0^1 prod_{j != i} (o_j t + z_j (1 - t)) dt,

a polynomial in ``t`` that Gauss-Legendre quadrature integrates exactly. References: Owen (1972), Management Science 18 (the
extension); Lundberg, Erion and Lee (2018), arXiv 1802.03888 (the game: path-dependent TreeSHAP).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["Trees", "grouped_shapley"]

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# A row's way through a tree is kept in the bits of one integer.
MOST_NODES: Final = 63
# LightGBM's decision types: which way missing values go, and what counts as missing.
DEFAULT_LEFT: Final = 2
MISSING_ZERO: Final = 1 << 2
MISSING_NAN: Final = 2 << 2
ZERO: Final = 1e-35


@dataclass(frozen=True)
class Trees:
    """All trees of one booster as flat arrays.

    Splits, tree by tree (``splits`` holds where each begins, and the end): ``feature``, ``threshold``, ``decision``.
    Path features, leaf by leaf: ``path_feature``, ``share`` (z), and as bits the splits of the tree that must send a row
    left (``lefts``) or right (``rights``). ``paths`` holds where each leaf's begin, ``leaves`` where each tree's leaves do.
    ``expected``: the mean raw score of the training rows, by the trees' own counts.
    """

    splits: Integers
    feature: Integers
    threshold: Array
    decision: Integers
    leaves: Integers
    value: Array
    paths: Integers
    path_feature: Integers
    share: Array
    lefts: Integers
    rights: Integers
    expected: float

    @classmethod
    def of(cls, text: str) -> Trees | None:
        """The trees of a LightGBM model text; None where one has more than 64 leaves, or categories."""
        blocks = [_fields(block) for block in text.split("\nTree=")[1:]]
        if any(int(tree["num_leaves"]) > MOST_NODES + 1 or int(tree["num_cat"]) for tree in blocks):
            return None
        grown = [tree for tree in blocks if int(tree["num_leaves"]) > 1]
        nodes = [_numbers(tree, "split_feature", np.int64) for tree in grown]
        values = [_numbers(tree, "leaf_value", np.float64) for tree in grown]
        counts = [_numbers(tree, "leaf_count", np.float64) for tree in grown]
        paths = [path for tree in grown for path in _paths(tree)]
        steps = [step for path in paths for step in path.items()]
        stumps = sum(float(tree["leaf_value"]) for tree in blocks if int(tree["num_leaves"]) == 1)
        return cls(
            _starts(nodes),
            _joined(nodes, np.int64),
            _joined([_numbers(tree, "threshold", np.float64) for tree in grown], np.float64),
            _joined([_numbers(tree, "decision_type", np.int64) for tree in grown], np.int64),
            _starts(values),
            _joined(values, np.float64),
            _starts(paths),
            np.array([feature for feature, _ in steps], dtype=np.int64),
            np.array([step[0] for _, step in steps], dtype=np.float64),
            np.array([step[1] for _, step in steps], dtype=np.int64),
            np.array([step[2] for _, step in steps], dtype=np.int64),
            stumps + sum(float(c @ v / c.sum()) for c, v in zip(counts, values, strict=True)),
        )


def grouped_shapley(text: str, inputs: Array, group: Integers, n_groups: int, num_threads: int = 1) -> Array:
    """What each group of features adds to the raw score of each row: (n_rows, n_groups + 1), the expected value last.

    ``text``: a LightGBM model; ``inputs`` (n_rows, n_features); ``group`` (n_features,): the group of each feature. Rows sum
    to the raw score, to rounding, and a row's bits do not depend on the other rows.
    """
    trees = Trees.of(text)
    if trees is None:
        return _by_lightgbm(text, inputs, group, n_groups, num_threads)
    longest = int(np.diff(trees.paths).max(initial=1))
    nodes, weights = _quadrature((longest + 1) // 2)
    out = np.zeros((n_groups + 1, len(inputs)))
    out[n_groups] = trees.expected
    _add(
        out, np.ascontiguousarray(inputs.T), group, trees.splits, trees.feature, trees.threshold, trees.decision,
        trees.leaves, trees.value, trees.paths, trees.path_feature, trees.share, trees.lefts, trees.rights, nodes, weights,
    )  # fmt: skip
    return np.ascontiguousarray(out.T)


def _by_lightgbm(text: str, inputs: Array, group: Integers, n_groups: int, num_threads: int) -> Array:
    import lightgbm

    booster = lightgbm.Booster(model_str=text)
    values = np.asarray(booster.predict(inputs, pred_contrib=True, num_threads=num_threads))
    out = np.zeros((len(inputs), n_groups + 1))
    for k, g in enumerate([*group, n_groups]):
        out[:, g] += values[:, k]
    return out


def _fields(block: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in block.split("\n\n")[0].split("\n") if "=" in line)


def _numbers(tree: dict[str, str], name: str, kind: Any) -> npt.NDArray[Any]:
    return np.array(tree[name].split(), dtype=np.float64).astype(kind)


def _joined(parts: list[npt.NDArray[Any]], kind: Any) -> npt.NDArray[Any]:
    return np.concatenate([np.empty(0, kind), *parts])


def _starts(parts: list[Any]) -> Integers:
    return np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)


def _paths(tree: dict[str, str]) -> list[dict[int, tuple[float, int, int]]]:
    """Leaf by leaf, each feature on its path with the share of rows that keep to it, and the splits as bits."""
    feature = _numbers(tree, "split_feature", np.int64).tolist()
    children = list(
        zip(*(_numbers(tree, f"{side}_child", np.int64).tolist() for side in ("left", "right")), strict=True)
    )
    rows = [_numbers(tree, f"{kind}_count", np.float64).tolist() for kind in ("internal", "leaf")]
    paths: list[dict[int, tuple[float, int, int]]] = [{} for _ in rows[1]]

    def walk(node: int, path: dict[int, tuple[float, int, int]]) -> None:
        share, left, right = path.get(feature[node], (1.0, 0, 0))
        for child, bits in zip(children[node], ((left | 1 << node, right), (left, right | 1 << node)), strict=True):
            count = rows[0][child] if child >= 0 else rows[1][~child]
            below = {**path, feature[node]: (share * count / rows[0][node], *bits)}
            if child >= 0:
                walk(child, below)
            else:
                paths[~child] = below

    walk(0, {})
    return paths


def _quadrature(most: int) -> tuple[Array, Array]:
    """Nodes and weights on [0, 1] of the rules with 1 ... ``most`` points, one a row."""
    nodes, weights = np.zeros((2, most + 1, most))
    for m in range(1, most + 1):
        x, w = np.polynomial.legendre.leggauss(m)
        nodes[m, :m], weights[m, :m] = (x + 1) / 2, w / 2
    return nodes, weights


@numba.njit(cache=True)
def _add(
    out: Array,
    inputs: Array,
    group: Integers,
    splits: Integers,
    feature: Integers,
    threshold: Array,
    decision: Integers,
    leaves: Integers,
    value: Array,
    paths: Integers,
    path_feature: Integers,
    share: Array,
    lefts: Integers,
    rights: Integers,
    nodes: Array,
    weights: Array,
) -> None:
    """Add every tree's values to ``out`` (n_groups + 1, n_rows), once for each way through the tree; ``inputs`` by column."""
    n_rows = inputs.shape[1]
    ways = np.empty(n_rows, np.int64)
    size = 16
    while size < 2 * n_rows:
        size *= 2
    table = np.empty(size, np.int64)
    place = np.empty(n_rows, np.int64)
    first = np.empty(n_rows, np.int64)
    keeps = np.empty(nodes.shape[0] * 2, np.bool_)
    products = np.empty(nodes.shape[1])
    for tree in range(len(splits) - 1):
        ways[:] = 0
        for s in range(splits[tree], splits[tree + 1]):
            _decide(ways, s - splits[tree], inputs[feature[s]], threshold[s], decision[s])
        n_ways = _number(ways, table, place, first)
        worth = np.zeros((n_ways, out.shape[0] - 1))
        used = np.zeros(out.shape[0] - 1, np.bool_)
        for leaf in range(leaves[tree], leaves[tree + 1]):
            begin, end = paths[leaf], paths[leaf + 1]
            points = (end - begin + 1) // 2
            for k in range(begin, end):
                used[group[path_feature[k]]] = True
            for w in range(n_ways):
                way = ways[first[w]]
                products[:points] = value[leaf] * weights[points, :points]
                for k in range(begin, end):
                    keep = way & lefts[k] == lefts[k] and way & rights[k] == 0
                    keeps[k - begin] = keep
                    for q in range(points):
                        t = nodes[points, q]
                        products[q] *= t * keep + share[k] * (1 - t)
                for k in range(begin, end):
                    keep = keeps[k - begin]
                    integral = 0.0
                    for q in range(points):
                        t = nodes[points, q]
                        integral += products[q] / (t * keep + share[k] * (1 - t))
                    worth[w, group[path_feature[k]]] += (keep - share[k]) * integral
        for g in range(out.shape[0] - 1):
            if used[g]:
                for i in range(n_rows):
                    out[g, i] += worth[place[i], g]


@numba.njit(cache=True)
def _decide(ways: Integers, bit: int, x: Array, threshold: float, decision: int) -> None:
    """Set the bit of the rows that a split sends left."""
    missing = decision & (MISSING_ZERO | MISSING_NAN)
    default = decision & DEFAULT_LEFT != 0
    for i in range(len(x)):
        value = x[i]
        unknown = np.isnan(value)
        if unknown and missing != MISSING_NAN:
            value = 0.0
            unknown = False
        if missing == MISSING_ZERO and abs(value) <= ZERO:
            unknown = True
        left = default if unknown else value <= threshold
        ways[i] |= np.int64(left) << bit


@numba.njit(cache=True)
def _number(ways: Integers, table: Integers, place: Integers, first: Integers) -> int:
    """Number the distinct ways as they come: ``place`` of each row, ``first`` row of each; an open hash table."""
    table[:] = -1
    mask = len(table) - 1
    count = 0
    for i in range(len(ways)):
        key = ways[i] * np.int64(-7046029254386353131)
        slot = (key ^ (key >> 32)) & mask
        while table[slot] >= 0 and ways[first[table[slot]]] != ways[i]:
            slot = (slot + 1) & mask
        if table[slot] < 0:
            table[slot] = count
            first[count] = i
            count += 1
        place[i] = table[slot]
    return count
