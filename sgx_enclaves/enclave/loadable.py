# SPDX-License-Identifier: GPL-2.0-or-later
"""What the SDK's signing tool refuses of an image, and why: no loader of the SDK takes it.

Source: ElfParser::run_parser in psw/urts/parser/elfparser.cpp, which tool and loader
share, and the checks of sdk/sign_tool/SignTool/sign_tool.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator

from sgx_enclaves.enclave.elf import DT_REL, DT_TEXTREL, SHF_EXECINSTR, EnclaveImage
from sgx_enclaves.errors import SgxEnclavesError, SigningError
from sgx_enclaves.plain import record

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
