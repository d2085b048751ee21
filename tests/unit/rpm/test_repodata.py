# SPDX-License-Identifier: GPL-2.0-or-later
"""Repodata: what is read from them, what is not believed, and what a scan makes of them."""

from __future__ import annotations

import gzip
import importlib.util
import json
import lzma
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from sgx_enclaves.cli.main import main
from sgx_enclaves.errors import (
    ArchiveError,
    InputError,
    LimitError,
    RepodataError,
    SgxEnclavesError,
    UnsupportedError,
)
from sgx_enclaves.limits import ArchiveLimits
from sgx_enclaves.rpm import repodata
from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER
from sgx_enclaves.rpm.repodata import (
    Listing,
    Listings,
    plain_path,
    read_repository,
    repository_in,
)
from sgx_enclaves.rpm.scan import survey
from tests.support.keys import mrsigner, vendor_key
from tests.support.signed import signed_enclave
from tests.support_repodata import Listed, filelists_of, primary_of, write_repodata
from tests.support_rpm import RpmFile, compress, folder, write_rpm

# Asked for without an import: it takes memory in a process that then forks for other tests.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("createrepo_c") is None,
    reason="Python's createrepo_c is not installed",
)

# The test vendor, whose products and security versions are not Intel's.
SIGNER = ("--signer", mrsigner(vendor_key()), "--any-product", "--min-isvsvn", "0")
CASE = signed_enclave("2.25")
PCE = ENCLAVE_FOLDER + "libsgx_pce.signed.so"
PLAIN = write_rpm([RpmFile("/usr/bin/x", b"text"), folder("/usr/share/x")], provides=["x"])
SIGNED = write_rpm([RpmFile(PCE, CASE.signed)], provides=["sgx-enclave(pce:signed)"])
QUIET = write_rpm([RpmFile(PCE, CASE.signed)])
LISTED = (
    Listed("plain.rpm", PLAIN, ("x",), ("/usr/bin/x",)),
    Listed("sub/signed.rpm", SIGNED, ("sgx-enclave(pce:signed)",)),
    Listed("quiet.rpm", QUIET, (), ("/usr/bin/y", PCE)),
)


def fill(tree: Path, packages: Sequence[Listed] = LISTED, **changes: Any) -> Path:
    """A repository of these packages, with these repodata."""
    tree.mkdir(exist_ok=True)
    for package in packages:
        path = tree / package.href
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(package.data)
    write_repodata(tree, packages, **changes)
    return tree


def listing(package: Listed, suspect: bool) -> Listing:
    return Listing(len(package.data), "sha256", package.pkgid, suspect)


def listed_in(folder: Path) -> Listings:
    return read_repository(str(folder))[1]


def test_what_is_listed(tmp_path: Path) -> None:
    assert listed_in(fill(tmp_path)) == {
        "plain.rpm": listing(LISTED[0], False),
        "sub/signed.rpm": listing(LISTED[1], True),
        "quiet.rpm": listing(LISTED[2], True),
    }
    assert listed_in(fill(tmp_path, ())) == {}


@pytest.mark.parametrize("pack", ["gzip", "xz", "zstd", None])
def test_every_compression(tmp_path: Path, pack: Optional[str]) -> None:
    lists = {
        "primary": compress(primary_of(LISTED).encode(), pack),
        "filelists": compress(filelists_of(LISTED).encode(), pack),
    }
    assert len(listed_in(fill(tmp_path, lists=lists))) == 3


@pytest.mark.parametrize("size", [7, 64, 1000])
def test_pieces_of_any_size(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    whole = read_repository(str(tmp_path))
    monkeypatch.setattr("sgx_enclaves.decompress._OUTPUT_CHUNK", size)
    assert read_repository(str(tmp_path)) == whole


def test_only_the_enclave_folder_is_suspect_as_a_folder(tmp_path: Path) -> None:
    sdk = Listed("sdk.rpm", b"1", (), (ENCLAVE_FOLDER + "cat.jpg",))
    host = Listed("host.rpm", b"2", ("sgx-common",), ("/usr/lib64/libsgx_urts.so.2",))
    # Listed as a file, so a link; of a folder it would be said that it is one.
    there = Listed("link.rpm", b"3", (), (ENCLAVE_FOLDER[:-1],))
    packages = (sdk, host, there)
    found = listed_in(fill(tmp_path, packages))
    assert [p is not None and p.suspect for p in found.values()] == [True, False, True]
    text = filelists_of(packages).replace(
        f"<file>{ENCLAVE_FOLDER[:-1]}<", f'<file type="dir">{ENCLAVE_FOLDER[:-1]}<'
    )
    fill(tmp_path, packages, lists={"filelists": text.encode()})
    found = listed_in(tmp_path)
    assert [p is not None and p.suspect for p in found.values()] == [True, False, False]


def test_without_createrepo_c_nothing_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "createrepo_c", None)
    with pytest.raises(UnsupportedError, match="install python3-createrepo_c"):
        read_repository(str(fill(tmp_path)))


