# SPDX-License-Identifier: GPL-2.0-or-later
"""Archives: honest ones are read, each kind of hostile one is refused."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import stat
import tarfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from sgx_enclaves import decompress
from sgx_enclaves.errors import (
    ArchiveError,
    InputError,
    LimitError,
    SgxEnclavesError,
    UnsupportedError,
)
from sgx_enclaves.limits import ArchiveLimits
from sgx_enclaves.release.archive import read_members, unpack_tree
from tests.support.archives import list_members
from tests.unit.release import tarmaker as tm

SMALL = ArchiveLimits(
    archive_size=1 << 20,
    members=20,
    member_size=1 << 16,
    total_size=1 << 18,
    ratio=20,
    ratio_grace=1 << 15,
    kept_bytes=1 << 16,
)


@pytest.mark.parametrize("packer", sorted(tm.PACKERS))
def test_named_members_are_read(tmp_path: Path, packer: str) -> None:
    path = tm.write(
        tmp_path,
        tm.pax("comment", b"0123abcd", b"g"),
        tm.directory("top/"),
        tm.file("top/a", b"alpha"),
        tm.file("./top/b", b"beta" * 1000),
        pack=tm.PACKERS[packer],
    )
    assert read_members(path, ["top/a", "top/b"]) == {"top/a": b"alpha", "top/b": b"beta" * 1000}
    assert [member.name for member in list_members(path)] == ["top", "top/a", "top/b"]


@pytest.mark.parametrize("packer", ["gzip", "xz"])
def test_members_larger_than_a_chunk_are_whole(tmp_path: Path, packer: str) -> None:
    """Output that fills chunks exactly, and input that gives many chunks at once."""
    for size in (256 << 10, (256 << 10) - 1024, 3_000_000):
        content = (os.urandom(1000) * (size // 1000 + 1))[:size]
        path = tm.write(tmp_path, tm.file("a", content), pack=tm.PACKERS[packer])
        assert read_members(path, ["a"]) == {"a": content}


def test_zstd_is_read_and_bounded(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    pack = zstandard.ZstdCompressor().compress
    path = tm.write(tmp_path, tm.file("a", b"alpha"), pack=pack)
    assert read_members(path, ["a"]) == {"a": b"alpha"}
    whole = path.read_bytes()
    path.write_bytes(whole[:-6])
    with pytest.raises(ArchiveError):
        read_members(path, ["a"])
    bomb = tm.write(tmp_path, tm.file("a", bytes(60_000)), pack=pack)
    with pytest.raises(LimitError, match="bomb"):
        list_members(bomb, SMALL)


def test_zstd_without_its_module_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> None:
        raise ImportError

    monkeypatch.setattr(decompress, "_zstd", decompress._zstd.__wrapped__)
    monkeypatch.setattr("importlib.import_module", missing)
    path = tmp_path / "a.tar.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(60))
    with pytest.raises(UnsupportedError, match="zstandard"):
        list_members(path)


def test_pythons_own_archives_agree(tmp_path: Path) -> None:
    """GNU and pax archives as other tools write them, with long names."""
    long_name = "d/" + "n" * 80 + "/" + "m" * 90
    for name, style in (("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        path = tmp_path / f"{name}.tar.gz"
        with tarfile.open(path, "w:gz", format=style) as tar:
            for member, content in ((long_name, b"long"), ("d/kurz", b"short")):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                info.mtime = 12
                tar.addfile(info, io.BytesIO(content))
        assert read_members(path, [long_name]) == {long_name: b"long"}
        assert {member.mtime for member in list_members(path)} == {12}


def test_missing_member_names_the_nearest(tmp_path: Path) -> None:
    path = tm.write(tmp_path, tm.file("psw/ae/libsgx_pce.signed.so"))
    with pytest.raises(ArchiveError, match=r"no member 'libsgx_pce\.signed\.so'") as caught:
        read_members(path, ["libsgx_pce.signed.so"])
    assert "psw/ae/libsgx_pce.signed.so" in str(caught.value)


HOSTILE = {
    "absolute name": [tm.file("/etc/passwd")],
    "absolute behind a dot": [tm.file(".//etc/passwd")],
    "dot-dot at the start": [tm.file("../a")],
    "dot-dot in the middle": [tm.file("a/../../b")],
    "dot-dot at the end": [tm.directory("a/..")],
    "empty part": [tm.file("a//b")],
    "empty name": [tm.file("")],
    "single dot inside": [tm.file("a/./b")],
    "newline in a name": [tm.file("a\nb")],
    "name twice": [tm.file("a"), tm.file("a")],
    "name twice, spelt otherwise": [tm.file("a"), tm.file("./a")],
    "directory over a file": [tm.file("a"), tm.directory("a/")],
    "file over a directory": [tm.file("a/b"), tm.file("a")],
    "file below a file": [tm.file("a"), tm.file("a/b")],
    "hard link": [tm.file("a"), tm.header("b", flag=b"1", target="a")],
    "symbolic link": [tm.symlink("a", "b")],
    "character device": [tm.header("a", flag=b"3")],
    "block device": [tm.header("a", flag=b"4")],
    "named pipe": [tm.header("a", flag=b"6")],
    "GNU sparse file": [tm.header("a", flag=b"S")],
    "pax sparse file": [tm.pax("GNU.sparse.major", b"1"), tm.file("a")],
    "unknown type": [tm.header("a", flag=b"Z")],
    "directory with content": [tm.header("a", 4, flag=b"5"), tm.padded(b"data")],
    "absolute pax name": [tm.pax("path", b"/a"), tm.file("b")],
    "dot-dot GNU name": [tm.gnu_long("../a"), tm.file("b")],
    "global pax name": [tm.pax("path", b"a", b"g"), tm.file("b")],
    "pax name not UTF-8": [tm.pax("path", b"\xff"), tm.file("b")],
    "pax size not a number": [tm.pax("size", b"-1"), tm.file("b")],
    "pax time not a number": [tm.pax("mtime", b"now"), tm.file("b")],
    "pax record without an end": [
        tm.header("p", 9, b"x") + tm.padded(b"9 path=ab"),
        tm.file("b"),
    ],
    "pax record of length 0": [tm.header("p", 9, b"x") + tm.padded(b"0 path=a\n"), tm.file("b")],
    "pax record longer than the header": [
        tm.header("p", 10, b"x") + tm.padded(b"99 path=a\n"),
        tm.file("b"),
    ],
    "extension without a member": [tm.pax("path", b"a")],
    "extensions without an end": [tm.pax("path", b"a")] * 20 + [tm.file("a")],
    "wrong checksum": [tm.header("a", checksum=1)],
    "size that is not octal": [tm.header("a", size_field=b"00000000009\0")],
    "negative base-256 size": [tm.header("a", size_field=b"\xff" * 12)],
    "member behind the end": [tm.file("a"), tm.END, tm.file("b")],
}


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_hostile_archives_are_refused(tmp_path: Path, case: str) -> None:
    path = tm.write(tmp_path, *HOSTILE[case])
    with pytest.raises((ArchiveError, UnsupportedError)) as caught:
        list_members(path)
    assert str(path) in str(caught.value)
    if case != "symbolic link":  # one that stays inside is fine in sources
        with pytest.raises((ArchiveError, UnsupportedError)):
            unpack_tree(path, tmp_path / "d", strip=0)
    assert not (tmp_path / "d").exists()


BEYOND = {
    "too many members": [tm.file(f"f{n}", b"") for n in range(21)],
    "too many implied directories": [tm.file("/".join("abcdefghijklmnopqrstuvw"), b"")],
    "member too large": [tm.file("a", os.urandom(1 << 16) + b"x")],
    "stream too large": [tm.file(f"f{n}", os.urandom(60_000)) for n in range(5)],
    "claimed size only": [tm.header("a", 8**10)],
    "base-256 size": [tm.header("a", size_field=b"\x80" + b"\x7f" * 11)],
    "pax size": [tm.pax("size", b"9999999999999999999"), tm.header("a")],
    "name too deep": [tm.pax("path", b"/".join([b"d"] * 70)), tm.file("a")],
    "name too long": [tm.pax("path", b"d" * 1025), tm.file("a")],
    "extension too large": [tm.header("p", 70_000, b"x") + bytes(70_144), tm.file("a")],
}


@pytest.mark.parametrize("case", sorted(BEYOND))
def test_limits_hold(tmp_path: Path, case: str) -> None:
    with pytest.raises(LimitError):
        list_members(tm.write(tmp_path, *BEYOND[case]), SMALL)


@pytest.mark.parametrize("packer", ["gzip", "xz"])
def test_bombs_stop_early(tmp_path: Path, packer: str) -> None:
    path = tm.write(tmp_path, tm.file("a", bytes(60_000)), pack=tm.PACKERS[packer])
    with pytest.raises(LimitError, match="bomb"):
        list_members(path, SMALL)


def test_the_default_limits_stop_a_bomb(tmp_path: Path) -> None:
    """Zeros without an end: refused once past the grace, by the default limits."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    path = tmp_path / "bomb.tar.gz"
    with path.open("wb") as out:
        out.write(packer.compress(tm.header("a", 1 << 29)))
        for _ in range(64):
            out.write(packer.compress(bytes(1 << 20)))
        out.write(packer.flush())
    with pytest.raises(LimitError, match="far more than it holds"):
        list_members(path)


