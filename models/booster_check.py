"""Is this text a LightGBM model that can be loaded without harm, and does it still predict the same numbers?

LightGBM trusts the indices in a model text: of damaged files most abort the process, some hang, some predict
other numbers in silence. So the text is checked here first (every index in range, every tree a tree, every
number a number, every byte accounted for), then loaded by a child process that must repeat stored predictions
bit for bit.

Structure and golden rows keep a damaged model from doing harm. They do not tell a model from another sound
one that differs where no golden row falls: that is the hash's work.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from features.errors import ArtifactRefused

if TYPE_CHECKING:
    import lightgbm

__all__ = ["check_behaviour", "check_structure", "golden_rows", "predict"]

Array: TypeAlias = npt.NDArray[np.float64]
Fields: TypeAlias = dict[bytes, bytes]

CHILD_SECONDS: Final = 120.0
GOLDEN_ROWS: Final = 256
MAX_LEAVES: Final = 65_536

HEADER: Final = {
    *(b"version", b"num_class", b"num_tree_per_iteration", b"label_index", b"max_feature_idx", b"objective"),
    *(b"feature_names", b"monotone_constraints", b"feature_infos", b"tree_sizes"),
}
PER_NODE: Final = (b"split_feature", b"decision_type", b"left_child", b"right_child")
FLOAT_PER_NODE: Final = (b"split_gain", b"internal_value", b"internal_weight")
CATEGORICAL: Final = (b"cat_boundaries", b"cat_threshold")
TREE: Final = {
    *(b"num_leaves", b"num_cat", *PER_NODE, *FLOAT_PER_NODE, b"threshold", b"internal_count", *CATEGORICAL),
    *(b"leaf_value", b"leaf_weight", b"leaf_count", b"is_linear", b"shrinkage"),
}
INTEGERS: Final = re.compile(rb"(-?\d{1,10}( -?\d{1,10})*)?")
NUMBER: Final = rb"-?\d+(\.\d+)?([eE][+-]?\d+)?"
NUMBERS: Final = re.compile(rb"(%b( %b)*)?" % (NUMBER, NUMBER))
# A split of missing from present has its threshold at infinity.
THRESHOLDS: Final = re.compile(rb"((inf|%b)( inf| %b)*)?" % (NUMBER, NUMBER))
FEATURE_INFO: Final = re.compile(rb"none|\[%b:%b\]|-?\d+(:-?\d+)*" % (NUMBER, NUMBER))
TAIL: Final = re.compile(
    rb"end of trees\n\nfeature_importances:\n([^\n=]+=\d+\n)*"
    rb"(\nparameters:\n(\[[a-z_0-9]+: [^\n]*\]\n)*\nend of parameters\n)?"
    rb"(\npandas_categorical:[^\n]*\n)?\n?"
)


def check_structure(text: str, source: str) -> int:
    """Check a model text against LightGBM's format, version 4; returns its number of features.

    Raises ``ArtifactRefused`` naming ``source`` (a file) and the first fault.
    """
    try:
        return _structure(text.encode())
    except (_Fault, ValueError, OverflowError) as fault:
        raise ArtifactRefused(f"{source}: not a sound LightGBM model: {fault}; restore or train it again") from None


def check_behaviour(
    texts: Mapping[str, str], golden_x: Mapping[str, Array], golden_y: Mapping[str, Array], source: str
) -> None:
    """Load every model in a child process, which must predict ``golden_y`` from ``golden_x`` bit for bit.

    Raises ``ArtifactRefused`` naming ``source``, the model, and the cause: a crash, a hang, other numbers.
    """
    parcel = io.BytesIO()
    arrays: dict[str, npt.NDArray[Any]] = {
        f"text/{name}": np.frombuffer(text.encode(), np.uint8) for name, text in texts.items()
    }
    arrays |= {f"x/{name}": golden_x[name] for name in texts} | {f"y/{name}": golden_y[name] for name in texts}
    np.savez(parcel, allow_pickle=False, **arrays)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "models.booster_check"]
    try:
        child = subprocess.run(
            command,
            input=parcel.getvalue(),
            capture_output=True,
            timeout=CHILD_SECONDS,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ArtifactRefused(f"{source}: loading its boosters hangs; restore or train it again") from None
    if child.returncode:
        said = (child.stderr or child.stdout).decode(errors="replace").strip().splitlines()
        cause = said[-1] if said else f"the loading process ended with status {child.returncode}"
        raise ArtifactRefused(f"{source}: {cause}; restore or train it again")


def golden_rows(text: str, features: Array, rows: int = GOLDEN_ROWS) -> tuple[Array, Array]:
    """At most ``rows`` rows of ``features`` (n, n_features), and the model's predictions for them.

    Each row is the one that reaches most leaves not reached before; once none does, they are spread evenly.
    """
    candidates = np.ascontiguousarray(features[:: max(1, len(features) // 2048)], np.float64)
    leaves = np.asarray(_booster(text).predict(candidates, pred_leaf=True, num_threads=1), np.int64)
    leaves = leaves.reshape(len(candidates), -1)
    leaves += np.arange(leaves.shape[1]) * MAX_LEAVES
    index = np.unique(leaves, return_inverse=True)[1].reshape(leaves.shape)
    reached = np.zeros(index.max(initial=-1) + 1, bool)
    chosen: list[int] = []
    while len(chosen) < min(rows, len(candidates)):
        gains = (~reached[index]).sum(axis=1)
        if not gains.any():
            break
        chosen.append(int(gains.argmax()))
        reached[index[chosen[-1]]] = True
    rest = np.setdiff1d(np.arange(len(candidates)), chosen)
    spread = rest[np.linspace(0, rest.size - 1, min(rows - len(chosen), rest.size)).astype(np.int64)]
    golden = candidates[[*chosen, *spread]]
    return golden, predict(text, golden)


def predict(text: str, features: Array) -> Array:
    """Predictions of a model text on one thread, the same bits each time. ``features`` is (n, n_features)."""
    return np.asarray(_booster(text).predict(features, num_threads=1), np.float64)


def _booster(text: str) -> lightgbm.Booster:
    import lightgbm

    return lightgbm.Booster(model_str=text)


class _Fault(Exception):
    """What is wrong with a model text."""


def _require(condition: bool, fault: str) -> None:
    if not condition:
        raise _Fault(fault)


def _structure(content: bytes) -> int:
    head, separator, body = content.partition(b"\n\n")
    first, _, lines = head.partition(b"\n")
    _require(bool(separator) and first == b"tree", "the header is damaged")
    header = _fields(lines, HEADER, "header")
    _require(header.get(b"version") == b"v4", "its version is not v4")
    _require(bool(header.get(b"objective", b"")), "the header names no objective")
    classes, per_iteration, last = (
        _integer(header, key) for key in (b"num_class", b"num_tree_per_iteration", b"max_feature_idx")
    )
    _require(classes == per_iteration == 1, "it has more than one output")
    _require(header.get(b"label_index") == b"0", "label_index is not 0")
    n_features = last + 1
    infos = header.get(b"feature_infos", b"").split(b" ")
    _require(len(infos) == n_features, "feature_infos and max_feature_idx disagree")
    _require(all(FEATURE_INFO.fullmatch(info) for info in infos), "feature_infos are damaged")
    names = header.get(b"feature_names", b"").split(b" ")
    _require(len(set(names)) == n_features and all(names), "feature_names and max_feature_idx disagree")
    sizes = _integers(header, b"tree_sizes", None)
    _require(bool((sizes > 0).all()), "tree_sizes are not positive")
    position = 0
    for index, size in enumerate(sizes.tolist()):
        _tree(body[position : position + size], index, n_features)
        position += size
    _require(TAIL.fullmatch(body[position:]) is not None, "what follows the trees is damaged")
    return n_features


def _tree(block: bytes, index: int, n_features: int) -> None:
    where = f"tree {index}"
    start = b"Tree=%d\n" % index
    _require(block.startswith(start) and block.endswith(b"\n\n\n"), f"{where} is not where tree_sizes puts it")
    fields = _fields(block[len(start) : -3], TREE, where)
    leaves, categories = _integer(fields, b"num_leaves"), _integer(fields, b"num_cat")
    _require(0 < leaves <= MAX_LEAVES, f"{where}: num_leaves is {leaves}")
    nodes = leaves - 1
    feature, decision, left, right = (_integers(fields, key, nodes) for key in PER_NODE)
    _require(bool(((feature >= 0) & (feature < n_features)).all()), f"{where}: split_feature out of range")
    _topology(left, right, where)
    thresholds = np.array(_tokens(fields, b"threshold", THRESHOLDS, nodes), np.float64)
    for key in FLOAT_PER_NODE:
        _floats(fields, key, nodes)
    _require(bool((_integers(fields, b"internal_count", nodes) >= 0).all()), f"{where}: internal_count is negative")
    _floats(fields, b"leaf_value", leaves)
    _floats(fields, b"leaf_weight", leaves if nodes else 0)
    _require(bool((_integers(fields, b"leaf_count", leaves) >= 0).all()), f"{where}: leaf_count is negative")
    # Bit 0: categorical split; bit 1: missing goes left; bits 2 and 3: missing is none, zero or NaN.
    _require(bool(((decision >= 0) & (decision < 12)).all()), f"{where}: decision_type out of range")
    _categories(fields, thresholds[decision % 2 == 1], categories, where)
    _require(fields.get(b"is_linear") == b"0", f"{where}: linear leaves are not supported")
    _require(_floats(fields, b"shrinkage", 1)[0] > 0, f"{where}: shrinkage is not positive")


def _topology(left: npt.NDArray[np.int64], right: npt.NDArray[np.int64], where: str) -> None:
    """Every node but the root, and every leaf (as its complement), is the child of one earlier node."""
    nodes = len(left)
    children = np.concatenate([left, right])
    expected = np.concatenate([np.arange(-nodes - 1, 0), np.arange(1, nodes)]) if nodes else children
    _require(np.array_equal(np.sort(children), expected), f"{where}: its children do not form a tree")
    parents = np.tile(np.arange(nodes), 2)
    _require(bool(((children < 0) | (children > parents)).all()), f"{where}: its children form a cycle")


def _categories(fields: Fields, thresholds: Array, categories: int, where: str) -> None:
    """The threshold of a categorical split is the number of its bit set."""
    if not categories:
        _require(not thresholds.size and fields.keys().isdisjoint(CATEGORICAL), f"{where}: num_cat is 0 but used")
        return
    _require(categories == thresholds.size, f"{where}: num_cat is {categories}")
    boundaries = _integers(fields, b"cat_boundaries", categories + 1)
    bits = _integers(fields, b"cat_threshold", None)
    sound = boundaries[0] == 0 and boundaries[-1] == len(bits) and bool((np.diff(boundaries) > 0).all())
    _require(sound, f"{where}: cat_boundaries out of range")
    _require(bool(((bits >= 0) & (bits < 2**32)).all()), f"{where}: cat_threshold out of range")
    numbered = np.array_equal(np.sort(thresholds), np.arange(categories))
    _require(numbered, f"{where}: categorical thresholds out of range")


def _fields(lines: bytes, known: set[bytes], where: str) -> Fields:
    fields: Fields = {}
    for line in lines.split(b"\n"):
        key, equals, value = line.partition(b"=")
        _require(bool(equals) and key in known, f"{where}: unknown line {line[:40]!r}")
        _require(key not in fields, f"{where}: {key.decode()} appears twice")
        fields[key] = value
    return fields


def _integer(fields: Fields, key: bytes) -> int:
    return int(_integers(fields, key, 1)[0])


def _integers(fields: Fields, key: bytes, count: int | None) -> npt.NDArray[np.int64]:
    return np.array(_tokens(fields, key, INTEGERS, count), np.int64)


def _floats(fields: Fields, key: bytes, count: int) -> Array:
    values = np.array(_tokens(fields, key, NUMBERS, count), np.float64)
    _require(bool(np.isfinite(values).all()), f"{key.decode()} is not finite")
    return values


def _tokens(fields: Fields, key: bytes, form: re.Pattern[bytes], count: int | None) -> list[bytes]:
    name = key.decode()
    _require(key in fields, f"{name} is missing")
    value = fields[key]
    _require(form.fullmatch(value) is not None, f"{name} is damaged")
    tokens = value.split()
    _require(count is None or len(tokens) == count, f"{name} has {len(tokens)} entries, not {count}")
    return tokens


def _child() -> str | None:
    """Repeat the golden predictions of the parcel on standard input; what failed, or None."""
    with np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False) as parcel:
        for key in sorted(parcel.files):
            kind, _, name = key.partition("/")
            if kind != "text":
                continue
            try:
                found = predict(parcel[key].tobytes().decode(), parcel[f"x/{name}"])
            except Exception as fault:  # noqa: BLE001 - whatever the loader raises, the model is refused
                return f"booster {name} cannot be loaded: {str(fault).splitlines()[0]}"
            if found.tobytes() != parcel[f"y/{name}"].tobytes():
                return f"booster {name} predicts other numbers than when it was stored"
    return None


if __name__ == "__main__":
    sys.exit(_child())
