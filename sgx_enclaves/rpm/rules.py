# SPDX-License-Identifier: GPL-2.0-or-later
"""What is expected of a package beside right bytes: names, file list, labels, scripts, conventions.

Breaking a convention is a note: it makes an enclave hard to find, not wrong. A script is one as
well, unless it names enclaves: what runs on installation could replace the file that was judged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Optional

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.metadata import Descriptor
from sgx_enclaves.enclave.policy import (
    AskedBy,
    digest_of_version,
    pin_named,
    pins_of_signer,
    released_as,
    version_of_digest,
)
from sgx_enclaves.enclave.verdict import Finding, Severity
from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.findings import kinds
from sgx_enclaves.rpm.enclaves import Links, PackedEnclave
from sgx_enclaves.rpm.presence import (
    ENCLAVE_FOLDER,
    ENCLAVE_FOLDERS,
    SIGNED_SUFFIX,
    enclave_name,
    is_in_enclave_folder,
    pinned_name,
    version_of,
)
from sgx_enclaves.rpm.reader import Package

if TYPE_CHECKING:
    from sgx_enclaves.rpm.check import EnclaveResult

_SIGNED_PROVIDE = re.compile(r"sgx-enclave\((?P<name>[^:()]+):signed[:)]")
_SIGNED = re.compile(r"(?P<base>libsgx_\w+\.signed\.so)(?:\.(?P<version>\d+(?:\.\d+)+))?\Z")
_UNSIGNED = re.compile(r"libsgx_\w+\.so\Z")
_PACKAGE = re.compile(r"sgx-enclave-[a-z]+-(?P<name>\w+)-(?P<state>signed|unsigned)\Z")
_DEBUG_FILES = "/usr/lib/debug/"
_BUILD_IDS = "/usr/lib/.build-id/"
# What rpm runs, by the tags that hold it, with the program that is given it.
_SCRIPTS = {
    **{"PREIN": "%pre", "POSTIN": "%post", "PREUN": "%preun", "POSTUN": "%postun"},
    **{"PRETRANS": "%pretrans", "POSTTRANS": "%posttrans", "VERIFYSCRIPT": "%verifyscript"},
    **{"TRIGGERSCRIPTS": "a trigger", "FILETRIGGERSCRIPTS": "a file trigger"},
    "TRANSFILETRIGGERSCRIPTS": "a transaction file trigger",
}
_TELLING = (ENCLAVE_FOLDERS[-1], SIGNED_SUFFIX)


def finding(
    code: str,
    message: str,
    expected: str = "",
    found: str = "",
    hint: str = "",
    offset: Optional[int] = None,
) -> Finding:
    """A finding of the severity that the table of findings gives its code."""
    severity = Severity(kinds()[code].severity)
    texts = (expected or None, found or None, hint or None)
    return Finding(code, severity, message, None, offset, *texts)


def unattested(
    name: str, sha256: Optional[str], attested: Optional[frozenset[str]]
) -> Iterator[Finding]:
    """Say so if no signer vouches for an unsigned enclave; `attested` is None if none was asked."""
    if attested is not None and sha256 not in attested:
        yield finding(
            "reference-refused",
            "no attestation names the unsigned enclave that it was compared with",
            "one of the enclaves that enough signers have built",
            f"{name}, SHA-256 {sha256}",
            "name an attestation of it, and its signers' keys",
        )


def unconventional(
    package: Package, enclaves: Iterable[EnclaveResult], enclave: EnclaveResult
) -> Iterator[Finding]:
    """The notes about one enclave among those of a package."""
    # What debuggers read has the section of the unsigned enclave that it was split from.
    if not enclave.signed and enclave.path.startswith(_DEBUG_FILES):
        return
    if any(finding.code == "enclave-malformed" for finding in enclave.findings):
        return
    if not package.is_source:
        yield from _file_name(enclave)
        if enclave.name is not None:
            yield from _package_name(package, enclave, enclave.name)
            yield from _provides(package, enclave, enclave.name)
    if not enclave.signed and any(other.signed for other in enclaves):
        yield finding(
            "unsigned-in-signed-package", "it is unsigned, in a package with signed enclaves"
        )


def scripts(package: Package) -> Iterator[Finding]:
    """What a package with enclaves runs when it is installed, removed or triggered."""
    header = package.header
    for tag, name in _SCRIPTS.items():
        program = f"{tag.replace('SCRIPTS', 'SCRIPT')}PROG"
        texts = [*header.all(tag, str), *header.all(program, str)]
        if not texts:
            continue
        named = next((word for word in _TELLING if any(word in text for text in texts)), None)
        if named is None:
            yield finding("script-unjudged", f"the package runs {name}, which nobody judges")
        else:
            yield finding(
                "script-names-enclaves",
                f"the package runs {name}, which names the place of enclaves",
                "nothing that could replace an enclave that was judged",
                named,
                "leave it out, or install the enclave by the file list",
            )


def _file_name(enclave: EnclaveResult) -> Iterator[Finding]:
    folder, _, base = enclave.path.rpartition("/")
    match = (_SIGNED if enclave.signed else _UNSIGNED).match(base)
    if match is None or f"{folder}/" != ENCLAVE_FOLDER:
        form = "libsgx_FILE.signed.so.VERSION" if enclave.signed else "libsgx_FILE.so"
        yield finding(
            "name-unconventional", "it is not called as enclaves are", f"{ENCLAVE_FOLDER}{form}"
        )
    elif enclave.signed and match["version"] is None:
        yield finding("version-unconventional", "the file name has no version")
    elif enclave.signed:
        start = f"{folder}/{match['base']}"
        expected = {start, f"{start}.{match['version'].split('.')[0]}"}
        # rpmbuild makes links by build id for every ELF file that has one.
        found = {link for link in enclave.links if not link.startswith(_BUILD_IDS)}
        for link in sorted(expected - found):
            yield finding("links-unconventional", f"no link {link}")
        for link in sorted(found - expected):
            yield finding("links-unconventional", f"unexpected link {link}")


def _package_name(package: Package, enclave: EnclaveResult, name: str) -> Iterator[Finding]:
    match = _PACKAGE.match(package.name)
    if match is None or (match["name"], match["state"]) != (name, _state(enclave)):
        expected = f"sgx-enclave-KIND-{name}-{_state(enclave)}"
        yield finding("name-unconventional", f"it is in the package {package.name}", expected)


def _provides(package: Package, enclave: EnclaveResult, name: str) -> Iterator[Finding]:
    wanted = f"sgx-enclave({name}:{_state(enclave)})"
    start = f"{wanted[:-1]}:"
    plain = [p.version for p in package.provides if p.name == wanted]
    if not plain:
        yield finding("provides-unconventional", f"no Provides: {wanted}")
        return
    # One may well provide the release and the file's own version.
    versions = (p.version for p in package.provides if p.name.startswith(start))
    others = [version for version in versions if version not in plain]
    if others:
        message = f"Provides: {start}...) has another version than {wanted}"
        yield finding("version-unconventional", message, ", ".join(plain), ", ".join(others))
    found = version_of(enclave.path)
    for version in plain:
        problem = None
        if not version:
            problem = "has no version"
        elif version == found:
            problem = f"has the version of the file, {version}, instead of the release's"
        elif pinned_name(enclave.path) and _is_older(version, found or ""):
            problem = f"is of release {version}, older than the file, {found}"
        if problem is not None:
            yield finding("version-unconventional", f"Provides: {wanted} {problem}")


def mislabelled(
    package: Package, enclave: EnclaveResult, label: str, version: Optional[str]
) -> tuple[list[Finding], list[str]]:
    """What is wrong and what unchecked in its versions, by its counterpart's label and version."""
    name = enclave.name or ""
    # What the catalogue says is true of what its signer has signed.
    pinned = name if _has_pinned_signer(enclave) else ""
    wrong: list[Finding] = []
    unchecked: list[str] = []
    start = f"sgx-enclave({name}:signed"
    provided = {p.version for p in package.provides if p.name.startswith(start)} - {""}
    releases = {text: released_as(pinned, text) for text in sorted(provided)}
    known = version or version_of_digest(pinned, enclave.sha256) or released_as(pinned, label)
    claimed = version_of(enclave.path)
    # Without a reference that says more, the releases that the package provides are all there is.
    right = [known] if known else [file for file in releases.values() if file]
    called = f"the name has another version than the enclave was built as: {enclave.path}"
    if claimed is not None and any(not f"{file}.".startswith(f"{claimed}.") for file in right):
        wrong.append(_mislabelled(called, " or ".join(right), claimed))
    elif claimed is not None and pinned_name(enclave.path) and _is_older(label, claimed):
        wrong.append(_mislabelled(called, f"one that release {label} has", claimed))
    elif claimed is not None and known is None:
        unchecked.append(f"the version {claimed} in the name of {enclave.path}")
    # A release may ship the file of an earlier one, and one may well provide the file's version.
    doubtful = [
        text
        for text, file in releases.items()
        if text not in (label, known) and (known is None or file != known)
    ]
    if doubtful and (label or (known and any(releases.values()))):
        provides = f"it is provided as another version than it was built as: {enclave.path}"
        expected = f"{label}, as the reference has it" if label else f"a release with {known}"
        wrong.append(_mislabelled(provides, f"{start}) = {expected}", ", ".join(doubtful)))
    elif doubtful:
        unchecked.append(f"the version {', '.join(doubtful)} in which the package provides it")
    return wrong, unchecked


