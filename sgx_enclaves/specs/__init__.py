# SPDX-License-Identifier: GPL-2.0-or-later
"""Spec files of a release's enclaves, from templates and the catalogue."""
