# SPDX-License-Identifier: GPL-2.0-or-later
"""Real enclaves, from the folder that SGX_ENCLAVE_CORPUS names; none is kept here.

The folder is searched with all its subfolders. Signed is what has metadata
blocks, whatever its name. By their names are found:

    X.so, X.signed.so     an unsigned build and its signed counterpart
    FILE.config.xml       the config that FILE was signed with

Known exceptions are named below, by the start of their SHA-256, each with what was
measured about it. They are judged like anything else: *differs* or *unverifiable*.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Optional

import pytest

from sgx_enclaves.enclave.compare import compare
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.measure import mrenclave
from sgx_enclaves.enclave.metadata import Block, Descriptor, LayoutEntry, LayoutGroup
from sgx_enclaves.enclave.policy import Policy, pin_for_file, policy_for
from sgx_enclaves.enclave.sdk import (
    GENERATIONS,
    Generation,
    candidate_generations,
    wants_fips_by_argument,
)
from sgx_enclaves.enclave.sign import extract, graft
from sgx_enclaves.enclave.sigstruct import Sigstruct, check_fips_signature, check_sigstruct
from sgx_enclaves.enclave.verdict import CheckState, Origin, Outcome, Verdict
from sgx_enclaves.errors import SgxEnclavesError

CORPUS = os.environ.get("SGX_ENCLAVE_CORPUS")
CONFIG_SUFFIX = ".config.xml"
# About 2 s of hashing; the largest real one measures 11 GiB of memory.
MOST_PAGES = 1 << 18

_INTEL_2017 = (
    "Intel's PCE, PVE and QE of 2017: the signing tool of their tag does not make their metadata "
    "(4,251 bytes behind the block are not zero), so the open sources do not explain them"
)
_CHANGED_TOOL = "signed by a changed SDK: its release's own tool does not give these metadata"
_OTHER_CONFIG = "the config.xml beside it is not the one it was signed with"
_NEWER_SDK = "made with SDK 2.27, which is not supported"

EXCEPTIONS: dict[str, tuple[Outcome, str]] = {
    "a85e946f06336153": (Outcome.DIFFERS, _INTEL_2017),
    "1fba44165cc9fab2": (Outcome.DIFFERS, _INTEL_2017),
    "0f3ae94ca193fca5": (Outcome.DIFFERS, _INTEL_2017),
    "066138df772f5c86": (Outcome.DIFFERS, _CHANGED_TOOL),
    "c55d93a941ff7d01": (Outcome.DIFFERS, _CHANGED_TOOL),
    "3d855045987437b1": (Outcome.DIFFERS, _CHANGED_TOOL),
    "78f0b0d06f3e9bde": (Outcome.DIFFERS, _CHANGED_TOOL),
    "7280122ee5a058a1": (Outcome.DIFFERS, _CHANGED_TOOL),
    "fe7d49e90f92007a": (Outcome.DIFFERS, _CHANGED_TOOL),
    "5acaad2dfac8a95b": (Outcome.DIFFERS, _OTHER_CONFIG),
    "71df3ccbd129b1a5": (Outcome.DIFFERS, _OTHER_CONFIG),
    "e71286f38458f185": (Outcome.DIFFERS, _OTHER_CONFIG),
    "e9cecfae51961c3c": (Outcome.DIFFERS, _OTHER_CONFIG),
    "9453548d92b2ceab": (Outcome.UNVERIFIABLE, _NEWER_SDK),
    "849c738267b9e256": (Outcome.UNVERIFIABLE, _NEWER_SDK),
}

if CORPUS is None:
    pytest.skip("SGX_ENCLAVE_CORPUS names no folder of real enclaves", allow_module_level=True)


@dataclass(frozen=True)
class Signed:
    """A signed enclave of the corpus."""

    path: Path
    image: EnclaveImage
    descriptor: Descriptor

    @property
    def unsigned(self) -> bytes:
        """The file with its metadata area zeroed: what a reproduced build must be."""
        start, end = self.image.descriptor_offset, self.image.descriptor_end
        return self.image.data[:start] + bytes(end - start) + self.image.data[end:]

    @property
    def policy(self) -> Policy:
        """Trusts whoever signed: who that must be is not what is tested here."""
        signers = {block.sigstruct.mrsigner.hex() for block in self.descriptor.blocks}
        return policy_for(None, mrsigners=signers, allow_debug=True)


@cache
def files() -> tuple[Path, ...]:
    """All files of the corpus that could be enclaves."""
    paths = sorted(Path(CORPUS or "").rglob("*.so*"))
    return tuple(p for p in paths if p.suffix != ".xml" and p.is_file())


def load(path: Path) -> Optional[Signed]:
    """The signed enclave in a file; None when it is another kind of file."""
    data = path.read_bytes()
    try:
        image = EnclaveImage.parse(data, path.name)
        descriptor = Descriptor.parse(image.descriptor)
    except SgxEnclavesError:
        return None
    return Signed(path, image, descriptor) if descriptor.is_signed else None


@cache
def signed_files() -> tuple[Path, ...]:
    """The signed enclaves; each is read again for each test, to keep memory small."""
    return tuple(path for path in files() if load(path) is not None)


def read(path: Path) -> Signed:
    signed = load(path)
    assert signed is not None
    return signed


def config_of(path: Path) -> Path:
    return path.with_name(path.name + CONFIG_SUFFIX)


def identifier(path: Path) -> str:
    return str(path.relative_to(CORPUS or ""))


def pages(image: EnclaveImage, block: Block) -> int:
    """Measured pages, about: with groups unrolled."""
    total = image.image_size >> 12
    for index, item in enumerate(block.layout):
        if isinstance(item, LayoutGroup):
            members = block.layout[max(0, index - item.entry_count) : index]
            per_time = sum(e.page_count for e in members if isinstance(e, LayoutEntry))
            total += per_time * item.load_times
        elif item.attributes & 2:
            total += item.page_count
    return total


def skip_if_huge(signed: Signed) -> None:
    most = max(pages(signed.image, block) for block in signed.descriptor.blocks)
    if most > MOST_PAGES:
        pytest.skip(f"measures {most} pages, more than {MOST_PAGES} are not for a test")


@pytest.mark.parametrize("path", signed_files(), ids=identifier)
def test_parse_then_serialise_is_the_identity(path: Path) -> None:
    signed = read(path)
    assert signed.descriptor.serialise() == signed.image.descriptor
    for block in signed.descriptor.blocks:
        start = block.offset
        end = start + block.header.size
        assert block.serialise() == signed.image.descriptor[start:end]
        assert Sigstruct.parse(block.sigstruct.serialise()) == block.sigstruct


@pytest.mark.parametrize("path", signed_files(), ids=identifier)
def test_every_block_measures_as_it_was_signed(path: Path) -> None:
    signed = read(path)
    skip_if_huge(signed)
    for block in signed.descriptor.blocks:
        assert mrenclave(signed.image, block) == block.sigstruct.enclavehash


@pytest.mark.parametrize("path", signed_files(), ids=identifier)
def test_every_signature_is_valid(path: Path) -> None:
    signed = read(path)
    for block in signed.descriptor.blocks:
        assert check_sigstruct(block.sigstruct) == ()
        fips = block.fips_signature
        if fips is not None:
            assert check_fips_signature(fips, block.sigstruct) == ()


def test_bare_sigstructs_are_valid() -> None:
    """Files of 1808 bytes: the launch enclave's production signatures."""
    for path in sorted(Path(CORPUS or "").rglob("*css*.bin")):
        sigstruct = Sigstruct.parse(path.read_bytes())
        assert sigstruct.serialise() == path.read_bytes()
        assert check_sigstruct(sigstruct) == ()


