# SPDX-License-Identifier: GPL-2.0-or-later
"""Where Koji releases differ, and which ones are supported; nowhere else is a version asked for.

- 1.33: no draft builds; a build's mapping has no `draft`.
- 1.34: draft builds, whose NVR and folder change when they are promoted.
- Until 1.34, a task that the hub makes belongs to whoever calls, whatever owner is asked
  for: the hook's tasks are the builder's user's. From 1.35 they are the build's owner's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import koji

OLDEST = (1, 33)


def require_supported_koji() -> None:
    """Refuse a Koji in which the gate has never been tried.

    Raises:
        koji.PluginError: it is too old.
    """
    version = getattr(koji, "__version__", "0")
    numbers = tuple(int(n) for n in version.split(".")[:2] if n.isdigit())
    if numbers < OLDEST:
        raise koji.PluginError(
            f"sgx_enclaves_hub needs Koji {'.'.join(map(str, OLDEST))} or newer, "
            f"this is {version}: update Koji, or take sgx_enclaves_hub out of Plugins in hub.conf"
        )


def lasting_name(build: Mapping[str, Any]) -> Any:
    """What a task calls a build: its NVR, or its id where the NVR may change meanwhile."""
    return build["id"] if build.get("draft") else build["nvr"]
