# SPDX-License-Identifier: GPL-2.0-or-later
"""The quick way past a package that has nothing to do with enclaves.

Says yes only to what is certain: a package of the usual form, whose header has
the right digest, whose file has the stated size, and whose header nowhere has
a word that an enclave's package has. Whatever is odd gets a no, and with it the
thorough reading of `package.py`, which says what is wrong.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct

from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.packages.header import (
    HEADER_MAGIC,
    LEAD_MAGIC,
    LEAD_SIZE,
    LEAD_VERSIONS,
    Header,
    SignatureTag,
    Tag,
)
from sgx_enclaves.packages.limits import DEFAULT_PACKAGE_LIMITS
from sgx_enclaves.packages.presence import HINTS

# Enough for the headers of most packages in one read.
_FIRST = 32 << 10
_MOST = 8 << 20
_COUNTS = struct.Struct(">II")
_ENTRY_SIZE = 16
_PREAMBLE_SIZE = 16
_LIMITS = DEFAULT_PACKAGE_LIMITS
_HINTS = tuple(hint.encode() for hint in HINTS)


def is_plain(path: str) -> bool:
    """Whether a package is, as far as headers tell, intact and without enclaves."""
    try:
        # A pipe without a writer must not make us wait for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        status = os.fstat(handle)
        return stat.S_ISREG(status.st_mode) and _is_plain(path, handle, status.st_size)
    except (OSError, struct.error, SgxEnclavesError):
        return False
    finally:
        os.close(handle)


def _is_plain(path: str, handle: int, file_size: int) -> bool:
    data = os.read(handle, _FIRST)
    index = LEAD_SIZE + _PREAMBLE_SIZE
    if len(data) < index or data[:4] != LEAD_MAGIC or data[4] not in LEAD_VERSIONS:
        return False
    if data[LEAD_SIZE : index - 8] != HEADER_MAGIC:
        return False
    count, size = _COUNTS.unpack_from(data, index - 8)
    store = index + _ENTRY_SIZE * count
    start = store + size + -size % 8
    if data[start : start + 8] != HEADER_MAGIC:
        return False
    main_count, main_size = _COUNTS.unpack_from(data, start + 8)
    end = start + _PREAMBLE_SIZE + _ENTRY_SIZE * main_count + main_size
    if end > _MOST:
        return False
    if end > len(data):
        data += os.read(handle, end - len(data))
    if end > len(data) or any(data.find(hint, start, end) >= 0 for hint in _HINTS):
        return False
    signature = Header(path, LEAD_SIZE, data[index:store], data[store : store + size], _LIMITS)
    # From V6 on there is none, and the main header knows.
    stated = signature.integer(SignatureTag.SIZE)
    if stated is None:
        begin = start + _PREAMBLE_SIZE
        middle = begin + _ENTRY_SIZE * main_count
        main = Header(path, start, data[begin:middle], data[middle:end], _LIMITS)
        payload = main.integer(Tag.PAYLOADSIZE)
        stated = None if payload is None else end - start + payload
    digest = hashlib.sha256(memoryview(data)[start:end]).hexdigest()
    return (
        SignatureTag.LONGSIZE not in signature
        and stated == file_size - start
        and signature.string(SignatureTag.SHA256) == digest
    )
