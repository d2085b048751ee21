# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of the gate need on a real hub: builds made by hand, and a host played by hand.

Packages are written byte by byte and imported as an admin imports them, so that a
build takes no time and may be as odd as a test asks for. The host `Recorder` takes
verification tasks from a channel of its own, where no builder listens, and
writes what a test asks for.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import koji
import koji.xmlrpcplus

from sgx_enclaves import __version__
from sgx_enclaves.gate.inspect import inspect_package
from sgx_enclaves.gate.record import CATALOGUE, SCHEMA
from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER
from tests.koji.harness import world
from tests.koji.harness.site import Site
from tests.support.keys import mrsigner, vendor_key
from tests.support.signed import signed_enclave
from tests.support_rpm import RpmFile, write_rpm

CASE = signed_enclave("2.25")
OTHER = signed_enclave("2.25", code=b"\xc3")
PACKAGE = "gate-sample"
PATH = ENCLAVE_FOLDER + "libsgx_demo.signed.so.1.2.3.4"
FILES = (RpmFile(PATH, CASE.signed, 0o100755),)
PROVIDES = ("sgx-enclave(demo:signed)", "sgx-enclave(demo:signed:prebuilt)")
PLAIN = (RpmFile("/usr/share/doc/x", b"text"),)
MRSIGNER = mrsigner(vendor_key())
HOST = "recorder1"
CHANNEL = "sgx-recorded"
GENERATOR = "sgx-generator"
_ZEROS = "0" * 64
_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Binary:
    """A binary package: what its name has behind the build's, its files and Provides."""

    suffix: str = ""
    files: Sequence[RpmFile] = FILES
    provides: Sequence[str] = PROVIDES
    arch: str = "x86_64"


@dataclass
class Workshop:
    """Makes builds on a site."""

    site: Site
    admin: Any
    folder: Path

    def write(self, nvr: str, binary: Binary) -> Path:
        """A binary package of a build."""
        name, version, release = nvr.rsplit("-", 2)
        return self._write(
            f"{name}{binary.suffix}",
            version,
            release,
            binary.arch,
            binary.files,
            binary.provides,
            {1044: f"{nvr}.src.rpm"},
        )

    def _write(
        self,
        name: str,
        version: str,
        release: str,
        arch: str,
        files: Sequence[RpmFile],
        provides: Sequence[str],
        tags: Mapping[int, Any],
    ) -> Path:
        head = {1001: version, 1002: release, 1006: [1], 1022: arch, **tags}
        unique = f"{name}{version}{release}{arch}{time.time_ns()}".encode()
        data = write_rpm(
            files,
            name=name,
            provides=provides,
            tags=head,
            signature={1004: hashlib.md5(unique, usedforsecurity=False).digest()},
        )
        path = self.folder / f"{name}-{version}-{release}.{arch}.rpm"
        path.write_bytes(data)
        return path

    def build(self, *binaries: Binary, release: str = "1") -> dict[str, Any]:
        """A complete build of these packages, as `getBuild` has it."""
        version = f"1.{next(_NUMBERS)}.{time.time_ns()}"
        nvr = f"{PACKAGE}-{version}-{release}"
        for path in (self.source(nvr), *(self.write(nvr, b) for b in binaries)):
            self.upload_and_import(path)
        made: dict[str, Any] = self.admin.getBuild(nvr, strict=True)
        return made

    def source(self, nvr: str) -> Path:
        """The source package of a build."""
        name, version, release = nvr.rsplit("-", 2)
        # rpm calls a source package's architecture that of the machine that made it.
        tags = {1044: None, 1106: [1], 1022: "x86_64"}
        files = (RpmFile("x.spec", b"x"),)
        return self._write(name, version, release, "src", files, (), tags)

    def generated_build(self, folder: Path) -> dict[str, Any]:
        """A build with an enclave that a content generator imports."""
        self.admin.grantCGAccess(world.ADMIN, GENERATOR, create=True)
        version = f"1.{next(_NUMBERS)}.{time.time_ns()}"
        nvr = f"{PACKAGE}-{version}-1"
        path = self.write(nvr, Binary())
        data = path.read_bytes()
        names = {"name": PACKAGE, "version": version, "release": "1", "epoch": None}
        metadata = {
            "metadata_version": 0,
            "build": {
                **names,
                "source": None,
                "start_time": time.time(),
                "end_time": time.time(),
                "extra": {"typeinfo": {"rpm": {}}},
            },
            "buildroots": [
                {
                    "id": 1,
                    "host": {"os": "none", "arch": "x86_64"},
                    "content_generator": {"name": GENERATOR, "version": "1"},
                    "container": {"type": "none", "arch": "x86_64"},
                    "tools": [],
                    "components": [],
                    "extra": {},
                }
            ],
            "output": [
                {
                    **names,
                    "buildroot_id": 1,
                    "filename": path.name,
                    "filesize": len(data),
                    "checksum_type": "md5",
                    "checksum": hashlib.md5(data, usedforsecurity=False).hexdigest(),
                    "type": "rpm",
                    "arch": "x86_64",
                    "sigmd5": "0" * 32,
                    "extra": {},
                }
            ],
        }
        upload = folder.name
        self.admin.uploadWrapper(str(path), upload)
        made: dict[str, Any] = self.admin.CGImport(metadata, upload)
        found: dict[str, Any] = self.admin.getBuild(made["id"], strict=True)
        return found

    def upload_and_import(self, path: Path, folder: str = "gate-tests") -> None:
        """What `koji import` does with one package."""
        self.admin.uploadWrapper(str(path), folder)
        self.admin.importRPM(folder, path.name)

    def files(self, build: Mapping[str, Any]) -> list[Path]:
        """The binary packages of a build, where the hub keeps them."""
        folder = self.build_folder(build)
        return [
            folder / rpm["arch"] / f"{rpm['nvr']}.{rpm['arch']}.rpm"
            for rpm in self.admin.listRPMs(buildID=build["id"])
            if rpm["arch"] != "src"
        ]

    def build_folder(self, build: Mapping[str, Any]) -> Path:
        """Where the hub keeps a build."""
        parts = (build["name"], build["version"], build["release"])
        return self.site.layout.topdir.joinpath("packages", *parts)

    def record(self, build: Mapping[str, Any], task: int, **changes: Any) -> dict[str, Any]:
        """A record that is true of a build's packages, but for `changes`."""
        facts = [inspect_package(str(p)) for p in self.files(build)]
        verdict = changes.get("verdict", "identical")
        return {
            "schema": SCHEMA,
            "release": "demo-1",
            "origin": CATALOGUE,
            "release_sha256": _ZEROS,
            "nvr": build["nvr"],
            "build_id": build["id"],
            "task_id": task,
            "verdict": verdict,
            "reproducible": True,
            "rpms": [
                {"name": f.name, "file_sha256": f.digests.file, "content_sha256": f.digests.content}
                for f in facts
                if f.digests is not None
            ],
            "enclaves": [
                {
                    "name": "demo",
                    "rpm": f.name,
                    "path": path,
                    "version": "1.2.3.4",
                    "mrenclave": CASE.regenerated.mrenclave.hex(),
                    "mrsigner": MRSIGNER,
                    "isvprodid": 3,
                    "isvsvn": 7,
                    "built_sha256": _ZEROS,
                    "signed_sha256": sha256,
                    "verdict": verdict,
                }
                for f in facts
                for path, sha256 in f.signed.items()
            ],
            "report_sha256": _ZEROS,
            "toolchain_sha256": _ZEROS,
            "plugin_version": __version__,
            "build_tag": world.BUILD_TAG,
            "repo_id": 1,
            "buildroot_sha256": _ZEROS,
            "lock_sha256": _ZEROS,
            "partial": False,
            **changes,
        }


