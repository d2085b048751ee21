# SPDX-License-Identifier: GPL-2.0-or-later
"""Each kind of bad package, given to the whole program under a hard bound on memory and time.

Every case must end with exit status 2, a finding that says what is wrong, and
nothing on standard error; `scan` must come to the same result as `check-rpm`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER
from tests.support.signed import signed_enclave
from tests.support_rpm import LEAD, TRAILER, Raw, RpmFile, cpio_of, header, link, newc, write_rpm

MIB = 1 << 20
GIB = 1 << 30
# Address space, with all libraries; a check of a good package takes 100 MiB of it.
MEMORY = 512 * MIB
SECONDS = 20

CASE = signed_enclave("2.25")
PCE = RpmFile(ENCLAVE_FOLDER + "libsgx_pce.signed.so", CASE.signed, 0o100755)
GOOD = write_rpm([PCE], provides=["sgx-enclave(pce:signed)"])


@dataclass(frozen=True)
class Bad:
    """A bad package: how it is made, and what must be said about it."""

    name: str
    make: Callable[[], bytes]
    code: str
    message: str


def zeros(size: int) -> bytes:
    """A gzip file of so many zeros, made of many members, in no time."""
    piece = 32 * MIB
    return gzip.compress(bytes(piece), 1, mtime=0) * (size // piece)


def bomb_behind(start: bytes, size: int) -> bytes:
    return gzip.compress(start, mtime=0) + zeros(size)


def nested() -> bytes:
    """Archives in archives, under names where enclaves and configurations are looked for."""
    inner = gzip.compress(gzip.compress(bytes(64 * MIB), 9), 9)
    files = [
        RpmFile(ENCLAVE_FOLDER + "libsgx_qe3.signed.so", inner),
        RpmFile("/usr/share/sgx/config.xml", inner),
        RpmFile("/usr/share/sgx/again.rpm", GOOD),
        RpmFile("/usr/share/sgx/again.gz", inner),
    ]
    return write_rpm(files)


def lying_elf(field: slice) -> bytes:
    data = bytearray(CASE.signed)
    data[field] = b"\xff" * (field.stop - field.start)
    return write_rpm([replace(PCE, data=bytes(data))])


def all_offsets_lie() -> bytes:
    """Every offset and size in every header of the enclave points to the end of the world."""
    data = bytearray(CASE.signed)
    image = CASE.image.header
    for at in range(image.e_shoff, image.e_shoff + 64 * image.e_shnum, 64):
        data[at + 16 : at + 40] = b"\xff" * 24
    for at in range(image.e_phoff, image.e_phoff + 56 * image.e_phnum, 56):
        data[at + 8 : at + 48] = b"\xff" * 40
    data[24:48] = b"\xff" * 24
    return write_rpm([replace(PCE, data=bytes(data))])


def links_in_a_row(count: int) -> bytes:
    """So many links, each to the next one."""
    names = [f"{index:06x}" for index in range(count)]
    targets = [*names[1:], names[0]]
    return write_rpm([PCE, *(link(f"/{n}", t) for n, t in zip(names, targets))])


def a_header_that_claims(entries: int, size: int) -> bytes:
    return LEAD + b"\x8e\xad\xe8\x01\0\0\0\0" + entries.to_bytes(4, "big") + size.to_bytes(4, "big")


def a_tag_that_claims() -> bytes:
    """Two thousand million file names in a header of a hundred bytes, with a right digest."""
    names = Raw(8, (1 << 31) - 1, b"a\0")
    head = header({1000: "x", 1001: "1", 1002: "1", 1044: "s", 1117: names, 1118: ["/"]}, 63)
    signature = header({273: hashlib.sha256(head).hexdigest()}, 62)
    return LEAD + signature + bytes(-len(signature) % 8) + head


def zstd_with_a_huge_window() -> bytes:
    # A frame header that asks for a window of 2 GiB (descriptor byte 0xA8), then an empty block.
    payload = b"\x28\xb5\x2f\xfd\x00\xa8" + b"\x01\0\0"
    return write_rpm([PCE], payload=payload, compressor="zstd")


SPARSE = replace(PCE, size=10 * GIB)
ESCAPES = [RpmFile(ENCLAVE_FOLDER + "../../../etc/libsgx_pce.signed.so", CASE.signed)]
CIRCLE = [PCE, link("/a", "b"), link("/b", "a")]

CASES = [
    Bad("empty", lambda: b"", "package-malformed", "not an RPM package"),
    Bad("truncated in the lead", lambda: GOOD[:50], "package-damaged", "truncated"),
    Bad("truncated in the header", lambda: GOOD[:400], "package-damaged", "truncated"),
    Bad("truncated in the payload", lambda: GOOD[:-9], "package-damaged", "truncated"),
    Bad("more behind the end", lambda: GOOD + b"x", "package-damaged", "behind the end"),
    Bad(
        "wrong digest of the header",
        lambda: write_rpm([PCE], signature={273: "0" * 64}),
        "package-damaged",
        "digest of the header is wrong",
    ),
    Bad(
        "wrong digest of the payload",
        lambda: write_rpm([PCE], tags={5092: ["0" * 64]}),
        "package-damaged",
        "digest of the payload is wrong",
    ),
    Bad(
        "wrong digest of a file",
        lambda: write_rpm([replace(PCE, digest="0" * 64)]),
        "package-damaged",
        "libsgx_pce.signed.so' is wrong",
    ),
    Bad(
        "a smaller size in the header",
        lambda: write_rpm([replace(PCE, size=5)]),
        "package-malformed",
        "another size in the payload than in the header",
    ),
    Bad(
        "a size of 4 GiB in the payload",
        lambda: write_rpm([replace(PCE, cpio_size=0xFFFFFFFF)]),
        "package-malformed",
        "another size in the payload than in the header",
    ),
    Bad(
        "a larger package than there is",
        lambda: write_rpm([PCE], signature={1000: [0xFFFFFFFF]}),
        "package-damaged",
        "truncated",
    ),
    Bad(
        "a file of 10 GiB that is not there",
        lambda: write_rpm([SPARSE]),
        "package-too-large",
        "larger than they may be",
    ),
    Bad(
        "a file of 10 GiB in the form for large files",
        lambda: write_rpm([SPARSE], stripped=True, signature={1000: None}),
        "package-too-large",
        "larger than they may be",
    ),
    Bad(
        "10 GiB of zeros where 3 GiB are claimed",
        lambda: write_rpm(
            [replace(PCE, size=3 * GIB)],
            payload=bomb_behind(newc(f".{PCE.path}", b"", PCE.mode, size=3 * GIB), 10 * GIB),
            signature={1000: None},
        ),
        "package-too-large",
        "bomb",
    ),
    Bad(
        "10 GiB of zeros behind the end of the payload",
        lambda: write_rpm([PCE], payload=bomb_behind(cpio_of([PCE]), 10 * GIB)),
        "package-malformed",
        "bytes behind the end of the payload",
    ),
    Bad(
        "a path with dots in the header",
        lambda: write_rpm(ESCAPES),
        "package-malformed",
        "leaves the tree",
    ),
    Bad(
        "a path with dots in the payload",
        lambda: write_rpm([replace(PCE, cpio_name="./../../etc/cron.d/x")]),
        "package-malformed",
        "is not in the header",
    ),
    Bad("links in a circle", lambda: write_rpm(CIRCLE), "package-malformed", "round in a circle"),
    Bad(
        "thousands of links in a row",
        lambda: links_in_a_row(3000),
        "package-malformed",
        "round in a circle",
    ),
    Bad("an archive bomb in a package", nested, "enclave-malformed", "ELF"),
    Bad(
        "an ELF file whose segments lie",
        lambda: lying_elf(slice(64 + 8, 64 + 48)),
        "enclave-malformed",
        "program header 0 leaves the file",
    ),
    Bad(
        "an ELF file that lies about every offset",
        all_offsets_lie,
        "enclave-malformed",
        "header",
    ),
    Bad(
        "a header of 4 GiB",
        lambda: a_header_that_claims(0xFFFFFFFF, 0xFFFFFFFF),
        "package-too-large",
        "header is too large",
    ),
    Bad(
        "a header of 64 MiB that is not there",
        lambda: a_header_that_claims(1, 64 * MIB),
        "package-damaged",
        "truncated",
    ),
    Bad("a tag of 2 GiB", a_tag_that_claims, "package-malformed", "malformed"),
    Bad(
        "a zstd window of 2 GiB",
        zstd_with_a_huge_window,
        "package-malformed",
        "zstd data is broken",
    ),
    Bad(
        "cpio in cpio without end",
        lambda: write_rpm([PCE], cpio=newc("./x", TRAILER * 1000, 0o100644) * 1000 + TRAILER),
        "package-malformed",
        "is not in the header",
    ),
]


def bounded() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


def run(*arguments: str) -> dict[str, Any]:
    argv = [sys.executable, "-m", "sgx_enclaves", *arguments, "--json"]
    done = subprocess.run(
        argv,
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=bounded,
        timeout=3 * SECONDS,
    )
    assert (done.returncode, done.stderr) == (2, "")
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["exit_status"] == 2
    return report


def said(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Code and words of everything that was found."""
    (package,) = report["packages"]
    findings = list(package["findings"])
    for enclave in package["enclaves"]:
        findings += enclave["findings"]
    return [(f["code"], f"{f['message']} {f['expected']} {f['hint']}") for f in findings]


@pytest.mark.parametrize("bad", CASES, ids=[bad.name for bad in CASES])
def test_a_bad_package_is_a_finding(bad: Bad, tmp_path: Path) -> None:
    path = tmp_path / "bad.rpm"
    path.write_bytes(bad.make())
    found = said(run("check-rpm", str(path)))
    matching = [code for code, words in found if bad.message in words]
    assert matching[:1] == [bad.code], found
    assert said(run("scan", str(tmp_path), "--jobs", "1")) == found


def test_the_bounds_are_bounds(tmp_path: Path) -> None:
    """Without this, the test above could pass for want of a limit."""
    code = f"x = bytes({MEMORY})"
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, preexec_fn=bounded
    )
    assert b"MemoryError" in done.stderr
    path = tmp_path / "good.rpm"
    path.write_bytes(GOOD)
    codes = [code for code, _ in said(run("check-rpm", str(path)))]
    assert [c for c in codes if not c.endswith("-unconventional")] == ["not-reproduced"]
