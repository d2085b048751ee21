# SPDX-License-Identifier: GPL-2.0-or-later
"""Signing with a key: the file that Intel's tool writes, byte for byte.

The tool wrote each golden file twice, with `sign` and with `catsig`.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.metadata import DIR_EXTEND, Descriptor, ExtendEntry
from sgx_enclaves.enclave.regenerate import Regenerated, regenerate
from sgx_enclaves.enclave.sdk import generation_named
from sgx_enclaves.enclave.sign import (
    Signer,
    bcd_date,
    date_of_signing_data,
    extract,
    load_key,
    mrsigner_of,
    parse_signatures,
    sign,
    sign_with,
    signed_descriptor,
    signing_data,
    unsigned,
)
from sgx_enclaves.errors import GraftError, SigningError
from tests.enclaves.sdk import sdk_releases
from tests.enclaves.synthetic import small_enclave
from tests.support.keys import sign_sigstruct
from tests.unit.enclave.golden import DATA, image_shapes, lines, write_image
from tests.unit.enclave.test_pages import with_table

PEM = (DATA / "throw-away-test-key.pem").read_bytes()
RECORDS = list(lines("signed.jsonl"))
DATE = datetime.date(2024, 2, 29)
DAY = datetime.datetime(2024, 2, 29, tzinfo=datetime.timezone.utc)


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return load_key(PEM)


def prepared(record: dict[str, Any]) -> tuple[EnclaveImage, Regenerated]:
    image = EnclaveImage.parse(write_image(image_shapes()[record["image"]], record["sdk"]))
    config = Config.parse(record["config"].encode())
    return image, regenerate(image, config, generation_named(record["sdk"]))


def small(**config: int) -> tuple[EnclaveImage, Regenerated]:
    image = EnclaveImage.parse(small_enclave())
    return image, regenerate(image, Config(config), generation_named("2.25"))


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: f"{r['sdk']}-{r['image']}")
def test_the_file_equals_the_tools(record: dict[str, Any], key: rsa.RSAPrivateKey) -> None:
    image, regenerated = prepared(record)
    date = datetime.date.fromisoformat(record["date"])
    result = sign(image, regenerated, key, date)
    material = sign_sigstruct(regenerated.blocks[0].sigstruct, key, date).signed_message
    assert hashlib.sha256(material).hexdigest() == record["material_sha256"]
    signature = key.sign(material, padding.PKCS1v15(), hashes.SHA256())
    assert hashlib.sha256(signature).hexdigest() == record["signature_sha256"]
    assert hashlib.sha256(result).hexdigest() == record["file_sha256"]


def test_every_release_has_signed_files() -> None:
    assert {record["sdk"] for record in RECORDS} == set(sdk_releases())


def test_another_date_or_key_gives_another_file(key: rsa.RSAPrivateKey) -> None:
    image, regenerated = prepared(RECORDS[-1])
    other_day = sign(image, regenerated, key, datetime.date(2024, 3, 1))
    other_key = rsa.generate_private_key(3, 3072)
    for result in (other_day, sign(image, regenerated, other_key, DATE)):
        assert hashlib.sha256(result).hexdigest() != RECORDS[-1]["file_sha256"]


def test_only_the_metadata_area_is_written(key: rsa.RSAPrivateKey) -> None:
    image, regenerated = small()
    result = sign(image, regenerated, key, DATE)
    assert result[: image.descriptor_offset] == image.data[: image.descriptor_offset]
    assert result[image.descriptor_end :] == image.data[image.descriptor_end :]
    blocks = Descriptor.parse(EnclaveImage.parse(result).descriptor).blocks
    assert {b.sigstruct.date for b in blocks} == {0x20240229}


def test_the_second_signature(key: rsa.RSAPrivateKey) -> None:
    image, regenerated = small(EnableIPPFIPS=1, MiscSelect=1, MiscMask=0xFFFFFFFE)
    assert len(regenerated.blocks) == 2
    fips_key = rsa.generate_private_key(65537, 3072)
    result = sign(image, regenerated, key, DATE, fips_key)
    assert sign(image, regenerated, key, DATE, fips_key) == result
    for block in Descriptor.parse(EnclaveImage.parse(result).descriptor).blocks:
        fips = block.fips_signature
        assert fips is not None
        assert int.from_bytes(fips.modulus, "little") == fips_key.public_key().public_numbers().n
        message = block.sigstruct.serialise()
        verify = fips_key.public_key().verify
        verify(fips.signature, message, padding.PKCS1v15(), hashes.SHA256())
    assert sign(image, regenerated, key, DATE) != result


def test_what_the_tool_put_behind_the_file_cannot_be_taken_off(key: rsa.RSAPrivateKey) -> None:
    image, regenerated = small()
    signed = EnclaveImage.parse(sign(image, regenerated, key, DATE))
    (block,) = Descriptor.parse(signed.descriptor).blocks
    provider = with_table(block, DIR_EXTEND, ExtendEntry(0x1002, 32, 64).serialise())
    area = provider.serialise().ljust(image.descriptor_size, b"\0")
    with pytest.raises(SigningError, match="EnableOSSLFIPS"):
        unsigned(EnclaveImage.parse(signed.with_descriptor(area)))
    # Other extensions are part of the metadata.
    image = EnclaveImage.parse(small_enclave(sdk="2.26"))
    regenerated = regenerate(image, Config({"EnableIPPFIPS": 1}), generation_named("2.26"))
    assert regenerated.blocks[0].extensions
    signed = EnclaveImage.parse(sign(image, regenerated, key, DATE))
    assert unsigned(signed) == image.data


def pem(private: Any, encryption: Any = None) -> bytes:
    data: bytes = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        encryption or serialization.NoEncryption(),
    )
    return data


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: b"", "no usable private key"),
        (
            lambda: b"-----BEGIN PRIVATE KEY-----\nxx\n-----END PRIVATE KEY-----\n",
            "no usable private key",
        ),
        (lambda: pem(ec.generate_private_key(ec.SECP256R1())), "not an RSA key"),
        (lambda: pem(rsa.generate_private_key(3, 2048)), "2048 bits, exponent 3"),
        (lambda: pem(rsa.generate_private_key(65537, 3072)), "3072 bits, exponent 65537"),
        (
            lambda: pem(
                rsa.generate_private_key(3, 2048), serialization.BestAvailableEncryption(b"a")
            ),
            "the key is encrypted.*--passphrase-file",
        ),
    ],
    ids=["empty", "broken", "ec", "size", "exponent", "encrypted"],
)
def test_keys_that_cannot_sign_enclaves(make: Callable[[], bytes], message: str) -> None:
    with pytest.raises(SigningError, match=message):
        load_key(make(), "k.pem")


def test_the_traditional_format_is_read_too(key: rsa.RSAPrivateKey) -> None:
    assert load_key(pem(key)).private_numbers() == key.private_numbers()


def test_mrsigner(key: rsa.RSAPrivateKey) -> None:
    image, regenerated = small()
    result = sign(image, regenerated, key, DATE)
    (block,) = Descriptor.parse(EnclaveImage.parse(result).descriptor).blocks
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert mrsigner_of(public) == mrsigner_of(PEM) == block.sigstruct.mrsigner
    small_key = rsa.generate_private_key(3, 2048).public_key()
    short = small_key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    elliptic = pem(ec.generate_private_key(ec.SECP256R1()))
    for bad, message in ((short, "2048 bits"), (b"nothing", "neither"), (elliptic, "not an RSA")):
        with pytest.raises(SigningError, match=message):
            mrsigner_of(bad, "k.pem")


def test_an_encrypted_key(key: rsa.RSAPrivateKey) -> None:
    locked = pem(key, serialization.BestAvailableEncryption(b"secret"))
    assert load_key(locked, "k.pem", b"secret").private_numbers() == key.private_numbers()
    with pytest.raises(SigningError, match="passphrase is wrong"):
        load_key(locked, "k.pem", b"other")
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    certificate = b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"
    for data in (public, certificate):
        with pytest.raises(SigningError, match="a public key cannot sign"):
            load_key(data)
    # One passphrase is given for several keys, of which not all need it.
    assert load_key(pem(key), "k.pem", b"other").private_numbers() == key.private_numbers()


def test_every_form_of_a_signer(key: rsa.RSAPrivateKey) -> None:
    image, regenerated = small()
    signed = sign(image, regenerated, key, DATE)
    (block,) = Descriptor.parse(EnclaveImage.parse(signed).descriptor).blocks
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, DAY, DAY)
    certificate = builder.sign(key, hashes.SHA256())
    encodings = (serialization.Encoding.PEM, serialization.Encoding.DER)
    plain = serialization.NoEncryption()
    forms = [
        signed,
        block.sigstruct.serialise(),
        *(certificate.public_bytes(e) for e in encodings),
        *(
            key.public_key().public_bytes(e, serialization.PublicFormat.SubjectPublicKeyInfo)
            for e in encodings
        ),
        *(key.private_bytes(e, serialization.PrivateFormat.PKCS8, plain) for e in encodings),
    ]
    assert {mrsigner_of(form) for form in forms} == {block.sigstruct.mrsigner}
    with pytest.raises(SigningError, match="0 signers"):
        mrsigner_of(image.data)
    with pytest.raises(SigningError, match="neither a key nor a certificate"):
        mrsigner_of(b"\x30\x00")


def test_a_signature_that_was_made_elsewhere(key: rsa.RSAPrivateKey) -> None:
    """The same file as with the key: what gendata gives out, catsig takes back."""
    image, regenerated = small()
    date = bcd_date(DATE)
    data = signing_data(regenerated, date)
    assert len(data) == 256
    assert date_of_signing_data(data) == date
    raw = key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    attached = sign_with(image, regenerated, key.public_key(), lambda _: raw, date)
    assert attached == sign(image, regenerated, key, DATE)
    with pytest.raises(SigningError, match="not the data that sign-data writes"):
        date_of_signing_data(data[:-1])


def returning(raw: bytes) -> Signer:
    return lambda _: raw


def test_a_signature_that_does_not_fit(key: rsa.RSAPrivateKey) -> None:
    image, regenerated = small()
    date = bcd_date(DATE)
    data = signing_data(regenerated, date)
    good = key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    for raw, message in (
        (good[:-1], "383 bytes"),
        (b"", "0 bytes"),
        (b"\xff" * 384, "no RSA signature"),
        (bytes(384), "does not fit"),
        (good[::-1], "does not fit|no RSA signature"),
        (key.sign(data[:-1], padding.PKCS1v15(), hashes.SHA256()), "does not fit"),
        (key.sign(data, padding.PKCS1v15(), hashes.SHA384()), "does not fit"),
    ):
        with pytest.raises(SigningError, match=message):
            sign_with(image, regenerated, key.public_key(), returning(raw), date)
    with pytest.raises(SigningError, match="does not fit"):
        sign_with(image, regenerated, key.public_key(), lambda _: good, date + 1)


def test_unsigned_is_what_was_signed(key: rsa.RSAPrivateKey) -> None:
    image, regenerated = small()
    signed = EnclaveImage.parse(sign(image, regenerated, key, DATE))
    assert unsigned(signed) == image.data
    with pytest.raises(SigningError, match="not signed"):
        unsigned(image)


def test_one_sigstruct_for_all_blocks(key: rsa.RSAPrivateKey) -> None:
    """What vendors publish as .css fits every block that has the same SIGSTRUCT."""
    image = EnclaveImage.parse(small_enclave(sdk="2.17"))
    regenerated = regenerate(image, Config({}), generation_named("2.17"))
    signed = sign(image, regenerated, key, DATE)
    descriptor = Descriptor.parse(EnclaveImage.parse(signed).descriptor)
    assert len(descriptor.blocks) > 1
    css = descriptor.blocks[0].sigstruct.serialise()
    assert parse_signatures(css, regenerated) == extract(descriptor)
    assert parse_signatures(signed, regenerated) == extract(descriptor)
    with pytest.raises(GraftError, match="does not fit"):
        parse_signatures(css * 2, regenerated)
    with_fips, metadata = small(EnableIPPFIPS=1)
    assert with_fips.data
    with pytest.raises(GraftError, match="does not fit"):
        parse_signatures(css, metadata)


def test_one_sigstruct_is_not_for_blocks_that_differ(key: rsa.RSAPrivateKey) -> None:
    image, regenerated = small(MiscSelect=1, MiscMask=0xFFFFFFFE)
    signed = EnclaveImage.parse(sign(image, regenerated, key, DATE))
    css = extract(Descriptor.parse(signed.descriptor))[0].sigstruct.serialise()
    assert len(parse_signatures(css, regenerated)) == 2
    first, second = regenerated.blocks
    changed = replace(second, sigstruct=replace(second.sigstruct, isvsvn=9))
    different = replace(regenerated, blocks=(first, changed))
    with pytest.raises(GraftError, match="does not fit") as caught:
        parse_signatures(css, different)
    assert caught.value.expected == "3616 bytes for 2 block(s)"
    with pytest.raises(SigningError, match="need different signatures") as failed:
        signing_data(different, bcd_date(DATE))
    assert failed.value.found == "2 SIGSTRUCTs"


def test_dates() -> None:
    assert bcd_date(DATE) == 0x20240229
    assert bcd_date(datetime.date(2016, 11, 3)) == 0x20161103


@pytest.mark.parametrize("fips", [0, 1])
def test_signatures_are_taken_off_and_put_back(fips: int, key: rsa.RSAPrivateKey) -> None:
    image, regenerated = small(EnableIPPFIPS=fips, MiscSelect=1, MiscMask=0xFFFFFFFE)
    descriptor = EnclaveImage.parse(sign(image, regenerated, key, DATE)).descriptor
    signatures = extract(Descriptor.parse(descriptor))
    stored = b"".join(s.serialise() for s in signatures)
    assert len(stored) == 2 * (1808 + 772 * fips)
    assert parse_signatures(stored, regenerated) == signatures
    assert signed_descriptor(regenerated, signatures) == descriptor


def test_signatures_that_do_not_fit(key: rsa.RSAPrivateKey) -> None:
    image, regenerated = small(EnableIPPFIPS=1)
    descriptor = EnclaveImage.parse(sign(image, regenerated, key, DATE)).descriptor
    (signature,) = extract(Descriptor.parse(descriptor))
    with pytest.raises(GraftError, match="not signed"):
        extract(Descriptor.parse(image.descriptor))
    for size in (0, 1808, 2579, 2581):
        with pytest.raises(GraftError, match="2580 bytes for 1 block"):
            parse_signatures(signature.serialise().ljust(size, b"\0")[:size], regenerated)
    for signatures in ([], [signature, signature]):
        with pytest.raises(GraftError, match="not as many signatures"):
            signed_descriptor(regenerated, signatures)
    with pytest.raises(GraftError, match="needs a FIPS signature"):
        signed_descriptor(regenerated, [replace(signature, fips=None)])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("enclavehash", bytes(32)),
        ("isvsvn", 7),
        ("attributemask_flags", 0),
        ("reserved1", b"\1" * 84),
        ("exponent", 65537),
    ],
)
def test_a_signature_for_other_metadata_is_refused(
    field: str, value: Any, key: rsa.RSAPrivateKey
) -> None:
    image, regenerated = small()
    descriptor = EnclaveImage.parse(sign(image, regenerated, key, DATE)).descriptor
    (signature,) = extract(Descriptor.parse(descriptor))
    other = replace(signature, sigstruct=replace(signature.sigstruct, **{field: value}))
    with pytest.raises(GraftError, match=f"for another enclave: {field} of its SIGSTRUCT"):
        signed_descriptor(regenerated, [other])
