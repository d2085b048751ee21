# SPDX-License-Identifier: GPL-2.0-or-later
"""Enclaves for the tests: written byte by byte, or built from our own sources."""
