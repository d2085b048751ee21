# SPDX-License-Identifier: GPL-2.0-or-later
"""Small releases whose sources are the test enclaves, and a cache that has them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sgx_enclaves.catalogue.artifact import Artifact
from sgx_enclaves.catalogue.reader import load_catalogue
from sgx_enclaves.catalogue.records import Catalogue
from sgx_enclaves.release.archive import read_contents
from sgx_enclaves.release.build import build_release
from sgx_enclaves.release.build_tree import BuildRequest
from sgx_enclaves.release.fetch import Fetched, Fetcher, path_of
from sgx_enclaves.release.manifest import Manifest
from sgx_enclaves.release.sandbox import Isolation, Machine, choose_isolation
from sgx_enclaves.release.toolchain import ToolchainKind
from tests.enclaves.compiled import HERE

ROOT = "/small-build/tree"
SIGNER = "ab" * 32
FILES = {"pce": "pce", "ide": "id_enclave", "qe3": "qe3", "tdqe": "tdqe"}


def tree_files() -> dict[str, bytes]:
    """The test enclaves' sources as a source archive has them."""
    paths = [HERE / "Makefile", HERE / "enclave.lds", HERE / "exports.map"]
    paths += [*HERE.glob("src/*"), *HERE.glob("configs/*")]
    return {str(path.relative_to(HERE)): path.read_bytes() for path in paths}


