# SPDX-License-Identifier: GPL-2.0-or-later
"""Arguments of callers: what is wrong is named, what is good is taken."""

from __future__ import annotations

from typing import Any

import pytest

from sgx_enclaves.errors import ArgumentError
from sgx_enclaves.gate.arguments import argument, options

GIVEN = {"releases": {"r": "text\nof a file"}, "repo_id": 1}


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        ([], "opts does not fit"),
        ({"timeout": 1, "z": 1}, "found z"),
        ({1: "x", "z": 1}, "opts does not fit"),
        ({"timeuot": None}, "found timeuot"),
        ({"enclaves": ["x\ny"]}, "enclaves[0] does not fit (expected a line of at most 1024 pri"),
        ({"enclaves": [""]}, "opts.enclaves[0] does not fit"),
        ({"enclaves": ["x" * 1025]}, "expected a line of at most 1024 printable characters"),
        ({"enclaves": []}, "at least 1 items"),
        ({"enclaves": ["p"] * 65}, "at most 64 items"),
        ({"enclaves": "pce"}, "opts.enclaves does not fit"),
        ({"enclaves": [3]}, "opts.enclaves[0] does not fit"),
        ({"timeout": True}, "opts.timeout does not fit"),
        ({"timeout": 1.0}, "opts.timeout does not fit (expected a value of the type integer"),
        ({"timeout": 1.5}, "opts.timeout does not fit"),
        ({"timeout": 0}, "at least 1"),
        ({"timeout": 604801}, "at most 604800"),
        ({"split": 1}, "opts.split does not fit"),
        ({"unsigned_build": 0}, "expected a name or an id"),
        ({"unsigned_build": True}, "opts.unsigned_build does not fit"),
        ({"tag_allowed": True}, "opts does not fit"),
    ],
)
def test_what_is_wrong_is_named(opts: Any, words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        options(opts, "opts")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("", "release"),
        (3, "release"),
        ("a\tb", "release"),
        (None, "build"),
        (True, "build"),
        (-1, "build"),
        ({"name": "x"}, "build_tag"),
        ("good", "verdict"),
        (["identical"], "verdict"),
        (1 << 31, "task_id"),
        (1001, "limit"),
        ({"order": "--id"}, "queryOpts"),
        ({"order": "id\n"}, "queryOpts"),
    ],
)
def test_one_argument(value: Any, name: str) -> None:
    with pytest.raises(ArgumentError, match=name):
        argument(value, name)


def test_what_is_good_is_taken() -> None:
    given = {"enclaves": ["p", "q"], "timeout": 2, "split": None, "unsigned_build": "x-1-1"}
    del (expected := dict(given))["split"]
    assert options(given, "opts") == expected
    assert options(None, "opts") == {}
    assert argument(None, "release") is None
    assert argument(4, "build") == 4
    assert options({**expected, "tag_allowed": True}, "parent_opts")["tag_allowed"]


@pytest.mark.parametrize(
    ("opts", "good"),
    [
        ({"rpms": {}}, True),
        ({"rpms": {"p/x.rpm": "0" * 64}}, True),
        ({"rpms": {"p/x.rpm": 3}}, False),
        ({"rpms": {"p/x.rpm": ""}}, False),
        ({"rpms": {"p/x.rpm": None}}, False),
        ({"rpms": {"a\x1bb": "0" * 64}}, False),
        ({"rpms": dict.fromkeys(map(str, range(2001)), "0" * 64)}, False),
        ({"rpms": ["x"]}, False),
        ({"releases": {"r": 3}}, False),
        ({"releases": {"": "x"}}, False),
        ({"releases": {"r\n": "x"}}, False),
        ({"releases": {"r\0": "x"}}, False),
        ({"releases": []}, False),
        ({"releases": None}, False),
    ],
)
def test_what_a_subtask_is_given(opts: Any, good: bool) -> None:
    if good:
        assert options({**GIVEN, **opts}, "child_opts") == {**GIVEN, **opts}
    else:
        with pytest.raises(ArgumentError):
            options({**GIVEN, **opts}, "child_opts")
