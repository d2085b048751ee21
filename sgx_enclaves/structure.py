# SPDX-License-Identifier: GPL-2.0-or-later
"""Binary structures declared as one table of fields, which parses, serialises and describes them.

A structure is a frozen dataclass whose fields are made by `uint` and `raw`. A gap in the table
is refused the first time that it is used. All integers are little endian.
"""

from __future__ import annotations

import dataclasses
import functools
import struct
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from sgx_enclaves.errors import FormatError
from sgx_enclaves.plain import record

_UINT_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}

StructureT = TypeVar("StructureT", bound="Structure")


@record
class FieldSpec:
    """One row of a structure's table; `size` and `offset` are in bytes, `code` is for `struct`."""

    name: str
    offset: int
    size: int
    code: str
    doc: str


def uint(offset: int, size: int, doc: str, default: int = 0) -> Any:
    """Declare an unsigned integer of 1, 2, 4 or 8 bytes."""
    about = {"offset": offset, "size": size, "code": _UINT_CODES[size], "doc": doc}
    return dataclasses.field(default=default, metadata=about)


def raw(offset: int, size: int, doc: str) -> Any:
    """Declare `size` bytes that are kept as they are; zeros by default."""
    about = {"offset": offset, "size": size, "code": f"{size}s", "doc": doc}
    return dataclasses.field(default=bytes(size), metadata=about)


class Structure:
    """Base of the binary structures: frozen dataclasses, which say how many bytes they have."""

    SIZE: ClassVar[int]
    # Of `record`.
    _record_fields: ClassVar[Mapping[str, dataclasses.Field[Any]]]

    def __init_subclass__(cls, size: int) -> None:
        cls.SIZE = size

    @classmethod
    @functools.cache
    def table(cls) -> tuple[FieldSpec, ...]:
        """The fields in the order in which they lie in memory."""
        fields = cls._record_fields.items()
        specs = tuple(FieldSpec(name, **field.metadata) for name, field in fields)
        position = 0
        for spec in specs:
            if spec.offset != position:
                raise AssertionError(f"{cls.__name__}.{spec.name} is not at offset {position}")
            position += spec.size
        if position != cls.SIZE:
            raise AssertionError(f"{cls.__name__} has {position} bytes, not {cls.SIZE}")
        return specs

    @classmethod
    @functools.cache
    def codec(cls) -> struct.Struct:
        """The table as a compiled `struct` format."""
        return struct.Struct("<" + "".join(spec.code for spec in cls.table()))

    @classmethod
    def parse(cls: type[StructureT], data: bytes, offset: int = 0) -> StructureT:
        """Read the structure at `offset` of `data`."""
        if offset < 0 or offset + cls.SIZE > len(data):
            raise FormatError(
                f"{cls.__name__} is cut off",
                offset=offset,
                expected=f"{cls.SIZE} bytes",
                found=f"{max(0, len(data) - offset)} bytes",
            )
        return cls(*cls.codec().unpack_from(data, offset))

    @classmethod
    def parse_all(cls: type[StructureT], data: bytes) -> tuple[StructureT, ...]:
        """Read a table that holds whole structures and nothing else."""
        return tuple(cls(*values) for values in cls.codec().iter_unpack(data))

    def serialise(self) -> bytes:
        """The bytes that `parse` would read this structure from."""
        return self.codec().pack(*map(self.__dict__.__getitem__, self._record_fields))

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
        spec = {spec.name: spec for spec in cls.table()}[name]
        return spec.offset, spec.offset + spec.size
