# SPDX-License-Identifier: GPL-2.0-or-later
"""How far a build system vouches that a package of unsigned enclaves was made as it should be.

The build system says who made the packages, in which buildroots, out of which source
package. That is compared with the release: the pinned archives must be in the source
package, and the buildroots' packages must be the pinned ones where any are pinned.

What the source package's spec did with the archives cannot be seen from outside. So such a build
is never called reproducible: it was given, and `OriginJudgement.says` what was proved and what not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

from sgx_enclaves.catalogue.artifact import Artifact
from sgx_enclaves.catalogue.records import Release
from sgx_enclaves.enclave.verdict import Finding
from sgx_enclaves.files import sha256_of
from sgx_enclaves.plain import some
from sgx_enclaves.release.outcome import note, unverifiable
from sgx_enclaves.release.place import LockedPackage
from sgx_enclaves.release.toolchain import PartState, check_lock, same_version

# What distributions call the packages of the catalogue's tools, where that is another name.
_PACKAGES = {
    "gmp-dev": ("gmp-devel",),
    "gnum4": ("m4",),
    "gnumake": ("make",),
    "linux-headers": ("kernel-headers",),
    "ocamlbuild": ("ocaml-ocamlbuild", "ocamlbuild"),
    "openssl-dev": ("openssl-devel",),
}
_NEXT = "name a build of the reproducible package that this build system has made"


@dataclass(frozen=True)
class MadeIn:
    """The buildroot that a package was made in, by its id; None if the package was imported.

    `method` is of the task that made it; `of_build` says whether that is one of the build's own.
    """

    rpm: str
    buildroot: Optional[int]
    method: Optional[str]
    of_build: bool
    components: tuple[LockedPackage, ...]


@dataclass(frozen=True)
class BuildHistory:
    """What a build system knows of a build: no task if it was imported.

    `generator` is the content generator that brought it, `source` where its source package is said
    to come from, `package` its binary package with the unsigned enclave, if there is one. Of each
    file in the source package there are the pins that it fits, as `Artifact.pin` has them;
    `problems` say which packages could not be used, and why.
    """

    nvr: str
    task_id: Optional[int]
    method: Optional[str]
    generator: Optional[str]
    source: Optional[str]
    package: Optional[MadeIn]
    source_files: Mapping[str, Collection[str]]
    problems: Sequence[str] = ()


@dataclass(frozen=True)
class OriginJudgement:
    """What is to be said of a build and why it must not be taken, if so; the digest of the
    buildroots and their packages, if there are any.
    """

    says: str
    objections: tuple[Finding, ...]
    toolchain_sha256: Optional[str]
    buildroot: tuple[LockedPackage, ...]


def judge_origin(
    history: BuildHistory, tree: Release, lock: Optional[Sequence[LockedPackage]]
) -> OriginJudgement:
    """Compare a build's history with `tree`, the release whose sources it must come from."""
    artifacts, package = tree.sources(), history.package
    buildroot = sorted(set(package.components), key=str) if package is not None else []
    proved = [
        f"{history.nvr} was built here by task {history.task_id}",
        "its source package holds the release's pinned archives",
    ]
    if history.source is not None:
        proved.append(f"said to come from {history.source}")
    opened = ["what its spec file did with them"]
    pins = {artifact.pin for artifact in artifacts}
    others = sorted(name for name, own in history.source_files.items() if pins.isdisjoint(own))
    if others:
        opened.append(f"the source package's other files ({some(others)})")
    against = list(_from_elsewhere(history, artifacts))
    if package is not None and lock is not None:
        unlike = list(_unlike_lock(package, lock))
        proved += [] if unlike else ["its buildroot is the pinned one, package by package"]
        against += unlike
    elif package is not None and package.components:
        seen, unseen, wrong = _tools(package, tree)
        proved += [f"its buildroot has {some(seen)}"] if seen else []
        opened.append("where its tools lie and what they bake in")
        opened += [f"its versions of {some(unseen)}"] if unseen else []
        against += wrong
    elif package is not None:
        opened.append("its toolchain: no package of its buildroot is known")
    if against:
        against += [note("package-not-taken", problem) for problem in history.problems]
    return OriginJudgement(
        f"proved: {'; '.join(proved)}. Not proved: {'; '.join(opened)}",
        tuple(against),
        None if package is None else packages_digest(buildroot, f"buildroot {package.buildroot}"),
        tuple(buildroot),
    )


