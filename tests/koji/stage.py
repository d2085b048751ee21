# SPDX-License-Identifier: GPL-2.0-or-later
"""What the play needs on a site: a vendor on loopback, our packages in the build tag, gated tags.

The vendor and the source packages are those of `demo/`; our packages are built from this
checkout as `make rpm` builds them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from demo.release import CHECKSUMS_FILE, SIGNED_FILE, SOURCE_FILE, release_toml
from demo.server import DownloadServer, download_server
from demo.source_packages import SourcePackages, Stock, make_source_packages, prepare
from tests.koji.harness import work, world
from tests.koji.harness.daemon import PATIENCE
from tests.koji.harness.hub import free_port
from tests.koji.harness.settings import ROOT
from tests.koji.harness.site import Site

RELEASE = "demo"
HARD = "demo-hard"
ENCLAVES = ("pce", "ide", "qe3", "tdqe")
# What builds of spec files from our templates need in their buildroot.
_TOOLS = ("sgx-enclaves-rpm-macros", "harness-python-path")
_OURS = ("python3-sgx-enclaves", "sgx-enclaves", "sgx-enclaves-rpm-macros")
_BUILT = (
    "linux-sgx-enclaves-reproducible",
    "linux-sgx-enclaves-prebuilt",
    "linux-sgx-enclaves-grafted",
    "sgx-enclave-prebuilt-pce-signed",
)
_POLICY = {
    "tag": f"""
        operation tag move && tag {world.RELEASE} && sgx_enclaves_present :: {{
            sgx_enclaves_verified max_age=30d !! deny its SGX enclaves are not verified
        }}
        all :: allow
    """
}
_BUILDER_CONF = """[fetch]
cache = {folder}/cache
hosts = 127.0.0.1
ca_file = {ca_file}
attempts = 2
timeout = 30

[catalogue]
folders = {folder}/catalogue
"""
# Debian's Python does not look where RPM packages have their modules.
_PATH_SPEC = """
Name: harness-python-path
Version: 1
Release: 1
Summary: Lets the machine's Python find modules of RPM packages
License: GPL-2.0-or-later
BuildArch: noarch

%description
Lets the machine's Python find modules of RPM packages.

%install
install -d %{buildroot}/usr/lib/python3/dist-packages
echo SITE > %{buildroot}/usr/lib/python3/dist-packages/harness.pth

%files
/usr/lib/python3/dist-packages/harness.pth
"""


@dataclass
class Vendor:
    """The vendor: what it has signed, and the server that hands it out.

    Attributes:
        stock: enclaves, signatures and the release's description, with the server's URLs.
        server: on 127.0.0.1.
    """

    stock: Stock
    server: DownloadServer

    @property
    def toml(self) -> str:
        """The release's description."""
        return release_toml(self.stock.description)

    def publish(self, name: str, **changes: Any) -> str:
        """Put a release of another name on the server; its URL.

        Args:
            name: of the release.
            changes: to its `Description`.
        """
        text = release_toml(replace(self.stock.description, **changes))
        renamed = text.replace(f'name = "{RELEASE}"', f'name = "{name}"', 1)
        return self.server.put(f"/{name}.toml", renamed.encode())


@contextmanager
def open_vendor(folder: Path) -> Iterator[Vendor]:
    """Build the demo's enclaves, have them signed, and serve all that the release names."""
    stock = prepare(folder)
    with download_server(folder) as server:
        files = stock.files()
        urls = {
            name: server.put(f"/{name}", files[name])
            for name in (SOURCE_FILE, SIGNED_FILE, CHECKSUMS_FILE)
        }
        description = replace(
            stock.description,
            source_url=urls[SOURCE_FILE],
            signed_url=urls[SIGNED_FILE],
            checksums_url=urls[CHECKSUMS_FILE],
        )
        yield Vendor(replace(stock, description=description), server)


