# SPDX-License-Identifier: GPL-2.0-or-later
"""Published identities: read when validly signed up to the trusted root, refused when not."""

from __future__ import annotations

import datetime
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional, Union
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from sgx_enclaves.catalogue.identity import INTEL_ROOT, read_identity, root_of
from sgx_enclaves.cli.main import main
from sgx_enclaves.enclave.policy import AskedBy, Pin, policy_for
from sgx_enclaves.enclave.sigstruct import Identity, Sigstruct
from sgx_enclaves.enclave.verdict import Outcome, Severity
from sgx_enclaves.errors import ArgumentError, IdentityError
from tests.support.keys import mrsigner, vendor_key
from tests.support.signed import SMALL_OPTIONS, signed_enclave
from tests.unit.enclave.verdicts import codes

DAY = datetime.date(2025, 6, 10)
# The form of Intel's answer for QE3 in June 2025, with the signer and product of the tests.
PLAIN: dict[str, Any] = {
    "id": "QE",
    "version": 2,
    "issueDate": "2025-06-03T10:17:43Z",
    "nextUpdate": "2025-07-03T10:17:43Z",
    "tcbEvaluationDataNumber": 17,
    "miscselect": "00000000",
    "miscselectMask": "FFFFFFFF",
    "attributes": "01000000000000000000000000000000",
    "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
    "mrsigner": mrsigner(vendor_key()).upper(),
    "isvprodid": SMALL_OPTIONS["ProdID"],
    "tcbLevels": [
        {"tcb": {"isvsvn": 8}, "tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": "UpToDate"},
        {
            "tcb": {"isvsvn": 6},
            "tcbDate": "2021-11-10T00:00:00Z",
            "tcbStatus": "OutOfDate",
            "advisoryIDs": ["INTEL-SA-00615"],
        },
        {"tcb": {"isvsvn": 5}, "tcbDate": "2020-11-11T00:00:00Z", "tcbStatus": "Revoked"},
    ],
}


Key = Union[ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey]


def certificate(
    name: str,
    key: Key,
    issuer: str,
    issuer_key: Key,
    is_ca: Optional[bool],
    days: int = 365,
    start: datetime.date = datetime.date(2025, 1, 1),
) -> x509.Certificate:
    """`is_ca` None: nothing is said about it."""

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    first = datetime.datetime.combine(start, datetime.time(), datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(first)
        .not_valid_after(first + datetime.timedelta(days))
    )
    if is_ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(is_ca, None), critical=True)
    return builder.sign(issuer_key, SHA256())


ROOT_KEY, LEAF_KEY = (ec.derive_private_key(n, ec.SECP256R1()) for n in (2**200 + 1, 2**201 + 1))
ROOT_NAME, LEAF_NAME = "Intel SGX Root CA", "Intel SGX TCB Signing"
ROOT = certificate(ROOT_NAME, ROOT_KEY, ROOT_NAME, ROOT_KEY, True)
LEAF = certificate(LEAF_NAME, LEAF_KEY, ROOT_NAME, ROOT_KEY, False)
TRUSTED = root_of(ROOT.public_bytes(Encoding.PEM))


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(c.public_bytes(Encoding.PEM) for c in certificates)


CHAIN = pem(LEAF, ROOT)


def answer(
    plain: Any = None, key: ec.EllipticCurvePrivateKey = LEAF_KEY, signed: Optional[bytes] = None
) -> bytes:
    """What the service answers; `signed` is what the signature is for, if not the text."""
    text = json.dumps(PLAIN if plain is None else plain, separators=(",", ":")).encode()
    r, s = decode_dss_signature(key.sign(signed or text, ec.ECDSA(SHA256())))
    signature = (r.to_bytes(32, "big") + s.to_bytes(32, "big")).hex().encode()
    return b'{"enclaveIdentity":' + text + b',"signature":"' + signature + b'"}'


def read(
    data: bytes, chain: Optional[bytes] = CHAIN, day: datetime.date = DAY, root: str = TRUSTED
) -> Identity:
    return read_identity(data, chain, day, root=root, name="qe.json")