def _objection(code: str, message: str, expected: str, found: str) -> Finding:
    return unverifiable(code, message, expected=expected, found=found, hint=_NEXT)


def _from_elsewhere(history: BuildHistory, artifacts: Iterable[Artifact]) -> Iterator[Finding]:
    if history.task_id is None or history.method != "build" or history.generator is not None:
        who = f"task {history.task_id} of method {history.method}"
        if history.generator is not None:
            who = f"content generator {history.generator}"
        elif history.task_id is None:
            who = "an import"
        message = f"{history.nvr} was not built from source here"
        yield _objection("build-not-made-here", message, "a build by a task of method build", who)
    package = history.package
    if package is None:
        message = f"no package of {history.nvr} holds the unsigned enclave"
        expected = "an unsigned enclave and its config.xml"
        yield _objection("no-unsigned-enclave", message, expected, "none")
    elif package.buildroot is None or package.method != "buildArch" or not package.of_build:
        yield _objection(
            "package-not-made-here",
            f"{package.rpm} was not made by {history.nvr}'s own build task",
            "a buildroot of a buildArch task of that build",
            f"buildroot {package.buildroot}, task of method {package.method}",
        )
    files = history.source_files
    here = {pin for own in files.values() for pin in own}
    missing = [artifact.filename for artifact in artifacts if artifact.pin not in here]
    if missing:
        message = f"the source package of {history.nvr} does not hold the release's pinned archives"
        found = some(sorted(files)) or "no file"
        yield _objection("sources-not-pinned", message, some(missing), found)


def _unlike_lock(package: MadeIn, lock: Sequence[LockedPackage]) -> Iterator[Finding]:
    wrong = [p for p in check_lock(lock, package.components) if p.state is not PartState.MATCH]
    parts = (
        ("missing", [part.name for part in wrong if part.state is PartState.MISSING]),
        ("not pinned", [part.name for part in wrong if not part.expected]),
        ("another build of", [part.name for part in wrong if part.expected and part.found]),
    )
    if wrong:
        yield _objection(
            "buildroot-not-pinned",
            f"{package.rpm} was not built in the pinned buildroot",
            f"the lock's {len(lock)} packages",
            "; ".join(f"{word} {some(names)}" for word, names in parts if names),
        )


def _tools(package: MadeIn, tree: Release) -> tuple[list[str], list[str], list[Finding]]:
    """Tools of the designated version, those that are not seen, and others."""
    seen, unseen, wrong = [], [], []
    versions = {item.name: item.version for item in reversed(package.components)}
    for tool in tree.toolchain.tools if tree.toolchain is not None else ():
        names = _PACKAGES.get(tool.name, (tool.name,))
        version = next((versions[name] for name in names if name in versions), None)
        if tool.source is not None and f"sgx-toolchain-{tree.name}" in versions:
            # a package of its own, which comes first on the builder's path
            version = tool.version
        if version is None:
            unseen.append(tool.name)
        elif not tool.exact or same_version(tool.version, version):
            seen.append(f"{tool.name} {version}")
        else:
            message = f"{package.rpm} was built with another {tool.name} than the designated one"
            found = f"{tool.name} {version} in buildroot {package.buildroot}"
            expected = f"{tool.name} {tool.version}"
            wrong.append(_objection("toolchain-not-designated", message, expected, found))
    return seen, unseen, wrong


def packages_digest(packages: Iterable[LockedPackage], *more: str) -> Optional[str]:
    """SHA-256 over the packages of a buildroot and `more`, hexadecimal; None if there are none."""
    lines = [*sorted({f"{package.nevra} {package.sigmd5}" for package in packages}), *more]
    return sha256_of("\n".join(lines).encode()) if lines else None
