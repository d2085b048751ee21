# SPDX-License-Identifier: GPL-2.0-or-later
"""The plugin's configuration, `/etc/kojid/plugins/sgx_enclaves.conf`.

It is read again for each task, and once while kojid starts: a wrong one keeps kojid from
starting, and the log says what is wrong. Run as a program, this checks a file before.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from sgx_enclaves.plain import read_schema
from sgx_enclaves.settings import check_file, load_settings

CONFIG_FILE = "/etc/kojid/plugins/sgx_enclaves.conf"
CONFIG_VARIABLE = "SGX_ENCLAVES_BUILDER_CONFIG"
# Where the releases of the catalogue come from, and where those places redirect to.
UPSTREAM = (
    "download.01.org",
    "github.com",
    "codeload.github.com",
    "objects.githubusercontent.com",
    "release-assets.githubusercontent.com",
)


@dataclass(frozen=True)
class Config:
    """The plugin's settings, SECTION_OPTION; the file that is shipped explains each."""

    fetch_cache: Path = Path("/var/cache/sgx-enclaves")
    fetch_hosts: tuple[str, ...] = UPSTREAM
    fetch_lookaside: Optional[str] = None
    fetch_lookaside_package: str = "linux-sgx-enclaves-prebuilt"
    fetch_ca_file: Optional[str] = None
    fetch_attempts: int = 4
    fetch_timeout: int = 3600
    fetch_max_mib: int = 2048
    catalogue_folders: tuple[Path, ...] = ()
    build_make_timeout: int = 7200
    build_wait_timeout: int = 28800
    attest_key: Optional[str] = None
    attest_builder: Optional[str] = None


def read_config(path: str) -> Config:
    """The configuration in a file."""
    found = load_settings(Config, read_schema(__file__, "config.schema.json"), path)
    return replace(found, fetch_hosts=tuple(map(str.lower, found.fetch_hosts)))


def load_config() -> Config:
    """The configuration; without a file, the defaults."""
    named = os.environ.get(CONFIG_VARIABLE)
    if named is None and not os.path.exists(CONFIG_FILE):
        return Config()
    return read_config(named or CONFIG_FILE)


if __name__ == "__main__":
    sys.exit(check_file(read_config, CONFIG_FILE, sys.argv[1:]))
