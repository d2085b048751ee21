# SPDX-License-Identifier: GPL-2.0-or-later
"""Frozen dataclasses that cost little to define.

`dataclasses.dataclass` compiles half a dozen methods for every class, which for
the classes of this package would take longer than a whole comparison. `record`
makes real dataclasses (`dataclasses.replace` and `fields` work) whose methods
are shared instead. To a type checker it is a frozen dataclass.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: object) -> Any:
        """Only type checkers look at it."""
        return lambda decorated: decorated


T = TypeVar("T")


def _init(self: Any, *args: Any, **kwargs: Any) -> None:
    values = self.__dict__
    fields = self._record_fields
    if len(args) > len(fields):
        raise TypeError(f"{type(self).__name__} takes {len(fields)} arguments, not {len(args)}")
    values.update(zip(fields, args))
    for name in kwargs:
        if name not in fields or name in values:
            raise TypeError(f"{type(self).__name__}: unexpected argument {name}")
    values.update(kwargs)
    if len(values) != len(fields):
        for name, field in fields.items():
            if name not in values:
                if field.default is not dataclasses.MISSING:
                    values[name] = field.default
                elif field.default_factory is not dataclasses.MISSING:
                    values[name] = field.default_factory()
                else:
                    raise TypeError(f"{type(self).__name__}: argument {name} is missing")


def _key(self: Any) -> tuple[Any, ...]:
    values = self.__dict__
    return tuple(values[name] for name in self._record_fields)


def _eq(self: Any, other: object) -> Any:
    if type(other) is not type(self):
        return NotImplemented
    return _key(self) == _key(other)


def _hash(self: Any) -> int:
    return hash(_key(self))


def _repr(self: Any) -> str:
    parts = (f"{name}={self.__dict__[name]!r}" for name in self._record_fields)
    return f"{type(self).__name__}({', '.join(parts)})"


def _refuse(self: Any, name: str, *_: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot change {type(self).__name__}.{name}")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def record(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass; what it defines itself is kept."""
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False)(cls)
    made._record_fields = {field.name: field for field in dataclasses.fields(made)}
    for name, method in (
        ("__init__", _init),
        ("__eq__", _eq),
        ("__hash__", _hash),
        ("__repr__", _repr),
        ("__setattr__", _refuse),
        ("__delattr__", _refuse),
    ):
        if name not in cls.__dict__ or (name == "__hash__" and cls.__dict__[name] is None):
            setattr(made, name, method)
    result: type[T] = made
    return result
