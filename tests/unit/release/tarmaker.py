# SPDX-License-Identifier: GPL-2.0-or-later
"""Tar archives made by hand, byte for byte, so that they can be wrong on purpose."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path
from typing import Callable, Optional

END = bytes(1024)


def header(
    name: str,
    size: int = 0,
    flag: bytes = b"0",
    *,
    target: str = "",
    mode: bytes = b"0000644\0",
    size_field: Optional[bytes] = None,
    checksum: Optional[int] = None,
) -> bytes:
    """One ustar header of 512 bytes."""
    raw = bytearray(512)
    raw[0:100] = name.encode()[:100].ljust(100, b"\0")
    raw[100:108] = mode
    raw[108:116] = raw[116:124] = b"0000000\0"
    raw[124:136] = size_field if size_field is not None else b"%011o\0" % size
    raw[136:148] = b"%011o\0" % 1_700_000_000
    raw[148:156] = b" " * 8
    raw[156:157] = flag
    raw[157:257] = target.encode()[:100].ljust(100, b"\0")
    raw[257:265] = b"ustar\x0000"
    total = sum(raw) if checksum is None else checksum
    raw[148:156] = b"%06o\0 " % total
    return bytes(raw)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def file(name: str, content: bytes = b"data", *, mode: bytes = b"0000644\0") -> bytes:
    return header(name, len(content), mode=mode) + padded(content)


def directory(name: str) -> bytes:
    return header(name, flag=b"5")


def symlink(name: str, target: str) -> bytes:
    return header(name, flag=b"2", target=target)


def pax(key: str, value: bytes, flag: bytes = b"x") -> bytes:
    body = b" " + key.encode() + b"=" + value + b"\n"
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length += 1
    record = str(length).encode() + body
    return header("pax", len(record), flag) + padded(record)


def gnu_long(text: str, flag: bytes = b"L") -> bytes:
    raw = text.encode() + b"\0"
    return header("././@LongLink", len(raw), flag) + padded(raw)


def write(folder: Path, *parts: bytes, pack: Callable[[bytes], bytes] = bytes) -> Path:
    """Write the members and the end of an archive; `pack` compresses."""
    path = folder / "archive.tar"
    path.write_bytes(pack(b"".join(parts) + END))
    return path


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": lambda data: gzip.compress(data, 6, mtime=0),
    "xz": lambda data: lzma.compress(data, preset=1),
}
