"""What is wrong with a configuration, in the words of its keys: nearest known key, expected type."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

__all__ = ["explain"]


def explain(root: type[BaseModel], faults: Sequence[ErrorDetails], settings: Mapping[str, Any]) -> list[str]:
    """One line a faulty key of ``settings``, which ``root`` refused: the key, the cause, what it should be.

    A list or table with a faulty item gets no line of its own.
    """
    by_path: dict[str, list[ErrorDetails]] = {}
    for fault in faults:
        keys = fault["loc"] if fault["type"] == "missing" else _keys(fault["loc"], settings)
        by_path.setdefault(_dotted(keys), []).append(fault)
    told = []
    for path, said in by_path.items():
        if said[0]["type"] == "extra_forbidden":
            told.append(_unknown(path, said[0]["input"], list(_known(root))))
        elif not any(other != path and other.startswith(path) for other in by_path):
            causes = [fault["msg"].replace("Input should be", "expected") for fault in said]
            what = " or ".join(cause.removeprefix("Value error, ") for cause in causes)
            told.append(f"key `{path}`: {what}, found {said[0]['input']!r}" if path else what)
    return told


def _keys(location: Sequence[int | str], settings: Any) -> list[int | str]:
    """The location as far as the settings go: pydantic appends the variants of a union."""
    keys: list[int | str] = []
    for part in location:
        try:
            settings = settings[part]
        except (KeyError, IndexError, TypeError):
            break
        keys.append(part)
    return keys


def _unknown(path: str, value: Any, known: Sequence[str]) -> str:
    parent, _, key = re.sub(r"\[\d+\]", "[]", path).rpartition(".")
    siblings = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == parent]
    by_name = {name.rpartition(".")[2]: name for name in known}
    if near := difflib.get_close_matches(key, siblings, n=1):
        nearest = f"{parent}.{near[0]}" if parent else near[0]
    else:
        nearest = next((by_name[name] for name in difflib.get_close_matches(key, by_name, n=1)), "")
    # A table under an unknown name is told by its first leaf: that is what the user wrote.
    rest = ""
    while isinstance(value, Mapping) and value:
        name, value = next(iter(value.items()))
        rest += f".{name}"
    hint = f" did you mean `{nearest}{rest}`?" if nearest else ""
    where = f" of {parent}" if parent else ""
    return f"unknown key `{path}{rest}`;{hint} known keys{where}: {', '.join(siblings)}"


def _dotted(keys: Sequence[int | str]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def _known(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for inner, brackets in ((field.annotation, ""), *((arg, "[]") for arg in get_args(field.annotation))):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _known(inner, f"{prefix}{name}{brackets}.")
