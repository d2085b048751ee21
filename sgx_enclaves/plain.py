# SPDX-License-Identifier: GPL-2.0-or-later
"""Records, plain data (what JSON and TOML know), and text that a terminal may print.

`dataclasses.dataclass` compiles half a dozen methods for every class, which for the classes of this
package would take longer than a whole comparison. The methods of a `record` are shared instead, and
it becomes a real dataclass (`dataclasses.replace` and `fields` work) when somebody asks for its
fields. To a type checker it is a frozen dataclass.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import os
import sys
import typing
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, Union

from sgx_enclaves.errors import SgxEnclavesError

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: object) -> Any:
        """Only type checkers look at it."""
        return lambda decorated: decorated


T = TypeVar("T")


def _key(self: Any) -> tuple[Any, ...]:
    return tuple(map(self.__dict__.__getitem__, self._record_fields))


class _Methods:
    """What records share."""

    _record_fields: Mapping[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        values, fields = self.__dict__, self._record_fields
        values.update(zip(fields, args))
        if len(args) == len(fields) and not kwargs:
            return
        values.update(kwargs)
        if len(values) != len(args) + len(kwargs) or not kwargs.keys() <= fields.keys():
            given = ", ".join([f"{len(args)} by position", *kwargs])
            raise TypeError(f"{type(self).__name__} takes {', '.join(fields)}, not {given}")
        for name in [name for name in fields if name not in values]:
            default = fields[name]
            if isinstance(default, dataclasses.Field):
                make = default.default_factory
                default = default.default if make is dataclasses.MISSING else make()
            if default is dataclasses.MISSING:
                raise TypeError(f"{type(self).__name__}: argument {name} is missing")
            values[name] = default

    def __eq__(self, other: object) -> Any:
        return _key(self) == _key(other) if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(_key(self))

    def __repr__(self) -> str:
        parts = (f"{name}={self.__dict__[name]!r}" for name in self._record_fields)
        return f"{type(self).__name__}({', '.join(parts)})"

    def __setattr__(self, name: str, *_: object) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot change {type(self).__name__}.{name}")

    __delattr__ = __setattr__


class _Fields:
    """A record's fields as `dataclasses` has them, made when they are asked for: that is slow."""

    def __get__(self, _instance: object, owner: Any) -> Any:
        dataclasses.dataclass(init=False, repr=False, eq=False)(owner)
        return owner.__dataclass_fields__


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def record(cls: type[T]) -> type[T]:
    """Make `cls`, which inherits no fields, a frozen dataclass; what it defines itself is kept."""
    made: Any = cls
    made.__dataclass_fields__ = _Fields()
    # Their defaults by name.
    made._record_fields = {
        name: vars(cls).get(name, dataclasses.MISSING)
        for name, kind in cls.__annotations__.items()
        if "ClassVar" not in str(kind)
    }
    for name, method in vars(_Methods).items():
        # With its own __eq__, a class has None as __hash__.
        if callable(method) and vars(cls).get(name) is None:
            setattr(made, name, method)
    return cls


# How much of a wrong value an error shows.
_EXCERPT = 80
_MIB = 1 << 20
_MOST_DOTS = 128
_MOST_MISTAKES = 100


