# SPDX-License-Identifier: GPL-2.0-or-later
"""The plugin's configuration, `/etc/kojid/plugins/sgx_enclaves.conf`: every value checked.

An unknown section or key is an error: a misspelt limit must not pass for none.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from sgx_enclaves.errors import InputError
from sgx_enclaves.limits import MIB

CONFIG_FILE = "/etc/kojid/plugins/sgx_enclaves.conf"
# Where the releases of the catalogue come from, and where those places redirect to.
UPSTREAM = (
    "download.01.org",
    "github.com",
    "codeload.github.com",
    "objects.githubusercontent.com",
    "release-assets.githubusercontent.com",
)
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}")
_DAY = 24 * 3600


@dataclass(frozen=True)
class Config:
    """The plugin's settings.

    Attributes:
        cache: folder of fetched files, shared by all tasks of this builder.
        hosts: the only servers that are asked.
        lookaside: URL of a look-aside cache that is asked first; None for none.
        lookaside_package: the package that it knows the files under.
        ca_file: certificates to trust instead of the system's; None for the system's.
        attempts: requests to one place.
        fetch_timeout: seconds for one request with its content.
        max_size: bytes of a fetched file.
        catalogues: folders of more releases.
        locks: folder of buildroot locks, RELEASE.json each; None for none.
        make_timeout: seconds for the make of an enclave.
        wait_timeout: seconds that the parent waits for its subtasks.
        min_space: bytes that must be free before a build starts.
    """

    cache: Path = Path("/var/cache/sgx-enclaves")
    hosts: tuple[str, ...] = UPSTREAM
    lookaside: Optional[str] = None
    lookaside_package: str = "linux-sgx-enclaves-prebuilt"
    ca_file: Optional[str] = None
    attempts: int = 4
    fetch_timeout: int = 3600
    max_size: int = 2048 * MIB
    catalogues: tuple[Path, ...] = ()
    locks: Optional[Path] = None
    make_timeout: int = 7200
    wait_timeout: int = 8 * 3600
    min_space: int = 4096 * MIB


def load_config(path: Optional[str] = None) -> Config:
    """Read the configuration; what is not in it is as in `Config`.

    Args:
        path: the file; by default `SGX_ENCLAVES_BUILDER_CONFIG` of the environment, else
            `CONFIG_FILE`, which need not be there.

    Raises:
        InputError: it cannot be read, or a value is wrong.
    """
    named = path or os.environ.get("SGX_ENCLAVES_BUILDER_CONFIG")
    file = named or CONFIG_FILE
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with open(file, encoding="utf-8") as stream:
            parser.read_file(stream)
    except FileNotFoundError:
        if named is None:
            return Config()
        raise InputError("there is no such configuration", file=file) from None
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise InputError(f"cannot be read: {error}", file=file) from None
    return _Reader(parser, file).config()


class _Reader:
    """Takes each value once; what is left over is unknown."""

    def __init__(self, parser: configparser.ConfigParser, file: str) -> None:
        self._file = file
        self._left: dict[tuple[str, str], str] = {
            (section, key): value
            for section in parser.sections()
            for key, value in parser.items(section)
        }

    def config(self) -> Config:
        usual = Config()
        config = Config(
            cache=self._folder("fetch", "cache") or usual.cache,
            hosts=self._hosts("fetch", "hosts") or usual.hosts,
            lookaside=self._url("fetch", "lookaside"),
            lookaside_package=self._text("fetch", "lookaside_package") or usual.lookaside_package,
            ca_file=self._text("fetch", "ca_file"),
            attempts=self._integer("fetch", "attempts", 1, 20, usual.attempts),
            fetch_timeout=self._integer("fetch", "timeout", 1, _DAY, usual.fetch_timeout),
            max_size=MIB * self._integer("fetch", "max_mib", 1, 65536, usual.max_size // MIB),
            catalogues=self._folders("catalogue", "folders"),
            locks=self._folder("catalogue", "locks"),
            make_timeout=self._integer("build", "make_timeout", 1, _DAY, usual.make_timeout),
            wait_timeout=self._integer("build", "wait_timeout", 1, 7 * _DAY, usual.wait_timeout),
            min_space=MIB
            * self._integer("build", "min_space_mib", 0, 1 << 20, usual.min_space // MIB),
        )
        if self._left:
            names = ", ".join(f"[{section}] {key}" for section, key in sorted(self._left))
            raise InputError(
                "the configuration has settings that nobody knows", file=self._file, found=names
            )
        return config

    def _text(self, section: str, key: str) -> Optional[str]:
        return self._left.pop((section, key), "").strip() or None

    def _integer(self, section: str, key: str, least: int, most: int, usual: int) -> int:
        value = self._text(section, key)
        if value is None:
            return usual
        if not value.isascii() or not value.isdigit() or not least <= int(value[:18]) <= most:
            raise self._wrong(section, key, f"a whole number from {least} to {most}", value)
        return int(value)

    def _folder(self, section: str, key: str) -> Optional[Path]:
        value = self._text(section, key)
        if value is not None and not value.startswith("/"):
            raise self._wrong(section, key, "an absolute path", value)
        return None if value is None else Path(value)

    def _folders(self, section: str, key: str) -> tuple[Path, ...]:
        values = (self._text(section, key) or "").split()
        for value in values:
            if not value.startswith("/"):
                raise self._wrong(section, key, "absolute paths", value)
        return tuple(Path(value) for value in values)

    def _hosts(self, section: str, key: str) -> tuple[str, ...]:
        values = (self._text(section, key) or "").split()
        for value in values:
            if not _HOST.fullmatch(value):
                raise self._wrong(section, key, "names of servers", value)
        return tuple(value.lower() for value in values)

    def _url(self, section: str, key: str) -> Optional[str]:
        value = self._text(section, key)
        if value is not None and not value.startswith("https://"):
            raise self._wrong(section, key, "an https:// URL", value)
        return value

    def _wrong(self, section: str, key: str, expected: str, found: str) -> InputError:
        return InputError(
            f"[{section}] {key} is wrong", file=self._file, expected=expected, found=repr(found)
        )


def as_words(config: Config) -> Mapping[str, str]:
    """The settings for a log."""
    return {name: str(value) for name, value in vars(config).items()}
