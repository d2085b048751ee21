# SPDX-License-Identifier: GPL-2.0-or-later
"""What a repository's repodata say about its packages: which must be opened.

Reads `repomd.xml`, `primary` and `filelists` with createrepo_c. Whatever a file claims, memory is
bounded: it is unpacked here, in blocks, and createrepo_c gets whole package elements. Repodata may
leave something out, and nobody could see it: they are the word of the repository's owner.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import posixpath
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, Optional

from sgx_enclaves.child import in_child
from sgx_enclaves.decompress import unpack
from sgx_enclaves.errors import RepodataError, UnsupportedError
from sgx_enclaves.files import DigestedStream, open_regular, read_file, system_errors
from sgx_enclaves.limits import MIB, ArchiveLimits, at_most
from sgx_enclaves.plain import printable
from sgx_enclaves.rpm.presence import is_hinted, is_suspect

REPOMD = "repodata/repomd.xml"
_START = re.compile(rb"<package[\s>]")
_END = b"</package>"
_CLOSING = re.compile(rb"\s*(</(metadata|filelists)>\s*)?\Z")
# Without packages, the whole file is one empty element.
_EMPTY = re.compile(rb"<(metadata|filelists)\b[^<]*(/>|>\s*</(metadata|filelists)>)\s*\Z")
# Of what createrepo_c says: it repeats the whole input before it says what is wrong.
_MOST_WORDS = 160
# Bytes of repomd.xml, and of what is said about one package; how many packages.
_REPOMD_SIZE, _ELEMENT, _MOST_LISTED = MIB, 32 * MIB, 500_000
# Lists of equal packages pack extremely well, so that the ratio says nothing.
_ARCHIVE = ArchiveLimits(archive_size=2048 * MIB, total_size=8192 * MIB, ratio_grace=8192 * MIB)
# For lists of hundreds of thousands of packages.
_SECONDS = 600
_MEMORY = 2048 * MIB


class Listing(NamedTuple):
    """What repodata say about one package file; the digest is hexadecimal, the algorithm hashlib's.

    It is suspect if its Provides or its file list have anything of an enclave.
    """

    size: int
    algorithm: str
    digest: str
    suspect: bool


# By path below the repository; None where two different things are said.
Listings = dict[str, Optional[Listing]]


def repository_in(folder: str) -> tuple[str, Listings]:
    """`read_repository` in a child process, which outlives what makes the parser's C code crash."""

    def work() -> bytes:
        return json.dumps(read_repository(folder)).encode()

    what = f"{folder}: repodata cannot be read"
    answer = in_child(work, what=what, seconds=_SECONDS, memory=_MEMORY)
    stamp, packages = json.loads(answer)
    return stamp, {path: said and Listing(*said) for path, said in packages.items()}


def read_repository(folder: str) -> tuple[str, Listings]:
    """The digest of a repository's repomd.xml, and what is said about each package file.

    Raises:
        UnsupportedError: no createrepo_c, or a list is compressed with something unknown.
        InputError: a file cannot be read.
        RepodataError: broken, or without one of the lists.
        ArchiveError: a list does not unpack.
        LimitError: more than a repository has.
    """
    try:
        parser: Any = importlib.import_module("createrepo_c")
    except ImportError:
        message = "Python's createrepo_c is not installed, so repodata cannot be read"
        hint = "install python3-createrepo_c; on Debian, python3-createrepo-c"
        raise UnsupportedError(message, file=folder, hint=hint) from None
    path = f"{folder}/{REPOMD}"
    data = read_file(path, _REPOMD_SIZE)
    # What is packed, createrepo_c would unpack without bounds.
    if not data.lstrip().startswith(b"<"):
        raise RepodataError("not XML", file=path, found=data[:4].hex())
    with _parsing(path, parser):
        records = {record.type: record for record in parser.Repomd(path).records}
    primary, filelists = (
        _source(folder, records.get(kind), kind) for kind in ("primary", "filelists")
    )
    packages = _packages(parser, primary, _suspects(parser, filelists))
    if read_file(path, _REPOMD_SIZE) != data:
        raise RepodataError("the repodata have changed while they were read", file=folder)
    return hashlib.sha256(data).hexdigest(), packages


@contextlib.contextmanager
def _parsing(path: str, parser: Any) -> Iterator[None]:
    try:
        yield
    except (parser.CreaterepoCError, TypeError, ValueError) as error:
        words = printable(" ".join(str(error).split())[-_MOST_WORDS:])
        raise RepodataError(f"createrepo_c cannot read it: {words}", file=path) from None


class _Source(NamedTuple):
    """A list: its file, and the digest that repomd.xml pins."""

    path: str
    algorithm: str
    digest: str


