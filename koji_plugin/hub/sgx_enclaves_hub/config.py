# SPDX-License-Identifier: GPL-2.0-or-later
"""The plugin's configuration, read once and checked whole.

A wrong one keeps the plugin from loading, and so takes the hub offline: the log says
what is wrong. Run as a program it checks a file, before the hub is restarted with it:

    python3 PLUGINS/sgx_enclaves_hub/config.py /etc/koji-hub/plugins/sgx_enclaves.conf
"""

from __future__ import annotations

import configparser
import functools
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Optional

from sgx_enclaves.errors import InputError, SgxEnclavesError
from sgx_enclaves.gate.rule import INTEL, Rule, parse_rule

CONFIG_FILE = "/etc/koji-hub/plugins/sgx_enclaves.conf"
# For test hubs, which cannot write to /etc.
CONFIG_VARIABLE = "SGX_ENCLAVES_HUB_CONF"
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}\Z")
_SECTIONS: Mapping[str, Optional[tuple[str, ...]]] = {
    "tasks": ("channel",),
    "hook": ("enabled", "build_tag"),
    "hook targets": None,
    "signers": None,
    "enforce": None,
}
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Settings:
    """What the configuration says.

    Attributes:
        channel: where verification tasks run; empty: Koji's channel policy says.
        hook: whether new builds with signed enclaves are verified at once.
        build_tag: for those of targets that `targets` does not name; empty: none.
        targets: build target to the tag whose repo makes the buildroots.
        signers: names of signers, each with its MRSIGNER values.
        enforce: globs of tags that are gated whatever their extra says, with the rule.
    """

    channel: str = ""
    hook: bool = False
    build_tag: str = ""
    targets: Mapping[str, str] = field(default_factory=dict)
    signers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    enforce: tuple[tuple[str, Rule], ...] = ()


@functools.lru_cache(maxsize=1)
def settings() -> Settings:
    """The hub's settings; without a file, the defaults."""
    return read_settings(os.environ.get(CONFIG_VARIABLE, CONFIG_FILE))


def load_settings() -> None:
    """Read the settings while the hub starts.

    Raises:
        koji.PluginError: they are wrong.
    """
    import koji  # noqa: PLC0415  (as a program, this module needs no Koji)

    try:
        settings()
    except SgxEnclavesError as error:
        raise koji.PluginError(f"sgx_enclaves_hub cannot be loaded: {error}") from error


def read_settings(path: str) -> Settings:
    """The settings in a file; without the file, the defaults.

    Raises:
        InputError: it cannot be read, or a section, key or value is wrong.
        RuleError: a rule in it is wrong.
    """
    parser = configparser.ConfigParser(
        interpolation=None, default_section="", delimiters=("=",), inline_comment_prefixes=None
    )
    # Tags and targets are told apart by case.
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        with open(path, encoding="utf-8") as stream:
            parser.read_file(stream, path)
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise InputError(f"the configuration cannot be read: {error}", file=path) from None
    for section in parser.sections():
        _check_section(path, section, tuple(parser[section]))
    try:
        return _settings(path, {s: dict(parser[s]) for s in parser.sections()})
    except SgxEnclavesError as error:
        error.file = error.file or path
        raise


def _check_section(path: str, section: str, keys: tuple[str, ...]) -> None:
    if section not in _SECTIONS:
        raise InputError(
            f"there is no section [{section}]", file=path, expected=", ".join(_SECTIONS)
        )
    known = _SECTIONS[section]
    unknown = [] if known is None else [k for k in keys if k not in known]
    if known is not None and unknown:
        raise InputError(
            f"[{section}] has unknown keys: {', '.join(unknown)}",
            file=path,
            expected=", ".join(known),
        )


def _settings(path: str, sections: Mapping[str, Mapping[str, str]]) -> Settings:
    hook = sections.get("hook", _NOTHING)
    signers = {
        name: _signer(path, name, value)
        for name, value in sections.get("signers", _NOTHING).items()
    }
    targets = dict(sections.get("hook targets", _NOTHING))
    enabled = hook.get("enabled", "no").lower()
    if enabled not in ("yes", "no"):
        raise InputError("[hook] enabled", file=path, expected="yes or no", found=repr(enabled))
    if enabled == "yes" and not (targets or hook.get("build_tag")):
        raise InputError(
            "[hook] is enabled, but has nowhere to build",
            file=path,
            expected="build_tag, or targets in [hook targets]",
        )
    enforce = []
    for glob, words in sections.get("enforce", _NOTHING).items():
        plain = words.strip().lower() in ("", "yes", "true")
        enforce.append((glob, parse_rule(() if plain else words.split(), signers)))
    return Settings(
        channel=sections.get("tasks", _NOTHING).get("channel", ""),
        hook=enabled == "yes",
        build_tag=hook.get("build_tag", ""),
        targets=targets,
        signers=signers,
        enforce=tuple(enforce),
    )


def _signer(path: str, name: str, value: str) -> frozenset[str]:
    values = value.split()
    if not _NAME.match(name) or name == INTEL or not values:
        raise InputError(
            f"[signers] {name[:80]!r} cannot be a signer",
            file=path,
            expected=f"a plain name other than {INTEL}, and MRSIGNER values",
        )
    wrong = [v for v in values if not _HEX.match(v)]
    if wrong:
        raise InputError(
            f"[signers] {name} has a value that is no MRSIGNER",
            file=path,
            expected="64 lower-case hexadecimal digits",
            found=repr(wrong[0][:80]),
        )
    return frozenset(values)


def main(arguments: Sequence[str]) -> int:
    """Check a configuration file; 0 when it can be used."""
    path = arguments[0] if arguments else CONFIG_FILE
    try:
        if not os.path.exists(path):
            raise InputError("there is no such file", file=path)
        read_settings(path)
    except SgxEnclavesError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{path}: good")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
