# SPDX-License-Identifier: GPL-2.0-or-later
"""Write a release's TOML, add pins to one, and check one against its own sources."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sgx_enclaves.catalogue.records import Build, Patch, Release

_TIMEOUT = 60


def toml_of(data: Mapping[str, Any]) -> str:
    """A drafted entry as the text of its TOML file."""
    lines = ["# SPDX-License-Identifier: GPL-2.0-or-later", ""]
    lines += _table("", data)
    return "\n".join(lines) + "\n"


def _table(path: str, data: Mapping[str, Any]) -> Iterator[str]:
    below = []
    for key, value in data.items():
        inner = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            below += ["", f"[{inner}]", *_table(inner, value)]
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for item in value:
                below += ["", f"[[{inner}]]", *_table(inner, item)]
        elif value is not None:
            yield from _pair(key, value)
    yield from below


def _pair(key: str, value: object) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{key} = 0o{value:03o}" if key == "umask" else f"{key} = {_value(value)}"
        return
    one = f"{key} = [{', '.join(_value(item) for item in value)}]"
    if len(one) <= 100:
        yield one
    else:
        yield from (f"{key} = [", *(f"    {_value(item)}," for item in value), "]")


def _value(value: object) -> str:
    if isinstance(value, (bool, int)):
        return str(value).lower()
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def write_pins(text: str, pins: Mapping[str, Mapping[str, str]]) -> str:
    """A release's TOML with digests added; everything else stays as it is, comments too.

    Args:
        text: the file.
        pins: `source.ID`, `vendor.ID` or `enclave.NAME` to kind and digest.
    """
    blocks = [_with_pins(block, pins) for block in re.split(r"(?m)^(?=\[)", text)]
    listed = re.search(r"(?ms)^unpinned = \[.*?\]", blocks[0])
    if listed is not None:
        facts = [f for f in re.findall(r'"([^"]+)"', listed[0]) if f not in pins]
        new = "\n".join(_pair("unpinned", facts))
        blocks[0] = blocks[0][: listed.start()] + new + blocks[0][listed.end() :]
    return "".join(blocks)


def _with_pins(block: str, pins: Mapping[str, Mapping[str, str]]) -> str:
    """A table with the digests that it does not have yet, behind its URLs or its member."""
    head = re.match(r"\[\[(?:build\.)?(source|vendor|enclave)\]\]", block)
    name = re.search(r'(?m)^(?:id|name) = "([^"]+)"', block)
    if head is None or name is None:
        return block
    new = [
        f'{kind} = "{digest}"\n'
        for kind, digest in pins.get(f"{head[1]}.{name[1]}", {}).items()
        if not re.search(rf"(?m)^{kind} =", block)
    ]
    behind = r"^urls = \[.*?\]\n(?:(?:sha256|sha512) = .*?\n)*|^member = .*?\n"
    place = re.search(f"(?ms){behind}", block)
    at = place.end() if place is not None else len(block)
    return block[:at] + "".join(new) + block[at:]


def check_tree(release: Release, build: Build, tree: Path) -> Iterator[tuple[str, str]]:
    """Check what a release says of its sources against the sources, laid out.

    Patches are applied, in their order; nothing else is run.

    Yields:
        What was checked, and what is wrong with it; empty if nothing is.
    """
    for name in release.license_files:
        yield f"licence {name}", _missing(tree / name)
    for patch in build.patches:
        problem = _missing(tree / patch.file) or _missing(tree / patch.place)
        yield f"patch {patch.file}", problem or _apply(tree, patch)
    made = False
    for step in build.steps:
        folder, program = tree / step.place, step.command[0]
        if made and not folder.exists():
            continue
        problem = _missing(folder)
        if not problem and "/" in program and not program.startswith("/") and not made:
            problem = _missing(folder / program)
        if not problem and program == "make":
            problem = _no_makefile(folder)
        # from here on a program may be the work of a step
        made = made or program == "make"
        yield f"step {step.id}", problem
    for enclave in release.enclaves:
        if enclave.build is not None:
            folder = tree / enclave.build.make_directory
            problem = _missing(tree / enclave.build.config) or _no_makefile(folder)
            yield f"enclave {enclave.name}", problem


def _missing(path: Path) -> str:
    return "" if path.exists() else f"{path.name} is not there"


def _no_makefile(folder: Path) -> str:
    names = ("GNUmakefile", "makefile", "Makefile")
    return "" if any((folder / name).is_file() for name in names) else "there is no makefile"


def _apply(tree: Path, patch: Patch) -> str:
    command = ["patch", f"-p{patch.strip}", "--batch", "--forward", f"--input={tree / patch.file}"]
    try:
        done = subprocess.run(  # noqa: S603 (no shell)
            command, cwd=tree / patch.place, capture_output=True, timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"patch cannot be run: {error}"
    said = done.stdout.decode("utf-8", "replace").strip().splitlines()
    return "" if done.returncode == 0 else f"does not apply: {said[-1] if said else 'no reason'}"
