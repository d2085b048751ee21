# SPDX-License-Identifier: GPL-2.0-or-later
"""Go through a report statement by statement with the files at hand, and trust nothing of it.

Each statement *holds*, *does not hold*, or *cannot be seen here*, with what that would take.
The shipped file alone shows much: with its metadata area zeroed it is the unsigned enclave
that every rebuilder must get (but for enclaves with an appended FIPS module), and its
signatures and its measurement are in it. The metadata follow from `config.xml`. That the
unsigned enclave came out of the sources is seen only by building it again.

Pure: files come in by their SHA-256. What is in a package is read by `files_of_package`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, Optional

from sgx_enclaves.enclave.compare import block_facts, compare
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.measure import mrenclave
from sgx_enclaves.enclave.metadata import Block, Descriptor
from sgx_enclaves.enclave.policy import Policy
from sgx_enclaves.enclave.sdk import generation_named
from sgx_enclaves.enclave.sign import unsigned
from sgx_enclaves.enclave.sigstruct import check_fips_signature, check_sigstruct
from sgx_enclaves.enclave.verdict import CheckState, Finding
from sgx_enclaves.errors import ReportError, SgxEnclavesError
from sgx_enclaves.evidence.facts import package_facts
from sgx_enclaves.evidence.report import ROLES, Plain
from sgx_enclaves.plain import as_plain, from_plain, record


class State(str, Enum):
    """What became of a statement."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNSEEN = "cannot be seen here"


@record
class Checked:
    """One statement of a report.

    Attributes:
        about: the enclave, the package or the file.
        statement: what the report says.
        state: see `State`.
        why: what was found instead, or what would be needed to see it.
    """

    about: str
    statement: str
    state: State
    why: str = ""


class Package(NamedTuple):
    """A package at hand: its facts as a report has them, and SHA-256 of its enclaves by path."""

    facts: Plain
    enclaves: Mapping[str, str]


class Files(NamedTuple):
    """What is at hand: contents by SHA-256, packages by file name, releases' names by digest."""

    contents: Mapping[str, bytes]
    packages: Mapping[str, Package]
    releases: Mapping[str, str]


def recheck(report: Mapping[str, Any], files: Files) -> Iterator[Checked]:
    """Every statement of a report.

    Args:
        report: checked by `report.read_report`.
        files: what is at hand.
    """
    for enclave in report["enclaves"]:
        yield from _Recheck(enclave, files).run()
    for package in report["packages"]:
        yield from _of_package(package, files)
    named = {e[role]["sha256"] for e in report["enclaves"] for role in ROLES if e[role]}
    packaged = {digest for p in files.packages.values() for digest in p.enclaves.values()}
    for digest in files.contents.keys() - named - packaged:
        why = "the report names no file with that SHA-256"
        yield Checked(f"file {digest}", "this file is the report's", State.FAILS, why)
    yield from _of_build(report, files)


def _of_build(report: Mapping[str, Any], files: Files) -> Iterator[Checked]:
    release = report["release"]
    if release is not None and release["sha256"] is not None:
        known = files.releases.get(release["sha256"]) == release["name"]
        yield Checked(
            f"release {release['name']}",
            f"its description has SHA-256 {release['sha256']}",
            State.HOLDS if known else State.UNSEEN,
            "" if known else f"needs that description ({release['origin']}) in the catalogue",
        )
    counts = ((len(report[part]), part) for part in ("sources", "toolchain", "steps"))
    words = ", ".join(f"{count} entries in {part}" for count, part in counts if count)
    if words or report["build"] == "here":
        name = release["name"] if release is not None else "RELEASE"
        yield Checked(
            "build",
            f"the unsigned enclaves came out of this build ({words or 'not described'})",
            State.UNSEEN,
            f"needs a build of your own: sgx-enclaves verify-release {name}",
        )


def _of_package(package: Mapping[str, Any], files: Files) -> Iterator[Checked]:
    found = files.packages.get(package["file"])
    for name, what in (
        ("nevra", "it is {}"),
        ("sha256", "its SHA-256 is {}"),
        ("header_sha256", "its header's SHA-256 is {}"),
        ("payload_sha256", "its payload's SHA-256 is {}"),
    ):
        value = package[name]
        if value is None:
            continue
        if found is None:
            state, why = State.UNSEEN, f"needs --signed {package['file']}"
        elif found.facts[name] == value:
            state, why = State.HOLDS, ""
        else:
            state, why = State.FAILS, f"found {found.facts[name]}"
        yield Checked(package["file"], what.format(value), state, why)


