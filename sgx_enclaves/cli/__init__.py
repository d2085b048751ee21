# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `sgx-enclaves`: verbs.txt says what it takes; modules have no logic of their own."""
