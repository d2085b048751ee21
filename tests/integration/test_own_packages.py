# SPDX-License-Identifier: GPL-2.0-or-later
"""Our own packages: built by rpmbuild, installed into a folder, and used from there.

They are built without %check, which is this suite's unit tests, and installed
without dependencies, which Debian's packages do not provide.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import pytest

from sgx_enclaves import __version__
from sgx_enclaves.cli.declare import VERBS
from tests.enclaves.compiled import PARTS, have_toolchain
from tests.integration.linting import Shop, shop_of
from tests.support.keys import mrsigner, vendor_key
from tests.support.once import made_once
from tests.unit.cli.test_completions import tab

ROOT = Path(__file__).resolve().parents[2]
SPEC = ROOT / "packaging" / "sgx-enclaves.spec"
RPMLINT = ROOT / "build" / "rpmlint-2.10.0"
PACKAGES = {
    "fedora-review-plugin-sgx-enclaves",
    "koji-builder-plugin-sgx-enclaves",
    "koji-cli-plugin-sgx-enclaves",
    "koji-hub-plugin-sgx-enclaves",
    "python3-sgx-enclaves",
    "rpmlint-sgx-enclaves",
    "sgx-enclaves",
    "sgx-enclaves-rpm-macros",
}


def missing() -> str:
    """Why the packages cannot be built here; empty if they can."""
    for tool in ("rpmbuild", "rpm", "git"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    if not (ROOT / ".git").exists():
        return "this is no git checkout: its files are not known"
    if os.geteuid() != 0:
        return "rpm --root needs root"
    return ""


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


def run(
    argv: Sequence[object], env: Optional[dict[str, str]] = None, status: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run something, with nothing in the environment but a path and what is given."""
    plain = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [str(word) for word in argv],
        check=False,
        capture_output=True,
        text=True,
        env={**plain, **(env or {})},
        cwd="/",
    )
    assert done.returncode == status, f"{argv}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
    return done


@dataclass(frozen=True)
class Installed:
    """Our packages, and the folder that all are installed in.

    Attributes:
        rpms: by name.
        source: the source package.
        root: where they are installed.
    """

    rpms: dict[str, Path]
    source: Path
    root: Path

    @property
    def site(self) -> Path:
        """Where the Python packages are."""
        return next(self.root.glob("usr/lib/python3*/site-packages"))

    @property
    def env(self) -> dict[str, str]:
        """An environment in which Python finds what is installed."""
        # Compiled once, beside the files that were installed.
        compiled = self.root.with_name("compiled")
        return {"PYTHONPATH": str(self.site), "PYTHONPYCACHEPREFIX": str(compiled)}

    def python(
        self, code: str, *args: object, env: Optional[dict[str, str]] = None
    ) -> dict[str, object]:
        """What Python code prints as JSON; it imports from the folder first."""
        done = run([sys.executable, "-c", code, *args], {**self.env, **(env or {})})
        result: dict[str, object] = json.loads(done.stdout)
        return result

    def files(self, name: str) -> set[str]:
        """The files of a package."""
        return set(run(["rpm", "-qpl", self.rpms[name]]).stdout.split())


@pytest.fixture(scope="session", name="installed")
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = made_once(tmp_path_factory, "own-packages", build_and_install)
    rpms = {path.name.rsplit("-", 2)[0]: path for path in folder.glob("RPMS/*/*.rpm")}
    return Installed(rpms, next(folder.glob("SRPMS/*.src.rpm")), folder / "root")


def build_and_install(folder: Path) -> None:
    """Build all packages in `folder`/place, take them away, and install them into `folder`/root."""
    build(folder / "place")
    for kind in ("RPMS", "SRPMS"):
        (folder / "place" / kind).rename(folder / kind)
    (folder / "root").mkdir()
    rpms = sorted(folder.glob("RPMS/*/*.rpm"))
    run(["rpm", "--root", folder / "root", "--install", "--nodeps", "--noscripts", *rpms])


def build(place: Path) -> list[Path]:
    """Build our packages in a directory."""
    run([ROOT / "packaging/build-rpm", place, "--nocheck"], {"PYTHON": sys.executable})
    return sorted(place.glob("*RPMS/**/*.rpm"))


