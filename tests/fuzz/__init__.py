# SPDX-License-Identifier: GPL-2.0-or-later
"""Any bytes to every reader of foreign data: an answer or an error of ours, within bounds.

make fuzz SECONDS=600 [TARGETS='elf metadata']   # guided by coverage, for as long as wanted
"""
