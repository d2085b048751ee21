# SPDX-License-Identifier: GPL-2.0-or-later
"""The real rpmbuild, rpm and rpmlint on packages of enclaves, with nothing installed.

Our macros and file attributes are loaded from the checkout, `sgx-enclaves` and the
rpmlint check run from there, and packages of unsigned enclaves are taken from a
scratch root (`install`, which is `rpm --root`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from demo.command import DEADLINE, ROOT

MACROS = ROOT / "spec-templates" / "macros.sgx-enclaves"
RPMLINTRC = ROOT / "spec-templates" / "enclaves.rpmlintrc"
ATTRIBUTES = ROOT / "spec-templates" / "fileattrs" / "sgx_enclaves.attr"
# A home without any configuration; what needs a cache may have one there.
_HOME = ROOT / "build" / "home"
_PLAIN = {
    "LC_ALL": "C.UTF-8",
    "HOME": str(_HOME),
    "XDG_CONFIG_HOME": str(_HOME / "config"),
    "XDG_CONFIG_DIRS": str(_HOME / "config"),
}


@dataclass(frozen=True)
class Ran:
    """What came of a program: exit status, and all that it printed."""

    status: int
    text: str


@dataclass(frozen=True)
class Built(Ran):
    """What came of a run of rpmbuild: its packages, or the section that failed, as `%check`."""

    packages: tuple[Path, ...]
    stage: str


@dataclass(frozen=True)
class Workshop:
    """Runs rpmbuild in a folder, with the packages of unsigned enclaves installed in a root."""

    folder: Path
    unsigned_root: Path

    def rpmbuild(self, mode: str, what: Path, *more: str, top: str = "") -> Built:
        """Build from a spec file or a source package.

        What the build requires is in no RPM database here, so nobody asks for it. The folder `top`
        within ours, by default after `what`, is emptied.
        """
        place = self.folder / "rpmbuild" / (top or what.stem)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        done = run([*self.command(mode, place), "--nodeps", *more, str(what)])
        where = "SRPMS" if mode == "-bs" else "RPMS"
        packages = tuple(sorted((place / where).rglob("*.rpm"))) if done.status == 0 else ()
        return Built(done.status, done.text, packages, _failed_stage(done.text))

    def command(self, mode: str, place: Path) -> list[str]:
        """The start of rpmbuild's command, as if sgx-enclaves-rpm-macros was installed."""
        defines = {
            "_topdir": str(place.resolve()),
            # where a build that is refused leaves its script
            "_tmppath": str(place.resolve()),
            "__sgx_enclaves": f"{sys.executable} -m sgx_enclaves",
            "_fileattrsdir": str(self._file_attributes(place).resolve()),
            "sgx_enclave_sysroot": str(self.unsigned_root.resolve()),
        }
        argv = ["rpmbuild", mode, *(f"--load={path}" for path in (MACROS, ATTRIBUTES))]
        for name, value in defines.items():
            argv += ["--define", f"{name} {value}"]
        return argv

    def _file_attributes(self, place: Path) -> Path:
        """A folder that lists the machine's file attributes and ours."""
        folder = place / "fileattrs"
        folder.mkdir()
        theirs = Path(run(["rpm", "--eval", "%{_fileattrsdir}"]).text.strip())
        for path in [*theirs.glob("*.attr"), ATTRIBUTES]:
            (folder / path.name).symlink_to(path)
        return folder


def _failed_stage(text: str) -> str:
    """The section in the last `Bad exit status from FILE (%check)`."""
    lines = [line for line in text.splitlines() if "Bad exit status from" in line]
    return lines[-1].rpartition("(")[2].rstrip(")") if lines else ""


def run(argv: Sequence[str], environment: Optional[Mapping[str, str]] = None) -> Ran:
    """Run a program in the checkout; errors go with the output."""
    # Nothing that a user or a machine has set up for rpm or rpmlint may matter here, nor
    # another language. rpmlint reads less configuration when it believes that it is tested.
    _HOME.mkdir(parents=True, exist_ok=True)
    usual = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        argv,
        check=False,
        timeout=DEADLINE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=ROOT,
        env={**usual, **_PLAIN, "PYTHONPATH": str(ROOT), **(environment or {})},
    )
    return Ran(done.returncode, done.stdout)


def can_install() -> bool:
    """Whether packages can be installed into a scratch root: that needs root, or a namespace."""
    return not os.geteuid() or not run(["unshare", "--map-root-user", "true"]).status


def rpm_in(root: Path) -> list[str]:
    """The start of rpm's command for a scratch root, with a database of its own."""
    # rpm changes its root, which an ordinary user may do only in a namespace
    own = ["unshare", "--map-root-user"] if os.geteuid() else []
    return [*own, "rpm", "--root", str(root.resolve())]


def install(packages: Sequence[Path], root: Path) -> Ran:
    """Install packages into a scratch root."""
    root.mkdir(parents=True, exist_ok=True)
    paths = (str(package.resolve()) for package in packages)
    return run([*rpm_in(root), "--install", "--nosignature", *paths])


def write_lint_config(path: Path, signer: str, least_isvsvn: Mapping[str, int]) -> Path:
    """Write a configuration of rpmlint for packages of a vendor with this MRSIGNER; its path."""
    lines = [(ROOT / "demo" / "rpmlint.toml").read_text("utf-8")]
    # Nobody signs the demo's packages, and both kinds were built here.
    lines += ["[SgxEnclave]", 'neighbours = "trust"', f"any_product = {list(least_isvsvn)}"]
    lines.append("[SgxEnclave.signers]")
    lines += [f'{name} = "{signer}"' for name in least_isvsvn]
    lines.append("[SgxEnclave.least_isvsvn]")
    lines += [f"{name} = {number}" for name, number in least_isvsvn.items()]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def rpmlint(home: Path, config: Path, files: Sequence[Path]) -> Ran:
    """Run rpmlint with our check, out of an environment that `packaging/install-rpmlint` made."""
    argv = [str(home / "bin" / "python"), "-m", "sgx_enclaves_rpmlint", "--config", str(config)]
    argv += ["--rpmlintrc", str(RPMLINTRC)]
    checks = ROOT / "rpmlint_checks"
    return run([*argv, *map(str, files)], {"PYTHONPATH": f"{checks}{os.pathsep}{ROOT}"})
