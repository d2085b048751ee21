# SPDX-License-Identifier: GPL-2.0-or-later
"""What an archive lists, as the strict reader sees it."""

from __future__ import annotations

from pathlib import Path

from sgx_enclaves.limits import DEFAULT_ARCHIVE_LIMITS, ArchiveLimits
from sgx_enclaves.tar import Member, open_tar


def list_members(
    archive: Path, limits: ArchiveLimits = DEFAULT_ARCHIVE_LIMITS, *, links: bool = False
) -> list[Member]:
    """Each member of the archive, in its order; the whole stream is checked."""
    with open_tar(archive, limits, dropped=0 if links else None) as stream:
        return list(stream)