class _Recheck:
    """One enclave of the report."""

    def __init__(self, enclave: Mapping[str, Any], files: Files) -> None:
        self._enclave = enclave
        self._files = files
        self._digests = {r: (enclave[r] or {}).get("sha256") for r in ROLES}

    def _say(self, statement: str, good: Optional[bool], why: str = "") -> Checked:
        state = State.UNSEEN if good is None else State.HOLDS if good else State.FAILS
        about = self._enclave["package"]
        name = f"{self._enclave['name']} of {about}" if about else self._enclave["name"]
        return Checked(name, statement, state, why if good is not True else "")

    def _given(self, role: str) -> Optional[bytes]:
        return self._files.contents.get(self._digests[role] or "")

    def run(self) -> Iterator[Checked]:
        enclave, digest = self._enclave, self._digests["signed"]
        if digest is None:
            yield self._say("its verdict stands", None, "needs the signed file: there was none")
            return
        signed = self._given("signed")
        words = f"its signed file has SHA-256 {digest}"
        if signed is None:
            yield self._say(words, None, f"needs that file: --signed {enclave['signed']['name']}")
            return
        yield self._say(words, True)
        if enclave["signed"]["size"] is not None:
            size = len(signed)
            good = size == enclave["signed"]["size"]
            yield self._say(f"it has {enclave['signed']['size']} bytes", good, f"found {size}")
        package = self._files.packages.get(enclave["package"] or "")
        if package is not None:
            found = package.enclaves.get(enclave["path"], "nothing")
            yield self._say(f"{enclave['path']} is that file", found == digest, f"found {found}")
        try:
            image = EnclaveImage.parse(signed, enclave["signed"]["name"])
            blocks = Descriptor.parse(image.descriptor).blocks
        except SgxEnclavesError as error:
            yield self._say("its signatures and its payload are as said", None, str(error))
            return
        yield from self._of_bytes(image)
        yield from self._of_signatures(image, blocks)
        yield from self._of_comparison(image, signed)

    def _of_bytes(self, image: EnclaveImage) -> Iterator[Checked]:
        """The unsigned enclave in the signed file."""
        digest, state = self._digests["built"], self._state("payload")
        if digest is None:
            return
        words = f"the unsigned enclave has SHA-256 {digest}"
        try:
            found = hashlib.sha256(unsigned(image)).hexdigest()
        except SgxEnclavesError as error:
            yield self._say(words, self._given("built") is not None or None, str(error))
            return
        if found == digest or self._given("built") is not None:
            yield self._say(words, True)
        elif self._enclave["verdict"] == "identical" or state == CheckState.PROVED.value:
            yield self._say(words, False, f"with its metadata zeroed the signed file has {found}")
        else:
            yield self._say(words, None, "needs --built: the signed file is another one")
        if state in (CheckState.PROVED.value, CheckState.REFUTED.value):
            good = (found == digest) == (state == CheckState.PROVED.value)
            yield self._say(f"payload: {state}", good, f"the signed file holds {found}")

    def _of_signatures(self, image: EnclaveImage, blocks: Sequence[Block]) -> Iterator[Checked]:
        enclave = self._enclave
        defects: list[Finding] = []
        for block in blocks:
            defects += check_sigstruct(block.sigstruct)
            if block.fips_signature is not None:
                defects += check_fips_signature(block.fips_signature, block.sigstruct)
        valid = bool(blocks) and not defects
        state = self._state("signature")
        if state is not None:
            good = valid == (state == CheckState.PROVED.value)
            why = defects[0].message if defects else "every signature is valid"
            yield self._say(f"signature: {state}", good, why)
        policy = self._policy()
        if policy is not None:
            facts = as_plain(block_facts(blocks, policy))
            good = facts == enclave["blocks"]
            yield self._say("its blocks say what the report says of them", good, _short(facts))
            state = self._state("policy")
            if valid and state in (CheckState.PROVED.value, CheckState.REFUTED.value):
                refused = [f.message for block in blocks for f in policy.check(block.sigstruct)]
                seconds = [block.fips_signature for block in blocks]
                file = policy.check_file(str(self._digests["signed"]), seconds)
                refused += [finding.message for finding in file]
                good = (not refused) == (state == CheckState.PROVED.value)
                words = f"policy: {state} ({policy.claim})"
                yield self._say(words, good, "; ".join(refused) or "nothing is refused")
        elif blocks and enclave["mrsigner"] is not None:
            sigstruct = blocks[0].sigstruct
            found = (sigstruct.mrsigner.hex(), sigstruct.isvprodid, sigstruct.isvsvn)
            said = (enclave["mrsigner"], enclave["isvprodid"], enclave["isvsvn"])
            words = f"signed by {said[0]} as product {said[1]}, ISVSVN {said[2]}"
            yield self._say(words, found == said, f"found {found}")
        refuted = {self._state(name) for name in ("payload", "metadata", "measurement")}
        if enclave["mrenclave"] is not None and CheckState.REFUTED.value not in refuted:
            measured = {block.sigstruct.enclavehash.hex() for block in blocks}
            try:
                measured |= {mrenclave(image, block).hex() for block in blocks}
            except SgxEnclavesError as error:
                yield self._say("it has its MRENCLAVE", None, str(error))
                return
            words = f"MRENCLAVE, measured as its metadata say, is {enclave['mrenclave']}"
            good = measured == {enclave["mrenclave"]}
            yield self._say(words, good, f"found {', '.join(sorted(measured)) or 'nothing'}")

    def _of_comparison(self, image: EnclaveImage, signed: bytes) -> Iterator[Checked]:
        """What takes all three files."""
        enclave, policy = self._enclave, self._policy()
        config, built = self._given("config"), self._given("built")
        words = "metadata, measurement, byte map and verdict are as said"
        if policy is None:
            needs = [r for r in ("built", "config") if self._digests[r] is not None]
            if needs:
                yield self._say(words, None, "needs the report of the comparison itself")
            return
        if built is None:
            try:
                bare = unsigned(image)
                built = bare if hashlib.sha256(bare).hexdigest() == self._digests["built"] else None
            except SgxEnclavesError:
                built = None
        missing = [
            f"--{role} with SHA-256 {self._digests[role]}"
            for role, data in (("built", built), ("config", config))
            if data is None
        ]
        if built is None or config is None:
            yield self._say(words, None, f"needs {' and '.join(missing)}")
            return
        chosen = enclave["sdk"] if enclave["sdk_from"] == "option" else None
        names = tuple(enclave[role]["name"] for role in ROLES)
        again = compare(
            built,
            signed,
            config,
            policy,
            names=(names[0], names[1], names[2]),
            generation=None if chosen is None else generation_named(chosen),
        )
        for check in again.checks:
            said = self._state(check.name)
            good = said == check.state.value
            yield self._say(f"{check.name}: {said}, compared again", good, check.state.value)
        for name in ("sdk", "sdk_from", "mrenclave", "byte_map"):
            found = as_plain(getattr(again, name))
            words = f"{len(enclave[name])} ranges of bytes" if name == "byte_map" else enclave[name]
            yield self._say(f"{name} is {words}", found == enclave[name], f"found {_short(found)}")
        own = {finding.code for finding in again.findings}
        others = sorted({finding["code"] for finding in enclave["findings"]} - own)
        words, same = f"the verdict is {enclave['verdict']}", again.outcome.value
        if others and same != enclave["verdict"]:
            yield self._say(words, None, f"needs what else was found: {', '.join(others)}")
        else:
            yield self._say(words, same == enclave["verdict"], same)

    def _state(self, check: str) -> Optional[str]:
        states = {item["name"]: item["state"] for item in self._enclave["checks"]}
        return states.get(check)

    def _policy(self) -> Optional[Policy]:
        plain = self._enclave["policy"]
        if plain is None:
            return None
        return from_plain(Policy, plain, file="the report", error=ReportError, place="policy")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def files_of_package(path: str) -> tuple[Package, dict[str, bytes]]:
    """A package's facts, and its signed enclaves by their SHA-256.

    Raises:
        SgxEnclavesError: it cannot be read, or librpm's Python module is not installed.
    """
    # Plain files need no librpm.
    from sgx_enclaves.rpm.enclaves import PackedEnclave, enclaves_among  # noqa: PLC0415
    from sgx_enclaves.rpm.payload import packed  # noqa: PLC0415

    contents, paths = {}, {}
    with packed(path) as (package, members):
        nevra = package.nevra
        for item in enclaves_among(package, members):
            if isinstance(item, PackedEnclave):
                digest = hashlib.sha256(item.data).hexdigest()
                contents[digest], paths[item.path] = bytes(item.data), digest
    return Package({"nevra": nevra, **package_facts(path)}, paths), contents