@dataclass
class Stage:
    """A site that is ready for the play.

    Attributes:
        site: the Koji.
        admin: the administrator's session.
        vendor: of the release `demo`.
        sources: source packages of that release.
    """

    site: Site
    admin: Any
    vendor: Vendor
    sources: SourcePackages

    @property
    def hub_conf(self) -> str:
        """The hub plugin's configuration in the play."""
        return (
            f"[tasks]\nbuild_tags = {world.BUILD_TAG}:{self.admin.getTag(world.BUILD_TAG)['id']}\n"
        )

    @contextmanager
    def lit(self) -> Iterator[Stage]:
        """Have the play's policy and configuration, for the length of a `with` block."""
        site = self.site
        conf = _BUILDER_CONF.format(folder=site.layout.root, ca_file=self.vendor.server.ca_file)
        site.hub.set_policy(_POLICY)
        site.hub.plugin_conf("sgx_enclaves.conf", self.hub_conf)
        # A builder that starts while the hub is away gives up.
        site.builder.plugin_conf("sgx_enclaves.conf", conf)
        site.wait_builder(site.builder)
        try:
            yield self
        finally:
            site.hub.set_policy({})
            site.hub.plugin_conf("sgx_enclaves.conf", None)
            site.builder.plugin_conf("sgx_enclaves.conf", None)
            site.wait_builder(site.builder)

    def mock_calls(self) -> list[dict[str, Any]]:
        """Every call of the stand-in for mock so far."""
        log = self.site.builder.mock_log
        if not log.exists():
            return []
        return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]

    def verifications(self) -> list[int]:
        """The ids of all verification tasks so far, the oldest first."""
        tasks = self.admin.listTasks(opts={"method": "sgxEnclaves"}, queryOpts={"order": "id"})
        return [task["id"] for task in tasks]

    @property
    def closed_port(self) -> int:
        """A port at which nobody answers."""
        return free_port()

    def build(self, srpm: Path) -> dict[str, Any]:
        """Have a source package built in the target."""
        return work.build(self.admin, srpm)

    def into_build_tag(self, nvr: str) -> None:
        """Let later builds see a build's packages."""
        self.admin.tagBuildBypass("demo", nvr)
        self.site.make_repo(world.BUILD_TAG)

    def verify(self, *arguments: str) -> Any:
        """`koji sgx-enclaves verify ARGUMENTS`, as release engineers run it."""
        return self.site.cli(world.RELENG, "sgx-enclaves", "verify", *arguments)


def set_stage(site: Site, admin: Any, vendor: Vendor, folder: Path) -> Stage:
    """Prepare a site, once; `Stage.lit` gives it policy and configuration.

    Args:
        site: a fresh one.
        admin: the administrator's session.
        vendor: see `open_vendor`.
        folder: a new folder for packages.
    """
    catalogue = site.layout.root / "catalogue"
    catalogue.mkdir()
    (catalogue / f"{RELEASE}.toml").write_text(vendor.toml, encoding="utf-8")
    admin.createTag(HARD, extra={"sgx_enclaves.enforce": "true"})
    for package in (*_BUILT, "sgx-enclaves", "harness-python-path"):
        for tag in ("demo", world.CANDIDATE, world.RELEASE, HARD):
            admin.packageListAdd(tag, package, owner=world.ADMIN)
    for packages in (_own_packages(folder / "own"), _path_package(folder / "path")):
        admin.tagBuildBypass("demo", work.import_build(admin, packages))
    for group in world.GROUPS:
        for name in _TOOLS:
            admin.groupPackageListAdd(world.BUILD_TAG, group, name)
    site.make_repo(world.BUILD_TAG)
    sources = make_source_packages(folder / "sources", vendor.stock)
    # Koji has each package name, version and release but once.
    (folder / "forged").mkdir()
    forged = work.with_release(sources.forged, folder / "forged", 2)
    return Stage(site, admin, vendor, replace(sources, forged=forged))


def _own_packages(folder: Path) -> list[Path]:
    """Our own packages, as `make rpm` makes them, without their tests."""
    argv = [str(ROOT / "packaging/build-rpm"), str(folder), "--nocheck"]
    environ = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        [*argv, "--without", "rpmlint"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"our own packages cannot be built:\n{done.stdout}{done.stderr}")
    wanted = [path for path in folder.rglob("*.noarch.rpm") if path.name.rsplit("-", 2)[0] in _OURS]
    return [*folder.rglob("*.src.rpm"), *wanted]


def _path_package(folder: Path) -> Sequence[Path]:
    folder.mkdir()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    spec = _PATH_SPEC.replace("SITE", f"/usr/lib/python{version}/site-packages")
    return work.make_packages(folder, spec)
