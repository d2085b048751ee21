# SPDX-License-Identifier: GPL-2.0-or-later
"""config.xml: what an enclave's maker asks of the SDK's signing tool.

The values are read exactly as the tool reads them (C `strtoull`, base 0, so a leading `0` is
octal); what it refuses is refused here, with a reason. Its XML reader is lenient: what can change
no value (anything in a comment, white space before the declaration) is taken here too, everything
else only as XML is. Which options exist depends on the SDK: see `sgx_enclaves.enclave.sdk`.

Source: sdk/sign_tool/SignTool/sign_tool.cpp and manage_metadata.cpp, where
CMetadata::check_xml_parameter refuses values that do not go together.
"""

from __future__ import annotations

import re
import xml.parsers.expat
from collections.abc import Iterator, Mapping
from typing import Union
from xml.parsers.expat import errors

from sgx_enclaves.enclave.elf_headers import PAGE_SIZE, U32_MAX, U64_MAX
from sgx_enclaves.errors import ConfigError
from sgx_enclaves.limits import DEFAULT_LIMITS, Limits, at_most
from sgx_enclaves.plain import record

ROOT = "EnclaveConfiguration"

SIZE_MAX = U64_MAX // 2

# White space before the number is skipped, behind it refused, as strtoull does; no text is 0.
_NUMBER = re.compile(r"(?:[ \t\n\v\f\r]*\+?(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*)))?\Z")

# A comment ends at the first -->, whatever is in it; one in a CDATA section is none.
_COMMENT = re.compile(rb"<!\[CDATA\[.*?\]\]>|<!--(.*?)-->", re.DOTALL)
_BLANKS = b" \t\r\n"
_NOT_LINE_END = re.compile(rb"[^\n]")


@record
class Option:
    """One option: its range and, when it is not given, its value or the option it is equal to."""

    name: str
    maximum: int
    minimum: int = 0
    default: Union[int, str] = 0


OPTIONS: Mapping[str, Option] = {
    option.name: option
    for option in (
        Option("ProdID", 0xFFFF),
        Option("ISVSVN", 0xFFFF),
        Option("ReleaseType", 1),
        Option("IntelSigned", 1),
        Option("ProvisionKey", 1),
        Option("LaunchKey", 1),
        Option("DisableDebug", 1),
        Option("HW", 0x10),
        Option("TCSNum", U32_MAX, 1, 1),
        Option("TCSMaxNum", U32_MAX, 1, "TCSNum"),
        Option("TCSMinPool", U32_MAX, 0, 1),
        Option("TCSPolicy", 1, 0, 1),
        Option("StackMaxSize", SIZE_MAX, 0x2000, 0x40000),
        Option("StackMinSize", SIZE_MAX, 0x2000, 0x2000),
        Option("HeapMaxSize", SIZE_MAX, 0, 0x1000000),
        Option("HeapMinSize", SIZE_MAX, 0, 0x1000),
        Option("HeapInitSize", SIZE_MAX, 0, "HeapMaxSize"),
        Option("ReservedMemMaxSize", SIZE_MAX),
        Option("ReservedMemMinSize", SIZE_MAX),
        Option("ReservedMemInitSize", SIZE_MAX, 0, "ReservedMemMaxSize"),
        Option("ReservedMemExecutable", 1),
        Option("MiscSelect", U32_MAX),
        Option("MiscMask", U32_MAX, 0, U32_MAX),
        Option("EnableKSS", 1),
        Option("ISVFAMILYID_H", U64_MAX),
        Option("ISVFAMILYID_L", U64_MAX),
        Option("ISVEXTPRODID_H", U64_MAX),
        Option("ISVEXTPRODID_L", U64_MAX),
        Option("EnclaveImageAddress", U64_MAX, 0x1000),
        Option("ELRangeStartAddress", U64_MAX),
        Option("ELRangeSize", U64_MAX, 0x1000),
        Option("PKRU", 2),
        Option("AMX", 2),
        Option("UserRegionSize", SIZE_MAX),
        Option("EnableAEXNotify", 1),
        Option("EnableIPPFIPS", 1),
        Option("EnableOSSLFIPS", 1),
        Option("RsrvMaxSize", SIZE_MAX),
        Option("RsrvMinSize", SIZE_MAX),
        Option("RsrvInitSize", SIZE_MAX),
    )
}

# Names that SDK 2.6 to 2.7.1 had for what later ones call ReservedMem*.
RENAMED: Mapping[str, str] = {
    "RsrvMaxSize": "ReservedMemMaxSize",
    "RsrvMinSize": "ReservedMemMinSize",
    "RsrvInitSize": "ReservedMemInitSize",
}

