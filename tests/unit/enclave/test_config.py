# SPDX-License-Identifier: GPL-2.0-or-later
"""config.xml: read as Intel's tool reads it, refused with a reason.

Which files the tools accept is in the golden values (tests/unit/enclave); here
are the reasons, and what we refuse on our own account.
"""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings, strategies as st

from sgx_enclaves.enclave.config import OPTIONS, RENAMED, Config
from sgx_enclaves.errors import ConfigError, LimitError, SgxEnclavesError
from sgx_enclaves.limits import Limits


def option(text: str, name: str = "ProdID") -> bytes:
    return f"<EnclaveConfiguration><{name}>{text}</{name}></EnclaveConfiguration>".encode()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("010", 8),
        ("0", 0),
        ("0x1F", 31),
        ("0X1f", 31),
        ("+7", 7),
        (" \t\r\n7", 7),
        ("0xffffffffffffffff", (1 << 64) - 1),
        ("18446744073709551615", (1 << 64) - 1),
        ("01777777777777777777777", (1 << 64) - 1),
        ("0x" + "0" * 300 + "9", 9),
        ("&#53;", 5),
        ("<![CDATA[5]]>", 5),
        ("5<!-- 6 -->", 5),
        ("5<x>6</x>7", 5),
        # Only the first node counts, and a CDATA section is a node of its own.
        ("1<![CDATA[2]]>", 1),
        ("<![CDATA[1]]>2", 1),
        ("<![CDATA[1]]><![CDATA[2]]>", 1),
        (" \n<![CDATA[3]]>", 3),
        ("4<!-- x --><![CDATA[2]]>", 4),
        ("<![CDATA[5]]><!-- <x> -->", 5),
        # The tool's strtoull makes 0 of no text.
        ("<![CDATA[]]>5", 0),
    ],
)
def test_numbers(text: str, value: int) -> None:
    assert Config.parse(option(text)).given == {"ProdID": value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no value"),
        ("  ", "has no value"),
        ("<!-- c -->5", "has no value"),
        ("<x/>5", "has no value"),
        ("<![CDATA[ ]]>5", "not a number: ' '"),
        ("5" * 39 + "xy", "'" + "5" * 39 + "x'"),
        ("<![CDATA[<!-- 5 -->]]>", "not a number"),
        ("5 ", "not a number"),
        ("-1", "not a number"),
        ("5-", "not a number"),
        ("08", "not a number"),
        ("0x", "not a number"),
        ("1e3", "not a number"),
        ("५", "not a number"),
        ("18446744073709551616", "64 bits"),
        ("0x10000000000000000", "64 bits"),
        ("02000000000000000000000", "64 bits"),
        ("9" * 5000, "64 bits"),
    ],
)
def test_what_is_no_number(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.parse(option(text))


ONE = "<ProdID>1</ProdID>"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"<EnclaveConfiguration>{ONE}{ONE}</EnclaveConfiguration>", "given twice"),
        ("<EnclaveConfiguration><Foo>1</Foo></EnclaveConfiguration>", "unknown option Foo"),
        ("<EnclaveConfiguration><prodid>1</prodid></EnclaveConfiguration>", "option prodid"),
        (
            '<EnclaveConfiguration><ProdID a="1">1</ProdID></EnclaveConfiguration>',
            "has an attribute",
        ),
        (f"<EnclaveConfiguration>text{ONE}</EnclaveConfiguration>", "text before the first"),
        ("<EnclaveConfiguration>text</EnclaveConfiguration>", "contains text"),
        ("<Other/>", "root element is Other"),
        ("text", "no element, at 'text'"),
        ("", "before that of the root element"),
        (f"<EnclaveConfiguration>{ONE}", "before that of the root element"),
        ("<EnclaveConfiguration><ProdID>1 & 2</ProdID></EnclaveConfiguration>", "there, at '& 2<"),
        ("<EnclaveConfiguration>\v</EnclaveConfiguration>", r"there, at '>\\x0b<"),
        ("<EnclaveConfiguration><ProdID>1</ProdD></EnclaveConfiguration>", "at '/ProdD>"),
        ("<EnclaveConfiguration/>\0", "NUL byte"),
        (f"<EnclaveConfiguration><?a b?>{ONE}</EnclaveConfiguration>", "processing instruction"),
        ("<!DOCTYPE a><EnclaveConfiguration/>", "DOCTYPE"),
        (
            '<!DOCTYPE a [<!ENTITY b "1">]><EnclaveConfiguration><ProdID>&b;</ProdID>'
            "</EnclaveConfiguration>",
            "DOCTYPE",
        ),
    ],
)
def test_what_is_no_config(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.parse(text.encode(), "my.xml")


def test_the_message_names_file_and_line() -> None:
    text = (
        b"<EnclaveConfiguration>\n<ProdID>1</ProdID>\n<ISVSVN>x</ISVSVN>\n</EnclaveConfiguration>"
    )
    with pytest.raises(ConfigError) as caught:
        Config.parse(text, "my.xml")
    assert str(caught.value).startswith("my.xml: line 3: ISVSVN is not a number: 'x'; write it")


def test_other_encodings_than_utf_8_are_refused() -> None:
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        with pytest.raises(ConfigError):
            Config.parse(option("5").decode().encode(encoding))
    assert Config.parse(option("5").decode().encode("utf-8-sig")).given == {"ProdID": 5}
    with pytest.raises(ConfigError) as caught:
        Config.parse(b"<EnclaveConfiguration>\n<ProdID>\xff</ProdID></EnclaveConfiguration>")
    assert caught.value.message == "line 2: not well-formed XML"
    assert caught.value.found == "the byte 0xff, which is not UTF-8"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"", "the end of the file before that of the root element"),
        (b"0123456789" * 3, "no element, at '01234567890123456789'"),
        (
            b"<EnclaveConfiguration>&#xffff;3456789" + b"0123456789" * 2,
            r"reference to invalid character number, at "
            "'>&#xffff;345678901234'",
        ),
        (b"<EnclaveConfiguration>\n</a>\xff", "an end tag of another name, at '/a>\ufffd'"),
        (b"<!-- \xff --><EnclaveConfiguration>\n</a>", "an end tag of another name, at '/a>'"),
        (b"<!-- \xff --><EnclaveConfiguration>\n\xfe", "the byte 0xfe, which is not UTF-8"),
        (b"<EnclaveConfiguration a='\n\xfe'/>", "the byte 0xfe, which is not UTF-8"),
    ],
)
def test_why_a_file_is_no_xml(text: bytes, found: str) -> None:
    with pytest.raises(ConfigError, match="not well-formed XML") as caught:
        Config.parse(text)
    assert caught.value.found == found


