# SPDX-License-Identifier: GPL-2.0-or-later
"""Look at the toolchain of this machine or of a buildroot: tools, packages, baked-in path.

Runs the tools and reads files; decides nothing (see `toolchain`). A buildroot's
own tools are run inside of it, and its links are followed as it sees them.
"""

from __future__ import annotations

import os
import platform
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from sgx_enclaves.errors import FormatError, InputError, SgxEnclavesError
from sgx_enclaves.releases.cache import digest_file
from sgx_enclaves.releases.installed import installed_packages, rpm_is_there
from sgx_enclaves.releases.process import Runner, in_root, run_tool
from sgx_enclaves.releases.tool_versions import PROBES
from sgx_enclaves.releases.toolchain import FoundPackage, FoundTool, ToolchainRecord

_TIMEOUT = 30.0
_MAX_HEADER = 1 << 20
_MAX_PROGRAM = 64 << 20
_LINKS = 40
_FOLDERS = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")
_SCRATCH = "/tmp"  # noqa: S108 - inside the buildroot, where a folder of our own is made


def record_toolchain(
    names: Sequence[str],
    root: Optional[str] = None,
    run: Runner = run_tool,
    path: Optional[str] = None,
) -> ToolchainRecord:
    """Look at the toolchain of this machine or of a buildroot.

    Args:
        names: tools, as in the catalogue.
        root: a buildroot; None for this machine.
        run: for tests.
        path: folders to look in, as in PATH; by default the environment's on this
            machine and the usual ones in a buildroot.

    Raises:
        InputError: the root is no folder, or RPM is there and fails.
    """
    if root is not None and not Path(root).is_dir():
        raise InputError("there is no such buildroot", file=root)
    if path is None:
        path = os.environ.get("PATH", "") if root is None else ":".join(_FOLDERS)
    tools = tuple(_find(name, root, run, path) for name in names)
    packages: tuple[FoundPackage, ...] = ()
    # a machine with rpm but without its database is no RPM machine
    if rpm_is_there() and _has_rpm_database(root):
        packages = tuple(
            FoundPackage(item.locked.nevra, item.locked.sigmd5, item.payload_sha256)
            for item in installed_packages(root, run)
        )
    return ToolchainRecord(
        tools, _linked_interpreter(root, run, path), packages, platform.machine()
    )


def _has_rpm_database(root: Optional[str]) -> bool:
    return any(
        any(Path(f"{root or ''}{folder}").glob("*.sqlite"))
        or Path(f"{root or ''}{folder}/Packages").exists()
        for folder in ("/usr/lib/sysimage/rpm", "/var/lib/rpm")
    )


def resolve_in_root(root: Optional[str], path: str) -> Optional[str]:
    """Follow symbolic links as a process inside the root would; None if it leads nowhere."""
    pending = [part for part in path.split("/") if part]
    done: list[str] = []
    links = 0
    while pending:
        part = pending.pop(0)
        if part in (".", ".."):
            del done[len(done) - (part == "..") :]
            continue
        here = f"{root or ''}/{'/'.join([*done, part])}"
        try:
            target = os.readlink(here)
        except OSError:
            if not os.path.lexists(here):
                return None
            done.append(part)
            continue
        links += 1
        if links > _LINKS:
            return None
        if target.startswith("/"):
            done = []
        pending = [piece for piece in target.split("/") if piece] + pending
    return "/" + "/".join(done)


def _find(name: str, root: Optional[str], run: Runner, path: str) -> FoundTool:
    probe = PROBES.get(name)
    if probe is None:
        return FoundTool(name, None, None, None)
    places = [probe.header]
    if probe.command:
        places = [f"{folder}/{probe.command[0]}" for folder in path.split(":") if folder]
    inside = next((found for found in (_file(root, place) for place in places) if found), None)
    if inside is None:
        return FoundTool(name, None, None, None)
    outside = Path(f"{root or ''}{inside}")
    try:
        digest = digest_file(outside)
        if probe.command:
            program = next(place for place in places if _file(root, place))
            text = run(in_root(root, [program, *probe.command[1:]]), _TIMEOUT).text
        else:
            with outside.open("rb") as file:
                text = file.read(_MAX_HEADER).decode("utf-8", "replace")
    except (OSError, SgxEnclavesError):
        # a tool that cannot be read or run is there, but unseen
        return FoundTool(name, None, inside, None)
    return FoundTool(name, probe.parse(text), inside, digest)


def _file(root: Optional[str], place: str) -> Optional[str]:
    inside = resolve_in_root(root, place)
    return inside if inside is not None and os.path.isfile(f"{root or ''}{inside}") else None


def _linked_interpreter(root: Optional[str], run: Runner, path: str) -> Optional[str]:
    """Link a program of one line and read what was baked in.

    A linker's wrapper may add the path on its own, so asking the compiler is not enough.
    """
    folder: Optional[str] = None
    if root is not None:
        inner = resolve_in_root(root, _SCRATCH)
        if inner is None:
            return None
        folder = root + inner
    try:
        with tempfile.TemporaryDirectory(dir=folder) as work:
            inside = work[len(root) :] if root is not None else work
            Path(work, "a.c").write_text("int main(void) { return 0; }\n", "ascii")
            command = ["env", f"PATH={path}", "gcc", "-o", f"{inside}/a.out", f"{inside}/a.c"]
            if run(in_root(root, command), _TIMEOUT).status != 0:
                return None
            with open(f"{work}/a.out", "rb") as file:
                return read_interpreter(file.read(_MAX_PROGRAM), f"{work}/a.out")
    except (OSError, SgxEnclavesError):
        return None


def read_interpreter(data: bytes, file: str) -> Optional[str]:
    """PT_INTERP of an ELF64 little-endian file; None if it has none.

    Raises:
        FormatError: not such a file, or its headers lie outside of it.
    """
    if len(data) < 64 or data[:6] != b"\x7fELF\x02\x01":
        raise FormatError("not a 64-bit ELF file", file=file)
    (offset,) = struct.unpack_from("<Q", data, 32)
    entry_size, count = struct.unpack_from("<HH", data, 54)
    if count and (entry_size != 56 or offset + 56 * count > len(data)):
        raise FormatError("the program headers lie outside the file", file=file, offset=32)
    for number in range(count):
        at = offset + 56 * number
        kind, _flags, start, _virtual, _physical, size = struct.unpack_from("<IIQQQQ", data, at)
        if kind == 3:
            if start + size > len(data):
                raise FormatError("PT_INTERP lies outside the file", file=file, offset=at)
            return data[start : start + size].rstrip(b"\0").decode("utf-8", "replace")
    return None
