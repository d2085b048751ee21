# SPDX-License-Identifier: GPL-2.0-or-later
"""Bytes to structures and back, nothing else: no measuring, no deciding, no I/O."""
