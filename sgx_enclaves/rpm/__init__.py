# SPDX-License-Identifier: GPL-2.0-or-later
"""RPM packages as evidence: read without root, without rpm, without unpacking to disk.

Nothing is imported here: a program that compares two files must not pay for it.
"""
