# SPDX-License-Identifier: GPL-2.0-or-later
"""What packages hold, however they put it; and their two digests."""

from __future__ import annotations

import datetime
import functools
import gzip
import hashlib
import lzma
import os
import random
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import pytest

from sgx_enclaves import decompress
from sgx_enclaves.errors import InputError, PackageDamagedError, PackageError
from sgx_enclaves.gate import inspect as inspect_module
from sgx_enclaves.gate.decide import Rule, decide
from sgx_enclaves.gate.inspect import (
    PackageFacts,
    claims_signed_enclaves,
    inspect_build,
    inspect_package,
    may_hold_enclaves,
    rpm_digests,
)
from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER
from sgx_enclaves.rpm.reader import open_package
from tests.enclaves.synthetic import small_enclave
from tests.support.signed import signed_enclave
from tests.support_rpm import RpmFile, link, write_rpm

CASE = signed_enclave()
SIGNED, BUILT = CASE.signed, CASE.built
DIGEST = hashlib.sha256(SIGNED).hexdigest()
PATH = ENCLAVE_FOLDER + "libsgx_pce.signed.so.1.2.3.4"
FILES = [RpmFile(PATH, SIGNED)]
PROVIDES = ["sgx-enclave(pce:signed)"]
NAME = "sample-1.0-1.x86_64.rpm"


