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
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.known import Pin, all_pins, not_shipped, pin_for_file, pin_named
from sgx_enclaves.enclave.metadata import Descriptor
from sgx_enclaves.enclave.policy import Policy, policy_for
from sgx_enclaves.enclave.sdk import Generation, generation_named
from sgx_enclaves.errors import FormatError, InputError, SgxEnclavesError
from sgx_enclaves.files import read_file
from sgx_enclaves.limits import DEFAULT_LIMITS

if TYPE_CHECKING:
    # Loaded by the verbs that fetch, so that the others start without them.
    from sgx_enclaves.catalogue.records import Catalogue
    from sgx_enclaves.release.fetch import Fetcher
    from sgx_enclaves.release.place import Place

_MRSIGNER = re.compile(r"[0-9a-fA-F]{64}\Z")


def number(text: str) -> int:
    """A decimal or 0x-hexadecimal number for argparse."""
    return int(text, 0)


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


class _EnclaveNames:
    """The enclaves that are known, read from the catalogue only when somebody asks."""

    def __contains__(self, name: str) -> bool:
        return pin_named(name) is not None

    def __iter__(self) -> Iterator[str]:
        return (pin.enclave for pin in all_pins())


def add_output(parser: argparse.ArgumentParser, about: str = "", *, required: bool = True) -> None:
    """`-o` and `--force`; see `written`."""
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=required, help=about or "where to write"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace the output file if there is one already"
    )


def add_policy(parser: argparse.ArgumentParser) -> None:
    """Who must have signed, as what."""
    group = parser.add_argument_group("who must have signed")
    group.add_argument(
        "--enclave",
        metavar="NAME",
        choices=_EnclaveNames(),
        help="which of Intel's enclaves this is, such as pce; by default its file name says",
    )
    group.add_argument(
        "--signer",
        metavar="MRSIGNER|PEM",
        action="append",
        default=[],
        help="accept this signer instead of Intel: MRSIGNER in hexadecimal, or a file "
        "with its key; may be repeated",
    )
    group.add_argument("--isvprodid", type=number, metavar="N", help="require this product id")
    group.add_argument("--min-isvsvn", type=number, metavar="N", help="accept ISVSVN from N on")
    group.add_argument("--allow-debug", action="store_true", help="accept debug signatures")


def add_sdk(parser: argparse.ArgumentParser) -> None:
    """`--sdk`."""
    parser.add_argument(
        "--sdk",
        metavar="X.Y",
        help="the SDK release whose signing tool was used; by default the enclave tells",
    )


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
        mrsigners=[_mrsigner(text) for text in args.signer],
        isvprodid=args.isvprodid,
        min_isvsvn=args.min_isvsvn,
        allow_debug=args.allow_debug,
    )


def _mrsigner(text: str) -> str:
    if _MRSIGNER.match(text):
        return text.lower()
    from sgx_enclaves.enclave.sign import mrsigner_of_pem  # noqa: PLC0415

    try:
        pem = read_file(text, DEFAULT_LIMITS.config_size)
    except InputError as error:
        raise InputError(
            "neither an MRSIGNER nor a readable key file",
            file=text,
            expected="64 hexadecimal digits, or a PEM file",
            found=error.message,
        ) from None
    return mrsigner_of_pem(pem, text).hex()


def not_shipped_name(text: str) -> str:
    """The name of an enclave that Fedora does not ship, for argparse."""
    names = sorted(not_shipped())
    if text not in names:
        raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {names})")
    return text


# What Fedora's look-aside cache calls the source of the prebuilt enclaves.
_PACKAGE = "linux-sgx-enclaves-prebuilt"


def add_catalogue(parser: argparse.ArgumentParser) -> None:
    """Where releases are described."""
    parser.add_argument(
        "--catalogue",
        metavar="PATH",
        type=Path,
        action="append",
        default=[],
        help="a file or a folder of more releases, besides our own and "
        "/etc/sgx-enclaves/releases.d; may be repeated",
    )


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
