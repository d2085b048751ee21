# SPDX-License-Identifier: GPL-2.0-or-later
"""Intel's keys (MRSIGNER), said again so that the tests do not believe the catalogue."""

from __future__ import annotations

INTEL_QE = "8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff"
INTEL_PCE = "c54a62f2be9ef76efb1f3930ad81ea7f60defc1f5f25e09b7c067a815ae0c6cb"
INTEL_TDQE = "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5"
INTEL_EPID = "ec15b10787d2f84667ceb0b598ffc44a1f1cb80f670aae5df9e8fa9f6376e1f8"
INTEL_LE = "acb77012053e05a63d413b8bbae8fb6c5d73b3f2996d91c43bbbf90959c0f8d4"
