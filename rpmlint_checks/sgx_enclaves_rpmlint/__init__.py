# SPDX-License-Identifier: GPL-2.0-or-later
"""The rpmlint check: words what `sgx_enclaves.rpm` finds out as rpmlint findings.

Nothing is imported here: the hook for rpmlint runs at every start of Python.
"""
