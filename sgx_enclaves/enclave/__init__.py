# SPDX-License-Identifier: GPL-2.0-or-later
"""Enclave files: their bytes as structures, what the SDK's tool makes of them, and the verdict."""