def test_a_signed_identity() -> None:
    identity = read(answer())
    assert identity.enclave == "qe3"
    assert (identity.mrsigner, identity.isvprodid) == (mrsigner(vendor_key()), 3)
    assert [level.isvsvn for level in identity.levels] == [8, 6, 5]
    assert str(identity.levels[1]) == "OutOfDate since 2021-11-10 (INTEL-SA-00615)"
    assert [str(identity.level_of(n)).partition(" ")[0] for n in (9, 8, 7, 6, 4)] == [
        "UpToDate",
        "UpToDate",
        "OutOfDate",
        "OutOfDate",
        "None",
    ]


def test_the_answer_with_its_headers() -> None:
    """As `curl -i` keeps it: the chain is in a header, encoded as in a URL."""
    header = b"SGX-Enclave-Identity-Issuer-Chain: " + quote(CHAIN).encode()
    whole = b"HTTP/1.1 200 OK\r\nRequest-ID: 1\r\n" + header + b"\r\n\r\n" + answer()
    assert read(whole, None) == read(answer())
    assert read(answer(), quote(CHAIN).encode()) == read(answer())
    assert read(answer(), pem(ROOT, LEAF)) == read(answer())
    with pytest.raises(IdentityError, match="without its issuer chain"):
        read(answer(), None)


def test_the_exact_bytes_are_what_is_signed() -> None:
    spaced = json.dumps(PLAIN, indent=1).encode()
    r, s = decode_dss_signature(LEAF_KEY.sign(spaced, ec.ECDSA(SHA256())))
    signature = (r.to_bytes(32, "big") + s.to_bytes(32, "big")).hex().encode()
    whole = b'{ "enclaveIdentity" : ' + spaced + b' ,\n"signature":"' + signature + b'"}\n'
    assert read(whole) == read(answer())
    with pytest.raises(IdentityError, match="signature is not valid"):
        read(whole.replace(b'"QE"', b'"QVE"'))
    with pytest.raises(IdentityError, match="signature is not valid"):
        read(answer(signed=b"{}"))


OTHER_KEY = ec.derive_private_key(2**202 + 1, ec.SECP256R1())
# A key of the same root that belongs to a platform, as a PCK does.
PLATFORM = certificate("Intel SGX PCK Certificate", LEAF_KEY, ROOT_NAME, ROOT_KEY, False)
FAKE_ROOT = certificate(ROOT_NAME, OTHER_KEY, ROOT_NAME, OTHER_KEY, True)


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        (pem(LEAF), "trusted root"),
        (pem(LEAF, FAKE_ROOT), "trusted root"),
        (pem(PLATFORM, ROOT), "may not sign identities.*PCK"),
        (pem(certificate(LEAF_NAME, LEAF_KEY, ROOT_NAME, OTHER_KEY, False), ROOT), "not signed"),
        (pem(certificate(LEAF_NAME, LEAF_KEY, "another", ROOT_KEY, False), ROOT), "by the next"),
        (pem(LEAF, certificate("between", OTHER_KEY, ROOT_NAME, ROOT_KEY, False), ROOT), "next"),
        (pem(certificate(LEAF_NAME, LEAF_KEY, ROOT_NAME, ROOT_KEY, False, 9), ROOT), "not valid"),
        (pem(*[ROOT] * 5), "too many"),
        (pem(*[ROOT] * 4), "may not sign identities"),
        (b"nothing", "no certificates"),
    ],
)
def test_a_chain_that_does_not_hold(chain: bytes, message: str) -> None:
    with pytest.raises(IdentityError, match=message):
        read(answer(), chain)


def between(is_ca: Optional[bool]) -> bytes:
    """A chain of three."""
    issued = certificate(LEAF_NAME, LEAF_KEY, "between", OTHER_KEY, False)
    return pem(issued, certificate("between", OTHER_KEY, ROOT_NAME, ROOT_KEY, is_ca), ROOT)


@pytest.mark.parametrize("is_ca", [False, None])
def test_who_is_no_authority_issues_no_certificate(is_ca: Optional[bool]) -> None:
    assert read(answer(), between(True)) == read(answer())
    with pytest.raises(IdentityError, match=f"by the next one.*{LEAF_NAME}"):
        read(answer(), between(is_ca))


