# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `sgx-enclaves`: one small file a verb, no logic of its own."""
