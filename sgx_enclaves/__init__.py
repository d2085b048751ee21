# SPDX-License-Identifier: GPL-2.0-or-later
"""Prove that a vendor-signed SGX enclave is the enclave we built, plus a signature.

The core. It knows ELF, SIGSTRUCT, MRENCLAVE and the SDK's metadata; it knows
nothing of Koji or rpmlint, which are adapters over it.
"""

__version__ = "0.1.0"
