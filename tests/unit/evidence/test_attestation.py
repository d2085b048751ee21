# SPDX-License-Identifier: GPL-2.0-or-later
"""Attestations: DSSE's own vector, securesystemslib as a judge, and every refusal."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sgx_enclaves.enclave.metadata import Block
from sgx_enclaves.errors import SigningError
from sgx_enclaves.evidence.envelope import (
    Envelope,
    key_of,
    load_key,
    load_signing_key,
    read_envelope,
    signed,
    signers,
)
from tests.support.keys import foreign_key, vendor_key
from tests.support.signed import Case
from tests.unit.conftest import Run
from tests.unit.evidence.conftest import KINDS, as_built_here, edited, statements, write_key

# The report of who compared two files, and of who has built the unsigned one.
COMPARED, BUILT = "report/report.json", "built/report.json"
# The example of DSSE's specification (protocol.md): P-256, r and s in a row.
VECTOR = {
    "payload": "aGVsbG8gd29ybGQ=",
    "payloadType": "http://example.com/HelloWorld",
    "signatures": [
        {
            "sig": "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDA"
            "ajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="
        }
    ],
}
VECTOR_KEY = ec.EllipticCurvePublicNumbers(
    46950820868899156662930047687818585632848591499744589407958293238635476079160,
    5640078356564379163099075877009565129882514886557779369047442380624545832820,
    ec.SECP256R1(),
).public_key()


def test_the_specification_s_vector() -> None:
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    envelope = read_envelope(json.dumps(VECTOR).encode(), "vector")
    assert envelope.message == expected
    key = key_of(VECTOR_KEY, "vector")
    assert signers(envelope, [key], "vector") == {key.keyid}
    other = Envelope(b"hello worle", envelope.payload_type, envelope.signatures)
    assert signers(other, [key], "vector") == frozenset()


def test_lengths_count_bytes_of_utf8() -> None:
    assert Envelope(b"", "ä").message == b"DSSEv1 2 \xc3\xa4 0 "


def test_both_alphabets_of_base64() -> None:
    payload = b"\xff\xef\xfe" * 9
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        plain = {**VECTOR, "payload": encode(payload).decode()}
        assert read_envelope(json.dumps(plain).encode(), "x").payload == payload


@pytest.mark.parametrize("kind", KINDS)
def test_securesystemslib_and_we_accept_each_other(folder: Path, kind: str) -> None:
    judges = pytest.importorskip(
        "securesystemslib.dsse", reason="securesystemslib is not installed"
    )
    other = importlib.import_module("securesystemslib.signer")
    refusal = importlib.import_module("securesystemslib.exceptions").VerificationError
    private: Any = load_pem_private_key((folder / f"{kind}.pem").read_bytes(), None)
    key, signer = load_signing_key((folder / f"{kind}.pem").read_bytes(), kind, None)
    ours = signed(Envelope(b"payload", "type"), key, signer)
    schemes = {"p256": "ecdsa-sha2-nistp256", "p384": "ecdsa-sha2-nistp384"}
    if kind == "p521":
        pytest.skip("securesystemslib has no scheme for P-521")
    public = other.SSlibKey.from_crypto(private.public_key(), key.keyid, schemes.get(kind))
    judge = judges.Envelope.from_dict(json.loads(ours.as_json()))
    assert set(judge.verify([public], 1)) == {key.keyid}
    judge.payload = b"Payload"
    with pytest.raises(refusal):
        judge.verify([public], 1)
    theirs = judges.Envelope(b"theirs", "type", {})
    theirs.sign(other.CryptoSigner(private, public))
    read = read_envelope(json.dumps(theirs.to_dict()).encode(), "theirs")
    assert signers(read, [key], "theirs") == {key.keyid}


@pytest.mark.parametrize("kind", KINDS)
def test_attest_and_verify(folder: Path, run: Run, case: Case, kind: str) -> None:
    assert run("attest", BUILT, "--key", f"{kind}.pem", "-o", "a.jsonl")[0] == 0
    made = {s["predicateType"]: s for s in statements(folder / "a.jsonl")}
    unsigned = hashlib.sha256(case.built).hexdigest()
    vendor = hashlib.sha256(case.signed).hexdigest()
    provenance = made["https://slsa.dev/provenance/v1"]
    assert provenance["_type"] == "https://in-toto.io/Statement/v1"
    assert provenance["subject"] == [
        {"name": "sgx-enclave(s:unsigned)", "digest": {"sha256": unsigned}}
    ]
    definition = provenance["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["release"]["name"] == "demo"
    assert [d["digest"]["sha256"] for d in definition["resolvedDependencies"]] == [
        "1" * 64,
        "2" * 64,
    ]
    equal = made["urn:sgx-enclaves:equivalence:v1"]
    assert equal["subject"] == [{"name": "s.so", "digest": {"sha256": vendor}}]
    assert equal["predicate"]["verdict"] == "identical"
    assert equal["predicate"]["enclaves"][0]["policy"]["signers_from"] == "option"
    result = made["https://in-toto.io/attestation/svr/v0.1"]["predicate"]
    assert result["properties"] == ["SGX_ENCLAVES_IDENTICAL", "SGX_ENCLAVES_REPRODUCIBLE"]
    head = json.loads((folder / "built/head.json").read_text())
    assert result["timeCreated"] == head["made_at"]
    verify = ("verify-attestation", "a.jsonl", "--key", f"{kind}.pub")
    status, out, err = run(*verify, "--file", "b.so", "--file", "s.so")
    assert (status, err) == (0, "")
    assert f"unsigned enclave {unsigned}" in out
    assert "s.so: vouched for by 1 signers" in out
    (folder / "other.so").write_bytes(case.signed + b"\0")
    status, out, _ = run(*verify, "--file", "other.so", "--json")
    assert status == 1
    assert json.loads(out)["files"] == [
        {"file": "other.so", "vouched_for": False, "signers": [], "only_unsigned": False}
    ]


@pytest.mark.parametrize("key", [vendor_key, foreign_key])
def test_a_file_with_our_payload_and_other_metadata_is_not_vouched_for(
    folder: Path, run: Run, case: Case, key: Callable[[], rsa.RSAPrivateKey]
) -> None:
    """Its unsigned enclave is the attested one, and yet it may run other code."""

    def changed(block: Block) -> Block:
        return replace(block, header=replace(block.header, tcs_policy=0))

    (folder / "other.so").write_bytes(case.hostile(changed, key=key()))
    assert run("attest", BUILT, "--key", "p256.pem", "-o", "a")[0] == 0
    verify = ("verify-attestation", "a", "--key", "p256.pub")
    assert run(*verify, "--file", "s.so")[0] == 0
    status, out, _ = run(*verify, "--file", "other.so")
    assert status == 1
    assert "NOT vouched for by 0 signers: only the unsigned enclave in it is" in out


def test_a_bare_comparison_says_nothing_of_the_build(folder: Path, run: Run) -> None:
    assert run("attest", COMPARED, "--key", "p256.pem", "-o", "a")[0] == 0
    kinds = [s["predicateType"] for s in statements(folder / "a")]
    assert kinds == ["urn:sgx-enclaves:equivalence:v1", "https://in-toto.io/attestation/svr/v0.1"]


ONE_COMPARED = "1 signer compared s, none says that he built it (no statement of provenance)"
TWO_COMPARED = ONE_COMPARED.replace("1 signer", "2 signers")
TOO_FEW = "too few signers vouch for s (expected 2 different keys, found 1: "


@pytest.mark.parametrize(
    ("first", "second", "threshold", "says"),
    [
        (COMPARED, COMPARED, 1, TWO_COMPARED),
        (COMPARED, COMPARED, 2, TWO_COMPARED),
        (BUILT, COMPARED, 2, TOO_FEW),
        (COMPARED, BUILT, 2, TOO_FEW),
        (BUILT, COMPARED, 1, ""),
        (BUILT, BUILT, 2, ""),
    ],
)
def test_who_only_compared_has_not_built(
    folder: Path, run: Run, first: str, second: str, threshold: int, says: str
) -> None:
    for report, key in ((first, "p256"), (second, "ed25519")):
        assert run("attest", report, "--key", f"{key}.pem", "-o", key)[0] == 0
    both = ("p256", "ed25519", "--key", "p256.pub", "--key", "ed25519.pub")
    verify = ("verify-attestation", *both, "--threshold", threshold)
    for file in ("s.so", "b.so"):
        status, out, err = run(*verify, "--file", file)
        assert status == (2 if says else 0)
        assert says in err
        assert ("vouched for" in out) == (not says)
    assert ("only compared by" in err) == (says == TOO_FEW)
    assert ("sign a report of verify-release" in err) == (says == TWO_COMPARED)


@pytest.mark.parametrize("lazy", [0, 1, 2])
def test_who_signs_only_one_of_the_statements(folder: Path, run: Run, lazy: int) -> None:
    """Provenance by one and equivalence by another are not two who built; nor is a result."""
    assert run("attest", BUILT, "-o", "bare")[0] == 0
    lines = (folder / "bare").read_text().splitlines()
    for key, chosen in (("p256", lines), ("ed25519", lines[lazy : lazy + 1])):
        (folder / "some").write_text("".join(f"{line}\n" for line in chosen))
        assert run("attest", "some", "--key", f"{key}.pem", "-o", key)[0] == 0
    verify = ("verify-attestation", "p256", "ed25519", "--key", "p256.pub", "--key", "ed25519.pub")
    twice = (*verify, "--threshold", 2)
    assert run(*twice)[0] == (2 if lazy else 0)
    # Who says that he built it has not said anything of the signed file.
    assert [run(*twice, "--file", file)[0] for file in ("b.so", "s.so")] == [
        [0, 1],
        [2, 2],
        [2, 2],
    ][lazy]
    (folder / "p256").write_text((folder / "p256").read_text().splitlines()[0])
    status, out, _ = run(*verify, "--file", "b.so", "--file", "s.so")
    assert status == (0 if lazy == 1 else 1)
    assert ("s.so: NOT vouched for" in out) == (lazy != 1)


def test_an_equivalence_stands_for_no_file_whose_build_it_does_not_name(
    folder: Path, run: Run
) -> None:
    assert run("attest", BUILT, "-o", "bare")[0] == 0
    provenance, equivalence, _ = (folder / "bare").read_text().splitlines()
    verify = ("verify-attestation", "a", "--key", "p256.pub", "--file", "s.so")

    def verified(change: Callable[[list[dict[str, Any]]], object]) -> tuple[int, str, str]:
        statement = json.loads(equivalence)
        change(statement["predicate"]["enclaves"])
        (folder / "bare").write_text(f"{provenance}\n{json.dumps(statement)}\n")
        assert run("attest", "bare", "--key", "p256.pem", "-o", "a", "--force")[0] == 0
        return run(*verify)

    other = {"name": "s", "verdict": "identical", "unsigned": {"sha256": "7" * 64}}
    assert verified(lambda enclaves: None)[0] == 0
    status, out, _ = verified(lambda enclaves: enclaves.clear())
    assert status == 1
    assert "s.so: NOT vouched for by 0 signers" in out
    status, _, err = verified(lambda enclaves: enclaves.insert(0, {**enclaves[0], **other}))
    assert status == 2
    assert "the signers disagree about s" in err
    status, _, err = verified(
        lambda enclaves: enclaves.append({**enclaves[0], **other, "name": "t"})
    )
    assert status == 2
    assert "1 signer compared t, none says that he built it" in err


def rebuilders(
    folder: Path, run: Run, change: Callable[[dict[str, Any]], object]
) -> tuple[str, ...]:
    """Two of them, with different reports; the second one's has a change."""

    def another(report: dict[str, Any]) -> None:
        as_built_here(report)
        report["sources"][0]["url"] = "https://mirror.example/demo.tar.gz"
        change(report)

    assert (
        run("attest", edited(folder, as_built_here, "one"), "--key", "p256.pem", "-o", "a")[0] == 0
    )
    second = edited(folder, another, "two")
    assert run("attest", second, "--key", "ed25519.pem", "-o", "b")[0] == 0
    return ("verify-attestation", "a", "b", "--key", "p256.pub", "--key", "ed25519.pub")


