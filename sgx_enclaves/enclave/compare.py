# SPDX-License-Identifier: GPL-2.0-or-later
"""Is the vendor's file our build plus a signature, and nothing else?

*identical* needs all of `CLAIMS`, each proved on its own, and equal sizes. What was refuted gives
*differs*. What could not be decided, because a file is malformed, missing or of an unknown kind,
gives *unverifiable*.

The vendor's ELF headers are never interpreted on the way to *identical*: where its metadata area
is, and what surrounds it, is read from our own build. Where our build leaves open which SDK signed
it, and the SDKs differ, its user must say it: the vendor's file never chooses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Optional

from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage, not_loadable, require_unsigned
from sgx_enclaves.enclave.measure import mrenclave
from sgx_enclaves.enclave.metadata import Block, Descriptor
from sgx_enclaves.enclave.policy import Policy, known_signer
from sgx_enclaves.enclave.regenerate import Regenerated, regenerate
from sgx_enclaves.enclave.sdk import (
    Generation,
    candidate_generations,
    wants_fips_by_argument,
    what_to_follow,
)
from sgx_enclaves.enclave.sigstruct import (
    Sigstruct,
    check_fips_signature,
    check_sigstruct,
    placed,
    second_signature_note,
)
from sgx_enclaves.enclave.verdict import (
    NOT_PROVED,
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
    changes,
    differing_ranges,
    finding_of,
    outside,
    paint,
    shifted,
)
from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.limits import DEFAULT_LIMITS, Limits

# A byte map that would have more ranges of differences shows the chunks that hold them.
_MOST_RANGES = 1 << 15

CLAIMS = {
    "payload": "every byte outside the metadata area equals our build",
    "metadata": "every metadata byte but the signatures' own follows from our build and the config",
    "measurement": "MRENCLAVE of our build is the one that was signed, in every block",
    "signature": "every signature in every block is valid",
    "policy": "signer, product, security version and debug mode are as asked",
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
    digests: tuple[Optional[str], Optional[str]] = (None, None),
) -> Verdict:
    """Compare our unsigned enclave with the vendor's; bad input is a finding, never an exception.

    The verdict comes without reasons: those are `explain.explained`'s.

    Args:
        names: what to call the three files.
        generation: the SDK to follow; None chooses it from the build.
        digests: SHA-256 of built and signed, hexadecimal, where it is known already.
    """
    comparison = _Comparison((built, signed, config), policy, names, limits, digests)
    comparison.run(generation)
    return comparison.verdict()


class _Comparison:
    def __init__(
        self,
        inputs: tuple[bytes, bytes, bytes],
        policy: Policy,
        names: tuple[str, str, str],
        limits: Limits,
        digests: tuple[Optional[str], Optional[str]],
    ) -> None:
        self._built, self._signed, self._config_data = inputs
        self._policy = policy
        self._names = names
        self._limits = limits
        self._facts = [
            FileFacts(name, len(data), sha256 or hashlib.sha256(data).hexdigest())
            for name, data, sha256 in zip(names, inputs, (*digests, None))
        ]
        self._image: Optional[EnclaveImage] = None
        self._vendor: Optional[Descriptor] = None
        self._sdk_from = "nothing"
        self._is_sdk_open = False
        self._vendor_offset = 0  # of its metadata area
        self._regenerated: Optional[Regenerated] = None
        self._findings: list[Finding] = []
        self._states = dict.fromkeys(CLAIMS, CheckState.NOT_DONE)

    def run(self, generation: Optional[Generation]) -> None:
        self._image = self._read_built()
        if self._image is None:
            return
        for obstacle in not_loadable(self._image):
            self._found(
                "not-loadable",
                f"no loader of the SDK takes our build: {obstacle.message}",
                Severity.NOTE,
                found=obstacle.found,
                hint=obstacle.hint,
            )
        self._compare_payload(self._image)
        self._vendor = self._read_vendor(self._image)
        if self._vendor is not None:
            self._check_signatures(self._vendor)
        self._regenerate(self._image, generation)
        if self._regenerated is not None and self._vendor is not None:
            self._compare_metadata(self._regenerated, self._vendor)
            self._compare_measurements(self._image, self._regenerated, self._vendor)
            if self._regenerated.generation.follows is not None:
                self._judge_newer(self._image, self._regenerated.generation)

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
        claims = {**CLAIMS, "policy": self._policy.claim}
        built, signed, config = self._facts
        return Verdict(
            outcome,
            built,
            signed,
            config,
            self._policy,
            regenerated.generation.name if regenerated else None,
            self._sdk_from,
            regenerated.mrenclave.hex() if regenerated else None,
            tuple(Check(n, claims[n], state) for n, state in self._states.items()),
            tuple(self._findings),
            tuple(_block_facts(self._vendor.blocks if self._vendor else (), self._policy)),
            self._byte_map(),
            NOT_PROVED,
        )

    def _read_built(self) -> Optional[EnclaveImage]:
        try:
            image = EnclaveImage.parse(self._built, self._names[0], self._limits)
            require_unsigned(image)
            return image
        except SgxEnclavesError as error:
            if self._are_swapped():
                error.hint = "the two are swapped: name our unsigned build first"
            self._findings.append(finding_of(error, "reference-unusable"))
            return None

    def _are_swapped(self) -> bool:
        """Whether the file that should be ours is an enclave, and the vendor's is unsigned."""
        try:
            EnclaveImage.parse(self._built, "", self._limits)
            return not any(EnclaveImage.parse(self._signed, "", self._limits).descriptor)
        except SgxEnclavesError:
            return False

    def _compare_payload(self, image: EnclaveImage) -> None:
        ours, theirs = self._built, self._signed
        area = image.descriptor_offset, image.descriptor_end
        # Copies less than to cut both.
        surrounded = theirs.startswith(ours[: area[0]]) and theirs.endswith(ours[area[1] :])
        equal = len(ours) == len(theirs) and surrounded
        self._states["payload"] = CheckState.PROVED if equal else CheckState.REFUTED
        if len(ours) != len(theirs):
            self._found(
                "size-differs",
                "the files are not of the same size",
                offset=min(len(ours), len(theirs)),
                expected=f"{len(ours)} bytes",
                found=f"{len(theirs)} bytes",
            )
        for first, _ in islice(differing_ranges(ours, theirs, self._payload(ours, area)), 1):
            self._found(
                "payload-differs",
                "the vendor's file has other bytes outside the metadata area than our build",
                offset=first,
                expected=_excerpt(ours, first),
                found=_excerpt(theirs, first),
                hint="see the explanation: is it the toolchain, the sources or the vendor?",
            )

    def _payload(self, ours: bytes, area: Range) -> list[Range]:
        """What both files have before and behind a metadata area, unless they are equal there."""
        whole = (0, min(len(ours), len(self._signed)))
        return [] if self._states["payload"] is CheckState.PROVED else outside([whole], [area])

    def _read_vendor(self, image: EnclaveImage) -> Optional[Descriptor]:
        """Its area is where our build has it; in a file that differs, where its own headers say."""
        self._vendor_offset = image.descriptor_offset
        area = self._signed[image.descriptor_offset : image.descriptor_end]
        if self._states["payload"] is not CheckState.PROVED:
            try:
                other = EnclaveImage.parse(self._signed, self._names[1], self._limits)
            except SgxEnclavesError as error:
                self._findings.append(finding_of(error, "signed-malformed"))
                return None
            area, self._vendor_offset = other.descriptor, other.descriptor_offset
        try:
            vendor = Descriptor.parse(area, self._limits)
        except SgxEnclavesError as error:
            error.file, error.offset = self._names[1], self._vendor_offset + (error.offset or 0)
            self._findings.append(finding_of(error, "metadata-malformed"))
            return None
        if not vendor.is_signed:
            self._found(
                "not-signed",
                "the vendor's file is not signed: its metadata area is empty",
                Severity.UNVERIFIABLE,
                offset=self._vendor_offset,
                hint="is this the vendor's signed enclave?",
            )
            return None
        return vendor

    def _check_signatures(self, vendor: Descriptor) -> None:
        defects: list[Finding] = []
        refusals: list[Finding] = []
        notes: list[Finding] = []
        for index, block in enumerate(vendor.blocks):
            base = self._vendor_offset + block.offset
            at = base + Block.SIGSTRUCT_OFFSET
            found = list(check_sigstruct(block.sigstruct, index, at))
            fips = block.fips_signature
            if fips is not None and block.fips_offset is not None:
                fips_at = base + block.fips_offset
                found += check_fips_signature(fips, block.sigstruct, index, fips_at)
                if not found:
                    notes.append(second_signature_note(fips, index, fips_at))
            defects += found
            # What nobody validly signed has no signer to judge.
            if not found:
                refusals += [placed(f, index, at) for f in self._policy.check(block.sigstruct)]
                if self._policy.identity is not None:
                    said = self._policy.identity.notes(block.sigstruct)
                    notes += [placed(f, index, at) for f in said]
        seconds = [block.fips_signature for block in vendor.blocks]
        refusals += self._policy.check_file(self._facts[1].sha256, seconds)
        self._findings += defects + refusals + notes
        self._states["signature"] = CheckState.REFUTED if defects else CheckState.PROVED
        if any(f.severity is Severity.DIFFERS for f in refusals):
            self._states["policy"] = CheckState.REFUTED
        elif not defects and not refusals:
            self._states["policy"] = CheckState.PROVED

    def _regenerate(self, image: EnclaveImage, generation: Optional[Generation]) -> None:
        """Follow each SDK that it may be; one that writes what another does is left out."""
        blocks = self._vendor.blocks if self._vendor else ()
        made: dict[bytes, Regenerated] = {}
        problems: list[SgxEnclavesError] = []
        candidates: tuple[Generation, ...] = ()
        try:
            config = Config.parse(self._config_data, self._names[2], self._limits)
            candidates = candidate_generations(image, generation)
        except SgxEnclavesError as error:
            problems.append(error)
        for candidate in candidates:
            try:
                fips = wants_fips_by_argument(candidate, blocks)
                new = regenerate(image, config, candidate, fips, self._limits)
                made.setdefault(new.descriptor, new)
            except SgxEnclavesError as error:
                problems.append(error)
        if not made:
            self._findings.append(finding_of(problems[0], "metadata-not-regenerated"))
            return
        self._sdk_from = "option" if generation else "our build"
        self._choose(list(made.values()))

    def _choose(self, made: list[Regenerated]) -> None:
        """The vendor's metadata may show which SDK it was, and prove nothing by that."""
        theirs = self._vendor.serialise() if self._vendor is not None else b""

        def wrong_bytes(new: Regenerated) -> int:
            return sum(end - start for start, end in new.differences(theirs))

        self._regenerated = best = min(made, key=wrong_bytes)
        if best is made[0] and all(other.generation.is_branch for other in made[1:]):
            return
        self._sdk_from = "the vendor's metadata"
        if wrong_bytes(best) == 0:
            self._is_sdk_open = True
            self._found(
                "sdk-not-chosen",
                "our build does not say which SDK's tool signed it, and they give different "
                f"metadata: only the vendor's file says that it was SDK {best.generation.name}",
                Severity.UNVERIFIABLE,
                expected=f"--sdk, one of {', '.join(m.generation.name for m in made)}",
                found="no option",
                hint="take it from the enclave's sources: which SDK built the release",
            )

    def _compare_metadata(self, regenerated: Regenerated, vendor: Descriptor) -> None:
        ours, theirs = regenerated.descriptor, vendor.serialise()
        wrong = regenerated.differences(theirs)
        proved = CheckState.NOT_DONE if self._is_sdk_open else CheckState.PROVED
        self._states["metadata"] = CheckState.REFUTED if wrong else proved
        if wrong:
            first = wrong[0][0]
            total = sum(end - start for start, end in wrong)
            self._found(
                "metadata-differs",
                f"{total} metadata bytes do not follow from our build and the config",
                _refuting(regenerated.generation),
                offset=self._vendor_offset + first,
                expected=_excerpt(ours, first),
                found=_excerpt(theirs, first),
                hint="is it the config of this enclave's release, and the right SDK?",
            )

    def _judge_newer(self, image: EnclaveImage, generation: Generation) -> None:
        states = {self._states["metadata"], self._states["measurement"]}
        equal = states == {CheckState.PROVED}
        self._found(
            "sdk-newer-than-known",
            f"SDK {generation.releases[0]} is newer than this program knows; "
            f"its metadata {'follow' if equal else 'do not follow'} SDK {generation.follows}",
            Severity.NOTE if equal else Severity.UNVERIFIABLE,
            hint=None if equal else what_to_follow(image, generation.follows),
        )

    def _compare_measurements(
        self, image: EnclaveImage, regenerated: Regenerated, vendor: Descriptor
    ) -> None:
        """Each block of ours is measured, each of the vendor's compared with them all."""
        right = {regenerated.mrenclave}
        known = regenerated.measured, regenerated.mrenclave
        try:
            for block in regenerated.unmeasured:
                right.add(mrenclave(image, block, self._limits, known=known))
        except SgxEnclavesError as error:
            self._findings.append(finding_of(error, "measurement-failed"))
            return
        hash_at = Block.SIGSTRUCT_OFFSET + Sigstruct.range_of("enclavehash")[0]
        self._states["measurement"] = CheckState.PROVED
        for index, block in enumerate(vendor.blocks):
            if {block.sigstruct.enclavehash} != right:
                self._states["measurement"] = CheckState.REFUTED
                self._found(
                    "measurement-differs",
                    "the signature is for an enclave with another MRENCLAVE than our build's",
                    _refuting(regenerated.generation),
                    block=index,
                    offset=self._vendor_offset + block.offset + hash_at,
                    expected=regenerated.mrenclave.hex(),
                    found=block.sigstruct.enclavehash.hex(),
                )

    def _byte_map(self) -> tuple[ByteRange, ...]:
        image = self._image
        if image is None:
            return paint(len(self._signed), [])
        start, built = image.descriptor_offset, self._built
        at = self._vendor_offset
        if at != start:
            # Of another size, it has its area elsewhere: what follows that follows ours.
            built = built[: min(start, at)] + bytes(max(at - start, 0)) + built[start:]
        area = at, at + image.descriptor_size
        payload = self._payload(built, area)
        differing = list(islice(differing_ranges(built, self._signed, payload), _MOST_RANGES + 1))
        if len(differing) > _MOST_RANGES:
            chunks = (c for part in payload for c in changes(built, self._signed, *part))
            differing = [(first, first + len(mixed)) for first, mixed in chunks]
        layers: list[tuple[Origin, Iterable[Range]]] = [
            (Origin.BUILT, [(0, len(built))]),
            (Origin.UNEXPLAINED, [*differing, (start, at), area]),
        ]
        regenerated, vendor = self._regenerated, self._vendor
        if regenerated is not None and vendor is not None:
            wrong = regenerated.differences(vendor.serialise())
            layers += [
                (Origin.REGENERATED, [area]),
                (Origin.SIGNATURE, shifted(regenerated.signature_ranges, at)),
                (Origin.SECOND_SIGNATURE, shifted(regenerated.second_signature_ranges, at)),
                (Origin.UNEXPLAINED, shifted(wrong, at)),
            ]
        return paint(len(self._signed), layers)

    def _found(
        self, code: str, message: str, severity: Severity = Severity.DIFFERS, **details: Any
    ) -> None:
        self._findings.append(Finding(code, severity, message, **details))


def _refuting(generation: Generation) -> Severity:
    """An SDK that this program does not know may write other metadata: that is no lie."""
    return Severity.DIFFERS if generation.follows is None else Severity.UNVERIFIABLE


def _excerpt(data: bytes, start: int) -> str:
    return data[start : start + 16].hex() or "nothing"


def _block_facts(blocks: Iterable[Block], policy: Policy) -> Iterator[BlockFacts]:
    """What each block says, for reports."""
    named = dict.fromkeys(policy.signers, f"named by {policy.signers_from.value}")
    for index, block in enumerate(blocks):
        signed = block.sigstruct
        mrsigner = signed.mrsigner.hex()
        yield BlockFacts(
            index,
            str(block.version),
            signed.enclavehash.hex(),
            mrsigner,
            known_signer(mrsigner) or named.get(mrsigner),
            signed.isvprodid,
            signed.isvsvn,
            signed.date_text,
            signed.is_debug,
        )
