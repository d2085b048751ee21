# SPDX-License-Identifier: GPL-2.0-or-later
"""Names and parameters of our tasks, as hub policies and `koji taskinfo` see them.

The hub plugin has the same table.
"""

from __future__ import annotations

import koji.tasks

PARENT = "sgxEnclaves"
CHILD = "sgxEnclave"
SIGNATURES = {
    PARENT: [[["release", "build_tag", "build", "opts"], None, None, (None, None)]],
    CHILD: [[["release", "enclave", "build_tag", "build", "opts"], None, None, (None, None)]],
}
koji.tasks.LEGACY_SIGNATURES.update(SIGNATURES)
