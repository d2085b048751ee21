# SPDX-License-Identifier: GPL-2.0-or-later
"""Decide: is the vendor's file our build plus a signature? Does no I/O."""
