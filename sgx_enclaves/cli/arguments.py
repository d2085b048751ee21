# SPDX-License-Identifier: GPL-2.0-or-later
"""Arguments that several verbs share.

Arguments of the verbs that work on packages.

Arguments of the verbs that work on a release: the catalogue, and how to fetch.

Read the files that verbs work on.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Optional, Union

from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.elf_headers import ELF_MAGIC
from sgx_enclaves.enclave.known import Pin, all_pins, not_shipped, pin_for_file, pin_named
from sgx_enclaves.enclave.metadata import Descriptor
from sgx_enclaves.enclave.policy import AskedBy, Policy, policy_for
from sgx_enclaves.enclave.sdk import Generation, generation_named
from sgx_enclaves.enclave.sigstruct import Sigstruct
from sgx_enclaves.errors import FormatError, InputError, SgxEnclavesError, SigningError
from sgx_enclaves.files import read_file
from sgx_enclaves.limits import DEFAULT_LIMITS

if TYPE_CHECKING:
    # Loaded by the verbs that need them, so that the others start without them.
    import datetime

    from sgx_enclaves.catalogue.records import Catalogue
    from sgx_enclaves.enclave.regenerate import Regenerated
    from sgx_enclaves.release.fetch import Fetcher
    from sgx_enclaves.release.place import Place

_MRSIGNER = re.compile(r"(?:0[xX])?[0-9a-fA-F]{64}\Z|[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){31}\Z")


def number(text: str) -> int:
    """A decimal or 0x-hexadecimal number for argparse."""
    return int(text, 0)


def svn(text: str) -> int:
    """A number that fits ISVPRODID and ISVSVN, for argparse."""
    value = number(text)
    if not 0 <= value <= 0xFFFF:
        raise ValueError(text)
    return value


def enclave_name(text: str) -> str:
    """The name of one of Intel's enclaves, for argparse."""
    if pin_named(text) is None:
        names = ", ".join(pin.enclave for pin in all_pins())
        raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {names})")
    return text


POLICY_TYPES = {"NAME": enclave_name, "N": svn}


def chosen_generation(args: argparse.Namespace) -> Optional[Generation]:
    """The generation named with `--sdk`, or None.

    Raises:
        UnsupportedError: an unknown SDK.
    """
    return None if args.sdk is None else generation_named(args.sdk)


def chosen_policy(args: argparse.Namespace, signed_path: str) -> Policy:
    """The policy that the arguments and the file's name ask for.

    Raises:
        InputError: a signer that is neither MRSIGNER nor a readable key.
    """
    pin: Optional[Pin] = pin_named(args.enclave) if args.enclave else pin_for_file(signed_path)
    return policy_for(
        pin,
        named_by=AskedBy.OPTION if args.enclave else AskedBy.FILE_NAME,
        mrsigners=[_mrsigner(text) for text in args.signer],
        isvprodid=args.isvprodid,
        any_product=args.any_product,
        min_isvsvn=args.min_isvsvn,
        allow_debug=args.allow_debug,
    )


def _mrsigner(text: str) -> str:
    if _MRSIGNER.match(text):
        return text.replace(":", "").lower()[-64:]
    from sgx_enclaves.enclave.sign import mrsigner_of  # noqa: PLC0415

    try:
        data = read_file(text, DEFAULT_LIMITS.file_size)
    except InputError as error:
        raise InputError(
            "neither an MRSIGNER nor a file that can be read",
            file=text,
            expected="64 hexadecimal digits, or a key, certificate, SIGSTRUCT or signed enclave",
            found=error.message,
        ) from None
    return mrsigner_of(data, text).hex()


def _date(text: str) -> datetime.date:
    import datetime  # noqa: PLC0415

    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date like 2026-11-29") from None


SIGNING_TYPES = {"YYYY-MM-DD": _date}
# Defects that are signed on purpose.
_IGNORABLE = ("--ignore-init-section", "--ignore-text-relocations")


def chosen_date(args: argparse.Namespace) -> datetime.date:
    """`--date`, or today."""
    import datetime  # noqa: PLC0415

    given: Optional[datetime.date] = args.date
    return given or datetime.datetime.now(datetime.timezone.utc).date()


def prepared_for_signing(args: argparse.Namespace) -> tuple[EnclaveImage, Regenerated]:
    """The unsigned enclave, and the metadata that the tool would write.

    Raises:
        SgxEnclavesError: it is signed already, or the tool or every loader would refuse it.
    """
    from sgx_enclaves.enclave.detect import detect_generation, require_loadable  # noqa: PLC0415
    from sgx_enclaves.enclave.regenerate import regenerate  # noqa: PLC0415

    image = load_enclave(args.enclave)
    if any(image.descriptor):
        raise FormatError(
            "the enclave is already signed",
            file=args.enclave,
            offset=image.descriptor_offset,
            hint="`sgx-enclaves unsign` takes its signature off",
        )
    ignored = {o for o in _IGNORABLE if getattr(args, o[2:].replace("-", "_"))}
    require_loadable(image, frozenset(ignored))
    generation = chosen_generation(args) or detect_generation(image)
    return image, regenerate(image, load_config(args.config), generation, args.fips)


def chosen_passphrase(args: argparse.Namespace, pem: bytes) -> Optional[bytes]:
    """Of an encrypted `--key`: from `--passphrase-file`, or asked for on a terminal."""
    import getpass  # noqa: PLC0415

    from sgx_enclaves.enclave.sign import needs_passphrase  # noqa: PLC0415

    if not needs_passphrase(pem):
        return None
    if args.passphrase_file is not None:
        return read_file(args.passphrase_file, DEFAULT_LIMITS.config_size).partition(b"\n")[0]
    if sys.stdin is not None and sys.stdin.isatty():
        return getpass.getpass(f"passphrase of {args.key}: ").encode()
    return None