class Shelf:
    """Packages of one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, files: Sequence[RpmFile], file: str = NAME, **changes: Any) -> str:
        path = self.folder / file
        path.write_bytes(write_rpm(files, **changes))
        return str(path)

    def facts(self, files: Sequence[RpmFile], **changes: Any) -> PackageFacts:
        return inspect_package(self.put(files, **changes))


@pytest.fixture(name="shelf")
def _shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_a_signed_enclave(shelf: Shelf) -> None:
    facts = shelf.facts(FILES, provides=PROVIDES)
    assert facts.signed == {PATH: DIGEST}
    assert facts.provides == tuple(PROVIDES)
    assert (facts.problem, facts.present, facts.copies) == (None, True, ())
    assert facts.digests == rpm_digests(str(shelf.folder / NAME))


@pytest.mark.parametrize(
    ("files", "provides", "paths"),
    [
        ([RpmFile("/usr/bin/true", b"\x7fELF")], (), []),
        ([RpmFile(ENCLAVE_FOLDER + "libsgx_pce.so", BUILT)], ["sgx-enclave(pce:unsigned)"], []),
        ([RpmFile(ENCLAVE_FOLDER + "libsgx_urts.so", b"\x7fELF")], (), []),
        ([RpmFile(ENCLAVE_FOLDER + "libsgx_pce.so", SIGNED)], (), ["libsgx_pce.so"]),
        ([RpmFile(ENCLAVE_FOLDER + "readme", b"x"), RpmFile("/opt/x", SIGNED)], (), ["x"]),
        ([RpmFile("/opt/x.signed.so", SIGNED)], (), ["x.signed.so"]),
        ([RpmFile("/opt/x", SIGNED)], ["sgx-enclave(x:unsigned)"], ["x"]),
        ([RpmFile(ENCLAVE_FOLDER + "y.signed.so", b"text")], (), ["y.signed.so"]),
        ([RpmFile(ENCLAVE_FOLDER + "y.so", SIGNED[:-9])], (), ["y.so"]),
        (
            [link(ENCLAVE_FOLDER + "y.so", "/opt/y"), RpmFile("/opt/y", SIGNED)],
            (),
            ["y"],
        ),
        ([link(ENCLAVE_FOLDER + "y.signed.so", "/opt/elsewhere")], (), ["y.signed.so"]),
        ([link(ENCLAVE_FOLDER + "y.so", "/opt/elsewhere")], (), []),
    ],
)
def test_what_counts_as_a_signed_enclave(
    shelf: Shelf, files: list[RpmFile], provides: Sequence[str], paths: list[str]
) -> None:
    facts = shelf.facts(files, provides=provides)
    assert [os.path.basename(path) for path in facts.signed] == paths
    assert facts.present == bool(paths)
    assert facts.problem is None


def test_provides_alone_are_presence(shelf: Shelf) -> None:
    facts = shelf.facts([], provides=["sgx-enclave(pce)", "sgx-enclave(x:unsigned)", "y"])
    assert facts.provides == ("sgx-enclave(pce)",)
    assert facts.present


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "other"}, "is another one than the build system says"),
        ({"tags": {1022: "noarch"}}, "is another one than the build system says"),
        ({"signature": {273: "0" * 64}}, "SHA256 digest of the header is wrong"),
        ({"tags": {5092: ["0" * 64]}}, "digest of the payload is wrong"),
        ({"compressor": "zstd", "payload": b"\x28\xb5\x2f\xfd", "tags": {1125: "zstd"}}, "zst"),
    ],
)
def test_what_cannot_be_read_is_present(shelf: Shelf, changes: dict[str, Any], reason: str) -> None:
    facts = shelf.facts(FILES, **changes)
    assert facts.problem is not None
    assert reason in facts.problem
    assert facts.present


def test_a_missing_file_is_present(shelf: Shelf) -> None:
    path = str(shelf.folder / NAME)
    assert may_hold_enclaves(path)
    facts = inspect_package(path)
    assert facts.digests is None
    assert "cannot be read" in (facts.problem or "")


def test_a_build_without_a_reason_is_not_read(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = shelf.put([RpmFile("/usr/bin/true", b"x")], "plain-1.0-1.x86_64.rpm", name="plain")
    monkeypatch.setattr(inspect_module, "_read_digests", None)
    assert inspect_build({plain: ()}) == ()
    assert inspect_build({}) == ()


def test_one_enclave_is_a_reason_to_read_all(shelf: Shelf) -> None:
    plain = shelf.put([RpmFile("/usr/bin/true", b"x")], "plain-1.0-1.x86_64.rpm", name="plain")
    files = dict.fromkeys((plain, shelf.put(FILES)), ())
    facts = inspect_build(files)
    assert [f.present for f in facts] == [False, True]
    assert all(f.digests for f in facts)


@pytest.mark.parametrize(
    ("files", "provides", "claims"),
    [
        ([RpmFile("/usr/bin/true", b"x")], (), False),
        ([RpmFile(ENCLAVE_FOLDER + "libsgx_pce.so", SIGNED)], (), False),
        (FILES, (), True),
        ([], PROVIDES, True),
        ([], ["sgx-enclave(pce:unsigned)"], False),
    ],
)
def test_what_a_package_says_of_itself(
    shelf: Shelf, files: list[RpmFile], provides: Sequence[str], claims: bool
) -> None:
    assert claims_signed_enclaves(shelf.put(files, provides=provides)) is claims


def test_what_cannot_be_read_says_nothing_of_itself(shelf: Shelf) -> None:
    with pytest.raises(InputError):
        claims_signed_enclaves(str(shelf.folder / "missing.rpm"))


def test_bytes_that_were_looked_into_are_not_unpacked_again(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect_module, "_SETTLED", -1.0)
    file = shelf.put(FILES)
    facts = inspect_package(file)
    monkeypatch.setattr(inspect_module, "packed", None)
    assert inspect_package(file) == facts
    assert facts.signed == {PATH: DIGEST}
    with pytest.raises(TypeError):
        shelf.facts(FILES, signature={1002: b"signature"})


def test_every_enclave_of_a_package_is_judged_by_its_bytes(shelf: Shelf) -> None:
    for data, count in ((SIGNED, 2), (BUILT, 1)):
        files = [*FILES, RpmFile(ENCLAVE_FOLDER + "libsgx_x.so", data)]
        assert len(shelf.facts(files).signed) == count
    other = shelf.facts([RpmFile(PATH, signed_enclave(code=b"\xc3").signed)])
    assert other.signed[PATH] != DIGEST


def test_signed_copies(shelf: Shelf) -> None:
    path = shelf.put(FILES)
    copy = shelf.put(FILES, "copy.rpm", signature={1002: b"signature"})
    facts = inspect_package(path, [("key", copy), ("gone", "/nowhere")])
    assert facts.digests is not None
    same, gone = facts.copies
    assert (same.name, same.digests and same.digests.content) == ("key", facts.digests.content)
    assert gone.digests is None
    assert "cannot be read" in (gone.problem or "")


def test_the_digests(shelf: Shelf) -> None:
    path = shelf.put(FILES)
    data = Path(path).read_bytes()
    digests = rpm_digests(path)
    assert digests.file == hashlib.sha256(data).hexdigest()
    main = data.index(b"\x8e\xad\xe8", 100)
    assert digests.content == hashlib.sha256(data[main:]).hexdigest()
    with open_package(path) as (package, _stream):
        payload = package.header.end
        assert digests.payload == package.header.one("PAYLOADDIGEST", str)
    assert digests.header == hashlib.sha256(data[main:payload]).hexdigest()
    assert digests.nevra == NAME[: -len(".rpm")]
    signed = rpm_digests(shelf.put(FILES, "signed.rpm", signature={1002: b"signature"}))
    assert signed.content == digests.content
    assert signed.file != digests.file
    other = rpm_digests(shelf.put([RpmFile(PATH, SIGNED + b"x")], "other.rpm"))
    assert other.content != digests.content


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", PackageError),
        (b"text", PackageError),
        (write_rpm(FILES)[:-1], PackageDamagedError),
        (write_rpm(FILES) + b"x", PackageDamagedError),
    ],
)
def test_no_digests_of_what_is_no_whole_package(
    tmp_path: Path, data: bytes, error: type[Exception]
) -> None:
    path = tmp_path / "x.rpm"
    path.write_bytes(data)
    with pytest.raises(error):
        rpm_digests(str(path))


# --- enclaves without a name, and packages that give no reason


NAMELESS = (RpmFile("/usr/libexec/helper.bin", SIGNED),)
SO, PIE = "ELF 64-bit LSB shared object, x86-64", "ELF 64-bit LSB pie executable, x86-64"
# gzip's magic, and nothing that it could unpack
BROKEN = b"\x1f\x8b\x08\0" + bytes(40)


def as_rpmbuild(kind: str, color: int = 2, mode: int = 0o100755) -> dict[int, Any]:
    """What rpmbuild writes of a package with one file: its color, its class and its mode."""
    return {1140: [color], 1141: [0], 1142: [kind], 1030: [mode]}


def test_a_scriptlet_with_a_word_of_enclaves_is_no_enclave(shelf: Shelf) -> None:
    script = {1024: "mv /usr/share/x /usr/x86_64-intel-sgx/lib64/x", **as_rpmbuild("data", 0)}
    assert not may_hold_enclaves(shelf.put((RpmFile("/usr/share/x", b"x"),), tags=script))
    assert may_hold_enclaves(shelf.put(NAMELESS, tags=script))


@pytest.mark.parametrize(
    "tags",
    [
        as_rpmbuild(SO),
        as_rpmbuild(PIE),
        # rpmbuild gives no color to what is not executable
        as_rpmbuild(SO, 0, 0o100644),
        # a spec file can set what libmagic knows
        as_rpmbuild("ASCII text", 0, 0o100644),
        {1140: None, 1141: None, 1142: None},
    ],
)
@pytest.mark.parametrize("compressor", ["gzip", "xz", "zstd", None])
def test_an_enclave_without_a_name_is_found_whatever_the_header_says(
    shelf: Shelf, tags: dict[int, Any], compressor: Optional[str]
) -> None:
    path = shelf.put(NAMELESS, tags=tags, compressor=compressor)
    (facts,) = inspect_build({path: ()})
    assert facts.signed == {"/usr/libexec/helper.bin": DIGEST}


@pytest.mark.parametrize(
    "changes", [{"payload": BROKEN}, {"tags": {1125: "lzip"}}, {"tags": {1125: "xz"}}]
)
def test_what_cannot_be_unpacked_may_hold_enclaves(shelf: Shelf, changes: dict[str, Any]) -> None:
    assert may_hold_enclaves(shelf.put((RpmFile("/usr/share/x", b"x"),), **changes))


def test_a_program_that_holds_an_enclave_as_data_shuts_no_gate_and_is_reported(
    shelf: Shelf,
) -> None:
    program = RpmFile("/usr/bin/signer", small_enclave(note=None) + CASE.signed)
    path = shelf.put((program,), tags=as_rpmbuild(PIE))
    assert not may_hold_enclaves(path)
    facts = inspect_build({path: ()})
    assert [(f.present, f.embedded) for f in facts] == [(False, ("/usr/bin/signer",))]
    decision = decide(facts, [], [Rule()], datetime.datetime.now(datetime.timezone.utc))
    assert (decision.allowed, decision.present) == (True, False)
    assert decision.notes == (
        f"/usr/bin/signer of {NAME} holds enclaves as data, which were not verified",
    )


def test_a_sibling_s_reason_is_a_reason_to_look_everywhere(shelf: Shelf) -> None:
    file = "other-1.0-1.x86_64.rpm"
    other = shelf.put((RpmFile("/usr/share/x", b"x"),), file, name="other")
    assert inspect_build({other: ()}) == ()
    facts = {item.name: item for item in inspect_build({shelf.put(FILES): (), other: ()})}
    assert facts[file].digests == rpm_digests(other)


def test_what_was_found_is_remembered_as_long_as_it_is_the_same_file(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect_module, "_SETTLED", -1.0)
    path = shelf.put([RpmFile("/usr/bin/x", b"x")])
    assert not may_hold_enclaves(path)
    monkeypatch.setattr(inspect_module, "may_carry_enclaves", None)
    assert not may_hold_enclaves(path)
    monkeypatch.undo()
    monkeypatch.setattr(inspect_module, "_SETTLED", -1.0)
    before = os.stat(path)
    size = before.st_size
    other = Path(shelf.put(NAMELESS)).read_bytes()
    Path(path).write_bytes(other[:size].ljust(size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert may_hold_enclaves(path)


def test_a_file_that_was_changed_a_moment_ago_is_not_remembered(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shelf.put([RpmFile("/usr/bin/x", b"x")])
    assert not may_hold_enclaves(path)
    monkeypatch.setattr(inspect_module, "may_carry_enclaves", lambda _package: True)
    assert may_hold_enclaves(path)


@pytest.mark.parametrize(
    "folder",
    [
        "/usr//x86_64-intel-sgx/lib64/",
        "/usr/./x86_64-intel-sgx/lib64/",
        "//usr/x86_64-intel-sgx/lib64/",
        "/usr/share/../x86_64-intel-sgx/lib64/",
    ],
)
def test_a_folder_written_in_another_way_is_the_enclave_folder(shelf: Shelf, folder: str) -> None:
    path = shelf.put((RpmFile(f"{folder}x", b"x"),), tags=as_rpmbuild("data", 0))
    assert may_hold_enclaves(path)


def test_a_mark_on_the_border_of_two_pieces_is_seen(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shelf.put(NAMELESS)
    for size in (1, 5, 7, 13, 64):
        monkeypatch.setattr(decompress, "_OUTPUT_CHUNK", size)
        assert may_hold_enclaves(path)
        assert not may_hold_enclaves(shelf.put((RpmFile("/usr/share/x", b"sgx" * 99),), "x.rpm"))


def test_only_so_much_is_remembered(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect_module, "_SETTLED", -1.0)
    assert inspect_module._seen.cache_info().maxsize == 20_000
    fewer = functools.lru_cache(maxsize=2)(inspect_module._seen.__wrapped__)
    monkeypatch.setattr(inspect_module, "_seen", fewer)
    for number in range(4):
        assert not may_hold_enclaves(shelf.put([RpmFile("/usr/bin/x", b"x")], f"{number}.rpm"))
        assert fewer.cache_info().currsize == min(number + 1, 2)


def processor_time() -> float:
    """Seconds that this process and its children have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + used.ru_utime + used.ru_stime