@pytest.fixture(scope="module", name="shop")
def _shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    if not have_toolchain():
        pytest.skip("gcc, ld, strip or make is not installed")
    return shop_of(tmp_path_factory)


def test_there_is_every_package_and_no_other(installed: Installed) -> None:
    assert set(installed.rpms) == PACKAGES
    for name in PACKAGES:
        tags = "%{VERSION} %{ARCH} %{LICENSE} %{URL}"
        seen = run(["rpm", "-qp", "--qf", tags, installed.rpms[name]]).stdout
        assert seen.startswith(f"{__version__} noarch GPL-2.0-or-later https://")


def test_every_file_belongs_to_one_package(installed: Installed) -> None:
    seen: dict[str, str] = {}
    for name in PACKAGES:
        for path in installed.files(name):
            if not (installed.root / path[1:]).is_dir():
                assert path not in seen, f"{name} and {seen[path]}"
                seen[path] = name
    assert len(seen) > 100


def test_the_library_has_all_modules_and_data_files(installed: Installed) -> None:
    tracked = run(["git", "-C", ROOT, "ls-files", "sgx_enclaves"]).stdout.split()
    site = "/" + str(installed.site.relative_to(installed.root))
    expected = {f"{site}/{path}" for path in tracked if (ROOT / path).exists()}
    assert expected <= installed.files("python3-sgx-enclaves")
    assert any(path.endswith(".toml") for path in expected)


def test_no_file_names_the_folder_it_was_built_in(installed: Installed) -> None:
    places = [os.fsencode(ROOT), os.fsencode(installed.root.parent), b"BUILDROOT"]
    for name in PACKAGES:
        for path in installed.files(name):
            file = installed.root / path[1:]
            if file.is_file():
                content = file.read_bytes()
                assert [place for place in places if place in content] == [], path


def test_packages_require_what_they_need(installed: Installed) -> None:
    def requires(name: str) -> set[str]:
        return set(run(["rpm", "-qp", "--requires", installed.rpms[name]]).stdout.splitlines())

    # what the library imports, by the metadata of its own that it is shipped with
    imported = requires("python3-sgx-enclaves")
    for module in ("cryptography", "jinja2", "jsonschema", "pyelftools"):
        assert any(f"dist({module}) >= " in need for need in imported), module
    library = f"python3-sgx-enclaves = {__version__}-1"
    # what runs the command requires it, and the library by it
    scripts = {"fedora-review-plugin-sgx-enclaves", "sgx-enclaves-rpm-macros"}
    for name in PACKAGES - {"python3-sgx-enclaves"} - scripts:
        assert library in requires(name)
    for name in scripts:
        assert f"sgx-enclaves = {__version__}-1" in requires(name)
    assert "fedora-review" in requires("fedora-review-plugin-sgx-enclaves")
    hub_api = installed.root / "usr/lib/koji-hub-plugins/sgx_enclaves_hub/hub_api.py"
    found = re.search(r"^OLDEST = \((\d+), (\d+)\)$", hub_api.read_text(), re.MULTILINE)
    assert found
    for name, koji in (("hub", "koji-hub"), ("builder", "koji-builder"), ("cli", "koji")):
        needed = f"{koji} >= {found[1]}.{found[2]}"
        assert needed in requires(f"koji-{name}-plugin-sgx-enclaves")
    assert any(need.startswith("rpmlint >= 2") for need in requires("rpmlint-sgx-enclaves"))


def test_an_update_keeps_what_an_administrator_wrote(installed: Installed) -> None:
    expected = {
        "rpmlint-sgx-enclaves": "/etc/xdg/rpmlint/SgxEnclave.toml",
        "koji-builder-plugin-sgx-enclaves": "/etc/kojid/plugins/sgx_enclaves.conf",
        "koji-hub-plugin-sgx-enclaves": "/etc/koji-hub/plugins/sgx_enclaves.conf",
    }
    query = "[%{FILENAMES} %{FILEFLAGS:fflags}\n]"
    for name in PACKAGES:
        seen = run(["rpm", "-qp", "--qf", query, installed.rpms[name]]).stdout
        flagged = [line.split() for line in seen.splitlines() if len(line.split()) == 2]
        kept = [path for path, flags in flagged if "c" in flags and "n" in flags]
        assert kept == ([expected[name]] if name in expected else [])