def test_two_of_two_rebuilders(folder: Path, run: Run) -> None:
    verify = rebuilders(folder, run, lambda report: None)
    assert (folder / "one/report.json").read_bytes() != (folder / "two/report.json").read_bytes()
    assert run(*verify, "--threshold", 2, "--file", "s.so")[0] == 0
    status, _, err = run(*verify, "--threshold", 3)
    assert status == 2
    assert "too few signers vouch for s (expected 3 different keys, found 2:" in err


def test_rebuilders_who_disagree(folder: Path, run: Run) -> None:
    def other_bytes(report: dict[str, Any]) -> None:
        report["enclaves"][0]["built"]["sha256"] = "3" * 64

    status, _, err = run(*rebuilders(folder, run, other_bytes), "--threshold", 1)
    assert status == 2
    assert "the signers disagree about s" in err


def test_one_key_twice_is_one(folder: Path, run: Run) -> None:
    for name, into in (("a", "one"), ("b", "two")):
        report = edited(folder, as_built_here, into)
        assert run("attest", report, "--key", "p256.pem", "-o", name)[0] == 0
    shutil.copy(folder / "p256.pub", folder / "copy.pub")
    keys = ("--key", "p256.pub", "--key", "copy.pub")
    assert run("verify-attestation", "a", "b", *keys)[0] == 0
    status, _, err = run("verify-attestation", "a", "b", *keys, "--threshold", 2)
    assert status == 2
    assert "too few signers" in err


