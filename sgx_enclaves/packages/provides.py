# SPDX-License-Identifier: GPL-2.0-or-later
"""What a package provides by an enclave that is in it, told from the file itself.

    sgx-enclave(pce:signed) = 2.25        sgx-enclave(pce:unsigned) = 2.25
    sgx-enclave-mrenclave(HEX)            of each metadata block, recomputed
    sgx-enclave-mrsigner(HEX)             of each metadata block

So that a repository can be asked what it ships. A file whose signature is not valid,
or is for another measurement than its own, provides nothing: it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from sgx_enclaves.errors import FormatError
from sgx_enclaves.format.elf import EnclaveImage
from sgx_enclaves.format.metadata import Descriptor
from sgx_enclaves.measurement.mrenclave import mrenclave
from sgx_enclaves.packages.presence import PROVIDE_PREFIX, enclave_name, stem_of
from sgx_enclaves.verdict.signature import check_sigstruct

_STEM = "libsgx_"


def provides_of(path: str, data: bytes, versions: Mapping[str, str]) -> list[str]:
    """The Provides of one enclave file.

    Args:
        path: its name tells which enclave it claims to be.
        data: its bytes.
        versions: enclave to version; one that is not named gets none.

    Raises:
        SgxEnclavesError: it is no enclave, or its signature does not hold.
    """
    image = EnclaveImage.parse(data, path)
    descriptor = Descriptor.parse(image.descriptor)
    name = enclave_name(path) or _own_name(path)
    kind = "signed" if descriptor.is_signed else "unsigned"
    version = versions.get(name)
    provides = [f"{PROVIDE_PREFIX}{name}:{kind})" + (f" = {version}" if version else "")]
    if not descriptor.is_signed:
        return provides
    for block in descriptor.blocks:
        measured = mrenclave(image, block)
        if measured != block.sigstruct.enclavehash:
            raise FormatError(
                "the signature is for another enclave than this one",
                file=path,
                expected=f"MRENCLAVE {measured.hex()}",
                found=block.sigstruct.enclavehash.hex(),
                hint="ship the file as it was signed",
            )
        for finding in check_sigstruct(block.sigstruct):
            raise FormatError(
                finding.message, file=path, expected=finding.expected, found=finding.found
            )
        provides += [
            f"sgx-enclave-mrenclave({measured.hex()})",
            f"sgx-enclave-mrsigner({block.sigstruct.mrsigner.hex()})",
        ]
    return list(dict.fromkeys(provides))


def _own_name(path: str) -> str:
    stem = stem_of(path)
    return stem[len(_STEM) :] if stem.startswith(_STEM) else stem