def printable(text: str) -> str:
    """The text with every character that a terminal would not print (a newline, ESC, a change of
    direction, a byte of a file name that is no UTF-8) as `\\xNN`, `\\uNNNN` or `\\UNNNNNNNN`.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in text)


def some(texts: Iterable[str], most: int = 12) -> str:
    """The first ones, and how many more there are."""
    found = list(texts)
    more = len(found) - most
    return ", ".join(found[:most]) + (f" and {more} more" if more > 0 else "")


def _escaped(code: int) -> str:
    # PEP 383: a byte that could not be decoded.
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_AS_THEY_ARE = frozenset({str, int, bool, float, type(None)})


def as_plain(value: object) -> Any:
    """Plain data of records, enumerations, bytes (in hexadecimal), paths, containers of them."""
    # Most of all values.
    if type(value) in _AS_THEY_ARE:
        return value
    plain: Any
    if isinstance(value, enum.Enum):
        plain = as_plain(value.value)
    elif isinstance(value, (list, tuple)):
        plain = [as_plain(item) for item in value]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        plain = {field.name: as_plain(getattr(value, field.name)) for field in fields}
    elif isinstance(value, (bytes, bytearray, memoryview)):
        plain = value.hex()
    elif isinstance(value, Mapping):
        plain = {str(as_plain(key)): as_plain(item) for key, item in value.items()}
    elif isinstance(value, (set, frozenset)):
        plain = sorted(as_plain(item) for item in value)
    elif isinstance(value, os.PathLike):
        plain = os.fspath(value)
    else:
        raise TypeError(f"{type(value).__name__} has no plain form")
    return plain


def from_plain(cls: type[T], data: object) -> T:
    """A record of plain data that fit its schema; the inverse of `as_plain`.

    Fields are plain, bytes, enumerations, records, and `Optional`, tuples, lists, sets and mappings
    of those. Other data give a TypeError, ValueError or KeyError.
    """
    return typing.cast(T, _made(cls, data))


_types = functools.cache(typing.get_type_hints)


def _made(kind: Any, data: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if data is None or kind in (Any, object):
        return data
    if origin is Union:
        return _made(next(a for a in arguments if a is not type(None)), data)
    if origin in (tuple, list, frozenset):
        return origin(_made(arguments[0], item) for item in data)
    if origin is not None:
        return {key: _made(arguments[1], item) for key, item in data.items()}
    if hasattr(kind, "__dataclass_fields__"):
        types = _types(kind)
        return kind(**{name: _made(types[name], item) for name, item in data.items()})
    return bytes.fromhex(data) if kind is bytes else kind(data)


@functools.cache
def read_schema(module: str, name: str, part: str = "") -> dict[str, Any]:
    """A JSON Schema (draft 7) that lies beside a module (`__file__`), or one of its definitions."""
    import json  # noqa: PLC0415  (a comparison needs none)

    with open(os.path.join(os.path.dirname(module), name), "rb") as file:
        schema = json.load(file)
    made: dict[str, Any] = _resolved(schema["definitions"][part] if part else schema, schema)
    return made


def validate(
    data: object, schema: Mapping[str, Any], *, file: str, error: type[SgxEnclavesError]
) -> None:
    """Check plain data against a JSON Schema (draft 7); see `read_schema`."""
    try:
        # Of a million mistakes each would cost kilobytes.
        validator, formats = _validator()
        mistakes = validator(schema, format_checker=formats).iter_errors(data)
        first = islice(mistakes, _MOST_MISTAKES)
        mistake = min(first, key=lambda m: str(list(m.absolute_path)), default=None)
    except RecursionError:
        raise error("the content is nested too deep", file=file) from None
    if mistake is None:
        return
    path = list(mistake.absolute_path)
    rule, value, found = mistake.validator, mistake.validator_value, mistake.instance
    if rule == "required":
        path.append(next(key for key in value if key not in found))
        expected, found = "a value", "nothing"
    elif rule == "additionalProperties" and isinstance(found, Mapping):
        known = mistake.schema.get("properties", {})
        found = next(key for key in found if key not in known)
        expected = f"one of {', '.join(known)}"
    else:
        expected = _expectation(mistake.schema, rule, value)
    place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")
    message = f"{place or 'the content'} does not fit"
    raise error(message, file=file, expected=expected, found=_excerpt(found))


@functools.cache
def _validator() -> tuple[Any, Any]:
    """That of draft 7, with the integers of draft 4, for which 1.0 is none; the one format."""
    # Costs more time to import than a whole comparison takes.
    import jsonschema  # noqa: PLC0415

    extended: Any = jsonschema.validators.extend
    numbers = jsonschema.Draft4Validator.TYPE_CHECKER
    formats = jsonschema.FormatChecker(formats=())
    formats.checks("printable")(lambda text: not isinstance(text, str) or text.isprintable())
    return extended(jsonschema.Draft7Validator, type_checker=numbers), formats


def _resolved(part: Any, schema: Mapping[str, Any]) -> Any:
    """A part of a schema with its definitions in place: jsonschema looks each up every time."""
    if isinstance(part, Mapping):
        if "$ref" in part:
            return _resolved(schema["definitions"][part["$ref"].rpartition("/")[2]], schema)
        return {k: _resolved(v, schema) for k, v in part.items() if k != "definitions"}
    return [_resolved(item, schema) for item in part] if isinstance(part, list) else part


def _expectation(schema: Mapping[str, Any], rule: str, value: object) -> str:
    if "description" in schema and rule not in ("minimum", "maximum"):
        return str(schema["description"])
    if rule in ("enum", "const"):
        values = value if isinstance(value, list) else [value]
        return f"one of {', '.join(map(str, values))}" if len(values) > 1 else str(values[0])
    words = {
        "type": "a value of the type {}",
        "pattern": "text like {}",
        "minimum": "at least {}",
        "maximum": "at most {}",
        "minItems": "at least {} items",
        "maxItems": "at most {} items",
        "minLength": "at least {} characters",
        "maxLength": "at most {} characters",
        "uniqueItems": "no item twice",
    }
    return words.get(rule, f"what the schema's rule {rule} asks for").format(value)


def _excerpt(value: object) -> str:
    text = printable(value if isinstance(value, str) else repr(value))
    return text if len(text) <= _EXCERPT else text[:_EXCERPT] + "..."


def parse_json(
    text: Union[str, bytes], *, file: str, error: type[SgxEnclavesError], most: int = 16 * _MIB
) -> Any:
    """The plain data of a JSON text."""
    import json  # noqa: PLC0415  (a comparison needs none)

    if len(text) > most:
        raise error("the JSON text is too large", file=file, expected=f"at most {most} bytes")
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        reason = "it is nested too deep"
    except ValueError as mistake:  # of JSON, of UTF-8, and of our two checks
        reason = printable(str(mistake))
    raise error(f"no JSON text: {reason}", file=file)


def parse_toml(data: bytes, *, file: str, error: type[SgxEnclavesError]) -> dict[str, Any]:
    """The plain data of a TOML file, by `tomllib` or before Python 3.11 by `tomli`."""
    import importlib  # noqa: PLC0415

    if len(data) > _MIB:
        raise error("the TOML file is too large", file=file, expected=f"at most {_MIB} bytes")
    # The time that a dotted key takes grows with the square of its parts.
    if any(line.count(b".") > _MOST_DOTS for line in data.splitlines()):
        message = "a line has too many dots for TOML that people write"
        raise error(message, file=file, expected=f"at most {_MOST_DOTS}")
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    try:
        parsed: dict[str, Any] = importlib.import_module(name).loads(data.decode("utf-8"))
    except ImportError:
        raise error("TOML cannot be read here", file=file, hint="install python3-tomli") from None
    except (ValueError, RecursionError) as mistake:
        raise error(f"not TOML: {printable(str(mistake))}", file=file) from None
    return parsed


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {_excerpt(twice)} stands twice")
    return made


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
