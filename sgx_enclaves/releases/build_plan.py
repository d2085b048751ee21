# SPDX-License-Identifier: GPL-2.0-or-later
"""What a build will do: which trees, which enclaves in each, with which variables.

Decides only; touches no file and starts no process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from sgx_enclaves.errors import BuildError, CatalogueError
from sgx_enclaves.releases.build_init import HIDDEN
from sgx_enclaves.releases.build_sandbox import SYSTEM
from sgx_enclaves.releases.catalogue import Catalogue
from sgx_enclaves.releases.manifest import ToolchainKind
from sgx_enclaves.releases.release import Build, Enclave, OwnBuild, Release, Toolchain

STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# the first moment of 1980: every tool and archive format can say it
_EPOCH = "315532800"
# from a path's start to its end, not within a longer one
_BEFORE, _AFTER = r"(?<![\w.+/-])", r"(?=[/:\s\"']|$)"


@dataclass(frozen=True)
class EnclavePlan:
    """One enclave to build.

    Attributes:
        name: in the release that was asked for.
        file: such as `id_enclave`.
        build: how it is built in its tree.
    """

    name: str
    file: str
    build: OwnBuild


@dataclass(frozen=True)
class TreePlan:
    """One tree to build in.

    Attributes:
        release: whose tree.
        build: how it is made.
        toolchain: that release's.
        enclaves: what is built in it.
    """

    release: Release
    build: Build
    toolchain: Toolchain
    enclaves: tuple[EnclavePlan, ...]


def plan_trees(
    catalogue: Catalogue, release: Release, names: Sequence[str] = ()
) -> tuple[TreePlan, ...]:
    """Find the trees that the enclaves of a release are built in.

    Args:
        catalogue: where other releases' trees are described.
        release: what was asked for.
        names: its enclaves to build; none stands for those that it requires.

    Raises:
        CatalogueError: an enclave is unknown or cannot be built by outsiders.
    """
    known = {enclave.name: enclave for enclave in release.enclaves}
    for name in names:
        if name not in known:
            raise CatalogueError(
                f"{release.name} has no enclave {name!r}", hint="it has " + ", ".join(known)
            )
    chosen = [item for item in release.enclaves if (item.name in names if names else item.required)]
    if not chosen:
        raise CatalogueError(
            f"{release.name} requires no enclave", hint="name those to build: " + ", ".join(known)
        )
    trees: dict[str, tuple[Release, list[EnclavePlan]]] = {}
    for enclave in chosen:
        tree, own = catalogue.build_of(release, enclave)
        _tree, plans = trees.setdefault(tree.name, (tree, []))
        plans.append(EnclavePlan(enclave.name, enclave.file, _own_build(own)))
    return tuple(_tree_plan(tree, plans) for tree, plans in trees.values())


def _own_build(enclave: Enclave) -> OwnBuild:
    if enclave.build is None:
        raise CatalogueError(f"nothing says how {enclave.name} is built")
    return enclave.build


def _tree_plan(release: Release, enclaves: Sequence[EnclavePlan]) -> TreePlan:
    if release.build is None or release.toolchain is None:
        raise CatalogueError(f"{release.name} has no tree to build in", file=release.file)
    ids = [f"make-{enclave.name}" for enclave in enclaves]
    ids += [patch_id(number) for number, _patch in enumerate(release.build.patches, 1)]
    for step in release.build.steps:
        if step.id in ids:
            raise BuildError(
                f"step {step.id} has a name that the builder itself uses",
                file=release.file,
                hint="call it otherwise",
            )
    return TreePlan(release, release.build, release.toolchain, tuple(enclaves))


def patch_id(number: int) -> str:
    """The step that applies a release's patch of that number, counted from 1."""
    return f"patch-{number}"


def make_command(build: OwnBuild) -> list[str]:
    """The command that builds an enclave, in its make directory."""
    options = [f"MITIGATION-CVE-2020-0551={build.mitigation}"] if build.mitigation else []
    return ["make", build.make_target, *options]


def search_path(toolchain: Toolchain, kind: ToolchainKind) -> str:
    """The PATH of every step, which the toolchain is looked for in as well.

    The caller's own PATH never matters: it is part of no release.
    """
    given = toolchain.environment.get("PATH")
    if given is not None:
        return given
    if kind is ToolchainKind.HOST:
        return STANDARD_PATH
    own = [f"{tool.path}/bin" for tool in toolchain.tools if tool.path is not None]
    return ":".join([*own, STANDARD_PATH])


def step_environment(
    toolchain: Toolchain, path: str, home: str, changes: Mapping[str, str]
) -> dict[str, str]:
    """All variables of every step.

    Args:
        toolchain: the release's, whose variables come before the usual ones.
        path: from `search_path`.
        home: a folder of the build's own.
        changes: what a second build does otherwise.
    """
    usual = {"LC_ALL": "C", "SOURCE_DATE_EPOCH": _EPOCH}
    return {**usual, **toolchain.environment, "PATH": path, "HOME": home, **changes}


class Relocation:
    """Rewrites paths when the tree does not stand where the release wants it.

    Steps may also use the folder that the tree lies in, for instance to install the
    SDK beside it; that folder moves along, unless it is one of the machine's own.

    Args:
        wanted: the path that the release asks for.
        actual: the path that the tree has.
    """

    def __init__(self, wanted: str, actual: str) -> None:
        moves = [(wanted.rstrip("/"), actual)]
        parent = PurePosixPath(wanted).parent
        top = parent.parts[1:2]
        machines = not top or top[0] in SYSTEM or (top[0] in HIDDEN and len(parent.parts) == 2)
        if not machines:
            moves.append((str(parent), str(PurePosixPath(actual).parent)))
        self._moves = dict(moves) if wanted != actual else {}
        sources = "|".join(re.escape(source) for source in self._moves)
        self._pattern = re.compile(f"{_BEFORE}(?:{sources}){_AFTER}")

    def __call__(self, text: str) -> str:
        """The text with the tree's path, and that of its folder, as they are."""
        if not self._moves:
            return text
        return self._pattern.sub(lambda found: self._moves[found[0]], text)


def independent(enclaves: Sequence[EnclavePlan]) -> list[list[EnclavePlan]]:
    """Sort enclaves into groups whose make directories lie apart from each other.

    Within a group makes run one after the other: they would write the same files.
    """
    groups: list[list[EnclavePlan]] = []
    for enclave in enclaves:
        near = [group for group in groups if any(_overlap(enclave, other) for other in group)]
        merged = [item for group in near for item in group] + [enclave]
        groups = [group for group in groups if group not in near] + [merged]
    return groups


def _overlap(one: EnclavePlan, other: EnclavePlan) -> bool:
    left = PurePosixPath(one.build.make_directory).parts
    right = PurePosixPath(other.build.make_directory).parts
    shorter = min(len(left), len(right))
    return left[:shorter] == right[:shorter]
