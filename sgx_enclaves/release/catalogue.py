# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalogue of releases: ours, and what users add in folders of their own.

Knows folders of TOML files. A later folder's release replaces an earlier one of
the same name, never silently. What a release means is `release`'s matter.

Typed reading of parsed TOML, where every mistake names file, key and reason.

One file that a release needs: what it is called, where it stands, its digests.

Data only. Knows the layout of a look-aside cache; never opens a connection.

What a release is: the facts that decide how to build it and what to hold it against.

Data only. `release_reader` makes these from a TOML file and checks them.

A release cut down and handed on, for those who share the work.

What is said of the part is said of that enclave only: unknown facts of others do
not stand in its way. Those who share it work from the same bytes of the catalogue.

From a release's TOML to its data, checked.

The form is written down for other tools in `catalogue.schema.json`. What a
schema cannot say is checked here too: ids that name nothing, facts that are
missing without being listed as `unpinned`, facts that are listed and there.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, Optional
from urllib.parse import quote, urlsplit

from sgx_enclaves.errors import CatalogueError
from sgx_enclaves.limits import MIB

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LONGEST = 4096


class Table:
    """A TOML table whose keys are taken one by one; none may be left over.

    Args:
        data: the parsed table.
        file: where it was read from.
        path: its dotted path in there; empty for the whole file.
    """

    def __init__(self, data: Mapping[str, Any], file: str, path: str = "") -> None:
        self._left = dict(data)
        self._file = file
        self.path = path

    def refuse(self, key: str, reason: str, found: Optional[object] = None) -> NoReturn:
        """Raise the error for a key."""
        where = f"{self.path}.{key}" if self.path and key else self.path or key
        raise CatalogueError(
            f"{where}: {reason}" if where else reason,
            file=self._file,
            found=repr(found)[:200] if found is not None else None,
        )

    def _take(self, key: str, kind: type, word: str, required: bool) -> Any:
        if key not in self._left:
            if required:
                self.refuse(key, "is missing")
            return None
        value = self._left.pop(key)
        # a TOML boolean is a Python int
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.refuse(key, f"must be {word}", value)
        return value

    def maybe_text(self, key: str, pattern: Optional[re.Pattern[str]] = None) -> Optional[str]:
        """A non-empty line of text, or None if the key is not there."""
        value = self._take(key, str, "text", required=False)
        if value is None:
            return None
        if not value or len(value) > _LONGEST or not value.isprintable():
            self.refuse(key, "must be one line of text", value)
        if pattern is not None and not pattern.fullmatch(value):
            self.refuse(key, f"must look like {pattern.pattern}", value)
        return str(value)

    def text(self, key: str, pattern: Optional[re.Pattern[str]] = None) -> str:
        """A non-empty line of text."""
        value = self.maybe_text(key, pattern)
        if value is None:
            self.refuse(key, "is missing")
        return value

    def place(self, key: str) -> str:
        """A path below the tree, or `.` (given as empty) for the tree itself."""
        value = self.text(key)
        if value == ".":
            return ""
        if value.startswith("/") or any(part in ("", ".", "..") for part in value.split("/")):
            self.refuse(key, "must be a plain relative path", value)
        return value

    def maybe_integer(self, key: str, low: int, high: int) -> Optional[int]:
        """A number from `low` to `high`, or None if the key is not there."""
        value = self._take(key, int, "a number", required=False)
        if value is None:
            return None
        if not low <= value <= high:
            self.refuse(key, f"must be from {low} to {high}", value)
        return int(value)

    def boolean(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._take(key, bool, "true or false", required=False)
        return default if value is None else bool(value)

    def texts(self, key: str, required: bool = True) -> tuple[str, ...]:
        """A list of lines of text; empty if it is not required and not there."""
        value = self._take(key, list, "a list of text", required)
        for item in value or ():
            if not isinstance(item, str) or not item or not item.isprintable():
                self.refuse(key, "must be a list of text", item)
        return tuple(value or ())

    def strings(self, key: str) -> dict[str, str]:
        """A table of text, such as environment variables."""
        value = self._take(key, dict, "a table", required=False) or {}
        for name, item in value.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or not isinstance(item, str):
                self.refuse(f"{key}.{name}", "must be a variable with text", item)
        return dict(value)

    def table(self, key: str) -> Optional[Table]:
        """A table within this one, or None."""
        value = self._take(key, dict, "a table", required=False)
        return None if value is None else Table(value, self._file, self._below(key))

    def tables(self, key: str) -> list[Table]:
        """A list of tables; empty if the key is not there."""
        value = self._take(key, list, "a list of tables", required=False) or []
        tables = []
        for number, item in enumerate(value):
            if not isinstance(item, dict):
                self.refuse(key, "must be a list of tables", item)
            tables.append(Table(item, self._file, f"{self._below(key)}[{number}]"))
        return tables

    def _below(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def unique(self, key: str, values: Iterable[str]) -> None:
        """Refuse a value that is there twice."""
        seen: set[str] = set()
        for value in values:
            if value in seen:
                self.refuse(key, "is there twice", value)
            seen.add(value)

    def done(self) -> None:
        """Refuse keys that nobody took: a misspelt key must not be silently lost."""
        for key in self._left:
            self.refuse(key, "is not a known key")


_HEX = {
    "sha256": re.compile(r"[0-9a-f]{64}"),
    "sha512": re.compile(r"[0-9a-f]{128}"),
    "contents_sha256": re.compile(r"[0-9a-f]{64}"),
}
_FILENAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,199}")


@dataclass(frozen=True)
class Artifact:
    """A file to fetch.

    Attributes:
        filename: its name, without a folder.
        urls: where it may stand, best first; HTTPS only.
        sha256: the pinned digest in lower-case hexadecimal; None if nobody knows it.
        sha512: a second pin, which look-aside caches are keyed by; usually None.
        size: bytes, where known.
        max_size: bytes that are fetched at most.
        contents_sha256: pin of what the archive holds, however it is packed (see
            `contents`); None if nobody knows it. Every pin that is given must hold.
    """

    filename: str
    urls: tuple[str, ...]
    sha256: Optional[str] = None
    sha512: Optional[str] = None
    size: Optional[int] = None
    max_size: int = 1024 * MIB
    contents_sha256: Optional[str] = None

    def __post_init__(self) -> None:
        if not _FILENAME.fullmatch(self.filename):
            raise CatalogueError("a file name must be plain", found=repr(self.filename))
        for kind, pattern in _HEX.items():
            value: Optional[str] = getattr(self, kind)
            if value is not None and not pattern.fullmatch(value):
                raise CatalogueError(
                    f"{self.filename}: {kind} must be lower-case hexadecimal", found=repr(value)
                )
        for url in self.urls:
            check_url(url)

    @property
    def pinned(self) -> bool:
        """Whether it is known beforehand what the file must hold."""
        return self.sha256 is not None or self.contents_sha256 is not None

    @property
    def pin(self) -> Optional[str]:
        """The pin that the file is looked for by, in words; None without one."""
        if self.sha256 is not None:
            return f"sha256 {self.sha256}"
        return f"contents_sha256 {self.contents_sha256}" if self.pinned else None

    @property
    def key(self) -> str:
        """A name for locks and part files: the pin, or the digest of the URLs."""
        if self.sha256:
            return self.sha256
        if self.contents_sha256:
            return f"contents-{self.contents_sha256}"
        return "url-" + hashlib.sha256("\n".join(self.urls).encode()).hexdigest()


def check_url(url: str) -> str:
    """Give the URL back if it is one that may be fetched.

    Raises:
        CatalogueError: not HTTPS, without a host, with a password, or malformed.
    """
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise CatalogueError("this is not a URL", found=repr(url)) from None
    if not url.isascii() or not url.isprintable() or " " in url:
        raise CatalogueError("a URL must be plain ASCII", found=repr(url))
    if parts.scheme != "https":
        raise CatalogueError("only https URLs are fetched", found=repr(url))
    if not host or parts.username is not None or parts.password is not None:
        raise CatalogueError("a URL needs a host and must hold no password", found=repr(url))
    return url


@dataclass(frozen=True)
class Lookaside:
    """A look-aside cache as dist-git servers keep beside their package repositories.

    A file stands at `BASE/PACKAGE/FILENAME/HASHTYPE/HASH/FILENAME`. Fedora's base
    is `https://src.fedoraproject.org/repo/pkgs/rpms`, CentOS Stream's
    `https://sources.stream.centos.org/sources/rpms`; both key by sha512.

    Attributes:
        base: URL without a trailing slash.
        package: name of the source package that the file belongs to.
    """

    base: str
    package: str

    def __post_init__(self) -> None:
        check_url(self.base)
        if not _FILENAME.fullmatch(self.package):
            raise CatalogueError("a package name must be plain", found=repr(self.package))

    def urls(self, artifact: Artifact) -> tuple[str, ...]:
        """Where the file would stand, for each digest that is known; maybe none."""
        name = quote(artifact.filename)
        return tuple(
            f"{self.base.rstrip('/')}/{self.package}/{name}/{kind}/{value}/{name}"
            for kind, value in (("sha512", artifact.sha512), ("sha256", artifact.sha256))
            if value is not None
        )


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


def only(release: Release, name: str) -> Release:
    """The release with that enclave alone, which is then required.

    Raises:
        CatalogueError: it has no such enclave.
    """
    enclave = release.enclave(name)
    if enclave is None:
        raise CatalogueError(
            f"{release.name} has no enclave {name!r}",
            file=release.file,
            hint="it has " + ", ".join(item.name for item in release.enclaves),
        )
    archive = f"vendor.{enclave.vendor}"
    own = [f"enclave.{name}."]
    if enclave.built_in is None:
        own += ["source.", "toolchain."]
    return replace(
        release,
        vendor=tuple(item for item in release.vendor if item.id == enclave.vendor),
        enclaves=(replace(enclave, required=True),),
        unpinned=tuple(
            fact for fact in release.unpinned if fact == archive or fact.startswith(tuple(own))
        ),
    )


def needed_for(catalogue: Catalogue, release: Release) -> tuple[Release, ...]:
    """The release and those whose trees its enclaves are built in, each once.

    Enclaves that nobody outside can build need no tree.

    Raises:
        CatalogueError: a `built_in` names no release that builds the enclave.
    """
    needed = {release.name: release}
    for enclave in release.enclaves:
        if enclave.not_reproducible is None:
            tree, _own = catalogue.build_of(release, enclave)
            needed.setdefault(tree.name, tree)
    return tuple(needed.values())


def catalogue_from(files: Mapping[str, bytes]) -> Catalogue:
    """A catalogue of exactly these releases.

    Args:
        files: what to call each in messages, to its TOML.

    Raises:
        CatalogueError: one is wrong, or two have the same name.
    """
    releases: dict[str, Release] = {}
    for name, data in files.items():
        release = read_release(parse_toml(data, name), name)
        if release.name in releases:
            raise CatalogueError(f"there are two releases {release.name!r}", file=name)
        releases[release.name] = release
    return Catalogue(releases, ())


SCHEMA = 1
_VERSION = re.compile(r"[0-9]+(\.[0-9]+){0,5}")
_SO_VERSION = re.compile(r"[0-9]+(\.[0-9]+){3}")
# an SPDX expression: names, parentheses, AND, OR, WITH
_LICENSE = re.compile(r"[A-Za-z0-9.+()-]+( [A-Za-z0-9.+()-]+)*")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SIGNER = re.compile(r"[0-9a-f]{64}")
_ABSOLUTE = re.compile(r"/[A-Za-z0-9._/+-]{1,255}")
_FILE = re.compile(r"[a-z0-9_]{1,32}")
_MACRO = re.compile(r"[A-Z0-9_]{1,64}")
_MITIGATION = re.compile(r"LOAD|CF")
_DAY = 24 * 3600


def read_release(data: Mapping[str, Any], file: str) -> Release:
    """Check a parsed TOML file and make a release of it.

    Args:
        data: the parsed file.
        file: its name, for messages.

    Raises:
        CatalogueError: any mistake; the message names file, key and reason.
    """
    top = Table(data, file)
    schema = top.maybe_integer("schema", 0, 1 << 30)
    if schema != SCHEMA:
        top.refuse("schema", f"must be {SCHEMA}", schema)
    build_table = top.table("build")
    toolchain_table = top.table("toolchain")
    if (build_table is None) != (toolchain_table is None):
        top.refuse("build", "and toolchain go together")
    release = Release(
        name=top.text("name", NAME),
        title=top.text("title"),
        sgx=top.text("sgx", _VERSION),
        dcap=top.text("dcap", _VERSION),
        build=None if build_table is None else _build(build_table),
        toolchain=None if toolchain_table is None else _toolchain(toolchain_table),
        vendor=tuple(_vendor(table) for table in top.tables("vendor")),
        enclaves=tuple(_enclave(table) for table in top.tables("enclave")),
        unpinned=top.texts("unpinned", required=False),
        notes=top.texts("notes", required=False),
        file=file,
        license=top.maybe_text("license", _LICENSE),
        license_files=_license_files(top),
    )
    top.done()
    _cross_check(release, top)
    return release


def _license_files(top: Table) -> tuple[str, ...]:
    names = top.texts("license_files", required=False)
    for name in names:
        if not _PLAIN.fullmatch(name):
            top.refuse("license_files", "must be names without a folder", name)
    return names


def _artifact(table: Table, contents_sha256: Optional[str] = None) -> Artifact:
    sha256, sha512 = table.maybe_text("sha256"), table.maybe_text("sha512")
    size = table.maybe_integer("size", 1, 1 << 40)
    filename, urls = table.text("filename"), table.texts("urls")
    if not urls:
        table.refuse("urls", "must name at least one place")
    try:
        return Artifact(filename, urls, sha256, sha512, size, contents_sha256=contents_sha256)
    except CatalogueError as error:
        table.refuse("", error.message, error.found)


def _build(table: Table) -> Build:
    build = Build(
        root=table.text("root", _ABSOLUTE),
        sources=tuple(_source(item) for item in table.tables("source")),
        patches=tuple(_patch(item) for item in table.tables("patch")),
        steps=tuple(_step(item) for item in table.tables("step")),
    )
    table.done()
    if not build.sources or build.sources[0].place:
        table.refuse("source", "must begin with the one whose place is '.'")
    if any(not source.place for source in build.sources[1:]):
        table.refuse("source", "only the first may have the place '.'")
    table.unique("source", (source.id for source in build.sources))
    table.unique("source", (source.place for source in build.sources))
    table.unique("step", (step.id for step in build.steps))
    return build


def _source(table: Table) -> Source:
    strip = table.maybe_integer("strip", 0, 16)
    source = Source(
        id=table.text("id", NAME),
        artifact=_artifact(table, table.maybe_text("contents_sha256")),
        place=table.place("place"),
        strip=1 if strip is None else strip,
        commit=table.maybe_text("commit", _COMMIT),
        unpack=table.boolean("unpack", True),
    )
    table.done()
    if source.artifact.contents_sha256 is not None and not (source.unpack and source.strip == 1):
        # below another folder, or packed, the build would see what the digest does not cover
        table.refuse("contents_sha256", "goes with unpack = true and strip = 1 only")
    return source


def _patch(table: Table) -> Patch:
    strip = table.maybe_integer("strip", 0, 16)
    patch = Patch(table.place("file"), table.place("place"), 1 if strip is None else strip)
    table.done()
    if not patch.file:
        table.refuse("file", "must name a file")
    return patch


def _step(table: Table) -> Step:
    timeout = table.maybe_integer("timeout", 1, _DAY)
    step = Step(
        id=table.text("id", NAME),
        place=table.place("place"),
        command=table.texts("command"),
        timeout=3600 if timeout is None else timeout,
    )
    table.done()
    if not step.command:
        table.refuse("command", "must name a program")
    return step


def _toolchain(table: Table) -> Toolchain:
    umask = table.maybe_integer("umask", 0, 0o777)
    toolchain = Toolchain(
        name=table.text("name"),
        tools=tuple(_tool(item) for item in table.tables("tool")),
        interpreter=table.maybe_text("interpreter", _ABSOLUTE),
        environment=table.strings("environment"),
        umask=0o022 if umask is None else umask,
        strip_flags=table.texts("strip_flags", required=False),
    )
    table.done()
    if not toolchain.tools:
        table.refuse("tool", "must name at least one")
    table.unique("tool", (tool.name for tool in toolchain.tools))
    return toolchain


def _tool(table: Table) -> ToolPin:
    tool = ToolPin(
        table.text("name", NAME), table.text("version"), table.maybe_text("path", _ABSOLUTE)
    )
    table.done()
    return tool


def _vendor(table: Table) -> VendorArchive:
    listed = table.table("checksums")
    archive = VendorArchive(
        id=table.text("id", NAME),
        artifact=_artifact(table),
        checksums=None if listed is None else _artifact(listed),
    )
    table.done()
    if listed is not None:
        listed.done()
    return archive


def _enclave(table: Table) -> Enclave:
    version = table.table("so_version")
    own = table.table("build")
    enclave = Enclave(
        name=table.text("name", NAME),
        file=table.text("file", _FILE),
        vendor=table.text("vendor", NAME),
        member=table.place("member"),
        build=None if own is None else _own_build(own),
        built_in=table.maybe_text("built_in", NAME),
        not_reproducible=table.maybe_text("not_reproducible"),
        so_version=None if version is None else _so_version(version),
        signer=table.text("signer", _SIGNER),
        isvprodid=table.maybe_integer("isvprodid", 0, 0xFFFF),
        least_isvsvn=table.maybe_integer("least_isvsvn", 0, 0xFFFF),
        required=table.boolean("required", True),
        may_ship=table.boolean("may_ship", True),
        reason=table.maybe_text("reason") or "",
    )
    table.done()
    ways = (enclave.build, enclave.built_in, enclave.not_reproducible)
    if sum(way is not None for way in ways) != 1:
        table.refuse("build", "exactly one of build, built_in and not_reproducible must be given")
    if not (enclave.required and enclave.may_ship) and not enclave.reason:
        table.refuse("reason", "must say why it is not required or may not be shipped")
    if enclave.required and enclave.not_reproducible is not None:
        table.refuse("required", "must be false for what nobody can build")
    return enclave


def _own_build(table: Table) -> OwnBuild:
    build = OwnBuild(
        config=table.place("config"),
        make_directory=table.place("make_directory"),
        make_target=table.text("make_target"),
        unsigned=table.place("unsigned"),
        mitigation=table.maybe_text("mitigation", _MITIGATION) or "",
    )
    table.done()
    return build


def _so_version(table: Table) -> SoVersion:
    version = SoVersion(
        value=table.text("value", _SO_VERSION),
        tag=table.text("tag"),
        file=table.place("file"),
        macro=table.text("macro", _MACRO),
    )
    table.done()
    return version


def _cross_check(release: Release, top: Table) -> None:
    if not release.enclaves:
        top.refuse("enclave", "must name at least one")
    top.unique("vendor", (archive.id for archive in release.vendor))
    top.unique("enclave", (enclave.name for enclave in release.enclaves))
    for enclave in release.enclaves:
        if release.archive(enclave.vendor) is None:
            top.refuse(f"enclave {enclave.name}.vendor", "names no archive", enclave.vendor)
        if enclave.build is not None and release.build is None:
            top.refuse(f"enclave {enclave.name}.build", "needs the release's own build")
        if enclave.built_in == release.name:
            top.refuse(f"enclave {enclave.name}.built_in", "must be another release")
    top.unique("unpinned", release.unpinned)
    unknown = set(unknown_facts(release))
    for fact in sorted(unknown - set(release.unpinned)):
        top.refuse("unpinned", f"must list {fact}, which is not given")
    for fact in sorted(set(release.unpinned) - unknown):
        top.refuse("unpinned", f"lists {fact}, which is given or is no fact of this release")


def unknown_facts(release: Release) -> list[str]:
    """The facts that a verdict needs and the release does not give."""
    facts: list[tuple[str, Optional[object]]] = []
    if release.build is not None:
        facts += [(f"source.{item.id}", item.artifact.pin) for item in release.build.sources]
    if release.toolchain is not None:
        facts.append(("toolchain.interpreter", release.toolchain.interpreter))
    facts += [(f"vendor.{item.id}", item.artifact.pin) for item in release.vendor]
    for enclave in release.enclaves:
        facts += [
            (f"enclave.{enclave.name}.{key}", getattr(enclave, key))
            for key in ("so_version", "isvprodid", "least_isvsvn")
        ]
    return [name for name, value in facts if value is None]


OWN_FOLDER = Path(__file__).with_name("catalogue")
USER_FOLDER = Path("/etc/sgx-enclaves/releases.d")
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Catalogue:
    """All releases that are known.

    Attributes:
        releases: by name, in the order that they were first met.
        notices: what the user should know, such as that a release was replaced.
    """

    releases: Mapping[str, Release]
    notices: tuple[str, ...]

    def release(self, name: str) -> Release:
        """The release of that name.

        Raises:
            CatalogueError: there is none; the hint lists those that are there.
        """
        release = self.releases.get(name)
        if release is None:
            raise CatalogueError(
                f"there is no release {name!r}",
                hint="known are " + ", ".join(self.releases) if self.releases else "none is known",
            )
        return release

    def build_of(self, release: Release, enclave: Enclave) -> tuple[Release, Enclave]:
        """The release and the enclave in it whose tree this enclave is built from.

        Not every enclave is signed anew for each release: the vendor's README
        says which tag each one was built from.

        Raises:
            CatalogueError: nobody outside can build it, or its `built_in` is wrong.
        """
        if enclave.not_reproducible is not None:
            raise CatalogueError(
                f"{enclave.name} of {release.name} cannot be built: {enclave.not_reproducible}",
                file=release.file,
            )
        if enclave.built_in is None:
            return release, enclave
        other = self.releases.get(enclave.built_in)
        built = other.enclave(enclave.name) if other is not None else None
        if other is None or built is None or built.build is None:
            raise CatalogueError(
                f"enclave {enclave.name}.built_in: names no release that builds it",
                file=release.file,
                found=repr(enclave.built_in),
                hint="add that release to the same folder",
            )
        return other, built

    def unpinned_for(self, release: Release, enclave: Enclave) -> tuple[str, ...]:
        """The unknown facts that stand between this enclave and the verdict `identical`.

        Returns:
            The facts, those of another release's tree with that release's name in front.

        Raises:
            CatalogueError: see `build_of`.
        """
        own = (f"vendor.{enclave.vendor}", f"enclave.{enclave.name}.")
        facts = [fact for fact in release.unpinned if fact.startswith(own)]
        built, _enclave = self.build_of(release, enclave)
        prefix = "" if built is release else f"{built.name}: "
        facts += [
            prefix + fact for fact in built.unpinned if fact.startswith(("source.", "toolchain."))
        ]
        return tuple(facts)


def parse_toml(data: bytes, file: str) -> dict[str, Any]:
    """Parse TOML, by `tomllib` or before Python 3.11 by `tomli`.

    Raises:
        CatalogueError: no TOML, or neither module is there.
    """
    if len(data) > _MAX_BYTES:
        raise CatalogueError("too large for a release", file=file)
    for name in ("tomllib", "tomli"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        try:
            parsed: dict[str, Any] = module.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise CatalogueError(f"not TOML: {error}", file=file) from None
        return parsed
    raise CatalogueError("TOML cannot be read here", file=file, hint="install python3-tomli")


def read_release_file(path: Path) -> Release:
    """Read one release.

    Raises:
        CatalogueError: it cannot be read, or is wrong.
    """
    try:
        if not path.is_file():
            raise CatalogueError("there is no such file", file=str(path))
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise CatalogueError(f"cannot be read: {error.strerror}", file=str(path)) from None
    return read_release(parse_toml(data, str(path)), str(path))


def load_catalogue(folders: Sequence[Path] = (OWN_FOLDER, USER_FOLDER)) -> Catalogue:
    """Read every `*.toml` of the folders, sorted by name within each.

    Args:
        folders: later ones win; those that do not exist are passed over. A file stands
            for itself.

    Raises:
        CatalogueError: any file is wrong. A broken catalogue decides nothing.
    """
    releases: dict[str, Release] = {}
    notices = []
    for folder in folders:
        files = [folder] if folder.is_file() else sorted(folder.glob("*.toml"))
        for path in files:
            release = read_release_file(path)
            before = releases.get(release.name)
            if before is not None:
                notices.append(f"{release.name}: {path} replaces {before.file}")
            releases[release.name] = release
    catalogue = Catalogue(releases, tuple(notices))
    for release in releases.values():
        for enclave in release.enclaves:
            if enclave.built_in is not None:
                catalogue.build_of(release, enclave)
    return catalogue
