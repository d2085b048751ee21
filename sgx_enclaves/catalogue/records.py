# SPDX-License-Identifier: GPL-2.0-or-later
"""What a release is: which enclaves there are, from what, and signed by whom.

Data only. `reader` makes these from TOML files, whose `schema.json` describes each key.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from typing import Optional

from sgx_enclaves.catalogue.artifact import Artifact
from sgx_enclaves.enclave.policy import AskedBy, Pin, Policy, policy_for
from sgx_enclaves.errors import CatalogueError
from sgx_enclaves.plain import record

# Enclaves whose version is that of the SDK; the others' is that of the attestation primitives.
_OF_THE_SDK = frozenset({"pce", "le", "pve", "qe"})


@record
class Source:
    """One source archive, unpacked in its directory of the tree (empty: the root) or put there as
    it is; all enclaves have its code in them where `linked_by` does not say which.
    """

    id: str
    artifact: Artifact
    place: str
    strip: int = 1
    commit: Optional[str] = None
    unpack: bool = True
    version: Optional[str] = None
    linked_by: Optional[tuple[str, ...]] = None


@record
class Patch:
    """A patch in the tree, and the directory there that it is applied in, by `patch -pSTRIP`."""

    file: str
    place: str
    strip: int = 1

    def command(self, tree: str) -> list[str]:
        """What applies it, in its place, where the tree stands there."""
        return ["patch", f"-p{self.strip}", "--batch", "--forward", f"--input={tree}/{self.file}"]


@record
class Step:
    """One command of the build, without a shell; its log is called after its id. `{jobs}` stands
    for the number of processors that it may use. No `enclaves` stands for all.
    """

    id: str
    place: str
    command: tuple[str, ...]
    timeout: int = 3600
    enclaves: tuple[str, ...] = ()
    seconds: Optional[int] = None

    @property
    def limit(self) -> int:
        """After how many seconds it is ended: much later than it was seen to take."""
        return self.timeout if self.seconds is None else max(600, 20 * self.seconds)


@record
class Route:
    """A shorter way to some of the enclaves, from some of the sources, by their ids; its tree takes
    so many MiB of a disk, if that is known.
    """

    id: str
    enclaves: tuple[str, ...]
    sources: tuple[str, ...]
    steps: tuple[Step, ...]
    more_sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mib: Optional[int] = None


# The way of the release's makers, which leads to every enclave.
MAKERS = "maker"


@record
class Build:
    """How the tree, at the absolute path `root`, is made so that each enclave's `make` works there.

    The first source is the tree itself. `route` says which way this is; `routes` are shorter ones.
    """

    root: str
    sources: tuple[Source, ...]
    patches: tuple[Patch, ...] = ()
    steps: tuple[Step, ...] = ()
    routes: tuple[Route, ...] = ()
    route: str = MAKERS
    mib: Optional[int] = None

    def source_of(self, place: str) -> Source:
        """The innermost source around a path in the tree."""
        around = [s for s in self.sources if f"{place}/".startswith(f"{s.place}/")]
        return max([self.sources[0], *around], key=lambda source: len(source.place))


@record
class ToolPin:
    """One tool of the designated toolchain, as its makers call it; one that is not `exact` leaves
    no trace: with another version of it an enclave of the vendor's came out, byte for byte.
    """

    name: str
    version: str
    path: Optional[str] = None
    source: Optional[Artifact] = None
    exact: bool = True


@record
class Toolchain:
    """The designated toolchain, with the PT_INTERP that its linker writes (None if unknown).

    Below `prefix` packages install the tools that have a source. `shell` is a command that prints,
    with a zero byte behind each, the variables of the makers' own shell; `{tools}` in it stands for
    the tools' paths.
    """

    name: str
    tools: tuple[ToolPin, ...]
    interpreter: Optional[str] = None
    environment: Mapping[str, str] = field(default_factory=dict)
    umask: int = 0o022
    prefix: Optional[str] = None
    shell: tuple[str, ...] = ()


@record
class VendorArchive:
    """An archive of signed enclaves, as the vendor publishes it, and its list of digests; where it
    cannot be had, `repack` is taken, what a distribution may ship of it (`archive.pack_members`).
    """

    id: str
    artifact: Artifact
    checksums: Optional[Artifact] = None
    repack: Optional[Artifact] = None


@record
class SoVersion:
    """The version in the signed library's file name, and where it was read, in the release's tag:
    the reproducible one still has the version before.
    """

    value: str
    tag: str
    file: str
    macro: str


@record
class OwnBuild:
    """Where an enclave comes out of the release's own tree, and which MITIGATION-CVE-2020-0551 its
    makefile asks for; empty for none.
    """

    config: str
    make_directory: str
    make_target: str
    unsigned: str
    mitigation: str = ""

    @property
    def unstripped(self) -> str:
        """What its make links, before the makefile's `$(STRIP)` takes the symbols out."""
        return f"{self.unsigned.removesuffix('.so')}.unstripped.so"

    @property
    def make_command(self) -> list[str]:
        """The command that builds it, in its make directory, and keeps what it links."""
        kept = posixpath.relpath(f"/{self.unstripped}", f"/{self.make_directory}")
        given = [f"MITIGATION-CVE-2020-0551={self.mitigation}"] if self.mitigation else []
        return ["make", self.make_target, f"STRIP=cp $@ {kept}; strip", *given]


