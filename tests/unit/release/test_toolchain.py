# SPDX-License-Identifier: GPL-2.0-or-later
"""Toolchains: versions as tools print them, comparison, locks of buildroots."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from hypothesis import given, strategies as st

from sgx_enclaves.catalogue.reader import OWN_FOLDER, load_catalogue
from sgx_enclaves.catalogue.records import Toolchain, ToolPin
from sgx_enclaves.errors import (
    FormatError,
    InputError,
    SgxEnclavesError,
    UnsupportedError,
)
from sgx_enclaves.release.place import (
    STANDARD_PATH,
    LockedPackage,
    Output,
    dump_lock,
    installed_packages,
    parse_lock,
    run_tool,
)
from sgx_enclaves.release.sandbox import Machine
from sgx_enclaves.release.toolchain import (
    PROBES,
    FoundTool,
    PartState,
    ToolchainKind,
    ToolchainRecord,
    all_match,
    check_lock,
    check_toolchain,
    look_at,
    same_version,
    search_path,
    version_in,
)


@pytest.mark.parametrize(
    ("tool", "text", "version"),
    [
        ("gcc", "gcc (GCC) 9.5.0\nCopyright (C) 2019 Free Software\n", "9.5.0"),
        ("gcc", "gcc (Debian 12.2.0-14+deb12u1) 12.2.0\n", "12.2.0"),
        ("gcc", "gcc (GCC) 14.2.1 20240912 (Red Hat 14.2.1-3)\n", "14.2.1"),
        ("gcc", "x86_64-linux-gnu-gcc-12 (Debian 12.2.0-14) 12.2.0\n", "12.2.0"),
        ("gcc", "clang version 18.1.8\n", None),
        ("binutils", "GNU ld (GNU Binutils) 2.38\nCopyright\n", "2.38"),
        ("binutils", "GNU ld (GNU Binutils for Debian) 2.40\n", "2.40"),
        ("binutils", "GNU ld version 2.35.2-42.el9\n", "2.35.2"),
        ("binutils", "LLD 17.0.6 (compatible with GNU linkers)\n", None),
        ("glibc", "ldd (Debian GLIBC 2.36-9+deb12u14) 2.36\n", "2.36"),
        ("glibc", "ldd (GNU libc) 2.38\n", "2.38"),
        ("nasm", "NASM version 2.16.01 compiled on Jan  1 1980\n", "2.16.01"),
        ("cmake", "cmake version 3.22.3\n\nCMake suite\n", "3.22.3"),
        ("ocaml", "The OCaml toplevel, version 4.13.1\n", "4.13.1"),
        ("ocamlbuild", "ocamlbuild 0.12.0\n", "0.12.0"),
        ("autoconf", "autoconf (GNU Autoconf) 2.69\n", "2.69"),
        ("automake", "automake (GNU automake) 1.16.5\n", "1.16.5"),
        ("libtool", "libtool (GNU libtool) 2.4.7\nWritten by\n", "2.4.7"),
        ("gnumake", "GNU Make 4.2.1\nBuilt for x86_64\n", "4.2.1"),
        ("gnum4", "m4 (GNU M4) 1.4.19\n", "1.4.19"),
        ("file", "file-5.41\nmagic file from /etc/magic\n", "5.41"),
        ("openssl", "OpenSSL 3.1.4 24 Oct 2023 (Library: OpenSSL 3.1.4)\n", "3.1.4"),
        ("openssl", "OpenSSL 1.1.1o  3 May 2022\n", "1.1.1o"),
        ("openssl-dev", '# define OPENSSL_VERSION_TEXT "OpenSSL 1.1.1o  3 May 2022"\n', "1.1.1o"),
        ("openssl-dev", '# define OPENSSL_VERSION_STR "3.1.4"\n', "3.1.4"),
        ("linux-headers", "#define LINUX_VERSION_CODE 332032\n", "5.17"),
        ("linux-headers", "#define LINUX_VERSION_CODE 267024\n", "4.19.16"),
        ("linux-headers", "#define LINUX_VERSION_CODE none\n", None),
        (
            "gmp-dev",
            "#define __GNU_MP_VERSION            6\n#define __GNU_MP_VERSION_MINOR      2\n"
            "#define __GNU_MP_VERSION_PATCHLEVEL 1\n",
            "6.2.1",
        ),
        ("gmp-dev", "#define __GNU_MP_VERSION 6\n", None),
        ("texinfo", "texi2any (GNU texinfo) 6.5\n", "6.5"),
        ("bison", "bison (GNU Bison) 3.5.4\n", "3.5.4"),
        ("flex", "flex 2.6.4\n", "2.6.4"),
        ("nasm", "", None),
    ],
)
def test_versions_as_tools_print_them(tool: str, text: str, version: Optional[str]) -> None:
    assert version_in(tool, text) == version


@given(st.sampled_from(sorted(PROBES)), st.text(max_size=200))
def test_any_output_gives_a_version_or_none(tool: str, text: str) -> None:
    version = version_in(tool, text)
    assert version is None or version[0].isdigit()


def test_packagers_suffix_is_not_the_tools_version() -> None:
    assert same_version("2.38-44", "2.38")
    assert same_version("9.5.0", "9.5.0")
    assert not same_version("2.38-44", "2.36")
    assert not same_version("9.5.0", "9.5")
    assert not same_version("2.38", "2.38-44")


def test_tools_of_the_catalogue_can_be_probed() -> None:
    unseen = {
        tool.name
        for release in load_catalogue([OWN_FOLDER]).releases.values()
        if release.toolchain is not None
        for tool in release.toolchain.tools
        if tool.name not in PROBES
    }
    assert unseen == set()


PINNED = Toolchain(
    name="Nix 2.9.0",
    tools=(ToolPin("gcc", "9.5.0", None), ToolPin("glibc", "2.38-44", None)),
    interpreter="/nix/ld.so",
    environment={},
    umask=0o022,
)


def found(name: str, version: Optional[str], path: Optional[str] = "/usr/bin/x") -> FoundTool:
    return FoundTool(name, version, path, None)


LOADER = found("interpreter", None, "/nix/ld.so")
TOOLS = (found("gcc", "9.5.0"), found("glibc", "2.38"), LOADER)
RIGHT = ToolchainRecord(TOOLS, "/nix/ld.so", (), "x86_64")


def states(record: ToolchainRecord, pinned: Toolchain = PINNED) -> list[PartState]:
    return [part.state for part in check_toolchain(pinned, record)]


def test_designated_toolchain_matches() -> None:
    assert all_match(check_toolchain(PINNED, RIGHT))


@pytest.mark.parametrize(
    ("record", "pinned", "expected"),
    [
        (replace(RIGHT, tools=(found("gcc", "12.2.0"), *TOOLS[1:])), PINNED, PartState.DIFFERS),
        (replace(RIGHT, tools=(found("gcc", None, None), *TOOLS[1:])), PINNED, PartState.MISSING),
        (replace(RIGHT, tools=(found("gcc", None), *TOOLS[1:])), PINNED, PartState.UNSEEN),
        (replace(RIGHT, tools=TOOLS[1:]), PINNED, PartState.UNSEEN),
        # the path is baked in, but nothing lies there
        (replace(RIGHT, tools=TOOLS[:2]), PINNED, PartState.MISSING),
        (replace(RIGHT, interpreter="/lib64/ld.so"), PINNED, PartState.DIFFERS),
        (replace(RIGHT, interpreter=None), PINNED, PartState.UNSEEN),
        (RIGHT, replace(PINNED, interpreter=None), PartState.UNSEEN),
    ],
)
def test_what_differs_or_is_unseen_never_matches(
    record: ToolchainRecord, pinned: Toolchain, expected: PartState
) -> None:
    assert not all_match(check_toolchain(pinned, record))
    assert sorted(states(record, pinned), key=lambda state: state.value).count(expected) == 1
    assert states(record, pinned).count(PartState.MATCH) == 2


def test_a_tool_that_leaves_no_trace_may_be_of_another_version_but_not_missing() -> None:
    loose = replace(PINNED, tools=(PINNED.tools[0], replace(PINNED.tools[1], exact=False)))
    other = replace(RIGHT, tools=(TOOLS[0], found("glibc", "2.41"), LOADER))
    assert states(other, loose) == [PartState.MATCH, PartState.OTHER, PartState.MATCH]
    assert all_match(check_toolchain(loose, other))
    assert not all_match(check_toolchain(PINNED, other))
    for tool in (found("glibc", None, None), found("glibc", None)):
        record = replace(RIGHT, tools=(TOOLS[0], tool, LOADER))
        assert not all_match(check_toolchain(loose, record))
    # the compiler's version always counts
    compiler = replace(RIGHT, tools=(found("gcc", "9.4.0"), *TOOLS[1:]))
    assert not all_match(check_toolchain(loose, compiler))


def test_packaged_tools_come_before_the_distributions_own() -> None:
    packaged = replace(PINNED, prefix="/usr/lib/sgx-toolchain/x")
    path = search_path(packaged, ToolchainKind.DESIGNATED).split(":")
    assert path == ["/usr/lib/sgx-toolchain/x/bin", *STANDARD_PATH.split(":")]
    assert search_path(packaged, ToolchainKind.HOST) == STANDARD_PATH


def test_record_digest_distinguishes_toolchains() -> None:
    assert RIGHT.digest() == replace(RIGHT).digest()
    assert RIGHT.digest() != replace(RIGHT, interpreter="/x").digest()
    assert json.loads(json.dumps(RIGHT.as_dict()))["schema"] == 1


@pytest.fixture(scope="module")
def here() -> ToolchainRecord:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc here")
    return look_at(["gcc", "binutils", "no-such-tool", "linux-headers"], STANDARD_PATH, Machine())


def test_this_machines_toolchain_is_recorded(here: ToolchainRecord) -> None:
    gcc, _ld, nothing, _headers = here.tools[:4]
    said = subprocess.run(
        ["gcc", "-dumpfullversion"], capture_output=True, text=True, timeout=30, check=True
    )
    assert gcc.version == said.stdout.strip()
    assert gcc.path is not None
    assert gcc.sha256 is not None
    assert os.path.isfile(gcc.path)
    assert not os.path.islink(gcc.path)
    assert nothing == FoundTool("no-such-tool", None, None, None)
    assert here.interpreter is not None
    assert os.path.exists(here.interpreter)


def test_what_really_compiles_is_recorded(here: ToolchainRecord) -> None:
    behind = {tool.name: tool for tool in here.tools[4:]}
    assert {"cc1", "as", "ld", "collect2", "interpreter"} <= behind.keys()
    for tool in behind.values():
        assert tool.path is not None
        assert tool.sha256 == hashlib.sha256(Path(tool.path).read_bytes()).hexdigest()
    assert behind["cc1"].path != here.tools[0].path


def test_a_changed_compiler_behind_the_same_driver_is_another_toolchain(tmp_path: Path) -> None:
    cc1, driver = tmp_path / "cc1", tmp_path / "gcc"
    driver.write_text(f"#!/bin/sh\necho {cc1}\n")
    driver.chmod(0o755)
    digests = set()
    for text in ("one", "other"):
        cc1.write_text(text)
        record = look_at(["gcc"], f"{tmp_path}:/usr/bin", Machine())
        assert [tool.path for tool in record.tools if tool.name == "cc1"] == [str(cc1)]
        digests.add(record.digest())
    assert len(digests) == 2


def test_a_root_directory_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such buildroot"):
        Machine(str(tmp_path / "none"))


def test_a_root_directory_in_which_nothing_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no program can be run"):
        look_at(["gcc"], STANDARD_PATH, Machine(str(tmp_path)))


LOCK: dict[str, Any] = {
    "version": "1.1.0",
    "buildroot": {
        "rpms": [
            {
                "name": "gcc",
                "arch": "x86_64",
                "version": "9.5.0",
                "release": "1.fc40",
                "epoch": "1",
                "sigmd5": "0" * 32,
                "signature": "fd431d51",
                "license": "GPL-3.0-or-later",
                "url": "https://example.org/gcc.rpm",
            },
            {
                "name": "bash",
                "arch": "x86_64",
                "version": "5.2",
                "release": "1.fc40",
                "epoch": None,
                "sigmd5": "1" * 32,
                "signature": None,
                "license": "GPL-3.0-or-later",
                "url": "https://example.org/bash.rpm",
            },
        ]
    },
    "bootstrap": {
        "image_digest": "sha256:aa",
        "pull_digest": "sha256:bb",
        "architecture": "amd64",
        "id": "cc",
    },
    "config": {"dist": ".fc40", "legal_host_arches": ["x86_64"]},
}


def lock_bytes(data: object = LOCK) -> bytes:
    return json.dumps(data).encode()


def test_lock_is_read_and_written_as_mock_does() -> None:
    lock = parse_lock(lock_bytes(), "lock")
    assert [package.nevra for package in lock] == [
        "bash-5.2-1.fc40.x86_64",
        "gcc-1:9.5.0-1.fc40.x86_64",
    ]
    written = dump_lock(lock)
    assert written == json.dumps(json.loads(written), indent=4, sort_keys=True) + "\n"
    again = json.loads(written)
    assert again["buildroot"]["rpms"] == list(reversed(LOCK["buildroot"]["rpms"]))
    assert (again["version"], again["config"]) == ("1.1.0", {})
    options = {"target_arch": "x86_64"}
    assert json.loads(dump_lock(lock, **options))["config"] == options
    assert parse_lock(written.encode(), "again") == lock


def test_lock_without_a_bootstrap_image() -> None:
    data = copy.deepcopy(LOCK)
    data["bootstrap"] = {}  # as mock writes it when podman fails
    assert parse_lock(lock_bytes(data), "lock") == parse_lock(lock_bytes(), "lock")


def edited(edit: Callable[[Any], object]) -> bytes:
    data = copy.deepcopy(LOCK)
    edit(data)
    return lock_bytes(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[" * 100_000, "nested too deep"),
        (b"[]", "version"),
        (edited(lambda d: d.pop("version")), "version"),
        (edited(lambda d: d.update(version=1)), "version"),
        (edited(lambda d: d.pop("buildroot")), "buildroot"),
        (edited(lambda d: d.pop("config")), "config"),
        (edited(lambda d: d.update(more=1)), "found more"),
        (edited(lambda d: d["buildroot"].update(rpms={})), "buildroot.rpms does not fit"),
        (edited(lambda d: d["buildroot"]["rpms"].append("gcc")), "rpms[2] does not fit"),
        (
            edited(lambda d: d["buildroot"]["rpms"][0].pop("sigmd5")),
            "rpms[0].sigmd5 does not fit",
        ),
        (
            edited(lambda d: d["buildroot"]["rpms"][0].update(name=None)),
            "rpms[0].name does not",
        ),
        (edited(lambda d: d["buildroot"]["rpms"][0].update(epoch=1)), "rpms[0].epoch does not fit"),
        (edited(lambda d: d["buildroot"]["rpms"][0].update(x="y")), "found x"),
        (edited(lambda d: d["buildroot"]["rpms"].append(d["buildroot"]["rpms"][0])), "twice"),
        (edited(lambda d: d["bootstrap"].update(x="y")), "bootstrap does not fit"),
        (edited(lambda d: d["bootstrap"].update(id=5)), "bootstrap.id"),
    ],
)
def test_locks_that_are_none(data: bytes, words: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_lock(data, "lock.json")
    assert words in str(caught.value)
    assert "lock.json" in str(caught.value)


def test_other_versions_of_the_lock() -> None:
    with pytest.raises(UnsupportedError, match="major version"):
        parse_lock(edited(lambda d: d.update(version="2.0.0")), "lock")

    def newer(data: Any) -> None:
        data.update(version="1.2.0", more=1)
        data["buildroot"]["rpms"][0]["extra"] = True

    assert len(parse_lock(edited(newer), "lock")) == 2


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: json.dumps(text).encode()))
def test_any_bytes_are_refused_as_a_lock(data: bytes) -> None:
    with pytest.raises(SgxEnclavesError):
        parse_lock(data, "lock")


def package(name: str, **more: Any) -> LockedPackage:
    values: dict[str, Any] = {
        "arch": "x86_64",
        "version": "1",
        "release": "1",
        "epoch": None,
        "sigmd5": name * 4,
        "signature": None,
        "license": "MIT",
        "url": "",
    }
    return LockedPackage(name=name, **{**values, **more})


def test_lock_comparison_distinguishes_the_four_cases() -> None:
    pinned = [package("same"), package("gone"), package("built"), package("signed")]
    installed = [
        package("same", url="elsewhere"),
        package("new"),
        package("built", sigmd5="other"),
        package("signed", signature="fd431d51"),
    ]
    check = check_lock(pinned, installed)
    by_name = {part.name.partition("-")[0]: part.state for part in check}
    assert by_name == {
        "same": PartState.MATCH,
        "gone": PartState.MISSING,
        "built": PartState.DIFFERS,
        "signed": PartState.MATCH,
        "new": PartState.DIFFERS,
    }
    assert not all_match(check)
    assert all_match(check_lock(pinned, pinned))
    assert not all_match(check_lock([], []))


RPM_TEXT = (
    "gpg-pubkey\t(none)\t105ef944\t65ca83d1\t(none)\t(none)\t(none)\tpubkey\t(none)\n"
    "bash\tx86_64\t5.1.8\t9.el9\t(none)\t57e93b1739cc3512f9f29dcaa8a38055\t"
    "RSA/SHA256, Sun Mar 31 12:41:20 2024, Key ID 199e2f91fd431d51\tGPLv3+\t" + "ab" * 32 + "\n"
)


def rpm_says(monkeypatch: pytest.MonkeyPatch, status: int, text: str) -> None:
    answer = Output(status, text)
    monkeypatch.setattr("sgx_enclaves.release.place.run_tool", lambda *_: answer)


def test_rpms_answer_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    rpm_says(monkeypatch, 0, RPM_TEXT)
    urls = {"bash-5.1.8-9.el9.x86_64": "https://example.org/bash.rpm"}
    (bash,) = installed_packages(urls=urls)
    assert bash.signature == "fd431d51"
    assert bash.epoch is None
    assert bash.url == "https://example.org/bash.rpm"
    assert bash.payload_sha256 == "ab" * 32
    rpm_says(monkeypatch, 0, "bash\tx86_64\n")
    with pytest.raises(FormatError, match="line 1"):
        installed_packages()
    rpm_says(monkeypatch, 1, "error: cannot open Packages database\n")
    with pytest.raises(InputError, match="status 1"):
        installed_packages("/nowhere")


SPEC = """
Name: locked
Version: 1.0
Release: 2
Epoch: 3
Summary: For a test
License: MIT
BuildArch: noarch
%description
For a test.
%files
"""


def test_real_rpm_database_is_read(tmp_path: Path) -> None:
    if shutil.which("rpmbuild") is None:
        pytest.skip("rpmbuild is not installed")
    if os.geteuid() != 0:
        pytest.skip("rpm --root needs root")
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "a.spec").write_text(SPEC)
    for command in (
        ["rpmbuild", "-bb", "--define", f"_topdir {tmp_path}/rpm", f"{tmp_path}/a.spec"],
        ["rpm", "--root", str(root), "--initdb"],
        [
            "rpm", "--root", str(root), "-i", "--nodeps", "--nosignature",
            f"{tmp_path}/rpm/RPMS/noarch/locked-1.0-2.noarch.rpm",
        ],
    ):  # fmt: skip
        subprocess.run(command, capture_output=True, timeout=60, check=True)
    (locked,) = installed_packages(str(root))
    assert locked.nevra == "locked-3:1.0-2.noarch"
    assert len(locked.sigmd5) == 32
    assert locked.payload_sha256 is not None
    assert len(locked.payload_sha256) == 64
    lock = parse_lock(dump_lock([locked]).encode(), "lock")
    assert all_match(check_lock(lock, [locked]))


def test_output_is_read_in_a_plain_locale() -> None:
    output = run_tool(["sh", "-c", "echo $LC_ALL; echo problem >&2; exit 3"], 10)
    assert output == Output(3, "C\nproblem\n")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("sleep 30", "did not end within"),
        ("sleep 30 & echo started; wait", "did not end within"),
        ("while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyy; done", "printed more than"),
    ],
)
def test_tools_that_never_end_are_ended(
    script: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgx_enclaves.release.place.MAX_OUTPUT", 20_000)
    begun = time.monotonic()
    output = run_tool(["sh", "-c", script], 0.5)
    assert output.status == 127
    assert words in output.text
    assert time.monotonic() - begun < 5


def test_programs_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    output = run_tool([str(tmp_path / "none")], 1)
    assert output.status == 127
    assert "cannot be started: No such file" in output.text


@pytest.mark.parametrize(("user", "first"), [(0, []), (1000, ["unshare", "--map-root-user"])])
def test_commands_enter_the_root(
    user: int, first: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Sequence[str]] = []
    monkeypatch.setattr("os.geteuid", lambda: user)
    monkeypatch.setattr(
        "sgx_enclaves.release.place.run_tool", lambda command, *_: asked.append(command)
    )
    Machine().ask([["ld", "-v"]], 1)
    Machine(str(tmp_path)).ask([["ld", "-v"]], 1)
    assert asked == [["ld", "-v"], [*first, "chroot", str(tmp_path), "ld", "-v"]]
