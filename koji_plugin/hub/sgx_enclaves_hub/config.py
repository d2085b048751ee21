# SPDX-License-Identifier: GPL-2.0-or-later
"""The plugin's configuration, read once and checked whole.

A wrong one keeps the plugin from loading, and so takes the hub offline: the log says
what is wrong. Run as a program it checks a file, before the hub is restarted with it.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Optional

from sgx_enclaves.errors import InputError, SgxEnclavesError
from sgx_enclaves.gate.decide import Rule, parse_rule
from sgx_enclaves.plain import read_schema
from sgx_enclaves.settings import YES, check_file, load_settings

CONFIG_FILE = "/etc/koji-hub/plugins/sgx_enclaves.conf"
# For test hubs, which cannot write to /etc.
CONFIG_VARIABLE = "SGX_ENCLAVES_HUB_CONF"


@dataclass(frozen=True)
class Settings:
    """What the configuration says, SECTION_OPTION; the file that is shipped explains each.

    `pins` has the id of each of the trusted build tags by name, `rules` the globs of `enforce`,
    each with the rule that its words mean.
    """

    tasks_channel: str = ""
    tasks_build_tags: tuple[str, ...] = ()
    hook_enabled: bool = False
    hook_build_tag: str = ""
    hook_targets: Mapping[str, str] = field(default_factory=dict)
    gate_attestations: tuple[str, ...] = ()
    gate_attestation_keys: tuple[str, ...] = ()
    gate_attestation_threshold: int = 1
    signers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    enforce: Mapping[str, str] = field(default_factory=dict)
    pins: Mapping[str, int] = field(default_factory=dict)
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
    found = load_settings(Settings, read_schema(__file__, "config.schema.json"), path)
    # A name alone could be taken by another tag, and a glob by a new one.
    tags = [tag.split(":") for tag in found.tasks_build_tags]
    pins = {name: int(number) for name, number in tags}
    wrong: tuple[str, ...] = ()
    if len(pins) < len(tags):
        named = " ".join(found.tasks_build_tags)[:120]
        wrong = (f"[tasks] build_tags names a tag twice: {named}", "NAME:ID of each tag, once")
    elif found.hook_enabled and not (found.hook_targets or found.hook_build_tag):
        message = "[hook] is enabled, but has nowhere to build"
        wrong = (message, "build_tag, or targets in [hook targets]")
    elif bool(found.gate_attestations) != bool(found.gate_attestation_keys):
        message = "[gate] has attestations without keys, or keys without attestations"
        wrong = (message, "attestations and attestation_keys")
    if wrong:
        raise InputError(wrong[0], file=path, expected=wrong[1])
    rules = []
    for glob, text in found.enforce.items():
        words = () if text.lower() in ("", *YES) else text.split()
        try:
            rules.append((glob, parse_rule(words, found.signers)))
        except SgxEnclavesError as error:
            error.file = path
            raise
    return replace(found, pins=pins, rules=tuple(rules))


if __name__ == "__main__":
    sys.exit(check_file(read_settings, CONFIG_FILE, sys.argv[1:]))
