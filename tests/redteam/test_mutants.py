# SPDX-License-Identifier: GPL-2.0-or-later
"""That the defences' list is of what is there, and that a change nobody notices is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.redteam import mutants
from tests.redteam.mutants import TARGETS, file_of, mutants_of

SOURCE = """
LIMIT = 1 + 1

def refuse(size, name):
    if size > LIMIT and name:
        raise ValueError(name)
    return not size == 1
"""


def test_every_change_to_what_a_function_does() -> None:
    assert [mutant.name for mutant in mutants_of(SOURCE)] == [
        "refuse: if size > LIMIT and name: raise ValueError(name) -> "
        "if True: raise ValueError(name)",
        "refuse: if size > LIMIT and name: raise ValueError(name) -> "
        "if False: raise ValueError(name)",
        "refuse: size > LIMIT and name -> size > LIMIT or name",
        "refuse: size > LIMIT and name -> name",
        "refuse: size > LIMIT and name -> size > LIMIT",
        "refuse: size > LIMIT -> size >= LIMIT",
        "refuse: raise ValueError(name) -> pass",
        "refuse: not size == 1 -> size == 1",
        "refuse: size == 1 -> size != 1",
        "refuse: 1 -> 2",
    ]


@pytest.mark.parametrize("module", TARGETS)
def test_targets_and_their_tests_are_there(module: str) -> None:
    assert file_of(module).is_file()
    assert all((mutants.ROOT / test.partition("::")[0]).exists() for test in TARGETS[module])


def test_what_survives_is_explained_and_still_there() -> None:
    for module in filter(mutants.explained, TARGETS):
        names = {mutant.name for mutant in mutants_of(file_of(module).read_text("utf-8"))}
        assert mutants.explained(module) <= names


SAMPLE = """
class Number:
    step = 0

    def __init__(self, value=1):
        self.value = value

def double(n):
    return n + n if n > 0 else 0

def first(name):
    return name[0]
"""
TESTS = """
import pytest
from sample import Number, double, first

@pytest.fixture
def two():
    return double(1)

def test_double(two):
    assert double(two) == 4
    assert double(-1) == 0

def test_first():
    assert first("ab") == "a"

def test_number():
    assert Number.step == 0
"""


def test_what_no_test_notices_survives(tmp_path: Path) -> None:
    (tmp_path / "sample.py").write_text(SAMPLE)
    (tmp_path / "test_sample.py").write_text(TESTS)
    program = f"""
import sys
from pathlib import Path
from tests.redteam import mutants
mutants.ROOT = Path({str(tmp_path)!r})
mutants.PROJECT = ("sample", "test_sample")
mutants.TARGETS = {{"sample": [{str(tmp_path / "test_sample.py")!r}]}}
mutants.SURVIVORS = Path({str(tmp_path / "survivors.txt")!r})
sys.path.insert(0, {str(tmp_path)!r})
sys.argv[1:] = ["sample"]
sys.exit(mutants.main())
"""

    def run() -> tuple[int, str]:
        command = [sys.executable, "-c", program]
        done = subprocess.run(
            command, cwd=mutants.ROOT, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout

    status, said = run()
    assert status == 1
    assert said.splitlines() == [
        "sample Number.__init__: 1 -> 2",
        "sample double: n > 0 -> n >= 0",
        "sample: 8 mutants, 6 noticed, 2 survive, 2 of them unexplained",
    ]
    explained = "sample Number.__init__: 1 -> 2 # why\nsample double: n > 0 -> n >= 0 # why\n"
    (tmp_path / "survivors.txt").write_text(explained)
    assert run()[0] == 0
    (tmp_path / "survivors.txt").write_text(f"{explained}sample first: 0 -> 1 # why\n")
    status, said = run()
    assert status == 1
    assert said.startswith("no longer survives: sample first: 0 -> 1\n")
