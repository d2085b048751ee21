# SPDX-License-Identifier: GPL-2.0-or-later
"""Stands for Qpid Proton on the hub: messages that Koji's `protonmsg` sends go into a file."""

from __future__ import annotations

from typing import Any


class Message:
    """One message."""

    def __init__(self, properties: Any, body: str) -> None:
        self.properties = properties
        self.body = body


class SSLDomain:
    """Never used: the broker's URL is a plain one."""