@pytest.mark.parametrize(
    "key",
    [
        ec.derive_private_key(2**200 + 1, ec.SECP384R1()),
        ec.derive_private_key(2**200 + 1, ec.SECP256K1()),
        rsa.generate_private_key(65537, 2048),
    ],
)
def test_a_root_with_a_key_of_another_kind(key: Key) -> None:
    """Its signatures are valid, and the root is the one that is trusted."""
    root = pem(certificate(ROOT_NAME, key, ROOT_NAME, key, True))
    chain = pem(certificate(LEAF_NAME, LEAF_KEY, ROOT_NAME, key, False)) + root
    with pytest.raises(IdentityError, match=r"is not signed.*ECDSA over P-256"):
        read(answer(), chain, root=root_of(root))


def test_the_days_of_a_certificate() -> None:
    a_day = datetime.timedelta(1)
    for start, days in ((DAY, 30), (DAY - 30 * a_day, 30)):
        good = certificate(LEAF_NAME, LEAF_KEY, ROOT_NAME, ROOT_KEY, False, days, start)
        assert read(answer(), pem(good, ROOT)) == read(answer())
    for start, days in ((DAY + a_day, 30), (DAY - 31 * a_day, 30)):
        bad = certificate(LEAF_NAME, LEAF_KEY, ROOT_NAME, ROOT_KEY, False, days, start)
        with pytest.raises(IdentityError, match="not valid on this day"):
            read(answer(), pem(bad, ROOT))


def test_days_and_roots() -> None:
    for day in (datetime.date(2025, 6, 3), datetime.date(2025, 7, 3)):
        assert read(answer(), day=day).issued == "2025-06-03"
    for day in (datetime.date(2025, 6, 2), datetime.date(2025, 7, 4)):
        with pytest.raises(IdentityError, match="not valid on this day"):
            read(answer(), day=day)
    with pytest.raises(IdentityError, match="trusted root"):
        read(answer(), root=INTEL_ROOT)
    with pytest.raises(IdentityError, match="not one certificate"):
        root_of(CHAIN)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"enclaveIdentity":{}}',
        b'{"signature":"00","enclaveIdentity":{}}',
        answer()[:-2] + b"}",
        answer().replace(b'"version":2', b'"version":2,"version":2'),
        b'{"enclaveIdentity":' + b"[" * 100_000,
        b"\xff" + answer(),
    ],
)
def test_what_is_no_answer(data: bytes) -> None:
    with pytest.raises(IdentityError):
        read(data)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "PCE"},
        {"version": 3},
        {"mrsigner": "00"},
        {"attributesMask": "zz"},
        {"tcbLevels": []},
        {"tcbLevels": [{}]},
        {"isvprodid": None},
        {"nextUpdate": "soon"},
        {"nextUpdate": "2025-13-03T10:17:43Z"},
        {"tcbLevels": [{**PLAIN["tcbLevels"][0], "tcbStatus": "Up\x1bToDate"}]},
    ],
)
def test_an_identity_of_another_form(change: dict[str, Any]) -> None:
    with pytest.raises(IdentityError):
        read(answer({**PLAIN, **change}))


def refused(identity: Identity, sigstruct: Sigstruct) -> list[str]:
    return [f.code for f in policy_for(None, identity=identity).check(sigstruct)]


def test_what_an_identity_asks_of_a_signature() -> None:
    identity, good = read(answer()), signed_enclave().blocks[0].sigstruct
    assert refused(identity, good) == []
    assert refused(replace(identity, mrsigner="0" * 64), good) == ["signer-unexpected"]
    assert refused(replace(identity, isvprodid=9), good) == ["isvprodid-unexpected"]
    assert refused(identity, replace(good, isvsvn=5)) == ["tcb-level-refused"]
    assert refused(identity, replace(good, isvsvn=4)) == ["tcb-level-refused"]
    said = [f.found for n in (5, 4) for f in identity.check(replace(good, isvsvn=n))]
    assert said == [f"ISVSVN 5: {identity.level_of(5)}", "ISVSVN 4: no level"]
    flags = good.attributes_flags
    assert refused(identity, replace(good, attributes_flags=flags | 0x10)) == [
        "identity-attributes"
    ]
    assert refused(replace(identity, attributes="11" + "0" * 30), good) == ["identity-attributes"]
    assert refused(replace(identity, miscselect="01000000"), good) == ["identity-attributes"]