@record
class Enclave:
    """One enclave of a release, such as `ide`, in file names `file`, such as `id_enclave`.

    The release is good only if each `required` one is identical. `signed_sha256` is of the vendor's
    signed file, which one that is given or repacked must have too; `second_key_sha256` of the
    modulus that its second signature brings (None: any will do).
    """

    name: str
    file: str
    vendor: str
    member: str
    signer: str
    isvprodid: Optional[int] = None
    least_isvsvn: Optional[int] = None
    so_version: Optional[SoVersion] = None
    build: Optional[OwnBuild] = None
    built_in: Optional[str] = None
    not_reproducible: Optional[str] = None
    required: bool = True
    may_ship: bool = True
    reason: str = ""
    signed_sha256: Optional[str] = None
    second_key_sha256: Optional[str] = None

    @property
    def signed_file(self) -> str:
        """Without its version."""
        return f"libsgx_{self.file}.signed.so"

    @property
    def misnamed(self) -> str:
        """Why no package can ship the vendor's file as it is; empty if one can."""
        name = self.member.rpartition("/")[2]
        other = f"its member is called {name}, and packages ship {self.signed_file}"
        return "" if name == self.signed_file else other

    @property
    def signature_file(self) -> str:
        """The name of a file with the vendor's signatures only."""
        return f"libsgx_{self.file}.sig"

    @property
    def component(self) -> str:
        """Which version its packages have: `sgx` or `dcap`, as distributions number them."""
        return "sgx" if self.name in _OF_THE_SDK else "dcap"


def policy_of(enclave: Enclave) -> Policy:
    """What the catalogue demands of the enclave's signature."""
    pin = Pin(
        enclave.name,
        enclave.file,
        enclave.signer,
        enclave.isvprodid,
        enclave.least_isvsvn,
        enclave.may_ship,
        enclave.signed_sha256,
        enclave.second_key_sha256,
    )
    return policy_for(pin, named_by=AskedBy.CATALOGUE)


@record
class Run:
    """A run of `verify-release` that really took place; `record` is where it is described."""

    enclave: str
    date: str
    by: str
    route: str
    toolchain: str
    verdict: str
    reproducible: bool
    record: str
    unsigned_sha256: Optional[str] = None


