# SPDX-License-Identifier: GPL-2.0-or-later
"""A zstd decompressor from whatever this Python has.

Python's own from 3.14 on, its backport, zstandard, or pyzstd. Refuses windows
that are made to hurt.
"""

from __future__ import annotations

import importlib
from typing import Any, Callable, NamedTuple, Optional

from sgx_enclaves.errors import UnsupportedError

MAGIC = b"\x28\xb5\x2f\xfd"
# As much as the zstd program itself takes without being told to.
_WINDOW_LOG = 27
_MODULES = ("compression.zstd", "backports.zstd", "zstandard", "pyzstd")


class Zstd(NamedTuple):
    """How one of the modules is used: it has either a decoder or a reader.

    Attributes:
        error: what it raises.
        decoder: makes an object with `decompress(data, max_length)`, `eof` and
            `unused_data`, like lzma's, for one frame.
        reader: makes an object with `read(size)` for all frames of an object with
            `read(size)`.
    """

    error: type[Exception]
    decoder: Optional[Callable[[], Any]] = None
    reader: Optional[Callable[[Any], Any]] = None


def find_zstd(file: str) -> Zstd:
    """The first of the modules that is installed.

    Args:
        file: what is to be unpacked, for the message.

    Raises:
        UnsupportedError: none is.
    """
    for name in _MODULES:
        try:
            return _use(name, importlib.import_module(name))
        except ImportError:
            continue
    raise UnsupportedError(
        "compressed with zstd, and no Python module for it is installed",
        file=file,
        hint="install python3-zstandard (on PyPI: zstandard, or pyzstd), or use Python 3.14",
    )


def _use(name: str, module: Any) -> Zstd:
    if name == "zstandard":
        # Its other interfaces unpack a whole piece of input at once, however large that gets.
        decompressor = module.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG)
        return Zstd(
            module.ZstdError,
            reader=lambda source: decompressor.stream_reader(source, read_across_frames=True),
        )
    if name == "pyzstd":
        option = {module.DParameter.windowLogMax: _WINDOW_LOG}
        return Zstd(module.ZstdError, lambda: module.ZstdDecompressor(option=option))
    options = {module.DecompressionParameter.window_log_max: _WINDOW_LOG}
    return Zstd(module.ZstdError, lambda: module.ZstdDecompressor(options=options))
