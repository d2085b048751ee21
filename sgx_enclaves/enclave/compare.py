# SPDX-License-Identifier: GPL-2.0-or-later
"""The heart: is the vendor's file our build plus a signature, and nothing else?

*identical* needs all of these, each proved on its own:

    payload      every byte outside the metadata area equals ours, sizes too;
    metadata     every byte of the metadata area equals what we regenerate from
                 our build and the open config.xml, but for the signatures' own;
    measurement  MRENCLAVE of our build is what every block was signed for;
    signature    every signature in every block is valid;
    policy       the right signer, for the right product, recent, not for debug.

What was refuted gives *differs*. What could not be decided, because a file is
malformed, missing or of an unknown kind, gives *unverifiable*.

The vendor's ELF headers are never interpreted on the way to *identical*: where
its metadata area is, and what surrounds it, is read from our own build.

Which SDK generation an unsigned enclave was made for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Optional

from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.known import signer_named
from sgx_enclaves.enclave.measure import mrenclave
from sgx_enclaves.enclave.metadata import Block, Descriptor, Version
from sgx_enclaves.enclave.policy import Policy, check_fips_signature, check_sigstruct
from sgx_enclaves.enclave.regenerate import Regenerated, global_data_size, regenerate
from sgx_enclaves.enclave.sdk import GENERATIONS, Generation
from sgx_enclaves.enclave.verdict import (
    BlockFacts,
    ByteRange,
    Check,
    CheckState,
    FileFacts,
    Finding,
    Origin,
    Outcome,
    Range,
    Severity,
    Verdict,
    differing_ranges,
    outside,
    paint,
    signature_ranges,
)
from sgx_enclaves.errors import FormatError, SgxEnclavesError, UnsupportedError
from sgx_enclaves.limits import DEFAULT_LIMITS, Limits


def sdk_version_word(image: EnclaveImage) -> Optional[int]:
    """The first 8 bytes of g_global_data in the file: the SDK's version word since 2.9.1."""
    offset = image.file_offset(image.symbol_address("g_global_data"))
    if offset is None or offset + 8 > len(image.data):
        return None
    return int.from_bytes(image.data[offset : offset + 8], "little")


def detect_generation(image: EnclaveImage, vendor_blocks: tuple[Block, ...] = ()) -> Generation:
    """Choose the generation whose tool to follow.

    The unsigned enclave decides: its version word, the size of its metadata
    area and of its g_global_data. Only where that leaves a choice do the
    metadata versions of the vendor's file break the tie. A wrong choice cannot
    make files equal: it makes the regenerated metadata differ.

    Raises:
        UnsupportedError: no known SDK made such an enclave.
    """
    sized = [g for g in GENERATIONS if g.metadata_size == image.descriptor_size]
    word = sdk_version_word(image)
    named = [
        g
        for g in sized
        if g.checks_sdk_version and word is not None and word >> 16 in g.version_prefixes
    ]
    candidates = named or [g for g in sized if not g.checks_sdk_version]
    symbol = image.dynamic_symbols.get("g_global_data")
    if symbol is not None and symbol.st_size:
        candidates = [g for g in candidates if global_data_size(g) == symbol.st_size] or candidates
    if vendor_blocks:
        versions = {_plain(b.version) for b in vendor_blocks}
        candidates = [g for g in candidates if versions <= g.versions] or candidates
        # SDK 2.4 and 2.5 differ in the XFRM bits that they know, and in nothing else.
        told = {b.header.attributes_xfrm for b in vendor_blocks}
        candidates = [g for g in candidates if told == {g.xfrm}] or candidates
    if not candidates:
        raise UnsupportedError(
            "no known SDK makes such an enclave",
            file=image.name,
            found=f"a metadata area of {image.descriptor_size} bytes, version word 0x{word or 0:x}",
            hint="name the SDK generation with --sdk if you know it",
        )
    return candidates[0]


def _plain(version: Version) -> Version:
    return Version(version.major % 10, version.minor)


def wants_fips_by_argument(generation: Generation, vendor_blocks: tuple[Block, ...]) -> bool:
    """Whether the vendor gave SDK 2.24's tool the argument that its config cannot carry.

    Only the presence of the second signature is taken from the vendor's file;
    the signature itself is checked, and every byte around it regenerated.
    """
    return generation.fips_by_argument and any(b.fips_offset is not None for b in vendor_blocks)


def require_unsigned(image: EnclaveImage) -> None:
    """Refuse an enclave that already carries metadata as the reference of a comparison.

    Raises:
        FormatError: the metadata area is not all zero.
    """
    if any(image.descriptor):
        raise FormatError(
            "the built enclave is already signed",
            file=image.name,
            offset=image.descriptor_offset,
            expected=f"{image.descriptor_size} zero bytes",
            hint="compare the unsigned result of the build with the vendor's file",
        )


