# SPDX-License-Identifier: GPL-2.0-or-later
"""Verdicts of every kind, made by hand: a report only words what it is given."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

from sgx_enclaves.enclave.policy import Pin, policy_for
from sgx_enclaves.enclave.verdict import (
    NOT_PROVED,
    BlockFacts,
    ByteRange,
    Cause,
    Check,
    CheckState,
    Difference,
    Explanation,
    FileFacts,
    Finding,
    Origin,
    Outcome,
    Severity,
    Verdict,
)
from tests.support.intel import INTEL_PCE

NAMES = ("payload", "metadata", "measurement", "signature", "policy")
OURS, THEIRS = "a1" * 32, "b2" * 32


def checks(**states: CheckState) -> tuple[Check, ...]:
    return tuple(
        Check(name, f"the claim about the {name}", states.get(name, CheckState.PROVED))
        for name in NAMES
    )


def block(index: int = 0, **changes: object) -> BlockFacts:
    facts = BlockFacts(index, "1.5", OURS, INTEL_PCE, "Intel (PCE)", 1, 16, "2024-08-07", False)
    return replace(facts, **changes)  # type: ignore[arg-type]


IDENTICAL = Verdict(
    Outcome.IDENTICAL,
    FileFacts("build/libsgx_pce.so", 2000, "01" * 32),
    FileFacts("vendor/libsgx_pce.signed.so", 2000, "23" * 32),
    FileFacts("config.xml", 700, "45" * 32),
    policy_for(Pin("pce", "pce", INTEL_PCE, 1, 16)),
    "2.25",
    "our build",
    OURS,
    checks(),
    (),
    (block(),),
    (
        ByteRange(0, 1000, Origin.BUILT),
        ByteRange(1000, 1900, Origin.REGENERATED),
        ByteRange(1900, 2000, Origin.SIGNATURE),
    ),
    NOT_PROVED,
)


def difference(start: int = 0x204, size: int = 2, field: Optional[str] = None) -> Difference:
    where = "metadata" if field else "payload"
    section = ".note.sgxmeta" if field else ".interp"
    symbol = None if field else "enclave_entry"
    return Difference(start, start + size, where, 0, section, symbol, field, True, "3634", "3332")


DIFFERS = replace(
    IDENTICAL,
    outcome=Outcome.DIFFERS,
    checks=checks(
        payload=CheckState.REFUTED, metadata=CheckState.REFUTED, measurement=CheckState.REFUTED
    ),
    blocks=(block(mrenclave=THEIRS),),
    findings=(
        Finding(
            "payload-differs",
            Severity.DIFFERS,
            "the vendor's file has other bytes outside the metadata area than our build",
            None,
            0x204,
            "3634",
            "3332",
            "see the explanation",
        ),
        Finding("metadata-differs", Severity.DIFFERS, "32 metadata bytes do not follow", 0, 0x900),
        Finding("measurement-differs", Severity.DIFFERS, "another MRENCLAVE", 0, 0x900),
        Finding("sdk-guessed", Severity.NOTE, "the SDK was guessed"),
    ),
    byte_map=(
        ByteRange(0, 516, Origin.BUILT),
        ByteRange(516, 518, Origin.UNEXPLAINED),
        ByteRange(518, 1000, Origin.BUILT),
        ByteRange(1000, 1900, Origin.REGENERATED),
        ByteRange(1900, 2000, Origin.SIGNATURE),
    ),
    explanation=Explanation(
        (
            difference(),
            difference(0x900, 32, "block 0 SIGSTRUCT.isvsvn"),
            difference(0x400),
            difference(0x500),
            difference(0x600),
        ),
        12,
        99,
        (
            Cause("interpreter-path", "PT_INTERP is /a in the vendor's file, /b in ours", "same"),
            Cause("build-id", "the build id is absent"),
        ),
    ),
)

UNVERIFIABLE = replace(
    IDENTICAL,
    outcome=Outcome.UNVERIFIABLE,
    sdk=None,
    mrenclave=None,
    checks=checks(**dict.fromkeys(NAMES, CheckState.NOT_DONE)),
    findings=(
        Finding(
            "reference-unusable",
            Severity.UNVERIFIABLE,
            "not an ELF file",
            None,
            0,
            "an ELF64 x86-64 shared object",
            "89504e47",
            "is this the file?",
        ),
    ),
    blocks=(),
    byte_map=(ByteRange(0, 2000, Origin.UNEXPLAINED),),
    explanation=None,
)

EVIL = '<script>alert(1)</script>"&\x1b[2J\n'


def evil() -> Verdict:
    """Every text of a verdict as an attacker would choose it."""
    return replace(
        DIFFERS,
        built=FileFacts(EVIL, 2000, "01" * 32),
        signed=FileFacts(EVIL, 2000, "23" * 32),
        config=FileFacts(EVIL, 700, "45" * 32),
        sdk=EVIL,
        findings=(Finding(EVIL, Severity.DIFFERS, EVIL, 0, 0, EVIL, EVIL, EVIL),),
        blocks=(block(signer=EVIL, date=EVIL, version=EVIL),),
        explanation=Explanation(
            (Difference(0, 2, EVIL, 0, EVIL, EVIL, EVIL, True, EVIL, EVIL),),
            0,
            2,
            (Cause(EVIL, EVIL, EVIL),),
        ),
    )
