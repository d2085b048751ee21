# SPDX-License-Identifier: GPL-2.0-or-later
"""What a scan has found so far, kept in a file of JSON lines, so that it can go on later."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import Any, Optional

from sgx_enclaves.errors import InputError
from sgx_enclaves.files import write_file

_KEY = "scan"
_KEY_SIZE = 1 << 16


@dataclass(frozen=True)
class Scanned:
    """One package of a scan.

    Attributes:
        file: the package file.
        stamp: size in bytes and time of change in ns: another stamp, another file.
        report: as `ScanSettings.record` gives it; None for a package without enclaves.
    """

    file: str
    stamp: tuple[int, int]
    report: Optional[dict[str, Any]]

    @property
    def exit_status(self) -> int:
        """0, 1 or 2."""
        return int(self.report["exit_status"]) if self.report else 0


def stamp_of(path: str) -> tuple[int, int]:
    """Size and time of change of a file; zeros when it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0)
    return (status.st_size, status.st_mtime_ns)


def stamps_below(path: str) -> str:
    """Digest of the stamps of a file, or of all files of a folder: another one, other results."""
    digest = hashlib.sha256(repr(stamp_of(path)).encode())
    for parent, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            file = os.path.join(parent, name)
            digest.update(repr((file, stamp_of(file))).encode())
    return digest.hexdigest()


class State:
    """What was scanned already, in a file of JSON lines.

    The first line says with which settings. With others, the file starts anew.

    Args:
        path: the file; made when it is not there.
        key: whatever the results depend on, as text.

    Raises:
        InputError: it cannot be read or written.
    """

    def __init__(self, path: str, key: str) -> None:
        self._path = path
        self._known: dict[str, Scanned] = {}
        header = json.dumps({_KEY: key})
        lines = self._lines()
        kept = bool(lines) and lines[0] == header
        # A scan that was killed may have left half a line: it is left out.
        whole = [line for line in lines[1:] if self._learn(line)] if kept else []
        write_file(path, "".join(f"{line}\n" for line in (header, *whole)).encode())
        self._stream = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def _lines(self) -> list[str]:
        if not os.path.exists(self._path):
            return []
        try:
            with open(self._path, encoding="utf-8", errors="replace") as stream:
                first = stream.readline(_KEY_SIZE).rstrip("\n")
                if not first.startswith(f'{{"{_KEY}": '):
                    raise InputError(
                        "not the state of a scan, and so not written over",
                        file=self._path,
                        hint="name a file that is not there yet",
                    )
                return [first, *stream.read().splitlines()]
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", file=self._path) from None

    def _learn(self, line: str) -> bool:
        try:
            record = json.loads(line)
            size, changed = record["stamp"]
            scanned = Scanned(record["file"], (size, changed), record["report"])
            _ = scanned.exit_status
        except (ValueError, KeyError, TypeError):
            return False
        self._known[scanned.file] = scanned
        return True

    def known(self, path: str) -> Optional[Scanned]:
        """The earlier result for a file that has not changed since."""
        scanned = self._known.get(path)
        return scanned if scanned is not None and scanned.stamp == stamp_of(path) else None

    def add(self, scanned: Scanned) -> None:
        """Keep a result.

        Raises:
            InputError: it cannot be written.
        """
        record = {"file": scanned.file, "stamp": scanned.stamp, "report": scanned.report}
        try:
            self._stream.write(json.dumps(record) + "\n")
            self._stream.flush()
        except OSError as error:
            raise InputError(
                f"the state cannot be kept: {error.strerror or error}", file=self._path
            ) from None

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
