# SPDX-License-Identifier: GPL-2.0-or-later
"""That the defences' list is of what is there, and that a change nobody notices is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.redteam import mutants
from tests.redteam.mutants import TARGETS, Callers, file_of, mutants_of, noticed_by

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
    assert all((mutants.ROOT / test).exists() for test in TARGETS[module])


def test_what_survives_is_explained_and_still_there() -> None:
    for module in filter(mutants.explained, TARGETS):
        names = {mutant.name for mutant in mutants_of(file_of(module).read_text("utf-8"))}
        assert mutants.explained(module) <= names


def test_a_change_that_no_test_notices_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sample.py").write_text("def double(n):\n    return n + n if n > 0 else 0\n")
    (tmp_path / "test_sample.py").write_text(
        "from sample import double\n\ndef test_it():\n    assert double(2) == 4\n"
    )
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    tests = (str(tmp_path / "test_sample.py"),)
    line = "n + n if n > 0 else 0"
    names = (f"double: {line} -> n + n if False else 0", "double: n > 0 -> n >= 0")
    found = {
        mutant.name: noticed_by("sample", mutant, tests)
        for mutant in mutants_of((tmp_path / "sample.py").read_text())
        if mutant.name in names
    }
    noticed, survives = (found[name] for name in names)
    assert noticed is not None
    assert noticed.endswith("test_sample.py::test_it")
    assert survives is None


def test_a_change_is_shown_to_the_tests_that_run_it() -> None:
    callers = Callers(Path("sample.py"))
    callers.of_line = {2: {"calls"}, 9: {"", "calls too"}}
    callers.forking = {"forks"}
    assert callers.of(range(1, 4), ["all"]) == ["calls", "forks"]
    assert callers.of(range(9, 12), ["all"]) == ["all"]
    assert callers.of(range(20, 22), ["all"]) == ["forks"]
