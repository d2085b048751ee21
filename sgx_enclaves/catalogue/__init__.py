# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts of releases: which enclaves there are, from what they are built, and who signs them.

Data and their reading only: fetching, building and verifying are the room `release`'s part.
"""
