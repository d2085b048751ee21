# SPDX-License-Identifier: GPL-2.0-or-later
"""Word a verdict: text for people, JSON for programs, HTML for a browser."""
