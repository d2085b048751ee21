# SPDX-License-Identifier: GPL-2.0-or-later
"""What an archive lists, as the strict reader sees it."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

from sgx_enclaves import tar
from sgx_enclaves.limits import DEFAULT_ARCHIVE_LIMITS, ArchiveLimits


def list_members(
    archive: Path, limits: ArchiveLimits = DEFAULT_ARCHIVE_LIMITS, *, links: bool = False
) -> list[tar.Member]:
    """Each member of the archive, in its order; the whole stream is checked."""
    bounded = mock.patch.object(tar, "DEFAULT_ARCHIVE_LIMITS", limits)
    with bounded, tar.open_tar(archive, dropped=0 if links else None) as stream:
        return list(stream)
