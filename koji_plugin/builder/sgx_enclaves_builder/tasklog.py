# SPDX-License-Identifier: GPL-2.0-or-later
"""What a task tells while it runs: one log that grows in the task's output."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable

from koji.daemon import incremental_upload

LOG = "sgx-enclaves.log"
_EVERY = 5.0


class TaskLog:
    """Text that is uploaded as it grows; written to like a stream.

    Args:
        session: the task's.
        folder: where the log is kept on the builder.
        upload_path: the task's folder on the hub.
        clock: for tests.
    """

    def __init__(
        self,
        session: Any,
        folder: Path,
        upload_path: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = folder / LOG
        self._session = session
        self._upload_path = upload_path
        self._clock = clock
        self._out = self.path.open("w", encoding="utf-8", errors="replace")
        self._in = self.path.open("rb")
        self._last = clock() - _EVERY

    def __call__(self, text: str) -> None:
        """Add a line, with the time, and upload: what it tells of may take long."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        self.write(f"{stamp} {text}\n")
        self.sync()

    def write(self, text: str) -> int:
        """Add text."""
        return self._out.write(text)

    def flush(self) -> None:
        """Upload what is new, unless that was done a moment ago: downloads tell much."""
        self._out.flush()
        if self._clock() - self._last >= _EVERY:
            self.sync()

    def sync(self) -> None:
        """Upload what is new."""
        self._out.flush()
        incremental_upload(self._session, LOG, self._in, self._upload_path)
        self._last = self._clock()

    def __enter__(self) -> TaskLog:
        return self

    def __exit__(self, *_error: object) -> None:
        """Upload the rest."""
        with self._out, self._in:
            self.sync()
