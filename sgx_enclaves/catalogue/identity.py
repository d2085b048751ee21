# SPDX-License-Identifier: GPL-2.0-or-later
"""Read the identity of a quoting or quote verification enclave that Intel publishes.

Intel's provisioning service answers `{"enclaveIdentity":{...},"signature":"..."}`, with the
certificates in the header `SGX-Enclave-Identity-Issuer-Chain`. The signature (ECDSA, P-256,
SHA-256, r and s) covers the bytes of the inner object as they stand there. The chain is that of
the certificate "Intel SGX TCB Signing", up to a root that is known by its key: a certificate of
a platform, which has the same root, may not sign identities.

Source: API of Intel's provisioning certification service, version 4, and
EnclaveIdentityVerifier and TCBSigningChain of Intel's quote verification library.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from typing import Any, Optional
from urllib.parse import unquote_to_bytes

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import (
    BasicConstraints,
    Certificate,
    ExtensionNotFound,
    load_pem_x509_certificates,
)
from cryptography.x509.oid import NameOID

from sgx_enclaves.enclave.sigstruct import Identity, TcbLevel
from sgx_enclaves.errors import IdentityError
from sgx_enclaves.files import sha256_of
from sgx_enclaves.plain import parse_json, read_schema, validate

# SHA-256 of a SubjectPublicKeyInfo: INTEL_ROOT_PUB_KEY in ae/QvE/qve/qve.cpp of Intel's DCAP.
INTEL_ROOT = "a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e"
_SIGNER = "Intel SGX TCB Signing"
# What the identity is called there, and the enclave's name in packages.
ENCLAVES: Mapping[str, str] = {"QE": "qe3", "QVE": "qve", "TD_QE": "tdqe"}

_HEADER = re.compile(rb"^sgx-enclave-identity-issuer-chain:[ \t]*(\S+)", re.MULTILINE | re.I)
_START = re.compile(r'\s*\{\s*"enclaveIdentity"\s*:\s*')
_END = re.compile(r'\s*,\s*"signature"\s*:\s*"([0-9a-fA-F]{128})"\s*\}\s*\Z')
_MOST_CERTIFICATES = 4


def read_identity(
    data: bytes,
    chain: Optional[bytes],
    date: datetime.date,
    *,
    root: str = INTEL_ROOT,
    name: str = "identity",
) -> Identity:
    """The identity, once its signature is verified; an IdentityError if anything is wrong.

    Args:
        data: the service's answer; with its headers, as `curl -i` writes it, or without.
        chain: the certificates, PEM or as in the header; None takes them from the header.
        date: the day on which all of it must be valid.
        root: SHA-256 of the key of the root that is trusted, hexadecimal.
        name: what to call the file.
    """
    head, body = _parts(data)
    header = _HEADER.search(head)
    found = chain if chain is not None else header[1] if header else None
    if found is None:
        raise IdentityError(
            "the identity comes without its issuer chain",
            file=name,
            expected="the answer with its headers (curl -i), or --identity-chain FILE",
        )
    signed, signature = _signed_part(body, name)
    key = _signing_key(_certificates(found, name), date, root, name)
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    der = encode_dss_signature(r, s)
    _verify(key, der, signed, "the identity's signature is not valid", name)
    identity = _identity(parse_json(signed, file=name, error=IdentityError), name)
    if not identity.issued <= date.isoformat() <= identity.next_update:
        raise IdentityError(
            "the identity is not valid on this day",
            file=name,
            expected=f"{identity.issued} to {identity.next_update}",
            found=date.isoformat(),
            hint="fetch it again, or name the day with --identity-date",
        )
    return identity


def root_of(data: bytes, name: str = "root") -> str:
    """SHA-256 of the key of a root certificate (PEM), hexadecimal."""
    certificates = _certificates(data, name)
    if len(certificates) != 1:
        raise IdentityError("not one certificate", file=name, found=f"{len(certificates)}")
    return _key_digest(certificates[0])


def _parts(data: bytes) -> tuple[bytes, bytes]:
    if data.lstrip()[:1] == b"{":
        return b"", data
    head, _, body = data.replace(b"\r\n", b"\n").partition(b"\n\n")
    return head, body


def _signed_part(body: bytes, name: str) -> tuple[bytes, bytes]:
    """The bytes that are signed, and the signature."""
    problem = IdentityError(
        "no signed enclave identity",
        file=name,
        expected='{"enclaveIdentity":{...},"signature":"128 hexadecimal digits"}',
        hint="take the answer of Intel's provisioning service as it is",
    )
    parse_json(body, file=name, error=IdentityError)
    text = body.decode("utf-8")
    start = _START.match(text)
    if start is None:
        raise problem
    _, stop = json.JSONDecoder().raw_decode(text, start.end())
    end = _END.match(text, stop)
    if end is None:
        raise problem
    return text[start.end() : stop].encode(), bytes.fromhex(end[1])


def _certificates(data: bytes, name: str) -> list[Certificate]:
    try:
        found = load_pem_x509_certificates(unquote_to_bytes(data))
    except ValueError as error:
        raise IdentityError(
            "no certificates", file=name, expected="PEM", found=str(error)[:80]
        ) from None
    if len(found) > _MOST_CERTIFICATES:
        raise IdentityError("too many certificates", file=name, found=str(len(found)))
    # Some name the root first.
    return found[::-1] if found[0].issuer == found[0].subject else found


def _signing_key(chain: list[Certificate], date: datetime.date, root: str, name: str) -> Any:
    """The key of the first certificate, once the chain holds up to the trusted root."""
    if _key_digest(chain[-1]) != root:
        raise IdentityError(
            "the issuer chain does not end at the trusted root",
            file=name,
            expected=f"a root whose key has the SHA-256 {root}",
            found=_key_digest(chain[-1]),
            hint="another root is trusted with --identity-root",
        )
    names = chain[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if [str(n.value) for n in names] != [_SIGNER]:
        raise IdentityError(
            "the certificate may not sign identities",
            file=name,
            expected=f"CN={_SIGNER}",
            found=chain[0].subject.rfc4514_string(),
        )
    for index, certificate in enumerate(chain):
        issuer = chain[min(index + 1, len(chain) - 1)]
        subject = certificate.subject.rfc4514_string()
        first, last = _validity(certificate)
        if not first <= date.isoformat() <= last:
            raise IdentityError(
                "a certificate is not valid on this day",
                file=name,
                expected=f"{first} to {last} ({subject})",
                found=date.isoformat(),
            )
        try:
            is_ca = issuer.extensions.get_extension_for_class(BasicConstraints).value.ca
        except (ExtensionNotFound, ValueError):
            is_ca = False
        if certificate.issuer != issuer.subject or not is_ca:
            raise IdentityError("a certificate is not by the next one", file=name, found=subject)
        signature, signed = certificate.signature, certificate.tbs_certificate_bytes
        _verify(issuer.public_key(), signature, signed, f"{subject} is not signed", name)
    return chain[0].public_key()


def _validity(certificate: Certificate) -> tuple[str, str]:
    # Named otherwise before cryptography 42.
    suffix = "_utc" if hasattr(certificate, "not_valid_before_utc") else ""
    days = (getattr(certificate, f"not_valid_{end}{suffix}").date() for end in ("before", "after"))
    first, last = (day.isoformat() for day in days)
    return first, last


def _key_digest(certificate: Certificate) -> str:
    key = certificate.public_key()
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha256_of(der)


def _verify(key: Any, signature: bytes, signed: bytes, problem: str, name: str) -> None:
    good = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    try:
        if not good:
            raise InvalidSignature
        key.verify(signature, signed, ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise IdentityError(
            problem, file=name, expected="ECDSA over P-256 with SHA-256", hint="fetch it again"
        ) from None


def _identity(plain: Any, name: str) -> Identity:
    schema = read_schema(__file__, "identity.schema.json")
    validate(plain, schema, file=name, error=IdentityError)
    levels = (
        TcbLevel(
            level["tcb"]["isvsvn"],
            level["tcbStatus"],
            _day(level["tcbDate"], name),
            tuple(level.get("advisoryIDs", ())),
        )
        for level in plain["tcbLevels"]
    )
    return Identity(
        ENCLAVES[plain["id"]],
        plain["mrsigner"].lower(),
        plain["isvprodid"],
        plain["attributes"].lower(),
        plain["attributesMask"].lower(),
        plain["miscselect"].lower(),
        plain["miscselectMask"].lower(),
        _day(plain["issueDate"], name),
        _day(plain["nextUpdate"], name),
        tuple(sorted(levels, key=lambda level: -level.isvsvn)),
    )


def _day(text: str, name: str) -> str:
    try:
        return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").date().isoformat()
    except ValueError:
        raise IdentityError(
            "no date and time", file=name, expected="such as 2025-06-03T10:17:43Z", found=text[:80]
        ) from None