def _source(folder: str, record: Any, kind: str) -> _Source:
    repomd = f"{folder}/{REPOMD}"
    if record is None or record.location_base:
        hint = "make them again with createrepo_c"
        raise RepodataError(f"the repodata have no {kind} here", file=repomd, hint=hint)
    href = plain_path(record.location_href)
    algorithm = _algorithm(record.checksum_type)
    if href is None or algorithm is None or not record.checksum:
        found = f"location {record.location_href!r}, digest {record.checksum_type!r}"
        raise RepodataError(f"the entry of {kind} is malformed", file=repomd, found=found)
    return _Source(f"{folder}/{href}", algorithm, record.checksum)


def plain_path(href: Optional[str]) -> Optional[str]:
    """A location that stays below the repository, normalised; None for any other."""
    if not href or href.startswith("/") or "\0" in href or "://" in href:
        return None
    path = posixpath.normpath(href)
    return None if path == ".." or path.startswith("../") else path


def _algorithm(name: Optional[str]) -> Optional[str]:
    # "sha" is what the oldest repositories call SHA-1.
    name = "sha1" if name == "sha" else name
    return name if name in hashlib.algorithms_guaranteed else None


def _suspects(parser: Any, source: _Source) -> set[str]:
    """Ids of the packages whose files include anything of an enclave."""
    found: set[str] = set()
    parse = parser.xml_parse_filelists_snippet
    for block in filter(is_hinted, _blocks(source)):
        # Most of a block is about other packages.
        for element in filter(is_hinted, block.split(_END)):
            for package in _parsed(parser, parse, element + _END, source):
                # Kind, folder, name; newer releases add a digest.
                files = (entry[1] + entry[2] for entry in package.files if entry[0] != "dir")
                if is_suspect((), files):
                    found.add(package.pkgId)
    return found


def _packages(parser: Any, source: _Source, suspects: set[str]) -> Listings:
    """What primary says about each package file."""
    found: Listings = {}
    parse = parser.xml_parse_primary_snippet
    for block in _blocks(source):
        hinted = is_hinted(block)
        for package in _parsed(parser, parse, block, source, None, 0):
            path = plain_path(package.location_href)
            if path is None or package.location_base:
                continue
            id_, algorithm = package.pkgId, _algorithm(package.checksum_type)
            provided = (provide[0] for provide in package.provides) if hinted else ()
            suspect = id_ in suspects or is_suspect(provided, ())
            listing = Listing(package.size_package, algorithm or "", id_, suspect)
            if algorithm is None or found.setdefault(path, listing) != listing:
                found[path] = None
        at_most(_MOST_LISTED, len(found), "too many packages", file=source.path)
    return found


def _parsed(parser: Any, parse: Any, block: bytes, source: _Source, *rest: Any) -> list[Any]:
    """The packages that createrepo_c finds in whole elements."""
    found: list[Any] = []
    with _parsing(source.path, parser):
        parse(block.decode("utf-8"), None, found.append, *rest)
    return found


def _blocks(source: _Source) -> Iterator[bytes]:
    """Yield what the list says in blocks of whole package elements."""
    path, algorithm, pinned = source
    with system_errors(path, "cannot be read"):
        stream = open_regular(path)
    with stream:
        hashed = DigestedStream(stream, algorithm)
        yield from _elements(unpack(hashed, path, _ARCHIVE), path)
        found = hashed.digest()
    if found != pinned:
        raise RepodataError(
            "the digest is not the one in repomd.xml",
            file=path,
            expected=pinned,
            found=found,
            hint="mirror the repository again",
        )


def _elements(pieces: Iterator[bytes], path: str) -> Iterator[bytes]:
    data, begun = b"", False
    for piece in pieces:
        data += piece
        if not begun and data.lstrip()[:1] not in (b"", b"<"):
            raise UnsupportedError(
                "the list is of an unknown compression",
                file=path,
                expected="XML, packed with gzip, xz or zstd",
                found=data[:6].hex(),
                hint="make the repodata again with createrepo_c --general-compress-type=gz",
            )
        start = None if begun else _START.search(data)
        if start is not None:
            begun, data = True, data[start.start() :]
        if not begun and len(data) > MIB:
            break
        searched = max(0, len(data) - len(piece) - len(_END))
        end = data.rfind(_END, searched) + len(_END) if begun else 0
        if end >= len(_END):
            yield data[:end]
            data = data[end:]
        message = "too much is said about one package"
        at_most(_ELEMENT, len(data), message, "bytes", file=path)
    if not begun and (len(data) > MIB or not _EMPTY.search(data)):
        raise RepodataError("not a list of packages", file=path)
    if begun and not _CLOSING.match(data):
        raise RepodataError("the list ends too early", file=path)
