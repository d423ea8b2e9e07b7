"""Members by name."""

from __future__ import annotations

import inspect

import pytest

from features.errors import UsageError
from models.catalogue import KINDS, make


@pytest.mark.parametrize("kind", KINDS)
def test_make_gives_the_kind(kind: str) -> None:
    cls, fixed = KINDS[kind]
    member = make(kind)
    assert type(member) is cls
    for name, default in inspect.signature(cls).parameters.items():
        assert getattr(member, name) == fixed.get(name, default.default)


def test_pinned_names_are_known() -> None:
    assert {"ewma", "har", "har_seasonal", "garch", "gjr", "lightgbm"} <= KINDS.keys()


def test_parameters_reach_the_constructor() -> None:
    assert make("lightgbm_gamma", {"rounds": 7}).get_params()["rounds"] == 7
    assert make("lightgbm_gamma", {"rounds": 7}).get_params()["objective"] == "gamma"


@pytest.mark.parametrize(
    ("kind", "params", "told"),
    [
        (
            "lightgbn",
            {},
            r"unknown member kind 'lightgbn', did you mean 'lightgbm'\?; kinds are ewma, ewma_seasonal, har",
        ),
        ("????", {}, r"unknown member kind '\?{4}'; kinds are"),
        ("lightgbm", {"round": 3}, r"'lightgbm' has no parameter 'round', did you mean 'rounds'\?; parameters are"),
        ("gjr", {"o": 2}, r"'gjr' has no parameter 'o'"),
        ("har", {"seasonal": True}, r"'har' has no parameter 'seasonal'"),
    ],
)
def test_the_unknown_is_refused_with_the_nearest_name(kind: str, params: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        make(kind, params)
