# SPDX-License-Identifier: GPL-2.0-or-later
"""A verb's arguments are declared as a text, and a text that declares none is refused."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from sgx_enclaves.cli.declare import TYPES, VERBS, declare
from sgx_enclaves.cli.main import verb_named

TEXT = """
built:BUILT  what we built
DIR?  a directory
--config XML!  its
  config
-o, --output FILE  where
--kind a|b (b)
--jobs COUNT (2)
--more X*
^--one
^--two
a group:
--last N  a number"""


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    declare(parser, TEXT, {**TYPES, "X": str.upper})
    return parser.parse_args(arguments)


def test_every_form() -> None:
    found = vars(parsed("x", "--config", "c", "--more", "a", "--more", "b", "--last", "7"))
    assert found == {
        "built": "x",
        "dir": None,
        "config": "c",
        "output": None,
        "kind": "b",
        "jobs": 2,
        "more": ["A", "B"],
        "one": False,
        "two": False,
        "last": 7,
    }
    assert parsed("x", "y", "--config", "c", "-o", "z").dir == Path("y")
    assert parsed("x", "--config", "c").more == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["x"],
        ["--config", "c"],
        ["x", "--config", "c", "--kind", "c"],
        ["x", "--config", "c", "--jobs", "0"],
        ["x", "--config", "c", "--last", "many"],
        ["x", "--config", "c", "--one", "--two"],
        ["x", "y", "z", "--config", "c"],
    ],
)
def test_what_is_not_declared_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(*arguments)


def test_help_is_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--help")
    text = capsys.readouterr().out
    assert "its config\n" in text
    assert "a group:\n" in text
    assert "-o FILE, --output FILE" in text or "-o, --output FILE" in text


@pytest.mark.parametrize("line", ["", "a b c  d", "--X", "@nothing"])
def test_a_line_that_declares_nothing(line: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        declare(argparse.ArgumentParser(), f"--x\n{line}\n--y")


def test_each_verb_has_a_function() -> None:
    assert len({verb_named(name) for name in VERBS}) == len(VERBS) > 20
