# SPDX-License-Identifier: GPL-2.0-or-later
"""What the product says today, stored, so that no change of its inside changes it unseen.

`python -m tests.golden.update` writes `data/` again; the diff is what changed. A commit that
changes `data/` says what changed and why.
"""
