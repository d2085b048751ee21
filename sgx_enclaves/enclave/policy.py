# SPDX-License-Identifier: GPL-2.0-or-later
"""What must hold of a valid SIGSTRUCT: who signed it, as what, how old, and not for debug.

The newest release in the catalogue's data files that holds an enclave of Intel's pins it; an older
one is refused unless its user lowers the floor on purpose. The files are ours, and are read only
as far as needed, newest first; their form is checked where releases are read, not here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Optional

from sgx_enclaves.enclave.sigstruct import FipsSignature, Identity, Sigstruct, finding_at
from sgx_enclaves.enclave.verdict import Finding, Severity
from sgx_enclaves.errors import ArgumentError, CatalogueError
from sgx_enclaves.files import sha256_of
from sgx_enclaves.plain import parse_toml, record

_DATA = Path(__file__).resolve().parents[1] / "catalogue"
_SIGNERS = _DATA / "signers.toml"
_ENCLAVE_FILE = re.compile(
    r"(?:libsgx_(?P<file>\w+?)(?:\.signed)?\.so(?:\.[0-9.]+)?|(?P<css>le)_prod_css\.bin)\Z"
)


@record
class Pin:
    """Who must have signed an enclave, as what, and how old it may be, as far as that is known.

    Attributes:
        enclave: its name in packages, for example `ide`.
        file: its name in files, for example `id_enclave`.
        signed_sha256: of the vendor's file, hexadecimal; None if any will do.
        second_key_sha256: of the key of its second signature, likewise.
    """

    enclave: str
    file: str
    mrsigner: str
    isvprodid: Optional[int]
    isvsvn: Optional[int]
    may_ship: bool = True
    signed_sha256: Optional[str] = None
    second_key_sha256: Optional[str] = None


def known_signer(mrsigner: str) -> Optional[str]:
    """Whose key an MRSIGNER (lower-case hexadecimal) is; None if it is not known."""
    if mrsigner.encode() not in _content(_SIGNERS):
        # Parsing the file takes longer than a comparison.
        return None
    name: Optional[str] = _parsed(_SIGNERS)["signer"].get(mrsigner)
    return name


def pin_named(enclave: str) -> Optional[Pin]:
    """The pin of an enclave by its package name."""
    return next((pin for pin in _pins_with("name", enclave) if pin.enclave == enclave), None)


def pin_for_file(path: str) -> Optional[Pin]:
    """The pin that a file's name claims, for example `libsgx_pce.signed.so.1`."""
    match = _ENCLAVE_FILE.match(path.rpartition("/")[2])
    if match is None:
        return None
    file = match["file"] or match["css"]
    return next((pin for pin in _pins_with("file", file) if pin.file == file), None)


def pins_of_signer(mrsigner: str) -> tuple[Pin, ...]:
    """The pin of every enclave that this key (lower-case hexadecimal) must have signed."""
    if mrsigner not in _parsed(_SIGNERS)["signer"]:
        return ()
    return tuple(pin for pin in all_pins() if pin.mrsigner == mrsigner)


@cache
def all_pins() -> tuple[Pin, ...]:
    """The pin of every enclave that is known."""
    pins: dict[str, Pin] = {}
    for path in _files():
        for pin in _pins_in(path):
            pins.setdefault(pin.enclave, pin)
    return tuple(pins.values())


@cache
def not_shipped() -> frozenset[str]:
    """The enclaves that a distribution may not ship."""
    return frozenset(pin.enclave for pin in all_pins() if not pin.may_ship)


def released_as(enclave: str, label: str) -> Optional[str]:
    """The file's version in the release that packages number so: 1.25.100.1 for a PCE of 2.25."""
    # Distributions number it as the SDK, others as DCAP.
    for path in _files()[:-1]:
        _, sgx, _, dcap = path.stem.split("-")
        for table in _tables(path, enclave) if label in (sgx, dcap) else ():
            version = table.get("so_version", {})
            of_sdk = str(version.get("tag", "")).lower().startswith("sgx")
            if version and label == (sgx if of_sdk else dcap):
                return str(version["value"])
    return None


def version_of_digest(enclave: str, sha256: str) -> Optional[str]:
    """The version of the vendor's file with that digest, where a release pins it."""
    return next((v for v, digest in _pinned_files(enclave, sha256) if digest == sha256), None)


def digest_of_version(enclave: str, version: str) -> Optional[str]:
    """SHA-256 of the vendor's file of that version, where a release pins it; the newest counts."""
    return next((digest for v, digest in _pinned_files(enclave, version) if v == version), None)