def another_file(enclave: EnclaveResult, label: str, version: Optional[str]) -> Iterator[Finding]:
    """Say no to a file that its release does not pin; the policy knows the newest's pin only.

    Label and version are the counterpart's.
    """
    verdict, name = enclave.verdict, enclave.name or ""
    if verdict is None or verdict.policy.file_from is AskedBy.OPTION:
        return
    if not _has_pinned_signer(enclave):
        return
    version = version or released_as(name, label) or version_of(enclave.path)
    digest = digest_of_version(name, version) if version else None
    if digest not in (None, enclave.sha256):
        yield finding(
            "file-not-pinned",
            f"another file than the {version} that the catalogue pins: {enclave.path}",
            f"SHA-256 {digest}",
            f"SHA-256 {enclave.sha256}",
            "take the vendor's own file; --any-file accepts another one on purpose",
        )


def _has_pinned_signer(enclave: EnclaveResult) -> bool:
    """Whether the catalogue's signer of the enclave has signed it."""
    pin, verdict = pin_named(enclave.name or ""), enclave.verdict
    blocks = verdict.blocks if verdict is not None else ()
    return pin is not None and pin.mrsigner in {block.mrsigner for block in blocks}


def _mislabelled(message: str, expected: str, found: str) -> Finding:
    hint = "give file and Provides the versions of the release that the enclave is of"
    return finding("version-mislabelled", message, expected, found, hint)


