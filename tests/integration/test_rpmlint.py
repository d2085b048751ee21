# SPDX-License-Identifier: GPL-2.0-or-later
"""The real rpmlint, old and new, on packages that the real rpmbuild made of compiled enclaves.

The check comes from the project's wheel, installed into an environment of its own
beside rpmlint, with nothing copied by hand.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from sgx_enclaves.format.elf import EnclaveImage
from sgx_enclaves.packages.presence import ENCLAVE_FOLDER
from tests.enclaves.compiled import PARTS, build_enclaves, have_toolchain, variant_file
from tests.integration.test_check_rpm import ROOT, SPEC, signed_by_vendor
from tests.support.keys import mrsigner, vendor_key

pytestmark = [
    pytest.mark.skipif(not shutil.which("rpmbuild"), reason="rpmbuild is not installed"),
    pytest.mark.skipif(not have_toolchain(), reason="gcc, ld, strip or make is not installed"),
]

VERSIONS = ("2.4.0", "2.10.0")
FULL = ".1.25.100.1"
ERRORS = 64
TOO_BAD = 66
LINE = re.compile(r"(?P<package>\S+): (?P<level>[EWI]): (?P<id>\S+)(?P<rest>.*)")
OURS = "sgx-enclave-"


@dataclass(frozen=True)
class Lint:
    """What a run of rpmlint said.

    Attributes:
        status: exit status.
        text: all output.
    """

    status: int
    text: str

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
        folder: where everything goes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.built = folder / "built"
        build_enclaves(self.built)
        self.config = PARTS["pce"].config.read_bytes()
        self.unsigned = (self.built / PARTS["pce"].file).read_bytes()
        self.signed = signed_by_vendor(self.built / PARTS["pce"].file, self.config)
        (folder / "empty").mkdir()
        self._made: dict[str, Path] = {}

    def rpm(self, name: str, files: dict[str, bytes | str], provides: Sequence[str]) -> Path:
        """A package; text is the target of a symbolic link. Made once for a name."""
        if name not in self._made:
            self._made[name] = self._rpmbuild(name, files, provides)
        return self._made[name]

    def _rpmbuild(self, name: str, files: dict[str, bytes | str], provides: Sequence[str]) -> Path:
        top = self.folder / "rpm" / name
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
        spec.write_text(SPEC.format(name=name, provides=lines, tree=top / "tree"))
        argv = ["rpmbuild", "-bb", "--quiet"]
        for macro in (f"_topdir {top}", "_binary_payload w1.gzdio", "_build_id_links none"):
            argv += ["--define", macro]
        done = subprocess.run([*argv, str(spec)], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        # Each in a folder of its own, so that no rpmlintrc is found by accident.
        return next(top.glob("RPMS/*/*.rpm"))

    def signed_rpm(self, name: str = "sgx-enclave-prebuilt-pce-signed", **how: bytes) -> Path:
        """A package with the signed enclave as Fedora lays it out."""
        base = "libsgx_pce.signed.so"
        files: dict[str, bytes | str] = {
            f"{ENCLAVE_FOLDER}{base}{FULL}": how.get("data", self.signed),
            f"{ENCLAVE_FOLDER}{base}.1": f"{base}{FULL}",
            f"{ENCLAVE_FOLDER}{base}": f"{base}.1",
        }
        provides = ["sgx-enclave(pce:signed) = 2.25", "sgx-enclave(pce:signed:prebuilt) = 2.25"]
        return self.rpm(name, files, provides)

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


@pytest.fixture(scope="module", name="shop")
def _shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("rpmlint"))


@functools.cache
def built_wheel(folder: Path) -> Path:
    """The project's wheel; built from a copy, because setuptools leaves things behind."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("sgx_enclaves", "rpmlint_checks", "spec-templates"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
    argv = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    argv += ["--wheel-dir", str(folder), str(source)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the wheel cannot be built here: {done.stderr[-300:]}")
    return next(folder.glob("*.whl"))


@dataclass(frozen=True)
class Rpmlint:
    """An installed rpmlint with our wheel beside it."""

    version: str
    python: Path
    script: Path
    folder: Path

    def __call__(
        self,
        *packages: Path,
        table: str = "",
        rc: str = "",
        only: bool = True,
        options: Sequence[str] = (),
        rpmmacros: str = "",
    ) -> Lint:
        """Run it.

        Args:
            *packages: what to lint.
            table: lines of [SgxEnclave] beside the signer.
            rc: content of a package's rpmlintrc.
            only: leave rpmlint's own checks out.
            options: more options.
            rpmmacros: content of ~/.rpmmacros.
        """
        home = self.folder / "home"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        (home / ".rpmmacros").write_text(rpmmacros)
        config = home / "site.toml"
        signer = f'[SgxEnclave.signers]\npce = "{mrsigner(vendor_key())}"\n'
        config.write_text(f"[SgxEnclave]\n{table}\n{signer}")
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
        }
        done = subprocess.run(argv, check=False, capture_output=True, text=True, env=environment)
        assert "Traceback" not in done.stderr, done.stderr
        return Lint(done.returncode, done.stdout + done.stderr)


