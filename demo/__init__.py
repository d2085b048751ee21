# SPDX-License-Identifier: GPL-2.0-or-later
"""The main job on our own test enclaves, from source to verdict."""
