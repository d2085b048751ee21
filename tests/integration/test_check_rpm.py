# SPDX-License-Identifier: GPL-2.0-or-later
"""`sgx-enclaves check-rpm` on packages that the real rpmbuild made of compiled enclaves."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sgx_enclaves.cli.main import main
from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.regenerate import regenerate
from sgx_enclaves.enclave.sdk import detect_generation
from sgx_enclaves.enclave.sign import sign
from sgx_enclaves.evidence.report import read_report
from sgx_enclaves.rpm.payload import packed
from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER
from tests.enclaves.compiled import PARTS, build_enclaves, have_toolchain, variant_file
from tests.support.keys import fips_key, mrsigner, vendor_key
from tests.support.once import built_enclaves
from tests.support_rpm import RpmFile, write_rpm

# The test vendor, whose products and security versions are not Intel's.
SIGNER = ("--signer", mrsigner(vendor_key()), "--any-product", "--min-isvsvn", "0")
pytestmark = [
    pytest.mark.skipif(not shutil.which("rpmbuild"), reason="rpmbuild is not installed"),
    pytest.mark.skipif(not have_toolchain(), reason="gcc, ld, strip or make is not installed"),
]

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"pce": "pce", "id_enclave": "ide", "qe3": "qe3", "tdqe": "tdqe"}
DATE = datetime.date(2025, 1, 31)
COMPRESSORS = {
    **{"gzip": "w6.gzdio", "xz": "w1.xzdio", "zstd": "w3.zstdio"},
    **{"bzip2": "w1.bzdio", "lzma": "w1.lzdio"},
}

# An enclave is shipped as it was signed: no tool may touch it.
SPEC = """
%global debug_package %{{nil}}
%global __os_install_post %{{nil}}
Name: {name}
Version: 1.25
Release: 1
Summary: Enclaves
License: BSD-3-Clause
BuildArch: x86_64
AutoReqProv: no
{provides}

%description
Enclaves.

%install
mkdir -p %{{buildroot}}
cp -a {tree}/. %{{buildroot}}/

