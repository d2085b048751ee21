# SPDX-License-Identifier: GPL-2.0-or-later
"""The plugin's configuration, `/etc/kojid/plugins/sgx_enclaves.conf`.

It is read again for each task, and once while kojid starts: a wrong one keeps kojid from
starting, and the log says what is wrong. Run as a program, this checks a file before:

    python3 PLUGINS/sgx_enclaves_builder/config.py /etc/kojid/plugins/sgx_enclaves.conf
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Optional

from sgx_enclaves.limits import MIB
from sgx_enclaves.settings import (
    check_file,
    folder,
    folders,
    https_url,
    load_settings,
    setting,
    whole,
)

DAY = 24 * 3600
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
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}")


def _hosts(value: str) -> tuple[str, ...]:
    if not all(_HOST.fullmatch(word) for word in value.split()):
        raise ValueError("names of servers")
    return tuple(value.lower().split())


@dataclass(frozen=True)
class Config:
    """The plugin's settings; the file that is shipped explains each key."""

    cache: Path = setting("fetch", "cache", Path("/var/cache/sgx-enclaves"), folder)
    hosts: tuple[str, ...] = setting("fetch", "hosts", UPSTREAM, _hosts)
    lookaside: Optional[str] = setting("fetch", "lookaside", None, https_url)
    lookaside_package: str = setting("fetch", "lookaside_package", "linux-sgx-enclaves-prebuilt")
    ca_file: Optional[str] = setting("fetch", "ca_file", None)
    attempts: int = setting("fetch", "attempts", 4, whole(1, 20))
    fetch_timeout: int = setting("fetch", "timeout", 3600, whole(1, DAY))
    max_size: int = setting("fetch", "max_mib", 2048 * MIB, whole(1, 65536, MIB))
    catalogues: tuple[Path, ...] = setting("catalogue", "folders", (), folders)
    make_timeout: int = setting("build", "make_timeout", 7200, whole(1, DAY))
    wait_timeout: int = setting("build", "wait_timeout", 8 * 3600, whole(1, 7 * DAY))
    key: Optional[Path] = setting("attest", "key", None, folder)
    builder: Optional[str] = setting("attest", "builder", None)
    min_space: int = setting("build", "min_space_mib", 4096 * MIB, whole(0, 1 << 20, MIB))


def load_config() -> Config:
    """The configuration; without a file, the defaults."""
    named = os.environ.get(CONFIG_VARIABLE)
    if named is None and not os.path.exists(CONFIG_FILE):
        return Config()
    return load_settings(Config, named or CONFIG_FILE)


if __name__ == "__main__":
    sys.exit(check_file(partial(load_settings, Config), CONFIG_FILE, sys.argv[1:]))