def test_what_it_costs_to_tag_an_ordinary_build(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 packages of 80 KB, some with a shared object: 100 ms once, 5 ms from then on."""
    monkeypatch.setattr(inspect_module, "_SETTLED", -1.0)
    chance = random.Random(1)  # noqa: S311
    files: dict[str, tuple[()]] = {}
    for number in range(60):
        library = number % 10 == 0
        content = [RpmFile(f"/usr/share/doc/x/{n}.txt", chance.randbytes(2000)) for n in range(40)]
        tags = as_rpmbuild("ASCII text", 0)
        if library:
            content = [RpmFile("/usr/lib64/libx.so.1", b"\x7fELF" + chance.randbytes(80_000))]
            tags = as_rpmbuild(SO)
        name = f"x{number}-1.0-1.x86_64.rpm"
        path = shelf.put(content, name, name=f"x{number}", tags=spread(tags, len(content)))
        files[path] = ()
    first: list[float] = []
    later: list[float] = []
    for _ in range(5):
        inspect_module._seen.cache_clear()
        for costs in (first, later):
            start = processor_time()
            assert inspect_build(files) == ()
            costs.append(processor_time() - start)
    assert min(first) <= 0.1
    assert min(later) <= 0.005


def machine_code() -> bytes:
    """What this process has loaded: programs and libraries as packages have them."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = dict.fromkeys(line.split()[-1] for line in lines if line.endswith((".so", ".6", ".3")))
    return b"".join(Path(path).read_bytes() for path in paths if Path(path).is_file())


@pytest.mark.parametrize(
    ("compressor", "count", "share"), [("zstd", 60, 2.0), ("gzip", 3, 1.5), ("xz", 3, 1.3)]
)
def test_what_it_costs_to_tag_a_build_of_libraries(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, compressor: str, count: int, share: float
) -> None:
    """60 libraries of 1 MiB, packed with zstd: 100 ms once, 5 ms from then on.

    Other compressions, and slower machines, take what it takes to unpack them, and little more.
    """
    monkeypatch.setattr(inspect_module, "_SETTLED", -1.0)
    zstd = pytest.importorskip("zstandard", reason="the package zstandard is not there")
    unpack: dict[str, Any] = {"gzip": gzip.decompress, "xz": lzma.decompress}
    unpack["zstd"] = zstd.ZstdDecompressor().decompress
    code = machine_code()
    assert len(code) > 2 << 20
    files: dict[str, tuple[()]] = {}
    payloads = []
    for number in range(count):
        start = number * len(code) // (2 * count)
        library = RpmFile("/usr/lib64/libx.so.1", code[start : start + (1 << 20)])
        name = f"x{number}-1.0-1.x86_64.rpm"
        path = shelf.put([library], name, name=f"x{number}", compressor=compressor)
        files[path] = ()
        with open_package(path) as (package, stream):
            stream.seek(package.header.end)
            payloads.append(stream.read())
    first: list[float] = []
    later: list[float] = []
    floor: list[float] = []
    for _ in range(7):
        inspect_module._seen.cache_clear()
        for costs in (first, later):
            start_time = processor_time()
            assert inspect_build(files) == ()
            costs.append(processor_time() - start_time)
        start_time = processor_time()
        for payload in payloads:
            unpack[compressor](payload)
        floor.append(processor_time() - start_time)
    assert min(first) <= max(0.1 * count / 60, share * min(floor))
    assert min(later) <= 0.005


def spread(tags: dict[int, Any], count: int) -> dict[int, Any]:
    """The same for each of so many files."""
    return {tag: value * count if isinstance(value, list) else value for tag, value in tags.items()}
