# SPDX-License-Identifier: GPL-2.0-or-later
"""Hub plugin: verification tasks, their records, and the gate before release tags.

The hub takes exported functions, callbacks and policy tests from this namespace. A failure
to load takes the hub offline, on purpose: without the plugin there would be no gate. So
nothing but the standard library, Koji and the light part of `sgx_enclaves` is imported.
"""

from __future__ import annotations

from .hub_api import load

load()

from .doctor import checkSgxSetup  # noqa: E402
from .gate import (  # noqa: E402
    SgxEnclavesPresentTest,
    SgxEnclavesVerifiedTest,
    auditSgxTag,
    gate_tagging,
    getSgxGateStatus,
    guard_import,
)
from .messages import queue_refusals  # noqa: E402
from .records import (  # noqa: E402
    getSgxLock,
    getSgxVerification,
    listSgxVerifications,
    recordSgxVerification,
    setSgxLock,
)
from .tasks import sgxEnclaves, verify_new_build  # noqa: E402

__all__ = [
    "SgxEnclavesPresentTest",
    "SgxEnclavesVerifiedTest",
    "auditSgxTag",
    "checkSgxSetup",
    "gate_tagging",
    "getSgxGateStatus",
    "getSgxLock",
    "getSgxVerification",
    "guard_import",
    "listSgxVerifications",
    "queue_refusals",
    "recordSgxVerification",
    "setSgxLock",
    "sgxEnclaves",
    "verify_new_build",
]
