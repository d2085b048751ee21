# SPDX-License-Identifier: GPL-2.0-or-later
"""Which files of a package are enclaves, and which links lead to them."""

from __future__ import annotations

import gzip
import shutil
import struct
import subprocess
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sgx_enclaves.errors import FormatError, LimitError, PackageError
from sgx_enclaves.limits import DEFAULT_PACKAGE_LIMITS, Limits, PackageLimits
from sgx_enclaves.rpm.enclaves import (
    ConfigFile,
    EmbeddedEnclaves,
    Item,
    Links,
    PackedEnclave,
    enclaves_among,
    enclaves_within,
    has_metadata_section,
    is_debug_file,
    is_enclave,
    may_carry_enclaves,
)
from sgx_enclaves.rpm.payload import packed
from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER, enclave_name, stem_of, version_of
from sgx_enclaves.rpm.reader import Package, open_package
from tests.enclaves.synthetic import NOTE_SECTION, small_enclave
from tests.support.signed import signed_enclave
from tests.support_rpm import TRAILER, RpmFile, at_a_path, folder, link, write_rpm

BUILT, SIGNED = signed_enclave().built, signed_enclave().signed
PCE = ENCLAVE_FOLDER + "libsgx_pce.signed.so.1.25.100.1"


def found(
    files: Sequence[RpmFile], *, configs: bool = False, limits: PackageLimits | None = None
) -> list[Item]:
    with at_a_path(write_rpm(files)) as path:
        return in_package(path, configs=configs, limits=limits or PackageLimits())


def in_package(
    path: str, *, configs: bool = False, limits: PackageLimits = DEFAULT_PACKAGE_LIMITS
) -> list[Item]:
    with packed(path, limits) as (package, members):
        return list(enclaves_among(package, members, configs=configs))


def parsed(data: bytes) -> Package:
    with at_a_path(data) as path, open_package(path) as (package, _stream):
        return package


def paths(files: Sequence[RpmFile]) -> list[str]:
    return [e.path for e in found(files)]


def test_signed_and_unsigned() -> None:
    files = [
        RpmFile(PCE, SIGNED),
        RpmFile(ENCLAVE_FOLDER + "libsgx_pce.so", BUILT),
        RpmFile("/usr/bin/true", b"\x7fELF" + bytes(80)),
        RpmFile("/etc/x", b"text"),
    ]
    first, second = found(files)
    assert isinstance(first, PackedEnclave)
    assert isinstance(second, PackedEnclave)
    assert (first.path, first.signed, first.problem, first.data) == (PCE, True, None, SIGNED)
    assert (second.path, second.signed, second.problem) == (files[1].path, False, None)


def test_any_name_will_do() -> None:
    assert paths([RpmFile("/opt/cat.jpg", SIGNED)]) == ["/opt/cat.jpg"]


def test_the_name_of_the_section_alone_does_not() -> None:
    plain = small_enclave(note=None, trailing=NOTE_SECTION.encode() + b"\0")
    assert paths([RpmFile("/usr/bin/sgx_sign", plain)]) == []


@pytest.mark.parametrize("name", ["libsgx_pce.signed.so", "x.so.1", "libx.so"])
@pytest.mark.parametrize("data", [b"", b"text", b"\x7fELF", small_enclave(note=None)])
def test_in_the_enclave_folder_every_shared_object_counts(name: str, data: bytes) -> None:
    (one,) = found([RpmFile(ENCLAVE_FOLDER + name, data)])
    assert isinstance(one, PackedEnclave)
    assert isinstance(one.problem, FormatError)
    assert not one.signed


def test_in_the_enclave_folder_other_files_do_not() -> None:
    assert paths([RpmFile(ENCLAVE_FOLDER + "libsgx_tstdc.a", b"!<arch>\n")]) == []
    assert paths([RpmFile("/usr/lib64/libx.so", small_enclave(note=None))]) == []


