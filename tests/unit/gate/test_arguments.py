# SPDX-License-Identifier: GPL-2.0-or-later
"""Arguments of callers: what is wrong is named, what is good is taken."""

from __future__ import annotations

from typing import Any

import pytest

from sgx_enclaves.errors import ArgumentError
from sgx_enclaves.gate.arguments import (
    CHILD_OPTIONS,
    checked,
    choice,
    list_of,
    number,
    optional_text,
    text,
    truth,
)

CHECKS = {"a": text, "b": number(1, 9), "c": list_of(text, 2), "d": truth, "e": choice("x", "y")}
PACKAGE = {"name": "x.rpm", "relative": "p/x.rpm", "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "expected a mapping"),
        ({"a": "x", "z": 1}, "Unknown opts: 'z'"),
        ({1: "x", "z": 1}, "Unknown opts: 'z', 1"),
        ({"a": "x\ny"}, "Invalid value for a"),
        ({"a": ""}, "Invalid value for a"),
        ({"a": "x" * 1025}, "Invalid value for a"),
        ({"a": 3}, "Invalid value for a"),
        ({"b": True}, "Invalid value for b"),
        ({"b": 1.0}, "Invalid value for b"),
        ({"b": 0}, "a whole number from 1 to 9"),
        ({"b": 10}, "Invalid value for b"),
        ({"c": []}, "Invalid value for c"),
        ({"c": ["p", "q", "r"]}, "a list of 1 to 2 values"),
        ({"c": "pce"}, "Invalid value for c"),
        ({"c": [3]}, "Invalid value for c"),
        ({"d": 1}, "Invalid value for d"),
        ({"e": "z"}, "expected x or y"),
        ({"e": ["x"]}, "Invalid value for e"),
    ],
)
def test_what_is_wrong_is_named(options: Any, words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        checked(options, CHECKS)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 500


def test_what_is_good_is_taken() -> None:
    given = {"a": "x", "b": 2, "c": ["p", "p"], "d": None, "e": "y"}
    assert checked(given, CHECKS) == {"a": "x", "b": 2, "c": ["p"], "e": "y"}
    assert checked(None, CHECKS) == {}
    assert optional_text(None, "a") is None


@pytest.mark.parametrize(
    ("options", "good"),
    [
        ({"rpms": []}, True),
        ({"rpms": [PACKAGE]}, True),
        ({"rpms": PACKAGE}, False),
        ({"rpms": [{**PACKAGE, "more": "x"}]}, False),
        ({"rpms": [{**PACKAGE, "sha256": ""}]}, False),
        ({"rpms": ["x"]}, False),
        ({"releases": {"r": "text\nof a file"}}, True),
        ({"releases": {"r": 3}}, False),
        ({"releases": {"": "x"}}, False),
        ({"releases": []}, False),
    ],
)
def test_what_a_subtask_is_given(options: Any, good: bool) -> None:
    if good:
        assert checked(options, CHILD_OPTIONS) == options
    else:
        with pytest.raises(ArgumentError):
            checked(options, CHILD_OPTIONS)
