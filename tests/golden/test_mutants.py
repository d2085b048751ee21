# SPDX-License-Identifier: GPL-2.0-or-later
"""Thousands of mutants of an enclave, a package and an archive: what comes of each."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.enclaves.synthetic import small_enclave
from tests.golden.stored import Numbers, check_outcomes, mutant, stored_gzip
from tests.golden.subjects import checked_package, compared, read_archive
from tests.support.alone import alone
from tests.support.keys import mrsigner, vendor_key
from tests.support.once import regenerated_once
from tests.support.signed import fips_enclave, signed_enclave
from tests.support_rpm import RpmFile, cpio_of, link, write_rpm
from tests.unit.release import tarmaker

MUTANTS = 2000
FOLDER = "/usr/x86_64-intel-sgx/lib64/"
NAME = f"{FOLDER}libsgx_pce.signed.so"


@pytest.fixture(name="_regenerated_once")
def _computed_once() -> Iterator[None]:
    with regenerated_once():
        yield


@pytest.mark.usefixtures("_regenerated_once")
def test_mutants_of_an_enclave() -> None:
    """Half of a file with three metadata blocks, half of one with a second signature."""
    signer = mrsigner(vendor_key())
    cases = []
    numbers = Numbers("enclave")
    both = [(case, case.blocks[-1]) for case in (signed_enclave(), fips_enclave())]
    for number in range(MUTANTS):
        case, last = both[number % 2]
        used = case.area.start + last.offset + last.header.size
        # The headers, the metadata, and the rest of the file in turn.
        start, end = ((0, 0x400), (case.area.start, used), (0, 0))[number // 2 % 3]
        changed = mutant(case.signed, numbers, start, end)
        cases.append(compared(case.built, changed, case.config, signer))
        assert (cases[-1][0].split()[0] == "identical") == (changed == case.signed)
    check_outcomes("mutants-enclave.txt", cases)


def package_mutants(files: list[RpmFile]) -> list[Callable[[Numbers], bytes]]:
    """Ways to spoil a package: all of it; or a part, with the digests over it made to fit."""
    arguments: dict[str, Any] = {"provides": ["sgx-enclave(pce:signed)"], "compressor": None}
    plain = write_rpm(files, **arguments)
    cpio = cpio_of(files)
    packed = write_rpm(files, payload=stored_gzip(cpio), **{**arguments, "compressor": "gzip"})
    head_end = len(plain) - len(cpio)
    head_start = plain.index(b"\x8e\xad\xe8\x01", 100)
    head = plain[head_start:head_end]
    old = hashlib.sha256(head).hexdigest().encode()
    assert old in plain[:head_start]

    def headed(numbers: Numbers) -> bytes:
        changed = mutant(head, numbers)
        fresh = hashlib.sha256(changed).hexdigest().encode()
        return plain[:head_start].replace(old, fresh) + changed + plain[head_end:]

    def with_payload(numbers: Numbers) -> bytes:
        # The entries' heads are in the first bytes and around the trailer.
        start, end = ((0, 400), (len(cpio) - 600, len(cpio)))[numbers.below(2)]
        return write_rpm(files, cpio=mutant(cpio, numbers, start, end), **arguments)

    return [
        lambda numbers: mutant(plain, numbers),
        headed,
        lambda numbers: mutant(plain, numbers, 0, head_start),
        with_payload,
        headed,
        lambda numbers: mutant(packed, numbers),
    ]


def test_mutants_of_a_package(tmp_path: Path) -> None:
    alone(mutants_of_a_package, tmp_path)


def mutants_of_a_package(folder: Path) -> None:
    case = signed_enclave("2.25")
    (folder / "reference").mkdir()
    (folder / "reference" / "libsgx_pce.so").write_bytes(case.built)
    (folder / "reference" / "libsgx_pce.config.xml").write_bytes(case.config)
    ordinary = small_enclave(note=None)
    files = [
        RpmFile("/usr/share/doc/readme", b"Read me.\n"),
        RpmFile(f"{NAME}.1.25.100.1", case.signed, 0o100755),
        link(f"{NAME}.1", f"{NAME}.1.25.100.1"),
        link(NAME, "libsgx_pce.signed.so.1"),
        RpmFile("/usr/lib/libx.so", ordinary, inode=7),
        RpmFile("/usr/lib/liby.so", ordinary, inode=7),
    ]
    package = folder / "sample.rpm"
    references, signer = [str(folder / "reference")], mrsigner(vendor_key())
    package.write_bytes(write_rpm(files, provides=["sgx-enclave(pce:signed)"], compressor=None))
    cases = [checked_package(package, references, signer)]
    assert cases[0][0].split()[0] == "identical", cases[0]
    ways, numbers = package_mutants(files), Numbers("package")
    for number in range(MUTANTS):
        package.write_bytes(ways[number % len(ways)](numbers))
        cases.append(checked_package(package, references, signer))
    check_outcomes("mutants-package.txt", cases)


def test_mutants_of_an_archive(tmp_path: Path) -> None:
    plain = b"".join(
        (
            tarmaker.pax("comment", b"0123abcd", b"g"),
            tarmaker.directory("top/"),
            tarmaker.file("top/a", b"alpha"),
            tarmaker.file("top/run", b"#!/bin/sh\n", mode=b"0000755\0"),
            tarmaker.pax("path", b"top/" + b"long" * 30),
            tarmaker.file("short", b"beta" * 200),
            tarmaker.gnu_long("top/" + "name" * 30),
            tarmaker.file("short", b"gamma"),
            tarmaker.symlink("top/link", "a"),
            tarmaker.END,
        )
    )
    archive, tree = tmp_path / "sample.tar", tmp_path / "tree"

    def mended(numbers: Numbers) -> bytes:
        """One header changed, with its checksum made to fit."""
        at = 512 * numbers.below(len(plain) // 512)
        header = bytearray(mutant(plain[at : at + 512], numbers, 0, 345)[:512].ljust(512, b"\0"))
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return plain[:at] + bytes(header) + plain[at + 512 :]

    ways: list[Callable[[Numbers], bytes]] = [
        lambda numbers: mutant(plain, numbers),
        mended,
        mended,
        lambda numbers: mutant(stored_gzip(plain), numbers),
    ]
    numbers = Numbers("archive")
    cases = []
    for number in range(MUTANTS + 1):
        archive.write_bytes(ways[number % len(ways)](numbers) if number else plain)
        cases.append(read_archive(archive, tree))
        shutil.rmtree(tree, ignore_errors=True)
    assert cases[0][0] == "list: done, digest: done, unpack: done"
    check_outcomes("mutants-archive.txt", cases)
