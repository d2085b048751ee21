# SPDX-License-Identifier: GPL-2.0-or-later
"""The enclaves that the golden tests are about: synthetic ones, and the compiled ones."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.enclaves.compiled import (
    MEASURED_VARIANTS,
    PARTS,
    UNMEASURED_VARIANTS,
    variant_file,
)
from tests.enclaves.sdk import sdk_releases
from tests.enclaves.synthetic import small_enclave
from tests.golden.subjects import sign_for_vendor
from tests.support.keys import foreign_key
from tests.support.signed import Case, fips_enclave, signed_enclave


@dataclass(frozen=True)
class Pair:
    """What was built, with its config.xml, and what the vendor signed."""

    built: bytes
    config: bytes
    signed: bytes


# The first bytes of a synthetic enclave's code.
CODE = bytes.fromhex("89f8c3")

ELRANGE = {
    "EnableIPPFIPS": 1,
    "HeapMaxSize": 0x3000,
    "TCSNum": 2,
    "TCSMaxNum": 3,
    "EnclaveImageAddress": 0x20_0000,
    "ELRangeStartAddress": 0,
    "ELRangeSize": 0x40_0000,
}

SPECIAL: Mapping[str, Callable[[], Case]] = {
    "fips": fips_enclave,
    "elrange": lambda: signed_enclave("2.26", ELRANGE),
    "more-heap": lambda: signed_enclave("2.17", {"HeapMaxSize": 0x3000, "HeapMinSize": 0x3000}),
    "debug": lambda: signed_enclave("2.17", {"DisableDebug": 0}),
    "isvsvn": lambda: signed_enclave("2.17", {"ISVSVN": 9}),
    "interpreter": lambda: signed_enclave("2.17", interpreter="/lib64/ld-linux-x86-64.so.2"),
    "interpreter-2": lambda: signed_enclave("2.17", interpreter="/usr/lib/ld-linux-x86.so.2"),
    "symbols": lambda: signed_enclave("2.17", symtab=True),
    "text-relocations": lambda: signed_enclave("2.17", textrel=True),
    "other-code": lambda: signed_enclave("2.17", code=b"\x90" * 16),
    "other-data": lambda: signed_enclave("2.17", data=bytes(16)),
    "more-bss": lambda: signed_enclave("2.17", bss_size=0x2000),
    "no-tls": lambda: signed_enclave("2.17", tls=None),
    "trailing": lambda: signed_enclave("2.17", trailing=b"tail"),
}


# What every release understands.
CONFIG = b"""<EnclaveConfiguration>
  <ProdID>3</ProdID>
  <ISVSVN>7</ISVSVN>
  <TCSNum>1</TCSNum>
  <StackMaxSize>0x2000</StackMaxSize>
  <HeapMaxSize>0x1000</HeapMaxSize>
  <DisableDebug>1</DisableDebug>
</EnclaveConfiguration>
"""


def small(sdk: str) -> Pair:
    """A small enclave of a release."""
    built = small_enclave(sdk=sdk)
    return Pair(built, CONFIG, sign_for_vendor(built, CONFIG, sdk))


def synthetic() -> dict[str, Pair]:
    """Enclaves written byte by byte: the same on every machine."""
    pairs = {sdk: small(sdk) for sdk in ("1.5", "2.0", "2.17", "2.25")}
    cases = {name: make() for name, make in SPECIAL.items()}
    pairs.update({n: Pair(case.built, case.config, case.signed) for n, case in cases.items()})
    return pairs


def of_every_sdk() -> dict[str, Pair]:
    """One small enclave of each SDK release."""
    return {sdk: small(sdk) for sdk in sdk_releases()}


def spoiled() -> dict[str, Pair]:
    """What an attacker or a careless vendor makes of a signed enclave, with what was built."""

    def sigstruct(case: Case, **fields: Any) -> bytes:
        return case.hostile(lambda b: replace(b, sigstruct=replace(b.sigstruct, **fields)))

    case, fips = signed_enclave("2.17"), fips_enclave()
    signed = case.signed
    code, data = signed.index(CODE), case.area.stop + 8
    files: dict[str, tuple[Case, bytes]] = {
        "honest": (case, signed),
        "code byte": (case, signed[:code] + b"?" + signed[code + 1 :]),
        "late byte": (case, signed[:data] + b"?" + signed[data + 1 :]),
        "longer": (case, signed + b"!"),
        "shorter": (case, signed[:-1]),
        "half": (case, signed[: len(signed) // 2]),
        "empty": (case, b""),
        "unsigned": (case, case.built),
        "no ELF": (case, b"#!/bin/sh\n" * 100),
        "foreign signer": (case, case.hostile(lambda b: b, key=foreign_key())),
        "last block of a foreign signer": (case, case.hostile(lambda b: b, 2, key=foreign_key())),
        "one block missing": (case, case.with_blocks(case.blocks[:2])),
        "blocks in another order": (case, case.with_blocks(case.blocks[::-1])),
        "no blocks": (case, case.with_descriptor(b"")),
        "other measurement": (
            case,
            case.hostile(
                lambda b: replace(b, sigstruct=replace(b.sigstruct, enclavehash=bytes(32))),
                measured=False,
            ),
        ),
        "debug vendor": (case, sigstruct(case, type=0x80000000)),
        "isvsvn": (case, sigstruct(case, isvsvn=1)),
        "isvprodid": (case, sigstruct(case, isvprodid=99)),
        "miscmask": (case, sigstruct(case, miscmask=0)),
        "second signature": (fips, _flipped(fips, fips.blocks[0].fips_offset or 0)),
        "fips honest": (fips, fips.signed),
    }
    return {name: Pair(of.built, of.config, data) for name, (of, data) in files.items()}


def _flipped(case: Case, offset: int) -> bytes:
    at = case.area.start + offset
    return case.signed[:at] + bytes([case.signed[at] ^ 1]) + case.signed[at + 1 :]


def tools() -> str:
    """The compiler and the linker that decide the compiled enclaves' bytes."""
    words = []
    for tool in ("gcc", "ld"):
        argv = [tool, "--version"]
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
        words.append(done.stdout.splitlines()[0])
    return "; ".join(words)


def compiled(folder: Path) -> dict[str, Pair]:
    """Every part and every variant of the pce, built in `folder`, each signed by the vendor."""
    found = {}
    for name in (*PARTS, *MEASURED_VARIANTS, *UNMEASURED_VARIANTS):
        part = PARTS.get(name, PARTS["pce"])
        path = folder / part.file if name in PARTS else variant_file(folder, name)
        built, config = path.read_bytes(), part.config.read_bytes()
        sdk = "2.26" if name == "sdk-version" else part.sdk
        found[name] = Pair(built, config, sign_for_vendor(built, config, sdk))
    return found