# What an RPM says of the place that it was built in: the source package has the spec file with
# every path filled in, and binary packages have the digest of the source package.
_OF_THE_PLACE = {"Spec", "Sourcepkgid", "Sigmd5", "Sigsize", "Sha1header", "Sha256header"}


def header(package: Path) -> dict[str, str]:
    """The tags of a package as text, without those that depend on the place."""
    text = run(["rpm", "-qp", "--xml", package]).stdout
    tags = re.findall(r'<rpmTag name="(\w+)">(.*?)</rpmTag>', text, re.DOTALL)
    assert len(tags) > 40
    return {name: value for name, value in tags if name not in _OF_THE_PLACE}


def build_elsewhere(installed: Installed, place: Path, *words: object) -> list[Path]:
    """What rpmbuild itself makes in another place, at the same time."""
    when = run(["rpm", "-qp", "--qf", "%{BUILDTIME}", installed.source]).stdout
    argv: list[object] = ["rpmbuild", "--nodeps", "--nocheck"]
    for macro in (
        f"_topdir {place}",
        f"__python3 {sys.executable}",
        "_buildhost localhost",
        "use_source_date_epoch_as_buildtime 1",
        "clamp_mtime_to_source_date_epoch 1",
    ):
        argv += ["--define", macro]
    run([*argv, *words], {"SOURCE_DATE_EPOCH": when})
    return sorted(place.glob("*RPMS/**/*.rpm"))


def test_the_source_package_alone_gives_the_same_packages_elsewhere(
    installed: Installed, tmp_path: Path
) -> None:
    first = {path.name: path for path in installed.rpms.values()}
    again = build_elsewhere(installed, tmp_path, "--rebuild", installed.source)
    assert [path.name for path in again] == sorted(first)
    for path in again:
        assert header(path) == header(first[path.name])


def test_packages_built_twice_are_equal(installed: Installed, tmp_path: Path) -> None:
    place = installed.root.with_name("place")
    again = build(place)
    first = {path.name: path.read_bytes() for path in (*installed.rpms.values(), installed.source)}
    assert len(first) == len(PACKAGES) + 1
    assert {path.name: path.read_bytes() for path in again} == first
    # elsewhere all is the same but what rpm itself says of the place
    files = ("--define", f"_sourcedir {place / 'SOURCES'}")
    (source,) = build_elsewhere(installed, tmp_path, "-bs", *files, SPEC)
    assert header(source) == header(installed.source)


def test_sdist_and_wheel_built_twice_are_equal_in_any_directory(tmp_path: Path) -> None:
    built = []
    for place in ("a", "deep/b"):
        run([ROOT / "packaging/build-dist", tmp_path / place], {"PYTHON": sys.executable})
        built.append({p.name: p.read_bytes() for p in (tmp_path / place).iterdir()})
    first, second = built
    assert first == second
    sdist, wheel = (
        f"sgx_enclaves-{__version__}.tar.gz",
        f"sgx_enclaves-{__version__}-py3-none-any.whl",
    )
    assert set(first) == {sdist, wheel, f"{sdist}.spdx.json"}
    bill = json.loads(first[f"{sdist}.spdx.json"])
    packages = {package["name"]: package for package in bill["packages"]}
    for name in (sdist, wheel):
        (checksum,) = packages[name]["checksums"]
        assert checksum["checksumValue"] == hashlib.sha256(first[name]).hexdigest()
    needed = {package["comment"] for package in bill["packages"] if "externalRefs" in package}
    assert "pyelftools>=0.29" in needed
    assert not [word for word in needed if "pytest" in word]
    described = {related["relatedSpdxElement"] for related in bill["relationships"]}
    assert described == {package["SPDXID"] for package in bill["packages"]} - {
        f"SPDXRef-sgx-enclaves-{kind}" for kind in ("sdist", "wheel")
    }