@pytest.fixture(scope="module", name="rpmlint", params=VERSIONS)
def _rpmlint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rpmlint]:
    version = request.param
    home = ROOT / "build" / f"rpmlint-{version}"
    if not (home / "bin" / "rpmlint").exists():
        pytest.skip(f"rpmlint {version} is not installed: make rpmlint")
    folder = tmp_path_factory.getbasetemp() / f"rpmlint-{version}"
    folder.mkdir()
    wheel = built_wheel(tmp_path_factory.getbasetemp() / "wheel")
    # Never touches the shared one: the wheel goes into an environment beside it.
    venv = folder / "venv"
    argv = [str(home / "bin" / "python"), "-m", "venv", "--without-pip"]
    subprocess.run([*argv, "--system-site-packages", str(venv)], check=True)
    site = next((venv / "lib").glob("python3*/site-packages"))
    theirs = next((home / "lib").glob("python3*/site-packages"))
    (site / "rpmlint.pth").write_text(f"{theirs}\n")
    python = venv / "bin" / "python"
    argv = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*argv, str(wheel)], check=True, capture_output=True)
    yield Rpmlint(version, python, home / "bin" / "rpmlint", folder)


def test_the_installed_version(rpmlint: Rpmlint) -> None:
    assert rpmlint(options=["--version"]).text.strip() == rpmlint.version


def test_a_neighbour_verifies(rpmlint: Rpmlint, shop: Shop) -> None:
    lint = rpmlint(shop.signed_rpm(), shop.unsigned_rpm())
    assert lint.ours == {("I", "sgx-enclave-verified")}, lint.text
    assert lint.status == 0
    (detail,) = lint.of("sgx-enclave-verified")
    mrenclave = re.search(r"MRENCLAVE ([0-9a-f]{64})", detail)
    assert mrenclave
    assert bytes.fromhex(mrenclave[1]) in shop.signed
    assert "libsgx_pce.signed.so.1.25.100.1" in detail


def test_a_configured_folder_verifies(rpmlint: Rpmlint, shop: Shop) -> None:
    (shop.built / "libsgx_pce.config.xml").write_bytes(shop.config)
    lint = rpmlint(shop.signed_rpm(), table=f'reference = "{shop.built}"')
    assert lint.ours == {("I", "sgx-enclave-verified")}, lint.text


def test_an_installed_package_verifies(rpmlint: Rpmlint, shop: Shop) -> None:
    """Relocated, because a test must not install into the system."""
    root = shop.folder / f"installed-{rpmlint.version}"
    database = root / "db"
    argv = ["rpm", "--install", "--nodeps", "--noscripts", "--ignorearch"]
    argv += ["--dbpath", str(database), "--relocate", f"/usr={root}/usr"]
    done = subprocess.run(
        [*argv, str(shop.unsigned_rpm())], check=False, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"rpm cannot install here: {done.stderr}")
    macros = f"%_dbpath {database}\n"
    lint = rpmlint(shop.signed_rpm(), rpmmacros=macros)
    assert lint.ours == {("I", "sgx-enclave-verified")}, lint.text
    assert str(root) in lint.of("sgx-enclave-verified")[0]
    library = next(root.glob("usr/**/libsgx_pce.so"))
    library.write_bytes(shop.unsigned[:-1] + b"?")
    lint = rpmlint(shop.signed_rpm(), rpmmacros=macros)
    assert ("E", "sgx-enclave-reference-unusable") in lint.ours, lint.text