@pytest.mark.parametrize(
    "data",
    [
        small_enclave(header_fields={"e_machine": 3}),
        small_enclave(header_fields={"e_phnum": 0x7777}),
        small_enclave(segment_fields={0: {"p_filesz": 1 << 63}}),
        small_enclave(section_fields={NOTE_SECTION: {"sh_size": 7}}),
        small_enclave(section_fields={NOTE_SECTION: {"sh_offset": (1 << 64) - 1}}),
        small_enclave(section_fields={".text": {"sh_name": 0xFFFFFFFF}}),
    ],
)
def test_an_elf_file_that_lies_does_not_hide(data: bytes) -> None:
    (one,) = found([RpmFile("/opt/x", data)])
    assert isinstance(one, PackedEnclave)
    assert one.problem is not None


@pytest.mark.parametrize(
    "fields",
    [
        {"e_shnum": 0},
        {"e_shoff": (1 << 64) - 1},
        {"e_shoff": 1 << 40},
        {"e_shstrndx": 0xFFFF},
        {"e_shentsize": 1},
    ],
)
def test_without_a_section_table_nothing_is_an_enclave(fields: dict[str, int]) -> None:
    assert not has_metadata_section(small_enclave(header_fields=fields))


def test_short_files_and_other_classes() -> None:
    good = small_enclave()
    assert has_metadata_section(good)
    assert not has_metadata_section(good[:63])
    assert not has_metadata_section(b"MZ" + good[2:])
    assert not has_metadata_section(good[: len(good) // 2])
    assert not has_metadata_section(good[:4] + b"\x01" + good[5:])


def test_a_32_bit_enclave_is_seen() -> None:
    names = b"\0" + NOTE_SECTION.encode() + b"\0"
    header = bytearray(b"\x7fELF\x01\x01\x01" + bytes(57))
    table = bytearray(80)
    header[32:36] = (64 + len(names)).to_bytes(4, "little")
    header[46:52] = b"\x28\0\x02\0\x00\0"
    table[16:20] = (64).to_bytes(4, "little")
    table[40:44] = (1).to_bytes(4, "little")
    data = bytes(header) + names + bytes(table)
    (one,) = found([RpmFile("/opt/x", data)])
    assert isinstance(one, PackedEnclave)
    assert one.problem is not None
    assert "ELF class" in str(one.problem)


def test_links_are_resolved_within_the_package() -> None:
    files = [
        RpmFile(PCE, SIGNED),
        link(ENCLAVE_FOLDER + "libsgx_pce.signed.so.1", "libsgx_pce.signed.so.1.25.100.1"),
        link(ENCLAVE_FOLDER + "libsgx_pce.signed.so", "./libsgx_pce.signed.so.1"),
        link("/opt/deep", "../usr/../usr/x86_64-intel-sgx/lib64/libsgx_pce.signed.so"),
        link("/opt/absolute", PCE),
        link("/opt/lib", ENCLAVE_FOLDER[:-1]),
        link("/opt/through", "lib/libsgx_pce.signed.so"),
        link("/opt/outside", "/etc/passwd"),
        link("/opt/up", "../../../../../etc/passwd"),
        folder(ENCLAVE_FOLDER[:-1]),
    ]
    (one,) = found(files)
    assert isinstance(one, PackedEnclave)
    assert one.links == tuple(
        sorted(f.path for f in (files[1], files[2], files[3], files[4], files[6]))
    )
    assert one.names[0] == PCE


def test_hard_links_are_one_enclave() -> None:
    files = [
        RpmFile("/opt/a", SIGNED, inode=5),
        RpmFile(PCE, SIGNED, inode=5),
        link("/opt/b", "a"),
    ]
    (one,) = found(files)
    assert isinstance(one, PackedEnclave)
    assert one.path == PCE
    assert one.links == ("/opt/a", "/opt/b")


def test_many_hard_links_cost_no_more_than_many_files() -> None:
    """Each of so many links must not look at all the others."""
    many = [RpmFile(f"/d/{index}", b"x", inode=9) for index in range(30_000)]
    data = write_rpm(many, cpio=links_in_cpio(len(many)))
    start = time.process_time()
    with at_a_path(data) as path:
        assert in_package(path) == []
    assert time.process_time() - start < 10


def links_in_cpio(count: int) -> bytes:
    entries = [b"07070X%08x\0\0" % index for index in range(count - 1)]
    return b"".join([*entries, b"07070X%08x\0\0x\0\0\0" % (count - 1), TRAILER])


def links_of(files: Sequence[RpmFile]) -> Links:
    return Links(parsed(write_rpm(files)))


def test_a_link_loop_is_refused() -> None:
    files = [RpmFile(PCE, SIGNED), link("/a", "b"), link("/b", "a")]
    with pytest.raises(PackageError, match="in a circle"):
        found(files)
    for loop in ([link("/a", "a")], [link("/a", "a/b")], [link("/a/b", "../a/b/../b")]):
        with pytest.raises(PackageError, match="in a circle"):
            links_of(loop).to_files()
    # In a package without enclaves nobody follows them.
    assert found(files[1:]) == []


def test_links_that_cost_too_much_are_refused() -> None:
    deep = "/".join(["d"] * 1500)
    files = [link(f"/{i:04}", f"{deep}/{i + 1:04}") for i in range(600)]
    start = time.process_time()
    with pytest.raises(LimitError, match="too many symbolic links to follow"):
        links_of([*files, *(link(f"/x{i}", deep) for i in range(20))]).to_files()
    assert time.process_time() - start < 20


def test_links_of_the_enclave_folder_that_leave_the_package() -> None:
    name = ENCLAVE_FOLDER + "libsgx_qe3.signed.so"
    files = [RpmFile(PCE, SIGNED), link(ENCLAVE_FOLDER + "libsgx_pce.so", PCE)]
    assert links_of(files).leaving() == ()
    for target in ("/opt/evil.so", "../../..", "missing.so", ENCLAVE_FOLDER):
        (one,) = links_of([*files, link(name, target)]).leaving()
        assert one.path == name


def test_configs_only_when_asked_for() -> None:
    files = [
        RpmFile("/usr/share/x/pce.config.xml", b"<x/>"),
        RpmFile(ENCLAVE_FOLDER + "libsgx_pce.so", BUILT),
    ]
    assert len(found(files)) == 1
    first, _ = found(files, configs=True)
    assert first == ConfigFile("/usr/share/x/pce.config.xml", b"<x/>")


def small(**changes: int) -> PackageLimits:
    return PackageLimits(enclave=replace(Limits(), **changes))


def test_a_file_too_large_to_be_held() -> None:
    limits = small(file_size=100)
    with pytest.raises(LimitError, match="too large for an enclave"):
        found([RpmFile("/opt/x", SIGNED)], limits=limits)
    with pytest.raises(LimitError, match="too large for an enclave"):
        found([RpmFile(PCE, bytes(101))], limits=limits)
    with pytest.raises(LimitError, match=r"config\.xml' is too large"):
        found([RpmFile("/config.xml", b"x" * 9)], configs=True, limits=small(config_size=8))
    # Nothing in it could make it an enclave.
    large = b"\x7fELF" + bytes(600_000)
    assert found([RpmFile("/opt/x", large)], limits=limits) == []
    # The name of the section, or of a note in none.
    for name in (NOTE_SECTION.encode(), b"sgx_metadata\0"):
        split = large[: (256 << 10) - 5] + name + large
        with pytest.raises(LimitError, match="too large for an enclave"):
            found([RpmFile("/opt/x", split)], limits=limits)


@pytest.mark.parametrize(
    ("path", "stem", "version", "name"),
    [
        ("/x/libsgx_pce.signed.so.1.25.100.1", "libsgx_pce", "1.25.100.1", "pce"),
        ("libsgx_id_enclave.signed.so.1", "libsgx_id_enclave", "1", "ide"),
        ("libsgx_id_enclave.so", "libsgx_id_enclave", None, "ide"),
        ("/x.so.y/mine.signed.so", "mine", None, None),
        ("/x/enclave", "enclave", None, None),
    ],
)
def test_names(path: str, stem: str, version: str | None, name: str | None) -> None:
    assert (stem_of(path), version_of(path), enclave_name(path)) == (stem, version, name)


@pytest.mark.parametrize(
    ("files", "provides", "expected"),
    [
        ([RpmFile("/usr/bin/x")], ["x"], False),
        ([RpmFile("/usr/bin/x")], ["sgx-enclave(pce:signed)"], True),
        ([RpmFile(PCE)], [], True),
        ([RpmFile("/opt/mine.signed.so")], [], True),
        ([RpmFile("/opt/libsgx_qe3.so.1")], [], True),
        ([link("/usr/x86_64-intel-sgx/lib64/x", "y")], [], True),
        ([link("/usr/x86_64-intel-sgx/lib64", "/opt")], [], True),
        ([link("/usr/x86_64-intel-sgx", "/opt")], [], True),
        ([folder("/usr/x86_64-intel-sgx"), folder("/usr/x86_64-intel-sgx/lib64")], [], False),
        ([link("/opt/x86_64-intel-sgx", "/opt/lib64"), folder("/lib64")], [], False),
        ([], [], False),
    ],
)
def test_what_the_header_alone_says(
    files: Sequence[RpmFile], provides: Sequence[str], expected: bool
) -> None:
    package = parsed(write_rpm(files, provides=provides))
    assert may_carry_enclaves(package) is expected


def test_too_many_enclaves_are_refused() -> None:
    files = [RpmFile(f"/opt/{index}", BUILT) for index in range(4)]
    assert len(found(files, limits=PackageLimits(enclaves=4))) == 4
    with pytest.raises(LimitError, match="too many enclaves"):
        found(files, limits=PackageLimits(enclaves=3))


def test_what_is_packed_in_a_packed_file_is_no_matter() -> None:
    """An archive inside of the package is a file like another: nobody unpacks it."""
    bomb = gzip.compress(gzip.compress(bytes(32 << 20)))
    inner = write_rpm([RpmFile("/opt/x.signed.so", SIGNED)])
    start = time.process_time()
    assert found([RpmFile("/opt/a.gz", bomb), RpmFile("/opt/inner.rpm", inner)]) == []
    assert time.process_time() - start < 2


def test_one_enclave_is_held_at_a_time(tmp_path: Path) -> None:
    size = 8 << 20
    files = []
    for index in range(5):
        data = small_enclave(trailing=bytes([index]) * size)
        files.append(RpmFile(f"/opt/{index}", data))
    path = tmp_path / "x.rpm"
    path.write_bytes(write_rpm(files, compressor=None))
    del files, data
    tracemalloc.start()
    count = 0
    with packed(str(path)) as (package, members):
        for item in enclaves_among(package, members):
            assert isinstance(item, PackedEnclave)
            assert len(item.data) > size
            count += 1
            del item
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 5
    assert peak < 1.6 * size


def test_an_enclave_in_disguise_is_seen() -> None:
    """Its section was renamed or dropped; whoever loads it may know where the note is."""
    renamed = SIGNED.replace(NOTE_SECTION.encode(), b".note.picture")
    assert paths([RpmFile("/opt/x", renamed)]) == ["/opt/x"]
    (one,) = found([RpmFile("/opt/x", small_enclave(header_fields={"e_shnum": 0}))])
    assert isinstance(one, PackedEnclave)
    assert isinstance(one.problem, FormatError)


def test_the_name_of_the_note_alone_makes_no_enclave() -> None:
    """Signing tools and loaders have it among their strings."""
    plain = small_enclave(note=None, trailing=b"sgx_metadata\0" + bytes(30) + b"sgx_metadata\0")
    assert paths([RpmFile("/usr/lib64/libsgx_urts.so", plain)]) == []
    assert not is_enclave(b"\x7fELFsgx_metadata\0")
    note = b"\x0d\0\0\0" + bytes(8) + b"sgx_metadata\0"
    assert is_enclave(b"\x7fELF" + bytes(60) + note)
    assert not is_enclave(b"MZ" + bytes(60) + note)


def test_a_link_instead_of_the_enclave_folder_is_seen() -> None:
    for path in ("/usr/x86_64-intel-sgx", "/usr/x86_64-intel-sgx/lib64"):
        (one,) = links_of([link(path, "/opt/others")]).leaving()
        assert one.path == path
    assert links_of([link("/usr/lib64", "/opt/others")]).leaving() == ()


def elf(*, note: bytes = b"", embedded: bytes = b"") -> bytes:
    """A small program with data in it."""
    plain = small_enclave(note=None)
    return plain + bytes(-len(plain) % 16) + note + embedded


NOTE = struct.pack("<III", 13, 8, 1) + b"sgx_metadata\0"


@pytest.mark.parametrize("inner", [BUILT, SIGNED])
def test_a_program_that_holds_an_enclave_as_data(inner: bytes) -> None:
    program = elf(embedded=inner + b"between" + inner)
    start = program.index(b"\x7fELF", 1)
    assert enclaves_within(program) == (start, start + len(inner) + 7)
    (item,) = found([RpmFile("/usr/bin/signer", program)])
    assert item == EmbeddedEnclaves("/usr/bin/signer", (start, start + len(inner) + 7))


@pytest.mark.parametrize(
    "hidden",
    [
        # A note of the program's own, which a loader may find.
        elf(note=NOTE + bytes(8), embedded=SIGNED),
        elf(note=NOTE + b"anything"),
        # Not a whole enclave.
        elf(embedded=SIGNED[:-200]),
        elf(embedded=SIGNED[64:]),
        # An enclave with another one in it.
        SIGNED + SIGNED,
        BUILT + SIGNED,
    ],
)
def test_an_enclave_in_disguise_is_no_data(hidden: bytes) -> None:
    assert enclaves_within(hidden) == ()
    (item,) = found([RpmFile("/usr/bin/x", hidden)])
    assert isinstance(item, PackedEnclave)


def test_what_stands_in_the_enclave_folder_is_no_data() -> None:
    (item,) = found([RpmFile(PCE, elf(embedded=SIGNED))])
    assert isinstance(item, PackedEnclave)
    assert item.problem is not None


def test_many_headers_cost_bounded_time() -> None:
    table = struct.pack(
        "<4sBBB9xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 3, 62, 1, 0, 0, 64, 0, 64, 56, 0, 64, 65535, 0
    )
    hostile = elf(note=b".note.sgxmeta" + NOTE + bytes(8)) + (table + bytes(64)) * 80_000
    start = time.process_time()
    assert enclaves_within(hostile) == ()
    assert time.process_time() - start < 10


def test_many_notes_cost_bounded_memory() -> None:
    """Each says that all behind it is its content."""
    note = struct.pack("<III", len(b"sgx_metadata\0"), 0xFFFFFFFF, 1) + b"sgx_metadata\0"
    hostile = b"\x7fELF" + note * 4_000
    tracemalloc.start()
    assert enclaves_within(hostile) == ()
    assert not is_debug_file(hostile)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_debug_files(tmp_path: Path) -> None:
    """As find-debuginfo splits them off with eu-strip."""
    for tool in ("gcc", "eu-strip"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    for content, expected in ((".zero 20480", True), (".zero 20479; .byte 1", False)):
        source, file, debug = (tmp_path / name for name in ("e.c", "e.so", "e.debug"))
        source.write_text(
            "int f(int x) { return x * 3; }\n"
            '__asm__(".section .note.sgxmeta,\\"\\",@note; .long 13, 20480, 1;"\n'
            f'".ascii \\"sgx_metadata\\\\0\\"; {content}; .text");\n'
        )
        subprocess.run(
            ["gcc", "-g", "-shared", "-fPIC", "-nostdlib", "-o", file, source], check=True
        )
        assert not is_debug_file(file.read_bytes())
        subprocess.run(["eu-strip", "--remove-comment", "-f", debug, file], check=True)
        assert is_debug_file(debug.read_bytes()) is expected
        path = "/usr/lib/debug/usr/x86_64-intel-sgx/lib64/libsgx_pce.so-2.25-1.x86_64.debug"
        (item,) = found([RpmFile(path, debug.read_bytes())])
        assert isinstance(item, PackedEnclave)
        assert (item.problem is None, item.signed) == (expected, False)
