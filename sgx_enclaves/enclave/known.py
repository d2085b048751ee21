# SPDX-License-Identifier: GPL-2.0-or-later
"""Intel's enclaves by name: who must have signed each, as what, and how old it may be.

All of it stands in the catalogue's data files, once: the newest release that holds an
enclave pins it. An older enclave is refused unless its user lowers the floor on purpose.
The files are ours, are read only when somebody asks, newest first, and only as far as
needed; their form is checked where releases are read, not here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Optional

from sgx_enclaves.errors import CatalogueError
from sgx_enclaves.plain import parse_toml, record

_DATA = Path(__file__).resolve().parents[1] / "catalogue"
_SIGNERS = _DATA / "signers.toml"
_ENCLAVE_FILE = re.compile(r"libsgx_(?P<file>\w+?)(?:\.signed)?\.so(?:\.[0-9.]+)?\Z")


@record
class Pin:
    """Who must have signed an enclave, as what, and how old it may be.

    Attributes:
        enclave: its name in packages, for example `ide`.
        file: its name in files, for example `id_enclave`.
        mrsigner: hexadecimal.
        isvprodid: product id.
        isvsvn: least security version.
        may_ship: whether a distribution may ship it.
    """

    enclave: str
    file: str
    mrsigner: str
    isvprodid: int
    isvsvn: int
    may_ship: bool = True


def signer_named(mrsigner: str) -> Optional[str]:
    """Whose key an MRSIGNER (lower-case hexadecimal) is; None if it is not known."""
    if mrsigner.encode() not in _content(_SIGNERS):
        # Parsing the file takes longer than a comparison.
        return None
    name: Optional[str] = _parsed(_SIGNERS)["signer"].get(mrsigner)
    return name


def pin_named(enclave: str) -> Optional[Pin]:
    """The pin of an enclave by its package name."""
    return next((pin for pin in _pins_with("name", enclave) if pin.enclave == enclave), None)


def pin_for_file(path: str) -> Optional[Pin]:
    """The pin that a file's name claims, for example `libsgx_pce.signed.so.1`."""
    match = _ENCLAVE_FILE.match(path.rsplit("/", 1)[-1])
    if match is None:
        return None
    file = match["file"]
    return next((pin for pin in _pins_with("file", file) if pin.file == file), None)


def pins_of_signer(mrsigner: str) -> tuple[Pin, ...]:
    """The pin of every enclave that this key (lower-case hexadecimal) must have signed."""
    if mrsigner not in _parsed(_SIGNERS)["signer"]:
        return ()
    return tuple(pin for pin in all_pins() if pin.mrsigner == mrsigner)


@cache
def all_pins() -> tuple[Pin, ...]:
    """The pin of every enclave that is known."""
    pins: dict[str, Pin] = {}
    for path in _files():
        for pin in _pins_in(path):
            pins.setdefault(pin.enclave, pin)
    return tuple(pins.values())


@cache
def not_shipped() -> frozenset[str]:
    """The enclaves that a distribution may not ship."""
    return frozenset(pin.enclave for pin in all_pins() if not pin.may_ship)


def _pins_with(key: str, value: str) -> Iterator[Pin]:
    """The pins of the files that have such a line, newest first."""
    # Parsing all of them would take longer than a comparison; all are written so.
    line = f'\n{key} = "{value}"\n'.encode()
    for path in _files():
        if line in _content(path):
            yield from _pins_in(path)


@cache
def _files() -> tuple[Path, ...]:
    """The releases, newest first; last what no release holds any more."""

    def version(path: Path) -> list[int]:
        return [int(digits) for digits in re.findall(r"\d+", path.stem)]

    return (*sorted(_DATA.glob("releases/*.toml"), key=version, reverse=True), _SIGNERS)


@cache
def _content(path: Path) -> bytes:
    return path.read_bytes()


@cache
def _parsed(path: Path) -> dict[str, Any]:
    content = _content(path)
    if path != _SIGNERS:
        # Of a release only its enclaves matter here, which are the smaller part.
        tables = re.split(rb"^(?=\[)", content, flags=re.MULTILINE)
        content = b"".join(t for t in tables if t.startswith((b"[[enclave]]", b"[enclave.")))
    return parse_toml(content, file=str(path), error=CatalogueError)


@cache
def _pins_in(path: Path) -> tuple[Pin, ...]:
    """What a file pins; a release may hold an enclave of which not all is known."""
    return tuple(
        Pin(
            table["name"],
            table["file"],
            table["signer"],
            table["isvprodid"],
            table["least_isvsvn"],
            table.get("may_ship", True),
        )
        for table in _parsed(path)["enclave"]
        if "isvprodid" in table and "least_isvsvn" in table
    )
