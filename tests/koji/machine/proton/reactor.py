# SPDX-License-Identifier: GPL-2.0-or-later
"""The broker: takes every message at once, and notes it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Container:
    """Runs a handler: one connection, on which it sends all that it has."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def run(self) -> None:
        """Take what the handler would send; it forgets what was taken."""
        path = Path(os.environ["HARNESS_TOPDIR"]).parent / "messages.jsonl"
        with path.open("a", encoding="utf-8") as out:
            while self._handler.msgs:
                message = self._handler.msgs.pop(0)
                address = f"{self._handler.topic_prefix}.{message['address']}"
                body = json.loads(message["body"])
                entry = {"address": address, "properties": message["props"], "body": body}
                out.write(json.dumps(entry) + "\n")