def test_a_second_signature_in_the_same_envelopes(folder: Path, run: Run) -> None:
    run("attest", BUILT, "--key", "p256.pem", "-o", "a")
    assert run("attest", "a", "--key", "ed25519.pem", "-o", "b")[0] == 0
    keys = ("--key", "p256.pub", "--key", "ed25519.pub")
    assert run("verify-attestation", "b", *keys, "--threshold", 2)[0] == 0
    assert len(json.loads((folder / "b").read_text().splitlines()[0])["signatures"]) == 2


def test_bare_statements_can_be_signed_afterwards(folder: Path, run: Run) -> None:
    assert run("attest", BUILT, "-o", "bare")[0] == 0
    assert run("verify-attestation", "bare", "--key", "p256.pub")[0] == 2
    assert run("attest", "bare", "--key", "p256.pem", "-o", "a")[0] == 0
    assert run("verify-attestation", "a", "--key", "p256.pub")[0] == 0
    (folder / "bare").write_text('{"_type": "https://in-toto.io/Statement/v1"}\n')
    status, _, err = run("attest", "bare", "--key", "p256.pem", "-o", "b")
    assert status == 2
    assert "subject does not fit" in err
    assert not (folder / "b").exists()


def test_a_verdict_that_is_not_identical_is_seen(folder: Path, run: Run) -> None:
    def differs(report: dict[str, Any]) -> None:
        as_built_here(report)
        report["verdict"] = report["enclaves"][0]["verdict"] = "differs"
        report["reproducible"] = False

    assert run("attest", edited(folder, differs), "--key", "p256.pem", "-o", "a")[0] == 0
    kinds = [s["predicateType"] for s in statements(folder / "a")]
    assert "https://in-toto.io/attestation/svr/v0.1" not in kinds
    status, out, _ = run("verify-attestation", "a", "--key", "p256.pub", "--file", "s.so")
    assert status == 1
    assert "equivalence (differs)" in out


