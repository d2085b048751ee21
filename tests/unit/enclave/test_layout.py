# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes of enclaves, and what is looked for in a layout; all else is `test_golden.py`'s."""

from __future__ import annotations

import pytest

from sgx_enclaves.enclave.layout import LayoutPlan, enclave_size_for
from sgx_enclaves.enclave.metadata import LayoutEntry, LayoutGroup
from sgx_enclaves.errors import ConfigError


@pytest.mark.parametrize(
    ("end", "size"),
    [(1, 1), (2, 2), (3, 4), (0x1000, 0x1000), (0x1001, 0x2000), (1 << 63, 1 << 63)],
)
def test_an_enclave_is_as_large_as_the_next_power_of_two(end: int, size: int) -> None:
    assert enclave_size_for(end) == size


def test_an_enclave_beyond_all_addresses() -> None:
    with pytest.raises(ConfigError, match="does not fit an address space"):
        enclave_size_for((1 << 63) + 1)


def test_the_first_entry_of_a_layout() -> None:
    plan = LayoutPlan(
        (LayoutEntry(7), LayoutEntry(8, 1), LayoutGroup(9), LayoutEntry(8, 2)), b"", 1, 0, 0
    )
    assert plan.first(8) == LayoutEntry(8, 1)
    for missing in (6, 9):
        with pytest.raises(KeyError):
            plan.first(missing)