SHORT = gzip.compress(primary_of(LISTED).encode())[:-30]
CUT = primary_of(LISTED).encode()[:-20]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"repomd": b"\x1f\x8b\x08"}, RepodataError, "not XML"),
        ({"repomd": b""}, RepodataError, "not XML"),
        ({"repomd": b"<repomd"}, RepodataError, "createrepo_c cannot read it"),
        ({"repomd": b"<repomd/>"}, RepodataError, "have no primary"),
        ({"lists": {"filelists": None}}, RepodataError, "have no filelists"),
        ({"records": {'href="repodata/p': 'href="../p'}}, RepodataError, "primary is malformed"),
        ({"records": {'href="repodata/p': 'href="/p'}}, RepodataError, "primary is malformed"),
        ({"records": {'"sha256"': '"made-up"'}}, RepodataError, "is malformed|cannot read"),
        ({"records": {'href="repodata/p': 'href="repodata/q'}}, InputError, "cannot be read"),
        ({"lists": {"primary": SHORT}}, ArchiveError, "ends too early"),
        ({"lists": {"primary": gzip.compress(CUT)}}, RepodataError, "ends too early"),
        ({"lists": {"primary": b"BZh9"}}, UnsupportedError, "unknown compression"),
        ({"lists": {"primary": b""}}, RepodataError, "not a list of packages"),
        ({"lists": {"primary": b"<html></html>"}}, RepodataError, "not a list of packages"),
        (
            {"lists": {"primary": b"<metadata><package>\xff</package></metadata>"}},
            RepodataError,
            "cannot read it",
        ),
        (
            {"lists": {"primary": b"<metadata><package></x></package></metadata>"}},
            RepodataError,
            "cannot read it",
        ),
        (
            {"lists": {"filelists": b"<filelists><package>sgx</x></package></filelists>"}},
            RepodataError,
            "cannot read it",
        ),
    ],
)
def test_repodata_that_are_broken(
    tmp_path: Path, changes: dict[str, Any], error: type[SgxEnclavesError], message: str
) -> None:
    refuses(fill(tmp_path, **changes), error, message)


@pytest.mark.parametrize("mib", [2, 33])
def test_megabytes_of_no_list_are_broken_too(tmp_path: Path, mib: int) -> None:
    """Made here: as a parameter it would stay in memory, which every fork pays for."""
    lists = {"primary": b"<" * (mib << 20)}
    refuses(fill(tmp_path, lists=lists), RepodataError, "not a list of packages")


def test_a_megabyte_of_an_index_is_too_large(tmp_path: Path) -> None:
    refuses(fill(tmp_path, repomd=b"<x" + b" " * (1 << 20)), LimitError, "too large")


def refuses(tree: Path, error: type[SgxEnclavesError], message: str) -> None:
    with pytest.raises(error, match=message):
        read_repository(str(tree))
    # A scan reads the headers instead, of every package.
    found = survey(str(tree))
    assert (len(found.targets), found.passed, len(found.problems)) == (3, 0, 1)
    assert not any(found.targets.values())


def test_a_list_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    tree = fill(tmp_path)
    path = tree / "repodata" / "primary.xml.gz"
    path.unlink()
    os.mkfifo(path)
    refuses(tree, InputError, "no regular file")


def test_what_is_wrong_is_said_in_a_line_that_steers_no_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    evil = b"<metadata><package>\x1b[2J" + b"a\n" * 1000 + b"</x></package></metadata>"
    with pytest.raises(RepodataError) as caught:
        repository_in(str(fill(tmp_path, lists={"primary": evil})))
    assert capfd.readouterr() == ("", "")
    assert str(caught.value).isprintable()
    assert len(caught.value.message) < 250


