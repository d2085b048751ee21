# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes RPM packages byte by byte, as wrong as a test asks for.

Shares nothing with the reader under test and checks nothing. `write_rpm(files)`
gives a good package; every tag, entry, digest and size can be overridden:

    write_rpm([RpmFile("/usr/lib/x", b"data")])
    write_rpm([RpmFile("/usr/lib/x", b"data", cpio_size=1 << 31)])
    write_rpm(files, tags={1124: "tar"}, signature={273: "00" * 32})

Source of the format: RPM's reference manual, "Package format".
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Optional, Union

import pytest

Value = Union[str, bytes, list[str], list[int], "Raw"]

GHOST = 1 << 6
# Of version 3.0, with a header-style signature (5); rpm itself refuses another.
LEAD = b"\xed\xab\xee\xdb\x03\x00" + bytes(72) + b"\0\5" + bytes(16)
MAGIC = b"\x8e\xad\xe8\x01\0\0\0\0"
INT16, INT32, INT64, STRING, BINARY, ARRAY = 3, 4, 5, 6, 7, 8
_WIDE = {INT16: "H", INT32: "I", INT64: "Q"}
_INT16_TAGS = {1030}
_INT64_TAGS = {5008, 270, 5112, 5113}


@dataclass(frozen=True)
class Raw:
    """An index entry as it is to stand there, with its data."""

    kind: int
    count: int
    data: bytes
    offset: Optional[int] = None


@dataclass(frozen=True)
class RpmFile:
    """A file, and the lies about it.

    Attributes:
        path: as in the header.
        data: content.
        mode: type and permissions.
        target: of a symbolic link.
        ghost: listed, but not in the payload.
        inode: None: one of its own.
        size: bytes that the header states; None: the truth.
        digest: what the header states; None: the truth.
        cpio_name: name in the payload; None: `.` and the path.
        cpio_size: bytes that the payload states; None: the truth.
        cpio_mode: mode in the payload; None: as in the header.
        cpio_data: content in the payload; None: the truth.
    """

    path: str
    data: bytes = b""
    mode: int = 0o100644
    target: str = ""
    ghost: bool = False
    inode: Optional[int] = None
    size: Optional[int] = None
    digest: Optional[str] = None
    cpio_name: Optional[str] = None
    cpio_size: Optional[int] = None
    cpio_mode: Optional[int] = None
    cpio_data: Optional[bytes] = None


def link(path: str, target: str) -> RpmFile:
    """A symbolic link."""
    return RpmFile(path, target.encode(), 0o120777, target)


def folder(path: str) -> RpmFile:
    """A directory."""
    return RpmFile(path, mode=0o040755)


def header(tags: Mapping[int, Value], region: Optional[int]) -> bytes:
    """A header structure; with `region`, all of it is that immutable region."""
    entries: list[tuple[int, int, int, int]] = []
    store = b""
    for tag in sorted(tags):
        kind, count, data = _encode(tag, tags[tag])
        store += bytes(-len(store) % {INT16: 2, INT32: 4, INT64: 8}.get(kind, 1))
        given = tags[tag]
        at = given.offset if isinstance(given, Raw) and given.offset is not None else len(store)
        entries.append((tag, kind, at, count))
        store += data
    if region is not None:
        entries.insert(0, (region, BINARY, len(store), 16))
        store += struct.pack(">IIiI", region, BINARY, -16 * len(entries), 16)
    index = b"".join(struct.pack(">IIII", *entry) for entry in entries)
    return MAGIC + struct.pack(">II", len(entries), len(store)) + index + store


def _encode(tag: int, value: Value) -> tuple[int, int, bytes]:
    if isinstance(value, Raw):
        return value.kind, value.count, value.data
    if isinstance(value, str):
        return STRING, 1, value.encode() + b"\0"
    if isinstance(value, bytes):
        return BINARY, len(value), value
    if value and isinstance(value[0], str):
        return ARRAY, len(value), b"".join(str(v).encode() + b"\0" for v in value)
    kind = INT16 if tag in _INT16_TAGS else INT64 if tag in _INT64_TAGS else INT32
    return kind, len(value), struct.pack(f">{len(value)}{_WIDE[kind]}", *value)


def newc(name: str, data: bytes, mode: int, *, size: Optional[int] = None, nlink: int = 1) -> bytes:
    """A cpio entry."""
    raw = name.encode() + b"\0"
    length = len(data) if size is None else size
    fields = (1, mode, 0, 0, nlink, 0, length, 0, 0, 0, 0, len(raw), 0)
    entry = b"070701" + b"".join(b"%08x" % f for f in fields) + raw
    entry += bytes(-len(entry) % 4)
    return entry + data + bytes(-len(data) % 4)


TRAILER = newc("TRAILER!!!", b"", 0)


def cpio_of(files: Sequence[RpmFile], *, stripped: bool = False) -> bytes:
    """The payload of these files, uncompressed; of hard links the last one has the content."""
    last = {f.inode: i for i, f in enumerate(files) if f.inode is not None}
    payload = b""
    for index, file in enumerate(files):
        if file.ghost:
            continue
        data = file.data if file.cpio_data is None else file.cpio_data
        if file.inode is not None and last[file.inode] != index:
            data = b""
        if stripped:
            payload += b"07070X%08x" % index
            payload += bytes(-len(payload) % 4) + data + bytes(-len(data) % 4)
            continue
        name = f".{file.path}" if file.cpio_name is None else file.cpio_name
        mode = file.mode if file.cpio_mode is None else file.cpio_mode
        payload += newc(name, data, mode, size=file.cpio_size)
    return payload + TRAILER