def _is_older(release: str, file: str) -> bool:
    """Intel counts the second number of both up together; a release may carry older files."""
    numbers = [re.match(r"\d+\.(\d+)", text) for text in (release, file)]
    return None not in numbers and int(numbers[0][1]) < int(numbers[1][1])  # type: ignore[index]


def _state(enclave: EnclaveResult) -> str:
    return "signed" if enclave.signed else "unsigned"


def not_permitted(packed: PackedEnclave, accepted: frozenset[str]) -> Iterable[Finding]:
    """Say no to an enclave that must not be shipped, by its name or as the product signed."""
    names = {name for name in map(enclave_name, packed.names) if name}
    names |= _signed_as(packed)
    for name in sorted(names - accepted):
        pin = pin_named(name)
        if pin is None or pin.may_ship:
            continue
        yield finding(
            "not-permitted",
            f"the enclave {name} must not be shipped: {packed.path}",
            "no such enclave in the package",
            name,
            f"leave it out; --permit {name} accepts it on purpose",
        )


def named_as_another(packed: PackedEnclave) -> Iterator[Finding]:
    """Say no to links that make one enclave stand for another."""
    own = enclave_name(packed.path)
    for link in packed.links:
        name = pinned_name(link)
        if name not in (None, own):
            yield finding(
                "named-as-another",
                f"a link with the name of the enclave {name} leads to {packed.path}: {link}",
                own or "no enclave's name",
                name,
                "remove the link",
            )


def _signed_as(packed: PackedEnclave) -> set[str]:
    try:
        image = EnclaveImage.parse(packed.data, packed.path)
        blocks = Descriptor.parse(image.descriptor).blocks
    except SgxEnclavesError:
        return set()
    products = {(b.sigstruct.mrsigner.hex(), b.sigstruct.isvprodid) for b in blocks}
    found = set()
    for product in products:
        # QE3 and IDE share signer and product; such a pair says nothing.
        pins = [p for p in pins_of_signer(product[0]) if p.isvprodid == product[1]]
        if len(pins) == 1:
            found.add(pins[0].enclave)
    return found


def of_file_list(package: Package) -> Iterator[Finding]:
    """What the file list alone says against a package: what is elsewhere, nobody can judge."""
    for link in Links(package).leaving():
        yield finding(
            "link-leaves-package",
            f"a link leads to a file that is not in the package: {link.path}",
            "a link to an enclave of this package",
            link.target,
        )
    for file in package.files:
        is_special = file.kind in ("device", "pipe", "socket")
        if (is_special or file.ghost) and is_in_enclave_folder(file.path):
            yield finding(
                "enclave-missing",
                f"the content of a file with an enclave's name is not in the package: {file.path}",
                "an enclave in the package",
                "a %ghost" if file.ghost else file.kind,
            )


def missing(package: Package, results: Iterable[EnclaveResult]) -> Iterator[Finding]:
    """Enclaves that the package claims to provide, signed, and does not carry."""
    matches = () if package.is_source else (_SIGNED_PROVIDE.match(p.name) for p in package.provides)
    claimed = {match["name"] for match in matches if match}
    for name in sorted(claimed - {r.name for r in results if r.signed}):
        yield finding(
            "enclave-missing",
            f"the package provides the signed enclave {name}, but no signed file of that name "
            "is in it",
            f"sgx-enclave({name}:signed)",
        )
