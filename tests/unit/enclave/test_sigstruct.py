# SPDX-License-Identifier: GPL-2.0-or-later
"""SIGSTRUCT against real ones."""

from __future__ import annotations

from typing import Any

import pytest

from sgx_enclaves.enclave.sigstruct import (
    HEADER1,
    HEADER2,
    RSA_EXPONENT,
    SIGNATURE_FIELDS,
    TYPE_DEBUG,
    Attribute,
    Sigstruct,
    TcbLevel,
)
from tests.unit.enclave.vectors import sigstructs

REAL = sigstructs()


@pytest.mark.parametrize("vector", REAL, ids=lambda v: f"{v['name']}-{v['isvsvn']}")
def test_a_real_one(vector: dict[str, Any]) -> None:
    data = vector["sigstruct"]
    parsed = Sigstruct.parse(data)
    assert parsed.serialise() == data
    assert parsed.enclavehash.hex() == vector["mrenclave"]
    assert parsed.mrsigner.hex() == vector["mrsigner"]
    assert (parsed.isvprodid, parsed.isvsvn) == (vector["isvprodid"], vector["isvsvn"])
    assert parsed.date_text.replace("-", "") == vector["date"]
    assert (parsed.header1, parsed.header2) == (HEADER1, HEADER2)
    for name in ("reserved1", "reserved2", "reserved3", "reserved4"):
        assert not any(getattr(parsed, name))


@pytest.mark.parametrize("vector", REAL, ids=lambda v: f"{v['name']}-{v['isvsvn']}")
def test_the_signature_of_a_real_one_fits_its_message(vector: dict[str, Any]) -> None:
    """RSA by hand: that the fields are where they are said to be."""
    import hashlib  # noqa: PLC0415

    parsed = Sigstruct.parse(vector["sigstruct"])
    n, s, q1, q2 = (
        int.from_bytes(value, "little")
        for value in (parsed.modulus, parsed.signature, parsed.q1, parsed.q2)
    )
    assert parsed.exponent == RSA_EXPONENT
    padded = pow(s, 3, n).to_bytes(384, "big")
    digest = hashlib.sha256(parsed.signed_message).digest()
    assert padded[:2] == b"\0\1"
    assert padded.endswith(digest)
    assert q1 == s * s // n
    assert q2 == (s * s - q1 * n) * s // n


def test_only_the_signer_can_make_these_fields() -> None:
    signed = Sigstruct.parse(REAL[0]["sigstruct"])
    covered = set()
    for spec in Sigstruct.table():
        start, _ = Sigstruct.range_of(spec.name)
        if start < 128 or 900 <= start < 1028:
            covered.add(spec.name)
    assert len(signed.signed_message) == 256
    assert set(SIGNATURE_FIELDS) - covered == {"modulus", "signature", "q1", "q2"}
    assert {"exponent", "reserved4"} == {s.name for s in Sigstruct.table()} - covered - set(
        SIGNATURE_FIELDS
    )


@pytest.mark.parametrize(
    ("fields", "debug"),
    [
        ({}, False),
        ({"type": TYPE_DEBUG}, True),
        ({"type": 1}, False),
        ({"attributes_flags": 4 | Attribute.DEBUG}, True),
        ({"attributemask_flags": 0}, True),
        ({"attributemask_flags": ((1 << 64) - 1) & ~Attribute.DEBUG}, True),
    ],
)
def test_whether_debug_is_open(fields: dict[str, Any], debug: bool) -> None:
    values: dict[str, Any] = {"attributes_flags": 4, "attributemask_flags": (1 << 64) - 1, **fields}
    assert Sigstruct(**values).is_debug is debug


def test_a_malformed_date_is_shown_as_it_is() -> None:
    assert Sigstruct(date=0x20240229).date_text == "2024-02-29"
    assert Sigstruct(date=0x2018A0FF).date_text == "2018-a0-ff"
    assert Sigstruct().date_text == "0000-00-00"


def test_a_level_names_its_advisories_if_it_has_any() -> None:
    assert str(TcbLevel(5, "UpToDate", "2024-03-13", ())) == "UpToDate since 2024-03-13"
    bad = TcbLevel(4, "OutOfDate", "2018-08-15", ("INTEL-SA-00615", "INTEL-SA-00161"))
    assert str(bad) == "OutOfDate since 2018-08-15 (INTEL-SA-00615, INTEL-SA-00161)"
