# SPDX-License-Identifier: GPL-2.0-or-later
"""What an unsigned enclave is: which SDK's signing tool to follow, and whether any loader takes it.

The enclave decides: by the size of its metadata area, its version word and the size of
its `g_global_data`. What that leaves open nobody else may decide in a comparison.

Source of what no loader takes: ElfParser::run_parser in psw/urts/parser/elfparser.cpp, which
tool and loader share, and the checks of sdk/sign_tool/SignTool/sign_tool.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Optional

from sgx_enclaves.enclave.elf import DT_REL, DT_TEXTREL, EnclaveImage
from sgx_enclaves.enclave.elf_headers import SHF_EXECINSTR
from sgx_enclaves.enclave.metadata import Block, Version
from sgx_enclaves.enclave.regenerate import global_data_size
from sgx_enclaves.enclave.sdk import GENERATIONS, Generation, generation_named
from sgx_enclaves.errors import FormatError, SgxEnclavesError, SigningError, UnsupportedError
from sgx_enclaves.plain import record

# Stands between an unknown SDK and the known one that is followed, in a generation's name.
_AS = " as "
# A version word counts up from 2.9.1; what is far beyond is no version word.
_LAST_MAJOR = 9


def sdk_version_word(image: EnclaveImage) -> int:
    """The first 8 bytes of g_global_data in the file: the SDK's version word since 2.9.1.

    Raises:
        FormatError: there is no g_global_data.
    """
    offset, _ = image.global_data
    return 0 if offset is None else int.from_bytes(image.data[offset : offset + 8], "little")


def release_of(word: int) -> str:
    """The release that a version word names, as `2.25` or `2.26.1`; a hundredth is a revision."""
    major, minor, revision = word >> 32, word >> 16 & 0xFFFF, word & 0xFFFF
    last = "" if revision in (0, 100) else f".{revision - 100 if revision > 100 else revision}"
    return f"{major}.{minor}{last}"


def is_newer_than_known(word: int) -> bool:
    """Whether a version word is that of an SDK after the newest known one."""
    return max(GENERATIONS[0].version_prefixes) < word >> 16 and word >> 32 <= _LAST_MAJOR


def candidate_generations(
    image: EnclaveImage, chosen: Optional[Generation] = None
) -> tuple[Generation, ...]:
    """The generations that can have made an unsigned enclave, the newest first.

    Args:
        image: the unsigned enclave.
        chosen: the one that the user names; of an SDK newer than known, what it is taken for.

    Raises:
        UnsupportedError: no known SDK made such an enclave.
        FormatError: it has no g_global_data.
    """
    word = sdk_version_word(image)
    size = image.global_data[1]
    if is_newer_than_known(word):
        named = [_taken_for(chosen or GENERATIONS[0], release_of(word))]
    elif chosen is not None:
        return (chosen,)
    else:
        checked = (g for g in GENERATIONS if g.checks_sdk_version)
        named = [g for g in checked if word >> 16 in g.version_prefixes]
    old = [g for g in GENERATIONS if not g.checks_sdk_version]

    def fits(generation: Generation) -> bool:
        is_of_size = not size or global_data_size(generation) == size
        return is_of_size and generation.metadata_size == image.descriptor_size

    found = [g for g in named if fits(g)] or [g for g in old if fits(g)]
    if not found:
        raise UnsupportedError(
            "no known SDK makes such an enclave",
            file=image.name,
            found=f"a metadata area of {image.descriptor_size} bytes, version word 0x{word:x}, "
            f"g_global_data of {size} bytes",
            hint="update this program, or name the SDK to follow with --sdk",
        )
    return tuple(found)


def detect_generation(image: EnclaveImage, vendor_blocks: tuple[Block, ...] = ()) -> Generation:
    """The likeliest generation; for signing and measuring, where nobody is deceived by it.

    Args:
        image: the unsigned enclave.
        vendor_blocks: a signed file's blocks break a tie.

    Raises:
        UnsupportedError, FormatError: see `candidate_generations`.
    """
    candidates = list(candidate_generations(image))
    if vendor_blocks:
        versions = {Version(b.version.major % 10, b.version.minor) for b in vendor_blocks}
        candidates = [g for g in candidates if versions <= g.versions] or candidates
        # SDK 2.4 and 2.5 differ in the XFRM bits that they know, and in nothing else.
        told = {b.header.attributes_xfrm for b in vendor_blocks}
        candidates = [g for g in candidates if told == {g.xfrm}] or candidates
    return candidates[0]


def _taken_for(known: Generation, release: str) -> Generation:
    """A known generation, for an enclave whose version word is a newer SDK's."""
    name = f"{release}{_AS}{known.name}"
    return replace(known, name=name, releases=(release,), follows=known.name)


