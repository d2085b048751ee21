# SPDX-License-Identifier: GPL-2.0-or-later
"""Who signed a payload: DSSE envelopes (DSSE 1.0) and detached OpenPGP signatures.

Knows bytes, keys and signatures, and never what a payload says. Nothing of a payload is
given out before a signature over it is good by a key that the caller named.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Union

from sgx_enclaves.enclave.sign import Signer, read_private_key, read_public_key
from sgx_enclaves.errors import AttestationError, SigningError, UnsupportedError
from sgx_enclaves.files import sha256_of, write_files
from sgx_enclaves.plain import parse_json, read_schema, record, validate

MAX_ENVELOPE = 32 << 20
_KINDS = "Ed25519, or ECDSA on P-256, P-384 or P-521"
# The digest that fits a curve.
_DIGESTS = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
_GPGV_SECONDS = 60


@record
class Envelope:
    """A payload, what it is, and signatures over both, each behind the id of its key: a hint that
    nobody has signed.
    """

    payload: bytes
    payload_type: str
    signatures: tuple[tuple[str, bytes], ...] = ()

    @property
    def message(self) -> bytes:
        """What is signed: type and payload, each with its length (pre-authentication encoding)."""
        kind, payload = self.payload_type.encode(), self.payload
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)

    def as_json(self) -> str:
        """One line of JSON, as a bundle has it."""
        signatures = [
            {"keyid": keyid, "sig": base64.b64encode(sig).decode()}
            for keyid, sig in self.signatures
        ]
        payload = base64.b64encode(self.payload).decode()
        plain = {"payload": payload, "payloadType": self.payload_type, "signatures": signatures}
        return json.dumps(plain, separators=(",", ":"))


def fitting(plain: Any, part: str, file: str) -> Any:
    """Plain data that fit a part of attestation.schema.json; else an AttestationError."""
    schema = read_schema(__file__, "attestation.schema.json", part)
    validate(plain, schema, file=file, error=AttestationError)
    return plain


def read_envelope(data: bytes, file: str) -> Envelope:
    """An envelope, of which nothing is believed yet; an AttestationError if it is malformed."""
    plain = parse_json(data, file=file, error=AttestationError, most=MAX_ENVELOPE)
    found = fitting(plain, "envelope", file)["signatures"]
    signatures = tuple((item.get("keyid") or "", _decoded(item["sig"], file)) for item in found)
    return Envelope(_decoded(plain["payload"], file), plain["payloadType"], signatures)


def _decoded(text: str, file: str) -> bytes:
    """Base64, of either alphabet."""
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise AttestationError("no base64", file=file, found=str(error)) from None


@record
class Key:
    """A public key, by the file that it came from.

    `keyid` is the SHA-256 of its DER form. ECDSA needs besides the message the digest that fits.
    """

    name: str
    keyid: str
    public: Any
    algorithm: tuple[Any, ...]

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's; one of ECDSA may be DER, or r and s in a row."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import utils  # noqa: PLC0415

        size = (self.public.key_size + 7) // 8 if self.algorithm else 0
        if size and len(signature) == 2 * size:
            r, s = (int.from_bytes(x, "big") for x in (signature[:size], signature[size:]))
            signature = utils.encode_dss_signature(r, s)
        try:
            self.public.verify(signature, message, *self.algorithm)
        except InvalidSignature:
            return False
        return True


def load_key(data: bytes, name: str) -> Key:
    """A key that can verify, out of a key or a certificate, PEM or DER; else a SigningError."""
    return key_of(read_public_key(data, name), name)


def key_of(public: Any, name: str) -> Key:
    """A key of `cryptography` that can verify; else a SigningError."""
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519  # noqa: PLC0415

    algorithm: tuple[Any, ...] = ()
    curve = getattr(public, "curve", None)
    if curve is not None and curve.name in _DIGESTS:
        algorithm = (ec.ECDSA(getattr(hashes, _DIGESTS[curve.name])()),)
    elif not isinstance(public, ed25519.Ed25519PublicKey):
        found = type(public).__name__ if curve is None else f"ECDSA on {curve.name}"
        raise SigningError("no key for attestations", file=name, expected=_KINDS, found=found)
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    der = public.public_bytes(serialization.Encoding.DER, form)
    return Key(name, sha256_of(der), public, algorithm)


def load_signing_key(pem: bytes, name: str, passphrase: Union[bytes, None]) -> tuple[Key, Signer]:
    """A private key: its public half, and what signs with it; else a SigningError."""
    private: Any = read_private_key(pem, name, passphrase)
    key = key_of(private.public_key(), name)
    return key, lambda message: bytes(private.sign(message, *key.algorithm))


def signed(envelope: Envelope, key: Key, signer: Signer) -> Envelope:
    """The envelope with one signature more; a SigningError if the signer has not made the key's."""
    made = signer(envelope.message)
    if not key.verifies(envelope.message, made):
        raise SigningError(
            "the signature does not fit the key",
            file=key.name,
            expected=f"a raw signature of the bytes on standard input: {_KINDS}",
            found=f"{len(made)} bytes",
        )
    others = (signature for signature in envelope.signatures if signature[0] != key.keyid)
    return replace(envelope, signatures=(*others, (key.keyid, made)))


