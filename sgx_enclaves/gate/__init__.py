# SPDX-License-Identifier: GPL-2.0-or-later
"""May a build pass into a release? Records of verifications, and the decision from them."""
