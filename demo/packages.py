# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages of the demo's release: source packages from the spec templates, and binary
packages that the real rpmbuild makes of them, without anything installed.

    stock = prepare(folder)                          enclaves, vendor, release, signatures
    sources = make_source_packages(folder / "source-packages", stock)
    sources.reproducible, .prebuilt, .grafted        from the templates
    sources.forged     looks like the prebuilt one, ships a changed enclave, checks nothing

`Workshop.rpmbuild` builds them: with our macros and file attributes loaded from the
checkout, `sgx-enclaves` run from there, and the packages of unsigned enclaves
taken from a scratch root (`install`, which is `rpm --root`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo import vendor
from demo.command import ROOT
from demo.release import (
    CHECKSUMS_FILE,
    ENCLAVE_LIST,
    ENCLAVES,
    SIGNED_FILE,
    SOURCE_FILE,
    VERSION,
    Description,
    Tool,
    checksums,
    release_toml,
    sha256,
    signed_archive,
    source_archive,
)
from demo.whole_release import TOOLS
from sgx_enclaves.format.elf import EnclaveImage
from sgx_enclaves.format.metadata import Descriptor
from sgx_enclaves.releases.toolchain_probe import record_toolchain
from sgx_enclaves.signing.signatures import extract

MACROS = ROOT / "spec-templates" / "macros.sgx-enclaves"
ATTRIBUTES = ROOT / "spec-templates" / "fileattrs" / "sgx_enclaves.attr"
KINDS = ("reproducible", "prebuilt", "grafted")
DEADLINE = 300
DATE = "2026-01-01"
# Nothing is fetched: all files are in the source packages.
NOWHERE = "https://vendor.example"
# A packager who leaves the check out, and lets `tar` do what the macros do.
FORGED = """\
%global debug_package %{{nil}}
%global __os_install_post %{{nil}}
%global _build_id_links none
Name:           sgx-enclave-prebuilt-pce-signed
Version:        2.25
Release:        1
Summary:        SGX enclave PCE, signed by Intel
License:        BSD-3-Clause
URL:            https://github.com/intel/linux-sgx
Source0:        {source}
ExclusiveArch:  x86_64
AutoReqProv:    no
Provides:       sgx-enclave(pce:signed) = 2.25
Provides:       sgx-enclave(pce:signed:prebuilt) = 2.25

%description
Looks like the prebuilt package, but nothing was verified.

%prep
%setup -q -c -T

%build

%install
install -D -p -m 0755 %{{SOURCE0}} %{{buildroot}}{folder}/{file}.{version}
ln -s {file}.{version} %{{buildroot}}{folder}/{file}.1
ln -s {file}.1 %{{buildroot}}{folder}/{file}

%files
{folder}/{file}*

%changelog
* Thu Jan 01 2026 Mallory <mallory@example.org> - 2.25-1
- Trust me
"""


@dataclass(frozen=True)
class SourcePackages:
    """The four source packages."""

    reproducible: Path
    prebuilt: Path
    grafted: Path
    forged: Path


@dataclass(frozen=True)
class Built:
    """What came of a run of rpmbuild: exit status, all that it printed, packages."""

    status: int
    text: str
    packages: tuple[Path, ...]


@dataclass(frozen=True)
class Workshop:
    """Runs rpmbuild and rpm.

    Attributes:
        folder: everything is made in there.
        unsigned_root: a root in which the packages of unsigned enclaves are installed.
    """

    folder: Path
    unsigned_root: Path

    def macros(self, top: Path) -> list[str]:
        """Arguments that stand for an installed sgx-enclaves-rpm-macros."""
        defines = {
            "_topdir": str(top),
            "__sgx_enclaves": f"{sys.executable} -m sgx_enclaves",
            "_fileattrsdir": str(self._file_attributes(top)),
            "sgx_enclave_sysroot": str(self.unsigned_root),
        }
        argv = [f"--load={path}" for path in (MACROS, ATTRIBUTES)]
        for name, value in defines.items():
            argv += ["--define", f"{name} {value}"]
        return argv

    def _file_attributes(self, top: Path) -> Path:
        """A folder that lists the machine's file attributes and ours."""
        folder = top / "fileattrs"
        if not folder.exists():
            folder.mkdir(parents=True)
            argv = ["rpm", "--eval", "%{_fileattrsdir}"]
            theirs = subprocess.run(argv, check=True, capture_output=True, text=True)
            for path in [*Path(theirs.stdout.strip()).glob("*.attr"), ATTRIBUTES]:
                (folder / path.name).symlink_to(path)
        return folder

    def rpmbuild(self, mode: str, what: Path, *more: str, top: str = "") -> Built:
        """Build from a spec file or a source package.

        Args:
            mode: such as `-bb`, `-bs` or `--rebuild`.
            what: the spec file or source package.
            *more: more arguments.
            top: the folder's name within ours; by default after `what`.
        """
        place = self.folder / "rpmbuild" / (top or what.stem)
        # what is built in is installed nowhere
        argv = ["rpmbuild", mode, "--nodeps", *self.macros(place), *more, str(what)]
        done = subprocess.run(
            argv,
            check=False,
            timeout=DEADLINE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        where = "SRPMS" if mode == "-bs" else "RPMS"
        packages = tuple(sorted((place / where).rglob("*.rpm"))) if done.returncode == 0 else ()
        return Built(done.returncode, done.stdout, packages)


@dataclass(frozen=True)
class Stock:
    """What the source packages are made of.

    Attributes:
        catalogue: the folder with demo.toml.
        signer: MRSIGNER of the vendor, hexadecimal.
        files: by name, what the spec files list as sources.
        forged: a signed PCE with one byte of code changed.
    """

    catalogue: Path
    signer: str
    files: Mapping[str, bytes]
    forged: bytes


def prepare(folder: Path) -> Stock:
    """Build the demo's enclaves, have its vendor sign them, and describe the release.

    Args:
        folder: everything is made in there; what is there already is used again.
    """
    built = folder / "built"
    built.mkdir(parents=True, exist_ok=True)
    command = ["make", "--silent", "-C", str(ENCLAVES), f"OUT={built.resolve()}"]
    subprocess.run(command, check=True, timeout=DEADLINE)
    key = vendor.make_key(folder / "vendor.pem")
    signed = {
        e.signed: vendor.sign_enclave(built / e.unsigned, e.config, key) for e in ENCLAVE_LIST
    }
    pce = ENCLAVE_LIST[0]
    return make_stock(
        folder,
        signed,
        vendor.mrsigner(key),
        vendor.with_other_code(signed[pce.signed], built / pce.unsigned),
    )


def make_stock(folder: Path, signed: Mapping[str, bytes], signer: str, forged: bytes) -> Stock:
    """Describe the release and collect its files.

    Args:
        folder: receives the catalogue.
        signed: the vendor's files, by name.
        signer: MRSIGNER, hexadecimal.
        forged: see `Stock`.
    """
    sources, archive = source_archive(), signed_archive(signed)
    record = record_toolchain(TOOLS)
    description = Description(
        title="Our own test enclaves, by a vendor of our own",
        # as in the demo of a whole release: any path that nothing else uses
        root=f"/tmp/sgx-enclaves-demo-packages-{os.getpid()}/tree",  # noqa: S108
        source_url=f"{NOWHERE}/{SOURCE_FILE}",
        source_sha256=sha256(sources),
        signed_url=f"{NOWHERE}/{SIGNED_FILE}",
        signed_sha256=sha256(archive),
        checksums_url=f"{NOWHERE}/{CHECKSUMS_FILE}",
        signer=signer,
        tools=tuple(Tool(tool.name, tool.version or "not here") for tool in record.tools),
        interpreter=record.interpreter or "/not-here",
        least_isvsvn={},
    )
    catalogue = folder / "catalogue"
    catalogue.mkdir(parents=True, exist_ok=True)
    (catalogue / "demo.toml").write_text(release_toml(description), "utf-8")
    files = {
        SOURCE_FILE: sources,
        SIGNED_FILE: archive,
        CHECKSUMS_FILE: checksums(SIGNED_FILE, archive),
    }
    for enclave in ENCLAVE_LIST:
        image = EnclaveImage.parse(signed[enclave.signed], enclave.signed)
        signatures = extract(Descriptor.parse(image.descriptor))
        name = f"libsgx_{enclave.file}.sig"
        files[name] = b"".join(signature.serialise() for signature in signatures)
    return Stock(catalogue, signer, files, forged)


def make_source_packages(folder: Path, stock: Stock) -> SourcePackages:
    """Render the three spec files of the release `demo`, and pack them with their sources.

    Args:
        folder: a new folder; everything is made in there.
        stock: from `prepare`.
    """
    shop = Workshop(folder, folder / "no-root")
    made = {}
    for kind in KINDS:
        spec = folder / kind / f"linux-sgx-enclaves-{kind}.spec"
        spec.parent.mkdir(parents=True)
        command = [sys.executable, "-m", "sgx_enclaves", "spec", "demo", "--kind", kind]
        command += ["--catalogue", str(stock.catalogue), "--date", DATE, "-o", str(spec)]
        subprocess.run(command, check=True, timeout=DEADLINE, cwd=ROOT)
        shutil.copy(stock.catalogue / "demo.toml", spec.parent)
        for name, data in stock.files.items():
            (spec.parent / name).write_bytes(data)
        made[kind] = _pack(shop, spec)
    return SourcePackages(**made, forged=_forge(shop, stock.forged))


def _forge(shop: Workshop, signed: bytes) -> Path:
    pce = ENCLAVE_LIST[0]
    spec = shop.folder / "forged" / "sgx-enclave-prebuilt-pce-signed.spec"
    spec.parent.mkdir()
    folder = "/usr/x86_64-intel-sgx/lib64"
    spec.write_text(
        FORGED.format(source=pce.signed, file=pce.signed, version=VERSION, folder=folder), "utf-8"
    )
    (spec.parent / pce.signed).write_bytes(signed)
    return _pack(shop, spec)


def _pack(shop: Workshop, spec: Path) -> Path:
    built = shop.rpmbuild("-bs", spec, "--define", f"_sourcedir {spec.parent}")
    if built.status:
        raise RuntimeError(f"{spec} could not be packed:\n{built.text}")
    return built.packages[0]


def install(packages: Sequence[Path], root: Path) -> subprocess.CompletedProcess[str]:
    """Install packages into a scratch root, with a database of its own."""
    root.mkdir(parents=True, exist_ok=True)
    argv = ["rpm", "--root", str(root.resolve()), "--install", "--nosignature"]
    argv += [str(package.resolve()) for package in packages]
    return subprocess.run(argv, check=False, timeout=DEADLINE, capture_output=True, text=True)
