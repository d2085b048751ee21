# SPDX-License-Identifier: GPL-2.0-or-later
"""Going through a report again: each statement holds, does not hold, or cannot be seen."""

from __future__ import annotations

import hashlib
import html
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import pytest

from sgx_enclaves.catalogue.reader import OWN_FOLDER
from sgx_enclaves.enclave.policy import Policy
from sgx_enclaves.evidence.report import proved_by, read_report
from sgx_enclaves.files import sha256_of
from sgx_enclaves.plain import from_plain
from tests.support.keys import mrsigner, vendor_key
from tests.support.signed import Case, fips_enclave
from tests.unit.conftest import Run
from tests.unit.evidence.conftest import as_built_here, edited

REPORT = "report/report.json"
LIMITED = f"ulimit -v {1 << 20}; exec {sys.executable} -m sgx_enclaves"


def states(out: str) -> dict[str, list[str]]:
    """The statements of a JSON answer, by their state."""
    found: dict[str, list[str]] = {"holds": [], "does not hold": [], "cannot be seen here": []}
    for item in json.loads(out)["statements"]:
        found[item["state"]].append(item["statement"])
    return found


def test_the_signed_file_alone(folder: Path, run: Run, case: Case) -> None:
    status, out, err = run("recheck", REPORT, "--signed", "s.so", "--json")
    assert (status, err) == (0, "")
    found = states(out)
    unsigned = hashlib.sha256(case.built).hexdigest()
    assert f"the unsigned enclave has SHA-256 {unsigned}" in found["holds"]
    measured = case.regenerated.mrenclave.hex()
    assert f"MRENCLAVE, measured as its metadata say, is {measured}" in found["holds"]
    for words in (
        "payload: proved",
        "signature: proved",
        "policy: proved (enclave: not named, signer",
    ):
        assert any(s.startswith(words) for s in found["holds"])
    assert found["does not hold"] == []
    assert found["cannot be seen here"] == [
        "metadata, measurement, byte map and verdict are as said"
    ]


def test_with_its_config_everything_is_seen(folder: Path, run: Run) -> None:
    status, out, _ = run("recheck", REPORT, "--signed", "s.so", "--config", "c.xml", "--json")
    found = states(out)
    assert status == 0
    assert "the verdict is identical" in found["holds"]
    assert "byte map, compared again" in found["holds"]
    assert found["cannot be seen here"] == found["does not hold"] == []


def test_without_a_file_nothing_is_seen(folder: Path, run: Run) -> None:
    status, out, _ = run("recheck", REPORT, "--json")
    assert status == 2
    assert states(out)["holds"] == []


def test_another_file_is_not_the_report_s(folder: Path, run: Run, case: Case) -> None:
    (folder / "s.so").write_bytes(case.signed + b"\0")
    status, out, _ = run("recheck", REPORT, "--signed", "s.so")
    assert status == 1
    assert "does not hold: this file is the report's (the report names no file" in out
    assert "cannot be seen here: its signed file has SHA-256" in out


def test_what_a_build_needs_is_said(folder: Path, run: Run) -> None:
    report = edited(folder, as_built_here, "built")
    status, out, _ = run("recheck", report, "--signed", "s.so")
    assert status == 0
    assert "needs a build of your own: sgx-enclaves verify-release demo" in out
    assert "needs that description (catalogue): name it with --catalogue" in out


def _set(*path: Any, to: object) -> Callable[[dict[str, Any]], object]:
    def change(report: dict[str, Any]) -> None:
        place: Any = report["enclaves"][0]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return change


def _another_measurement(report: dict[str, Any]) -> None:
    (enclave,) = report["enclaves"]
    for place in (enclave, *enclave["blocks"]):
        place["mrenclave"] = "5" * 64


def _another_version(report: dict[str, Any]) -> None:
    (enclave,) = report["enclaves"]
    for place in (enclave, *enclave["blocks"]):
        place["isvsvn"] = 99


