# SPDX-License-Identifier: GPL-2.0-or-later
"""From an unsigned enclave and its config.xml to a signed one.

`regenerate` makes every byte of the metadata but the signatures, as Intel's
signing tool would; `sign` and `graft` add signatures of our own or the vendor's.
"""
