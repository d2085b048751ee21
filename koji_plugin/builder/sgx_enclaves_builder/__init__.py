# SPDX-License-Identifier: GPL-2.0-or-later
"""Builder plugin: tasks that build enclaves from source and compare them with a vendor's.

kojid registers every task handler in this namespace, so no other class is in it.
"""

from .parent import SgxEnclavesTask
from .verify_enclave import SgxEnclaveTask

__all__ = ["SgxEnclaveTask", "SgxEnclavesTask"]