CLAIMS = {
    "payload": "every byte outside the metadata area equals our build",
    "metadata": "every metadata byte but the signatures' own follows from our build and the config",
    "measurement": "MRENCLAVE of our build is the one that was signed, in every block",
    "signature": "every signature in every block is valid",
    "policy": "signed by the expected signer, as the expected product, recent, not for debug",
}


def compare(
    built: bytes,
    signed: bytes,
    config: bytes,
    policy: Policy,
    *,
    names: tuple[str, str, str] = ("built", "signed", "config.xml"),
    generation: Optional[Generation] = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Verdict:
    """Compare our unsigned enclave with the vendor's signed one.

    Args:
        built: the unsigned enclave that we made.
        signed: the vendor's file.
        config: the enclave's config.xml.
        policy: what must hold of each block's SIGSTRUCT.
        names: what to call the three files.
        generation: the SDK to follow; None chooses it from the build.
        limits: bounds on memory and time.

    Returns:
        The verdict, without reasons: those are `explain.explained`'s. Bad input is a
        finding in it, never an exception.
    """
    comparison = _Comparison(built, signed, config, policy, names, limits)
    comparison.run(generation)
    return comparison.verdict()


class _Comparison:
    """One comparison's state, filled stage by stage."""

    def __init__(
        self,
        built: bytes,
        signed: bytes,
        config: bytes,
        policy: Policy,
        names: tuple[str, str, str],
        limits: Limits,
    ) -> None:
        self._built = built
        self._signed = signed
        self._config_data = config
        self._policy = policy
        self._names = names
        self._limits = limits
        self._image: Optional[EnclaveImage] = None
        self._vendor: Optional[Descriptor] = None
        # Where the vendor's metadata area starts in the vendor's file.
        self._vendor_offset = 0
        self._regenerated: Optional[Regenerated] = None
        self._findings: list[Finding] = []
        self._states = dict.fromkeys(CLAIMS, CheckState.NOT_DONE)

    def run(self, generation: Optional[Generation]) -> None:
        self._image = self._read_built()
        if self._image is None:
            return
        self._compare_payload(self._image)
        self._vendor = self._read_vendor(self._image)
        if self._vendor is not None:
            self._check_signatures(self._vendor)
        self._regenerate(self._image, generation)
        if self._regenerated is not None and self._vendor is not None:
            self._compare_metadata(self._image, self._regenerated, self._vendor)
            self._compare_measurements(self._image, self._regenerated, self._vendor)

    def verdict(self) -> Verdict:
        severities = {f.severity for f in self._findings}
        if Severity.DIFFERS in severities:
            outcome = Outcome.DIFFERS
        elif Severity.UNVERIFIABLE in severities:
            outcome = Outcome.UNVERIFIABLE
        elif set(self._states.values()) == {CheckState.PROVED}:
            outcome = Outcome.IDENTICAL
        else:
            raise AssertionError("a check was left out without a finding")
        regenerated = self._regenerated
        return Verdict(
            outcome,
            _facts(self._names[0], self._built),
            _facts(self._names[1], self._signed),
            _facts(self._names[2], self._config_data),
            regenerated.generation.name if regenerated else None,
            regenerated.mrenclave.hex() if regenerated else None,
            tuple(Check(name, CLAIMS[name], state) for name, state in self._states.items()),
            tuple(self._findings),
            block_facts(self._vendor.blocks if self._vendor else ()),
            self._byte_map(),
        )

    def _read_built(self) -> Optional[EnclaveImage]:
        try:
            image = EnclaveImage.parse(self._built, self._names[0], self._limits)
            require_unsigned(image)
            return image
        except SgxEnclavesError as error:
            self._findings.append(finding_of(error, "reference-unusable"))
            return None

    def _compare_payload(self, image: EnclaveImage) -> None:
        start, end = image.descriptor_offset, image.descriptor_end
        ours, theirs = self._built, self._signed
        equal = (
            len(ours) == len(theirs)
            # Copies less than to cut both.
            and theirs.startswith(ours[:start])
            and theirs.endswith(ours[end:])
        )
        self._states["payload"] = CheckState.PROVED if equal else CheckState.REFUTED
        if len(ours) != len(theirs):
            self._differs(
                "size-differs",
                "the files are not of the same size",
                offset=min(len(ours), len(theirs)),
                expected=f"{len(ours)} bytes",
                found=f"{len(theirs)} bytes",
            )
        if not equal:
            first = _first_difference(ours, theirs, (start, end))
            if first is not None:
                self._differs(
                    "payload-differs",
                    "the vendor's file has other bytes outside the metadata area than our build",
                    offset=first,
                    expected=ours[first : first + 16].hex() or "nothing",
                    found=theirs[first : first + 16].hex() or "nothing",
                    hint="see the explanation: is it the toolchain, the sources or the vendor?",
                )

    def _read_vendor(self, image: EnclaveImage) -> Optional[Descriptor]:
        area, offset = self._vendor_area(image)
        self._vendor_offset = offset
        if area is None:
            return None
        try:
            vendor = Descriptor.parse(area, self._limits)
        except SgxEnclavesError as error:
            self._findings.append(
                _at(finding_of(error, "metadata-malformed"), offset, self._names[1])
            )
            return None
        if not vendor.is_signed:
            self._findings.append(
                Finding(
                    "not-signed",
                    Severity.UNVERIFIABLE,
                    "the vendor's file is not signed: its metadata area is empty",
                    offset=offset,
                    hint="is this the vendor's signed enclave?",
                )
            )
            return None
        return vendor

    def _vendor_area(self, image: EnclaveImage) -> tuple[Optional[bytes], int]:
        """The vendor's metadata area, where our build has it.

        A file that differs elsewhere may have it elsewhere; it cannot become
        identical any more, but its signatures still tell something.
        """
        start, end = image.descriptor_offset, image.descriptor_end
        if self._states["payload"] is CheckState.PROVED:
            return self._signed[start:end], start
        try:
            other = EnclaveImage.parse(self._signed, self._names[1], self._limits)
        except SgxEnclavesError as error:
            self._findings.append(finding_of(error, "signed-malformed"))
            return None, start
        return other.descriptor, other.descriptor_offset

    def _check_signatures(self, vendor: Descriptor) -> None:
        defects: list[Finding] = []
        refusals: list[Finding] = []
        for index, block in enumerate(vendor.blocks):
            base = self._vendor_offset + block.offset
            at = base + Block.SIGSTRUCT_OFFSET
            found = list(check_sigstruct(block.sigstruct, index, at))
            fips = block.fips_signature
            if fips is not None and block.fips_offset is not None:
                found += check_fips_signature(
                    fips, block.sigstruct, index, base + block.fips_offset
                )
            defects += found
            # What nobody validly signed has no signer to judge.
            if not found:
                refusals += [
                    replace(f, block=index, offset=at + (f.offset or 0))
                    for f in self._policy.check(block.sigstruct)
                ]
        self._findings += defects + refusals
        self._states["signature"] = CheckState.REFUTED if defects else CheckState.PROVED
        if refusals:
            self._states["policy"] = CheckState.REFUTED
        elif not defects:
            self._states["policy"] = CheckState.PROVED

    def _regenerate(self, image: EnclaveImage, generation: Optional[Generation]) -> None:
        blocks = self._vendor.blocks if self._vendor else ()
        try:
            config = Config.parse(self._config_data, self._names[2], self._limits)
            chosen = generation or detect_generation(image, blocks)
            fips = wants_fips_by_argument(chosen, blocks)
            self._regenerated = regenerate(image, config, chosen, fips, self._limits)
        except SgxEnclavesError as error:
            self._findings.append(finding_of(error, "metadata-not-regenerated"))

    def _compare_metadata(
        self, image: EnclaveImage, regenerated: Regenerated, vendor: Descriptor
    ) -> None:
        ours, theirs = regenerated.descriptor, vendor.serialise()
        free = signature_ranges(regenerated.blocks)
        wrong = _metadata_differences(ours, theirs, free)
        self._states["metadata"] = CheckState.REFUTED if wrong else CheckState.PROVED
        if wrong:
            first = wrong[0][0]
            total = sum(end - start for start, end in wrong)
            self._differs(
                "metadata-differs",
                f"{total} metadata bytes do not follow from our build and the config",
                offset=self._vendor_offset + first,
                expected=ours[first : first + 16].hex() or "nothing",
                found=theirs[first : first + 16].hex() or "nothing",
                hint="is it the config of this enclave's release, and the right SDK?",
            )

    def _compare_measurements(
        self, image: EnclaveImage, regenerated: Regenerated, vendor: Descriptor
    ) -> None:
        """Each block of ours is measured once, each of the vendor's held against them all."""
        right = {regenerated.mrenclave}
        try:
            right |= {mrenclave(image, block, self._limits) for block in regenerated.unmeasured}
        except SgxEnclavesError as error:
            self._findings.append(finding_of(error, "measurement-failed"))
            return
        wrong = [
            (index, block)
            for index, block in enumerate(vendor.blocks)
            if {block.sigstruct.enclavehash} != right
        ]
        self._states["measurement"] = CheckState.REFUTED if wrong else CheckState.PROVED
        for index, block in wrong:
            self._differs(
                "measurement-differs",
                "the signature is for an enclave with another MRENCLAVE than our build's",
                block=index,
                offset=self._vendor_offset + block.offset + Block.SIGSTRUCT_OFFSET + 960,
                expected=regenerated.mrenclave.hex(),
                found=block.sigstruct.enclavehash.hex(),
            )

    def _byte_map(self) -> tuple[ByteRange, ...]:
        size = len(self._signed)
        image = self._image
        if image is None:
            return paint(size, [(Origin.UNEXPLAINED, [(0, size)])])
        start, end = image.descriptor_offset, image.descriptor_end
        common = min(size, len(self._built))
        differing = (
            []
            if self._states["payload"] is CheckState.PROVED
            else [
                r
                for part_start, part_end in ((0, min(start, common)), (min(end, common), common))
                for r in _shifted(
                    differing_ranges(
                        self._built[part_start:part_end], self._signed[part_start:part_end]
                    ),
                    part_start,
                )
            ]
        )
        layers: list[tuple[Origin, Iterable[Range]]] = [
            (Origin.BUILT, [(0, min(start, common)), (min(end, common), common)]),
            (Origin.UNEXPLAINED, differing),
            (Origin.UNEXPLAINED, [(start, end)]),
        ]
        regenerated = self._regenerated
        if regenerated is not None and self._vendor is not None and self._vendor_offset == start:
            ours, theirs = regenerated.descriptor, self._vendor.serialise()
            free = signature_ranges(regenerated.blocks)
            wrong = _metadata_differences(ours, theirs, free)
            layers += [
                (Origin.REGENERATED, [(start, end)]),
                (Origin.SIGNATURE, _shifted(free, start)),
                (Origin.UNEXPLAINED, _shifted(wrong, start)),
            ]
        return paint(size, layers)

    def _differs(
        self,
        code: str,
        message: str,
        *,
        block: Optional[int] = None,
        offset: Optional[int] = None,
        expected: Optional[str] = None,
        found: Optional[str] = None,
        hint: Optional[str] = None,
    ) -> None:
        self._findings.append(
            Finding(code, Severity.DIFFERS, message, block, offset, expected, found, hint)
        )


def block_facts(blocks: Iterable[Block]) -> tuple[BlockFacts, ...]:
    """What each block says, for reports."""
    facts = []
    for index, block in enumerate(blocks):
        sigstruct = block.sigstruct
        mrsigner = sigstruct.mrsigner.hex()
        facts.append(
            BlockFacts(
                index,
                str(block.version),
                sigstruct.enclavehash.hex(),
                mrsigner,
                signer_named(mrsigner),
                sigstruct.isvprodid,
                sigstruct.isvsvn,
                sigstruct.date_text,
                sigstruct.is_debug,
            )
        )
    return tuple(facts)


def finding_of(error: SgxEnclavesError, code: str) -> Finding:
    """An error as a finding that makes a verdict *unverifiable*."""
    where = f"{error.file}: " if error.file else ""
    return Finding(
        code,
        Severity.UNVERIFIABLE,
        where + error.message,
        offset=error.offset,
        expected=error.expected,
        found=error.found,
        hint=error.hint,
    )


def _at(finding: Finding, base: int, name: str) -> Finding:
    return replace(
        finding, offset=base + (finding.offset or 0), message=f"{name}: {finding.message}"
    )


def _facts(name: str, data: bytes) -> FileFacts:
    return FileFacts(name, len(data), hashlib.sha256(data).hexdigest())


def _shifted(ranges: Iterable[Range], by: int) -> list[Range]:
    return [(start + by, end + by) for start, end in ranges]


def _metadata_differences(ours: bytes, theirs: bytes, free: list[Range]) -> list[Range]:
    common = min(len(ours), len(theirs))
    wrong = outside(differing_ranges(ours[:common], theirs[:common]), free)
    if len(ours) != len(theirs):
        wrong.append((common, max(len(ours), len(theirs))))
    return wrong


def _first_difference(ours: bytes, theirs: bytes, skipped: Range) -> Optional[int]:
    """Offset of the first byte that differs, the skipped range left out."""
    common = min(len(ours), len(theirs))
    for start, end in ((0, min(skipped[0], common)), (min(skipped[1], common), common)):
        if ours[start:end] != theirs[start:end]:
            low, high = start, end
            while high - low > 1:
                middle = (low + high) // 2
                if ours[low:middle] != theirs[low:middle]:
                    high = middle
                else:
                    low = middle
            return low
    return None
