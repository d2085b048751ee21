# SPDX-License-Identifier: GPL-2.0-or-later
"""Known signers, and which of them may sign which enclave.

The MRSIGNER values were read from Intel's production enclaves; the ISVSVN
floors are those of SGX 2.25 and DCAP 1.22 (config.xml of the tags sgx_2.25 and
dcap_1.22_reproducible). An older enclave is refused unless its user lowers the
floor on purpose.
"""

from __future__ import annotations

import re
from typing import Optional

from sgx_enclaves.plain import record

INTEL_QE = "8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff"
INTEL_PCE = "c54a62f2be9ef76efb1f3930ad81ea7f60defc1f5f25e09b7c067a815ae0c6cb"
INTEL_TDQE = "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5"
INTEL_EPID = "ec15b10787d2f84667ceb0b598ffc44a1f1cb80f670aae5df9e8fa9f6376e1f8"
INTEL_LE = "acb77012053e05a63d413b8bbae8fb6c5d73b3f2996d91c43bbbf90959c0f8d4"

SIGNER_NAMES = {
    INTEL_QE: "Intel (QE3, QvE, IDE)",
    INTEL_PCE: "Intel (PCE)",
    INTEL_TDQE: "Intel (TDQE)",
    INTEL_EPID: "Intel (EPID QE, PVE, PSE)",
    INTEL_LE: "Intel (LE)",
}


@record
class Pin:
    """Who must have signed an enclave, as what, and how old it may be.

    Attributes:
        enclave: its name in packages, for example `ide`.
        file: its name in files, for example `id_enclave`.
        mrsigner: hexadecimal.
        isvprodid: product id.
        isvsvn: least security version.
    """

    enclave: str
    file: str
    mrsigner: str
    isvprodid: int
    isvsvn: int


PINS = (
    Pin("pce", "pce", INTEL_PCE, 1, 16),
    Pin("ide", "id_enclave", INTEL_QE, 1, 5),
    Pin("qe3", "qe3", INTEL_QE, 1, 11),
    Pin("tdqe", "tdqe", INTEL_TDQE, 2, 7),
    Pin("qve", "qve", INTEL_QE, 2, 12),
    Pin("qe", "qe", INTEL_EPID, 1, 16),
    Pin("pve", "pve", INTEL_EPID, 1, 16),
    Pin("le", "le", INTEL_LE, 32, 7),
)

_ENCLAVE_FILE = re.compile(r"libsgx_(?P<file>\w+?)(?:\.signed)?\.so(?:\.[0-9.]+)?\Z")


def pin_named(enclave: str) -> Optional[Pin]:
    """The pin of an enclave by its package name."""
    return next((pin for pin in PINS if pin.enclave == enclave), None)


def pin_for_file(path: str) -> Optional[Pin]:
    """The pin that a file's name claims, for example `libsgx_pce.signed.so.1`."""
    match = _ENCLAVE_FILE.match(path.rsplit("/", 1)[-1])
    if match is None:
        return None
    return next((pin for pin in PINS if pin.file == match["file"]), None)