@record
class Release:
    """One entry of the catalogue, which came from the TOML `file`.

    `sgx` is the version of the SDK, `dcap` of the attestation primitives. Build and toolchain are
    None if nothing is built from its own tree. `license` is of packages of the enclaves;
    `license_about` says in lines what of them is under which.
    """

    name: str
    title: str
    sgx: str
    dcap: str
    enclaves: tuple[Enclave, ...]
    file: str
    vendor: tuple[VendorArchive, ...] = ()
    build: Optional[Build] = None
    toolchain: Optional[Toolchain] = None
    unpinned: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    license: Optional[str] = None
    license_about: tuple[str, ...] = ()
    license_files: tuple[str, ...] = ()
    bundled: Mapping[str, str] = field(default_factory=dict)
    shipped: int = 0
    runs: tuple[Run, ...] = ()

    def enclave(self, name: str) -> Optional[Enclave]:
        """The enclave of that name."""
        return next((enclave for enclave in self.enclaves if enclave.name == name), None)

    def sources(self) -> tuple[Artifact, ...]:
        """The archives to fetch before a build."""
        return tuple(source.artifact for source in self.build.sources) if self.build else ()

    def own_tree(self) -> tuple[Build, Toolchain]:
        """How its own tree is made, and with what; a CatalogueError if it has none."""
        if self.build is None or self.toolchain is None:
            others = ", ".join(sorted({e.built_in for e in self.enclaves if e.built_in}))
            raise CatalogueError(
                f"{self.name} has no sources of its own, and designates no toolchain",
                file=self.file,
                hint=f"name one that its enclaves are built in: {others or 'there is none'}",
            )
        return self.build, self.toolchain

    def along(self, route: Optional[str] = None) -> Release:
        """The release whose own tree is made by one route, with what that needs alone; by default
        the first route that leads to all of its enclaves.
        """
        (build, _), wanted = self.own_tree(), {enclave.name for enclave in self.enclaves}
        ways = [item for item in build.routes if wanted <= set(item.enclaves)]
        way = next((item for item in ways if route in (None, item.id)), None)
        if route == MAKERS or (route is None and way is None):
            return replace(self, build=replace(build, routes=()))
        if way is None:
            known = [f"{item.id} to {', '.join(item.enclaves)}" for item in build.routes]
            raise CatalogueError(
                f"no route {route!r} leads to {', '.join(sorted(wanted))}",
                file=self.file,
                hint=f"there are {'; '.join([*known, MAKERS])} to all",
            )
        ids = {*way.sources, *(s for name in wanted for s in way.more_sources.get(name, ()))}
        own = replace(
            build,
            sources=tuple(item for item in build.sources if item.id in ids),
            patches=tuple(p for p in build.patches if build.source_of(p.place).id in ids),
            steps=tuple(s for s in way.steps if not s.enclaves or wanted & set(s.enclaves)),
            routes=(),
            route=way.id,
            mib=way.mib,
        )
        facts = {f"source.{name}" for name in ids}
        unpinned = tuple(f for f in self.unpinned if f in facts or not f.startswith("source."))
        return replace(self, build=own, unpinned=unpinned)

    def only(self, names: Iterable[str]) -> Release:
        """The release cut down to these enclaves, each of them required, with the vendor's archives
        that hold them and the unknown facts that stand in their way.
        """
        chosen = []
        for name in dict.fromkeys(names):
            enclave = self.enclave(name)
            if enclave is None:
                raise CatalogueError(
                    f"{self.name} has no enclave {name!r}",
                    file=self.file,
                    hint="it has " + ", ".join(item.name for item in self.enclaves),
                )
            chosen.append(replace(enclave, required=True))
        archives = {enclave.vendor for enclave in chosen}
        own = tuple(f"enclave.{enclave.name}." for enclave in chosen)
        if any(enclave.built_in is None for enclave in chosen):
            own += ("source.", "toolchain.")
        held = {f"vendor.{name}" for name in archives}
        return replace(
            self,
            vendor=tuple(item for item in self.vendor if item.id in archives),
            enclaves=tuple(chosen),
            unpinned=tuple(f for f in self.unpinned if f in held or f.startswith(own)),
        )


