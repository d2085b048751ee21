# SPDX-License-Identifier: GPL-2.0-or-later
"""What a signed enclave is held against, and what can hand it out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional, Protocol

from sgx_enclaves.records import record


@record
class Counterpart:
    """An unsigned enclave that a signed one may be held against.

    Attributes:
        name: what to call it in messages.
        data: its bytes.
        config_name: what to call its config.xml.
        config: the bytes of that; None when the reference has none for it.
        sha256: of the data, hexadecimal, where it is known.
    """

    name: str
    data: bytes
    config_name: str
    config: Optional[bytes]
    sha256: Optional[str] = None


class Reference(Protocol):
    """A source of counterparts."""

    @property
    def name(self) -> str:
        """What to call it in messages."""

    def counterparts(self, path: str) -> Iterator[Counterpart]:
        """The unsigned enclaves whose name fits a signed one's, those of its version first.

        Raises:
            SgxEnclavesError: the reference cannot be read.
        """