def test_the_spec_is_for_this_version_or_nothing_is_built(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    (copy / "packaging").mkdir(parents=True)
    (copy / "sgx_enclaves").mkdir()
    (copy / "sgx_enclaves/__init__.py").write_text('__version__ = "99.1"\n')
    shutil.copy(SPEC, copy / "packaging")
    shutil.copy(ROOT / "packaging/build-rpm", copy / "packaging")
    done = run(
        [copy / "packaging/build-rpm", tmp_path / "rpm"], {"PYTHON": sys.executable}, status=1
    )
    assert "is not for version 99.1" in done.stderr


def test_the_program_runs_from_the_folder(installed: Installed, shop: Shop) -> None:
    script = installed.root / "usr/bin/sgx-enclaves"
    assert script.read_text().splitlines()[0].startswith("#!/usr/bin/python3")
    assert script.stat().st_mode & 0o777 == 0o755
    where = installed.python(
        "import json, sgx_enclaves as s; print(json.dumps({'at': s.__file__}))"
    )
    assert str(where["at"]).startswith(str(installed.site))

    program = [sys.executable, script]
    assert run([*program, "--version"], installed.env).stdout == f"sgx-enclaves {__version__}\n"
    for verb in VERBS:
        shown = run([*program, verb, "--help"], installed.env).stdout
        assert shown.startswith(f"usage: sgx-enclaves {verb}")

    signed = shop.folder / "libsgx_pce.signed.so"
    signed.write_bytes(shop.signed)
    compare = [*program, "compare", shop.built / PARTS["pce"].file, signed]
    compare += ["--config", PARTS["pce"].config, "--signer", mrsigner(vendor_key())]
    assert "IDENTICAL" in run(compare, installed.env).stdout
    signed.write_bytes(shop.tampered()[0])
    assert "DIFFERS" in run(compare, installed.env, status=1).stdout


def test_the_catalogue_is_there(installed: Installed, tmp_path: Path) -> None:
    code = (
        "import json; from sgx_enclaves.catalogue.reader import load_catalogue, OWN_FOLDER;"
        "print(json.dumps({'names': sorted(load_catalogue((OWN_FOLDER,)).releases)}))"
    )
    assert "sgx-2.25-dcap-1.22" in str(installed.python(code)["names"])


def test_the_manual_is_there(installed: Installed) -> None:
    pages = installed.root / "usr/share/man/man1"
    names = {"sgx-enclaves.1.gz", *(f"sgx-enclaves-{verb}.1.gz" for verb in VERBS)}
    assert {page.name for page in pages.iterdir()} == names
    for name in names:
        text = gzip.decompress((pages / name).read_bytes()).decode()
        assert text.startswith(".TH SGX")
        assert f'"sgx\\-enclaves {__version__}"' in text


def test_the_completions_are_there(installed: Installed, tmp_path: Path) -> None:
    share = installed.root / "usr/share"
    scripts = {
        "bash": share / "bash-completion/completions/sgx-enclaves",
        "zsh": share / "zsh/site-functions/_sgx-enclaves",
        "fish": share / "fish/vendor_completions.d/sgx-enclaves.fish",
    }
    assert scripts["zsh"].read_text().startswith("#compdef sgx-enclaves")
    assert "complete -c sgx-enclaves" in scripts["fish"].read_text()
    (tmp_path / "bash").symlink_to(scripts["bash"].parent)
    assert tab(tmp_path, "") == set(VERBS)


def test_the_macros_are_of_use_to_rpm(installed: Installed) -> None:
    macros = installed.root / "usr/lib/rpm/macros.d/macros.sgx-enclaves"
    attributes = installed.root / "usr/lib/rpm/fileattrs/sgx_enclaves.attr"
    names = re.findall(r"^%(sgx_enclave_\w+)", macros.read_text(), re.MULTILINE)
    assert len(names) > 5
    for name in names:
        ask = ["rpm", "--load", macros, "--eval", f"%{{defined {name}}}"]
        assert run(ask).stdout == "1\n", name
    ask = ["rpm", "--load", macros, "--eval", "%{sgx_enclave_libdir}"]
    assert run(ask).stdout == "/usr/x86_64-intel-sgx/lib64\n"
    ask = ["rpm", "--load", macros, "--load", attributes]
    provides = run([*ask, "--eval", "%{__sgx_enclaves_provides}"]).stdout.split()
    assert provides[0] == "/usr/bin/sgx-enclaves"
    assert provides[1] in VERBS
    path = run([*ask, "--eval", "%{__sgx_enclaves_path}"]).stdout.strip()
    assert re.search(path.replace("\\\\", "\\"), "/usr/x86_64-intel-sgx/lib64/libsgx_pce.so")


@pytest.fixture(scope="session", name="linted")
def _linted(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """As `installed`, with rpmlint in the same folder of Python packages."""
    if not (RPMLINT / "bin" / "rpmlint").exists():
        pytest.skip("rpmlint is not installed: make rpmlint")
    copy = tmp_path_factory.mktemp("rpmlint") / "root"
    shutil.copytree(installed.root, copy, symlinks=True)
    result = Installed(installed.rpms, installed.source, copy)
    theirs = next(RPMLINT.glob("lib/python3*/site-packages/rpmlint"))
    shutil.copytree(theirs, result.site / "rpmlint", dirs_exist_ok=True)
    return result


def rpmlint(linted: Installed, *words: object) -> str:
    """What rpmlint says as it is installed in the folder, whatever its exit status."""
    start = "import sys; from rpmlint.cli import lint; sys.argv[0] = 'rpmlint'; lint()"
    environment = {**linted.env, "XDG_CONFIG_DIRS": str(linted.root / "etc/xdg")}
    done = subprocess.run(
        [str(RPMLINT / "bin/python"), "-c", start, *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(linted.root), **environment},
        cwd=linted.root,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert " packages and " in done.stdout, done.stderr
    return done.stdout


def test_rpmlint_has_the_check(linted: Installed, shop: Shop, tmp_path: Path) -> None:
    signer = tmp_path / "signer.toml"
    signer.write_text(
        '[SgxEnclave]\nany_product = ["pce"]\nleast_isvsvn = {pce = 0}\n'
        f'[SgxEnclave.signers]\npce = "{mrsigner(vendor_key())}"\n'
    )
    said = rpmlint(linted, "--config", signer, shop.signed_rpm(), shop.unsigned_rpm())
    assert "sgx-enclave-verified" in said
    said = rpmlint(linted, "--config", signer, shop.signed_rpm())
    assert "E: sgx-enclave-not-reproduced" in said
    assert "sgx-enclave-verified" not in said


def test_rpmlint_has_nothing_against_our_packages(linted: Installed) -> None:
    config = ROOT / "packaging/rpmlint.toml"
    rc = ROOT / "packaging/sgx-enclaves.rpmlintrc"
    packages = [*linted.rpms.values(), linted.source, SPEC]
    said = rpmlint(linted, "--config", config, "--rpmlintrc", rc, *packages)
    clean = f"{len(linted.rpms) + 1} packages and 1 specfiles checked; 0 errors, 0 warnings"
    assert clean in said, said
    # Whether it looks at all.
    assert "E: hardcoded-library-path" in rpmlint(linted, *packages)


_LOAD = """
import json, sys
from unittest.mock import MagicMock
import koji.plugin
try:
    import kojihub
except ImportError:
    # Only a hub has it; the plugin is loaded here, not used.
    sys.modules.update({"kojihub": MagicMock(), "kojihub.db": MagicMock()})
plugin = koji.plugin.PluginTracker(path=[sys.argv[1]]).load(sys.argv[2])
print(json.dumps({"file": plugin.__file__, "names": sorted(vars(plugin))}))
"""


@pytest.mark.parametrize(
    ("half", "plugin", "names"),
    [
        ("builder", "sgx_enclaves_builder", {"SgxEnclavesTask", "SgxEnclaveTask"}),
        ("hub", "sgx_enclaves_hub", {"sgxEnclaves", "getSgxVerification", "gate_tagging"}),
    ],
)
def test_koji_finds_the_plugin(
    installed: Installed, half: str, plugin: str, names: set[str]
) -> None:
    pytest.importorskip("koji", reason="koji is not installed")
    folder = installed.root / f"usr/lib/koji-{half}-plugins"
    found = installed.python(_LOAD, folder, plugin)
    assert str(found["file"]) == str(folder / plugin / "__init__.py")
    assert isinstance(found["names"], list)
    assert names <= set(found["names"])


_BUILDER_CONFIG = """
import os
import sys
from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves_builder.config import CONFIG_VARIABLE, Config, load_config
os.environ[CONFIG_VARIABLE] = sys.argv[1]
try:
    same = load_config() == Config()
except SgxEnclavesError as error:
    sys.exit(f"refused: {error}")
print("as without" if same else "other than without")
"""


def test_the_builders_configuration_changes_nothing_as_it_is(
    installed: Installed, tmp_path: Path
) -> None:
    pytest.importorskip("koji", reason="koji is not installed")
    plugins = installed.root / "usr/lib/koji-builder-plugins"
    env = {**installed.env, "PYTHONPATH": f"{installed.site}:{plugins}"}
    read = [sys.executable, "-c", _BUILDER_CONFIG]
    config = installed.root / "etc/kojid/plugins/sgx_enclaves.conf"
    assert run([*read, config], env).stdout == "as without\n"
    wrong = tmp_path / "wrong.conf"
    wrong.write_text(config.read_text() + "\n[nonsense]\nkey = value\n")
    assert "refused: " in run([*read, wrong], env, status=1).stderr


def test_the_hubs_configuration_is_good_as_it_is(installed: Installed, tmp_path: Path) -> None:
    check = [sys.executable, installed.root / "usr/lib/koji-hub-plugins/sgx_enclaves_hub/config.py"]
    config = installed.root / "etc/koji-hub/plugins/sgx_enclaves.conf"
    assert run([*check, config], installed.env).stdout == f"{config}: good\n"
    wrong = tmp_path / "wrong.conf"
    wrong.write_text(config.read_text() + "\n[nonsense]\nkey = value\n")
    assert "nonsense" in run([*check, wrong], installed.env, status=1).stderr


def test_the_hub_gets_its_tables(installed: Installed) -> None:
    sql = list((installed.root / "usr/share/sgx-enclaves/koji-hub").glob("*.sql"))
    assert sql
    assert all("CREATE TABLE" in path.read_text() for path in sql)


def test_kojis_client_finds_the_command(installed: Installed, tmp_path: Path) -> None:
    koji = Path(sys.executable).with_name("koji")
    if not koji.exists():
        pytest.skip("koji's client is not installed")
    config = tmp_path / "koji.conf"
    folder = installed.site / "koji_cli_plugins"
    config.write_text(f"[koji]\nserver = http://127.0.0.1:1/kojihub\nplugin_paths = {folder}\n")
    client = [sys.executable, koji, "-c", config]
    env = {**installed.env, "HOME": str(tmp_path)}
    assert "usage: koji sgx-enclaves" in run([*client, "sgx-enclaves", "--help"], env).stdout
    config.write_text("[koji]\nserver = http://127.0.0.1:1/kojihub\n")
    assert "Unknown command" in run([*client, "sgx-enclaves", "--help"], env, status=1).stderr


def test_spec_files_are_written_from_the_folder(installed: Installed, tmp_path: Path) -> None:
    program = [sys.executable, installed.root / "usr/bin/sgx-enclaves", "spec"]
    spec = tmp_path / "enclaves.spec"
    release = ["sgx-2.25-dcap-1.22", "--kind", "prebuilt", "--packager", "A <a@example.org>"]
    run([*program, *release, "-o", spec], installed.env)
    macros = installed.root / "usr/lib/rpm/macros.d/macros.sgx-enclaves"
    query = ["rpmspec", "--load", macros, "--target", "x86_64", "-q", "--qf", "%{NAME}\n", spec]
    assert "sgx-enclave-prebuilt-pce-signed" in run(query).stdout.split()
