# SPDX-License-Identifier: GPL-2.0-or-later
"""Headers and payloads: good ones are read, and every lie is refused by name."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import random
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from sgx_enclaves import decompress
from sgx_enclaves.errors import (
    ArchiveError,
    InputError,
    LimitError,
    PackageDamagedError,
    PackageError,
    SgxEnclavesError,
    UnsupportedError,
)
from sgx_enclaves.limits import ArchiveLimits, PackageLimits
from sgx_enclaves.rpm.librpm import librpm
from sgx_enclaves.rpm.payload import packed
from sgx_enclaves.rpm.reader import Package, open_package
from tests.support_rpm import (
    LEAD,
    TRAILER,
    Raw,
    RpmFile,
    at_a_path,
    compress,
    cpio_of,
    folder,
    header,
    link,
    newc,
    write_rpm,
)

DATA = bytes(range(256)) * 50
FILES = (
    folder("/usr/lib"),
    RpmFile("/usr/lib/a", DATA, 0o100755),
    RpmFile("/usr/lib/empty"),
    link("/usr/lib/b", "a"),
    RpmFile("/usr/lib/null", mode=0o020666),
    RpmFile("/usr/lib/ghost", b"gone", ghost=True),
)


def contents(data: bytes, limits: Optional[PackageLimits] = None) -> dict[str, bytes]:
    """Path to content of everything in a package, all checks done."""
    with at_a_path(data) as path, packed(path, limits or PackageLimits()) as (_package, files):
        return {f.file.path: b"".join(f.chunks) for f in files}


def parsed(data: bytes) -> Package:
    with at_a_path(data) as path, open_package(path) as (package, _stream):
        return package


def raised_by(files: Iterator[Any]) -> str:
    with pytest.raises(PackageDamagedError) as raised:
        next(files)
    return raised.value.message


@pytest.mark.parametrize("stripped", [False, True])
@pytest.mark.parametrize("compressor", ["gzip", "xz", "zstd", None])
def test_a_good_package_is_read(compressor: Optional[str], stripped: bool) -> None:
    if compressor == "zstd":
        pytest.importorskip("zstandard")
    found = contents(write_rpm(FILES, compressor=compressor, stripped=stripped))
    assert found == {"/usr/lib/a": DATA, "/usr/lib/empty": b""}


def test_what_the_header_says() -> None:
    package = parsed(write_rpm(FILES, provides=["sgx-enclave(pce:signed)", "x"]))
    assert package.nevra == "sample-1.0-1.x86_64"
    assert [p.name for p in package.provides] == ["sgx-enclave(pce:signed)", "x"]
    assert [f.size for f in package.files] == [0, len(DATA), 0, 1, 0, 4]
    assert package.files[1].digest == hashlib.sha256(DATA).hexdigest()
    assert package.files[1].mode == 0o100755
    assert package.files[3].target == "a"
    assert package.files[5].ghost
    assert parsed(write_rpm((), tags={1003: [2]})).nevra == "sample-2:1.0-1.x86_64"
    assert parsed(write_rpm((), tags={1044: None})).nevra == "sample-1.0-1.src"
    assert contents(write_rpm(())) == {}


@pytest.mark.parametrize("stripped", [False, True])
def test_hard_links_have_their_content_once(stripped: bool) -> None:
    files = [RpmFile("/a", DATA, inode=7), RpmFile("/b", DATA, inode=7), RpmFile("/c", b"c")]
    with at_a_path(write_rpm(files, stripped=stripped)) as path, packed(path) as (_, members):
        seen = {f.file.path: (f.links, b"".join(f.chunks)) for f in members}
    assert seen == {"/b": (("/a",), DATA), "/c": ((), b"c")}


def test_the_last_hard_link_carries_the_content() -> None:
    """So rpm writes it, and only so librpm reads it."""
    files = [RpmFile("/a", DATA, inode=7), RpmFile("/b", DATA, inode=7)]
    cpio = newc("./a", DATA, 0o100644) + newc("./b", b"", 0o100644) + TRAILER
    with pytest.raises(PackageError, match="'/a' has another size"):
        contents(write_rpm(files, cpio=cpio))


def test_files_without_inodes_are_no_links() -> None:
    files = [RpmFile("/a", b"1"), RpmFile("/b", b"2")]
    assert contents(write_rpm(files, tags={1096: [0, 0]})) == {"/a": b"1", "/b": b"2"}


def test_older_digests_are_checked_too() -> None:
    md5 = hashlib.md5(DATA, usedforsecurity=False).hexdigest()
    files = [RpmFile("/a", DATA, digest=md5)]
    none: dict[int, Any] = {5011: None, 5092: None, 5093: None}
    good = write_rpm(files, tags=none)
    assert contents(good) == {"/a": DATA}
    bad = [replace(files[0], digest="0" * 32)]
    with pytest.raises(PackageDamagedError, match="digest of '/a'"):
        contents(write_rpm(bad, tags=none))
    head = good[good.rindex(b"\x8e\xad\xe8\x01") : good.rindex(b"\x1f\x8b\x08")]
    sha1 = hashlib.sha1(head, usedforsecurity=False).hexdigest()
    assert parsed(write_rpm(files, tags=none, signature={273: None, 269: sha1})).name == "sample"
    with pytest.raises(PackageDamagedError, match="SHA1 digest of the header"):
        parsed(write_rpm(files, tags=none, signature={273: None, 269: "0" * 40}))


def test_a_stream_of_unknown_size_is_read_to_its_end() -> None:
    assert contents(write_rpm(FILES, signature={1000: None}))["/usr/lib/a"] == DATA


@pytest.mark.parametrize(
    ("what", "changes", "message"),
    [
        ("lead", {"lead": b"\x7fELF" + LEAD[4:]}, "not an RPM package"),
        ("lead version", {"lead": LEAD[:4] + b"\x09" + LEAD[5:]}, "not an RPM package"),
        ("no region", {"region": None}, "immutable region"),
        ("another region", {"region": 62}, "immutable region"),
        ("no digest", {"signature": {273: None}}, "no digest of its header"),
        ("digest", {"signature": {273: "0" * 64}}, "SHA256 digest of the header is wrong"),
        ("digest type", {"signature": {273: [1]}}, "SHA256HEADER does not hold what it should"),
        ("no name", {"tags": {1000: None}}, "no NAME"),
        ("empty version", {"tags": {1001: ""}}, "no VERSION"),
        ("number for a name", {"tags": {1000: [1]}}, "malformed"),
        ("unknown type", {"tags": {1000: Raw(99, 1, b"x")}}, "malformed"),
        ("no items", {"tags": {1000: Raw(6, 0, b"x")}}, "malformed"),
        ("outside", {"tags": {1000: Raw(6, 1, b"", offset=1 << 31)}}, "malformed"),
        ("too many items", {"tags": {1003: Raw(4, 1 << 30, b"")}}, "malformed"),
        ("two strings", {"tags": {1000: Raw(6, 2, b"a\0b\0")}}, "malformed"),
    ],
)
def test_headers_that_lie(what: str, changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(PackageError, match=message):
        parsed(write_rpm(FILES, **changes))


def test_a_tag_cannot_be_there_twice() -> None:
    good = write_rpm(())
    at = good.rindex(b"\x8e\xad\xe8\x01") + 16 + 16
    twice = good[: at + 16] + good[at : at + 16] + good[at + 32 :]
    with pytest.raises(PackageError, match="a header is malformed"):
        parsed(twice)


def test_a_tag_with_two_contents_is_refused() -> None:
    """Of those librpm takes one or the other."""
    head = header({1000: "a", 1001: "b", 1002: "1"}, 63)
    at = head.index((1001).to_bytes(4, "big"))
    head = head[:at] + (1000).to_bytes(4, "big") + head[at + 4 :]
    sig = header({273: hashlib.sha256(head).hexdigest()}, 62)
    with pytest.raises(PackageError, match="each tag once"):
        parsed(LEAD + sig + bytes(-len(sig) % 8) + head)


def test_a_string_needs_its_end() -> None:
    head = header({1000: Raw(8, 20, b"x\0yyyyyy")}, 63)
    sig = header({273: hashlib.sha256(head).hexdigest()}, 62)
    with pytest.raises(PackageError, match="a header is malformed"):
        parsed(LEAD + sig + bytes(-len(sig) % 8) + head)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({1028: [1]}, "about FILESIZES"),
        ({1030: [0o100644]}, "about FILEMODES"),
        ({1035: ["00"]}, "about FILEDIGESTS"),
        ({1036: None}, "about FILELINKTOS"),
        ({1037: [0]}, "about FILEFLAGS"),
        ({1095: [1]}, "about FILEDEVICES"),
        ({1096: [1]}, "about FILEINODES"),
        ({1116: [0]}, "about file names"),
        ({1116: [0, 0, 9, 0, 0, 0]}, "about folders"),
        ({1118: ["/../", "/"]}, "leaves the tree"),
        ({1118: ["usr/lib/", "/"]}, "leaves the tree"),
        ({1118: ["/a//", "/"]}, "leaves the tree"),
        ({1117: ["x", "y", "y", "z", "v", "w"]}, "twice"),
        ({1030: [0o170644] * 6}, "unknown kind"),
        # librpm dies of it.
        ({1118: Raw(9, 2, b"/usr/lib/\0/usr/\0")}, "DIRNAMES does not hold what it should"),
    ],
)
def test_file_lists_that_lie(tags: dict[int, Any], message: str) -> None:
    with pytest.raises(PackageError, match=message):
        _ = parsed(write_rpm(FILES, tags=tags)).files


def test_provides_must_agree() -> None:
    with pytest.raises(PackageError, match="about Provides"):
        _ = parsed(write_rpm((), provides=["a", "b"], tags={1113: ["1"]})).provides


def test_a_path_with_dots_is_refused() -> None:
    for path in ("/usr/../../etc/passwd", "/usr/./x", "/..", "relative"):
        with pytest.raises(PackageError, match="leaves the tree"):
            contents(write_rpm([RpmFile(path, b"x")]))


def test_unknown_hashes_are_named() -> None:
    with pytest.raises(UnsupportedError, match="file digests are of an unknown hash"):
        contents(write_rpm(FILES, tags={5011: [77]}))
    with pytest.raises(UnsupportedError, match="payload digests are of an unknown hash"):
        contents(write_rpm(FILES, tags={5093: [77]}))


@pytest.mark.parametrize("unpacked", [False, True])
@pytest.mark.parametrize("compressor", ["gzip", "xz", "zstd"])
def test_a_package_of_rpm_6(tmp_path: Path, compressor: str, unpacked: bool) -> None:
    """No size in the signature header, long sizes, three digests, perhaps left unpacked."""
    data = write_rpm(FILES, v6=True, compressor=compressor, unpacked=unpacked)
    path = tmp_path / "x.rpm"
    path.write_bytes(data)
    with packed(str(path)) as (_package, members):
        found = {f.file.path: b"".join(f.chunks) for f in members}
    assert found["/usr/lib/a"] == DATA
    assert found == contents(data)
    for cut in (1, 5, 200):
        path.write_bytes(data[:-cut])
        # Of one that was left unpacked, a part may still be more than the packed one.
        message = "unpacked" if unpacked else "truncated"
        with pytest.raises(PackageDamagedError, match=message), open_package(str(path)):
            pass
        with pytest.raises((PackageDamagedError, ArchiveError)):
            contents(data[:-cut])
    path.write_bytes(data + b"x")
    with pytest.raises(PackageDamagedError, match="behind the end"), open_package(str(path)):
        pass


@pytest.mark.parametrize("tag", [5092, 5121, 5123])
def test_every_digest_of_the_payload_counts(tag: int) -> None:
    with pytest.raises(PackageDamagedError, match="digest of the payload"):
        contents(write_rpm(FILES, v6=True, tags={tag: "0" * 64}))
    # Of a payload that was left unpacked, the other ones count.
    assert contents(write_rpm(FILES, v6=True, unpacked=True, tags={tag: "0" * 64}))


@pytest.mark.parametrize("tag", [5097, 5122, 5124])
def test_every_digest_of_the_unpacked_payload_counts(tag: int) -> None:
    with pytest.raises(PackageDamagedError, match="digest of the payload"):
        contents(write_rpm(FILES, v6=True, unpacked=True, tags={tag: "0" * 64}))


def test_without_its_digests_an_unpacked_payload_is_refused() -> None:
    with pytest.raises(PackageError, match="not compressed with gzip"):
        contents(write_rpm(FILES, v6=True, unpacked=True, tags={5097: None}))
    with pytest.raises(PackageError, match="not compressed with gzip"):
        contents(write_rpm(FILES, unpacked=True, signature={1000: None}))


@pytest.mark.parametrize(("tag", "name"), [(273, "SHA256"), (279, "SHA3_256"), (269, "SHA1")])
def test_every_digest_of_the_header_counts(tag: int, name: str) -> None:
    with pytest.raises(PackageDamagedError, match=f"{name} digest of the header is wrong"):
        parsed(write_rpm(FILES, v6=True, signature={tag: "0" * 40}))


def test_a_payload_of_another_size_than_the_header_says() -> None:
    for size in (0, 5, 1 << 40, (1 << 64) - 1):
        with pytest.raises(SgxEnclavesError):
            contents(write_rpm(FILES, v6=True, tags={5112: [size]}))


A = RpmFile("/a", DATA)


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ([replace(A, digest="0" * 64)], PackageDamagedError, "digest of '/a' is wrong"),
        ([replace(A, cpio_data=DATA[:-1] + b"x")], PackageDamagedError, "digest of '/a'"),
        ([replace(A, size=5)], PackageError, "another size"),
        ([replace(A, cpio_data=DATA[:100])], PackageError, "another size"),
        ([replace(A, cpio_size=0xFFFFFFFF)], PackageError, "another size"),
        ([replace(A, cpio_mode=0o120777)], PackageError, "another kind of file"),
        ([replace(A, cpio_mode=0)], PackageError, "another kind of file"),
        ([replace(A, cpio_name="./b")], PackageError, "'./b' is not in the header"),
        ([replace(A, cpio_name="../../etc/passwd")], PackageError, "is not in the header"),
        ([replace(A, ghost=True), A], PackageError, "twice"),
        ([replace(folder("/a"), cpio_data=b"x")], PackageError, "another size"),
        ([replace(link("/a", "b"), cpio_data=b"c")], PackageError, "another target"),
        ([replace(link("/a", "bcd"), cpio_data=b"b")], PackageError, "another file in the payload"),
        ([replace(link("/a", "b"), cpio_data=b"bb")], PackageError, "another size"),
        (
            [replace(A, inode=1), RpmFile("/b", b"other", inode=1)],
            PackageError,
            "different contents",
        ),
        (
            [replace(A, inode=1), RpmFile("/b", DATA, inode=1, cpio_data=b"")],
            PackageError,
            "another size",
        ),
    ],
)
def test_payloads_that_lie(
    files: Sequence[RpmFile], error: type[SgxEnclavesError], message: str
) -> None:
    with pytest.raises(error, match=message):
        contents(write_rpm(files))


def test_a_file_cannot_come_twice() -> None:
    entry = newc("./a", DATA, 0o100644)
    for files in ([A], [A, RpmFile("/b", b"")]):
        with pytest.raises(PackageError, match="'/a' is in the payload twice"):
            contents(write_rpm(files, cpio=entry + entry + TRAILER))


def test_content_of_hard_links_cannot_come_twice() -> None:
    files = [replace(A, inode=1), RpmFile("/b", DATA, inode=1)]
    cpio = newc("./a", DATA, 0o100644) + newc("./b", DATA, 0o100644) + TRAILER
    with pytest.raises(PackageError, match="another size"):
        contents(write_rpm(files, cpio=cpio))


def test_a_ghost_is_not_in_the_payload() -> None:
    with pytest.raises(PackageError, match="only as a %ghost"):
        contents(write_rpm([replace(A, ghost=True)], cpio=newc("./a", DATA, 0o100644) + TRAILER))


@pytest.mark.parametrize(
    ("cpio", "error", "message"),
    [
        (b"", PackageDamagedError, "payload ends too early"),
        (TRAILER, PackageDamagedError, "1 files are not in the payload, among them '/a'"),
        (cpio_of([A])[:200], PackageDamagedError, "payload ends too early"),
        (cpio_of([A])[:-130], PackageDamagedError, "payload ends too early"),
        (cpio_of([A]) + b"more", PackageError, "bytes behind the end of the payload"),
        (cpio_of([A]) + bytes(600), PackageError, "bytes behind the end of the payload"),
        (b"070707" + bytes(200), PackageError, "not a cpio entry"),
        (b"\xed\xab\xee\xdb" + bytes(200), PackageError, "not a cpio entry"),
        (gzip.compress(cpio_of([A])), PackageError, "not a cpio entry"),
        (b"070701" + b"+1_2 34x" * 13, PackageError, "not a number"),
        (b"070701" + b"0" * 104, LimitError, "name in the payload is empty or too long"),
        (b"070701" + b"f" * 104, LimitError, "name in the payload is empty or too long"),
        (cpio_of([A]).replace(b"./a\0", b"./ax"), PackageError, "is not in the header"),
        (newc("TRAILER!!!", b"x", 0), PackageError, "trailer has content"),
        (b"07070X00000009" + bytes(200), PackageError, "does not list"),
        (b"07070Xzzzzzzzz" + bytes(200), PackageError, "not a number"),
    ],
)
def test_cpio_that_is_broken(cpio: bytes, error: type[SgxEnclavesError], message: str) -> None:
    with pytest.raises(error, match=message):
        contents(write_rpm([A], cpio=cpio))


def test_who_passes_over_an_error_does_not_come_to_the_end() -> None:
    files = [A, RpmFile("/b", b"b")]
    none: dict[int, Any] = {5092: None, 5093: None}
    data = write_rpm(files, payload=gzip.compress(cpio_of(files)[:9000], 0), tags=none)
    with at_a_path(data) as path, packed(path) as (_package, members):
        member = next(members)
        with pytest.raises(PackageDamagedError, match="ends too early"):
            list(member.chunks)
        with pytest.raises(PackageError, match="not read to its end"):
            list(members)


def test_padding_behind_the_trailer_is_no_matter() -> None:
    assert contents(write_rpm([A], cpio=cpio_of([A]) + bytes(300))) == {"/a": DATA}


def test_the_digest_of_the_payload_is_checked_before_anything_is_unpacked() -> None:
    data = write_rpm([A], tags={5092: ["0" * 64]})
    with at_a_path(data) as path, packed(path) as (_package, files):
        assert raised_by(files) == "the digest of the payload is wrong"


@pytest.mark.parametrize("compressor", ["gzip", "xz", "zstd", None])
def test_every_truncation_is_noticed(tmp_path: Path, compressor: Optional[str]) -> None:
    good = write_rpm(FILES, compressor=compressor)
    sizeless = write_rpm(FILES, compressor=compressor, signature={1000: None})
    path = tmp_path / "x.rpm"
    for size in [*range(0, len(good), 97), len(good) - 1]:
        with pytest.raises(PackageError):
            contents(good[:size])
        path.write_bytes(good[:size])
        with pytest.raises(PackageError), open_package(str(path)):
            pass
    for size in range(100, len(sizeless) - 100, 211):
        with pytest.raises((PackageError, ArchiveError)):
            contents(sizeless[:size])


def test_the_size_of_the_file_is_the_stated_one(tmp_path: Path) -> None:
    path = tmp_path / "x.rpm"
    path.write_bytes(write_rpm(FILES)[:-10])
    with pytest.raises(PackageDamagedError, match="truncated"), open_package(str(path)):
        pass
    path.write_bytes(write_rpm(FILES) + b"x")
    with pytest.raises(PackageDamagedError, match="behind the end"), open_package(str(path)):
        pass


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"), open_package(str(tmp_path / "no")):
        pass
    with pytest.raises(InputError, match="Is a directory"), open_package(str(tmp_path)):
        pass
    with pytest.raises(InputError, match="regular file"), open_package("/dev/zero"):
        pass


@pytest.mark.parametrize("compressor", ["lzip", "made-up"])
def test_other_compressors_are_named(compressor: str) -> None:
    with pytest.raises(
        UnsupportedError, match=f"compressed with {compressor}.*gzip, bzip2, xz, lzma or zstd"
    ):
        contents(write_rpm(FILES, payload=b"x" * 50, tags={1125: compressor}))


@pytest.mark.parametrize("compressor", ["bzip2", "lzma"])
def test_older_compressors_are_read(compressor: str) -> None:
    cpio = cpio_of(FILES)
    packed_by = {"bzip2": bz2.compress, "lzma": lambda d: lzma.compress(d, lzma.FORMAT_ALONE)}
    payload = packed_by[compressor](cpio)
    assert contents(write_rpm(FILES, compressor=compressor, payload=payload))["/usr/lib/a"] == DATA
    none: dict[int, Any] = {5092: None, 5093: None}
    cut = write_rpm(FILES, compressor=compressor, payload=payload[:-9], tags=none)
    with pytest.raises(SgxEnclavesError):
        contents(cut)


def test_without_librpm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_rpm(FILES)
    librpm.cache_clear()
    monkeypatch.setitem(sys.modules, "rpm", None)
    with pytest.raises(UnsupportedError, match=r"librpm.*install python3-rpm"):
        parsed(data)


def test_other_payload_formats_are_named() -> None:
    with pytest.raises(UnsupportedError, match="format 'drpm'"):
        contents(write_rpm(FILES, tags={1124: "drpm"}))


def test_the_compressor_must_be_the_stated_one() -> None:
    with pytest.raises(PackageError, match="not compressed with xz"):
        contents(write_rpm(FILES, tags={1125: "xz"}))


def test_zstd_without_its_module_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("zstandard")
    data = write_rpm(FILES, compressor="zstd")
    monkeypatch.setattr(decompress, "_zstd", decompress._zstd.__wrapped__)
    for name in ("compression.zstd", "backports.zstd", "zstandard", "pyzstd"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UnsupportedError, match="install python3-zstandard"):
        contents(data)


@pytest.mark.parametrize("compressor", ["gzip", "xz", "zstd"])
def test_broken_compression(compressor: str) -> None:
    packed = bytearray(compress(cpio_of(FILES), compressor))
    packed[len(packed) // 2] ^= 0xFF
    tags: dict[int, Any] = {5092: None, 5093: None}
    with pytest.raises(SgxEnclavesError):
        contents(write_rpm(FILES, payload=bytes(packed), compressor=compressor, tags=tags))


def test_a_sparse_claim_of_10_gib_is_refused_before_anything_is_unpacked() -> None:
    files = [RpmFile("/a", DATA, size=10 << 30)]
    start = time.process_time()
    with pytest.raises(LimitError, match=r"claims files that are larger.*10737418240 bytes"):
        contents(write_rpm(files))
    with pytest.raises(LimitError, match="claims files that are larger"):
        contents(write_rpm(files, stripped=True, signature={1000: None}))
    assert time.process_time() - start < 1


def _bomb(size: int) -> bytes:
    """A gzip stream of a cpio entry with `size` zeros."""
    packer = zlib.compressobj(9, wbits=31)
    parts = [packer.compress(newc("./a", b"", 0o100644, size=size))]
    parts += [packer.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join([*parts, packer.flush()])


def test_a_bomb_is_stopped_early() -> None:
    limits = PackageLimits(payload=ArchiveLimits(ratio=100, ratio_grace=1 << 20))
    files = [RpmFile("/a", size=64 << 20)]
    with pytest.raises(LimitError, match="claims files that are larger"):
        contents(write_rpm(files, payload=_bomb(64 << 20), signature={1000: None}), limits)
    # A package that states its size is refused before that.
    with pytest.raises(LimitError, match="claims files that are larger"):
        contents(write_rpm(files, payload=_bomb(64 << 20)), limits)


def test_an_xz_dictionary_that_wants_gigabytes_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 1 << 29}]
    packed = lzma.compress(cpio_of(FILES), filters=filters)
    with pytest.raises(ArchiveError, match=r"xz data is broken.*(?i:memory)"):
        contents(write_rpm(FILES, payload=packed, compressor="xz"))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (PackageLimits(header_size=64), "header is too large"),
        (PackageLimits(header_entries=3), "header is too large"),
        (PackageLimits(items=3), "DIRNAMES has too many items|BASENAMES has too many items"),
        (PackageLimits(path_size=5), "path is too long"),
        (PackageLimits(paths_size=20), "all paths together"),
        (PackageLimits(payload=ArchiveLimits(archive_size=20)), "archive is too large"),
        (PackageLimits(payload=ArchiveLimits(total_size=500)), "larger than they may be"),
    ],
)
def test_limits(limits: PackageLimits, message: str) -> None:
    with pytest.raises(LimitError, match=message):
        contents(write_rpm(FILES), limits)


def test_a_huge_header_claim_costs_nothing() -> None:
    claim = LEAD + b"\x8e\xad\xe8\x01\0\0\0\0" + b"\0\0\xff\xff\x03\xff\xff\xff"
    with pytest.raises(PackageDamagedError, match="truncated"):
        parsed(claim)
    with pytest.raises(LimitError, match="header is too large"):
        parsed(LEAD + b"\x8e\xad\xe8\x01\0\0\0\0" + b"\xff" * 8)


GOOD = write_rpm(FILES, provides=["a"])


def survives(data: bytes) -> None:
    try:
        contents(data)
    except SgxEnclavesError as error:
        assert str(error)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_damage_never_escapes_the_error_tree(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    data = bytearray(GOOD)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(data))
        if chance.random() < 0.2:
            del data[at : at + chance.randint(1, 40)]
        else:
            data[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    survives(bytes(data))


VALUES = st.one_of(
    st.text("ab/.\0", max_size=8),
    st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=7),
    st.lists(st.text("ab/.", max_size=5), min_size=1, max_size=7),
    st.builds(
        Raw,
        st.integers(0, 11),
        st.integers(0, 1 << 32).map(lambda n: n & 0xFFFFFFFF),
        st.binary(max_size=40),
        st.one_of(st.none(), st.integers(0, 0xFFFFFFFF)),
    ),
)
# The file list, what packages are called and provide, and what says how to read the payload.
TAGS = st.sampled_from(
    [
        *(*range(1000, 1004), 1022, 1027, 1028, 1030, *range(1035, 1038), 1047, 1095, 1096),
        *(*range(1112, 1114), *range(1116, 1119), 1124, 1125, 5008, 5011, 5092, 5093, 5097),
        *(5112, 5113, *range(5121, 5125)),
    ]
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(TAGS, VALUES, max_size=4))
def test_tags_of_any_kind_never_escape_the_error_tree(tags: dict[int, Any]) -> None:
    """With right digests, so that the damage gets past them."""
    data = write_rpm(FILES, tags=tags)
    survives(data)
    try:
        _ = parsed(data).provides
    except SgxEnclavesError as error:
        assert str(error)


def test_file_names_in_the_old_form_are_refused() -> None:
    """Rpm takes them from there when there are no others; we would see no file at all."""
    names = {1027: ["/usr/x86_64-intel-sgx/lib64/libsgx_pce.signed.so"]}
    with pytest.raises(PackageError, match="older than RPM 4"):
        parsed(write_rpm([], tags=names))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_as_a_header(data: bytes) -> None:
    survives(LEAD + b"\x8e\xad\xe8\x01\0\0\0\0" + data)


PIECES = st.one_of(
    st.binary(max_size=130),
    st.builds(
        lambda name, data, mode, size: newc(name, data, mode, size=size),
        st.sampled_from(["./usr/lib/a", "./usr/lib", "./x", "TRAILER!!!", ""]),
        st.binary(max_size=20),
        st.sampled_from([0o100755, 0o040755, 0o120777, 0]),
        st.one_of(st.none(), st.integers(0, 0xFFFFFFFF)),
    ),
    st.integers(0, 0xFFFFFFFF).map(lambda n: b"07070X%08x" % n),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=6))
def test_any_cpio_never_escapes_the_error_tree(pieces: list[bytes]) -> None:
    survives(write_rpm(FILES, cpio=b"".join(pieces), compressor=None))