def _pinned_files(enclave: str, word: str) -> Iterator[tuple[str, str]]:
    """Version and digest of an enclave's files, in the releases with that word, newest first."""
    for path in _files()[:-1]:
        if word.encode() in _content(path):
            for table in _tables(path, enclave):
                if "signed_sha256" in table and "so_version" in table:
                    yield str(table["so_version"]["value"]), str(table["signed_sha256"])


def _tables(path: Path, enclave: str) -> list[dict[str, Any]]:
    return [table for table in _parsed(path)["enclave"] if table["name"] == enclave]


def _pins_with(key: str, value: str) -> Iterator[Pin]:
    """The pins of the files that have such a line, newest first."""
    # Parsing all of them would take longer than a comparison; all are written so.
    line = f'\n{key} = "{value}"\n'.encode()
    for path in _files():
        if line in _content(path):
            yield from _pins_in(path)


@cache
def _files() -> tuple[Path, ...]:
    """The releases, newest first; last what no release holds any more."""

    def version(path: Path) -> list[int]:
        return [int(digits) for digits in re.findall(r"\d+", path.stem)]

    return (*sorted(_DATA.glob("releases/*.toml"), key=version, reverse=True), _SIGNERS)


@cache
def _content(path: Path) -> bytes:
    return path.read_bytes()


@cache
def _parsed(path: Path) -> dict[str, Any]:
    content = _content(path)
    if path != _SIGNERS:
        # Of a release only its enclaves matter here, which are the smaller part.
        tables = re.split(rb"^(?=\[)", content, flags=re.MULTILINE)
        content = b"".join(t for t in tables if t.startswith((b"[[enclave]]", b"[enclave.")))
    return parse_toml(content, file=str(path), error=CatalogueError)


@cache
def _pins_in(path: Path) -> tuple[Pin, ...]:
    """What a file pins; a release may hold an enclave of which not all is known."""
    return tuple(
        Pin(
            table["name"],
            table["file"],
            table["signer"],
            table["isvprodid"],
            table["least_isvsvn"],
            table.get("may_ship", True),
            table.get("signed_sha256"),
            table.get("second_key_sha256"),
        )
        for table in _parsed(path)["enclave"]
        if "isvprodid" in table and "least_isvsvn" in table
    )


def signer_name(mrsigner: str) -> str:
    """The signer's name; its MRSIGNER when it is not known."""
    return known_signer(mrsigner) or mrsigner


class AskedBy(str, Enum):
    """Who asked for a part of the policy."""

    CATALOGUE = "catalogue"
    IDENTITY = "identity"
    OPTION = "option"
    FILE_NAME = "file name"
    DEFAULT = "default"
    NOTHING = "nothing"


