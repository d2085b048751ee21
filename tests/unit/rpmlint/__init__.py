# SPDX-License-Identifier: GPL-2.0-or-later
"""The rpmlint check without rpmlint."""
