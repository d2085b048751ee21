# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo's vendor: a key, and the ways in which a vendor's file may be wrong."""

from __future__ import annotations

import datetime
import subprocess
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from demo.command import DEADLINE
from demo.release import ENCLAVE_LIST, ENCLAVES
from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.measure import mrenclave
from sgx_enclaves.enclave.metadata import Block
from sgx_enclaves.enclave.regenerate import Regenerated, regenerate
from sgx_enclaves.enclave.sdk import detect_generation
from sgx_enclaves.enclave.sign import load_key, mrsigner_of, sign

DATE = datetime.date(2026, 1, 1)


def make_key(path: Path) -> RSAPrivateKey:
    """A new signing key, kept at `path`; an old one is used again."""
    if not path.exists():
        key = generate_private_key(public_exponent=3, key_size=3072)
        path.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        )
        path.chmod(0o600)
    return load_key(path.read_bytes(), str(path))


def mrsigner(key: RSAPrivateKey) -> str:
    """The key's MRSIGNER, hexadecimal."""
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return mrsigner_of(pem).hex()


def build_enclaves(into: Path) -> Path:
    """Run the test enclaves' makefile, as their vendor does; returns the folder."""
    into.mkdir(parents=True, exist_ok=True)
    command = ["make", "--silent", "-C", str(ENCLAVES), f"OUT={into.resolve()}"]
    subprocess.run(command, check=True, timeout=DEADLINE)
    return into


def regenerated(built: Path, config: Path) -> tuple[EnclaveImage, Regenerated]:
    """The unsigned enclave and its metadata."""
    image = EnclaveImage.parse(built.read_bytes(), built.name)
    settings = Config.parse(config.read_bytes(), config.name)
    return image, regenerate(image, settings, detect_generation(image))


def sign_enclave(built: Path, config: Path, key: RSAPrivateKey) -> bytes:
    """What an honest vendor delivers."""
    image, metadata = regenerated(built, config)
    return sign(image, metadata, key, DATE)


def sign_all(built: Path, key: RSAPrivateKey) -> dict[str, bytes]:
    """What an honest vendor delivers of all that was built in a folder, by file name."""
    return {e.signed: sign_enclave(built / e.unsigned, e.config, key) for e in ENCLAVE_LIST}


def with_other_code(signed: bytes, built: Path) -> bytes:
    """One byte of code changed after the file was signed."""
    image = EnclaveImage.parse(built.read_bytes(), built.name)
    section = image.section(".text")
    if section is None:
        raise ValueError(f"{built} has no .text")
    at = section.header.sh_offset + section.header.sh_size // 2
    changed = bytearray(signed)
    changed[at] ^= 0x01
    return bytes(changed)


def with_hostile_patch(built: Path, config: Path, key: RSAPrivateKey) -> bytes:
    """Signed validly by the vendor, with a patch that overwrites code at load time.

    Every byte outside the metadata is as we built it, and the signature is
    for exactly the MRENCLAVE that such an enclave gets.
    """
    image, metadata = regenerated(built, config)
    section = image.section(".text")
    if section is None:
        raise ValueError(f"{built} has no .text")
    blocks = tuple(_redirect_patch(image, b, section.header.sh_offset) for b in metadata.blocks)
    return sign(image, replace(metadata, blocks=blocks), key, DATE)


def _redirect_patch(image: EnclaveImage, block: Block, target: int) -> Block:
    *others, last = block.patches
    table = b"".join(p.serialise() for p in (*others, replace(last, dst=target)))
    at = block.directories[0].offset - block.data_offset
    data = block.data[:at] + table + block.data[at + len(table) :]
    changed = replace(block, data=data)
    measured = mrenclave(image, changed)
    return replace(changed, sigstruct=replace(changed.sigstruct, enclavehash=measured))