@record
class Policy:
    """What must hold of every SIGSTRUCT of a file, and who asked for it or lifted it.

    What is None is not asked for; digests are hexadecimal, in lower case.

    Attributes:
        signers: MRSIGNERs that may have signed; if there are none, nobody's signature will do.
        signed_sha256: of the vendor's file.
        second_key_sha256: of the modulus of its second signature.
        enclave: whose pins these are, by its name in packages.
    """

    signers: tuple[str, ...] = ()
    signers_from: AskedBy = AskedBy.NOTHING
    isvprodid: Optional[int] = None
    isvprodid_from: AskedBy = AskedBy.NOTHING
    min_isvsvn: Optional[int] = None
    min_isvsvn_from: AskedBy = AskedBy.NOTHING
    debug: bool = False
    debug_from: AskedBy = AskedBy.DEFAULT
    signed_sha256: Optional[str] = None
    second_key_sha256: Optional[str] = None
    file_from: AskedBy = AskedBy.NOTHING
    identity: Optional[Identity] = None
    enclave: Optional[str] = None
    enclave_from: AskedBy = AskedBy.NOTHING

    def check(self, sigstruct: Sigstruct) -> Iterator[Finding]:
        """What is wrong with it; `vendor` is never looked at: anybody can write 0x8086 there."""
        signer = sigstruct.mrsigner.hex()
        if not self.signers:
            yield finding_at(
                "signer-not-pinned",
                "modulus",
                "no signer is pinned for this enclave",
                "a pinned signer",
                signer_name(signer),
                "name the enclave with --enclave, or its signer with --signer",
                Severity.UNVERIFIABLE,
            )
        elif signer in self.signers and self._signs_others_only(signer):
            yield finding_at(
                "signer-unexpected",
                "modulus",
                f"the signature is by a signer of other enclaves than {self.enclave}",
                f"a signer of {self.enclave}, or of enclaves that are not known",
                signer_name(signer),
                "name the enclave that it is with --enclave",
            )
        elif signer not in self.signers:
            yield finding_at(
                "signer-unexpected",
                "modulus",
                "the signature is valid, but by another signer than the one pinned",
                " or ".join(map(signer_name, self.signers)),
                signer_name(signer),
                "name the expected signer with --signer if it is not Intel",
            )
        if self.isvprodid is not None and sigstruct.isvprodid != self.isvprodid:
            yield finding_at(
                "isvprodid-unexpected",
                "isvprodid",
                "the file was signed as another product",
                f"ISVPRODID {self.isvprodid}",
                f"ISVPRODID {sigstruct.isvprodid}",
                "is this the enclave that it claims to be? --any-product accepts it on purpose",
            )
        if self.min_isvsvn is not None and sigstruct.isvsvn < self.min_isvsvn:
            yield finding_at(
                "isvsvn-too-low",
                "isvsvn",
                "the enclave's security version is lower than the one required",
                f"ISVSVN {self.min_isvsvn} or more",
                f"ISVSVN {sigstruct.isvsvn}",
                "ship the newer enclave; --min-isvsvn accepts an older one on purpose",
            )
        if not self.debug and sigstruct.is_debug:
            yield finding_at(
                "debug-allowed",
                "attributemask_flags",
                "the signature lets the enclave run in debug mode, where its memory is open",
                "a production signature with DEBUG masked off",
                f"type 0x{sigstruct.type:x}, attributes 0x{sigstruct.attributes_flags:x}, "
                f"mask 0x{sigstruct.attributemask_flags:x}",
                "take the production enclave; --allow-debug accepts this on purpose",
            )
        if self.identity is not None:
            yield from self.identity.check(sigstruct)

    def _signs_others_only(self, signer: str) -> bool:
        """Whether an option names a signer who is known to sign other enclaves than the named."""
        if self.enclave is None or self.signers_from is not AskedBy.OPTION:
            return False
        known = {pin.enclave for pin in pins_of_signer(signer)}
        return bool(known) and self.enclave not in known

    def check_file(
        self, sha256: str, second_keys: Iterable[Optional[FipsSignature]]
    ) -> Iterator[Finding]:
        """What is wrong with the file as a whole."""
        hint = "is it of another release? --any-file accepts another file on purpose"
        if self.signed_sha256 not in (None, sha256):
            yield Finding(
                "file-not-pinned",
                Severity.DIFFERS,
                "the vendor's file is another one than the pinned",
                expected=f"SHA-256 {self.signed_sha256}",
                found=f"SHA-256 {sha256}",
                hint=hint,
            )
        if self.second_key_sha256 is None:
            return
        for index, second in enumerate(second_keys):
            found = sha256_of(second.modulus) if second is not None else None
            if found != self.second_key_sha256:
                yield Finding(
                    "second-key-not-pinned",
                    Severity.DIFFERS,
                    "the second signature is by another key than the pinned one",
                    index,
                    expected=f"a modulus with the SHA-256 {self.second_key_sha256}",
                    found=found or "no second signature",
                    hint=hint,
                )

    @property
    def claim(self) -> str:
        """What holds of a file that satisfies the policy: no more than was asked for."""
        signers = " or ".join(map(signer_name, self.signers))
        named = f"enclave {self.enclave} ({self.enclave_from.value})"
        parts = [
            named if self.enclave else "enclave: not named",
            f"signer {signers} ({self.signers_from.value})" if signers else "signer: none pinned",
        ]
        for name, least, value, source in (
            ("product", "", self.isvprodid, self.isvprodid_from),
            ("ISVSVN", " or more", self.min_isvsvn, self.min_isvsvn_from),
        ):
            if value or (value is not None and not least):
                parts.append(f"{name} {value}{least} ({source.value})")
            else:
                lifted = source is AskedBy.OPTION
                parts.append(f"{name}: any accepted on purpose" if lifted else f"{name}: not asked")
        parts.append("debug: accepted on purpose" if self.debug else "not for debug")
        if self.identity is not None:
            parts.append(f"as the identity of {self.identity.issued} says")
        if self.signed_sha256 is not None:
            parts.append(f"file by its SHA-256 ({self.file_from.value})")
        if self.second_key_sha256 is not None:
            parts.append(f"key of the second signature ({self.file_from.value})")
        if self.file_from is AskedBy.OPTION:
            parts.append("file: any accepted on purpose")
        return ", ".join(parts)

    @property
    def brief(self) -> str:
        """What was asked for, and by whom, in few words; `claim` has the values too."""
        asked: dict[AskedBy, list[str]] = {}
        others = []
        for name, value, source in (
            ("signer", self.signers or None, self.signers_from),
            ("product", self.isvprodid, self.isvprodid_from),
            ("ISVSVN", self.min_isvsvn or None, self.min_isvsvn_from),
            ("file", self.signed_sha256 or self.second_key_sha256, self.file_from),
        ):
            if value is not None:
                asked.setdefault(source, []).append(name)
            elif source is AskedBy.OPTION:
                others.append(f"any {name}")
            elif name != "file":
                others.append(f"{name} not asked")
        parts = [f"{', '.join(names)} by {source.value}" for source, names in asked.items()]
        if len(parts) == 1 and not others:
            parts = [f"all by {source.value}" for source in asked]
        parts += [*others, *(["debug accepted"] if self.debug else [])]
        named = f"{self.enclave} by {self.enclave_from.value}" if self.enclave else "no enclave"
        return f"{named}: {', '.join(parts)}"