def forged(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """The first envelope of `a` with a change."""
    first, *others = (folder / "a").read_text().splitlines()
    envelope = json.loads(first)
    change(envelope)
    (folder / "a").write_text("\n".join([json.dumps(envelope), *others]))


def _other_payload(envelope: dict[str, Any]) -> None:
    payload = base64.b64decode(envelope["payload"]).replace(b'"demo"', b'"Demo"', 1)
    envelope["payload"] = base64.b64encode(payload).decode()


def _other_payload_no_keyid(envelope: dict[str, Any]) -> None:
    _other_payload(envelope)
    envelope["signatures"][0].pop("keyid")


def _set(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda envelope: envelope.update({name: value})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_other_payload, "signature 1 is bad"),
        (_other_payload_no_keyid, "no signature is by one of the keys"),
        (_set("payloadType", "text/plain"), "signature 1 is bad"),
        (_set("payload", "no base64!"), "no base64"),
        (_set("signatures", []), "signatures does not fit"),
        (_set("signatures", [{"sig": "AAAA"}] * 65), "signatures does not fit"),
        (_set("signatures", "all"), "signatures does not fit"),
        (lambda envelope: envelope.pop("payload"), "payload does not fit"),
    ],
)
def test_a_bad_envelope_is_refused_whole(
    folder: Path, run: Run, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    run("attest", BUILT, "--key", "p256.pem", "-o", "a")
    assert run("verify-attestation", "a", "--key", "p256.pub")[0] == 0
    forged(folder, change)
    status, out, err = run("verify-attestation", "a", "--key", "p256.pub")
    assert (status, out) == (2, "")
    assert says in err


def test_signed_by_nobody_that_is_known(folder: Path, run: Run) -> None:
    run("attest", BUILT, "--key", "p256.pem", "-o", "a")
    status, out, err = run("verify-attestation", "a", "--key", "p384.pub")
    assert (status, out) == (2, "")
    assert "no signature is by one of the keys" in err
    assert "nobody is trusted" in run("verify-attestation", "a")[2]


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"[]", "object"),
        (b"{}", "_type"),
        (b'{"_type": "https://in-toto.io/Statement/v0.1"}', "Statement/v1"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"_type": 1, "_type": 1}', "twice"),
        (b"\xff", "no JSON text"),
    ],
)
def test_a_signed_payload_that_is_no_statement(
    folder: Path, run: Run, payload: bytes, says: str
) -> None:
    key = load_signing_key((folder / "p256.pem").read_bytes(), "p256.pem", None)
    (folder / "a").write_text(
        signed(Envelope(payload, "application/vnd.in-toto+json"), *key).as_json()
    )
    status, out, err = run("verify-attestation", "a", "--key", "p256.pub")
    assert (status, out) == (2, "")
    assert says in err


