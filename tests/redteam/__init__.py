# SPDX-License-Identifier: GPL-2.0-or-later
"""Attacks, each with the verdict that it must get, by who attacks; see README.md."""
