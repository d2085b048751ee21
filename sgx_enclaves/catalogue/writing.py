# SPDX-License-Identifier: GPL-2.0-or-later
"""What helps to write an entry: upstream's trees, its TOML with pins, a check against its sources.

An archive is read once, within the usual bounds; of its files only those are kept that a
draft reads. It has no commits of sub-modules, and only what `git archive` packed has its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Optional

from sgx_enclaves.catalogue.reader import as_tables
from sgx_enclaves.catalogue.records import Release
from sgx_enclaves.errors import InputError
from sgx_enclaves.limits import MIB, at_most
from sgx_enclaves.plain import record
from sgx_enclaves.tar import open_tar

_TIMEOUT = 60
_TAG = r"(?:sgx|dcap)_\d[\d.]*\d(?:_reproducible)?"
# upstream's have less than one
_MOST_TEXT = 64 * MIB
# the files that are kept of an archive, wherever they lie
_READ = frozenset(
    (
        *(".gitmodules", "Makefile", "Dockerfile", "README.md", "config.xml", "se_version.h"),
        *("start_build.sh.tmp", "prepare_sgxssl.sh"),
    )
)


@record
class SourceTree:
    """Upstream's tree at one tag, in a repository or an archive: what it says of itself.

    It has its commit (empty if unknown), that one's time in seconds since 1970, the commit of each
    sub-module by its place, as far as they are known, and the tree at the release's own tag, which
    has the versions in file names, if that is here. `find` gives a file's text, empty if there is
    none; `at` the same tree at another tag, None if there is none.
    """

    place: str
    tag: str
    commit: str
    time: str
    names: Sequence[str]
    links: Mapping[str, str]
    find: Callable[[str], str]
    at: Callable[[str], Optional[SourceTree]]
    release: Optional[SourceTree] = None

    def read(self, name: str) -> str:
        """A file's text, which must be there."""
        text = self.find(name)
        if not text:
            hint = "name the tag of a whole tree, as DIR@TAG or FILE@TAG"
            raise InputError(f"{self.tag} has no {name}", file=self.place, hint=hint)
        return text

    def modules(self) -> Iterator[tuple[str, str, str]]:
        """Place, URL and commit of each sub-module; the commit is empty if it is unknown."""
        blocks = re.split(r"^\[submodule.*\]$", self.find(".gitmodules"), flags=re.MULTILINE)
        for block in blocks:
            keys = dict(re.findall(r"^\s*(path|url)\s*=\s*(\S+)", block, re.MULTILINE))
            if "path" in keys:
                yield keys["path"], keys.get("url", ""), self.links.get(keys["path"], "")