@record
class Catalogue:
    """All releases that are known, by name, and the files of those that others replaced."""

    releases: Mapping[str, Release]
    replaced: Mapping[str, str] = field(default_factory=dict)

    def release(self, name: str) -> Release:
        """The release of that name; a CatalogueError, with names like it, if there is none."""
        release = self.releases.get(name)
        if release is None:
            import difflib  # noqa: PLC0415  (only a mistake needs it)

            close = [known for known in self.releases if known.startswith(name)]
            close = close or difflib.get_close_matches(name, self.releases)
            hint = f"did you mean {' or '.join(close)}?" if close else ""
            raise CatalogueError(
                f"there is no release {name!r}", hint=f"{hint} `releases list` lists all".strip()
            )
        return release

    def notices(self, release: Release) -> tuple[str, ...]:
        """What the user should know of the release: which files of it, or its trees, are other."""
        own = dict.fromkeys((release.name, *(e.built_in for e in release.enclaves)))
        names = [name for name in own if name in self.replaced]
        said = [f"{n}: {self.releases[n].file} replaces {self.replaced[n]}" for n in names if n]
        others = len(self.replaced) - len(said)
        if others:
            said.append(f"{others} other releases of the catalogue are replaced too")
        return tuple(said)

    def build_of(self, release: Release, enclave: Enclave) -> tuple[Release, OwnBuild]:
        """The release in whose tree this enclave is built, and how: not every one is signed again
        for each release. A CatalogueError if nobody outside can build it.
        """
        if enclave.not_reproducible is not None:
            raise CatalogueError(
                f"{enclave.name} of {release.name} cannot be built: {enclave.not_reproducible}",
                file=release.file,
            )
        tree = release if enclave.built_in is None else self.releases.get(enclave.built_in)
        built = tree.enclave(enclave.name) if tree is not None else None
        if tree is None or built is None or built.build is None:
            raise CatalogueError(
                f"enclave {enclave.name}.built_in: names no release that builds it",
                file=release.file,
                found=repr(enclave.built_in),
                hint="add that release to the same directory",
            )
        return tree, built.build

    def plan(self, release: Release, route: Optional[str] = None) -> tuple[Release, ...]:
        """The releases in whose trees the enclaves that a release requires are built, cut down to
        these and to one route (see `Release.along`). A CatalogueError if that is unknown, or an
        enclave cannot be built by outsiders.
        """
        trees: dict[str, tuple[Release, list[Enclave]]] = {}
        for enclave in release.enclaves:
            if enclave.required:
                tree, own = self.build_of(release, enclave)
                trees.setdefault(tree.name, (tree, []))[1].append(replace(enclave, build=own))
        if not trees:
            known = ", ".join(enclave.name for enclave in release.enclaves)
            raise CatalogueError(
                f"{release.name} requires no enclave", hint=f"name those to build: {known}"
            )
        cut = (replace(tree, enclaves=tuple(enclaves)) for tree, enclaves in trees.values())
        return tuple(tree.along(route) for tree in cut)

    def trees_of(self, release: Release) -> tuple[Release, ...]:
        """The releases whose trees its enclaves, those that can be, are built in."""
        chosen = (e for e in release.enclaves if e.not_reproducible is None)
        trees = (self.build_of(release, enclave)[0] for enclave in chosen)
        return tuple({tree.name: tree for tree in trees}.values())

    def unpinned_digests(self, release: Release) -> tuple[str, ...]:
        """The files of the release, and of the trees that it is built in, without a pin."""
        facts = [f for f in release.unpinned if f.startswith(("source.", "vendor."))]
        for name in sorted({e.built_in for e in release.enclaves if e.built_in is not None}):
            unpinned = self.release(name).unpinned
            facts += [f"{name}: {f}" for f in unpinned if f.startswith("source.")]
        return tuple(facts)
