# SPDX-License-Identifier: GPL-2.0-or-later
"""Builder plugin: tasks that build enclaves from source and compare them with a vendor's.

kojid registers every task handler in this namespace, so no other class is in it.
"""

from .config import load_config
from .task_base import koji_errors
from .verify_build import SgxEnclavesTask
from .verify_enclave import SgxEnclaveTask

with koji_errors():
    load_config()

__all__ = ["SgxEnclaveTask", "SgxEnclavesTask"]
