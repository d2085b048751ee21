# SPDX-License-Identifier: GPL-2.0-or-later
"""The vendor: a trusted key validly signs metadata that our build does not lead to.

One field at a time, of each structure in each block; everything around it is made to fit:
MRENCLAVE is that of what was changed, and both signatures are valid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from sgx_enclaves.enclave.metadata import Block, BlockHeader
from sgx_enclaves.enclave.sigstruct import Sigstruct
from sgx_enclaves.enclave.verdict import Outcome
from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.structure import Structure
from tests.support.signed import Case, fips_enclave, signed_enclave

# Only the signer can make them; of each there is a test of its own.
FREE = {"date", "modulus", "exponent", "signature", "q1", "q2"}
CASES = {"three blocks": signed_enclave, "second signature": fips_enclave}


def other_values(structure: Structure, name: str) -> Iterator[object]:
    """Values of a field that are not its own: the lowest bit, the highest, all."""
    old = getattr(structure, name)
    spec = next(spec for spec in structure.table() if spec.name == name)
    number = old if isinstance(old, int) else int.from_bytes(old, "little")
    top = 8 * spec.size
    for new in (number ^ 1, number ^ 1 << (top - 1), number ^ ((1 << top) - 1)):
        yield new if isinstance(old, int) else new.to_bytes(spec.size, "little")


def outcomes(case: Case, index: int, part: str, name: str) -> Iterator[Outcome]:
    """What becomes of each other value of a field in a block that the vendor signs again."""
    for value in other_values(getattr(case.blocks[index], part), name):

        def change(block: Block, value: object = value) -> Block:
            return replace(block, **{part: replace(getattr(block, part), **{name: value})})

        try:
            hostile = case.hostile(change, index, measured=name != "enclavehash")
        except SgxEnclavesError:
            # Nobody could measure it, so the honest SIGSTRUCT stays.
            blocks = list(case.blocks)
            blocks[index] = change(blocks[index])
            hostile = case.with_blocks(blocks)
        yield case.compare(hostile, explaining=False).outcome


@pytest.mark.parametrize("index", [0, -1])
@pytest.mark.parametrize("made", CASES)
@pytest.mark.parametrize("name", [spec.name for spec in Sigstruct.table() if spec.name not in FREE])
def test_a_field_of_sigstruct(name: str, made: str, index: int) -> None:
    found = list(outcomes(CASES[made](), index, "sigstruct", name))
    assert Outcome.IDENTICAL not in found
    assert found == [Outcome.DIFFERS] * 3


@pytest.mark.parametrize("index", [0, -1])
@pytest.mark.parametrize("name", [spec.name for spec in BlockHeader.table()])
def test_a_field_of_the_header(name: str, index: int) -> None:
    assert Outcome.IDENTICAL not in outcomes(signed_enclave(), index, "header", name)
