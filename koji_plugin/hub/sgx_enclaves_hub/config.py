# SPDX-License-Identifier: GPL-2.0-or-later
"""The plugin's configuration, read once and checked whole.

A wrong one keeps the plugin from loading, and so takes the hub offline: the log says
what is wrong. Run as a program it checks a file, before the hub is restarted with it:

    python3 PLUGINS/sgx_enclaves_hub/config.py /etc/koji-hub/plugins/sgx_enclaves.conf
"""

from __future__ import annotations

import fnmatch
import functools
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from sgx_enclaves.errors import InputError, SgxEnclavesError
from sgx_enclaves.gate.decide import INTEL, Rule, parse_rule
from sgx_enclaves.settings import (
    YES,
    check_file,
    folders,
    load_settings,
    setting,
    table,
    whole,
    yes_or_no,
)

CONFIG_FILE = "/etc/koji-hub/plugins/sgx_enclaves.conf"
# For test hubs, which cannot write to /etc.
CONFIG_VARIABLE = "SGX_ENCLAVES_HUB_CONF"
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}\Z")
_TAG = re.compile(r"(?P<name>[^\s:*?\[\]]+):(?P<id>[1-9][0-9]{0,9})\Z")


def _signers(found: Mapping[str, str]) -> Mapping[str, frozenset[str]]:
    for name, value in found.items():
        if not _NAME.match(name) or name == INTEL or not value.split():
            raise ValueError(f"a plain name other than {INTEL}, and MRSIGNER values: {name[:80]!r}")
        wrong = [word for word in value.split() if not _HEX.match(word)]
        if wrong:
            raise ValueError(
                f"64 lower-case hexadecimal digits for each MRSIGNER of {name}, "
                f"which {wrong[0][:80]!r} is not"
            )
    return {name: frozenset(value.split()) for name, value in found.items()}


def _pinned_tags(value: str) -> tuple[tuple[str, int], ...]:
    """Names with ids: a name alone could be taken by another tag, and a glob by a new one."""
    found: dict[str, int] = {}
    for word in value.split():
        pin = _TAG.match(word)
        if pin is None or pin["name"] in found:
            raise ValueError(
                "NAME:ID of each tag, once, such as f43-sgx-build:42, and no glob; "
                f"`koji taginfo {word.partition(':')[0][:80]}` shows the ID in brackets"
            )
        found[pin["name"]] = int(pin["id"])
    return tuple(found.items())


@dataclass(frozen=True)
class Settings:
    """What the configuration says; the file that is shipped explains each key.

    Attributes:
        build_tags: names of trusted build tags, each with its id.
        rules: the globs of `enforce`, each with the rule that its words mean.
    """

    channel: str = setting("tasks", "channel", "")
    build_tags: tuple[tuple[str, int], ...] = setting("tasks", "build_tags", (), _pinned_tags)
    hook: bool = setting("hook", "enabled", False, yes_or_no)
    build_tag: str = setting("hook", "build_tag", "")
    targets: Mapping[str, str] = table("hook targets")
    signers: Mapping[str, frozenset[str]] = table("signers", _signers)
    enforce: Mapping[str, str] = table("enforce")
    attestations: tuple[Path, ...] = setting("gate", "attestations", (), folders)
    attestation_keys: tuple[Path, ...] = setting("gate", "attestation_keys", (), folders)
    attestation_threshold: int = setting("gate", "attestation_threshold", 1, whole(1, 64))
    rules: tuple[tuple[str, Rule], ...] = ()

    def rule_for(self, tag: str) -> Optional[Rule]:
        """The rule of the first glob that fits a tag's name; None if none does."""
        return next((rule for glob, rule in self.rules if fnmatch.fnmatchcase(tag, glob)), None)


@functools.lru_cache(maxsize=1)
def settings() -> Settings:
    """The hub's settings; without a file, the defaults."""
    path = os.environ.get(CONFIG_VARIABLE, CONFIG_FILE)
    return read_settings(path) if os.path.exists(path) else Settings()


def read_settings(path: str) -> Settings:
    """The settings in a file."""
    found = load_settings(Settings, path)
    if found.hook and not (found.targets or found.build_tag):
        raise InputError(
            "[hook] is enabled, but has nowhere to build",
            file=path,
            expected="build_tag, or targets in [hook targets]",
        )
    if bool(found.attestations) != bool(found.attestation_keys):
        raise InputError(
            "[gate] has attestations without keys, or keys without attestations",
            file=path,
            expected="attestations and attestation_keys",
        )
    rules = []
    for glob, text in found.enforce.items():
        words = () if text.lower() in ("", *YES) else text.split()
        try:
            rules.append((glob, parse_rule(words, found.signers)))
        except SgxEnclavesError as error:
            error.file = path
            raise
    return replace(found, rules=tuple(rules))


if __name__ == "__main__":
    sys.exit(check_file(read_settings, CONFIG_FILE, sys.argv[1:]))
