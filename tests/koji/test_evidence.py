# SPDX-License-Identifier: GPL-2.0-or-later
"""What a verification leaves for strangers: its report, signed statements, a record as statements.

They have the hub's files, the packages and a public key, and the plain command.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import koji
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from demo.release import ENCLAVE_LIST
from tests.koji.harness import world
from tests.koji.stage import Stage

ATTESTATION, REPORT = "sgx-enclaves-attestation.jsonl", "sgx-enclaves-report.json"
BUILDER = "https://koji.example.org"
ENCLAVES = [enclave.name for enclave in ENCLAVE_LIST]


@pytest.fixture(scope="module")
def stage(dark_stage: Stage) -> Iterator[Stage]:
    with dark_stage.lit() as stage:
        yield stage


@pytest.fixture(scope="module")
def folder(stage: Stage, another: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a stranger has: two keys, and from the hub the reports, statements and packages of a
    build that was verified by a builder with a key, and its record as statements."""
    made = tmp_path_factory.mktemp("evidence")
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for name, key in (("koji", private), ("other", Ed25519PrivateKey.generate())):
        public = key.public_key()
        form = PublicFormat.SubjectPublicKeyInfo
        (made / f"{name}.pub").write_bytes(public.public_bytes(Encoding.PEM, form))
    (made / "koji.pem").write_bytes(pem)
    builder = stage.site.builder
    before = (stage.site.layout.etc / "kojid/plugins/sgx_enclaves.conf").read_text()
    attest = f"[attest]\nkey = {made}/koji.pem\nbuilder = {BUILDER}\n"
    builder.plugin_conf("sgx_enclaves.conf", f"{before}{attest}")
    stage.site.wait_builder(builder)
    try:
        done = stage.verify(another["nvr"])
    finally:
        builder.plugin_conf("sgx_enclaves.conf", before)
        stage.site.wait_builder(builder)
    assert done.status == 0, done.text
    task = stage.admin.getSgxVerification(another["id"])["task_id"]
    (child,) = stage.admin.getTaskChildren(task)
    for name, number in (("parent", task), ("child", child["id"])):
        (made / name).mkdir()
        for file in (ATTESTATION, REPORT, "head.json", *["manifest.json"][name == "parent" :]):
            (made / name / file).write_bytes(stage.admin.downloadTaskOutput(number, file))
    topdir = koji.PathInfo(topdir=str(stage.site.layout.topdir))
    for rpm in stage.admin.listRPMs(buildID=another["id"]):
        path = Path(topdir.build(another), topdir.rpm(rpm))
        (made / path.name).write_bytes(path.read_bytes())
    done = stage.site.cli(world.PLAIN, "sgx-enclaves", "export", another["nvr"])
    assert done.status == 0, done.text
    (made / "exported").write_text(done.out)
    return made


def sgx_enclaves(folder: Path, *arguments: str, status: int = 0) -> Any:
    """The plain command's JSON."""
    command = [sys.executable, "-m", "sgx_enclaves", *arguments, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)


def packages(folder: Path) -> list[str]:
    """The packages with an enclave."""
    return sorted(path.name for path in folder.glob("*.x86_64.rpm"))


@pytest.mark.parametrize("task", ["parent", "child"])
def test_a_report_names_packages_in_full_and_is_gone_through_again(folder: Path, task: str) -> None:
    report = json.loads((folder / task / REPORT).read_bytes())
    named = {package["file"] for package in report["packages"]}
    assert named >= set(packages(folder))
    assert len(packages(folder)) == len(ENCLAVES)
    digests = ("sha256", "header_sha256", "payload_sha256")
    for package in report["packages"]:
        assert f"{package['nevra']}.rpm" == package["file"]
        assert {len(package[name]) for name in digests} == {64}
    signed = [word for name in packages(folder) for word in ("--signed", name)]
    found = sgx_enclaves(folder, "recheck", f"{task}/{REPORT}", *signed)["statements"]
    assert "does not hold" not in {item["state"] for item in found}
    held = [item["statement"] for item in found if item["state"] == "holds"]
    for words in ("its payload's SHA-256 is", "the unsigned enclave has SHA-256"):
        assert sum(line.startswith(words) for line in held) >= len(ENCLAVES)


@pytest.mark.parametrize("task", ["parent", "child"])
def test_statements_that_a_task_signed(folder: Path, task: str) -> None:
    words = ["verify-attestation", f"{task}/{ATTESTATION}"]
    files = [word for name in packages(folder) for word in ("--file", name)]
    found = sgx_enclaves(folder, *words, "--key", "koji.pub", *files)
    kinds = [item["kind"] for item in found["statements"]]
    assert kinds == ["provenance", "equivalence", "result"]
    provenance = found["statements"][0]["statement"]["predicate"]
    assert provenance["runDetails"]["builder"]["id"] == BUILDER
    parameters = provenance["buildDefinition"]["externalParameters"]
    assert parameters["build_tag"] == world.BUILD_TAG
    assert set(found["unsigned"]) == set(ENCLAVES)
    assert {item["vouched_for"] for item in found["files"]} == {True}
    error = sgx_enclaves(folder, *words, "--key", "other.pub", status=2)["error"]
    assert "no signature is by one of the keys" in error["message"]


@pytest.mark.parametrize("task", ["parent", "child"])
def test_a_report_of_a_task_is_whole_and_signed_by_somebody_else(folder: Path, task: str) -> None:
    report = json.loads((folder / task / REPORT).read_bytes())
    for part in ("sources", "toolchain", "steps", "proved", "not_proved"):
        assert report[part], part
    assert all(enclave["byte_map"] and enclave["policy"] for enclave in report["enclaves"])
    attest = ["attest", f"{task}/{REPORT}", "--key", "koji.pem", "-o", f"by-{task}"]
    assert sgx_enclaves(folder, *attest)["statements"] == 3


def test_a_record_is_exported_signed_and_verified(folder: Path) -> None:
    attest = ["attest", "exported", "--key", "koji.pem", "-o", "attested"]
    assert sgx_enclaves(folder, *attest)["statements"] == 3
    words = ["verify-attestation", "attested", f"parent/{ATTESTATION}", "--key", "koji.pub"]
    found = sgx_enclaves(folder, *words)
    assert len(found["statements"]) == 6
    assert set(found["unsigned"]) == set(ENCLAVES)
    assert (
        "too few signers"
        in sgx_enclaves(folder, *words, "--threshold", "2", status=2)["error"]["message"]
    )


def test_what_was_never_verified_is_not_exported(stage: Stage, reproducible: Any) -> None:
    done = stage.site.cli(world.PLAIN, "sgx-enclaves", "export", reproducible["nvr"], "--json")
    assert done.status == 2
    found = json.loads(done.out)
    assert (found["schema_version"], found["exit_status"]) == (1, 2)
    assert "was never verified" in found["error"]["message"]