def make_tar(files: dict[str, bytes], top: str = "small-1") -> bytes:
    """A source archive; names that end in `.sh` are programs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in sorted(files.items()):
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size, info.mtime = len(data), 1_600_000_000
            info.mode = 0o755 if name.endswith(".sh") else 0o644
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), mtime=0)


def wrapper(*commands: str) -> bytes:
    """A makefile: `make NAME` builds that enclave after `commands`."""
    lines = "".join(f"\t{command}\n" for command in commands)
    rules = "".join(
        f"{name}:\n{lines}\t$(MAKE) -f Makefile OUT=out $(EXTRA) out/libsgx_{file}.so\n"
        for name, file in FILES.items()
    )
    return f".PHONY: {' '.join(FILES)}\n{rules}".encode()


def version_of(tool: str) -> str:
    """What a tool says of itself, read otherwise than the product reads it."""
    arguments = {"gcc": ["gcc", "-dumpfullversion"], "gnumake": ["make", "--version"]}[tool]
    said = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    return said.split("\n")[0].split()[-1]


@dataclass
class SmallRelease:
    """A release to build.

    Attributes:
        folder: a catalogue folder and a cache are made in it.
        files: of the first source archive.
        others: of more sources: place to archive.
        raw: of sources that are put there as they are: place to content.
        archive: the first source archive if it is not made from `files`.
        enclaves: names.
        steps: id to command.
        step_timeout: seconds, of each step.
        gcc: the designated gcc; the machine's own if empty.
        root: path of the tree.
        patches: file and place of each.
        environment: of the toolchain, as TOML lines.
        shell: the makers'.
        pinned: whether the release pins the archive.
        apart: whether each enclave has a make directory of its own.
    """

    folder: Path
    files: dict[str, bytes] = field(default_factory=tree_files)
    others: dict[str, bytes] = field(default_factory=dict)
    raw: dict[str, bytes] = field(default_factory=dict)
    archive: bytes = b""
    enclaves: Sequence[str] = ("pce", "qe3")
    steps: dict[str, list[str]] = field(default_factory=dict)
    step_timeout: int = 60
    gcc: str = ""
    root: str = ROOT
    patches: Sequence[tuple[str, str]] = ()
    environment: str = ""
    shell: Sequence[str] = ()
    pinned: bool = True
    by_contents: bool = False
    apart: bool = False

    def __post_init__(self) -> None:
        self.files.setdefault("GNUmakefile", wrapper())

    def own_folders(self, *commands: str) -> None:
        """Give each enclave a make directory of its own."""
        self.apart = True
        for name in self.enclaves:
            lines = "".join(f"\t{command}\n" for command in commands)
            make = f"\t$(MAKE) -C .. -f Makefile OUT=out out/libsgx_{FILES[name]}.so\n"
            self.files[f"{name}/Makefile"] = f"{name}:\n{lines}{make}".encode()

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def releases(self) -> Path:
        return self.folder / "releases.d"

    def catalogue(self) -> Catalogue:
        """Write the catalogue and fill the cache."""
        self.releases.mkdir(parents=True, exist_ok=True)
        (self.releases / "small.toml").write_text(self.toml(), "utf-8")
        return load_catalogue((self.releases,))

    def _put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        path = path_of(self.cache, Artifact("a", (), digest))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return digest

    def fetch(self, artifact: Artifact) -> Fetched:
        """Take a source from the cache."""
        return Fetcher(self.cache, None).fetch(artifact, allow_unpinned=True)

    def toml(self) -> str:
        main = self._put(self.archive or make_tar(self.files))
        unpinned = [] if self.pinned else ["source.main"]
        parts = [
            'schema = 1\nname = "small-1"\ntitle = "Small"\nsgx = "2.25"\ndcap = "1.22"',
            f"unpinned = {json.dumps([*unpinned, 'vendor.v', *self._unknown()])}",
            f'[build]\nroot = "{self.root}"',
            self._main(main),
        ]
        for place, data in self.others.items():
            parts.append(_source(place.rpartition("/")[2], place, self._put(data)))
        for place, data in self.raw.items():
            text = _source(place.rpartition("/")[2], place, self._put(data))
            parts.append(text + "\nunpack = false")
        for file, place in self.patches:
            parts.append(f'[[build.patch]]\nfile = "{file}"\nplace = "{place}"')
        for name, command in self.steps.items():
            parts.append(
                f'[[build.step]]\nid = "{name}"\nplace = "."\ncommand = {json.dumps(command)}\n'
                f"timeout = {self.step_timeout}"
            )
        interpreter = f"/lib64/ld-linux-{platform.machine().replace('_', '-')}.so.2"
        parts.append(f'[toolchain]\nname = "Small tools"\ninterpreter = "{interpreter}"')
        parts.append(f"shell = {json.dumps(self.shell)}")
        parts.append(f"[toolchain.environment]\n{self.environment}")
        parts.append(_tool("gcc", self.gcc or version_of("gcc")))
        parts.append(_tool("gnumake", version_of("gnumake")))
        parts.append(
            '[[vendor]]\nid = "v"\nfilename = "v.tar.gz"\nurls = ["https://v.invalid/v.tar.gz"]'
        )
        parts += [self._enclave(name) for name in self.enclaves]
        return "\n\n".join(parts) + "\n"

    def _main(self, sha256: str) -> str:
        """The first source; the archive moves to where its pin has it looked for."""
        if not self.by_contents:
            return _source("main", ".", sha256 if self.pinned else "")
        cache = self.cache
        here = path_of(cache, Artifact("a", (), sha256))
        contents = read_contents(here).sha256
        place = path_of(cache, Artifact("a", (), contents_sha256=contents))
        place.parent.mkdir(parents=True, exist_ok=True)
        here.rename(place)
        return _source("main", ".", "") + f'contents_sha256 = "{contents}"'

    def _unknown(self) -> list[str]:
        keys = ("so_version", "isvprodid", "least_isvsvn")
        return [f"enclave.{name}.{key}" for name in self.enclaves for key in keys]

    def _enclave(self, name: str) -> str:
        file = FILES[name]
        folder = name if self.apart else "."
        return (
            f'[[enclave]]\nname = "{name}"\nfile = "{file}"\nvendor = "v"\n'
            f'member = "libsgx_{file}.signed.so"\nsigner = "{SIGNER}"\n'
            f'[enclave.build]\nconfig = "configs/{file}.config.xml"\nmake_directory = "{folder}"\n'
            f'make_target = "{name}"\nunsigned = "out/libsgx_{file}.so"'
        )

    def build(
        self,
        into: Path,
        *,
        enclaves: tuple[str, ...] = (),
        toolchain: ToolchainKind = ToolchainKind.DESIGNATED,
        twice: bool = False,
        isolation: Isolation | None = None,
        source_dir: Path | None = None,
        make_timeout: int = 120,
        jobs: int = 1,
        notes: list[str] | None = None,
    ) -> Manifest:
        """Build it offline from its cache."""
        if isolation is Isolation.NONE and self.root == ROOT:
            # the machine's own path: not one for several tests at once
            self.root = str(self.folder / "machine" / "tree")
        catalogue = self.catalogue()
        release = catalogue.release("small-1")
        lines: list[str] = [] if notes is None else notes
        if isolation is None:
            isolation = choose_isolation(allow_none=True)[0]
        request = BuildRequest(
            catalogue,
            release.only(enclaves) if enclaves else release,
            Machine(isolation=isolation),
            lines.append,
            toolchain,
            source_dir=source_dir,
            twice=twice,
            make_timeout=make_timeout,
            jobs=jobs,
        )
        return build_release(request, into, self.fetch)


def _source(name: str, place: str, sha256: str) -> str:
    text = (
        f'[[build.source]]\nid = "{name}"\nplace = "{place}"\nfilename = "{name}.tar.gz"\n'
        f'urls = ["https://v.invalid/{name}.tar.gz"]\n'
    )
    return text + (f'sha256 = "{sha256}"' if sha256 else "")


def _tool(name: str, version: str) -> str:
    return f'[[toolchain.tool]]\nname = "{name}"\nversion = "{version}"'
