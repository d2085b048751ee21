# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages to MRENCLAVE: what the CPU would measure while the enclave is loaded."""