def test_members_kept_together_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgx_enclaves.release.archive.DEFAULT_ARCHIVE_LIMITS", SMALL)
    path = tm.write(tmp_path, tm.file("a", os.urandom(40_000)), tm.file("b", os.urandom(40_000)))
    assert len(read_members(path, ["a"])) == 1
    with pytest.raises(LimitError, match="together"):
        read_members(path, ["a", "b"])


def test_packed_size_is_bounded(tmp_path: Path) -> None:
    path = tm.write(tmp_path, tm.file("a", os.urandom(60_000)))
    with pytest.raises(LimitError, match="too large"):
        list_members(path, ArchiveLimits(archive_size=50_000))


def test_many_empty_streams_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(b"") * 2000)
    with pytest.raises(LimitError, match="gzip streams"):
        list_members(path)


def test_streams_back_to_back_are_one(tmp_path: Path) -> None:
    whole = tm.file("a", b"alpha") + tm.END
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(whole[:700]) + gzip.compress(whole[700:]) + bytes(512))
    assert read_members(path, ["a"]) == {"a": b"alpha"}


@pytest.mark.parametrize("packer", sorted(tm.PACKERS))
def test_every_truncation_is_noticed(tmp_path: Path, packer: str) -> None:
    content = os.urandom(700)
    whole = tm.PACKERS[packer](tm.file("a", content) + bytes(512))
    path = tmp_path / "a"
    path.write_bytes(whole)
    assert read_members(path, ["a"]) == {"a": content}
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(ArchiveError):
            read_members(path, ["a"])


