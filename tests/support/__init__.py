# SPDX-License-Identifier: GPL-2.0-or-later
"""Helpers that several test folders share: keys, signed enclaves, hostile ones."""
