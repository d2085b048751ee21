# SPDX-License-Identifier: GPL-2.0-or-later
"""What a release is: the facts that decide how to build it and what to hold it against.

Data only. `release_reader` makes these from a TOML file and checks them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Optional

from sgx_enclaves.errors import CatalogueError
from sgx_enclaves.releases.artifact import Artifact

# Enclaves whose version is that of the SDK; the others' is that of the attestation primitives.
_OF_THE_SDK = frozenset({"pce", "le", "pve", "qe"})


@dataclass(frozen=True)
class Source:
    """One source archive and its place in the tree.

    Attributes:
        id: name within the release.
        artifact: the archive.
        place: folder that it is laid out in, relative to the tree; empty for its root.
        strip: leading parts of member names that are dropped.
        commit: the git commit that the archive holds, where known.
        unpack: whether it is unpacked there; otherwise it is put there as it is.
    """

    id: str
    artifact: Artifact
    place: str
    strip: int
    commit: Optional[str]
    unpack: bool


@dataclass(frozen=True)
class Patch:
    """A patch that lies in the sources themselves.

    Attributes:
        file: the patch, relative to the tree.
        place: the folder that it is applied in, relative to the tree.
        strip: leading parts of the names in it that are dropped (`patch -pN`).
    """

    file: str
    place: str
    strip: int


@dataclass(frozen=True)
class Step:
    """One command of the build; no shell is involved.

    Attributes:
        id: name within the release; also that of its log.
        place: folder to run in, relative to the tree.
        command: program and arguments.
        timeout: seconds until it is ended.
    """

    id: str
    place: str
    command: tuple[str, ...]
    timeout: int


@dataclass(frozen=True)
class Build:
    """How the tree is made and prepared before any enclave is built in it.

    Attributes:
        root: absolute path that the tree must have while it is built.
        sources: the one with an empty place comes first.
        patches: in their order.
        steps: in their order; afterwards each enclave's `make` works.
    """

    root: str
    sources: tuple[Source, ...]
    patches: tuple[Patch, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class ToolPin:
    """One tool of the designated toolchain.

    Attributes:
        name: as the release's makers call it.
        version: exactly.
        path: where it lies for them, since paths get baked in; None if unknown.
    """

    name: str
    version: str
    path: Optional[str]


@dataclass(frozen=True)
class Toolchain:
    """The designated toolchain: tools, what they bake in, and what surrounds them.

    Attributes:
        name: in words.
        tools: see `ToolPin`.
        interpreter: the PT_INTERP that its linker writes; None if unknown.
        environment: variables of every build step.
        umask: file mode mask of every build step.
        strip_flags: what the makefiles strip with; nothing may strip again.
    """

    name: str
    tools: tuple[ToolPin, ...]
    interpreter: Optional[str]
    environment: Mapping[str, str]
    umask: int
    strip_flags: tuple[str, ...]


@dataclass(frozen=True)
class VendorArchive:
    """An archive of signed enclaves, as the vendor publishes it.

    Attributes:
        id: name within the release.
        artifact: the archive.
        checksums: the vendor's list of digests beside it; None if there is none.
    """

    id: str
    artifact: Artifact
    checksums: Optional[Artifact]


@dataclass(frozen=True)
class SoVersion:
    """The version in the signed library's file name.

    Attributes:
        value: such as 1.25.100.1.
        tag: the tag of the sources that says so. It is the release's, not the
            reproducible one, which still has the version before.
        file: where in those sources.
        macro: under which name.
    """

    value: str
    tag: str
    file: str
    macro: str


@dataclass(frozen=True)
class OwnBuild:
    """Where an enclave comes out of the release's own tree; paths relative to it.

    Attributes:
        config: its `config.xml`.
        make_directory: folder of its makefile.
        make_target: what to make there.
        unsigned: the result.
        mitigation: value of MITIGATION-CVE-2020-0551 in its makefile; empty for none.
    """

    config: str
    make_directory: str
    make_target: str
    unsigned: str
    mitigation: str


@dataclass(frozen=True)
class Enclave:
    """One enclave of a release.

    Attributes:
        name: such as `ide`.
        file: such as `id_enclave`.
        vendor: id of the archive that holds the signed file.
        member: its path in there.
        build: how it is built in this release's tree; None if it is not.
        built_in: name of the release whose tree it was built from; None if its own.
        not_reproducible: why nobody outside can build it; None if they can.
        so_version: None if unknown.
        signer: the MRSIGNER that must have signed it.
        isvprodid: its product id; None if unknown.
        least_isvsvn: the lowest security version that is acceptable; None if unknown.
        required: whether the release is good only if this one is identical.
        may_ship: whether a distribution may ship it.
        reason: why it may not be shipped or is not required; empty otherwise.
    """

    name: str
    file: str
    vendor: str
    member: str
    build: Optional[OwnBuild]
    built_in: Optional[str]
    not_reproducible: Optional[str]
    so_version: Optional[SoVersion]
    signer: str
    isvprodid: Optional[int]
    least_isvsvn: Optional[int]
    required: bool
    may_ship: bool
    reason: str

    @property
    def signed_file(self) -> str:
        """The signed library's name without its version."""
        return f"libsgx_{self.file}.signed.so"

    @property
    def signature_file(self) -> str:
        """The name of a file with the vendor's signatures only."""
        return f"libsgx_{self.file}.sig"

    @property
    def component(self) -> str:
        """Which version its packages have: `sgx` or `dcap`, as distributions number them."""
        return "sgx" if self.name in _OF_THE_SDK else "dcap"


@dataclass(frozen=True)
class Release:
    """One entry of the catalogue.

    Attributes:
        name: such as `sgx-2.25-dcap-1.22`.
        title: in words.
        sgx: version of the SDK.
        dcap: version of the attestation primitives.
        build: None if nothing is built from this release's own tree.
        toolchain: None exactly if `build` is.
        vendor: the archives of signed enclaves.
        enclaves: in the order of the file.
        unpinned: the facts that nobody here knows, such as `source.linux-sgx`.
        notes: what a reader should know, such as how the facts were found.
        file: the TOML file that it came from.
        license: SPDX expression for packages of the enclaves; None if unknown.
        license_files: its text, at the top of the first source.
    """

    name: str
    title: str
    sgx: str
    dcap: str
    build: Optional[Build]
    toolchain: Optional[Toolchain]
    vendor: tuple[VendorArchive, ...]
    enclaves: tuple[Enclave, ...]
    unpinned: tuple[str, ...]
    notes: tuple[str, ...]
    file: str
    license: Optional[str] = None
    license_files: tuple[str, ...] = ()

    def enclave(self, name: str) -> Optional[Enclave]:
        """The enclave of that name."""
        return next((enclave for enclave in self.enclaves if enclave.name == name), None)

    def archive(self, vendor: str) -> Optional[VendorArchive]:
        """The vendor's archive of that id."""
        return next((archive for archive in self.vendor if archive.id == vendor), None)

    def only(self, names: Sequence[str]) -> Release:
        """The same release with these enclaves alone, each of them required.

        Raises:
            CatalogueError: it has no enclave of that name.
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
        return replace(self, enclaves=tuple(chosen))

    def sources(self) -> tuple[Artifact, ...]:
        """The archives to fetch before a build."""
        return tuple(source.artifact for source in self.build.sources) if self.build else ()

    def signed(self) -> tuple[Artifact, ...]:
        """The archives of signed enclaves."""
        return tuple(archive.artifact for archive in self.vendor)