def pairs() -> list[tuple[Path, Path]]:
    """Built and signed files that stand side by side."""
    found = []
    for path in signed_files():
        if path.name.endswith(".signed.so"):
            built = path.with_name(path.name[: -len(".signed.so")] + ".so")
            if built.exists():
                found.append((built, path))
    return found


@pytest.mark.parametrize(
    ("built", "path"), pairs(), ids=[identifier(signed) for _, signed in pairs()]
)
def test_the_payload_of_every_pair_is_equal(built: Path, path: Path) -> None:
    """Whatever became of its config; without one, this is all that can be said."""
    signed = read(path)
    skip_if_huge(signed)
    verdict = compare(
        built.read_bytes(), signed.image.data, b"<EnclaveConfiguration/>", signed.policy
    )
    states = {check.name: check.state for check in verdict.checks}
    assert states["payload"] is CheckState.PROVED
    assert states["signature"] is CheckState.PROVED


def generations(image: EnclaveImage, blocks: tuple[Block, ...]) -> Iterator[Generation]:
    """Those that the enclave shows, then those that a user could name with --sdk.

    SDK 2.4 and 2.5 leave no trace by which to tell one from the other, but for the XFRM bits
    that they know.
    """
    try:
        shown = candidate_generations(image)
    except SgxEnclavesError:
        return
    bits = {block.header.attributes_xfrm for block in blocks}
    yield from sorted(shown, key=lambda g: bits != {g.xfrm})
    for other in GENERATIONS:
        if other not in shown and other.metadata_size == shown[0].metadata_size:
            yield other


