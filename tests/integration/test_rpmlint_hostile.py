# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages that lie, through the real rpmlint, old and new: each ends in an error, soon.

Most are written byte by byte, because rpmbuild would refuse to make them. Where
rpmlint itself gives up, it must say so and fail; where it does not, our check must.
"""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER
from tests.enclaves.synthetic import NOTE_SECTION, small_enclave
from tests.integration.linting import (
    FULL,
    SIGNED_NAME,
    SIGNED_PATH,
    SIGNED_PROVIDES,
    VERIFIED_BY_A_NEIGHBOUR,
    VERSIONS,
    Lint,
    Rpmlint,
    Shop,
    needs_tools,
    rpmlint_with_wheel,
    shop_of,
)
from tests.integration.test_check_rpm import SPEC
from tests.support.signed import signed_enclave
from tests.support_rpm import INT16, Raw, RpmFile, cpio_of, link, newc, write_rpm

pytestmark = needs_tools

CASE = signed_enclave("2.25")
GOOD = RpmFile(SIGNED_PATH, CASE.signed, 0o100755)
LINK = link(f"{ENCLAVE_FOLDER}libsgx_pce.signed.so", GOOD.path)
DAMAGED, UNREADABLE = "sgx-enclave-package-damaged", "sgx-enclave-package-unreadable"
MALFORMED, MISSING = "sgx-enclave-malformed", "sgx-enclave-missing"
NOT_REPRODUCED = "sgx-enclave-not-reproduced"
# More than rpmlint and its tools ever take for a small package, less than any bomb.
MEMORY = 200
SECONDS = 60


@pytest.fixture(scope="module", name="shop")
def _shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return shop_of(tmp_path_factory)


@pytest.fixture(scope="module", name="rpmlint", params=VERSIONS)
def _rpmlint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rpmlint:
    return rpmlint_with_wheel(request.param, tmp_path_factory)


def crafted(files: Sequence[RpmFile], **changes: Any) -> bytes:
    """A package that librpm and rpmlint can read, unless a change prevents it."""
    count = len(files)
    tags = {
        1004: "A package",
        1005: "A package.",
        1006: [0],
        1007: "host",
        1009: [1],
        1014: "MIT",
        1021: "linux",
        1033: Raw(INT16, count, bytes(2 * count)),
        1034: [0] * count,
        1039: ["root"] * count,
        1040: ["root"] * count,
        1097: [""] * count,
        **changes.pop("tags", {}),
    }
    return write_rpm(files, name=SIGNED_NAME, tags=tags, **changes)


@dataclass(frozen=True)
class Lie:
    """A package that lies.

    Attributes:
        make: its bytes.
        reported: the finding about it, where rpmlint does not give up first.
    """

    make: Callable[[], bytes]
    reported: str


@cache
def nested_bomb() -> bytes:
    """64 MiB of zeros, packed three times."""
    inner = lzma.compress(gzip.compress(bytes(64 << 20)))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        info = tarfile.TarInfo("bomb.xz")
        info.size = len(inner)
        tar.addfile(info, io.BytesIO(inner))
    return out.getvalue()


def elf_lies() -> list[bytes]:
    """Enclaves that lie about each offset that a reader follows; the last ones upset libmagic."""
    far = (1 << 64) - 1
    headers = ["e_phoff", "e_shoff"]
    lies = [small_enclave(header_fields={name: far}) for name in headers]
    lies += [small_enclave(header_fields={n: 0xFFFF}) for n in ("e_phnum", "e_shnum", "e_shstrndx")]
    for name in ("p_offset", "p_filesz", "p_memsz"):
        lies += [small_enclave(segment_fields={0: {name: value}}) for value in (far, 1 << 40)]
    lies.append(small_enclave(segment_fields={0: {"p_vaddr": far}}))
    for name in ("sh_offset", "sh_size"):
        lies += [small_enclave(section_fields={NOTE_SECTION: {name: v}}) for v in (far, 1 << 40)]
    return lies


def as_files(lies: Sequence[bytes]) -> list[RpmFile]:
    return [RpmFile(f"{ENCLAVE_FOLDER}libx{i}.so", data) for i, data in enumerate(lies)]


LIES = {
    "payload digest": Lie(lambda: crafted([GOOD], tags={5092: ["0" * 64]}), DAMAGED),
    "file digest": Lie(lambda: crafted([replace(GOOD, digest="0" * 64)]), DAMAGED),
    "header size": Lie(lambda: crafted([replace(GOOD, size=len(GOOD.data) + 8)]), UNREADABLE),
    "a file instead of a link": Lie(
        lambda: crafted([GOOD, replace(LINK, cpio_mode=0o100755)]), UNREADABLE
    ),
    "another target of a link": Lie(
        lambda: crafted([GOOD, replace(LINK, cpio_data=b"x" * len(LINK.data))]), UNREADABLE
    ),
    "a file that is not listed": Lie(
        lambda: crafted([GOOD], cpio=newc("./usr/x", b"", 0o100644) + cpio_of([GOOD])), UNREADABLE
    ),
    "another file instead": Lie(lambda: crafted([replace(GOOD, cpio_data=CASE.built)]), DAMAGED),
    "file missing": Lie(lambda: crafted([GOOD, RpmFile("/usr/x")], cpio=b""), DAMAGED),
    "payload bomb": Lie(
        lambda: crafted([GOOD, RpmFile("/usr/zeros", bytes(100 << 20))]), UNREADABLE
    ),
    "path out of the tree": Lie(
        lambda: crafted([GOOD, RpmFile("/usr/../../../tmp/libsgx_x.signed.so", b"x")]), UNREADABLE
    ),
    "link loop": Lie(
        lambda: crafted([link(LINK.path, LINK.path + ".1"), link(LINK.path + ".1", LINK.path)]),
        UNREADABLE,
    ),
    "compressor": Lie(lambda: crafted([GOOD], tags={1125: "lzip"}), UNREADABLE),
    "ghost": Lie(lambda: crafted([replace(GOOD, ghost=True)]), MISSING),
    "link to another package": Lie(lambda: crafted([link(LINK.path, "/opt/mine.so")]), MISSING),
    "link for the folder": Lie(lambda: crafted([link(ENCLAVE_FOLDER[:-1], "/opt/mine")]), MISSING),
    "promise": Lie(
        lambda: crafted([RpmFile("/usr/x", b"x")], provides=["sgx-enclave(qe3:signed)"]), MISSING
    ),
    "section renamed": Lie(
        lambda: crafted([replace(GOOD, path="/opt/x", data=disguised())]), MALFORMED
    ),
    "32 bits": Lie(lambda: crafted([replace(GOOD, path="/opt/x", data=narrow())]), MALFORMED),
    "hard links": Lie(
        lambda: crafted([RpmFile(f"/opt/{n}", CASE.signed, inode=9) for n in "abc"]),
        NOT_REPRODUCED,
    ),
    "two of one name": Lie(
        lambda: crafted([GOOD, replace(GOOD, path=GOOD.path.replace("1.25", "1.24"))]),
        NOT_REPRODUCED,
    ),
}


def narrow() -> bytes:
    """A 32-bit ELF file that has nothing but the section."""
    names = b"\0" + NOTE_SECTION.encode() + b"\0"
    header = bytearray(b"\x7fELF\x01\x01\x01" + bytes(57))
    table = bytearray(80)
    header[32:36] = (64 + len(names)).to_bytes(4, "little")
    header[46:52] = b"\x28\0\x02\0\x00\0"
    table[16:20] = (64).to_bytes(4, "little")
    table[40:44] = (1).to_bytes(4, "little")
    return bytes(header) + names + bytes(table)


def disguised() -> bytes:
    return CASE.signed.replace(NOTE_SECTION.encode(), b".note.picture")


def lint_bytes(rpmlint: Rpmlint, folder: Path, data: bytes, *others: Path) -> Lint:
    path = folder / "liar.rpm"
    path.write_bytes(data)
    start = time.monotonic()
    lint = rpmlint(path, *others)
    assert time.monotonic() - start < SECONDS
    assert lint.memory < MEMORY, lint.text
    return lint


def gave_up(lint: Lint) -> bool:
    """Whether rpmlint itself ended with an error about the package."""
    return lint.status == 3 and "fatal error while reading" in lint.text


@cache
def lie(name: str) -> bytes:
    return LIES[name].make()


@pytest.fixture(scope="module", name="linted")
def _linted(rpmlint: Rpmlint, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Lint]:
    """What this rpmlint says of a lie, which it looks at once."""
    return cache(lambda name: lint_bytes(rpmlint, tmp_path_factory.mktemp("lie"), lie(name)))


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_reported(linted: Callable[[str], Lint], name: str) -> None:
    lint = linted(name)
    assert lint.status != 0, lint.text
    assert "sgx-enclave-verified" not in lint.text
    assert gave_up(lint) or ("E", LIES[name].reported) in lint.ours, lint.text


def test_lies_that_rpmlint_itself_does_not_notice(linted: Callable[[str], Lint]) -> None:
    """What the last test proves of our check: that rpmlint does not give up on all of them."""
    for name in ("header size", "file digest", "ghost", "section renamed", "promise"):
        assert not gave_up(linted(name)), linted(name).text


def test_an_honest_package_of_the_same_making(rpmlint: Rpmlint, tmp_path: Path) -> None:
    """The lies are reported for being lies: without it, only the counterpart is missing."""
    lint = lint_bytes(rpmlint, tmp_path, crafted([GOOD], provides=SIGNED_PROVIDES[:0]))
    assert {kind for level, kind in lint.ours if level == "E"} == {NOT_REPRODUCED}, lint.text


@pytest.mark.parametrize("left_out", [0, 2])
def test_elf_files_that_lie_about_every_offset(
    rpmlint: Rpmlint, tmp_path: Path, left_out: int
) -> None:
    lies = elf_lies()[: -left_out or None]
    lint = lint_bytes(rpmlint, tmp_path, crafted(as_files(lies)))
    if not left_out and gave_up(lint):
        return
    assert {kind for level, kind in lint.ours if level == "E"} == {MALFORMED}, lint.text
    assert len(lint.of(MALFORMED)) == len(lies)


def test_a_size_that_only_the_payload_states(rpmlint: Rpmlint, tmp_path: Path) -> None:
    """RPM goes by the header's size; what it would install is compared with the header's digest."""
    lint = lint_bytes(rpmlint, tmp_path, crafted([replace(GOOD, cpio_size=1 << 30)]))
    assert gave_up(lint) or {DAMAGED, UNREADABLE} & {kind for _level, kind in lint.ours}
    assert lint.status != 0
    assert "sgx-enclave-verified" not in lint.text


def test_a_bomb_in_a_file_is_no_matter(rpmlint: Rpmlint, shop: Shop) -> None:
    """Nothing of ours unpacks files of a package; the enclave beside it is still verified."""
    files = {**shop.signed_files(), "/usr/lib/bomb.tar.gz": nested_bomb()}
    package = shop.rpm("bomb", files, SIGNED_PROVIDES, name=SIGNED_NAME)
    start = time.monotonic()
    lint = rpmlint(package, shop.unsigned_rpm())
    assert lint.ours == VERIFIED_BY_A_NEIGHBOUR, lint.text
    assert time.monotonic() - start < SECONDS
    assert lint.memory < MEMORY


def test_hard_links_of_a_real_package(rpmlint: Rpmlint, shop: Shop) -> None:
    spec = SPEC.replace(
        "cp -a {tree}/. %{{buildroot}}/",
        "cp -a {tree}/. %{{buildroot}}/\n"
        f"ln %{{{{buildroot}}}}{SIGNED_PATH} %{{{{buildroot}}}}/usr/picture.jpg",
    )
    package = shop.rpm(
        "hardlinks", shop.signed_files(), SIGNED_PROVIDES, name=SIGNED_NAME, spec=spec
    )
    lint = rpmlint(package, shop.unsigned_rpm())
    assert ("I", "sgx-enclave-verified") in lint.ours, lint.text
    assert "/usr/picture.jpg" in " ".join(lint.of("sgx-enclave-links-unconventional"))
    data, _at = shop.tampered()
    package = shop.rpm(
        "hardlinks-tampered", shop.signed_files(data), SIGNED_PROVIDES, name=SIGNED_NAME, spec=spec
    )
    lint = rpmlint(package, shop.unsigned_rpm())
    assert ("E", "sgx-enclave-payload-differs") in lint.ours, lint.text


def test_a_source_package_with_an_enclave(rpmlint: Rpmlint, tmp_path: Path) -> None:
    name = f"libsgx_pce.signed.so{FULL}"
    file = RpmFile(name, CASE.signed, 0o100644, cpio_name=name)
    lint = lint_bytes(rpmlint, tmp_path, crafted([file], tags={1044: None, 1106: [1]}))
    assert ("E", NOT_REPRODUCED) in lint.ours, lint.text
    assert not {kind for level, kind in lint.ours if level == "W"}


@pytest.mark.parametrize(
    ("toml", "rc"),
    [
        ('Filters = [".*", "sgx-enclave.*"]', ""),
        ('FilterErrorTitles = ["sgx-enclave-payload-differs"]', ""),
        ('[Scoring]\nsgx-enclave-payload-differs = "0"', ""),
        ("BadnessThreshold = 9000", 'setBadness("sgx-enclave-payload-differs", 0)'),
        ("BadnessThreshold = 99999999", 'addFilter("sgx-enclave")'),
        ("", f'setBadness("sgx-enclave-payload-differs", {"9" * 5000})'),
        ("", f'setBadness("sgx-enclave-name-unconventional", {"9" * 5000})'),
        ("", 'addFilter("E: ")\naddFilter("^")\naddFilter("")'),
        ("", '  addFilter ( r"sgx.enclave.payload.differs"  )'),
    ],
)
def test_no_configuration_hides_an_error(rpmlint: Rpmlint, shop: Shop, toml: str, rc: str) -> None:
    data, _at = shop.tampered()
    lint = rpmlint(shop.signed_rpm("tampered", data), shop.unsigned_rpm(), toml=toml, rc=rc)
    assert ("E", "sgx-enclave-payload-differs") in lint.ours, lint.text
    assert lint.status != 0


def test_an_rpmlintrc_beside_the_package(rpmlint: Rpmlint, shop: Shop) -> None:
    """rpmlint takes it without being asked, if there is one package on its command line."""
    package = shop.folder / f"beside-{rpmlint.version}" / "x.rpm"
    package.parent.mkdir()
    package.write_bytes(shop.signed_rpm().read_bytes())
    (package.parent / "x.rpmlintrc").write_text(
        'addFilter("sgx-enclave")\nsetBadness("sgx-enclave-not-reproduced", 0)\n'
    )
    lint = rpmlint(package)
    assert ("E", NOT_REPRODUCED) in lint.ours, lint.text
    assert "x.rpmlintrc" in lint.text


@pytest.mark.parametrize("name", ["", " "])
def test_stock_findings_of_neighbours_stay(rpmlint: Rpmlint, shop: Shop, name: str) -> None:
    """A file that is no enclave, with a verified one's name and more, is not quietened."""
    program = small_enclave(note=None)
    other = f"{SIGNED_PATH}{name}evil"
    files = {**shop.signed_files(), other: program}
    package = shop.rpm(f"neighbours{len(name)}", files, SIGNED_PROVIDES, name=SIGNED_NAME)
    lint = rpmlint(package, shop.unsigned_rpm(), only=False)
    assert ("I", "sgx-enclave-verified") in lint.ours, lint.text
    loud = rpmlint(package, only=False)
    assert about(loud, other), loud.text
    assert about(lint, other) == about(loud, other)


def about(lint: Lint, path: str) -> list[tuple[str, str]]:
    """The findings of other checks about a path."""
    return sorted((k, rest) for _l, k, rest in lint.found if path in rest and "sgx-" not in k)