@pytest.mark.parametrize(
    "comment",
    [
        b"<!-- one -- two -->",
        b"<!-- ends so --->",
        b"<!---->",
        b"<!-- \xe4\xf6\xfc Latin-1 -->",
        "<!-- \u4e2d\u6587 -->".encode("gbk"),
        b"<!-- <ProdID>9</ProdID> <![CDATA[ ]]> -->",
        b"<!-- a\nb\r\nc -->",
    ],
)
def test_what_a_comment_holds_changes_no_value(comment: bytes) -> None:
    text = comment + b"<EnclaveConfiguration>" + comment + b"<ProdID>1" + comment
    text += b"</ProdID>" + comment + b"</EnclaveConfiguration>" + comment
    assert Config.parse(text).given == {"ProdID": 1}


def test_white_space_before_the_declaration() -> None:
    text = b" \n\t\r\n<?xml version='1.0'?>\n" + option("5")
    assert Config.parse(text).given == {"ProdID": 5}
    assert Config.parse(b"\n\xef\xbb\xbf" + text).given == {"ProdID": 5}
    with pytest.raises(ConfigError, match="line 4: ISVSVN is not a number"):
        Config.parse(b"\n\n<?xml version='1.0'?>\n" + option("x", "ISVSVN"))
    with pytest.raises(ConfigError, match="line 1: not well-formed"):
        Config.parse(b"x" + text)


def test_lines_are_counted_over_comments() -> None:
    text = b"<EnclaveConfiguration>\n<!-- a -- b\nc --->\n<ISVSVN>x</ISVSVN></EnclaveConfiguration>"
    with pytest.raises(ConfigError, match="line 4: ISVSVN"):
        Config.parse(text)


def test_a_comment_that_does_not_end_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        Config.parse(b"<EnclaveConfiguration>\n<!-- -- x </EnclaveConfiguration>")
    assert caught.value.found == "a comment that does not end"


def test_a_comment_in_an_attribute_hides_nothing() -> None:
    text = b'<EnclaveConfiguration a="<!--"><ProdID>1</ProdID><x b="-->"/></EnclaveConfiguration>'
    with pytest.raises(ConfigError):
        Config.parse(text)


def test_every_option_is_read_in_the_order_of_the_file() -> None:
    names = sorted(OPTIONS)
    body = "".join(f"<{name}>{index}</{name}>" for index, name in enumerate(names))
    text = f"<EnclaveConfiguration>{body}</EnclaveConfiguration>".encode()
    config = Config.parse(text)
    assert list(config.given.items()) == [(name, index) for index, name in enumerate(names)]
    assert set(RENAMED) | set(RENAMED.values()) <= set(OPTIONS)


def test_a_large_file_is_refused() -> None:
    data = option("5") + b" " * 100
    assert Config.parse(data, limits=Limits(config_size=len(data))).given
    with pytest.raises(LimitError, match="too large"):
        Config.parse(data, limits=Limits(config_size=len(data) - 1))


@pytest.mark.parametrize(
    ("start", "piece", "times"),
    [
        ("", "<x>", 100_000),
        ("<ProdID>", "&#53;", 150_000),
        ("<ProdID>", "<!---->", 100_000),
        ("<ProdID>", "5<x/>", 100_000),
        ("", "&amp;", 150_000),
    ],
)
def test_a_hostile_file_is_refused_in_time(start: str, piece: str, times: int) -> None:
    body = start + piece * times
    before = time.perf_counter()
    with pytest.raises(ConfigError):
        Config.parse(f"<EnclaveConfiguration>{body}".encode())
    assert time.perf_counter() - before < 5


_TAGS = "<EnclaveConfiguration> </EnclaveConfiguration> <ProdID> </ProdID> <HW/> 5 0x <x>"
_ODD = '<!-- --> <?a ?> <![CDATA[ ]]> &#x35; &a; \0 é " <!DOCTYPE'
pieces = st.sampled_from([" ", *_TAGS.split(), *_ODD.split(" ")])


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.lists(pieces).map("".join).map(str.encode)))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        assert all(0 <= value < 1 << 64 for value in Config.parse(data).given.values())
    except SgxEnclavesError as error:
        assert str(error).startswith("config.xml: ")
