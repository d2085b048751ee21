# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole release: fetched from the vendor's server, built, compared; then one thing
after the other is tampered with, and each is refused by the stage that must see it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from demo import vendor
from demo.command import Result, sgx_enclaves, title
from demo.release import (
    CHECKSUMS_FILE,
    ENCLAVE_LIST,
    ENCLAVES,
    SIGNED_FILE,
    SOURCE_FILE,
    Description,
    Tool,
    checksums,
    release_toml,
    sha256,
    signed_archive,
    source_archive,
)
from demo.server import DownloadServer, download_server
from sgx_enclaves.release.sandbox import Isolation, best_isolation

# What the test enclaves' makefile calls.
TOOLS = ("gcc", "binutils", "gnumake")
# The one that Intel's releases designate; nobody's machine has it by accident.
OTHER_GCC = "9.5.0"


@dataclass(frozen=True)
class Case:
    """One run of `verify-release`, and what must come of it.

    Attributes:
        story: what was done to the release.
        refused_by: the stage that refuses it; empty for none.
        checks: the claims that the comparison refuses, of any enclave.
        own_cache: start with nothing fetched.
    """

    story: str
    description: Description
    status: int
    refused_by: str = ""
    checks: tuple[str, ...] = ()
    reproducible: bool = False
    arguments: tuple[str, ...] = ()
    own_cache: bool = False


def run(folder: Path, built: Path, key: RSAPrivateKey, mallory: RSAPrivateKey) -> list[Result]:
    """Show it in a folder, which is emptied first, on the vendor's own build."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "tls").mkdir(parents=True)
    results = []
    with download_server(folder / "tls") as server:
        signed = vendor.sign_all(built, key)
        honest = honest_release(server, signed, vendor.mrsigner(key))
        honest = _toolchain(folder / "toolchain-record", honest)
        cases = make_cases(server, honest, built, signed, (key, mallory))
        for name, case in as_far_as_possible(cases).items():
            write_catalogue(folder / name, case.description)
            results.append(show(folder, name, case, server.ca_file))
    return results


def as_far_as_possible(cases: Mapping[str, Case]) -> Mapping[str, Case]:
    """The cases as they must come out on this machine, which may not be able to isolate builds."""
    isolation, reason = best_isolation()
    if isolation is not Isolation.NONE:
        return cases
    title("builds cannot be isolated here")
    print(f"{reason}\nThey run with --allow-no-isolation, so no verdict is the reproducible one.")
    return {
        name: replace(case, reproducible=False, arguments=(*case.arguments, "--allow-no-isolation"))
        for name, case in cases.items()
    }


def make_cases(
    server: DownloadServer,
    honest: Description,
    built: Path,
    signed: Mapping[str, bytes],
    keys: tuple[RSAPrivateKey, RSAPrivateKey],
) -> dict[str, Case]:
    """Fill the server with tampered files, and say what must come of each release.

    `signed` is what an honest vendor delivers; the keys are the vendor's, and somebody else's.
    """
    key, mallory = keys
    pce = ENCLAVE_LIST[0]
    unsigned = built / pce.unsigned
    bad_source = source_archive({"src/tdqe.c": (ENCLAVES / "src" / "tdqe.c").read_bytes() + b"\n"})
    bad_code = {**signed, pce.signed: vendor.with_other_code(signed[pce.signed], unsigned)}
    bad_patch = {**signed, pce.signed: vendor.with_hostile_patch(unsigned, pce.config, key)}
    foreign = {**signed, pce.signed: vendor.sign_enclave(unsigned, pce.config, mallory)}
    bad_archive = signed_archive(bad_code)
    other_tools = tuple(
        Tool("gcc", OTHER_GCC) if tool.name == "gcc" else tool for tool in honest.tools
    )
    toolchain = replace(honest, tools=other_tools)
    return {
        "demo": Case("as it should be", honest, 0, reproducible=True),
        "again": Case("once more: stages are kept", honest, 0, reproducible=True),
        "source": Case(
            "the server has other sources than the pinned ones",
            replace(honest, source_url=server.put(f"/tampered/{SOURCE_FILE}", bad_source)),
            2,
            "sources",
            own_cache=True,
        ),
        "archive": Case(
            "the server has another archive of signed enclaves",
            replace(honest, signed_url=server.put(f"/tampered/{SIGNED_FILE}", bad_archive)),
            2,
            "signed",
            own_cache=True,
        ),
        "toolchain": Case(
            f"the release designates gcc {OTHER_GCC}, which is not here", toolchain, 2, "toolchain"
        ),
        "host": Case(
            "the same, built with what is here: not the reproducible verdict",
            toolchain,
            0,
            arguments=("--toolchain=host",),
        ),
        "payload": Case(
            "one byte of code changed after signing, in a pinned archive",
            _delivered(server, honest, "payload", bad_code),
            1,
            "compare",
            ("payload",),
        ),
        "metadata": Case(
            "validly signed by the vendor, but the metadata overwrite code at load time",
            _delivered(server, honest, "metadata", bad_patch),
            1,
            "compare",
            ("metadata", "measurement"),
        ),
        "signer": Case(
            "the same enclave, validly signed by somebody else",
            _delivered(server, honest, "signer", foreign),
            1,
            "compare",
            ("policy",),
        ),
    }


def honest_release(server: DownloadServer, signed: Mapping[str, bytes], signer: str) -> Description:
    """The release `demo`, by the MRSIGNER of its signer; its toolchain is yet to be designated."""
    sources = source_archive()
    description = Description(
        title="Our own test enclaves, by a vendor of our own",
        # Any path will do that nothing else uses. Where the kernel gives the build no root
        # of its own, this one can be made without rights.
        root=f"/tmp/sgx-enclaves-demo-{os.getpid()}/tree",  # noqa: S108
        source_url=server.put(f"/sources/{SOURCE_FILE}", sources),
        source_sha256=sha256(sources),
        signer=signer,
        tools=tuple(Tool(name, "not designated") for name in TOOLS),
        interpreter="/not-designated",
    )
    return _delivered(server, description, "demo", signed)


def designate(description: Description, record: Mapping[str, Any]) -> Description:
    """The release with another toolchain, as `sgx-enclaves toolchain record` wrote it down."""
    return replace(
        description,
        tools=tuple(
            Tool(tool["name"], tool["version"] or "not here")
            for tool in record["tools"]
            if tool["name"] in TOOLS
        ),
        interpreter=record["interpreter"] or "/not-here",
    )


def write_catalogue(folder: Path, description: Description) -> Path:
    """Write the release down as a catalogue of its own; returns that folder."""
    catalogue = folder / "catalogue"
    catalogue.mkdir(parents=True, exist_ok=True)
    (catalogue / "demo.toml").write_text(release_toml(description), "utf-8")
    return catalogue


def _toolchain(folder: Path, description: Description) -> Description:
    """Record this machine's toolchain and designate it."""
    title("the toolchain of this machine becomes the designated one")
    record = folder / "record.json"
    catalogue = write_catalogue(folder, description)
    sgx_enclaves(
        "toolchain", "record", "demo", *("--catalogue", str(catalogue)), *("-o", str(record))
    )
    designated = designate(description, json.loads(record.read_text("utf-8")))
    write_catalogue(folder, designated)
    sgx_enclaves("toolchain", "check", "demo", *("--catalogue", str(catalogue)))
    return designated


