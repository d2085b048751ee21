# SPDX-License-Identifier: GPL-2.0-or-later
"""The verdict and what it rests on: one object that every front end only words."""

from __future__ import annotations

from enum import Enum
from typing import Optional

from sgx_enclaves.records import record


class Outcome(str, Enum):
    """The only verdicts there are."""

    IDENTICAL = "identical"
    DIFFERS = "differs"
    UNVERIFIABLE = "unverifiable"

    @property
    def exit_status(self) -> int:
        """0, 1 or 2: the exit status of every command that gives a verdict."""
        return {"identical": 0, "differs": 1, "unverifiable": 2}[self.value]


class Severity(str, Enum):
    """What a finding means for the verdict."""

    DIFFERS = "differs"
    UNVERIFIABLE = "unverifiable"
    NOTE = "note"


class Origin(str, Enum):
    """Where a byte of the vendor's file comes from."""

    BUILT = "built"
    REGENERATED = "regenerated"
    SIGNATURE = "signature"
    UNEXPLAINED = "unexplained"


@record
class Finding:
    """One thing that was found out, for people and programs.

    Attributes:
        code: a stable name, for example `signature-invalid`.
        severity: what it means for the verdict.
        message: one sentence.
        block: index of the metadata block it is about.
        offset: byte offset in the vendor's file.
        expected: what would have been right.
        found: what was there.
        hint: the next step for the user.
    """

    code: str
    severity: Severity
    message: str
    block: Optional[int] = None
    offset: Optional[int] = None
    expected: Optional[str] = None
    found: Optional[str] = None
    hint: Optional[str] = None


class CheckState(str, Enum):
    """How one of the checks of a comparison ended."""

    PROVED = "proved"
    REFUTED = "refuted"
    NOT_DONE = "not done"


@record
class Check:
    """One of the claims that make up the verdict *identical*.

    Attributes:
        name: payload, metadata, measurement, signature or policy.
        claim: what is claimed, in one sentence.
        state: whether it was proved.
    """

    name: str
    claim: str
    state: CheckState


@record
class ByteRange:
    """Bytes `start` to `end` (exclusive) of the vendor's file have one origin."""

    start: int
    end: int
    origin: Origin

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.end - self.start


@record
class FileFacts:
    """What identifies an input file: name, size in bytes, SHA-256."""

    name: str
    size: int
    sha256: str


@record
class BlockFacts:
    """What a metadata block of the vendor's file says about the enclave.

    Attributes:
        index: position among the blocks, from 0.
        version: metadata version.
        mrenclave: ENCLAVEHASH, hexadecimal.
        mrsigner: hexadecimal.
        signer: name of the signer when it is a known one.
        isvprodid: product id.
        isvsvn: security version.
        date: date of the signature, yyyy-mm-dd.
        debug: whether debug mode is open.
    """

    index: int
    version: str
    mrenclave: str
    mrsigner: str
    signer: Optional[str]
    isvprodid: int
    isvsvn: int
    date: str
    debug: bool


@record
class Difference:
    """A range of bytes that is not as it should be.

    Attributes:
        start: first byte, offset in the vendor's file.
        end: behind the last byte.
        where: `payload`, `metadata`, `appended` or `truncated`.
        segment: index of the PT_LOAD segment, None when not loaded.
        section: name of the section.
        symbol: name of the symbol.
        field: name of the metadata field.
        measured: whether MRENCLAVE covers the bytes.
        expected: the bytes as they should be, a short hexadecimal excerpt.
        found: the bytes as they are, likewise.
    """

    start: int
    end: int
    where: str
    segment: Optional[int]
    section: Optional[str]
    symbol: Optional[str]
    field: Optional[str]
    measured: bool
    expected: str
    found: str


@record
class Cause:
    """A likely reason for differences.

    Attributes:
        code: a stable name, for example `interpreter-path`.
        message: one sentence that names both sides.
        hint: what to do about it.
    """

    code: str
    message: str
    hint: Optional[str] = None


@record
class Explanation:
    """Why the files differ: ranges in file order and likely causes, best first.

    Attributes:
        differences: at most as many as the explainer was asked for.
        omitted: how many more there are.
        differing_bytes: number of bytes that differ.
        causes: likely causes.
    """

    differences: tuple[Difference, ...]
    omitted: int
    differing_bytes: int
    causes: tuple[Cause, ...]


@record
class Verdict:
    """The result of a comparison.

    Attributes:
        outcome: identical, differs or unverifiable.
        built: the unsigned enclave that we made.
        signed: the vendor's file.
        config: the config.xml.
        sdk: the SDK generation that was followed, None when none could be.
        mrenclave: measured from our file, hexadecimal; None when it was not.
        checks: the claims and whether each was proved.
        findings: everything that speaks against *identical*, and notes.
        blocks: facts of the vendor's metadata blocks.
        byte_map: the vendor's whole file, range by range.
        explanation: why the files differ; None when they do not.
    """

    outcome: Outcome
    built: FileFacts
    signed: FileFacts
    config: FileFacts
    sdk: Optional[str]
    mrenclave: Optional[str]
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    blocks: tuple[BlockFacts, ...]
    byte_map: tuple[ByteRange, ...]
    explanation: Optional[Explanation] = None

    @property
    def exit_status(self) -> int:
        """0, 1 or 2."""
        return self.outcome.exit_status

    def bytes_of(self, origin: Origin) -> int:
        """How many bytes of the vendor's file have this origin."""
        return sum(r.size for r in self.byte_map if r.origin is origin)
