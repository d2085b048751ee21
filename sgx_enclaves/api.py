# SPDX-License-Identifier: GPL-2.0-or-later
"""The public functions: import them from here, since the rooms behind may move.

Is the vendor's enclave our build plus a signature? ::

    from pathlib import Path
    from sgx_enclaves.api import compare, pin_for_file, policy_for

    verdict = compare(
        Path("libsgx_pce.so").read_bytes(),
        Path("libsgx_pce.signed.so").read_bytes(),
        Path("pce.config.xml").read_bytes(),
        policy_for(pin_for_file("libsgx_pce.signed.so")),
    )
    print(verdict.outcome.value, [finding.message for finding in verdict.findings])

Bytes go in and a `Verdict` comes out. Bad input is a finding of the verdict where a verdict
is given, and a `SgxEnclavesError` elsewhere. Nothing here uses a network.
"""

from __future__ import annotations

from sgx_enclaves.enclave.compare import compare
from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.measure import mrenclave
from sgx_enclaves.enclave.metadata import Descriptor
from sgx_enclaves.enclave.policy import pin_for_file, policy_for
from sgx_enclaves.enclave.regenerate import regenerate
from sgx_enclaves.enclave.sdk import detect_generation
from sgx_enclaves.enclave.sign import extract, graft, load_key, sign
from sgx_enclaves.enclave.verdict import Finding, Outcome, Verdict
from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.explain.explain import explained
from sgx_enclaves.rpm.check import check_package
from sgx_enclaves.rpm.references import open_reference

__all__ = [
    "Config",
    "Descriptor",
    "EnclaveImage",
    "Finding",
    "Outcome",
    "SgxEnclavesError",
    "Verdict",
    "check_package",
    "compare",
    "detect_generation",
    "explained",
    "extract",
    "graft",
    "load_key",
    "mrenclave",
    "open_reference",
    "pin_for_file",
    "policy_for",
    "regenerate",
    "sign",
]
