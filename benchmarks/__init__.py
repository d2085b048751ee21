# SPDX-License-Identifier: GPL-2.0-or-later
"""Speed, as ratios within one run, so that they hold on any machine."""
