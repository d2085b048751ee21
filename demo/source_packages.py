# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo's release as source packages.

    stock = prepare(folder)                    enclaves, vendor, release, signatures
    sources = make_source_packages(folder / "source-packages", stock)
    sources.reproducible, .prebuilt, .grafted  from the templates
    sources.forged   looks like the prebuilt one, ships a changed enclave, checks nothing

`demo.packages.Workshop` builds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from demo import vendor
from demo.packages import Workshop
from demo.release import (
    CHECKSUMS_FILE,
    ENCLAVE_LIST,
    PREBUILT,
    SIGNED_FILE,
    SOURCE_FILE,
    VERSION,
    Description,
    checksums,
    release_toml,
    sha256,
    signed_archive,
    source_archive,
)
from demo.server import DownloadServer
from demo.whole_release import TOOLS, designate, honest_release
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.metadata import Descriptor
from sgx_enclaves.enclave.sign import extract
from sgx_enclaves.release.archive import pack_members
from sgx_enclaves.release.place import STANDARD_PATH
from sgx_enclaves.release.sandbox import Machine
from sgx_enclaves.release.toolchain import look_at
from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER

KINDS = ("reproducible", "prebuilt", "grafted")
RELEASE_FILE = "demo.toml"
# what `sgx-enclaves releases repack` makes of the vendor's archive
REPACKED_FILE = "demo-signed.tar"
DATE = "2026-01-01"
# Nothing is fetched: all files are in the source packages.
_NOWHERE = "https://vendor.example"
# A packager who leaves the check out, and does by hand what the macros do.
_FORGED = """\
%global debug_package %{{nil}}
%global __os_install_post %{{nil}}
%global _build_id_links none
Name:           sgx-enclave-prebuilt-pce-signed
Version:        2.25
Release:        1
Summary:        SGX enclave PCE, signed by Intel
License:        BSD-3-Clause
URL:            https://github.com/intel/linux-sgx
Source0:        {file}
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
install -D -p -m 0755 %{{SOURCE0}} %{{buildroot}}{folder}{file}.{version}
ln -s {file}.{version} %{{buildroot}}{folder}{file}.1
ln -s {file}.1 %{{buildroot}}{folder}{file}

%files
{folder}{file}*

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
class Stock:
    """What the source packages are made of: by name the vendor's files, and those with the
    signatures alone; a signed PCE with one byte of code changed; the release.
    """

    signed: Mapping[str, bytes]
    signatures: Mapping[str, bytes]
    forged: bytes
    description: Description

    @property
    def signer(self) -> str:
        """MRSIGNER of the vendor, hexadecimal."""
        return self.description.signer

    def delivering(self, signed: Mapping[str, bytes]) -> Stock:
        """The same, had the vendor delivered these files, with digests that are right for them."""
        archive = signed_archive(signed)
        description = replace(self.description, signed_sha256=sha256(archive))
        return replace(self, signed=signed, description=description)

    def files(self) -> dict[str, bytes]:
        """By name, all that the spec files list as sources."""
        archive = signed_archive(self.signed)
        return {
            RELEASE_FILE: release_toml(self.description).encode("utf-8"),
            SOURCE_FILE: source_archive(),
            SIGNED_FILE: archive,
            CHECKSUMS_FILE: checksums(SIGNED_FILE, archive),
            REPACKED_FILE: pack_members(
                {f"{PREBUILT}/{name}": data for name, data in self.signed.items()}
            ),
            **self.signatures,
        }

    def lay_out(self, folder: Path) -> Path:
        """Write all files into a folder, which may be new; returns it."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self.files().items():
            (folder / name).write_bytes(data)
            # Sources that others cannot read are a finding of rpmlint, whatever the umask is.
            (folder / name).chmod(0o644)
        return folder


def signatures_of(signed: bytes) -> bytes:
    """The signature file of a signed enclave."""
    descriptor = Descriptor.parse(EnclaveImage.parse(signed).descriptor)
    return b"".join(signature.serialise() for signature in extract(descriptor))


def prepare(folder: Path) -> Stock:
    """Build the demo's enclaves in a folder, have its vendor sign them, and describe the release.

    What is there already is used again.
    """
    built = vendor.build_enclaves(folder / "built")
    key = vendor.make_key(folder / "vendor.pem")
    signed = vendor.sign_all(built, key)
    pce = ENCLAVE_LIST[0]
    forged = vendor.with_other_code(signed[pce.signed], built / pce.unsigned)
    return make_stock(signed, vendor.mrsigner(key), forged)


def make_stock(signed: Mapping[str, bytes], signer: str, forged: bytes) -> Stock:
    """The release of these files by this MRSIGNER; this machine's toolchain is designated."""
    record = look_at(TOOLS, STANDARD_PATH, Machine()).as_dict()
    honest = honest_release(DownloadServer(_NOWHERE, Path()), signed, signer)
    signatures = {f"libsgx_{e.file}.sig": signatures_of(signed[e.signed]) for e in ENCLAVE_LIST}
    return Stock(signed, signatures, forged, designate(honest, record))


def make_source_packages(folder: Path, stock: Stock) -> SourcePackages:
    """Render the three spec files of a stock, and pack them with their sources, in a new folder."""
    shop = Workshop(folder, folder / "no-root")
    made = {}
    for kind in KINDS:
        sources = stock.lay_out(folder / kind)
        made[kind] = pack(shop, write_spec(kind, sources), sources)
    return SourcePackages(**made, forged=make_forged(shop, stock.forged))


def spec_command(kind: str, sources: Path) -> list[str]:
    """Arguments of `sgx-enclaves` that write a spec file beside its sources."""
    spec = sources / f"linux-sgx-enclaves-{kind}.spec"
    return [
        *("spec", "demo", "--kind", kind, "--date", DATE),
        *("--catalogue", str(sources / RELEASE_FILE), "--force", "-o", str(spec)),
    ]


def write_spec(kind: str, sources: Path) -> Path:
    """Write a spec file beside its sources; returns its path, or raises a RuntimeError."""
    from sgx_enclaves.cli.main import main  # noqa: PLC0415

    arguments = spec_command(kind, sources)
    if main(arguments):
        raise RuntimeError("sgx-enclaves " + " ".join(arguments))
    return Path(arguments[-1])


def make_forged(shop: Workshop, signed: bytes, name: str = "forged") -> Path:
    """A source package that ships a signed PCE, whatever it is, and checks nothing."""
    pce = ENCLAVE_LIST[0]
    folder = shop.folder / name
    folder.mkdir(parents=True)
    spec = folder / "sgx-enclave-prebuilt-pce-signed.spec"
    text = _FORGED.format(file=pce.signed, version=VERSION, folder=ENCLAVE_FOLDER)
    spec.write_text(text, "utf-8")
    (folder / pce.signed).write_bytes(signed)
    return pack(shop, spec, folder)


def pack(shop: Workshop, spec: Path, sources: Path) -> Path:
    """A source package of a spec file and its sources; a RuntimeError if rpmbuild refuses."""
    built = shop.rpmbuild(
        "-bs", spec, "--define", f"_sourcedir {sources.resolve()}", top=f"{sources.name}-source"
    )
    if built.status:
        raise RuntimeError(f"{spec} could not be packed:\n{built.text}")
    return built.packages[0]


def least_isvsvn() -> dict[str, int]:
    """What the release demands, by enclave."""
    return {enclave.name: enclave.isvsvn for enclave in ENCLAVE_LIST}
