# SPDX-License-Identifier: GPL-2.0-or-later
"""Records to plain data and back, schemas, bounded JSON, and harmless text."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Optional

import pytest

from sgx_enclaves.errors import CatalogueError, InputError, ManifestError
from sgx_enclaves.plain import (
    as_plain,
    from_plain,
    parse_json,
    parse_toml,
    printable,
    record,
    validate,
)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@record
class Inner:
    name: str
    data: bytes = b""


@record
class Outer:
    inner: Inner
    colours: tuple[Colour, ...]
    sizes: Mapping[str, int]
    others: tuple[Inner, ...] = ()
    note: Optional[str] = None
    ratio: float = 0.5
    done: bool = False


FULL = Outer(
    Inner("a", b"\x00\xff"), (Colour.RED,), {"x": 1}, (Inner("b"), Inner("c")), "n", 2.0, True
)


def test_a_record_comes_back() -> None:
    data = json.loads(json.dumps(as_plain(FULL)))
    assert data["inner"] == {"name": "a", "data": "00ff"}
    assert from_plain(Outer, data) == FULL


def test_defaults_are_taken() -> None:
    data = {"inner": {"name": "a"}, "colours": [], "sizes": {}}
    made = from_plain(Outer, data)
    assert made == Outer(Inner("a"), (), {})


@record
class Measured:
    size: int
    parts: list[int] = dataclasses.field(default_factory=list, metadata={"unit": "bytes"})
    shared: ClassVar[int] = 3


def test_a_record_is_a_dataclass_to_whoever_asks() -> None:
    for _ in range(2):
        size, parts = dataclasses.fields(Measured)
        assert (size.name, size.type, parts.name) == ("size", "int", "parts")
        assert size.default is dataclasses.MISSING
        assert parts.metadata == {"unit": "bytes"}
    first, second = Measured(1), Measured(2)
    first.parts.append(7)
    assert dataclasses.replace(first, size=3) == Measured(3, [7])
    assert dataclasses.asdict(second) == {"size": 2, "parts": []}
    with pytest.raises(TypeError, match="Measured takes size, parts, not 0 by position, shared"):
        dataclasses.replace(first, shared=4)  # type: ignore[call-arg]
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.size = 4  # type: ignore[misc]


def test_other_plain_forms() -> None:
    assert as_plain({Colour.RED: Path("/x"), 2: {"b", "a"}}) == {"red": "/x", "2": ["a", "b"]}
    with pytest.raises(TypeError, match="object has no plain form"):
        as_plain([object()])


def deep(depth: int) -> object:
    """So many lists in one another."""
    made: object = 1
    for _ in range(depth):
        made = [made]
    return made


SCHEMA = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]+$"},
        "kinds": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
        "size": {"type": "integer", "minimum": 1, "maximum": 9},
        "digest": {"type": "string", "pattern": "^[0-9a-f]{4}$", "description": "4 hex digits"},
    },
}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "f: the content does not fit (expected a value of the type object, found [])"),
        ({}, "f: name does not fit (expected a value, found nothing)"),
        ({"name": "A"}, "f: name does not fit (expected text like ^[a-z]+$, found A)"),
        ({"name": "a", "nam": 1}, "expected one of name, kinds, size, digest, found nam"),
        ({"name": "a", "kinds": ["a", "c"]}, "f: kinds[1] does not fit (expected one of a, b"),
        ({"name": "a", "kinds": ["a", "a", "a"]}, "f: kinds does not fit (expected at most 2"),
        ({"name": "a", "size": 0}, "f: size does not fit (expected at least 1, found 0)"),
        ({"name": "a", "size": 10}, "f: size does not fit (expected at most 9, found 10)"),
        ({"name": "a", "size": 1.0}, "f: size does not fit (expected a value of the type integer"),
        ({"name": "a", "size": True}, "f: size does not fit (expected a value of the type integer"),
        ({"name": "a", "digest": "x" * 500}, "digest does not fit (expected 4 hex digits, found"),
        ({"name": "\x1b[2J"}, "found \\x1b[2J"),
    ],
)
def test_a_schema_refuses_by_name(data: object, words: str) -> None:
    with pytest.raises(CatalogueError) as caught:
        validate(data, SCHEMA, file="f", error=CatalogueError)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_a_schema_refuses_what_is_nested_too_deep() -> None:
    with pytest.raises(CatalogueError) as caught:
        validate({"name": deep(100_000)}, SCHEMA, file="f", error=CatalogueError)
    assert "f: the content is nested too deep" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_schema_takes_what_fits() -> None:
    validate({"name": "a", "kinds": ["b"], "size": 9}, SCHEMA, file="f", error=CatalogueError)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 200_000, "nested too deep"),
        ('{"a": 1, "a": 2}', "the key a stands twice"),
        ('{"\x1b": 1}', "Invalid control character"),
        (b"\xff", "can't decode"),
        ("[NaN]", "NaN is no JSON number"),
        ("", "Expecting value"),
        ("1" * 5000 if sys.version_info >= (3, 11) else "1 1", ""),
        ('"' + "x" * 1000 + '"', "too large"),
    ],
)
def test_bad_json_is_one_error(text: Any, words: str) -> None:
    most = 1000 if words == "too large" else 1 << 20
    with pytest.raises(ManifestError) as caught:
        parse_json(text, file="f", error=ManifestError, most=most)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


def test_good_json() -> None:
    assert parse_json(b'{"a": [1, null]}', file="f", error=ManifestError) == {"a": [1, None]}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain \u00e9\u4e2d", "plain \u00e9\u4e2d"),
        ("a\nIDENTICAL: b", "a\\x0aIDENTICAL: b"),
        ("\x1b]0;x\x07", "\\x1b]0;x\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("\u202egnp", "\\u202egnp"),
        ("\U000e0041", "\\U000e0041"),
        (os.fsdecode(b"\xff.so"), "\\xff.so"),
        ("\ud800", "\\ud800"),
    ],
)
def test_text_is_made_harmless(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert shown.isprintable()
    assert shown.encode()


def test_nothing_slow_is_imported() -> None:
    code = (
        "import sys, sgx_enclaves.plain; print('json' in sys.modules, 'jsonschema' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(("start", "end"), [("a", ""), ("[a", "]")])
def test_a_key_of_endless_parts_is_refused_at_once(start: str, end: str) -> None:
    line = start + ".a" * 300_000 + end
    before = time.process_time()
    with pytest.raises(InputError, match="too many dots"):
        parse_toml(f"x = 1\n{line} = 1\n".encode(), file="f", error=InputError)
    assert time.process_time() - before < 2