# What only an enclave with EnableKSS may have.
KSS_IDENTITIES = ("ISVFAMILYID_H", "ISVFAMILYID_L", "ISVEXTPRODID_H", "ISVEXTPRODID_L")

# Sizes of whole pages that one maximum bounds.
SIZES = (
    "StackMaxSize",
    "StackMinSize",
    "HeapMaxSize",
    "HeapMinSize",
    "HeapInitSize",
    "ReservedMemMaxSize",
    "ReservedMemMinSize",
    "ReservedMemInitSize",
)


@record
class Config:
    """The options that a config.xml gives, in its order, before an SDK has judged them."""

    given: Mapping[str, int]
    name: str = "config.xml"

    @classmethod
    def parse(
        cls, data: bytes, name: str = "config.xml", limits: Limits = DEFAULT_LIMITS
    ) -> Config:
        """Read a config.xml.

        Raises:
            ConfigError: no XML, an unknown or repeated option, or no number; it names the line.
            LimitError: the file is too large.
        """
        message = "the configuration is too large"
        at_most(limits.config_size, len(data), message, "bytes", file=name)
        return cls(_Reader(name).read(data), name)


# What expat says in its own terms.
_NOT_XML = {
    errors.XML_ERROR_INVALID_TOKEN: "a character that XML does not take there",
    errors.XML_ERROR_NO_ELEMENTS: "the end of the file before that of the root element",
    errors.XML_ERROR_SYNTAX: "no element",
    errors.XML_ERROR_TAG_MISMATCH: "an end tag of another name",
}


class _Reader:
    def __init__(self, name: str) -> None:
        self._name = name
        self._given: dict[str, int] = {}
        self._depth = 0
        self._parser = xml.parsers.expat.ParserCreate("UTF-8")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.CommentHandler = self._comment
        self._parser.StartCdataSectionHandler = self._start_cdata
        self._parser.EndCdataSectionHandler = self._end_node
        self._parser.StartDoctypeDeclHandler = self._doctype

    def _begin(self) -> None:
        """Wait for the first node of an element: if it is text, it is the element's value."""
        self._text = ""
        self._is_text = False
        self._at_first = True

    def read(self, data: bytes) -> dict[str, int]:
        # An XML parser would follow UTF-16, whose every second byte is NUL; the tool does not.
        if b"\0" in data:
            raise ConfigError(
                "not UTF-8 text", file=self._name, found="a NUL byte", hint="save it as UTF-8"
            )
        text = data.lstrip(_BLANKS).removeprefix(b"\xef\xbb\xbf").lstrip(_BLANKS)
        self._skipped = data[: len(data) - len(text)].count(b"\n")  # lines that expat never sees
        self._seen = _COMMENT.sub(_without_words, text)
        try:
            self._parser.Parse(self._seen, True)
        except xml.parsers.expat.ExpatError as error:
            raise self._not_well_formed(error) from None
        return self._given

    def _fail(self, message: str, hint: str | None = None) -> ConfigError:
        line = self._parser.CurrentLineNumber + self._skipped
        return ConfigError(f"line {line}: {message}", file=self._name, hint=hint)

    def _not_well_formed(self, error: xml.parsers.expat.ExpatError) -> ConfigError:
        text = self._seen
        at = self._parser.ErrorByteIndex
        said = xml.parsers.expat.ErrorString(error.code)
        hint = None
        near = text[max(0, at - 1) : at + 20].decode("utf-8", "replace").strip(" \r\n")
        near = near.partition("\n")[0]
        found = _NOT_XML.get(said, said) + (f", at {near!r}" if near else "")
        try:
            text.decode("utf-8")
        except UnicodeDecodeError as problem:
            if problem.start == at:
                found = f"the byte 0x{text[at]:02x}, which is not UTF-8"
                hint = "save the file as UTF-8; other encodings are taken in comments only"
        if b"<!--" in text.rpartition(b"-->")[2]:
            found, hint = "a comment that does not end", "end it with -->"
        line = error.lineno + self._skipped
        return ConfigError(
            f"line {line}: not well-formed XML", file=self._name, found=found, hint=hint
        )

    def _doctype(self, *_: object) -> None:
        # Entities are the only use of a DOCTYPE here, and a way to exhaust memory.
        raise self._fail("a DOCTYPE is not accepted", "remove it")

    def _instruction(self, *_: object) -> None:
        raise self._fail("a processing instruction is not accepted", "remove it")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if self._depth == 0 and tag != ROOT:
            raise self._fail(f"the root element is {tag}, not {ROOT}")
        if self._depth == 1 and attributes:
            raise self._fail(f"{tag} has an attribute")
        if self._depth == 1 and self._is_text:
            raise self._fail(f"text before the first option of {ROOT}")
        if self._depth < 2:
            self._begin()
        else:
            self._at_first = False
        self._parser.ProcessingInstructionHandler = self._instruction
        self._depth += 1

    def _comment(self, _: str) -> None:
        self._at_first = False

    def _start_cdata(self) -> None:
        # A node of its own, whatever is in it, unlike what stands around it.
        self._end_node()
        self._is_text |= self._at_first

    def _end_node(self) -> None:
        """Text is over; if it was blanks only, it was no node."""
        if self._is_text:
            self._at_first = False
        else:
            self._text = ""

    def _characters(self, text: str) -> None:
        if self._at_first:
            self._text += text
            # A blank that is written as a reference is text.
            reference = self._seen[self._parser.CurrentByteIndex] == ord("&")
            self._is_text |= reference or bool(text.strip(" \t\n"))

    def _end(self, tag: str) -> None:
        self._depth -= 1
        if self._depth == 1:
            self._option(tag, self._text)
            self._begin()
            self._at_first = False
        elif self._depth == 0 and self._is_text:
            raise self._fail(f"{ROOT} contains text")

    def _option(self, tag: str, text: str) -> None:
        if tag not in OPTIONS:
            raise self._fail(f"unknown option {tag}", "no SDK up to 2.29 has it")
        if tag in self._given:
            raise self._fail(f"{tag} is given twice")
        if not self._is_text:
            raise self._fail(f"{tag} has no value")
        match = _NUMBER.match(text)
        if match is None:
            raise self._fail(
                f"{tag} is not a number: {text[:40]!r}",
                "write it decimal, or hexadecimal with 0x, without blanks behind it",
            )
        hexadecimal, octal, decimal = match.groups()
        digits = (hexadecimal or octal or decimal or "").lstrip("0") or "0"
        # Bounded before it is converted: 23 digits are more than 64 bits, octal ones too.
        value = int(digits[:23], 16 if hexadecimal else 8 if octal else 10)
        if value > U64_MAX:
            raise self._fail(f"{tag} does not fit 64 bits")
        self._given[tag] = value


