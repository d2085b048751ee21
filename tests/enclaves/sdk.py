# SPDX-License-Identifier: GPL-2.0-or-later
"""What each SDK release fixes in an enclave, for tests.

Measured on the releases; kept apart from the project's own table, so that the
two can disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class SdkShape:
    """What an SDK release fixes in an unsigned enclave.

    Attributes:
        version: first u64 of g_global_data, major<<32 | minor<<16 | revision
            (common/inc/internal/se_version.h).
        descriptor_size: METADATA_SIZE (common/inc/internal/metadata.h), bytes.
        global_data_size: sizeof(global_data_t) (common/inc/internal/global_data.h), bytes.
    """

    version: int
    descriptor_size: int
    global_data_size: int


def sdk_version(major: int, minor: int, revision: int = 100) -> int:
    """The version word of an SDK release."""
    return major << 32 | minor << 16 | revision


_SHAPES: Mapping[str, SdkShape] = {
    name: SdkShape(sdk_version(*version), descriptor_size, global_data_size)
    for name, version, descriptor_size, global_data_size in (
        ("1.5", (1, 5, 80), 0x1000, 184),
        ("1.6", (1, 6, 100), 0x1000, 184),
        ("1.7", (1, 7, 100), 0x1000, 184),
        ("1.8", (1, 8, 100), 0x1000, 184),
        ("1.9", (1, 9, 100), 0x1000, 184),
        ("2.0", (2, 0, 100), 0x3000, 1488),
        ("2.1", (2, 1, 100), 0x5000, 1488),
        ("2.1.1", (2, 1, 101), 0x5000, 1488),
        ("2.1.2", (2, 1, 102), 0x5000, 1488),
        ("2.1.3", (2, 1, 103), 0x5000, 1488),
        ("2.2", (2, 2, 100), 0x5000, 1488),
        ("2.3", (2, 3, 100), 0x5000, 1488),
        ("2.3.1", (2, 3, 101), 0x5000, 1488),
        ("2.4", (2, 4, 100), 0x5000, 1488),
        ("2.5", (2, 5, 100), 0x5000, 1488),
        ("2.6", (2, 6, 100), 0x5000, 1632),
        ("2.7", (2, 7, 100), 0x5000, 1632),
        ("2.7.1", (2, 7, 101), 0x5000, 1632),
        ("2.8", (2, 8, 100), 0x5000, 1648),
        ("2.9", (2, 9, 100), 0x5000, 1648),
        ("2.9.1", (2, 9, 101), 0x5000, 1656),
        ("2.10", (2, 10, 102), 0x5000, 1656),
        ("2.11", (2, 11, 100), 0x5000, 1656),
        ("2.12", (2, 12, 100), 0x5000, 1656),
        ("2.13", (2, 13, 100), 0x5000, 1656),
        ("2.13.3", (2, 13, 103), 0x5000, 1656),
        ("2.14", (2, 14, 100), 0x5000, 1680),
        ("2.15", (2, 15, 100), 0x5000, 1680),
        ("2.15.1", (2, 15, 101), 0x5000, 1680),
        ("2.16", (2, 16, 100), 0x5000, 1680),
        # Intel's main branch from April 2022 until 2.17, and the branch edmm_v5.
        ("2.16.100", (2, 16, 100), 0x5000, 1688),
        ("2.16.100-edmm", (2, 16, 100), 0x5000, 1688),
        ("2.17", (2, 17, 100), 0x5000, 1688),
        ("2.17.1", (2, 17, 101), 0x5000, 1688),
        ("2.18", (2, 18, 100), 0x5000, 1688),
        ("2.18.1", (2, 18, 101), 0x5000, 1688),
        ("2.19", (2, 19, 100), 0x5000, 1720),
        ("2.20", (2, 20, 100), 0x5000, 1760),
        ("2.21", (2, 21, 100), 0x5000, 1760),
        ("2.22", (2, 22, 100), 0x5000, 1760),
        ("2.23", (2, 23, 100), 0x5000, 1760),
        ("2.24", (2, 24, 100), 0x6000, 1760),
        ("2.25", (2, 25, 100), 0x6000, 1768),
        ("2.26", (2, 26, 100), 0x6000, 1768),
        ("2.26.1", (2, 26, 100), 0x6000, 1768),
        ("2.27", (2, 27, 100), 0x6000, 1768),
        ("2.28", (2, 28, 100), 0x6000, 1768),
        ("2.29", (2, 29, 100), 0x6000, 1768),
    )
}


def sdk_releases() -> tuple[str, ...]:
    """Every SDK release that `Enclave.sdk` may name, oldest first."""
    return tuple(_SHAPES)


def sdk_shape(release: str) -> SdkShape:
    """Version word and sizes of an SDK release such as "2.25".

    Raises:
        KeyError: no such release; see `sdk_releases`.
    """
    return _SHAPES[release]