def signers(envelope: Envelope, keys: Sequence[Key], file: str) -> frozenset[str]:
    """The key ids of those of the keys that have signed the envelope; there may be none.

    A key id in an envelope only ever speaks against it: a signature that names one of the
    keys and is not that key's is an AttestationError, not a signature of somebody unknown.
    """
    found: set[str] = set()
    for number, (keyid, signature) in enumerate(envelope.signatures, 1):
        own = {key.keyid for key in keys if key.verifies(envelope.message, signature)}
        if not own and any(key.keyid == keyid for key in keys):
            raise AttestationError(
                f"signature {number} is bad: the envelope was changed, or is another key's",
                file=file,
                expected=f"a signature by key {keyid}",
                hint="nothing of it is believed; get the attestation again from its maker",
            )
        found |= own
    return frozenset(found)


def openpgp_signer(data: bytes, signature: bytes, keyring: bytes, file: str) -> str:
    """The fingerprint of the OpenPGP key that made a detached signature, by `gpgv`.

    Signature and keyring may be binary, or in ASCII as in /etc/pki/rpm-gpg. An AttestationError if
    none of those keys made it; an UnsupportedError if gpgv cannot be run.
    """
    content = {"keyring": b"".join(_dearmored(keyring)), "signature": signature, "data": data}
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), content)
        paths = [f"{folder}/{name}" for name in content]
        command = ["gpgv", "--homedir", folder, "--status-fd", "1", "--keyring", *paths]
        try:
            ended = subprocess.run(  # noqa: S603 - files of our own names
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_GPGV_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            message = "no OpenPGP signature can be checked: gpgv cannot be run"
            hint = "install gnupg2 (Debian: gpgv)"
            raise UnsupportedError(message, found=str(error), hint=hint) from None
    status = ended.stdout.decode("ascii", "replace")
    valid = re.findall(r"^\[GNUPG:\] VALIDSIG .* ([0-9A-F]{40,64})$", status, re.MULTILINE)
    good = re.findall(r"^\[GNUPG:\] GOODSIG ", status, re.MULTILINE)
    if ended.returncode or len(valid) != 1 or len(good) != 1:
        said = ended.stderr.decode("utf-8", "replace").strip().splitlines()
        raise AttestationError(
            "the OpenPGP signature is not good by a key of the keyring",
            file=file,
            found=said[-1] if said else "nothing",
            hint="nothing of it is believed; name the signer's keys with --keyring",
        )
    return str(valid[0])


def _dearmored(keyring: bytes) -> Iterable[bytes]:
    """The binary form of keys, which gpgv wants."""
    if not keyring.lstrip().startswith(b"-----BEGIN PGP"):
        yield keyring
    for block in re.findall(rb"-----BEGIN PGP PUBLIC[^\n]*\n(.*?)-----END", keyring, re.DOTALL):
        body = (b"\n" + block).replace(b"\r", b"").partition(b"\n\n")[2]
        try:
            # The line that begins with = is a checksum.
            yield base64.b64decode(body.partition(b"\n=")[0])
        except binascii.Error as error:
            raise AttestationError("the keyring is damaged", found=str(error)) from None