def generation_called(name: str) -> Generation:
    """The generation by the name that it has in a verdict.

    Raises:
        UnsupportedError: no such SDK is known.
    """
    release, _, known = name.partition(_AS)
    if not known:
        return generation_named(name)
    return _taken_for(generation_named(known), release)


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


_STB_WEAK = 2
_SHN_UNDEF = 0
# NONE, 64, GLOB_DAT, JUMP_SLOT, RELATIVE, DTPMOD64, DTPOFF64, TPOFF64: all that the SDK relocates.
_KNOWN_RELOCATIONS = frozenset({0, 1, 6, 7, 8, 16, 17, 18})
_RELOCATION_NAMES = {2: "PC32", 5: "COPY", 10: "32", 36: "TLSDESC", 37: "IRELATIVE"}
_MOST = 4


@record
class Obstacle:
    """Why an image is refused.

    Attributes:
        message: what is wrong with it.
        found: what was found.
        hint: the next step.
        option: what makes the SDK's tool sign it all the same; empty if nothing does.
    """

    message: str
    found: str
    hint: str
    option: str = ""


def obstacles(image: EnclaveImage) -> Iterator[Obstacle]:
    """All reasons why the SDK's tool would not sign the image."""
    if not image.dynamic:
        yield Obstacle("it has no dynamic table", "no PT_DYNAMIC", "link it as a shared object")
        return
    names = [
        name
        for name, symbol in image.named_symbols
        if symbol.st_shndx == _SHN_UNDEF and symbol.st_info >> 4 != _STB_WEAK
    ]
    if names:
        yield Obstacle(
            "symbols are undefined, and nothing defines them when an enclave is loaded",
            _some(names),
            "link with the library that has them, and with -Wl,--no-undefined",
        )
    if image.dynamic.get(DT_REL):
        yield Obstacle("its relocations are of the kind REL", "DT_REL", "link for x86-64 only")
    kinds = {kind for _, kind in image.relocations()} - _KNOWN_RELOCATIONS
    if kinds:
        yield Obstacle(
            "it has relocations that the SDK does not know",
            _some([_RELOCATION_NAMES.get(kind, f"type {kind}") for kind in sorted(kinds)]),
            "no ifunc (IRELATIVE), no -mtls-dialect=gnu2 (TLSDESC), and code built with -fPIC",
        )
    if image.section(".ctors") is not None:
        yield Obstacle("it has a section .ctors, which nobody runs", ".ctors", "use .init_array")
    if image.tls_segment is not None and not image.tls_segment.p_flags & 7:
        yield Obstacle("PT_TLS has no permission", "flags 0", "link with the SDK's linker script")
    if image.section(".init") is not None:
        yield Obstacle(
            "it has a section .init, which no SDK runs",
            ".init",
            "use .init_array, or sign with --ignore-init-section on purpose",
            "--ignore-init-section",
        )
    code = [s.header for s in image.sections if s.header.sh_flags & SHF_EXECINSTR]
    if DT_TEXTREL in image.dynamic or any(
        header.sh_addr <= address < header.sh_addr + header.sh_size
        for address, kind in image.relocations()
        if kind
        for header in code
    ):
        yield Obstacle(
            "code is relocated, so its pages must be writable (DT_TEXTREL)",
            "text relocations",
            "build all of it with -fPIC, or sign with --ignore-text-relocations on purpose",
            "--ignore-text-relocations",
        )


def require_loadable(image: EnclaveImage, ignored: frozenset[str] = frozenset()) -> None:
    """Refuse to sign what the SDK's tool refuses.

    Args:
        image: the unsigned enclave.
        ignored: the options, see `Obstacle`, of what its user accepts.

    Raises:
        SigningError: the first reason.
        FormatError: a table that does not fit the file.
    """
    for obstacle in obstacles(image):
        if obstacle.option not in ignored:
            raise SigningError(
                f"no loader of the SDK takes this enclave: {obstacle.message}",
                file=image.name,
                found=obstacle.found,
                hint=obstacle.hint,
            )


def not_loadable(image: EnclaveImage) -> list[Obstacle]:
    """The obstacles that no option lifts; none of what cannot be read."""
    try:
        return [o for o in obstacles(image) if not o.option]
    except SgxEnclavesError:
        return []


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more