def test_an_identity_and_a_pin_must_agree() -> None:
    identity = read(answer())
    pin = Pin("qe3", "qe3", identity.mrsigner, identity.isvprodid, 9)
    policy = policy_for(pin, identity=identity)
    assert (policy.signers_from, policy.min_isvsvn) == (AskedBy.IDENTITY, 9)
    assert "as the identity of 2025-06-03 says" in policy.claim
    for other in (
        replace(pin, enclave="pce"),
        replace(pin, mrsigner="0" * 64),
        replace(pin, isvprodid=7),
    ):
        with pytest.raises(ArgumentError, match="another enclave's") as caught:
            policy_for(other, identity=identity)
        expected = f"{other.enclave}, {other.mrsigner}, {other.isvprodid}"
        assert (caught.value.expected, caught.value.found) == (
            expected,
            f"qe3, {identity.mrsigner}, {identity.isvprodid}",
        )
    agreeing: dict[str, Any] = {"mrsigners": [identity.mrsigner], "isvprodid": identity.isvprodid}
    assert policy_for(pin, identity=identity, **agreeing).signers == (identity.mrsigner,)
    for option in ({"mrsigners": ["0" * 64]}, {"isvprodid": 7}):
        with pytest.raises(ArgumentError, match="than the option"):
            policy_for(pin, identity=identity, **{**agreeing, **option})


def test_a_report_says_which_tcb_level_the_enclave_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = signed_enclave()
    verdict = case.compare(policy=policy_for(None, identity=read(answer())))
    assert verdict.outcome is Outcome.IDENTICAL
    (note, *_) = (f for f in verdict.findings if f.code == "tcb-level")
    assert note.severity is Severity.NOTE
    assert "TCB level of ISVSVN 7 is OutOfDate since 2021-11-10 (INTEL-SA-00615)" in note.message
    revoked = case.compare(
        policy=policy_for(None, identity=replace(read(answer()), levels=read(answer()).levels[:1]))
    )
    assert revoked.outcome is Outcome.DIFFERS
    assert "tcb-level-refused" in codes(revoked)


def test_what_is_noted_of_a_tcb_level() -> None:
    identity, good = read(answer()), signed_enclave().blocks[0].sigstruct
    said = {
        number: [
            (f.expected, f.found, f.hint) for f in identity.notes(replace(good, isvsvn=number))
        ]
        for number in (4, 7, 8, 9)
    }
    wanted, newer = "ISVSVN 8 or more: UpToDate", "a newer enclave has a higher level"
    assert said == {
        4: [],
        7: [(wanted, "ISVSVN 7", newer)],
        8: [(wanted, "ISVSVN 8", "nothing to do")],
        9: [(wanted, "ISVSVN 9", "nothing to do")],
    }


def test_the_verbs_take_an_identity(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = signed_enclave()
    files = {"b": case.built, "s": case.signed, "c": case.config}
    files |= {"q.json": answer(), "chain.pem": CHAIN, "root.pem": pem(ROOT)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    # The catalogue's pin of QE3 asks for Intel's own signer.
    monkeypatch.setattr("sgx_enclaves.cli.arguments.pin_named", lambda name: None)
    identity = ["--identity", "q.json", "--identity-chain", "chain.pem"]
    identity += ["--identity-date", DAY.isoformat()]
    own = [*identity, "--identity-root", "root.pem"]
    assert main(["compare", "b", "s", "--config", "c", *own]) == 0
    assert "OutOfDate since 2021-11-10" in capsys.readouterr().out
    assert main(["verify-signature", "s", *own]) == 0
    assert "OutOfDate since 2021-11-10" in capsys.readouterr().out
    assert main(["compare", "b", "s", "--config", "c", *identity]) == 2
    assert "does not end at the trusted root" in capsys.readouterr().err


def test_the_pinned_root_is_intels() -> None:
    """The key stands in Intel's QvE, as INTEL_ROOT_PUB_KEY."""
    point = "0ba9c4c0c0c86193a3fe23d6b02cda10a8bbd4e88e48b4458561a36e705525f5"
    point += "67918e2edc88e40d860bd0cc4ee26aacc988e505a953558c453f6b0904ae7394"
    prefix = "3059301306072a8648ce3d020106082a8648ce3d03010703420004"
    assert hashlib.sha256(bytes.fromhex(prefix + point)).hexdigest() == INTEL_ROOT
