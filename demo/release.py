# SPDX-License-Identifier: GPL-2.0-or-later
"""The release `demo`: its source archive, the vendor's archive, and its description.

The sources are those of our test enclaves. The description is made again for each
run, since the server's port and the machine's toolchain are part of it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

ENCLAVES = Path(__file__).resolve().parent.parent / "tests" / "enclaves"
TOP = "demo-enclaves-1.0"
VERSION = "1.0.0.0"
SOURCE_FILE = f"{TOP}.tar.gz"
SIGNED_FILE = "prebuilt_demo_1.0.tar.gz"
CHECKSUMS_FILE = "SHA256SUM_prebuilt_demo_1.0.cfg"
PREBUILT = "psw/ae/data/prebuilt"
# Of everything in the archives, so that their digests depend on the content alone.
_TIME = 1_700_000_000


@dataclass(frozen=True)
class DemoEnclave:
    """One of the test enclaves as packages and files call it, and the numbers of its config."""

    name: str
    file: str
    isvprodid: int
    isvsvn: int

    @property
    def config(self) -> Path:
        """Its config.xml."""
        return ENCLAVES / "configs" / f"{self.file}.config.xml"

    @property
    def unsigned(self) -> str:
        """Name of the unsigned file."""
        return f"libsgx_{self.file}.so"

    @property
    def signed(self) -> str:
        """Name of the signed file."""
        return f"libsgx_{self.file}.signed.so"


ENCLAVE_LIST = (
    DemoEnclave("pce", "pce", 1, 16),
    DemoEnclave("ide", "id_enclave", 5, 2),
    DemoEnclave("qe3", "qe3", 1, 8),
    DemoEnclave("tdqe", "tdqe", 2, 5),
)


@dataclass(frozen=True)
class Tool:
    """A tool of the designated toolchain, and its version."""

    name: str
    version: str


@dataclass(frozen=True)
class Description:
    """What differs between the descriptions of the release `demo`.

    A digest that is None pins nothing. The tree must be at `root` while it is built; `least_isvsvn`
    is by enclave, where it is not the config's.
    """

    title: str
    root: str
    source_url: str
    source_sha256: Optional[str]
    signer: str
    tools: tuple[Tool, ...]
    interpreter: str
    signed_url: str = ""
    signed_sha256: Optional[str] = None
    checksums_url: str = ""
    least_isvsvn: Mapping[str, int] = field(default_factory=dict)


def sha256(data: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def archive(files: Mapping[str, bytes]) -> bytes:
    """A .tar.gz that depends on names and contents alone."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size = len(files[name])
            member.mtime = _TIME
            member.mode = 0o644
            tar.addfile(member, io.BytesIO(files[name]))
    return gzip.compress(plain.getvalue(), mtime=0)


def source_archive(extra: Optional[Mapping[str, bytes]] = None) -> bytes:
    """The sources of the test enclaves, with files added or replaced on request."""
    paths: Iterable[Path] = [
        *(ENCLAVES / name for name in ("Makefile", "enclave.lds", "exports.map")),
        *sorted((ENCLAVES / "src").iterdir()),
        *sorted((ENCLAVES / "configs").iterdir()),
    ]
    files = {path.relative_to(ENCLAVES).as_posix(): path.read_bytes() for path in paths}
    files["LICENSE"] = b"GPL-2.0-or-later, see https://www.gnu.org/licenses/\n"
    files["version.h"] = f'#define DEMO_VERSION "{VERSION}"\n'.encode()
    return archive({f"{TOP}/{name}": data for name, data in {**files, **(extra or {})}.items()})


def signed_archive(signed: Mapping[str, bytes]) -> bytes:
    """The vendor's archive, laid out as Intel's are; `signed` is by file name."""
    files = {f"{PREBUILT}/{name}": data for name, data in signed.items()}
    files[f"{PREBUILT}/README.md"] = b"Signed enclaves of the demo's vendor.\n"
    return archive(files)


def checksums(filename: str, data: bytes) -> bytes:
    """The vendor's list of digests, as `sha256sum` writes it."""
    return f"{sha256(data)}  {filename}\n".encode()


def release_toml(description: Description) -> str:
    """The release as a file of the catalogue."""
    unpinned = [
        fact
        for fact, digest in (
            ("source.demo", description.source_sha256),
            ("vendor.demo", description.signed_sha256),
        )
        if digest is None
    ]
    lines = [
        "schema = 1",
        'name = "demo"',
        f"title = {_text(description.title)}",
        'sgx = "2.25"',
        'dcap = "1.22"',
        'license = "GPL-2.0-or-later"',
        'license_files = ["LICENSE"]',
        f"unpinned = [{', '.join(_text(fact) for fact in unpinned)}]",
        "",
        "[build]",
        f"root = {_text(description.root)}",
        "[[build.source]]",
        'id = "demo"',
        'place = "."',
        *_file(SOURCE_FILE, description.source_url, description.source_sha256),
        "",
        "[toolchain]",
        'name = "gcc and binutils of this machine"',
        f"interpreter = {_text(description.interpreter)}",
        "[toolchain.environment]",
        'LC_ALL = "C"',
        'TZ = "UTC"',
        # the enclaves' makefile asks for it
        'OUT = "out"',
    ]
    for tool in description.tools:
        lines += [
            "[[toolchain.tool]]",
            f"name = {_text(tool.name)}",
            f"version = {_text(tool.version)}",
        ]
    lines += [
        "",
        "[[vendor]]",
        'id = "demo"',
        *_file(SIGNED_FILE, description.signed_url, description.signed_sha256),
        "[vendor.checksums]",
        *_file(CHECKSUMS_FILE, description.checksums_url, None),
    ]
    for enclave in ENCLAVE_LIST:
        lines += _enclave(enclave, description)
    return "\n".join(lines) + "\n"


def _enclave(enclave: DemoEnclave, description: Description) -> list[str]:
    least = description.least_isvsvn.get(enclave.name, enclave.isvsvn)
    return [
        "",
        "[[enclave]]",
        f"name = {_text(enclave.name)}",
        f"file = {_text(enclave.file)}",
        'vendor = "demo"',
        f"member = {_text(f'{PREBUILT}/{enclave.signed}')}",
        f"signer = {_text(description.signer)}",
        f"isvprodid = {enclave.isvprodid}",
        f"least_isvsvn = {least}",
        "[enclave.build]",
        f"config = {_text(f'configs/{enclave.file}.config.xml')}",
        'make_directory = "."',
        f"make_target = {_text(f'out/{enclave.unsigned}')}",
        f"unsigned = {_text(f'out/{enclave.unsigned}')}",
        "[enclave.so_version]",
        f"value = {_text(VERSION)}",
        'tag = "demo"',
        'file = "version.h"',
        'macro = "DEMO_VERSION"',
    ]


def _file(filename: str, url: str, digest: Optional[str]) -> list[str]:
    lines = [f"filename = {_text(filename)}", f"urls = [{_text(url)}]"]
    return lines if digest is None else [*lines, f"sha256 = {_text(digest)}"]


def _text(value: str) -> str:
    """A TOML string; JSON's form is one."""
    return json.dumps(value)