def test_another_type_of_payload_is_refused(folder: Path, run: Run) -> None:
    key = load_signing_key((folder / "p256.pem").read_bytes(), "p256.pem", None)
    (folder / "a").write_text(signed(Envelope(b"{}", "application/json"), *key).as_json())
    assert "no in-toto statement" in run("verify-attestation", "a", "--key", "p256.pub")[2]


@pytest.mark.parametrize(
    ("content", "times", "says"),
    [
        (b"", 1, "there is no attestation in it"),
        (b"\n", 2, "there is no attestation in it"),
        (b"nonsense", 1, "no JSON text"),
        (b"[", 1 << 20, "nested too deep"),
        (b'{"payload": ', 1 << 20, "nested too deep"),
        (b" ", (32 << 20) + 1, "too large"),
    ],
    ids=["empty", "blank", "nonsense", "lists", "mappings", "large"],
)
def test_what_is_no_attestation(
    folder: Path, run: Run, content: bytes, times: int, says: str
) -> None:
    (folder / "a").write_bytes(content * times)
    status, out, err = run("verify-attestation", "a", "--key", "p256.pub")
    assert (status, out) == (2, "")
    assert says in err


# Signing elsewhere.

SIGNER = """
import sys
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
key = load_pem_private_key(open(sys.argv[1], "rb").read(), None)
message = sys.stdin.buffer.read()
assert message.startswith(b"DSSEv1 28 application/vnd.in-toto+json ")
r, s = utils.decode_dss_signature(key.sign(message, ec.ECDSA(SHA256())))
sys.stdout.buffer.write(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
"""


def test_a_command_signs(folder: Path, run: Run) -> None:
    (folder / "signer.py").write_text(SIGNER)
    command = f"{sys.executable} signer.py p256.pem"
    attest = ("attest", BUILT, "--sign-with", command, "-o")
    assert run(*attest, "a", "--public-key", "p256.pub")[0] == 0
    assert run("verify-attestation", "a", "--key", "p256.pub")[0] == 0
    for public, says in (("p384.pub", "does not fit the key"), ("ed25519.pub", "does not fit")):
        status, _, err = run(*attest, "b", "--public-key", public)
        assert status == 2
        assert says in err
        assert not (folder / "b").exists()
    assert "--sign-with needs --public-key" in run(*attest, "b")[2]


def test_openssl_signs(folder: Path, run: Run) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    command = "openssl dgst -sha256 -sign p256.pem"
    attest = ("attest", BUILT, "--sign-with", command, "-o", "a")
    assert run(*attest, "--public-key", "p256.pub")[0] == 0
    assert run("verify-attestation", "a", "--key", "p256.pub")[0] == 0


def test_a_command_that_fails_writes_nothing(folder: Path, run: Run) -> None:
    for command in ("false", "/nowhere", "'"):
        status, _, err = run(
            "attest",
            BUILT,
            "--sign-with",
            command,
            "--public-key",
            "p256.pub",
            "-o",
            "a",
        )
        assert status == 2
        assert "the signing command" in err
        assert not (folder / "a").exists()


