# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb `toolchain`: it says match, differs and unseen, and its exit status says no."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sgx_enclaves.cli.main import main
from sgx_enclaves.release.place import (
    LockedPackage,
    dump_lock,
    parse_lock,
)

RELEASE = "sgx-2.25-dcap-1.22"
GCC = LockedPackage("gcc", "x86_64", "9.5.0", "1", None, "0" * 32, None, "GPL-3.0-or-later", "")


def test_another_machine_is_not_the_designated_toolchain(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["toolchain", "check", RELEASE]) == 1
    said = capsys.readouterr().out
    assert "does NOT match Nix 2.9.0" in said
    assert "9.5.0, found " in said
    assert "spec RELEASE --kind toolchain" in said


def test_programs_can_read_the_check_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["toolchain", "check", RELEASE, "--json"]) == 1
    seen = json.loads(capsys.readouterr().out)
    assert seen["matches"] is False
    states = {part["name"]: part["state"] for part in seen["parts"]}
    assert states["interpreter"] in ("differs", "unseen")


@pytest.mark.parametrize("named", [False, True])
def test_the_callers_path_never_matters_and_tools_that_are_named_do(
    named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As for a build: same machine, same release, same answer."""
    fake = tmp_path / "bin/gcc"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'gcc (GCC) 9.5.0'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path.parent)
    words = ["--tools", tmp_path.name] if named else []
    assert main(["toolchain", "record", RELEASE, *words]) == 0
    tools = {tool["name"]: tool for tool in json.loads(capsys.readouterr().out)["tools"]}
    assert (tools["gcc"]["version"] == "9.5.0") == named
    assert (tools["gcc"]["path"] == str(fake)) == named


def test_a_place_without_rpm_packages_has_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sgx_enclaves.release.sandbox.Machine.packages", lambda _self: ())
    target = tmp_path / "lock.json"
    assert main(["toolchain", "lock", "-o", str(target)]) == 2
    assert "RPM knows no package" in capsys.readouterr().err
    assert not target.exists()


def test_what_is_there_is_written_down(tmp_path: Path) -> None:
    target = tmp_path / "record.json"
    assert main(["toolchain", "record", RELEASE, "-o", str(target)]) == 0
    record = json.loads(target.read_text())
    assert {tool["name"] for tool in record["tools"]} >= {"gcc", "binutils"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check"], "no release is named"),
        (["check", "sgx-9.99"], "sgx-9.99"),
        (["record", RELEASE, "--root", "/nowhere"], "/nowhere"),
        (["check", RELEASE, "--lock", "/nowhere.json"], "/nowhere.json"),
    ],
)
def test_nonsense_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["toolchain", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("sigmd5", "status"), [("0" * 32, 0), ("1" * 32, 1)])
def test_a_pinned_buildroot_is_compared(
    sigmd5: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lock = tmp_path / "lock.json"
    lock.write_text(dump_lock([GCC]))
    there = LockedPackage("gcc", "x86_64", "9.5.0", "1", None, sigmd5, None, "GPL-3.0-or-later", "")
    monkeypatch.setattr(
        "sgx_enclaves.release.sandbox.Machine.packages",
        lambda _self: (there,),
    )
    assert main(["toolchain", "check", RELEASE, "--lock", str(lock)]) == status


def test_the_lock_that_is_written_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sgx_enclaves.release.sandbox.Machine.packages",
        lambda _self: (GCC,),
    )
    target = tmp_path / "lock.json"
    assert main(["toolchain", "lock", "-o", str(target)]) == 0
    assert parse_lock(target.read_bytes(), "lock.json") == (GCC,)