%files
/usr
"""


@dataclass(frozen=True)
class World:
    """Built and signed enclaves, and packages of them.

    Attributes:
        folder: where everything is.
        built: folder of the unsigned enclaves and their config.xml files.
        signed: name in file names to the signed enclave.
    """

    folder: Path
    built: Path
    signed: dict[str, bytes]

    def rpm(self, name: str, files: dict[str, bytes | str], payload: str = "w1.gzdio") -> str:
        """A package of these files; text is the target of a symbolic link."""
        top = self.folder / f"{name}-{payload}"
        for path, content in files.items():
            target = top / "tree" / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                target.symlink_to(content)
            else:
                target.write_bytes(content)
                target.chmod(0o755)
        return rpmbuild(top, name, payload)

    def signed_files(self, **changes: bytes) -> dict[str, bytes | str]:
        """The files of a package with every signed enclave, as Fedora lays them out."""
        files: dict[str, bytes | str] = {}
        for name, data in {**self.signed, **changes}.items():
            base = f"libsgx_{name}.signed.so"
            files[f"{ENCLAVE_FOLDER}{base}.1.99.100.1"] = data
            files[f"{ENCLAVE_FOLDER}{base}.1"] = f"{base}.1.99.100.1"
            files[f"{ENCLAVE_FOLDER}{base}"] = f"{base}.1"
        return files

    def unsigned_files(self) -> dict[str, bytes | str]:
        """The files of a package with every unsigned enclave and its config."""
        files: dict[str, bytes | str] = {}
        for name in PARTS:
            library = f"libsgx_{name}.so"
            files[ENCLAVE_FOLDER + library] = (self.built / library).read_bytes()
            config = PARTS[name].config.read_bytes()
            files[f"/usr/share/sgx-enclaves/{NAMES[name]}.config.xml"] = config
        return files


def rpmbuild(top: Path, name: str, payload: str) -> str:
    """Run rpmbuild on `top`/tree; returns the package's path."""
    kind = "unsigned" if "unsigned" in name else "signed"
    extra = ":latest" if "latest" in name else ""
    provides = "\n".join(f"Provides: sgx-enclave({n}:{kind}{extra}) = 1.99" for n in NAMES.values())
    spec = top / "package.spec"
    spec.write_text(SPEC.format(name=name, provides=provides, tree=top / "tree"))
    defines = {"_topdir": str(top), "_binary_payload": payload, "_build_id_links": "none"}
    argv = ["rpmbuild", "-bb", "--quiet"]
    for macro, value in defines.items():
        argv += ["--define", f"{macro} {value}"]
    done = subprocess.run([*argv, str(spec)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return str(next(top.glob("RPMS/*/*.rpm")))


@pytest.fixture(scope="module", name="world")
def _world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("check-rpm")
    built = folder / "built"
    built.mkdir()
    signed = {}
    for name, part in PARTS.items():
        shutil.copy(built_enclaves(tmp_path_factory) / part.file, built)
        config = part.config.read_bytes()
        (built / f"libsgx_{name}.config.xml").write_bytes(config)
        signed[name] = signed_by_vendor(built / part.file, config)
    return World(folder, built, signed)


def signed_by_vendor(built: Path, config: bytes) -> bytes:
    image = EnclaveImage.parse(built.read_bytes())
    regenerated = regenerate(image, Config.parse(config), detect_generation(image))
    return sign(image, regenerated, vendor_key(), DATE, fips_key())


@pytest.fixture(scope="module", name="unsigned")
def _unsigned(world: World) -> str:
    return world.rpm("sgx-enclave-reproducible-unsigned", world.unsigned_files())


@pytest.fixture(scope="module", name="good")
def _good(world: World) -> str:
    return world.rpm("sgx-enclave-prebuilt-signed", world.signed_files())


def check(*arguments: str) -> int:
    return main(["check-rpm", *arguments, *SIGNER])


def json_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return parsed


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_every_compression(
    world: World, unsigned: str, compressor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if compressor == "zstd":
        pytest.importorskip("zstandard")
    package = world.rpm("signed", world.signed_files(), COMPRESSORS[compressor])
    assert check(package, "--reference", unsigned, "--json") == 0
    report = json_of(capsys)
    assert report["exit_status"] == 0
    (result,) = report["packages"]
    assert result["package"] == "signed-1.25-1.x86_64"
    assert {e["name"]: e["outcome"] for e in result["enclaves"]} == dict.fromkeys(
        NAMES.values(), "identical"
    )
    for enclave in result["enclaves"]:
        assert len(enclave["links"]) == 2
        assert enclave["verdict"]["outcome"] == "identical"
        assert enclave["reference"].startswith(unsigned)


def test_a_folder_as_the_reference(
    world: World, good: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(good, "--reference", str(world.built)) == 0
    text = capsys.readouterr().out
    assert "sgx-enclave-prebuilt-signed-1.25-1.x86_64): IDENTICAL" in text
    assert text.count("is our build plus a signature, and nothing else") == 4
    assert text.count("MRENCLAVE") == 4


def test_a_neighbour_as_the_reference(
    good: str, unsigned: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(good, unsigned, "--json") == 0
    packages = json_of(capsys)["packages"]
    assert [p["outcome"] for p in packages] == ["identical", None]


def test_the_newest_toolchain_is_no_neighbour(
    world: World, good: str, capsys: pytest.CaptureFixture[str]
) -> None:
    latest = world.rpm("sgx-enclave-latest-unsigned", world.unsigned_files())
    assert check(good, latest) == 2
    assert "no reference has an unsigned counterpart" in capsys.readouterr().out
    assert check(good, "--reference", latest) == 2
    assert "newest toolchain" in capsys.readouterr().err


def test_without_a_reference(good: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(good) == 2
    assert capsys.readouterr().out.count("no reference has an unsigned counterpart") == 4


def test_intel_is_expected_unless_asked_otherwise(
    world: World, good: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-rpm", good, "--reference", str(world.built), "--json"]) == 1
    (package,) = json_of(capsys)["packages"]
    for enclave in package["enclaves"]:
        codes = [f["code"] for f in enclave["verdict"]["findings"]]
        assert codes[0] == "signer-unexpected"


def test_one_changed_byte(
    world: World, unsigned: str, good: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tampered = bytearray(world.signed["qe3"])
    at = EnclaveImage.parse(bytes(tampered)).load_segments[-1].p_offset + 9
    tampered[at] ^= 0x10
    package = world.rpm("tampered", world.signed_files(qe3=bytes(tampered)))
    assert check(package, good, "--reference", unsigned, "--json") == 1
    report = json_of(capsys)
    bad, fine = report["packages"]
    outcomes = {e["name"]: e["outcome"] for e in bad["enclaves"]}
    assert outcomes == {**dict.fromkeys(NAMES.values(), "identical"), "qe3": "differs"}
    assert (bad["outcome"], fine["outcome"]) == ("differs", "identical")
    qe3 = next(e for e in bad["enclaves"] if e["name"] == "qe3")
    assert qe3["verdict"]["explanation"]["differences"][0]["start"] == at


def test_a_tool_that_strips_the_enclave_is_noticed(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `brp-strip` does to an enclave when a spec file forgets to switch it off."""
    build_enclaves(world.folder, "variant-unstripped")
    built = variant_file(world.folder, "unstripped")
    stripped = world.folder / "stripped.so"
    stripped.write_bytes(signed_by_vendor(built, PARTS["pce"].config.read_bytes()))
    subprocess.run(["strip", "--strip-unneeded", str(stripped)], check=True, capture_output=True)
    name = f"{ENCLAVE_FOLDER}libsgx_pce.signed.so"
    package = world.rpm("stripped", {name: stripped.read_bytes()})
    shutil.copy(world.built / "libsgx_pce.config.xml", built.parent)
    assert check(package, "--reference", str(built.parent)) == 2
    text = capsys.readouterr().out
    assert "DIFFERS: libsgx_pce.signed.so is not our build" in text
    assert "strip" in text


def test_hard_links_and_hidden_enclaves(
    world: World, unsigned: str, capsys: pytest.CaptureFixture[str]
) -> None:
    top = world.folder / "hidden-w1.gzdio"
    tree = top / "tree" / "usr"
    (tree / "lib").mkdir(parents=True)
    (tree / "lib" / "picture.jpg").write_bytes(world.signed["pce"])
    os.link(tree / "lib" / "picture.jpg", tree / "lib" / "libsgx_pce.signed.so")
    os.link(tree / "lib" / "picture.jpg", tree / "zebra")
    (tree / "empty").write_bytes(b"")
    (tree / "loop").symlink_to("../usr/loop2")
    package = rpmbuild(top, "hidden", "w1.gzdio")
    check(package, "--reference", unsigned, "--json")
    (result,) = json_of(capsys)["packages"]
    (enclave,) = result["enclaves"]
    assert sorted([enclave["path"], *enclave["links"]]) == [
        "/usr/lib/libsgx_pce.signed.so",
        "/usr/lib/picture.jpg",
        "/usr/zebra",
    ]
    assert enclave["name"] == "pce"
    assert [f["code"] for f in result["findings"]] == ["enclave-missing"] * 3


def test_a_truncated_package(good: str, unsigned: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = Path(good).read_bytes()
    short = Path(good).with_name("short.rpm")
    for size in (0, 50, 2000, len(data) // 2, len(data) - 1):
        short.write_bytes(data[:size])
        assert check(str(short), "--reference", unsigned, "--json") == 2
        (result,) = json_of(capsys)["packages"]
        assert result["outcome"] == "unverifiable"
        if size:
            assert result["findings"][0]["message"] == "the package is truncated"
        else:
            assert result["findings"][0]["message"] == "not an RPM package"


def test_a_changed_payload(good: str, unsigned: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(Path(good).read_bytes())
    data[-5] ^= 1
    bad = Path(good).with_name("bad.rpm")
    bad.write_bytes(data)
    assert check(str(bad), "--reference", unsigned) == 2
    assert "UNVERIFIABLE" in capsys.readouterr().out


def test_a_missing_reference_is_a_usage_error(
    good: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(good, "--reference", "/no/such/reference") == 2
    assert "/no/such/reference: cannot be read" in capsys.readouterr().err


def test_we_read_what_rpm_reads(good: str) -> None:
    form = "[%{FILENAMES}|%{FILEMODES:octal}|%{FILESIZES}|%{FILEDIGESTS}|%{FILELINKTOS}\n]"
    argv = ["rpm", "-qp", "--nosignature", "--qf", form, good]
    listed = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    with packed(good) as (package, members):
        ours = [(f.path, f.mode, f.size, f.digest, f.target) for f in package.files]
        seen = {f.file.path for f in members}
    theirs = []
    for line in listed.splitlines():
        path, mode, size, digest, target = line.split("|")
        theirs.append((path, int(mode, 8), int(size), digest, target))
    assert ours == theirs
    assert seen == {path for path, _mode, _size, digest, _target in ours if digest}


def without_librpm(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "rpm.py").write_text("raise ImportError('not here')\n")
    environment = {"PATH": "", "PYTHONPATH": f"{folder}:{ROOT}"}
    argv = [sys.executable, "-m", "sgx_enclaves", *words]
    return subprocess.run(
        argv, check=False, capture_output=True, text=True, env=environment, cwd=folder
    )


@pytest.mark.parametrize("verb", ["check-rpm", "scan"])
def test_without_librpm_packages_are_refused_by_its_name(
    good: str, tmp_path: Path, verb: str
) -> None:
    done = without_librpm(tmp_path, verb, good if verb == "check-rpm" else str(Path(good).parent))
    assert done.returncode == 2, done.stderr
    assert "install python3-rpm" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_without_librpm_enclaves_are_compared(world: World, tmp_path: Path) -> None:
    (tmp_path / "signed").write_bytes(world.signed["pce"])
    words = [str(world.built / "libsgx_pce.so"), str(tmp_path / "signed")]
    words += ["--config", str(world.built / "libsgx_pce.config.xml")]
    done = without_librpm(tmp_path, "compare", *words, *SIGNER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("IDENTICAL")


def test_a_tree_of_real_packages(
    world: World, good: str, unsigned: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = world.rpm("plain", {"/usr/share/doc/plain/README": b"text"})
    for package in (good, unsigned):
        shutil.copy(package, tmp_path)
    # Of the name "plain" only the file is innocent: it provides signed enclaves.
    shutil.copy(plain, tmp_path / "promises.rpm")
    arguments = [str(tmp_path), "--reference", unsigned, *SIGNER]
    assert main(["scan", *arguments, "--json"]) == 2
    report = json_of(capsys)
    assert report["scanned"] == 3
    outcomes = {p["package"]: p["outcome"] for p in report["packages"]}
    assert outcomes == {
        "plain-1.25-1.x86_64": "unverifiable",
        "sgx-enclave-prebuilt-signed-1.25-1.x86_64": "identical",
        "sgx-enclave-reproducible-unsigned-1.25-1.x86_64": None,
    }
    (tmp_path / "promises.rpm").unlink()
    assert main(["scan", *arguments]) == 0
    assert "enclaves: 4 identical, 4 unsigned" in capsys.readouterr().out


def test_a_repository_of_real_packages(
    good: str, unsigned: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Packages of the real rpmbuild, repodata of the real createrepo_c."""
    pytest.importorskip("createrepo_c", reason="Python's createrepo_c is not installed")
    beside = Path(sys.executable).with_name("createrepo_c")
    tool = str(beside) if beside.exists() else shutil.which("createrepo_c")
    if tool is None:
        pytest.skip("the program createrepo_c is not installed")
    for package in (good, unsigned):
        shutil.copy(package, tmp_path)
    (tmp_path / "plain.rpm").write_bytes(write_rpm([RpmFile("/usr/bin/x", b"text")]))
    subprocess.run([tool, "--quiet", str(tmp_path)], check=True, capture_output=True)
    arguments = [str(tmp_path), "--reference", unsigned, *SIGNER]
    for option, alone in ((None, 1), ("--headers", 0), ("--deep", 0)):
        assert main(["scan", *arguments, "--json", *([option] if option else [])]) == 0
        report = json_of(capsys)
        assert (report["scanned"], report["by_repodata_alone"]) == (3, alone)
        assert report["repodata_problems"] == []
        found = [e["outcome"] for p in report["packages"] for e in p["enclaves"]]
        assert sorted(found, key=str) == [None] * 4 + ["identical"] * 4
    # The repository is changed behind its repodata's back.
    (tmp_path / Path(good).name).write_bytes(Path(good).read_bytes() + b"x")
    assert main(["scan", *arguments]) == 2
    assert "not the one that the repodata describe" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["check-rpm", "scan"])
def test_a_report_that_the_package_alone_lets_others_check(
    verb: str, good: str, unsigned: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, report = tmp_path / "folder", tmp_path / "report"
    folder.mkdir()
    package = str(shutil.copy(good, folder))
    what = str(folder) if verb == "scan" else package
    arguments = (verb, what, "--reference", unsigned, "--report", str(report), *SIGNER)
    assert main(list(arguments)) == 0
    plain = read_report((report / "report.json").read_bytes(), "report.json")
    assert (plain["verdict"], len(plain["enclaves"])) == ("identical", 4)
    (described,) = plain["packages"]
    assert described["nevra"] == "sgx-enclave-prebuilt-signed-1.25-1.x86_64"
    assert described["sha256"] == hashlib.sha256(Path(good).read_bytes()).hexdigest()
    assert described["header_sha256"] != described["payload_sha256"]
    capsys.readouterr()
    assert main(["recheck", str(report / "report.json"), "--signed", package, "--json"]) == 0
    states = {s["state"] for s in json_of(capsys)["statements"] if s["about"] == Path(good).name}
    assert states == {"holds"}
    damaged = bytearray(Path(package).read_bytes())
    # the lead, which no digest of the package covers
    damaged[70] ^= 1
    Path(package).write_bytes(damaged)
    assert main(["recheck", str(report / "report.json"), "--signed", package]) == 1
    assert "does not hold: its SHA-256 is" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["check-rpm", "scan"])
def test_a_report_is_refused_before_the_work(
    verb: str, good: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("kept")
    what = str(Path(good).parent) if verb == "scan" else good
    assert main([verb, what, "--report", str(tmp_path / "file")]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "file: the directory cannot be made: File exists; name another directory" in shown.err
    assert (tmp_path / "file").read_text() == "kept"
