# SPDX-License-Identifier: GPL-2.0-or-later
"""Go through a report statement by statement with the files at hand, and trust nothing of it.

Each statement *holds*, *does not hold*, or *cannot be seen here*, with what that would take.
The shipped file alone shows much: with its metadata area zeroed it is the unsigned enclave
that every rebuilder must get (but for enclaves with an appended FIPS module), and its
signatures and its measurement are in it. The metadata follow from `config.xml`. That the
unsigned enclave came out of the sources is seen only by building it again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Optional

from sgx_enclaves.catalogue.records import Release, policy_of
from sgx_enclaves.enclave.compare import compare
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.measure import mrenclave
from sgx_enclaves.enclave.metadata import Block, Descriptor
from sgx_enclaves.enclave.policy import AskedBy, Policy, pin_named, policy_for
from sgx_enclaves.enclave.sdk import generation_named
from sgx_enclaves.enclave.sign import unsigned
from sgx_enclaves.enclave.verdict import CheckState, Outcome
from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.evidence.report import SIGNED, Plain, compared_enclave, package_at
from sgx_enclaves.files import sha256_of
from sgx_enclaves.plain import from_plain
from sgx_enclaves.report.forms import ROLES, verdict_dict

_PROVED, _REFUTED = CheckState.PROVED.value, CheckState.REFUTED.value
_GOOD = (_PROVED, Outcome.IDENTICAL.value)
_BLOCK = ("mrenclave", *SIGNED, "date", "debug")
_OF_PACKAGE = {
    "nevra": "it is",
    "sha256": "its SHA-256 is",
    "header_sha256": "its header's SHA-256 is",
    "payload_sha256": "its payload's SHA-256 is",
}
_LONGEST = 200
# Parts of a policy: in words, who asked for it, the fields.
_PINNED = (
    ("the signer", "signers_from", "signers"),
    ("the product", "isvprodid_from", "isvprodid"),
    ("the least ISVSVN", "min_isvsvn_from", "min_isvsvn"),
    ("the file", "file_from", "signed_sha256", "second_key_sha256"),
)
_CATALOGUE = "name it with --catalogue"


# What became of a statement.
HOLDS, FAILS, UNSEEN = "holds", "does not hold", "cannot be seen here"


class Files(NamedTuple):
    """Contents by SHA-256, packages by file name, the release whose digest the report names.

    Packages are as a report has them, and with SHA-256 of their enclaves by path.
    """

    contents: Mapping[str, bytes]
    packages: Mapping[str, Plain]
    release: Optional[Release]


def recheck(report: Plain, files: Files) -> Iterator[Plain]:
    """Every statement of a report, which `report.read_report` has checked, as plain data.

    `about` which enclave, package or file it is, the `statement`, its `state`, and `why`: what was
    found instead, or what would be needed to see it.
    """
    for enclave in report["enclaves"]:
        yield from _Recheck(enclave, report, files).run()
    for package in report["packages"]:
        yield from _of_package(package, files.packages.get(package["file"]))
    named = {e[role]["sha256"] for e in report["enclaves"] for role in ROLES if e[role]}
    named |= {digest for p in files.packages.values() for digest in p["enclaves"].values()}
    for digest in sorted(files.contents.keys() - named):
        why = "the report names no file with that SHA-256"
        yield _checked(f"file {digest}", "this file is the report's", False, why)
    release = report["release"] or {"name": "RELEASE", "sha256": None}
    if release["sha256"] is not None:
        words = f"its description has SHA-256 {release['sha256']}"
        known = files.release is not None and files.release.name == release["name"]
        why = f"needs that description ({release['origin']}): {_CATALOGUE}"
        yield _checked(f"release {release['name']}", words, known or None, why)
        if files.release is not None and report["kind"] in ("release", "koji"):
            spoken = {enclave["name"] for enclave in report["enclaves"]}
            left = [e.name for e in files.release.enclaves if e.name not in spoken]
            why = f"not of {', '.join(left)}, which nobody may have asked for"
            words = "the report speaks of all its enclaves"
            yield _checked(f"release {release['name']}", words, None if left else True, why)
    made = [part for part in ("sources", "toolchain", "steps") if report[part]]
    parts = ", ".join(f"{part}: {len(report[part])}" for part in made)
    if parts or report["build"] == "here":
        words = f"the unsigned enclaves came out of this build ({parts or 'not described'})"
        why = f"needs a build of your own: sgx-enclaves verify-release {release['name']}"
        yield _checked("build", words, None, why)


def _checked(about: str, statement: str, good: Optional[bool], why: object = "") -> Plain:
    state = UNSEEN if good is None else HOLDS if good else FAILS
    made = {"about": about, "statement": statement, "state": state}
    return made | {"why": "" if good else str(why)}


def _of_package(package: Plain, at_hand: Optional[Plain]) -> Iterator[Plain]:
    for name, what in _OF_PACKAGE.items():
        if (value := package[name]) is not None:
            good = None if at_hand is None else at_hand[name] == value
            needed = f"needs --signed {package['file']}"
            why = needed if at_hand is None else f"found {at_hand[name]}"
            yield _checked(package["file"], f"{what} {value}", good, why)


class _Recheck:
    """One enclave of the report."""

    def __init__(self, enclave: Plain, report: Plain, files: Files) -> None:
        self._enclave, self._report, self._files = enclave, report, files
        self._digests = {r: (enclave[r] or {}).get("sha256") for r in ROLES}
        self._given = {r: files.contents.get(digest or "") for r, digest in self._digests.items()}
        self._states = {item["name"]: item["state"] for item in enclave["checks"]}
        package, policy = enclave["package"], enclave["policy"]
        self._policy = None if policy is None else from_plain(Policy, policy)
        self._say = partial(_checked, f"{enclave['name']}{f' of {package}' if package else ''}")

    def _same(self, statement: str, said: object, found: object) -> Plain:
        """Whether what was found is what the report says."""
        why = f"found {found}"
        why = why if len(why) <= _LONGEST else f"{why[:_LONGEST]}..."
        return self._say(statement, found == said, why)

    def _is(self, check: str, holds: bool, why: str, words: str = "") -> Iterator[Plain]:
        """Whether a check came out as the report says, if it says so."""
        state = self._states.get(check)
        if state in (_PROVED, _REFUTED):
            yield self._say(f"{check}: {state}{words}", holds == (state == _PROVED), why)

    def run(self) -> Iterator[Plain]:
        about, signed = self._enclave["signed"], self._given["signed"]
        if about is None:
            yield self._say("its verdict stands", None, "needs the signed file: there was none")
            return
        words = f"its signed file has SHA-256 {about['sha256']}"
        if signed is None:
            yield self._say(words, None, f"needs that file: --signed {about['name']}")
            return
        yield self._say(words, True)
        if about["size"] is not None:
            yield self._same(f"it has {about['size']} bytes", about["size"], len(signed))
        package = self._files.packages.get(self._enclave["package"] or "")
        if package is not None:
            found = package["enclaves"].get(self._enclave["path"], "nothing")
            yield self._same(f"{self._enclave['path']} is that file", about["sha256"], found)
        try:
            image = EnclaveImage.parse(signed, about["name"])
            blocks = Descriptor.parse(image.descriptor).blocks
        except SgxEnclavesError as error:
            yield self._say("its signatures and its payload are as said", None, error)
            return
        yield from self._of_payload(image)
        yield from self._of_signatures(image, blocks)
        yield from self._of_catalogue()
        yield from self._of_comparison(signed)

    def _of_payload(self, image: EnclaveImage) -> Iterator[Plain]:
        """Is the unsigned enclave the signed file with its metadata zeroed?"""
        digest, found = self._digests["built"], None
        with contextlib.suppress(SgxEnclavesError):
            found = sha256_of(zeroed := unsigned(image))
            if found == digest:
                self._given["built"] = zeroed
        if digest is None:
            return
        good, why = None, "needs --built: the signed file does not show it"
        if self._given["built"] is not None:
            good = True
        elif found and (self._states.get("payload") or self._enclave["verdict"]) in _GOOD:
            good, why = False, f"with its metadata zeroed the signed file has {found}"
        yield self._say(f"the unsigned enclave has SHA-256 {digest}", good, why)
        if found is not None:
            yield from self._is("payload", found == digest, f"the signed file holds {found}")

    def _of_signatures(self, image: EnclaveImage, blocks: Sequence[Block]) -> Iterator[Plain]:
        """What the signed file shows alone: compared with itself, zeroed, without a config."""
        zeroed = image.with_descriptor(bytes(image.descriptor_size))
        alone = verdict_dict(compare(zeroed, image.data, b"", self._policy or Policy()))
        proved = {check["name"]: check["state"] == _PROVED for check in alone["checks"]}
        # The last finding is that there is no config.
        against = [f["message"] for f in alone["findings"][:-1] if f["severity"] != "note"]
        why = "; ".join(dict.fromkeys(against)) or "nothing is refused"
        # A defect stands before what the policy refuses.
        seen = f"{len(blocks)} valid signatures" if proved["signature"] else against[0]
        yield from self._is("signature", proved["signature"], seen)
        said, found = (
            [{key: block[key] for key in _BLOCK} for block in item["blocks"]]
            for item in (self._enclave, alone)
        )
        if said:
            yield self._same("its blocks say what the report says of them", said, found)
        elif found and self._enclave["mrsigner"] is not None:
            words = "signed by {mrsigner} as product {isvprodid}, ISVSVN {isvsvn}"
            said = [found[0] | {key: self._enclave[key] for key in SIGNED}, *found[1:]]
            yield self._same(words.format(**self._enclave), said, found)
        if self._policy is not None and proved["signature"]:
            yield from self._is("policy", proved["policy"], why, f" ({self._policy.claim})")
        refuted = {self._states.get(name) for name in ("payload", "metadata", "measurement")}
        if self._enclave["mrenclave"] is not None and _REFUTED not in refuted:
            words = f"MRENCLAVE, measured as its metadata say, is {self._enclave['mrenclave']}"
            measured = {block["mrenclave"] for block in found}
            try:
                measured |= {mrenclave(image, block).hex() for block in blocks}
                good = measured == {self._enclave["mrenclave"]}
                yield self._say(words, good, f"found {', '.join(sorted(measured))}")
            except SgxEnclavesError as error:
                yield self._say(words, None, error)

    def _of_catalogue(self) -> Iterator[Plain]:
        """Does the catalogue ask for what the report says that it asks for?"""
        policy, release, known = self._policy, self._report["release"], self._files.release
        if policy is None:
            return
        # One that asks for nothing is the answer to a claim that has no ground.
        pinned: Optional[Policy] = Policy()
        needs = f"a catalogue that knows the enclave {policy.enclave}"
        if release is not None and release["sha256"] is not None:
            needs = f"the description of {release['name']}: {_CATALOGUE}"
            if own := known and known.enclave(self._enclave["name"]):
                pinned = policy_of(own)
            elif known is None:
                pinned = None
        elif policy.enclave is not None:
            pin = pin_named(policy.enclave)
            pinned = policy_for(pin) if pin else None
        for what, source, *names in _PINNED:
            if getattr(policy, source) is AskedBy.CATALOGUE:
                said = [getattr(policy, name) for name in names]
                found = pinned and [getattr(pinned, name) for name in names]
                words = f"{what} of the policy is the catalogue's"
                unseen = self._say(words, None, f"needs {needs}")
                yield unseen if found is None else self._same(words, said, found)

    def _of_comparison(self, signed: bytes) -> Iterator[Plain]:
        """What takes all three files."""
        enclave, built, config = self._enclave, self._given["built"], self._given["config"]
        words = "metadata, measurement, byte map and verdict are as said"
        if self._policy is None:
            yield self._say(words, None, "needs the report of the comparison itself")
            return
        if built is None or config is None:
            missing = [role for role in ROLES if self._given[role] is None]
            needed = " and ".join(f"--{r} with SHA-256 {self._digests[r]}" for r in missing)
            yield self._say(words, None, f"needs {needed}")
            return
        chosen = generation_named(enclave["sdk"]) if enclave["sdk_from"] == "option" else None
        names = (enclave["built"]["name"], enclave["signed"]["name"], enclave["config"]["name"])
        again = compare(built, signed, config, self._policy, generation=chosen, names=names)
        plain = compared_enclave(enclave["name"], verdict_dict(again))
        for check in again.checks:
            said, found = self._states.get(check.name), check.state.value
            yield self._say(f"{check.name}: {said}, compared again", said == found, found)
        for name in ("sdk", "sdk_from", "mrenclave", *SIGNED):
            yield self._same(f"{name} is {enclave[name]}", enclave[name], plain[name])
        # Whoever built knows more, or less, of what is not proved than a comparison does.
        alone = ("not_proved",) if self._report["kind"] == "comparison" else ()
        for name in ("headline", "byte_map", "blocks", "checks", *ROLES, *alone):
            # The digest of a file, which alone may be known, is looked at above.
            unsized = name in ROLES and enclave[name]["size"] is None
            said, words = plain if unsized else enclave, name.replace("_", " ")
            yield self._same(f"{words}, compared again", said[name], plain[name])
        named, seen = ({f["code"] for f in item["findings"]} for item in (enclave, plain))
        why = f"it leaves out {', '.join(sorted(seen - named))}"
        yield self._say("it has all that the comparison finds", seen <= named, why)
        same: Optional[bool] = again.outcome.value == enclave["verdict"]
        why = again.outcome.value
        if named - seen and not same:
            same, why = None, f"needs what else was found: {', '.join(sorted(named - seen))}"
        yield self._say(f"the verdict is {enclave['verdict']}", same, why)


def files_of_package(path: str) -> tuple[Plain, dict[str, bytes]]:
    """A package as `Files` has it, and its signed enclaves by SHA-256; needs librpm's module."""
    # Plain files need no librpm.
    from sgx_enclaves.rpm.enclaves import PackedEnclave, enclaves_among  # noqa: PLC0415
    from sgx_enclaves.rpm.payload import packed  # noqa: PLC0415

    with packed(path) as (package, members):
        found = [e for e in enclaves_among(package, members) if isinstance(e, PackedEnclave)]
    contents = {enclave.sha256: enclave.data for enclave in found}
    digests = {enclave.path: enclave.sha256 for enclave in found}
    return {**package_at(path), "enclaves": digests}, contents
