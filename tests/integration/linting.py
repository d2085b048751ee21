# SPDX-License-Identifier: GPL-2.0-or-later
"""The real rpmlint with our check from the project's wheel, and packages for it to look at.

The wheel is installed into an environment of its own beside rpmlint, with nothing
copied by hand; the packages are made by the real rpmbuild, of compiled enclaves.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import pytest

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER
from tests.enclaves.compiled import PARTS, have_toolchain
from tests.integration.test_check_rpm import ROOT, SPEC, signed_by_vendor
from tests.support.keys import mrsigner, vendor_key
from tests.support.once import built_enclaves, made_once

needs_tools = [
    pytest.mark.skipif(not shutil.which("rpmbuild"), reason="rpmbuild is not installed"),
    pytest.mark.skipif(not have_toolchain(), reason="gcc, ld, strip or make is not installed"),
]

# Debian 12's, and the newest.
VERSIONS = ("2.4.0", "2.10.0")
FULL = ".1.25.100.1"
ERRORS = 64
TOO_BAD = 66
LINE = re.compile(r"(?P<package>\S+): (?P<level>[EWI]): (?P<id>\S+)(?P<rest>.*)")
OURS = "sgx-enclave-"
VERIFIED_BY_A_NEIGHBOUR = {
    ("I", "sgx-enclave-verified"),
    ("W", "sgx-enclave-reference-unauthenticated"),
}
SIGNED_NAME = "sgx-enclave-prebuilt-pce-signed"
SIGNED_PROVIDES = ("sgx-enclave(pce:signed) = 2.25", "sgx-enclave(pce:signed:prebuilt) = 2.25")
SIGNED_PATH = f"{ENCLAVE_FOLDER}libsgx_pce.signed.so.1.25.100.1"


@dataclass(frozen=True)
class Lint:
    """What a run of rpmlint said.

    Attributes:
        status: exit status.
        text: all output.
        memory: the most that it and what it started had at once, in MiB.
    """

    status: int
    text: str
    memory: float = 0

    @property
    def found(self) -> list[tuple[str, str, str]]:
        """Level, id and details of each finding."""
        matches = map(LINE.match, self.text.splitlines())
        return [(m["level"], m["id"], m["rest"]) for m in matches if m and m["package"] != "(none)"]

    @property
    def ours(self) -> set[tuple[str, str]]:
        """Level and id of each finding of the check."""
        return {(level, kind) for level, kind, _rest in self.found if kind.startswith(OURS)}

    def of(self, kind: str) -> list[str]:
        """The details of the findings of one id."""
        return [rest for _level, found, rest in self.found if found == kind]


class Shop:
    """Makes enclaves and packages, and lints them.

    Args:
        factory: pytest's; packages are built once a run, by what is in them.
        folder: where all else goes.
        built: where the enclaves are.
    """

    def __init__(self, factory: pytest.TempPathFactory, folder: Path, built: Path) -> None:
        self.folder = folder
        self.built = built
        self._factory = factory
        self.config = PARTS["pce"].config.read_bytes()
        self.unsigned = (self.built / PARTS["pce"].file).read_bytes()
        self.signed = signed_by_vendor(self.built / PARTS["pce"].file, self.config)
        (folder / "empty").mkdir()
        self._made: dict[str, Path] = {}

    def rpm(
        self,
        key: str,
        files: Mapping[str, bytes | str],
        provides: Sequence[str],
        *,
        name: str = "",
        spec: str = SPEC,
    ) -> Path:
        """A package; text is the target of a symbolic link. Made once for a key.

        Args:
            key: what this package is called among the tests.
            files: path to content.
            provides: what it provides.
            name: of the package, if not the key.
            spec: the spec file, with places for name, provides and tree.
        """
        if key not in self._made:
            content = (name or key, files, provides, spec)
            digest = hashlib.sha256(repr((name or key, list(files), provides, spec)).encode())
            for data in files.values():
                digest.update(repr(data).encode() if isinstance(data, str) else data)
            called = f"rpm-{digest.hexdigest()[:16]}"
            # Each in a folder of its own, so that no rpmlintrc is found by accident.
            top = made_once(self._factory, called, lambda folder: rpmbuild(folder, *content))
            self._made[key] = next(top.glob("RPMS/*/*.rpm"))
        return self._made[key]

    def signed_files(self, data: Optional[bytes] = None) -> dict[str, bytes | str]:
        """The signed enclave as Fedora lays it out."""
        base = "libsgx_pce.signed.so"
        return {
            f"{ENCLAVE_FOLDER}{base}{FULL}": self.signed if data is None else data,
            f"{ENCLAVE_FOLDER}{base}.1": f"{base}{FULL}",
            f"{ENCLAVE_FOLDER}{base}": f"{base}.1",
        }

    def signed_rpm(self, key: str = "signed", data: Optional[bytes] = None) -> Path:
        """A package with the signed enclave, or with other data in its place."""
        return self.rpm(key, self.signed_files(data), SIGNED_PROVIDES, name=SIGNED_NAME)

    def unsigned_rpm(
        self, name: str = "sgx-enclave-reproducible-pce-unsigned", kind: str = "reproducible"
    ) -> Path:
        """A package with the unsigned enclave and its config."""
        files: dict[str, bytes | str] = {
            f"{ENCLAVE_FOLDER}libsgx_pce.so": self.unsigned,
            "/usr/share/sgx-enclaves/pce.config.xml": self.config,
        }
        provides = ["sgx-enclave(pce:unsigned) = 2.25", f"sgx-enclave(pce:unsigned:{kind}) = 2.25"]
        return self.rpm(name, files, provides)

    def tampered(self) -> tuple[bytes, int]:
        """The signed enclave with one byte of code changed, and where."""
        data = bytearray(self.signed)
        at = EnclaveImage.parse(self.signed).load_segments[-1].p_offset + 9
        data[at] ^= 0x10
        return bytes(data), at


def rpmbuild(
    top: Path, name: str, files: Mapping[str, bytes | str], provides: Sequence[str], spec_text: str
) -> None:
    """Build a package in a folder; see `Shop.rpm`."""
    for path, content in files.items():
        target = top / "tree" / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            target.symlink_to(content)
        else:
            target.write_bytes(content)
            target.chmod(0o755)
    spec = top / "package.spec"
    lines = "\n".join(f"Provides: {p}" for p in provides) + "\nPrefix: /usr"
    spec.write_text(spec_text.format(name=name, provides=lines, tree=top / "tree"))
    argv = ["rpmbuild", "-bb", "--quiet"]
    for macro in (f"_topdir {top}", "_binary_payload w1.gzdio", "_build_id_links none"):
        argv += ["--define", macro]
    done = subprocess.run([*argv, str(spec)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def build_wheel(folder: Path) -> None:
    """Build the project's wheel, from a copy, because setuptools leaves things behind."""
    source = folder / "source"
    source.mkdir()
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("sgx_enclaves", "rpmlint_checks", "spec-templates"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
    argv = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    argv += ["--wheel-dir", str(folder), str(source)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the wheel cannot be built here: {done.stderr[-300:]}")


# Runs a program and writes down the most memory, in KiB, that it and its children had.
_MEASURED = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[2:]).returncode
with open(sys.argv[1], "w") as out:
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=out)
sys.exit(status)
"""


@dataclass(frozen=True)
class Rpmlint:
    """An rpmlint to run.

    Attributes:
        version: as it calls itself.
        python: runs it.
        script: the program.
        folder: for its home folder.
        settings: more environment variables.
    """

    version: str
    python: Path
    script: Path
    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    def __call__(
        self,
        *packages: Path,
        table: str = "",
        rc: str = "",
        only: bool = True,
        options: Sequence[str] = (),
        rpmmacros: str = "",
        toml: str = "",
    ) -> Lint:
        """Run it.

        Args:
            *packages: what to lint.
            table: lines of [SgxEnclave] beside the signer.
            rc: content of a package's rpmlintrc.
            only: leave rpmlint's own checks out.
            options: more options.
            rpmmacros: content of ~/.rpmmacros.
            toml: what else the configuration says, before our table.
        """
        home = self.folder / "home"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        (home / ".rpmmacros").write_text(rpmmacros)
        config = home / "site.toml"
        signer = f'[SgxEnclave.signers]\npce = "{mrsigner(vendor_key())}"\n'
        lifted = 'any_product = ["pce"]\nleast_isvsvn = {pce = 0}\n'
        config.write_text(f"{toml}\n[SgxEnclave]\n{table}\n{lifted}{signer}")
        argv = [str(self.python), str(self.script), "--config", str(config)]
        if only:
            argv += ["--checks", "SgxEnclaveCheck"]
        if rc:
            (home / "sample.rpmlintrc").write_text(rc)
            argv += ["--rpmlintrc", str(home / "sample.rpmlintrc")]
        argv += [*options, *map(str, packages)]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_CONFIG_DIRS": str(home),
            "LC_ALL": "C.UTF-8",
            **self.settings,
        }
        memory = home / "memory"
        # Not from here: a process starts with the size of the one that started it.
        argv = [sys.executable, "-S", "-c", _MEASURED, str(memory), *argv]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, env=environment)
        text = done.stdout + done.stderr
        assert "Traceback" not in text, text
        return Lint(done.returncode, text, int(memory.read_text()) / 1024)


def install_wheel(home: Path, wheel: Path, venv: Path) -> None:
    """Make an environment with rpmlint as in `home`, which is never touched, and the wheel."""
    make_environment(home / "bin" / "python", wheel, venv)
    (site_packages(venv) / "rpmlint.pth").write_text(f"{site_packages(home)}\n")


def make_environment(python: Path, wheel: Path, venv: Path) -> None:
    """Make an environment that sees the packages of `python`, with the wheel."""
    argv = [str(python), "-m", "venv", "--without-pip", "--system-site-packages", str(venv)]
    subprocess.run(argv, check=True)
    argv = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install"]
    # What is installed elsewhere is not what is to be tested.
    argv += ["--quiet", "--no-deps", "--ignore-installed", str(wheel)]
    subprocess.run(argv, check=True, capture_output=True)


def site_packages(venv: Path) -> Path:
    """Where an environment has its packages."""
    return next((venv / "lib").glob("python3*/site-packages"))


def rpmlint_home(version: str) -> Path:
    """Where `make rpmlint` has put a version; skips where it has not."""
    home = ROOT / "build" / f"rpmlint-{version}"
    if not (home / "bin" / "rpmlint").exists():
        pytest.skip(f"rpmlint {version} is not installed: make rpmlint")
    return home


def rpmlint_with_wheel(version: str, factory: pytest.TempPathFactory) -> Rpmlint:
    """An rpmlint with our wheel beside it, made once a run."""
    home = rpmlint_home(version)
    wheel = next(made_once(factory, "wheel", build_wheel).glob("*.whl"))
    made = made_once(
        factory, f"rpmlint-{version}", lambda f: install_wheel(home, wheel, f / "venv")
    )
    python = made / "venv" / "bin" / "python"
    return Rpmlint(version, python, home / "bin" / "rpmlint", factory.mktemp("home"))


def shop_of(factory: pytest.TempPathFactory) -> Shop:
    """A shop whose enclaves are built once a run."""
    return Shop(factory, factory.mktemp("shop"), built_enclaves(factory))
