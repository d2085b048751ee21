# SPDX-License-Identifier: GPL-2.0-or-later
"""Read the files that verbs work on."""

from __future__ import annotations

from sgx_enclaves.errors import FormatError, SgxEnclavesError
from sgx_enclaves.files import read_file
from sgx_enclaves.format.config import Config
from sgx_enclaves.format.elf import EnclaveImage
from sgx_enclaves.format.metadata import Descriptor
from sgx_enclaves.limits import DEFAULT_LIMITS


def load_enclave(path: str) -> EnclaveImage:
    """An enclave file, parsed.

    Raises:
        SgxEnclavesError: it cannot be read, or is no enclave.
    """
    return EnclaveImage.parse(read_file(path, DEFAULT_LIMITS.file_size), path)


def load_descriptor(image: EnclaveImage) -> Descriptor:
    """The metadata of an enclave; errors name its file and the offset in it.

    Raises:
        SgxEnclavesError: see `Descriptor.parse`.
    """
    try:
        return Descriptor.parse(image.descriptor)
    except SgxEnclavesError as error:
        error.file = image.name
        error.offset = image.descriptor_offset + (error.offset or 0)
        raise


def load_signed(path: str) -> tuple[EnclaveImage, Descriptor]:
    """A signed enclave.

    Raises:
        FormatError: it is not signed.
        SgxEnclavesError: see `load_enclave`.
    """
    image = load_enclave(path)
    descriptor = load_descriptor(image)
    if not descriptor.is_signed:
        raise FormatError(
            "the enclave is not signed",
            file=path,
            offset=image.descriptor_offset,
            hint="take the vendor's signed file",
        )
    return image, descriptor


def load_config(path: str) -> Config:
    """A config.xml.

    Raises:
        SgxEnclavesError: it cannot be read, or is malformed.
    """
    return Config.parse(read_file(path, DEFAULT_LIMITS.config_size), path)