def _first_range_longer(report: dict[str, Any]) -> None:
    first, second = report["enclaves"][0]["byte_map"][:2]
    first["end"] = second["start"] = first["end"] + 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_set("built", "sha256", to="4" * 64), "the unsigned enclave has SHA-256 4444"),
        (_set("signed", "size", to=None), ""),
        (_another_measurement, "MRENCLAVE, measured as its metadata say, is 5555"),
        (_another_version, "its blocks say what the report says of them"),
        (_set("blocks", 0, "date", to="2031-01-01"), "its blocks say what the report says"),
        (
            _set("policy", "signers", to=["6" * 64]),
            "policy: proved (enclave: not named, signer 6666",
        ),
        (_set("policy", "isvprodid", to=77), "policy: proved (enclave: not named, signer"),
        (_set("policy", "min_isvsvn", to=5000), "policy: proved (enclave: not named, signer"),
        (_set("sdk", to="1.5"), "sdk is 1.5"),
        (_first_range_longer, "byte map, compared again"),
        (_set("headline", to="s is signed by Intel"), "headline, compared again"),
        (_set("not_proved", to=[]), "not proved, compared again"),
        (_set("built", "size", to=1), "built, compared again"),
        (_set("config", "size", to=1), "config, compared again"),
        (_set("blocks", 0, "signer", to="Intel"), "blocks, compared again"),
        (_set("blocks", 0, "version", to="9.9"), "blocks, compared again"),
        (_set("policy", "signers_from", to="default"), "checks, compared again"),
        (_set("policy", "signers_from", to="catalogue"), "the signer of the policy is the cat"),
    ],
)
def test_a_lie_does_not_hold(
    folder: Path, run: Run, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    if not says:
        # A size that nobody wrote down is no lie.
        with_map = edited(
            folder, lambda r: (change(r), r["enclaves"][0]["byte_map"].clear()), "lie"
        )
        status, out, _ = run("recheck", with_map, "--signed", "s.so")
        assert status == 0
        return
    report = edited(folder, change, "lie")
    status, out, _ = run("recheck", report, "--signed", "s.so", "--config", "c.xml")
    assert status == 1
    assert f"does not hold: {says}" in out


def test_who_signed_is_no_defect_of_a_signature(folder: Path, run: Run, case: Case) -> None:
    of_another = ("--signer", "6" * 64, "--report", "other")
    assert run("compare", "b.so", "s.so", "--config", "c.xml", *of_another)[0] == 1
    report = json.loads((folder / "other/report.json").read_text())
    (signature,) = (c for c in report["enclaves"][0]["checks"] if c["name"] == "signature")
    signature["state"] = "refuted"
    report["proved"] = proved_by(report["enclaves"])
    (folder / "lie.json").write_text(json.dumps(report))
    status, out, _ = run("recheck", "lie.json", "--signed", "s.so")
    assert status == 1
    count = len(case.regenerated.blocks)
    assert f"does not hold: signature: refuted ({count} valid signatures)" in out


def test_a_note_left_out_is_missed(folder: Path, run: Run) -> None:
    case = fips_enclave()
    for name, data in {"b.so": case.built, "s.so": case.signed, "c.xml": case.config}.items():
        (folder / name).write_bytes(data)
    signer = ("--signer", mrsigner(vendor_key()), "--report", "report2")
    assert run("compare", "b.so", "s.so", "--config", "c.xml", *signer)[0] == 0
    (folder / "report2").rename(folder / "report3")
    files = ("--signed", "s.so", "--config", "c.xml")
    assert run("recheck", "report3", *files)[0] == 0
    report = json.loads((folder / "report3/report.json").read_text())
    report["enclaves"][0]["findings"] = []
    (folder / "lie.json").write_text(json.dumps(report))
    status, out, _ = run("recheck", "lie.json", *files)
    assert status == 1
    assert "(it leaves out second-signature)" in out


def _pinned_by_catalogue(report: dict[str, Any], enclave: Optional[str]) -> None:
    """Mallory's report: whoever has signed is said to be the catalogue's signer."""
    (own,) = report["enclaves"]
    policy = own["policy"]
    policy["signers_from"] = "catalogue"
    for block in own["blocks"]:
        block["signer"] = "named by catalogue"
    if enclave:
        own["name"] = policy["enclave"] = enclave
        policy["enclave_from"] = "option"
    claim = from_plain(Policy, policy).claim
    own["checks"][-1]["claim"] = claim
    report["proved"] = [f"{own['name']}: {check['claim']}" for check in own["checks"]]


_CATALOGUES_SIGNER = "the signer of the policy is the catalogue's"


@pytest.mark.parametrize(
    ("enclave", "release", "states"),
    [
        (None, None, (1, "does not hold")),
        ("pce", None, (1, "does not hold")),
        ("mine", None, (0, "cannot be seen here")),
        ("pce", "unknown", (0, "cannot be seen here")),
        ("pce", "known", (1, "does not hold")),
        ("mine", "known", (1, "does not hold")),
        ("pce", "own", (0, "holds")),
    ],
)
def test_what_a_report_says_of_the_catalogue_is_looked_up(
    folder: Path, run: Run, enclave: Optional[str], release: Optional[str], states: tuple[int, str]
) -> None:
    path = next(OWN_FOLDER.glob("sgx-2.25-*.toml"))
    if release == "own":
        text = re.sub(
            '^signer = "[^"]*"',
            f'signer = "{mrsigner(vendor_key())}"',
            path.read_text(),
            flags=re.M,
        )
        text = text.replace(path.stem, "own")
        path = folder / "more/own.toml"
        path.parent.mkdir()
        path.write_text(text)

    def lie(report: dict[str, Any]) -> None:
        _pinned_by_catalogue(report, enclave)
        if release:
            digest = "1" * 64 if release == "unknown" else sha256_of(path.read_bytes())
            report["release"] = {"name": path.stem, "sha256": digest, "origin": "catalogue"}

    lied = edited(folder, lie, "lie")
    options = ("--catalogue", str(path.parent)) if release == "own" else ()
    files = ("--signed", "s.so", "--config", "c.xml", *options)
    status, out, err = run("recheck", lied, *files)
    assert err == ""
    assert f"  {states[1]}: {_CATALOGUES_SIGNER}" in out
    assert (status, out.count("does not hold: ")) == (states[0], states[0])


def test_a_directory_stands_for_its_report(folder: Path, run: Run) -> None:
    assert run("recheck", "report", "--signed", "s.so")[0] == 0
    assert run("attest", "report", "--key", "p256.pem", "-o", "a.jsonl")[0] == 0


def test_enclaves_that_a_report_leaves_out_are_named(folder: Path, run: Run) -> None:
    path = next(OWN_FOLDER.glob("sgx-2.25-*.toml"))

    def change(report: dict[str, Any]) -> None:
        as_built_here(report)
        digest = sha256_of(path.read_bytes())
        report["release"] = {"name": path.stem, "sha256": digest, "origin": "catalogue"}

    status, out, _ = run("recheck", edited(folder, change, "built"), "--signed", "s.so")
    assert status == 0
    assert "cannot be seen here: the report speaks of all its enclaves (not of pce, " in out


def test_a_file_that_differs(folder: Path, run: Run, case: Case) -> None:
    changed = bytearray(case.signed)
    # The padding of e_ident, which no parser looks at.
    changed[15] ^= 1
    (folder / "d.so").write_bytes(changed)
    signer = ("--signer", mrsigner(vendor_key()), "--report", "differs")
    assert run("compare", "b.so", "d.so", "--config", "c.xml", *signer)[0] == 1
    assert read_report((folder / "differs/report.json").read_bytes(), "")["verdict"] == "differs"
    status, out, _ = run("recheck", "differs/report.json", "--signed", "d.so")
    assert status == 0
    assert "holds: payload: refuted" in out
    assert "needs --built" in out
    every = ("--signed", "d.so", "--built", "b.so", "--config", "c.xml", "--json")
    status, out, _ = run("recheck", "differs/report.json", *every)
    found = states(out)
    assert status == 0
    assert "the verdict is differs" in found["holds"]
    assert found["cannot be seen here"] == []


@pytest.mark.parametrize("verdict", ["identical", "differs"])
def test_what_a_build_system_says_in_short(folder: Path, run: Run, verdict: str) -> None:
    """Its report has no comparison; digests, signer and MRENCLAVE are seen all the same."""

    def short(report: dict[str, Any]) -> None:
        (enclave,) = report["enclaves"]
        report["kind"], report["verdict"], enclave["verdict"] = "koji", verdict, verdict
        for name in ("checks", "blocks", "byte_map", "not_proved"):
            enclave[name] = []
        enclave["policy"], report["proved"] = None, []
        if verdict == "differs":
            enclave["built"]["sha256"] = "8" * 64

    report = edited(folder, short, "koji")
    status, out, _ = run("recheck", report, "--signed", "s.so", "--json")
    found = states(out)
    assert (status, found["does not hold"]) == (0, [])
    assert any(s.startswith("signed by ") for s in found["holds"])
    assert any(s.startswith("MRENCLAVE") for s in found["holds"])
    unsigned = [s for s in found["holds"] if s.startswith("the unsigned enclave has")]
    assert len(unsigned) == (verdict == "identical")


def _pop(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda report: report.pop(name)


def _put(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda report: report.update({name: value})


def _built(path: tuple[Any, ...], to: object) -> Callable[[dict[str, Any]], object]:
    """A reproducible build of this run's, with one change."""

    def change(report: dict[str, Any]) -> None:
        as_built_here(report)
        place: Any = report
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return change


AGAINST: dict[str, Any] = {
    **{"code": "size-differs", "severity": "differs", "message": "m"},
    **dict.fromkeys(("block", "offset", "expected", "found", "hint")),
}
LEVEL = {"isvsvn": 1, "status": "UpToDate", "date": "2024-01-01", "advisories": []}
IDENTITY: dict[str, Any] = {
    **{"enclave": "qe3", "mrsigner": "8" * 64, "isvprodid": 1, "levels": [LEVEL]},
    **dict.fromkeys(("attributes", "attributes_mask"), "00" * 16),
    **dict.fromkeys(("miscselect", "miscselect_mask"), "00" * 4),
    **dict.fromkeys(("issued", "next_update"), "2024-01-01"),
}


def _identity(**changes: object) -> Callable[[dict[str, Any]], object]:
    return _set("policy", "identity", to={**IDENTITY, **changes})


_host_made_designated = _built(("toolchain", 0, "found"), "4.8.1")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_put("schema_version", 1), "a report of another schema"),
        (_put("schema_version", "2"), "a report of another schema"),
        (_pop("schema_version"), "a report of another schema"),
        (_pop("claim"), "claim does not fit"),
        (_put("more", 1), "does not fit"),
        (_put("verdict", "good"), "verdict does not fit"),
        (_put("enclaves", []), "enclaves does not fit (expected a required enclave, since"),
        (_put("not_proved", []), "not_proved does not fit (expected what is taken on trust"),
        (_put("proved", ["everything"]), "contradicts itself: what is proved"),
        (_set("not_proved", to=["that it rains"]), "contradicts itself: it leaves out what is not"),
        (_set("isvsvn", to=99), "contradicts itself: s: its isvsvn is 99, and"),
        (_set("mrsigner", to="6" * 64), "contradicts itself: s: its mrsigner is 6666"),
        (_set("mrenclave", to="5" * 64), "though a block was signed for another MRENCLAVE"),
        (_host_made_designated, "gcc is said to match 9.5.0, as 4.8.1"),
        (_built(("toolchain", 0, "state"), "differs"), "toolchain[0].state does not fit"),
        (_built(("verdict",), "differs"), "verdict does not fit (expected identical, since the"),
        (_built(("build",), "given"), "build does not fit (expected no build that was given"),
        (_built(("unpinned",), ["source.main"]), "unpinned does not fit (expected nothing that"),
        (_set("verdict", to="differs"), "enclaves[0].verdict does not fit (expected identical"),
        (_set("config", to=None), "enclaves[0].config does not fit (expected a file, since"),
        (_set("checks", 0, "state", to="refuted"), "checks[0].state does not fit (expected proved"),
        (_set("byte_map", 1, "origin", to="unexplained"), "byte_map[1].origin does not fit"),
        (_set("findings", to=[AGAINST]), "findings[0].severity does not fit (expected a note"),
        (_set("byte_map", 1, "start", to=1), "does not cover its signed file"),
        (_set("signed", "size", to=7), "does not cover its signed file"),
        (_set("built", "sha256", to="A" * 64), "sha256 does not fit"),
        (_set("policy", "signers_from", to="me"), "signers_from does not fit"),
        (_identity(attributes="04"), "identity.attributes does not fit (expected 32 lower-case"),
        (_identity(attributes_mask="00" * 17), "identity.attributes_mask does not fit"),
        (_identity(miscselect="00" * 5), "identity.miscselect does not fit (expected 8 lower-case"),
        (_identity(miscselect_mask="00"), "identity.miscselect_mask does not fit"),
        (_identity(levels=[]), "identity.levels does not fit (expected at least 1 items"),
        (_identity(levels=[{**LEVEL, "isvsvn": None}]), "levels[0].isvsvn does not fit"),
    ],
)
def test_a_report_that_is_none(
    folder: Path, run: Run, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    report = json.loads((folder / REPORT).read_text())
    change(report)
    (folder / "bad.json").write_text(json.dumps(report))
    for verb in (("recheck", "bad.json", "--signed", "s.so"), ("attest", "bad.json", "-o", "a")):
        status, out, err = run(*verb)
        assert (status, out) == (2, "")
        assert says in err
    assert not (folder / "a").exists()


@pytest.mark.parametrize(
    ("content", "times", "says"),
    [
        (b"", 1, "no JSON text"),
        (b"null", 1, "a report of another schema"),
        (b"[", 8 << 20, "nested too deep"),
        (b'{"a":', 2 << 20, "nested too deep"),
        (b'{"a": 1, "a": 2}', 1, "twice"),
        (b" ", (16 << 20) + 1, "too large"),
    ],
    ids=["empty", "null", "lists", "mappings", "twice", "large"],
)
def test_what_is_no_report(folder: Path, run: Run, content: bytes, times: int, says: str) -> None:
    (folder / "bad.json").write_bytes(content * times)
    status, out, err = run("recheck", "bad.json", "--signed", "s.so")
    assert (status, out) == (2, "")
    assert says in err


def limited(verb: str) -> str:
    """What is wrong, of a process with little memory and time."""
    command = ["/bin/sh", "-c", f"{LIMITED} {verb}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_a_million_mistakes_are_one(folder: Path) -> None:
    report = json.loads((folder / REPORT).read_text())
    report["enclaves"] = [0] * 1_000_000
    (folder / "bad.json").write_text(json.dumps(report))
    assert "enclaves[0] does not fit" in limited("recheck bad.json")


@pytest.mark.slow
def test_a_hundred_megabytes_of_nested_json(folder: Path) -> None:
    with (folder / "bad.json").open("wb") as file:
        for _ in range(100):
            file.write(b"[" * (1 << 20))
    for verb in ("recheck bad.json --signed s.so", "verify-attestation bad.json --key p256.pub"):
        assert "too large" in limited(verb)


def test_a_directory_that_lacks_a_file(folder: Path, run: Run) -> None:
    (folder / "report/head.json").unlink()
    status, _, err = run("attest", REPORT, "-o", "a")
    assert status == 2
    assert "head.json is missing beside the report" in err


def test_a_head_of_another_report(folder: Path, run: Run) -> None:
    report = edited(folder, lambda report: report.update(claim="another"), "other")
    (folder / "report/head.json").write_bytes((report.parent / "head.json").read_bytes())
    assert "the head of another report" in run("attest", REPORT, "-o", "a")[2]


@pytest.mark.parametrize("made_at", [None, 5, "yesterday"])
def test_a_head_that_is_none(folder: Path, run: Run, made_at: object) -> None:
    path = folder / "report/head.json"
    head = json.loads(path.read_text())
    del head["made_at"]
    path.write_text(json.dumps(head if made_at is None else {**head, "made_at": made_at}))
    status, _, err = run("attest", REPORT, "-o", "a")
    assert status == 2
    assert "made_at" in err
    assert "internal error" not in err
    assert not (folder / "a").exists()


def test_a_manifest_that_is_missing_or_another(folder: Path, run: Run) -> None:
    report = edited(folder, lambda report: report.update(manifest_sha256="7" * 64), "m")
    assert "manifest.json is missing beside the report" in run("attest", report, "-o", "a")[2]
    (folder / "m/manifest.json").write_text("{}")
    assert "not the file that the report names" in run("attest", report, "-o", "a")[2]


def test_no_sdk_no_network_no_rpm(folder: Path) -> None:
    code = (
        "import sys\n"
        "from sgx_enclaves.cli.main import main\n"
        "status = main('recheck report/report.json --signed s.so --config c.xml'.split())\n"
        "print(*({'rpm', 'socket', 'ssl', 'http.client', 'cryptography'} & set(sys.modules)),"
        " file=sys.stderr)\n"
        "sys.exit(status)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "\n")


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ([], 0),
        (["--enclave", "qe3"], 1),
        (["--isvprodid", "3", "--min-isvsvn", "9"], 1),
        (["--any-product", "--allow-debug", "--sdk", "2.17"], 0),
    ],
)
def test_the_page_s_command_gives_the_same_report(
    folder: Path, run: Run, options: list[str], status: int
) -> None:
    (folder / "s o.so").write_bytes((folder / "s.so").read_bytes())
    signer = ("--signer", mrsigner(vendor_key()))
    first = ("compare", "b.so", "s o.so", "--config", "c.xml", *signer, *options)
    assert run(*first, "--report", "first")[0] == status
    page = html.unescape((folder / "first/verdict.html").read_text())
    found = re.search("To check again: <code>sgx-enclaves (.*?)</code>", page)
    assert found is not None
    assert run(*shlex.split(found[1]), "--report", "second")[0] == status
    reports = [(folder / name / "report.json").read_bytes() for name in ("first", "second")]
    assert reports[0] == reports[1]


@pytest.mark.parametrize(("data", "status"), [(None, 0), (b"junk", 1)])
def test_equal_runs_give_equal_bytes(
    folder: Path, run: Run, data: Optional[bytes], status: int
) -> None:
    """Wherever the files are, and whatever is said of them."""
    if data is not None:
        (folder / "s.so").write_bytes(data)
    signer = ("--signer", mrsigner(vendor_key()))
    made = []
    for place in ("here", "else/where"):
        (folder / place).mkdir(parents=True)
        for name in ("b.so", "s.so", "c.xml"):
            (folder / place / name).write_bytes((folder / name).read_bytes())
        files = (f"{place}/b.so", f"{place}/s.so", "--config", f"{place}/c.xml")
        assert run("compare", *files, *signer, "--report", f"{place}/report")[0] == status
        made.append((folder / place / REPORT).read_bytes())
    assert made[0] == made[1]
    assert b"here/" not in made[0]