# A signing service may ask a person.
_SIGNING_SECONDS = 600


def asking(command: str, *, digest: bool = False) -> Callable[[bytes], bytes]:
    """A signer that is a command: the message on its standard input, a raw signature back.

    Args:
        command: split as a shell does, and run without one.
        digest: give it the message's SHA-256 in place of the message.
    """
    import hashlib  # noqa: PLC0415
    import shlex  # noqa: PLC0415
    import subprocess  # noqa: PLC0415

    def signer(message: bytes) -> bytes:
        given = hashlib.sha256(message).digest() if digest else message
        try:
            ended = subprocess.run(  # noqa: S603 - the user names it, and no shell sees it
                shlex.split(command),
                input=given,
                stdout=subprocess.PIPE,
                timeout=_SIGNING_SECONDS,
                check=False,
            )
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            raise SigningError(f"the signing command cannot be run: {error}") from None
        if ended.returncode:
            raise SigningError(
                "the signing command failed",
                expected="status 0",
                found=f"status {ended.returncode}",
                hint="see what it wrote above",
            )
        return ended.stdout

    return signer


def not_shipped_name(text: str) -> str:
    """The name of an enclave that Fedora does not ship, for argparse."""
    names = sorted(not_shipped())
    if text not in names:
        raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {names})")
    return text


# What Fedora's look-aside cache calls the source of the prebuilt enclaves.
_PACKAGE = "linux-sgx-enclaves-prebuilt"


def chosen_place(args: argparse.Namespace, *, builds: bool = True) -> Place:
    """This machine, its steps separated from it as far as the arguments demand.

    Args:
        args: of a verb with `add_place`.
        builds: whether anything will be built.

    Raises:
        BuildError: the steps cannot be separated, and the user did not allow that.
        InputError: tools are named for the designated toolchain.
    """
    # only two verbs build, and the release machine costs time to import
    from sgx_enclaves.cli.output import message  # noqa: PLC0415
    from sgx_enclaves.release.sandbox import Isolation, Machine, choose_isolation  # noqa: PLC0415

    if args.tools and args.toolchain != "host":
        raise InputError("--tools are other tools than the designated: say --toolchain=host")
    isolation = Isolation.NONE
    if builds:
        isolation, reason = choose_isolation(allow_none=args.allow_no_isolation)
        if reason:
            message(f"warning: the steps are not separated from this machine: {reason}")
    return Machine(isolation=isolation, visible=[os.path.abspath(tool) for tool in args.tools])


def chosen_catalogue(args: argparse.Namespace) -> Catalogue:
    """Our own releases, the machine's, and those of `--catalogue`.

    Raises:
        CatalogueError: a file in there is wrong.
    """
    from sgx_enclaves.catalogue.reader import (  # noqa: PLC0415
        OWN_FOLDER,
        USER_FOLDER,
        load_catalogue,
    )

    return load_catalogue((OWN_FOLDER, USER_FOLDER, *args.catalogue))


def chosen_cache_dir(args: argparse.Namespace) -> Path:
    """The directory of fetched files: as named, `SGX_ENCLAVES_CACHE`, or the user's own."""
    if args.cache is not None:
        return Path(args.cache)
    own = os.environ.get("SGX_ENCLAVES_CACHE")
    home = os.path.join(os.environ.get("HOME", "/"), ".cache")
    return Path(own or os.path.join(os.environ.get("XDG_CACHE_HOME") or home, "sgx-enclaves"))


def chosen_fetcher(args: argparse.Namespace) -> Fetcher:
    """A fetcher as the arguments ask for it; it tells on standard error how it goes.

    Raises:
        FetchError: the certificates cannot be used.
        CatalogueError: the look-aside cache's URL is none.
    """
    from sgx_enclaves.catalogue.artifact import Lookaside  # noqa: PLC0415
    from sgx_enclaves.progress import for_stream  # noqa: PLC0415
    from sgx_enclaves.release.fetch import (  # noqa: PLC0415
        Cache,
        Fetcher,
        FetchSettings,
    )
    from sgx_enclaves.release.transport import HttpsTransport, TransportSettings  # noqa: PLC0415

    lookaside: Optional[Lookaside] = None
    if args.lookaside is not None:
        package, _, url = args.lookaside.rpartition("=")
        lookaside = Lookaside(url, package or _PACKAGE)
    transport = None
    if not args.offline:
        transport = HttpsTransport(TransportSettings(ca_file=args.ca_file))
    return Fetcher(
        Cache(chosen_cache_dir(args)),
        transport,
        FetchSettings(attempts=max(1, args.attempts)),
        progress=for_stream(sys.stderr),
        lookaside=lookaside,
        local=args.local,
    )


def load_enclave(path: str) -> EnclaveImage:
    """An enclave file, parsed.

    Raises:
        SgxEnclavesError: it cannot be read, or is no enclave.
    """
    return EnclaveImage.parse(read_file(path, DEFAULT_LIMITS.file_size), path)


def load_enclave_or_sigstruct(path: str) -> Union[EnclaveImage, Sigstruct]:
    """An enclave file, or a file that is one SIGSTRUCT and nothing else, as vendors publish.

    Raises:
        SgxEnclavesError: it cannot be read, or is neither.
    """
    data = read_file(path, DEFAULT_LIMITS.file_size)
    if len(data) == Sigstruct.SIZE and data[:4] != ELF_MAGIC:
        return Sigstruct.parse(data)
    return EnclaveImage.parse(data, path)


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