def test_no_counterpart(rpmlint: Rpmlint, shop: Shop) -> None:
    lint = rpmlint(shop.signed_rpm())
    assert lint.ours == {("E", "sgx-enclave-not-reproduced")}, lint.text
    assert lint.status in (ERRORS, TOO_BAD)


def test_the_newest_toolchain_is_never_a_reference(rpmlint: Rpmlint, shop: Shop) -> None:
    latest = shop.unsigned_rpm("sgx-enclave-latest-pce-unsigned", "latest")
    lint = rpmlint(shop.signed_rpm(), latest)
    assert lint.ours == {("E", "sgx-enclave-not-reproduced")}, lint.text


def test_one_changed_byte(rpmlint: Rpmlint, shop: Shop) -> None:
    data, at = shop.tampered()
    lint = rpmlint(shop.signed_rpm("tampered", data=data), shop.unsigned_rpm())
    assert lint.ours == {("E", "sgx-enclave-payload-differs")}, lint.text
    (detail,) = lint.of("sgx-enclave-payload-differs")
    assert f"offset 0x{at:x}" in detail
    assert "segment" in detail
    assert "cause " in detail
    assert lint.status in (ERRORS, TOO_BAD)


def test_stripped_by_rpmbuild(rpmlint: Rpmlint, shop: Shop) -> None:
    built = variant_file(shop.folder, "unstripped")
    if not built.exists():
        build_enclaves(shop.folder, "variant-unstripped")
        (built.parent / "libsgx_pce.config.xml").write_bytes(shop.config)
    stripped = shop.folder / "stripped.so"
    stripped.write_bytes(signed_by_vendor(built, shop.config))
    subprocess.run(["strip", "--strip-unneeded", str(stripped)], check=True, capture_output=True)
    package = shop.signed_rpm("stripped", data=stripped.read_bytes())
    lint = rpmlint(package, table=f'reference = "{built.parent}"')
    assert ("E", "sgx-enclave-stripped-differently") in lint.ours, lint.text
    assert ("E", "sgx-enclave-payload-differs") in lint.ours


def test_an_enclave_under_another_name(rpmlint: Rpmlint, shop: Shop) -> None:
    package = shop.rpm("pictures", {"/usr/share/picture.jpg": shop.signed}, [])
    lint = rpmlint(package, shop.unsigned_rpm())
    assert ("E", "sgx-enclave-not-reproduced") in lint.ours, lint.text
    assert ("W", "sgx-enclave-name-unconventional") in lint.ours


def test_an_ordinary_package_is_left_alone(rpmlint: Rpmlint, shop: Shop) -> None:
    program = Path("/bin/true").read_bytes()
    lint = rpmlint(shop.rpm("ordinary", {"/usr/bin/true": program}, ["something"]))
    assert lint.ours == set(), lint.text
    assert lint.status == 0


@pytest.mark.parametrize(
    "rc",
    [
        'addFilter("sgx-enclave")\naddFilter(".*")',
        'setBadness("sgx-enclave-payload-differs", 0)',
        "setBadness('sgx-enclave-payload-differs', 0)\naddFilter(r'.')",
    ],
)
def test_an_rpmlintrc_cannot_hide_an_error(rpmlint: Rpmlint, shop: Shop, rc: str) -> None:
    data, _at = shop.tampered()
    lint = rpmlint(shop.signed_rpm("tampered", data=data), shop.unsigned_rpm(), rc=rc)
    assert ("E", "sgx-enclave-payload-differs") in lint.ours, lint.text
    assert lint.status in (ERRORS, TOO_BAD)