def test_keys_of_other_kinds_are_refused(folder: Path) -> None:
    others: dict[str, Any] = {
        "RSA": rsa.generate_private_key(65537, 2048),
        "secp256k1": ec.generate_private_key(ec.SECP256K1()),
    }
    for name, private in others.items():
        write_key(folder, name, private)
        with pytest.raises(SigningError, match="no key for attestations"):
            load_signing_key((folder / f"{name}.pem").read_bytes(), name, None)
        with pytest.raises(SigningError, match="no key for attestations"):
            load_key((folder / f"{name}.pub").read_bytes(), name)
    with pytest.raises(SigningError, match="neither a key nor a certificate"):
        load_key(b"text", "text")


def test_a_raw_signature_of_another_length_is_none(folder: Path) -> None:
    private: Any = load_pem_private_key((folder / "p256.pem").read_bytes(), None)
    key = load_key((folder / "p256.pub").read_bytes(), "p256.pub")
    r, s = decode_dss_signature(private.sign(b"m", ec.ECDSA(SHA256())))
    raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    assert key.verifies(b"m", raw)
    assert not any(key.verifies(b"m", bad) for bad in (raw[:-1], raw + b"\0", b"", bytes(64)))


# OpenPGP.


@pytest.fixture(scope="session")
def gnupg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of GnuPG with two keys; its agent ends with the tests."""
    if shutil.which("gpg") is None or shutil.which("gpgv") is None:
        pytest.skip("gpg and gpgv are not installed")
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)
    for name in ("one@example.org", "two@example.org"):
        make = ("--passphrase", "", "--quick-generate-key", name, "ed25519", "sign", "never")
        gpg(home, *make)
    yield home
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True, timeout=60)


def gpg(home: Path, *arguments: str) -> bytes:
    command = ["gpg", "--homedir", str(home), "--batch", "--yes", "--quiet", *arguments]
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout


@pytest.mark.parametrize("armor", [(), ("--armor",)])
def test_a_detached_openpgp_signature(
    folder: Path, run: Run, gnupg: Path, armor: tuple[str, ...]
) -> None:
    assert run("attest", BUILT, "-o", "a")[0] == 0
    end = "asc" if armor else "sig"
    gpg(gnupg, *armor, "-u", "one@example.org", "--output", f"a.{end}", "--detach-sign", "a")
    (folder / "one.gpg").write_bytes(gpg(gnupg, *armor, "--export", "one@example.org"))
    (folder / "two.gpg").write_bytes(gpg(gnupg, *armor, "--export", "two@example.org"))
    status, out, err = run("verify-attestation", "a", "--keyring", "one.gpg", "--file", "s.so")
    assert (status, err) == (0, "")
    assert "equivalence (identical), signed by" in out
    status, out, err = run("verify-attestation", "a", "--keyring", "two.gpg")
    assert (status, out) == (2, "")
    assert "not good by a key of the keyring" in err
    (folder / "a").write_text((folder / "a").read_text().replace("identical", "Identical"))
    status, out, err = run("verify-attestation", "a", "--keyring", "one.gpg")
    assert (status, out) == (2, "")
    assert "not good by a key of the keyring" in err
    (folder / f"a.{end}").unlink()
    assert run("verify-attestation", "a", "--keyring", "one.gpg")[0] == 2


def test_both_signatures_of_one_rebuilder_are_one(folder: Path, run: Run, gnupg: Path) -> None:
    run("attest", BUILT, "--key", "p256.pem", "-o", "a")
    gpg(gnupg, "-u", "one@example.org", "--output", "a.sig", "--detach-sign", "a")
    (folder / "one.gpg").write_bytes(gpg(gnupg, "--export", "one@example.org"))
    both = ("verify-attestation", "a", "--key", "p256.pub", "--keyring", "one.gpg")
    assert run(*both)[0] == 0
    assert "too few signers" in run(*both, "--threshold", 2)[2]


def test_a_damaged_keyring(folder: Path, run: Run, gnupg: Path) -> None:
    run("attest", BUILT, "-o", "a")
    gpg(gnupg, "-u", "one@example.org", "--output", "a.sig", "--detach-sign", "a")
    broken = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nA\n-----END PGP PUBLIC KEY BLOCK-----\n"
    for content in ("", "text", broken):
        (folder / "ring").write_text(content)
        status, out, _ = run("verify-attestation", "a", "--keyring", "ring")
        assert (status, out) == (2, "")
