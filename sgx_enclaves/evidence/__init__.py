# SPDX-License-Identifier: GPL-2.0-or-later
"""Verdicts that others check: signed statements, reports that are gone through again, a ledger."""