def policy_for(
    pin: Optional[Pin],
    *,
    named_by: AskedBy = AskedBy.FILE_NAME,
    mrsigners: Iterable[str] = (),
    isvprodid: Optional[int] = None,
    any_product: bool = False,
    min_isvsvn: Optional[int] = None,
    allow_debug: bool = False,
    any_file: bool = False,
    identity: Optional[Identity] = None,
) -> Policy:
    """What is pinned for an enclave, with what the user says on top.

    An option changes its own part only: another signer is checked for the same product and security
    version, unless they are lifted too. Only the pinned file goes with the pinned signer: nobody
    else has signed it. An identity brings signer and product; it is an ArgumentError if it
    contradicts what is pinned, or an option.
    """
    if identity is not None:
        _require_agreement(identity, pin, mrsigners, isvprodid)

    def chosen(given: bool, pinned: object, published: bool = False) -> AskedBy:
        own = AskedBy.NOTHING if pinned is None else AskedBy.CATALOGUE
        return AskedBy.OPTION if given else AskedBy.IDENTITY if published else own

    signers = tuple(sorted(set(mrsigners)))
    known = identity or pin
    product = isvprodid if isvprodid is not None else known.isvprodid if known else None
    least = min_isvsvn if min_isvsvn is not None else pin.isvsvn if pin else None
    pins: tuple[Optional[str], Optional[str]] = (None, None)
    if pin is not None and (not signers or pin.mrsigner in signers):
        pins = (pin.signed_sha256, pin.second_key_sha256)
    file_from = AskedBy.CATALOGUE if any(pins) else AskedBy.NOTHING
    return Policy(
        signers=signers or ((known.mrsigner,) if known else ()),
        signers_from=chosen(bool(signers), pin, identity is not None),
        isvprodid=None if any_product else product,
        isvprodid_from=chosen(any_product or isvprodid is not None, product, identity is not None),
        min_isvsvn=least,
        min_isvsvn_from=chosen(min_isvsvn is not None, least),
        debug=allow_debug,
        debug_from=AskedBy.OPTION if allow_debug else AskedBy.DEFAULT,
        signed_sha256=None if any_file else pins[0],
        second_key_sha256=None if any_file else pins[1],
        file_from=AskedBy.OPTION if any_file else file_from,
        identity=identity,
        enclave=pin.enclave if pin else None,
        enclave_from=named_by if pin else AskedBy.NOTHING,
    )


def _require_agreement(
    identity: Identity, pin: Optional[Pin], mrsigners: Iterable[str], isvprodid: Optional[int]
) -> None:
    """Nothing could satisfy both an identity and what contradicts it."""
    if pin is not None:
        expected, found = (
            ", ".join(map(str, (known.enclave, known.mrsigner, known.isvprodid)))
            for known in (pin, identity)
        )
        if found != expected:
            message = "the identity is another enclave's than the one that is pinned"
            raise ArgumentError(message, expected=expected, found=found)
    if set(mrsigners) - {identity.mrsigner} or isvprodid not in (None, identity.isvprodid):
        message = "the identity names another signer or product than the option"
        raise ArgumentError(message, hint="leave out one of the two")
