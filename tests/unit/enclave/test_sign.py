# SPDX-License-Identifier: GPL-2.0-or-later
"""Signing with a key: the file that Intel's tool writes, byte for byte.

The tool wrote each golden file twice, with `sign` and with `catsig`.
"""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.metadata import Descriptor
from sgx_enclaves.enclave.regenerate import Regenerated, regenerate
from sgx_enclaves.enclave.sdk import generation_named
from sgx_enclaves.enclave.sign import (
    bcd_date,
    extract,
    load_key,
    mrsigner_of_pem,
    parse_signatures,
    put_on,
    sign,
    sign_sigstruct,
)
from sgx_enclaves.errors import GraftError, SigningError
from tests.enclaves.sdk import sdk_releases
from tests.enclaves.synthetic import small_enclave
from tests.unit.enclave.golden import DATA, image_shapes, lines, write_image

PEM = (DATA / "throw-away-test-key.pem").read_bytes()
RECORDS = list(lines("signed.jsonl"))
DATE = datetime.date(2024, 2, 29)


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


def pem(private: Any, encryption: Any = None) -> bytes:
    data: bytes = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        encryption or serialization.NoEncryption(),
    )
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no usable private key"),
        (b"-----BEGIN PRIVATE KEY-----\nxx\n-----END PRIVATE KEY-----\n", "no usable private key"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "not an RSA key"),
        (pem(rsa.generate_private_key(3, 2048)), "2048 bits, exponent 3"),
        (pem(rsa.generate_private_key(65537, 3072)), "3072 bits, exponent 65537"),
        (
            pem(rsa.generate_private_key(3, 2048), serialization.BestAvailableEncryption(b"a")),
            "no usable private key",
        ),
    ],
    ids=["empty", "broken", "ec", "size", "exponent", "encrypted"],
)
def test_keys_that_cannot_sign_enclaves(data: bytes, message: str) -> None:
    with pytest.raises(SigningError, match=message):
        load_key(data, "k.pem")


def test_the_traditional_format_is_read_too(key: rsa.RSAPrivateKey) -> None:
    assert load_key(pem(key)).private_numbers() == key.private_numbers()


def test_mrsigner(key: rsa.RSAPrivateKey) -> None:
    image, regenerated = small()
    result = sign(image, regenerated, key, DATE)
    (block,) = Descriptor.parse(EnclaveImage.parse(result).descriptor).blocks
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert mrsigner_of_pem(public) == mrsigner_of_pem(PEM) == block.sigstruct.mrsigner
    small_key = rsa.generate_private_key(3, 2048).public_key()
    short = small_key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for bad in (short, b"nothing"):
        with pytest.raises(SigningError):
            mrsigner_of_pem(bad, "k.pem")


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
    assert put_on(regenerated, signatures) == descriptor


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
            put_on(regenerated, signatures)
    with pytest.raises(GraftError, match="needs a FIPS signature"):
        put_on(regenerated, [replace(signature, fips=None)])


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
        put_on(regenerated, [other])
