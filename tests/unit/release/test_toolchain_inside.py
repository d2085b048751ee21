# SPDX-License-Identifier: GPL-2.0-or-later
"""Looking at a toolchain from inside gives what looking from outside gives."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from sgx_enclaves.errors import InputError
from sgx_enclaves.release.sandbox import Output
from sgx_enclaves.release.toolchain import (
    FoundTool,
    InstalledPackage,
    LockedPackage,
    record_inside,
    record_toolchain,
)

PATH = "/usr/local/bin:/usr/bin:/bin"
TOOLS = ("gcc", "binutils", "gnumake", "linux-headers", "nasm", "no-such-tool")
needs_gcc = pytest.mark.skipif(
    shutil.which("gcc") is None or shutil.which("make") is None, reason="no gcc and make here"
)


class Folder:
    """This machine as the inside, with a folder of ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries = 0

    def run_all(self, commands: Sequence[Sequence[str]], timeout: float) -> list[Output]:
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

    def put(self, name: str, data: bytes) -> str:
        (self.folder / name).write_bytes(data)
        return str(self.folder / name)

    def get(self, name: str, limit: int) -> bytes:
        path = self.folder / name
        if not path.is_file() or path.stat().st_size > limit:
            raise InputError("is not there", file=name)
        return path.read_bytes()

    def packages(self) -> tuple[InstalledPackage, ...]:
        locked = LockedPackage("gcc", "x86_64", "9", "1", None, "ab", None, "GPL", "")
        return (InstalledPackage(locked, "cd"),)


@needs_gcc
def test_it_sees_what_can_be_seen_from_outside(tmp_path: Path) -> None:
    inside = Folder(tmp_path)
    record = record_inside(TOOLS, PATH, inside)
    outside = record_toolchain(TOOLS, path=PATH)
    assert record.tools == outside.tools
    assert record.interpreter == outside.interpreter
    assert record.interpreter is not None
    assert record.machine == outside.machine
    assert [package.nevra for package in record.packages] == ["gcc-9-1.x86_64"]
    assert inside.entries == 2


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
    record = record_inside(("gnumake", "gcc"), f"{first}:{second}:/bin", Folder(tmp_path))
    make, gcc = record.tools
    assert (make.version, make.path) == ("9.8.7", str(first / "real"))
    assert gcc.path != str(first / "gcc")


def test_what_is_not_there_is_missing(tmp_path: Path) -> None:
    record = record_inside(("gcc",), str(tmp_path / "empty"), Folder(tmp_path))
    assert record.tools == (FoundTool("gcc", None, None, None),)
    assert record.interpreter is None


def test_a_tool_that_says_nothing_is_there_but_unseen(tmp_path: Path) -> None:
    tool = tmp_path / "gcc"
    tool.write_text("#!/bin/sh\nexit 1\n")
    tool.chmod(0o755)
    record = record_inside(("gcc",), str(tmp_path), Folder(tmp_path))
    (found,) = record.tools
    assert (found.version, found.path) == (None, os.path.realpath(tool))


@needs_gcc
def test_a_program_of_an_earlier_look_is_not_taken_for_this_one(tmp_path: Path) -> None:
    record_inside((), PATH, Folder(tmp_path))
    assert (tmp_path / "a.out").is_file()
    assert record_inside((), "/nowhere", Folder(tmp_path)).interpreter is None