def _without_words(match: re.Match[bytes]) -> bytes:
    """A comment emptied, its line ends kept; a CDATA section as it is."""
    if match[1] is None:
        return match[0]
    return b"<!--" + _NOT_LINE_END.sub(b" ", match[1]) + b"-->"


def check_values(values: Mapping[str, int], config: Config) -> None:
    """Refuse what the tool refuses."""
    for problem in _problems(values, config.given):
        raise ConfigError(problem, file=config.name)


def _problems(values: Mapping[str, int], given: Mapping[str, int]) -> Iterator[str]:
    for name in (*SIZES, "UserRegionSize"):
        if values[name] % PAGE_SIZE:
            yield f"{name} is not a multiple of 0x{PAGE_SIZE:x}: 0x{values[name]:x}"
    if values["StackMinSize"] > values["StackMaxSize"]:
        yield "StackMinSize is larger than StackMaxSize"
    for kind in ("Heap", "ReservedMem"):
        minimum, initial, maximum = (f"{kind}{part}Size" for part in ("Min", "Init", "Max"))
        if values[minimum] > values[initial]:
            yield f"{minimum} is larger than {initial if initial in given else maximum}"
        if values[initial] > values[maximum]:
            yield f"{initial} is larger than {maximum}"
    if bool(values["HW"]) != bool(values["LaunchKey"]):
        yield "HW and LaunchKey must be both zero or both not"
    if values["TCSMaxNum"] < values["TCSNum"]:
        yield "TCSMaxNum is smaller than TCSNum"
    if values["TCSMinPool"] > values["TCSMaxNum"]:
        yield f"TCSMinPool is larger than {'TCSMaxNum' if 'TCSMaxNum' in given else 'TCSNum'}"
    if not values["EnableKSS"] and any(values[name] for name in KSS_IDENTITIES):
        yield "ISVFAMILYID and ISVEXTPRODID need EnableKSS"
    if "ELRangeSize" not in given:
        for name in ("EnclaveImageAddress", "ELRangeStartAddress"):
            if name in given:
                yield f"{name} needs ELRangeSize"
    if values["EnableIPPFIPS"] and values["EnableOSSLFIPS"]:
        yield "EnableIPPFIPS and EnableOSSLFIPS exclude each other"
    if values["UserRegionSize"] and not values["MiscSelect"] & values["MiscMask"] & 1:
        yield "UserRegionSize needs bit 0 of MiscSelect and of MiscMask"
