# SPDX-License-Identifier: GPL-2.0-or-later
"""How each tool of a toolchain tells its version.

Pure data and parsing. Most tools print it; headers carry theirs in a macro. The
names are those of the designated toolchain in the catalogue.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Callable, Optional

_NUMBER = r"(\d+(?:\.\d+)+[a-z]?)"


def _first_match(pattern: str) -> Callable[[str], Optional[str]]:
    compiled = re.compile(pattern, re.MULTILINE)

    def parse(text: str) -> Optional[str]:
        match = compiled.search(text[:65536])
        return match[1] if match else None

    return parse


# NAME (PACKAGE) VERSION, the GNU standards' form; a distribution may put its own
# version between the brackets
def _gnu(name: str) -> Callable[[str], Optional[str]]:
    return _first_match(rf"^{name} \([^)\n]*\) {_NUMBER}")


def _kernel_version(text: str) -> Optional[str]:
    """From LINUX_VERSION_CODE of `linux/version.h`: one byte each, the last one dropped if 0."""
    match = re.search(r"^#define LINUX_VERSION_CODE (\d{1,9})$", text, re.MULTILINE)
    if match is None:
        return None
    code = int(match[1])
    parts = [code >> 16, code >> 8 & 0xFF, code & 0xFF]
    return ".".join(str(part) for part in (parts if parts[2] else parts[:2]))


def _gmp_version(text: str) -> Optional[str]:
    """From the three macros of `gmp.h`."""
    parts = []
    for suffix in ("", "_MINOR", "_PATCHLEVEL"):
        pattern = rf"^#define __GNU_MP_VERSION{suffix}[ \t]+(\d{{1,9}})\s*$"
        match = re.search(pattern, text, re.MULTILINE)
        if match is None:
            return None
        parts.append(match[1])
    return ".".join(parts)


@dataclass(frozen=True)
class VersionProbe:
    """How to learn one tool's version.

    Attributes:
        command: what to run, or nothing if `header` is given.
        header: a file to read, absolute within the root.
        parse: text to version, or None if it is not in there.
    """

    command: tuple[str, ...]
    header: str
    parse: Callable[[str], Optional[str]]


def _program(*command: str, parse: Callable[[str], Optional[str]]) -> VersionProbe:
    return VersionProbe(command, "", parse)


PROBES: Mapping[str, VersionProbe] = {
    "autoconf": _program("autoconf", "--version", parse=_gnu("autoconf")),
    "automake": _program("automake", "--version", parse=_gnu("automake")),
    "binutils": _program(
        # Fedora leaves the brackets out
        "ld",
        "--version",
        parse=_first_match(rf"^GNU ld (?:\([^)\n]*\)|version) {_NUMBER}"),
    ),
    "bison": _program("bison", "--version", parse=_gnu("bison")),
    "cmake": _program("cmake", "--version", parse=_first_match(rf"^cmake version {_NUMBER}")),
    "file": _program("file", "--version", parse=_first_match(rf"^file-{_NUMBER}")),
    "flex": _program("flex", "--version", parse=_first_match(rf"^flex {_NUMBER}")),
    "gcc": _program("gcc", "--version", parse=_gnu(r"\S*gcc\S*")),
    "glibc": _program("ldd", "--version", parse=_gnu("ldd")),
    "gmp-dev": VersionProbe((), "/usr/include/gmp.h", _gmp_version),
    "gnum4": _program("m4", "--version", parse=_gnu("m4")),
    "gnumake": _program("make", "--version", parse=_first_match(rf"^GNU Make {_NUMBER}")),
    "libtool": _program("libtool", "--version", parse=_gnu("libtool")),
    "linux-headers": VersionProbe((), "/usr/include/linux/version.h", _kernel_version),
    "nasm": _program("nasm", "-v", parse=_first_match(rf"^NASM version {_NUMBER}")),
    "ocaml": _program("ocaml", "-version", parse=_first_match(rf"version {_NUMBER}")),
    "ocamlbuild": _program("ocamlbuild", "-version", parse=_first_match(rf"^ocamlbuild {_NUMBER}")),
    "openssl": _program("openssl", "version", parse=_first_match(rf"^OpenSSL {_NUMBER}")),
    "openssl-dev": VersionProbe(
        (),
        "/usr/include/openssl/opensslv.h",
        # one line before OpenSSL 3, a macro of its own since
        _first_match(rf'OPENSSL_VERSION_(?:TEXT\s+"OpenSSL |STR\s+"){_NUMBER}'),
    ),
    "texinfo": _program("makeinfo", "--version", parse=_gnu(r"\S*(?:makeinfo|texi2any)")),
}


def same_version(pinned: str, found: str) -> bool:
    """Whether a tool's own word agrees with the pin.

    A packager's suffix (`2.38-44` for glibc 2.38) is nothing that the tool knows.
    """
    return found == pinned or found == pinned.partition("-")[0]
