# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of others as judges of what we read and check.

Others of this kind: pyelftools (tests/golden/test_elf.py), a second implementation of
MRENCLAVE (tests/unit/enclave/test_pages.py), securesystemslib (tests/unit/evidence/).
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.sigstruct import Sigstruct, check_sigstruct
from sgx_enclaves.rpm.payload import packed
from tests.golden.stored import Numbers
from tests.support.signed import Case, fips_enclave, signed_enclave
from tests.support_rpm import RpmFile, link, write_rpm


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def accepted_by_openssl(sigstruct: Sigstruct, folder: Path) -> bool:
    """Whether openssl finds the RSA signature of a SIGSTRUCT good."""
    modulus = int.from_bytes(sigstruct.modulus, "little")
    try:
        key = RSAPublicNumbers(sigstruct.exponent, modulus).public_key()
    except ValueError:
        return False
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    files = {"key": pem, "data": sigstruct.signed_message, "sig": sigstruct.signature[::-1]}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    paths = {name: str(folder / name) for name in files}
    command = ["openssl", "dgst", "-sha256", "-verify", paths["key"], "-signature", paths["sig"]]
    done = subprocess.run([*command, paths["data"]], capture_output=True, check=False)
    return done.returncode == 0


def flipped(field: str) -> Callable[[Sigstruct, Numbers], Sigstruct]:
    def change(sigstruct: Sigstruct, numbers: Numbers) -> Sigstruct:
        start, size = Sigstruct.range_of(field)
        data = bytearray(sigstruct.serialise())
        data[start + numbers.below(size - start)] ^= 1 << numbers.below(8)
        return Sigstruct.parse(bytes(data))

    return change


CHANGES: dict[str, Callable[[Sigstruct, Numbers], Sigstruct]] = {
    "nothing": lambda sigstruct, _: sigstruct,
    "signature": flipped("signature"),
    "modulus": flipped("modulus"),
    "date": flipped("date"),
    "enclavehash": flipped("enclavehash"),
    "isvsvn": flipped("isvsvn"),
    "exponent": lambda sigstruct, _: replace(sigstruct, exponent=5),
}
# Of them openssl knows nothing.
OURS_ALONE = ("sigstruct-quotient", "sigstruct-header", "sigstruct-reserved")


@needs("openssl")
@pytest.mark.parametrize("change", CHANGES)
def test_signatures_as_openssl_judges_them(change: str, tmp_path: Path) -> None:
    numbers = Numbers(change)
    for _ in range(4 if change != "nothing" else 1):
        sigstruct = CHANGES[change](signed_enclave().blocks[0].sigstruct, numbers)
        defects = [d for d in check_sigstruct(sigstruct) if d.code not in OURS_ALONE]
        assert accepted_by_openssl(sigstruct, tmp_path) == (not defects)
        assert (not defects) == (change == "nothing")


@needs("readelf")
@pytest.mark.parametrize("case", [signed_enclave, fips_enclave])
def test_headers_and_symbols_as_readelf_reads_them(
    case: Callable[[], Case], tmp_path: Path
) -> None:
    data = case().signed
    (tmp_path / "x.so").write_bytes(data)
    words = ["readelf", "-hlW", "--dyn-syms", str(tmp_path / "x.so")]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    image = EnclaveImage.parse(data)
    entry = re.search(r"Entry point address:\s+(0x[0-9a-f]+)", text)
    assert entry is not None
    assert int(entry[1], 16) == image.header.e_entry
    loaded = [
        tuple(int(word, 16) for word in row)
        for row in re.findall(r"^ +LOAD" + r" +(0x[0-9a-f]+)" * 5, text, re.MULTILINE)
    ]
    assert loaded == [
        (s.p_offset, s.p_vaddr, s.p_paddr, s.p_filesz, s.p_memsz)
        for s in image.segments
        if s.p_type == 1
    ]
    rows = re.findall(r"^ +\d+: ([0-9a-f]{16}) +(\d+) \w+ +\w+ +\w+ +(\w+) (\S+)$", text, re.M)
    symbols = {name: (int(at, 16), int(size)) for at, size, where, name in rows if where != "UND"}
    assert symbols
    assert symbols == {n: (s.st_value, s.st_size) for n, s in image.dynamic_symbols.items()}


@needs("rpm2archive")
@pytest.mark.parametrize("compressor", [None, "gzip", "xz", "zstd"])
def test_payloads_as_rpm2archive_unpacks_them(compressor: str, tmp_path: Path) -> None:
    files = [
        RpmFile("/usr/lib/a.so", b"alpha" * 999, 0o100755),
        RpmFile("/usr/lib/empty", b""),
        RpmFile("/usr/share/b", b"beta", 0o100644),
        link("/usr/lib/c.so", "a.so"),
    ]
    package = tmp_path / "x.rpm"
    package.write_bytes(write_rpm(files, compressor=compressor))
    subprocess.run(["rpm2archive", "-n", str(package)], check=True, capture_output=True)
    theirs = {}
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "x.rpm.tar").read_bytes())) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            theirs[member.name.lstrip(".")] = (member.linkname, content and content.read())
    with packed(str(package)) as (header, contents):
        ours = {item.file.path: ("", b"".join(item.chunks)) for item in contents}
        # Reading the payload has compared each link with what the header says.
        links = {file.path: (file.target, None) for file in header.files if file.target}
    assert {**ours, **links} == theirs
