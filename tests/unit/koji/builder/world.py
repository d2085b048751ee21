# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo's release, its vendor, packages with its enclaves, and a hub that has them as builds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

import koji
from sgx_enclaves_builder.verify_build import SgxEnclavesTask
from sgx_enclaves_builder.verify_enclave import SgxEnclaveTask

from demo import vendor
from demo.release import ENCLAVE_LIST, Description, release_toml, source_archive
from demo.server import DownloadServer, download_server
from demo.whole_release import TOOLS, designate, honest_release
from sgx_enclaves.release.place import STANDARD_PATH
from sgx_enclaves.release.sandbox import Machine
from sgx_enclaves.release.toolchain import look_at
from tests.support.keys import vendor_key
from tests.support_rpm import RpmFile, write_rpm
from tests.unit.koji.builder.hub import Hub

FOLDER = "/usr/x86_64-intel-sgx/lib64"
PCE = ENCLAVE_LIST[0]


@dataclass(frozen=True)
class Vendor:
    """What the vendor has made, once for all tests.

    Attributes:
        server: serves it.
        built: folder of its own build, unsigned.
        signed: file name to content.
        honest: the release, with this machine's toolchain as the designated one.
    """

    server: DownloadServer
    built: Path
    signed: Mapping[str, bytes]
    honest: Description


@contextmanager
def make_vendor(folder: Path, built: Path) -> Iterator[Vendor]:
    """Sign, describe and serve.

    Args:
        folder: for certificates.
        built: see `Vendor`.
    """
    key = vendor_key()
    signed = vendor.sign_all(built, key)
    with download_server(folder) as server:
        record = look_at(TOOLS, STANDARD_PATH, Machine()).as_dict()
        honest = designate(honest_release(server, signed, vendor.mrsigner(key)), record)
        yield Vendor(server, built, signed, honest)


@dataclass
class World:
    """One test's hub and builder.

    Attributes:
        vendor: see `Vendor`.
        hub: see `Hub`.
        folder: for everything else.
        settings: more lines of the configuration, by section.
        tag_allowed: whether the hub's configuration trusts the build tag.
    """

    vendor: Vendor
    hub: Hub
    folder: Path
    monkeypatch: Any
    tag_allowed: bool = True

    def configure(self, **sections: Mapping[str, Any]) -> None:
        """Write the builder's configuration."""
        wanted: dict[str, dict[str, Any]] = {
            "fetch": {
                "cache": self.folder / "cache",
                "hosts": "127.0.0.1",
                "ca_file": self.vendor.server.ca_file,
                "attempts": 1,
            },
            "catalogue": {"folders": self.folder / "catalogue"},
        }
        for name, values in sections.items():
            wanted.setdefault(name, {}).update(values)
        lines = []
        for name, values in wanted.items():
            lines += [f"[{name}]", *(f"{key} = {value}" for key, value in values.items())]
        path = self.folder / "builder.conf"
        path.write_text("\n".join(lines) + "\n")
        self.monkeypatch.setenv("SGX_ENCLAVES_BUILDER_CONFIG", str(path))

    def describe(self, **changes: Any) -> None:
        """Write the catalogue: the honest release, changed."""
        description = replace(
            self.vendor.honest, root=str(self.folder / "place" / "tree"), **changes
        )
        self.write_release(release_toml(description))

    def write_release(self, text: str) -> None:
        """Write the catalogue."""
        folder = self.folder / "catalogue"
        folder.mkdir(exist_ok=True)
        (folder / "demo.toml").write_text(text)

    def add_build(
        self,
        name: str,
        files: Mapping[str, bytes],
        *,
        provides: tuple[str, ...] = (),
        source: Optional[Mapping[str, bytes]] = None,
        **facts: Any,
    ) -> dict[str, Any]:
        """A complete build of one package, and of its source package if `source` is given."""
        build = {
            "id": 7 + len(self.hub.builds),
            "name": name,
            "version": "1.0",
            "release": "1",
            "nvr": f"{name}-1.0-1",
            "state": koji.BUILD_STATES["COMPLETE"],
            "task_id": 40,
            "cg_name": None,
            "source": f"git+https://allowed.example/{name}#abc",
            "volume_name": "DEFAULT",
            **facts,
        }
        self.hub.builds[name] = build
        self.hub.rpms[build["id"]] = []
        content = [RpmFile(path, data) for path, data in files.items()]
        self._add_rpm(build, "x86_64", write_rpm(content, name=name, provides=provides))
        if source is not None:
            data = write_rpm(
                [RpmFile(path, data, cpio_name=path) for path, data in source.items()],
                name=name,
                tags={1044: None},
            )
            self._add_rpm(build, "src", data)
        return build

    def _add_rpm(self, build: dict[str, Any], arch: str, data: bytes) -> None:
        rpm = {
            "name": build["name"],
            "version": "1.0",
            "release": "1",
            "arch": arch,
            "buildroot_id": 9,
        }
        self.hub.rpms[build["id"]].append(rpm)
        relative = Path("packages") / build["name"] / "1.0" / "1" / koji.pathinfo.rpm(rpm)
        path = self.hub.top / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def signed_build(self, name: str = "prebuilt", **changed: bytes) -> dict[str, Any]:
        """A build that ships the vendor's PCE, or what is given as `pce`."""
        data = changed.get("pce", self.vendor.signed[PCE.signed])
        return self.add_build(
            name,
            {f"{FOLDER}/{PCE.signed}.1.0.0.0": data},
            provides=("sgx-enclave(pce:signed)",),
        )

    def unsigned_build(self, **facts: Any) -> dict[str, Any]:
        """A build of the reproducible package, with the release's sources in its source package."""
        files = {
            f"{FOLDER}/{PCE.unsigned}": (self.vendor.built / PCE.unsigned).read_bytes(),
            f"{FOLDER}/libsgx_pce.config.xml": PCE.config.read_bytes(),
        }
        source = {"demo-enclaves-1.0.tar.gz": source_archive(), "demo.spec": b"Name: demo\n"}
        arguments: dict[str, Any] = {
            "provides": ("sgx-enclave(pce:unsigned:reproducible)",),
            "source": source,
            **facts,
        }
        return self.add_build("reproducible", files, **arguments)

    def verify(self, *arguments: Any) -> Any:
        """Run the parent with these arguments, as the hub makes the task; its result."""
        asked = [*arguments, *[None] * (4 - len(arguments))]
        if self.tag_allowed:
            asked[3] = {**(asked[3] or {}), "tag_allowed": True}
        return self.hub.run(self.hub.make("sgxEnclaves", asked))

    def child(self, label: str = "pce") -> int:
        """The id of a subtask."""
        return next(task.id for task in self.hub.tasks.values() if task.label == label)


def new_hub(folder: Path) -> Hub:
    """A hub with our handlers."""
    for name in ("top", "work"):
        (folder / name).mkdir()
    hub = Hub(folder / "top", folder / "work")
    hub.handlers = {"sgxEnclaves": SgxEnclavesTask, "sgxEnclave": SgxEnclaveTask}
    hub.answers["taskinfo"] = lambda number: {
        40: {"id": 40, "method": "build", "parent": None},
        41: {"id": 41, "method": "buildArch", "parent": 40},
    }[number]
    hub.answers["getBuildroot"] = {"id": 9, "task_id": 41, "br_type": koji.BR_TYPES["STANDARD"]}
    hub.answers["components"] = lambda _number: []
    hub.answers["getSgxLock"] = None
    return hub


def sha256(data: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(data).hexdigest()