@pytest.mark.parametrize("packer", ["gzip", "xz"])
def test_bytes_behind_the_compressed_data_are_refused(tmp_path: Path, packer: str) -> None:
    path = tm.write(tmp_path, tm.file("a"), pack=tm.PACKERS[packer])
    path.write_bytes(path.read_bytes() + b"trailing")
    with pytest.raises(ArchiveError):
        list_members(path)


def test_an_xz_dictionary_made_to_hurt_is_refused(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 256 << 20}]
    path = tmp_path / "a"
    compressor = lzma.LZMACompressor(format=lzma.FORMAT_XZ, filters=filters)
    path.write_bytes(compressor.compress(tm.file("a") + tm.END) + compressor.flush())
    with pytest.raises(ArchiveError, match="xz"):
        list_members(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "nothing", "."):
        with pytest.raises(InputError):
            list_members(tmp_path / name)


def test_a_named_directory_is_no_member(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="is a directory, not a file"):
        read_members(tm.write(tmp_path, tm.directory("a")), ["a"])


def test_tree_is_laid_out(tmp_path: Path) -> None:
    path = tm.write(
        tmp_path,
        tm.directory("top/"),
        tm.file("top/run.sh", b"#!", mode=b"0004755\0"),
        tm.file("top/src/a.c", b"int a;"),
        tm.symlink("top/src/link.c", "../run.sh"),
        tm.symlink("top/alias", "src"),
    )
    dest = tmp_path / "made" / "tree"
    unpack_tree(path, dest)
    assert (dest / "alias" / "a.c").read_bytes() == b"int a;"
    assert os.readlink(dest / "src" / "link.c") == "../run.sh"
    assert stat.S_IMODE((dest / "run.sh").stat().st_mode) == 0o755
    assert stat.S_IMODE((dest / "src" / "a.c").stat().st_mode) == 0o644
    assert (dest / "src" / "a.c").stat().st_mtime == 1_700_000_000
    assert sorted(entry.name for entry in dest.parent.iterdir()) == ["tree"]
    with pytest.raises(InputError, match="in the way"):
        unpack_tree(path, dest)


