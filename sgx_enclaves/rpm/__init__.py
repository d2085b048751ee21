# SPDX-License-Identifier: GPL-2.0-or-later
"""RPM packages as evidence, read without root and without unpacking to disk."""
