# SPDX-License-Identifier: GPL-2.0-or-later
"""What the arguments that several verbs share lead to: policies and files."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Union

from sgx_enclaves.cli.output import detail
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.elf_headers import ELF_MAGIC
from sgx_enclaves.enclave.metadata import Descriptor
from sgx_enclaves.enclave.policy import AskedBy, Policy, pin_for_file, pin_named, policy_for
from sgx_enclaves.enclave.sigstruct import Identity, Sigstruct
from sgx_enclaves.errors import FormatError, InputError, SgxEnclavesError
from sgx_enclaves.files import read_file
from sgx_enclaves.limits import DEFAULT_LIMITS

if TYPE_CHECKING:
    import datetime


_MRSIGNER = re.compile(r"(?:0[xX])?[0-9a-fA-F]{64}\Z|[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){31}\Z")


def chosen_policy(args: argparse.Namespace, signed_path: str) -> Policy:
    """The policy that the arguments and the file's name ask for."""
    identity = _identity(args) if getattr(args, "identity", None) is not None else None
    pin = pin_named(args.enclave) if args.enclave else pin_for_file(signed_path)
    named_by = AskedBy.OPTION if args.enclave else AskedBy.FILE_NAME
    if pin is None and identity is not None:
        pin, named_by = pin_named(identity.enclave), AskedBy.IDENTITY
    if signed_path:
        pins = f"the pins of {pin.enclave}" if pin else "nothing is pinned by its name"
        detail(f"{signed_path}: {pins}")
    return policy_for(
        pin,
        named_by=named_by,
        identity=identity,
        mrsigners=[_mrsigner(text) for text in args.signer],
        isvprodid=args.isvprodid,
        any_product=args.any_product,
        min_isvsvn=args.min_isvsvn,
        allow_debug=args.allow_debug,
        any_file=args.any_file,
    )


def _identity(args: argparse.Namespace) -> Identity:
    """What `@identity` names, verified."""
    from sgx_enclaves.catalogue.identity import INTEL_ROOT, read_identity, root_of

    chain = read_small(args.identity_chain) if args.identity_chain is not None else None
    own = args.identity_root
    root = INTEL_ROOT if own is None else root_of(read_small(own), own)
    date = args.identity_date or today()
    return read_identity(read_small(args.identity), chain, date, root=root, name=args.identity)


def today() -> datetime.date:
    """In UTC."""
    import datetime

    return datetime.datetime.now(datetime.timezone.utc).date()


def read_small(path: str) -> bytes:
    """A key, a signature, a config.xml or the like."""
    return read_file(path, DEFAULT_LIMITS.config_size)


def _mrsigner(text: str) -> str:
    if _MRSIGNER.match(text):
        return text.replace(":", "").lower()[-64:]
    from sgx_enclaves.enclave.sign import mrsigner_of

    try:
        data = read_file(text, DEFAULT_LIMITS.file_size)
    except InputError as error:
        raise InputError(
            f"no MRSIGNER, and as a file it {error.message}",
            file=text,
            expected="64 hexadecimal digits, or a key, certificate, SIGSTRUCT or signed enclave",
            hint=error.hint,
        ) from None
    return mrsigner_of(data, text).hex()


def load_enclave(path: str) -> EnclaveImage:
    """An enclave file, parsed."""
    data = read_file(path, DEFAULT_LIMITS.file_size)
    detail(f"{path}: {len(data)} bytes")
    return EnclaveImage.parse(data, path)


def load_enclave_or_sigstruct(path: str) -> Union[EnclaveImage, Sigstruct]:
    """An enclave file, or a file that is one SIGSTRUCT and nothing else, as vendors publish."""
    data = read_file(path, DEFAULT_LIMITS.file_size)
    if len(data) == Sigstruct.SIZE and data[:4] != ELF_MAGIC:
        return Sigstruct.parse(data)
    return EnclaveImage.parse(data, path)


def load_descriptor(image: EnclaveImage, *, signed: bool = False) -> Descriptor:
    """The metadata of an enclave, which may have to be `signed`; errors name file and offset."""
    try:
        descriptor = Descriptor.parse(image.descriptor)
    except SgxEnclavesError as error:
        error.file = image.name
        error.offset = image.descriptor_offset + (error.offset or 0)
        raise
    if signed and not descriptor.is_signed:
        raise FormatError(
            "the enclave is not signed",
            file=image.name,
            offset=image.descriptor_offset,
            hint="take the vendor's signed file",
        )
    return descriptor
