# SPDX-License-Identifier: GPL-2.0-or-later
"""Hub plugin: verification tasks, their records, and the gate before release tags.

The hub takes exported functions, callbacks and policy tests from this namespace. A failure
to load takes the hub offline, on purpose: without the plugin there would be no gate. So
nothing but the standard library, Koji and the light part of `sgx_enclaves` is imported.
"""

from __future__ import annotations

from .hub_api import load, queue_refusals  # noqa: F401

load()

from .doctor import checkSgxSetup  # noqa: E402, F401
from .gate import (  # noqa: E402, F401
    SgxEnclavesPresentTest,
    SgxEnclavesVerifiedTest,
    auditSgxTag,
    gate_tagging,
    getSgxGateStatus,
    guard_import,
)
from .records import (  # noqa: E402, F401
    getSgxLock,
    getSgxVerification,
    listSgxVerifications,
    recordSgxVerification,
    setSgxLock,
)
from .tasks import sgxEnclaves, verify_new_build  # noqa: E402, F401
