# SPDX-License-Identifier: GPL-2.0-or-later
"""Templates are filled with values and lists, and refuse what does not fit."""

from __future__ import annotations

import pytest

from sgx_enclaves.errors import InputError
from sgx_enclaves.specs import Fields, fill

FIELDS: Fields = {
    "name": "pce",
    "address": "a@b.example",
    "parts": [{"part": "one"}, {"part": "two", "name": "own"}],
    "none": [],
}


def test_values_are_put_in() -> None:
    assert fill("Name: @name@\n\n%{name}@name@-x\n", FIELDS, "t") == "Name: pce\n\n%{name}pce-x\n"


def test_a_value_is_never_looked_into() -> None:
    fields: Fields = {"one": "@two@", "two": "2"}
    assert fill("@one@ @two@", fields, "t") == "@two@ 2\n"


def test_an_address_is_no_name() -> None:
    assert fill("see @address@, x@y.z", FIELDS, "t") == "see a@b.example, x@y.z\n"


def test_a_block_stands_once_for_each_item() -> None:
    text = "before\n@each parts@\n%if @part@\n@name@\n%endif\n@end@\nafter @name@\n"
    wanted = "before\n%if one\npce\n%endif\n%if two\nown\n%endif\nafter pce\n"
    assert fill(text, FIELDS, "t") == wanted


def test_a_block_of_an_empty_list_vanishes() -> None:
    assert fill("a\n@each none@\n@name@\n@end@\nb", FIELDS, "t") == "a\nb\n"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("@other@", "no value has this name"),
        ("@parts@", "no value has this name"),
        ("@part@", "no value has this name"),
        ("@each other@\n@end@", "no list for this block"),
        ("@each name@\n@end@", "no list for this block"),
        ("@each parts@\n@each none@\n@end@\n@end@", "no list for this block"),
        ("x\n@each parts@\ny", "the block of line 2 does not end"),
        ("x\n@end@", "no value has this name"),
    ],
)
def test_what_does_not_fit_is_refused(template: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        fill(template, FIELDS, "t")