ESCAPES = {
    "absolute": [tm.symlink("t/l", "/etc")],
    "above": [tm.symlink("t/l", "../../x")],
    "above once a part is dropped": [tm.symlink("t/l", "../x")],
    "through another link": [
        tm.symlink("t/a/b/up", "../.."),
        tm.symlink("t/a/b/c", "up/../../.."),
    ],
    "through another link, with few steps up": [
        tm.symlink("t/a/b/up", "../.."),
        tm.symlink("t/a/b/c", "up/../.."),
    ],
    "down and up": [tm.symlink("t/a/l", "b/../../../x")],
    "empty": [tm.symlink("t/l", "")],
    "file through a link": [tm.symlink("t/l", "d"), tm.file("t/l/f")],
    "file over a link": [tm.symlink("t/l", "d"), tm.file("t/l")],
    "link over a file": [tm.file("t/l"), tm.symlink("t/l", "d")],
    "two tops that fall together": [tm.file("t/a"), tm.file("u/a")],
    "nothing left": [tm.file("a")],
}


@pytest.mark.parametrize("case", sorted(ESCAPES))
def test_links_cannot_lead_out(tmp_path: Path, case: str) -> None:
    path = tm.write(tmp_path, *ESCAPES[case])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArchiveError):
        unpack_tree(path, tmp_path / "tree")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_that_is_dropped_whole_leads_nowhere(tmp_path: Path) -> None:
    path = tm.write(tmp_path, tm.symlink("t/l", "../x"), tm.file("t/d/f"))
    with pytest.raises(ArchiveError, match="lead out"):
        unpack_tree(path, tmp_path / "tree", strip=1)
    unpack_tree(path, tmp_path / "tree", strip=2)
    assert [entry.name for entry in (tmp_path / "tree").iterdir()] == ["f"]


def test_a_list_shows_no_link_that_leads_out(tmp_path: Path) -> None:
    path = tm.write(tmp_path, tm.symlink("a/l", "../b"))
    assert [member.target for member in list_members(path, links=True)] == ["../b"]
    with pytest.raises(ArchiveError, match="lead out"):
        list_members(tm.write(tmp_path, tm.symlink("a/l", "../../b")), links=True)


VALID = b"".join(
    [
        tm.pax("comment", b"x", b"g"),
        tm.directory("t/"),
        tm.pax("path", b"t/long"),
        tm.file("t/short", b"content" * 20),
        tm.gnu_long("t/" + "n" * 120),
        tm.file("t/n", b"gnu"),
        tm.symlink("t/l", "long"),
        tm.END,
    ]
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    packer=st.sampled_from(sorted(tm.PACKERS)),
    edits=st.lists(
        st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=4
    ),
    before_packing=st.booleans(),
    cut=st.integers(0, len(VALID)),
)
def test_damaged_archives_end_in_an_error_or_a_list(
    tmp_path: Path, packer: str, edits: list[tuple[int, int]], before_packing: bool, cut: int
) -> None:
    pack = tm.PACKERS[packer]
    data = bytearray(VALID if before_packing else pack(VALID))
    for offset, value in edits:
        data[offset % len(data)] = value
    path = tmp_path / "a"
    path.write_bytes(pack(bytes(data[:cut] or data)) if before_packing else bytes(data))
    try:
        members = list_members(path, SMALL, links=True)
    except SgxEnclavesError as error:
        assert error.message
    else:
        assert all(not m.name.startswith("/") and ".." not in m.name.split("/") for m in members)


PART = st.text(st.sampled_from("abcXYZ._- ü"), min_size=1, max_size=40).filter(
    lambda text: text not in (".", "..")
)


@settings(max_examples=40, deadline=None)
@given(
    files=st.dictionaries(
        st.lists(PART, min_size=1, max_size=4).map(lambda parts: "t/" + "/".join(parts)),
        st.binary(max_size=2000),
        min_size=1,
        max_size=6,
    ),
    style=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_any_honest_tree_is_read_as_tarfile_reads_it(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], style: int
) -> None:
    names = set(files)
    for name in list(files):
        if any(other.startswith(name + "/") for other in names):
            del files[name]
            names.discard(name)
    path = tmp_path_factory.mktemp("tree") / "a.tar"
    with tarfile.open(path, "w", format=style) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert read_members(path, list(files)) == files
    assert {m.name for m in list_members(path) if m.is_file} == set(files)