@dataclass
class Recorder:
    """A builder's host without a builder.

    Attributes:
        session: logged in as the host, exclusively.
        asker: who starts the verifications.
    """

    site: Site
    workshop: Workshop
    asker: Any
    session: Any = field(init=False)

    def __post_init__(self) -> None:
        self.session = self.site.session(HOST)
        self.session.exclusiveSession(force=True)

    def open(self, build: Optional[Mapping[str, Any]], release: Optional[str] = None) -> int:
        """A verification task of a build, taken by this host."""
        nvr = None if build is None else build["nvr"]
        task: int = self.asker.sgxEnclaves(release, world.BUILD_TAG, nvr, channel=CHANNEL)
        assert self.session.host.openTask(task) is not None
        return task

    def verify(self, build: Mapping[str, Any], **changes: Any) -> int:
        """Play a whole verification of a build; the record's id."""
        return self._answer(self.open(build), build, changes)

    def answer(self, task: int, build: Mapping[str, Any]) -> int:
        """Take a task that somebody else started, and end it well."""
        assert self.session.host.openTask(task) is not None
        return self._answer(task, build, {})

    def _answer(self, task: int, build: Mapping[str, Any], changes: Mapping[str, Any]) -> int:
        number: int = self.session.host.recordSgxVerification(
            task, self.workshop.record(build, task, **changes)
        )
        self.close(task)
        return number

    def close(self, task: int) -> None:
        """End a task well."""
        result = koji.xmlrpcplus.dumps(({"verdict": "identical"},), methodresponse=True)
        self.session.host.closeTask(task, result)


def add_host(site: Site, admin: Any) -> None:
    """Make the recorder's host and its channel, unless a test before has."""
    if admin.getHost(HOST) is not None:
        return
    admin.addHost(HOST, ["x86_64"])
    site.database.execute(
        f"update users set password = '{world.password(HOST)}' where name = '{HOST}'"  # noqa: S608
    )
    admin.addHostToChannel(HOST, CHANNEL, create=True)