def _run(command: Sequence[str], folder: Optional[Path]) -> tuple[int, str]:
    """Exit status and output of a program; what it complains of, if it fails."""
    try:
        done = subprocess.run(  # noqa: S603 (no shell)
            command, cwd=folder, capture_output=True, timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return -1, f"{command[0]} cannot be run: {error}"
    said = done.stdout if done.returncode == 0 else done.stderr or done.stdout
    return done.returncode, said.decode("utf-8", "replace")


def _git_tree(folder: str, revision: str) -> SourceTree:
    """A git repository, bare or not, at one revision."""

    def git(*arguments: str) -> str:
        status, said = _run(["git", "-C", folder, *arguments], None)
        if status != 0:
            hint = "install git, and name a repository or an archive, as DIR@TAG or FILE"
            first = said.partition("\n")[0]
            raise InputError(f"git {arguments[0]}: {first}", file=folder, hint=hint)
        return said

    commit = git("rev-parse", f"{revision or 'HEAD'}^{{commit}}").strip()
    lines = [line.split("\t", 1) for line in git("ls-tree", "-r", commit).splitlines()]
    names = {name: kind for kind, name in lines}
    return SourceTree(
        folder,
        revision or git("describe", "--tags", "--exact-match", "HEAD").strip(),
        commit,
        git("log", "-1", "--format=%ct", commit).strip(),
        list(names),
        {name: kind.split()[2] for name, kind in names.items() if kind.startswith("160000")},
        lambda name: git("show", f"{commit}:{name}") if name in names else "",
        lambda tag: _git_tree(folder, tag) if git("tag", "--list", tag).split() == [tag] else None,
    )


def _archive_tree(path: str, tag: str) -> SourceTree:
    """An archive of a tag, as `git archive` and GitHub pack it; sub-modules are not in there."""
    texts: dict[str, str] = {}
    times, names, top, read = [0], [], "", 0
    with open_tar(Path(path), dropped=0) as stream:
        for member in stream:
            top, _, name = member.name.partition("/")
            times.append(member.mtime)
            if not member.is_file:
                continue
            names.append(name)
            if name.rpartition("/")[2] in _READ and member.size <= MIB:
                read += member.size
                message = "the files that are read of the archive are too large together"
                at_most(_MOST_TEXT, read, message, "bytes", file=path)
                texts[name] = b"".join(stream.content()).decode("utf-8", "replace")
    said = [re.search(_TAG, word, re.IGNORECASE) for word in (path.rpartition("/")[2], top)]
    tree = SourceTree(
        path,
        tag or next((match[0] for match in said if match), ""),
        stream.commit,
        str(max(times)),
        names,
        {},
        lambda name: texts.get(name, ""),
        lambda other: tree if other == tree.tag else None,
    )
    return tree


def source_tree(place: str, release: Optional[str] = None) -> SourceTree:
    """A tree: DIR or DIR@TAG of a git repository, FILE or FILE@TAG of an archive.

    The release's own tree is beside it under its usual tag, or is under the tag or in the archive
    that is named, and must be there then.
    """
    path, _, tag = place.partition("@")
    tree = (_archive_tree if os.path.isfile(path) else _git_tree)(path, tag)
    if release is None:
        usual = tree.tag.replace("_reproducible", "").replace("dcap", "DCAP")
        return replace(tree, release=tree.at(usual))
    found = _archive_tree(release, "") if os.path.isfile(release) else tree.at(release)
    if found is None:
        hint = "name a tag of the repository, or the file of an archive"
        raise InputError(f"there is neither a tag nor an archive {release!r}", hint=hint)
    return replace(tree, release=found)


def toml_of(release: Release) -> str:
    """A release as the text of its TOML file."""
    lines = ["# SPDX-License-Identifier: GPL-2.0-or-later", "", *_table("", as_tables(release))]
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
        else:
            yield from _pair(key, value)
    yield from below


def _pair(key: str, value: Any) -> Iterator[str]:
    # texts, numbers and lists of them are written as in JSON
    one = f"{key} = {json.dumps(value, ensure_ascii=False)}"
    if key == "umask":
        yield f"{key} = 0o{value:03o}"
    elif isinstance(value, (list, tuple)) and len(one) > 100:
        lines = (f"    {json.dumps(item, ensure_ascii=False)}," for item in value)
        yield from (f"{key} = [", *lines, "]")
    else:
        yield one


def write_pins(text: str, pins: Mapping[str, Mapping[str, str]]) -> str:
    """A release's TOML with digests added; everything else stays as it is, comments too.

    Pins are by `source.ID`, `vendor.ID` or `enclave.NAME`, each kind and digest.
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


def check_tree(release: Release, tree: Path) -> Iterator[tuple[str, str]]:
    """Compare what a release says of its sources with the sources, laid out: what was checked, and
    what is wrong, if anything is. Patches are applied, in their order; nothing else is run.
    """
    build, _ = release.own_tree()
    for name in release.license_files:
        yield f"licence {name}", _missing(tree / name)
    for patch in build.patches:
        problem = _missing(tree / patch.file) or _missing(tree / patch.place)
        if not problem:
            status, said = _run(patch.command(str(tree)), tree / patch.place)
            last = said.strip().rpartition("\n")[2]
            problem = f"does not apply: {last}" if status else ""
        yield f"patch {patch.file}", problem
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
        yield f"enclave {enclave.name} in the vendor's archive", enclave.misnamed
        if enclave.build is not None:
            folder = tree / enclave.build.make_directory
            problem = _missing(tree / enclave.build.config) or _no_makefile(folder)
            yield f"enclave {enclave.name}", problem


def _missing(path: Path) -> str:
    return "" if path.exists() else f"{path.name} is not there"


def _no_makefile(folder: Path) -> str:
    names = ("GNUmakefile", "makefile", "Makefile")
    return "" if any((folder / name).is_file() for name in names) else "there is no makefile"
