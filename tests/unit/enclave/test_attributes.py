# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of bits."""

from __future__ import annotations

import pytest

from sgx_enclaves.enclave.sigstruct import (
    ATTRIBUTE_NAMES,
    MISC_NAMES,
    XFRM_NAMES,
    spell,
    spell_secinfo,
)


@pytest.mark.parametrize(
    ("value", "names", "text"),
    [
        (0, ATTRIBUTE_NAMES, "0x0"),
        (0x4, ATTRIBUTE_NAMES, "MODE64BIT"),
        (0x496, ATTRIBUTE_NAMES, "DEBUG|MODE64BIT|PROVISIONKEY|KSS|AEXNOTIFY"),
        (0x1 << 63 | 0x2, ATTRIBUTE_NAMES, "DEBUG|0x8000000000000000"),
        (0x3, XFRM_NAMES, "X87|SSE"),
        (0x8, XFRM_NAMES, "0x8"),
        (0x602E7, XFRM_NAMES, "X87|SSE|AVX|AVX512|PKRU|AMX"),
        (0x3, MISC_NAMES, "EXINFO|CPINFO"),
    ],
)
def test_bits_have_names_and_none_is_lost(value: int, names: dict[int, str], text: str) -> None:
    assert spell(value, names) == text


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (0x203, "REG rw-"),
        (0x205, "REG r-x"),
        (0x100, "TCS ---"),
        (0x0, "SECS ---"),
        (0x400, "TRIM ---"),
        (0x907, "type9 rwx"),
    ],
)
def test_page_type_and_permissions(flags: int, text: str) -> None:
    assert spell_secinfo(flags) == text