def _delivered(
    server: DownloadServer, honest: Description, place: str, signed: Mapping[str, bytes]
) -> Description:
    """The release whose vendor delivers these files, with digests that are right for them."""
    archive = signed_archive(signed)
    return replace(
        honest,
        signed_url=server.put(f"/{place}/{SIGNED_FILE}", archive),
        signed_sha256=sha256(archive),
        checksums_url=server.put(f"/{place}/{CHECKSUMS_FILE}", checksums(SIGNED_FILE, archive)),
    )


def show(folder: Path, name: str, case: Case, ca_file: Path) -> Result:
    """Run a case."""
    title(f"release {name}: {case.story}")
    report = folder / name / "report"
    cache = folder / (name if case.own_cache else "") / "cache"
    status = sgx_enclaves(
        "verify-release",
        "demo",
        *("--catalogue", str(folder / name / "catalogue")),
        *("--ca-file", str(ca_file)),
        *("--cache", str(cache)),
        *("--work", str(folder / "work")),
        *("--report", str(report)),
        *case.arguments,
        log=folder / name / "log.txt",
    )
    if not (report / "release.json").exists():
        print((folder / name / "log.txt").read_text("utf-8"))
        print(f"NOT AS EXPECTED: no report, exit status {status}")
        return Result("release", case.story, "no report", False)
    if name == "demo":
        print((report / "release.txt").read_text("utf-8"), end="")
    result = json.loads((report / "release.json").read_text("utf-8"))
    if name != "demo":
        _print_short(result)
    problems = problems_of(case, status, result)
    for problem in problems:
        print(f"NOT AS EXPECTED: {problem}")
    return Result("release", case.story, _answer(result), not problems)


def _answer(result: Mapping[str, Any]) -> str:
    """The verdict, or who refused what."""
    refused = [f"stage {s['name']} refuses" for s in result["stages"] if s["state"] == "refused"]
    checks = dict.fromkeys(c for e in result["enclaves"] for c in e["refused_checks"])
    if checks:
        refused.append(f"compare refuses: {', '.join(checks)}")
    return ", ".join(refused) or ("reproducible" if result["reproducible"] else result["outcome"])


def _print_short(result: Mapping[str, Any]) -> None:
    """The verdict, and who refused what; the whole of it is in the report."""
    print(f"{result['outcome'].upper()}: {result['claim']}")
    for stage in result["stages"]:
        if stage["state"] in ("kept", "refused"):
            print(f"  {stage['name']} {stage['state']} {stage['detail']}".rstrip())
            _print_findings(stage["findings"])
    for enclave in result["enclaves"]:
        if enclave["refused_checks"]:
            print(f"  compare refuses {enclave['name']}: {', '.join(enclave['refused_checks'])}")
            _print_findings(enclave["findings"])


def _print_findings(findings: list[Mapping[str, Any]]) -> None:
    for finding in findings:
        if finding["severity"] != "note":
            print(f"    {finding['message']}")
            for word in ("expected", "found"):
                if finding[word]:
                    print(f"      {word:<8} {finding[word]}")


def problems_of(case: Case, status: int, result: Mapping[str, Any]) -> list[str]:
    """In what a result is not what the case says; empty if it is."""
    refused = [s["name"] for s in result["stages"] if s["state"] == "refused"]
    checks = {check for e in result["enclaves"] for check in e["refused_checks"]}
    if checks:
        refused.append("compare")
    wanted = [case.refused_by] if case.refused_by else []
    facts = (
        ("exit status", case.status, status),
        ("refused by", wanted, refused),
        ("refused checks", set(case.checks), checks),
        ("reproducible", case.reproducible, result["reproducible"]),
    )
    return [f"{what}: expected {want}, found {have}" for what, want, have in facts if want != have]