def compress(data: bytes, compressor: Optional[str]) -> bytes:
    """The data packed; None leaves it plain."""
    if compressor == "gzip":
        return gzip.compress(data, mtime=0)
    if compressor == "xz":
        return lzma.compress(data, preset=1)
    if compressor == "zstd":
        zstandard = pytest.importorskip("zstandard", reason="the package zstandard is not there")
        packed: bytes = zstandard.ZstdCompressor().compress(data)
        return packed
    return data


def write_rpm(
    files: Sequence[RpmFile],
    *,
    name: str = "sample",
    provides: Sequence[str] = (),
    compressor: Optional[str] = "gzip",
    stripped: bool = False,
    cpio: Optional[bytes] = None,
    payload: Optional[bytes] = None,
    tags: Optional[Mapping[int, Optional[Value]]] = None,
    signature: Optional[Mapping[int, Optional[Value]]] = None,
    region: Optional[int] = 63,
    lead: bytes = LEAD,
    v6: bool = False,
    unpacked: bool = False,
) -> bytes:
    """A package.

    Args:
        files: its files.
        name: of the package.
        provides: names, without versions.
        compressor: gzip, xz, zstd; None: none.
        stripped: write the payload in the form for large files.
        cpio: the uncompressed payload instead of the files'.
        payload: the compressed payload instead.
        tags: main header tags to set, or to leave out where None.
        signature: the same of the signature header.
        region: tag of the main header's region; None: no region.
        lead: the first 96 bytes.
        v6: in the format of RPM 6.
        unpacked: ship the payload unpacked, though the header is of the packed one.
    """
    plain = cpio_of(files, stripped=stripped or v6) if cpio is None else cpio
    if payload is None:
        payload = compress(plain, compressor)
    main: dict[int, Any] = {
        1000: name,
        1001: "1.0",
        1002: "1",
        1022: "x86_64",
        1044: f"{name}-1.0-1.src.rpm",
        1124: "cpio",
        5092: [hashlib.sha256(payload).hexdigest()],
        5093: [8],
        **_file_tags(files),
    }
    if compressor is not None:
        main[1125] = compressor
    if provides:
        main[1047] = list(provides)
        main[1112] = [0] * len(provides)
        main[1113] = [""] * len(provides)
    if v6:
        main.update(_v6_tags(plain, payload))
        main[5008] = main.pop(1028, main.get(5008))
        lead = lead[:4] + b"\x04" + lead[5:]
    head = header(_changed(main, tags), region)
    signed: dict[int, Any] = {273: hashlib.sha256(head).hexdigest()}
    if v6:
        signed[279] = hashlib.sha3_256(head).hexdigest()
        signed[999] = bytes(64)
    else:
        signed[1000] = [(len(head) + len(payload)) & 0xFFFFFFFF]
    payload = plain if unpacked else payload
    sig = header(_changed(signed, signature), 62)
    return lead + sig + bytes(-len(sig) % 8) + head + payload


@contextmanager
def at_a_path(data: bytes) -> Iterator[str]:
    """A file with these bytes, for as long as the context lasts."""
    with tempfile.NamedTemporaryFile(suffix=".rpm") as file:
        file.write(data)
        file.flush()
        yield file.name


def _v6_tags(plain: bytes, payload: bytes) -> dict[int, Any]:
    return {
        5062: "utf-8",
        5092: hashlib.sha256(payload).hexdigest(),
        5093: None,
        5097: hashlib.sha256(plain).hexdigest(),
        5112: [len(payload)],
        5113: [len(plain)],
        5114: [6],
        5121: hashlib.sha512(payload).hexdigest(),
        5122: hashlib.sha512(plain).hexdigest(),
        5123: hashlib.sha3_256(payload).hexdigest(),
        5124: hashlib.sha3_256(plain).hexdigest(),
    }


def _changed(tags: dict[int, Any], changes: Optional[Mapping[int, Any]]) -> dict[int, Any]:
    merged = {**tags, **(changes or {})}
    return {tag: value for tag, value in merged.items() if value is not None}


def _file_tags(files: Sequence[RpmFile]) -> dict[int, Any]:
    if not files:
        return {}
    folders: list[str] = []
    indexes = []
    for file in files:
        parent = file.path[: file.path.rfind("/") + 1]
        if parent not in folders:
            folders.append(parent)
        indexes.append(folders.index(parent))
    sizes = [len(f.data) if f.size is None else f.size for f in files]
    size_tag = 5008 if max(sizes) > 0xFFFFFFFF else 1028
    return {
        size_tag: sizes,
        1030: [f.mode for f in files],
        1035: [_digest(f) for f in files],
        1036: [f.target for f in files],
        1037: [GHOST if f.ghost else 0 for f in files],
        1039: ["root"] * len(files),
        1040: ["root"] * len(files),
        1095: [1] * len(files),
        1096: [1000 + i if f.inode is None else f.inode for i, f in enumerate(files)],
        1116: indexes,
        1117: [f.path[f.path.rfind("/") + 1 :] for f in files],
        1118: folders,
        5011: [8],
    }


def _digest(file: RpmFile) -> str:
    if file.digest is not None:
        return file.digest
    if file.mode & 0o170000 != 0o100000 or file.ghost:
        return ""
    return hashlib.sha256(file.data).hexdigest()
