# SPDX-License-Identifier: GPL-2.0-or-later
"""Every line of ours that the real rpmlint prints, old and new, run from this checkout."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.enclaves.synthetic import small_enclave
from tests.golden.enclaves import CODE
from tests.golden.stored import check, stored_gzip
from tests.support.keys import foreign_key, mrsigner, vendor_key
from tests.support.signed import Case, signed_enclave
from tests.support_rpm import INT16, Raw, RpmFile, cpio_of, link, write_rpm

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ("2.4.0", "2.10.0")
FOLDER = "/usr/x86_64-intel-sgx/lib64/"
BASE = f"{FOLDER}libsgx_pce.signed.so"
SIGNED = f"{BASE}.1.25.100.1"
PROVIDES = ("pce:signed = 2.25", "pce:signed:prebuilt = 2.25")
EQUAL = 8

CASE = signed_enclave("2.25")
Files = Sequence[RpmFile]


def package(name: str, files: Files, provides: Sequence[str] = PROVIDES, **changes: Any) -> bytes:
    """A package that librpm and rpmlint can read, unless a change prevents it."""
    count = len(files)
    words = [f"sgx-enclave({item.split(' = ')[0]})" for item in provides]
    versions = [item.partition(" = ")[2] for item in provides]
    tags = {
        1004: "A package",
        1005: "A package.",
        1006: [0],
        1007: "host",
        1009: [1],
        1014: "MIT",
        1021: "linux",
        1033: Raw(INT16, count, bytes(2 * count)),
        1034: [0] * count,
        1039: ["root"] * count,
        1040: ["root"] * count,
        1097: [""] * count,
        **changes.pop("tags", {}),
    }
    if words:
        tags[1112] = [EQUAL if version else 0 for version in versions]
        tags[1113] = versions
    payload = changes.pop("payload", None) or stored_gzip(changes.pop("cpio", cpio_of(files)))
    return write_rpm(files, name=name, provides=words, tags=tags, payload=payload, **changes)


def enclave(data: bytes = CASE.signed, path: str = SIGNED) -> list[RpmFile]:
    """A signed enclave as Fedora lays it out."""
    return [RpmFile(path, data, 0o100755), link(f"{BASE}.1", path), link(BASE, f"{BASE}.1")]


def sigstruct(case: Case = CASE, **fields: Any) -> bytes:
    return case.hostile(lambda b: replace(b, sigstruct=replace(b.sigstruct, **fields)))


def unsigned_change() -> bytes:
    block = CASE.blocks[0]
    return CASE.with_blocks([replace(block, sigstruct=replace(block.sigstruct, date=0x20200101))])


def measured_otherwise() -> bytes:
    def change(block: Any) -> Any:
        return replace(block, sigstruct=replace(block.sigstruct, enclavehash=bytes(32)))

    return CASE.hostile(change, measured=False)


def named(kind: str) -> str:
    """A package's name as Fedora has them."""
    return f"sgx-enclave-{kind.replace('-', '')}-pce-signed"


def packages() -> dict[str, bytes]:
    """One package for each thing that the check can say."""
    good = RpmFile(SIGNED, CASE.signed, 0o100755)
    files: dict[str, Files] = {
        "verified": enclave(),
        "payload": enclave(CASE.signed.replace(CODE, b"\x90" + CODE[1:])),
        "longer": enclave(CASE.signed + b"!"),
        "metadata": enclave(sigstruct(miscmask=0)),
        "measurement": enclave(measured_otherwise()),
        "signature": enclave(unsigned_change()),
        "signer": enclave(CASE.hostile(lambda b: b, key=foreign_key())),
        "debug": enclave(sigstruct(type=0x80000000)),
        "svn": enclave(sigstruct(isvsvn=1)),
        "malformed": enclave(CASE.signed[:500]),
        "elsewhere": [RpmFile("/usr/share/picture.jpg", CASE.signed)],
        "full-name": enclave(path=f"{BASE}.7"),
        "other-links": enclave(path=f"{BASE}.2.25.100.1"),
        "no-links": [good],
        "no-version": [RpmFile(BASE, CASE.signed, 0o100755)],
        "both": [*enclave(), RpmFile(f"{FOLDER}libsgx_pce.so", CASE.built, 0o100755)],
        "hard-links": [RpmFile(f"/opt/{n}", CASE.signed, 0o100755, inode=9) for n in "abc"],
        "qve": [RpmFile(f"{FOLDER}libsgx_qve.signed.so.1.22.100.1", CASE.signed, 0o100755)],
        "ordinary": [RpmFile("/usr/lib/libx.so", small_enclave(note=None), 0o100755)],
        "ghost": [replace(good, ghost=True)],
        "link-out": [link(BASE, "/opt/mine.so")],
        "folder-link": [link(FOLDER[:-1], "/opt/mine")],
        "empty": [RpmFile("/usr/share/x", b"x")],
        "file-digest": [replace(good, digest="0" * 64)],
        "header-size": [replace(good, size=len(good.data) + 8)],
        "other-content": [replace(good, cpio_data=CASE.built)],
    }
    made = {name: package(named(name), content) for name, content in files.items()}
    for name, provides in {
        "provides-none": (),
        "provides-other": ("qe3:signed = 1.22",),
        "provides-unversioned": ("pce:signed",),
        "provides-of-file": ("pce:signed = 1.25.100.1",),
        "provides-older": ("pce:signed = 2.24",),
        "provides-two": ("pce:signed = 2.25", "pce:signed:prebuilt = 2.26"),
        "provides-more": (*PROVIDES, "own:signed:prebuilt = 1"),
    }.items():
        made[name] = package(named(name), enclave(), provides)
    made["strange-name"] = package("pictures", enclave())
    made["latest"] = package(
        "sgx-enclave-latest-pce-unsigned",
        [RpmFile(f"{FOLDER}libsgx_pce.so", CASE.built, 0o100755)],
        ("pce:unsigned = 2.25", "pce:unsigned:latest = 2.25"),
    )
    return made