def test_an_rpmlintrc_that_works_elsewhere(rpmlint: Rpmlint, shop: Shop) -> None:
    """What the last test proves only if filters and badness apply at all."""
    package = shop.rpm("pictures", {"/usr/share/picture.jpg": shop.signed}, [])
    lint = rpmlint(package, rc='addFilter("sgx-enclave-name-unconventional")')
    assert ("W", "sgx-enclave-name-unconventional") not in lint.ours, lint.text
    lint = rpmlint(package, rc='setBadness("sgx-enclave-name-unconventional", 1)')
    assert ("E", "sgx-enclave-name-unconventional") in lint.ours, lint.text


def test_a_truncated_package(rpmlint: Rpmlint, shop: Shop) -> None:
    good = shop.signed_rpm()
    short = shop.folder / "short" / good.name
    short.parent.mkdir(exist_ok=True)
    short.write_bytes(good.read_bytes()[:-2000])
    lint = rpmlint(short, shop.unsigned_rpm())
    assert lint.status != 0
    # The newest refuses the package itself; the oldest says nothing, so we must.
    if lint.found:
        assert ("E", "sgx-enclave-package-damaged") in lint.ours, lint.text
        assert ("I", "sgx-enclave-verified") not in lint.ours
    else:
        assert "fatal error" in lint.text


def test_a_malformed_enclave(rpmlint: Rpmlint, shop: Shop) -> None:
    data = shop.signed[:200] + bytes(300)
    lint = rpmlint(shop.signed_rpm("malformed", data=data), shop.unsigned_rpm())
    assert ("E", "sgx-enclave-malformed") in lint.ours, lint.text
    assert lint.status in (ERRORS, TOO_BAD)


def test_descriptions(rpmlint: Rpmlint) -> None:
    text = rpmlint(options=["--explain", "sgx-enclave-debug-allowed"]).text
    assert "Ship the production enclave." in " ".join(text.split())


QUIETED = ("library-without-ldconfig-postin", "statically-linked-binary", "executable-stack")


def test_stock_findings_are_withdrawn_only_when_verified(rpmlint: Rpmlint, shop: Shop) -> None:
    loud = rpmlint(shop.signed_rpm(), only=False)
    quiet = rpmlint(shop.signed_rpm(), shop.unsigned_rpm(), only=False)
    path = f"{ENCLAVE_FOLDER}libsgx_pce.signed.so{FULL}"

    def about_it(lint: Lint) -> set[str]:
        return {kind for _level, kind, rest in lint.found if path in rest.split()}

    withdrawn = about_it(loud) - about_it(quiet) - {"sgx-enclave-not-reproduced"}
    assert withdrawn & set(QUIETED), loud.text
    assert not about_it(quiet) & set(QUIETED), quiet.text
    # The counts still agree with what is printed.
    for lint in (loud, quiet):
        counts = re.search(r"(\d+) errors, (\d+) warnings", lint.text)
        assert counts
        levels = [level for level, _kind, _rest in lint.found]
        assert (int(counts[1]), int(counts[2])) == (levels.count("E"), levels.count("W"))


def test_make_lint_rpm_needs_no_installation(shop: Shop) -> None:
    home = ROOT / "build" / "rpmlint-2.10.0"
    if not (home / "bin" / "rpmlint").exists():
        pytest.skip("rpmlint 2.10.0 is not installed: make rpmlint")
    argv = [str(home / "bin" / "python"), "-m", "sgx_enclaves_rpmlint", str(shop.signed_rpm())]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT / 'rpmlint_checks'}:{ROOT}",
        "HOME": str(shop.folder / "empty"),
        "XDG_CONFIG_DIRS": str(shop.folder / "empty"),
    }
    done = subprocess.run(argv, check=False, capture_output=True, text=True, env=environment)
    assert "sgx-enclave-not-reproduced" in done.stdout, done.stdout + done.stderr
    assert done.returncode in (ERRORS, TOO_BAD)
