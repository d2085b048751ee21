# SPDX-License-Identifier: GPL-2.0-or-later
"""The builder plugin on Koji's real task classes, with a hub that records."""
