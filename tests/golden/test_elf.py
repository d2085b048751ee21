# SPDX-License-Identifier: GPL-2.0-or-later
"""Our strict ELF reader and pyelftools read the same in every file that ours accepts."""

from __future__ import annotations

import pytest
from elftools.common.exceptions import ELFError, ELFParseError

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.errors import FormatError
from tests.enclaves.compiled import have_toolchain
from tests.enclaves.synthetic import small_enclave
from tests.golden import judge, subjects
from tests.golden.enclaves import Pair, compiled, of_every_sdk, synthetic
from tests.golden.stored import Numbers, check, mutant
from tests.support.once import built_enclaves
from tests.support.signed import signed_enclave
from tests.unit.enclave.test_elf import CONTRADICTIONS

MUTANTS = 400
DETAILS = ("offset", "expected", "found", "hint")


def agree(data: bytes) -> None:
    ours = subjects.elf_facts(data)
    theirs = judge.elf_facts(data, ours["dynamic"])
    for name, facts in ours.items():
        assert facts == theirs[name], name


def agree_on(pairs: dict[str, Pair]) -> None:
    for pair in pairs.values():
        for data in (pair.built, pair.signed):
            agree(data)


def test_on_synthetic_enclaves() -> None:
    agree_on({**synthetic(), **of_every_sdk()})


@pytest.mark.skipif(not have_toolchain(), reason="needs make, gcc, ld and strip")
def test_on_compiled_enclaves(tmp_path_factory: pytest.TempPathFactory) -> None:
    agree_on(compiled(built_enclaves(tmp_path_factory)))


def test_what_is_said_of_contradictions() -> None:
    said = []
    for overrides, message in CONTRADICTIONS:
        if message is not None:
            with pytest.raises(FormatError) as caught:
                EnclaveImage.parse(small_enclave(**overrides))
            error = caught.value
            said.append(f"{f'{overrides}'[:90]}\n    {error.message}")
            details = (f"{name} {getattr(error, name)}" for name in DETAILS)
            said.append(f"    {'; '.join(details)}")
    check("refusals-elf.txt", "\n".join(said))


def test_on_mutants_that_ours_accepts() -> None:
    """Only the headers and the tables are changed: there the two could read differently."""
    case = signed_enclave("2.25", interpreter="/lib/ld.so", symtab=True)
    data, end = case.signed, case.area.stop
    numbers = Numbers("elf")
    agreed = refused = 0
    for number in range(MUTANTS):
        start, stop = ((0, 0x400), (end, len(data)))[number % 2]
        changed = mutant(data, numbers, start, stop)
        try:
            subjects.elf_facts(changed)
        except ValueError:
            continue
        try:
            agree(changed)
            agreed += 1
        except (ELFError, ELFParseError, AttributeError):
            # Of sections that no loader looks at, pyelftools refuses more than we do;
            # the last one is how an old release of it does.
            refused += 1
    assert agreed > MUTANTS // 4
    assert refused < agreed // 10
