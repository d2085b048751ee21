# SPDX-License-Identifier: GPL-2.0-or-later
"""Binary structures declared as one table of fields.

A structure is a frozen dataclass whose fields are made by `uint` and `raw`.
The same table parses, serialises and describes it, and every byte of the
structure belongs to exactly one field: a gap in the table is refused the
first time that the structure is used. All integers are little endian.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping
from typing import Any, ClassVar, Optional, TypeVar

from sgx_enclaves.errors import FormatError
from sgx_enclaves.plain import record

_UINT_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}

StructureT = TypeVar("StructureT", bound="Structure")


@record
class FieldSpec:
    """One row of a structure's table; `size` and `offset` are in bytes."""

    name: str
    offset: int
    size: int
    is_integer: bool
    doc: str


def uint(offset: int, size: int, doc: str, default: int = 0) -> Any:
    """Declare an unsigned integer of 1, 2, 4 or 8 bytes."""
    return dataclasses.field(
        default=default,
        metadata={"offset": offset, "size": size, "integer": True, "doc": doc},
    )


def raw(offset: int, size: int, doc: str) -> Any:
    """Declare `size` bytes that are kept as they are; zeros by default."""
    return dataclasses.field(
        default=bytes(size),
        metadata={"offset": offset, "size": size, "integer": False, "doc": doc},
    )


def _specs_of(cls: type[Structure]) -> tuple[FieldSpec, ...]:
    specs = []
    position = 0
    for name, field in cls._record_fields.items():
        meta = field.metadata
        if meta["offset"] != position:
            raise AssertionError(f"{cls.__name__}.{name} is not at offset {position}")
        specs.append(FieldSpec(name, position, meta["size"], meta["integer"], meta["doc"]))
        position += meta["size"]
    if position != cls.SIZE:
        raise AssertionError(f"{cls.__name__} has {position} bytes, not {cls.SIZE}")
    return tuple(specs)


class Structure:
    """Base of the binary structures; subclasses are frozen dataclasses."""

    SIZE: ClassVar[int]
    # Of `record`.
    _record_fields: ClassVar[Mapping[str, dataclasses.Field[Any]]]
    _specs: ClassVar[Optional[tuple[FieldSpec, ...]]] = None
    _codec: ClassVar[Optional[struct.Struct]] = None

    @classmethod
    def table(cls) -> tuple[FieldSpec, ...]:
        """The fields in the order in which they lie in memory."""
        if cls._specs is None:
            cls._specs = _specs_of(cls)
        return cls._specs

    @classmethod
    def codec(cls) -> struct.Struct:
        """The table as a compiled `struct` format."""
        if cls._codec is None:
            codes = (_UINT_CODES[s.size] if s.is_integer else f"{s.size}s" for s in cls.table())
            cls._codec = struct.Struct("<" + "".join(codes))
        return cls._codec

    @classmethod
    def parse(cls: type[StructureT], data: bytes, offset: int = 0) -> StructureT:
        """Read the structure at `offset` of `data`.

        Raises:
            FormatError: `data` ends before the structure does.
        """
        if offset < 0 or offset + cls.SIZE > len(data):
            raise FormatError(
                f"{cls.__name__} is cut off",
                offset=offset,
                expected=f"{cls.SIZE} bytes",
                found=f"{max(0, len(data) - offset)} bytes",
            )
        return cls(*cls.codec().unpack_from(data, offset))

    def serialise(self) -> bytes:
        """The bytes that `parse` would read this structure from."""
        return self.codec().pack(*(getattr(self, s.name) for s in self.table()))

    def as_dict(self) -> dict[str, object]:
        """Field name to integer or, for bytes, lower-case hexadecimal."""
        return {
            spec.name: value if isinstance(value, int) else value.hex()
            for spec in self.table()
            for value in (getattr(self, spec.name),)
        }

    @classmethod
    def field_at(cls, offset: int) -> FieldSpec:
        """The field that the byte at `offset` of the structure belongs to."""
        for spec in cls.table():
            if spec.offset <= offset < spec.offset + spec.size:
                return spec
        raise IndexError(f"{cls.__name__} has no byte {offset}")

    @classmethod
    def range_of(cls, name: str) -> tuple[int, int]:
        """Start and end (exclusive) of the field `name` within the structure."""
        for spec in cls.table():
            if spec.name == name:
                return spec.offset, spec.offset + spec.size
        raise KeyError(name)