# rpmlint itself gives up on some of these, and lints nothing that follows.
REFUSED: dict[str, Callable[[], bytes]] = {
    "payload-digest": lambda: package("liar", enclave(), tags={5092: ["0" * 64]}),
    "cut-off": lambda: package("liar", enclave())[:-2000],
    "compressor": lambda: package("liar", enclave(), tags={1125: "lzip"}, payload=b"LZIP\1" * 99),
    "out-of-tree": lambda: package("liar", [RpmFile("/usr/../../../tmp/x.so", CASE.signed)]),
    "no-payload": lambda: package("liar", enclave(), cpio=b""),
}


class Rpmlint:
    """One version of rpmlint, and packages to look at."""

    def __init__(self, version: str, folder: Path) -> None:
        self.home = ROOT / "build" / f"rpmlint-{version}"
        if not (self.home / "bin" / "rpmlint").exists():
            pytest.skip(f"rpmlint {version} is not installed: make rpmlint")
        self.folder = folder
        (folder / "home").mkdir()
        reference = folder / "reference"
        reference.mkdir()
        (reference / "libsgx_pce.so").write_bytes(CASE.built)
        (reference / "libsgx_pce.config.xml").write_bytes(CASE.config)

    def lines(self, *names: str, table: str = 'reference = "reference"', rc: str = "") -> str:
        """Exit status and sorted findings about these packages, in the order of their names."""
        signer = mrsigner(vendor_key())
        signers = f'[SgxEnclave.signers]\npce = "{signer}"\nqve = "{signer}"\n'
        lifted = 'any_product = ["pce", "qve"]\n'
        if "least_isvsvn" not in table:
            lifted += "least_isvsvn = {pce = 0, qve = 0}\n"
        (self.folder / "site.toml").write_text(f"[SgxEnclave]\n{table}\n{lifted}{signers}")
        argv = [str(self.home / "bin" / "python"), "-m", "sgx_enclaves_rpmlint"]
        argv += ["--config", "site.toml", "--checks", "SgxEnclaveCheck"]
        if rc:
            (self.folder / "sample.rpmlintrc").write_text(rc)
            argv += ["--rpmlintrc", "sample.rpmlintrc"]
        try:
            return self.run([*argv, *(f"{name}.rpm" for name in names)])
        finally:
            (self.folder / "sample.rpmlintrc").unlink(missing_ok=True)

    def run(self, argv: Sequence[str]) -> str:
        """The program's exit status and its lines, sorted, without times and paths of here."""
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT / 'rpmlint_checks'}:{ROOT}",
            "HOME": str(self.folder / "home"),
            "XDG_CONFIG_DIRS": str(self.folder / "home"),
            "LC_ALL": "C.UTF-8",
        }
        done = subprocess.run(
            argv, check=False, capture_output=True, text=True, env=environment, cwd=self.folder
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        lines = [
            line
            for line in (done.stdout + done.stderr).splitlines()
            if ("sgx" in line and str(ROOT) not in line) or "error" in line
        ]
        return "\n".join([f"exit status {done.returncode}", *sorted(map(shown, lines))])


def shown(line: str) -> str:
    """The line without what other versions of rpmlint and the time of the day put there."""
    return line.split(" has taken ", maxsplit=1)[0].rstrip()


@pytest.mark.parametrize("version", VERSIONS)
def test_lines(version: str, tmp_path: Path) -> None:
    rpmlint = Rpmlint(version, tmp_path)
    names = []
    for name, data in packages().items():
        (tmp_path / f"{name}.rpm").write_bytes(data)
        names.append(name)
    runs = {
        "all": rpmlint.lines(*names),
        "without a reference": rpmlint.lines("verified", "payload", "both", table=""),
        "no such reference": rpmlint.lines("verified", table='reference = "/no/such/folder"'),
        "wrong table": rpmlint.lines("verified", table='reference = 7\nother = "x"'),
        "permitted, and a floor": rpmlint.lines(
            *("verified", "qve"),
            table='reference = "reference"\npermit = "qve"\nleast_isvsvn = {pce = 99}',
        ),
        "filters": rpmlint.lines("payload", "elsewhere", rc='addFilter("sgx-enclave")\n'),
    }
    for name, make in REFUSED.items():
        (tmp_path / f"{name}.rpm").write_bytes(make())
        runs[name] = rpmlint.lines(name)
    text = "\n".join(f"=== {name}: {lines}" for name, lines in runs.items())
    check(f"rpmlint-{version}.txt", text)