def best_verdict(built: bytes, signed: Signed, config: bytes) -> tuple[Verdict, Generation]:
    """The verdict under the first SDK that makes it *identical*, or under the one chosen."""
    first = None
    image = EnclaveImage.parse(built)
    for generation in generations(image, signed.descriptor.blocks):
        verdict = compare(built, signed.image.data, config, signed.policy, generation=generation)
        first = first or (verdict, generation)
        if verdict.outcome is Outcome.IDENTICAL:
            return verdict, generation
    if first is None:
        return compare(built, signed.image.data, config, signed.policy), GENERATIONS[0]
    return first


def expected_outcome(data: bytes) -> Outcome:
    digest = hashlib.sha256(data).hexdigest()
    for start, (outcome, _) in EXCEPTIONS.items():
        if digest.startswith(start):
            return outcome
    return Outcome.IDENTICAL


@pytest.mark.parametrize(
    ("built", "path"),
    [pair for pair in pairs() if config_of(pair[1]).exists()],
    ids=[identifier(signed) for _, signed in pairs() if config_of(signed).exists()],
)
def test_a_pair_with_its_config_is_identical(built: Path, path: Path) -> None:
    signed = read(path)
    skip_if_huge(signed)
    verdict, _ = best_verdict(built.read_bytes(), signed, config_of(path).read_bytes())
    assert verdict.outcome is expected_outcome(signed.image.data), verdict.findings


@pytest.mark.parametrize(
    "path", [p for p in signed_files() if config_of(p).exists()], ids=identifier
)
def test_a_reproduced_build_is_identical_and_grafts(path: Path) -> None:
    """Zero the metadata area: that is the build. Compare and graft give the file back."""
    signed = read(path)
    skip_if_huge(signed)
    config = config_of(path).read_bytes()
    verdict, generation = best_verdict(signed.unsigned, signed, config)
    assert verdict.outcome is expected_outcome(signed.image.data), verdict.findings
    if verdict.outcome is not Outcome.IDENTICAL:
        return
    result, _ = graft(
        signed.unsigned,
        b"".join(s.serialise() for s in extract(signed.descriptor)),
        config,
        signed.policy,
        generation=generation,
        fips=wants_fips_by_argument(generation, signed.descriptor.blocks),
    )
    assert result == signed.image.data


def test_intels_pce_is_judged_by_its_pin() -> None:
    """The proof on a vendor's enclave, with the policy that its file name asks for."""
    found = [p for p in signed_files() if p.name == "libsgx_pce.signed.so.1.25.100.1"]
    for path in found:
        signed = read(path)
        policy = policy_for(pin_for_file(str(path)))
        config = config_of(path).read_bytes()
        verdict = compare(signed.unsigned, signed.image.data, config, policy)
        assert verdict.outcome is Outcome.IDENTICAL
        assert verdict.bytes_of(Origin.UNEXPLAINED) == 0
        assert verdict.bytes_of(Origin.SIGNATURE) == 4 + 4 * 384 + 772
    if not found:
        pytest.skip("the corpus has no PCE 1.25.100.1")
