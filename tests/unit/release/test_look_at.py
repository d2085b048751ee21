# SPDX-License-Identifier: GPL-2.0-or-later
"""A toolchain is looked at in the same way in every place."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from sgx_enclaves.release.place import LockedPackage, Output, Tree
from sgx_enclaves.release.sandbox import Machine
from sgx_enclaves.release.toolchain import FoundTool, look_at

PATH = "/usr/local/bin:/usr/bin:/bin"
TOOLS = ("gcc", "binutils", "gnumake", "linux-headers", "nasm", "no-such-tool")
needs_gcc = pytest.mark.skipif(
    shutil.which("gcc") is None or shutil.which("make") is None, reason="no gcc and make here"
)


class Elsewhere:
    """This machine as a place of somebody else's."""

    isolated = True

    def __init__(self) -> None:
        self.entries = 0

    def ask(self, commands: Sequence[Sequence[str]], timeout: float) -> list[Output]:
        self.entries += 1
        outputs = []
        for command in commands:
            done = subprocess.run(
                list(command),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                check=False,
            )
            outputs.append(Output(done.returncode, done.stdout.decode("utf-8", "replace")))
        return outputs

    def open(self, scratch: Path, root: str) -> Tree:
        raise AssertionError(scratch, root)

    def packages(self) -> tuple[LockedPackage, ...]:
        return (LockedPackage("gcc", "x86_64", "9", "1", None, "ab", None, "GPL", "", "cd"),)


@needs_gcc
def test_every_place_is_looked_at_in_the_same_way() -> None:
    inside = Elsewhere()
    record = look_at(TOOLS, PATH, inside)
    outside = look_at(TOOLS, PATH, Machine())
    assert record.tools == outside.tools
    assert record.interpreter == outside.interpreter
    assert record.interpreter is not None
    assert record.machine == outside.machine
    assert [package.nevra for package in record.packages] == ["gcc-9-1.x86_64"]
    assert inside.entries == 3


@needs_gcc
def test_the_first_folder_wins_and_links_are_followed(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    (second / "make").write_text("#!/bin/sh\necho GNU Make 1.2\n")
    (first / "real").write_text("#!/bin/sh\necho GNU Make 9.8.7\n")
    for name in (second / "make", first / "real"):
        name.chmod(0o755)
    (first / "make").symlink_to("real")
    (first / "gcc").mkdir()
    record = look_at(("gnumake", "gcc"), f"{first}:{second}:/bin", Elsewhere())
    make, gcc = record.tools[:2]
    assert (make.version, make.path) == ("9.8.7", str(first / "real"))
    assert gcc.path != str(first / "gcc")


def test_a_header_is_looked_for_where_the_makers_tools_lie(tmp_path: Path) -> None:
    header = tmp_path / "headers" / "include" / "linux" / "version.h"
    header.parent.mkdir(parents=True)
    header.write_text("#define LINUX_VERSION_CODE 332032\n")
    prefixes = [str(tmp_path / "none"), str(tmp_path / "headers")]
    found = look_at(("linux-headers",), PATH, Elsewhere(), prefixes).tools[0]
    assert (found.version, found.path) == ("5.17", os.path.realpath(header))
    usual = look_at(("linux-headers",), PATH, Elsewhere(), prefixes[:1]).tools[0]
    assert usual.path is None or usual.path.startswith("/usr/include/")


def test_what_is_not_there_is_missing(tmp_path: Path) -> None:
    record = look_at(("gcc",), str(tmp_path / "empty"), Elsewhere())
    assert record.tools == (FoundTool("gcc", None, None, None),)
    assert record.interpreter is None


def test_a_tool_that_says_nothing_is_there_but_unseen(tmp_path: Path) -> None:
    tool = tmp_path / "gcc"
    tool.write_text("#!/bin/sh\nexit 1\n")
    tool.chmod(0o755)
    record = look_at(("gcc",), str(tmp_path), Elsewhere())
    (found,) = record.tools
    assert (found.version, found.path) == (None, os.path.realpath(tool))


@needs_gcc
@pytest.mark.parametrize("kind", ["none", "text", "link"])
def test_an_interpreter_that_does_not_run_is_not_there(tmp_path: Path, kind: str) -> None:
    """A configure script that runs what it links would fail in the middle of a build."""
    there = look_at(("gcc",), PATH, Machine()).interpreter
    assert there is not None
    loader, gcc = tmp_path / "ld.so", tmp_path / "gcc"
    gcc.write_text(f'#!/bin/sh\nexec {shutil.which("gcc")} -Wl,-dynamic-linker,{loader} "$@"\n')
    gcc.chmod(0o755)
    if kind == "text":
        loader.write_text("no program")
        loader.chmod(0o755)
    elif kind == "link":
        loader.symlink_to(there)
    record = look_at(("gcc",), f"{tmp_path}:{PATH}", Machine())
    assert record.interpreter == str(loader)
    assert ("interpreter" in [tool.name for tool in record.tools]) == (kind == "link")