def test_a_list_with_another_digest_is_not_believed(tmp_path: Path) -> None:
    tree = fill(tmp_path)
    for kind in ("primary", "filelists"):
        fill(tree)
        path = tree / "repodata" / f"{kind}.xml.gz"
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))
        with pytest.raises(RepodataError, match=r"digest is not the one in repomd\.xml"):
            read_repository(str(tree))


def test_bombs_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of a few KiB that unpacks to gigabytes, within a package or between them."""
    start = time.process_time()
    zeros = gzip.compress(bytes(64 << 20), 1)
    many = zeros * 64
    head = b"<metadata><package><name>"
    monkeypatch.setattr(repodata, "_ELEMENT", 8 << 20)
    for data in (gzip.compress(head) + many, gzip.compress(b"<metadata>") + many, many):
        tree = fill(tmp_path, lists={"primary": data})
        with pytest.raises(SgxEnclavesError):
            read_repository(str(tree))
    monkeypatch.setattr(repodata, "_MOST_LISTED", 2)
    with pytest.raises(LimitError, match="too many packages"):
        read_repository(str(fill(tmp_path)))
    monkeypatch.setattr(repodata, "_ARCHIVE", ArchiveLimits(total_size=1000))
    with pytest.raises(LimitError, match="unpacks to more than it may"):
        read_repository(str(fill(tmp_path)))
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    ("href", "expected"),
    [
        ("a.rpm", "a.rpm"),
        ("Packages/a/a.rpm", "Packages/a/a.rpm"),
        ("./x//a.rpm", "x/a.rpm"),
        ("x/../a.rpm", "a.rpm"),
        ("../a.rpm", None),
        ("x/../../a.rpm", None),
        ("/etc/passwd", None),
        ("http://x/a.rpm", None),
        ("a\0.rpm", None),
        ("", None),
        (None, None),
    ],
)
def test_locations_stay_below_the_repository(href: Optional[str], expected: Optional[str]) -> None:
    assert plain_path(href) == expected


def test_locations_elsewhere_describe_nothing(tmp_path: Path) -> None:
    tree = fill(tmp_path / "tree", LISTED[:1])
    (tmp_path / "evil.rpm").write_bytes(SIGNED)
    packages = [
        Listed("../evil.rpm", SIGNED, ("sgx-enclave(pce:signed)",)),
        Listed("plain.rpm", PLAIN, base="http://elsewhere/"),
    ]
    write_repodata(tree, packages)
    assert listed_in(tree) == {}
    assert survey(str(tree)).targets == {str(tree / "plain.rpm"): None}


def test_contradictions_describe_nothing(tmp_path: Path) -> None:
    twice = (LISTED[0], Listed("plain.rpm", SIGNED))
    tree = fill(tmp_path, LISTED[:1])
    write_repodata(tree, twice)
    assert listed_in(tree) == {"plain.rpm": None}
    write_repodata(tree, [LISTED[0], LISTED[0]])
    assert listed_in(tree) == {"plain.rpm": listing(LISTED[0], False)}
    odd = Listed("plain.rpm", PLAIN, algorithm="sha256")
    write_repodata(tree, [odd])
    path = tree / "repodata" / "primary.xml.gz"
    text = gzip.decompress(path.read_bytes()).replace(b'type="sha256"', b'type="rot13"')
    write_repodata(tree, [odd], lists={"primary": gzip.compress(text)})
    assert listed_in(tree) == {"plain.rpm": None}


def test_what_is_passed_by_and_what_is_looked_at(tmp_path: Path) -> None:
    tree = fill(tmp_path / "tree")
    (tree / "unlisted.rpm").write_bytes(PLAIN)
    found = survey(str(tree))
    names = {os.path.relpath(path, tree): bool(known) for path, known in found.targets.items()}
    assert names == {"sub/signed.rpm": True, "quiet.rpm": True, "unlisted.rpm": False}
    assert (found.passed, found.absent, found.problems) == (1, 0, ())
    # Another size than listed: the header must say what it is.
    (tree / "plain.rpm").write_bytes(PLAIN + b"x")
    assert survey(str(tree)).targets[str(tree / "plain.rpm")] is None
    (tree / "plain.rpm").unlink()
    assert survey(str(tree)).absent == 1
    assert len(survey(str(tree), repodata=False).targets) == 3
    (tree / "plain.rpm").symlink_to("nowhere")
    assert str(tree / "plain.rpm") in survey(str(tree)).targets


def test_repositories_in_a_tree(tmp_path: Path) -> None:
    fill(tmp_path / "one")
    fill(tmp_path / "two", LISTED[:1])
    (tmp_path / "loose.rpm").write_bytes(PLAIN)
    found = survey(str(tmp_path))
    assert (len(found.targets), found.passed, len(found.stamps)) == (3, 2, 2)
    # Two repositories that contradict each other about one file.
    inner = tmp_path / "one" / "sub"
    write_repodata(inner, [Listed("signed.rpm", PLAIN)])
    assert survey(str(tmp_path)).targets[str(inner / "signed.rpm")] is None


def run(*arguments: str) -> int:
    return main(["scan", *arguments, *SIGNER, "--jobs", "1"])


@pytest.fixture(name="reference")
def _reference(tmp_path: Path) -> str:
    where = tmp_path / "reference"
    where.mkdir()
    (where / "libsgx_pce.so").write_bytes(CASE.built)
    (where / "pce.config.xml").write_bytes(CASE.config)
    return str(where)


def report_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return parsed


def test_a_scan_of_a_repository(
    tmp_path: Path, reference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = fill(tmp_path / "tree")
    assert run(str(tree), "--reference", reference, "--json") == 0
    report = report_of(capsys)
    assert (report["scanned"], report["by_repodata_alone"]) == (3, 1)
    assert [p["outcome"] for p in report["packages"]] == ["identical", "identical"]
    assert run(str(tree), "--reference", reference) == 0
    out = capsys.readouterr().out
    assert out.endswith(
        "3 packages (1 by repodata alone), 2 with enclaves, 0 with something "
        "wrong; enclaves: 2 identical\n"
    )
    for option in ("--headers", "--deep"):
        assert run(str(tree), "--reference", reference, "--json", option) == 0
        other = report_of(capsys)
        assert (other["scanned"], other["by_repodata_alone"]) == (3, 0)
        assert other["packages"] == report["packages"]


def test_lies_of_repodata(
    tmp_path: Path, reference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = fill(tmp_path / "tree")
    arguments = (str(tree), "--reference", reference, "--json")
    # An enclave that repodata keep quiet about is what their word is worth: --headers finds it.
    write_repodata(tree, [Listed(p.href, p.data) for p in LISTED])
    assert run(*arguments) == 0
    assert report_of(capsys)["packages"] == []
    assert run(*arguments, "--headers") == 0
    assert len(report_of(capsys)["packages"]) == 2
    # An enclave that is not in the package; one in another package than described.
    promised = Listed("plain.rpm", PLAIN, ("sgx-enclave(pce:signed)",))
    swapped = Listed("sub/signed.rpm", SIGNED, ("sgx-enclave(pce:signed)",), digest="0" * 64)
    write_repodata(tree, [promised, swapped])
    assert run(*arguments) == 2
    unlisted, signed = report_of(capsys)["packages"]
    assert unlisted["outcome"] == "identical"
    assert [f["code"] for f in signed["findings"]] == ["repodata-differs"]
    assert signed["enclaves"][0]["outcome"] == "identical"


def test_a_promised_enclave_that_is_not_there(
    tmp_path: Path, reference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = fill(tmp_path / "tree")
    (tree / "quiet.rpm").unlink()
    assert run(str(tree), "--reference", reference) == 2
    out = capsys.readouterr().out
    assert f"{tree}/quiet.rpm: UNVERIFIABLE\n  cannot be read: No such file" in out


def test_broken_repodata_are_reported_and_passed_over(
    tmp_path: Path, reference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = fill(tmp_path / "tree", repomd=b"<repomd/>")
    assert run(str(tree), "--reference", reference, "--json") == 0
    out, err = capsys.readouterr()
    assert "have no primary here" in err
    assert "headers are read instead" in err
    report = json.loads(out)
    assert report["by_repodata_alone"] == 0
    assert report["repodata_problems"][0]["kind"] == "RepodataError"
    assert len(report["packages"]) == 2


def test_a_parser_that_crashes_does_not_end_the_scan(tmp_path: Path, reference: str) -> None:
    """createrepo_c is C code, and repodata are anybody's."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "createrepo_c.py").write_text("import os\nos.abort()\n")
    tree = fill(tmp_path / "tree")
    argv = [sys.executable, "-m", "sgx_enclaves", "scan", str(tree), "--jobs", "2", "--json"]
    argv += ["--reference", reference, *SIGNER]
    paths = [str(tmp_path / "modules"), str(Path(__file__).resolve().parents[3])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(argv, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0
    assert "repodata cannot be read" in done.stderr
    assert "headers are read instead" in done.stderr
    report = json.loads(done.stdout)
    assert (report["by_repodata_alone"], len(report["packages"])) == (0, 2)


def test_new_repodata_start_a_state_again(
    tmp_path: Path, reference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = fill(tmp_path / "tree")
    arguments = (str(tree), "--reference", reference, "--state", str(tmp_path / "state"))
    assert run(*arguments) == 0
    swapped = Listed("sub/signed.rpm", SIGNED, ("sgx-enclave(pce:signed)",), digest="0" * 64)
    write_repodata(tree, [LISTED[0], swapped, LISTED[2]])
    assert run(*arguments) == 2
    assert "not the one that the repodata describe" in capsys.readouterr().out


def test_what_is_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", "https://example.org/repo"]) == 2
    assert "dnf reposync" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["gz", "xz", "zstd", "bz2"])
def test_repodata_that_createrepo_c_made(tmp_path: Path, kind: str) -> None:
    """The real tool on our packages: each is described as it is."""
    tree = tmp_path / "tree"
    fill(tree)
    shutil.rmtree(tree / "repodata")
    beside = str(Path(sys.executable).with_name("createrepo_c"))
    tool = beside if os.path.exists(beside) else shutil.which("createrepo_c")
    if tool is None:
        pytest.skip("the program createrepo_c is not installed")
    argv = [tool, "--quiet", "--no-database", f"--general-compress-type={kind}", str(tree)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this createrepo_c cannot write {kind}: {done.stderr.strip()}")
    if kind == "bz2":
        with pytest.raises(UnsupportedError, match="general-compress-type=gz"):
            read_repository(str(tree))
        return
    found = listed_in(tree)
    assert found == {
        "plain.rpm": listing(LISTED[0], False),
        "sub/signed.rpm": listing(LISTED[1], True),
        "quiet.rpm": listing(LISTED[2], True),
    }


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_damage_never_escapes_the_error_tree(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    lists: dict[str, Optional[bytes]] = {}
    for kind, make in (("primary", primary_of), ("filelists", filelists_of)):
        data = bytearray(make(LISTED).encode())
        for _ in range(chance.randint(0, 3)):
            at = chance.randrange(len(data))
            data[at : at + chance.randint(0, 9)] = chance.choice(
                (b"<", b">", b"/", b'"', b"</package>", b"\0", b"\xff", b"&", b"")
            )
        packed = lzma.compress(bytes(data), preset=0) if chance.random() < 0.2 else bytes(data)
        lists[kind] = packed
    tree = fill(tmp_path / "tree", lists=lists)
    try:
        read_repository(str(tree))
    except SgxEnclavesError as error:
        assert str(error)


def test_repodata_that_change_while_they_are_read_are_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = fill(tmp_path)
    original = repodata._packages

    def changing(*given: Any) -> Any:
        found = original(*given)
        # The lists that were read are still there, as mirrors keep them.
        with (tree / repodata.REPOMD).open("a", encoding="utf-8") as repomd:
            repomd.write("<!-- of today -->")
        return found

    monkeypatch.setattr(repodata, "_packages", changing)
    with pytest.raises(RepodataError, match="have changed while they were read"):
        read_repository(str(tree))


def test_a_child_reads_the_same(tmp_path: Path) -> None:
    tree = str(fill(tmp_path))
    assert repository_in(tree) == read_repository(tree)
    fill(tmp_path, repomd=b"<repomd/>")
    with pytest.raises(RepodataError, match="no primary here"):
        repository_in(tree)
