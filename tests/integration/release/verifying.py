# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo's release with a server of its own, and the command run on variations of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from demo import vendor
from demo.release import ENCLAVE_LIST, Description, checksums, release_toml, sha256, signed_archive
from demo.server import DownloadServer, download_server
from demo.whole_release import TOOLS, designate, honest_release
from sgx_enclaves.cli.main import main
from sgx_enclaves.release.place import STANDARD_PATH
from sgx_enclaves.release.sandbox import Isolation, Machine, best_isolation
from sgx_enclaves.release.toolchain import look_at
from tests.support.keys import vendor_key

DEADLINE = 120


@dataclass(frozen=True)
class Result:
    """What came of a run: exit status, and the JSON report."""

    status: int
    report: Mapping[str, Any]
    folder: Path

    @property
    def outcome(self) -> str:
        return str(self.report["outcome"])

    def stage(self, name: str) -> Mapping[str, Any]:
        stages: list[Mapping[str, Any]] = self.report["stages"]
        return next(stage for stage in stages if stage["name"] == name)

    def state(self, name: str) -> str:
        return str(self.stage(name)["state"])

    @property
    def refused(self) -> list[str]:
        return [stage["name"] for stage in self.report["stages"] if stage["state"] == "refused"]

    def enclave(self, name: str) -> Mapping[str, Any]:
        enclaves: list[Mapping[str, Any]] = self.report["enclaves"]
        return next(enclave for enclave in enclaves if enclave["name"] == name)

    def codes(self, stage: str) -> list[str]:
        return [finding["code"] for finding in self.stage(stage)["findings"]]

    @property
    def verdict(self) -> dict[str, Any]:
        """The report without what may differ between two good runs."""
        plain: dict[str, Any] = json.loads(json.dumps(self.report))
        for stage in plain["stages"]:
            for key in ("seconds", "state", "detail"):
                del stage[key]
        return plain


@dataclass
class World:
    """A vendor's server, what it serves, and what was built and signed once.

    Attributes:
        server: see `DownloadServer`.
        built: a folder with the vendor's own build.
        signed: signed file name to content, as an honest vendor has it.
        honest: the release as it should be.
        warm: a cache and a work folder in which the honest release was verified.
        isolated: whether builds here have a root of their own.
    """

    server: DownloadServer
    built: Path
    signed: Mapping[str, bytes]
    honest: Description
    warm: Path
    isolated: bool

    @property
    def built_with_configs(self) -> Path:
        """A ready-made build without a manifest."""
        return self.warm / "bare"

    @property
    def signed_folder(self) -> Path:
        """The vendor's files, ready-made."""
        return self.warm / "signed"

    def deliver(self, place: str, signed: Mapping[str, bytes]) -> dict[str, Any]:
        """Serve an archive; returns what a description must say to have it."""
        archive = signed_archive(signed)
        return {
            "signed_url": self.server.put(f"/{place}/signed.tar.gz", archive),
            "signed_sha256": sha256(archive),
            "checksums_url": self.server.put(
                f"/{place}/sums", checksums("prebuilt_demo_1.0.tar.gz", archive)
            ),
        }


@contextmanager
def make_world(folder: Path, built: Path) -> Iterator[World]:
    """Sign and serve what the vendor has built."""
    key = vendor_key()
    signed = vendor.sign_all(built, key)
    (folder / "tls").mkdir()
    isolated = best_isolation()[0] is not Isolation.NONE
    with download_server(folder / "tls") as server:
        record = look_at(TOOLS, STANDARD_PATH, Machine()).as_dict()
        honest = designate(honest_release(server, signed, vendor.mrsigner(key)), record)
        world = World(server, built, signed, honest, folder / "warm", isolated)
        world.signed_folder.mkdir(parents=True)
        world.built_with_configs.mkdir()
        for enclave in ENCLAVE_LIST:
            (world.signed_folder / enclave.signed).write_bytes(signed[enclave.signed])
            bare = world.built_with_configs
            shutil.copy(built / enclave.unsigned, bare)
            shutil.copy(enclave.config, bare / f"libsgx_{enclave.file}.config.xml")
        first = Bench(world, folder, cache=world.warm / "cache", work=world.warm / "work")
        result = first.run(world.honest)
        assert result.status == 0, result.report
        yield world


@dataclass
class Bench:
    """Runs the command in folders of its own.

    Attributes:
        world: see `World`.
        folder: for catalogue and report.
        cache: of fetched files.
        work: of kept stages.
    """

    world: World
    folder: Path
    cache: Path = field(default=Path())
    work: Path = field(default=Path())

    def __post_init__(self) -> None:
        if self.cache == Path():
            self.cache, self.work = self.folder / "cache", self.folder / "work"

    def warm(self) -> Bench:
        """Start from a run that went well."""
        shutil.copytree(self.world.warm / "cache", self.cache)
        shutil.copytree(self.world.warm / "work", self.work)
        return self

    def arguments(self, description: Description, *more: str, edit: Edit = None) -> list[str]:
        """The command's arguments; the release is written down for it."""
        catalogue = self.folder / "catalogue"
        catalogue.mkdir(exist_ok=True)
        text = release_toml(description)
        for old, new in (edit or {}).items():
            assert old in text
            text = text.replace(old, new)
        (catalogue / "demo.toml").write_text(text, "utf-8")
        return [
            "verify-release",
            "demo",
            *("--catalogue", str(catalogue)),
            *("--ca-file", str(self.world.server.ca_file)),
            *("--cache", str(self.cache)),
            *("--work", str(self.work)),
            *("--report", str(self.folder / "report")),
            *("--attempts", "1"),
            *([] if self.world.isolated else ["--allow-no-isolation"]),
            *more,
        ]

    def run(self, description: Description, *more: str, edit: Edit = None) -> Result:
        """Run the command in this process."""
        shutil.rmtree(self.folder / "report", ignore_errors=True)
        status = main(self.arguments(description, "--jobs=1", *more, edit=edit))
        return self.result(status)

    def start(
        self, description: Description, *more: str, edit: Edit = None
    ) -> subprocess.Popen[bytes]:
        """Start the command as a process of its own, in a session of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "sgx_enclaves", *self.arguments(description, *more, edit=edit)],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def result(self, status: int) -> Result:
        """What the report says."""
        folder = self.folder / "report"
        report = json.loads((folder / "release.json").read_text("utf-8"))
        return Result(status, report, folder)


Edit = Optional[Mapping[str, str]]
