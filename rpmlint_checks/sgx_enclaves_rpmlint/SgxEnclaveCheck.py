# SPDX-License-Identifier: GPL-2.0-or-later
"""The check as rpmlint loads it: `rpmlint.checks.SgxEnclaveCheck`, module and class alike.

All it does is hand over to `Session`, which has types and tests of its own.
"""

from __future__ import annotations

from typing import Any

from rpmlint.checks.AbstractCheck import AbstractCheck

from sgx_enclaves_rpmlint.session import Session


class SgxEnclaveCheck(AbstractCheck):  # type: ignore[misc]
    """Is each signed SGX enclave our build plus a signature, and nothing else?"""

    def __init__(self, config: Any, output: Any) -> None:
        super().__init__(config, output)
        session = Session(config.configuration.get("SgxEnclave", {}), output)
        # Of each package, be it of sources or not.
        self.check = session.note
        # Of all, now that counterparts are known.
        self.after_checks = session.conclude
