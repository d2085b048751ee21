# SPDX-License-Identifier: GPL-2.0-or-later
"""What a page draws: places, address space, bytes and code; never an error, whatever the file."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace

import pytest

from sgx_enclaves.explain.picture import Picture, picture_of
from tests.support.signed import Case, signed_enclave


def test_an_identical_enclave_has_places_and_no_differences() -> None:
    case = signed_enclave()
    found = picture_of(case.compare(), case.built, case.signed)
    assert found.segments[0].name.startswith("segment 0 r")
    assert {".dynsym", ".note.sgxmeta"} <= {span.name for span in found.sections}
    assert all(span.start < span.end <= len(case.signed) for span in found.sections)
    names = [span.name.split()[0] for span in found.space]
    assert {"segment", "HEAP_MIN", "TCS", "GUARD"} <= set(names)
    assert found.space_size == case.blocks[0].header.enclave_size
    assert all(span.start < span.end <= found.space_size for span in found.space)
    assert (found.dumps, found.listings) == ((), ())


def test_a_group_stands_for_the_repetitions_that_it_makes() -> None:
    case = signed_enclave("2.25", {"TCSNum": 5})
    found = picture_of(case.compare(), case.built, case.signed)
    once = next(span for span in found.space if span.name.startswith("TCS"))
    (group,) = (span for span in found.space if " x " in span.name)
    assert group.name.startswith("4 x ")
    assert group.start >= once.end


def changed(case: Case, offset: int) -> bytes:
    evil = bytearray(case.signed)
    evil[offset] ^= 1
    return bytes(evil)


def test_bytes_stand_side_by_side() -> None:
    case = signed_enclave()
    evil = changed(case, 15) + b"tail"
    found = picture_of(case.compare(evil), case.built, evil)
    first, last = found.dumps[0], found.dumps[-1]
    assert (first.offset, len(first.ours), len(first.theirs)) == (0, 16, 16)
    assert [n for n in range(16) if first.ours[n] != first.theirs[n]] == [15]
    assert last.offset <= len(case.signed) < last.offset + 32
    at = len(case.signed) - last.offset
    assert (last.ours[at], last.theirs[at]) == ("--", f"{b't'[0]:02x}")


def test_a_line_of_bytes_that_two_differences_touch_stands_once() -> None:
    case = signed_enclave("2.25", trailing=b"some")
    evil = changed(case, len(case.signed) - 1) + b"tail"
    found = picture_of(case.compare(evil), case.built, evil)
    offsets = [dump.offset for dump in found.dumps]
    assert offsets == sorted({offset - offset % 16 for offset in offsets})


def test_code_stands_side_by_side() -> None:
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not installed")
    case = signed_enclave("2.25", code=b"\x90\x90\x90\xc3")
    evil = changed(case, case.signed.index(b"\x90\x90\x90\xc3") + 1)
    (listing,) = picture_of(case.compare(evil), case.built, evil).listings
    assert len([line for line in listing.ours if line.endswith("nop")]) > 1
    assert listing.ours != listing.theirs


def test_code_is_found_in_a_file_that_has_fewer_segments_than_ours() -> None:
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not installed")
    case = signed_enclave("2.25", code=b"\x90\x90\x90\xc3")
    evil = changed(case, case.signed.index(b"\x90\x90\x90\xc3") + 1)
    verdict = case.compare(evil)
    assert verdict.explanation is not None
    (difference,) = verdict.explanation.differences
    last = replace(difference, segment=len(case.image.load_segments))
    explanation = replace(verdict.explanation, differences=(last,))
    assert picture_of(replace(verdict, explanation=explanation), case.built, evil).listings


def test_without_objdump_there_is_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    case = signed_enclave("2.25", code=b"\x90\x90\x90\xc3")
    evil = changed(case, case.signed.index(b"\x90\x90\x90\xc3") + 1)
    monkeypatch.setenv("PATH", "")
    found = picture_of(case.compare(evil), case.built, evil)
    assert found.listings == ()
    assert found.dumps


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"no enclave" * 100])
def test_what_is_no_enclave_has_no_picture(data: bytes) -> None:
    case = signed_enclave()
    found = picture_of(case.compare(data), case.built, data)
    assert found.segments == found.sections == found.space == ()


def test_a_damaged_enclave_has_some_picture() -> None:
    case, chance = signed_enclave(), random.Random(13)  # noqa: S311  (a test)
    for _ in range(25):
        evil = bytearray(case.signed)
        for _ in range(8):
            evil[chance.randrange(chance.choice((512, len(evil))))] = chance.randrange(256)
        found = picture_of(case.compare(bytes(evil)), case.built, bytes(evil))
        assert isinstance(found, Picture)
        assert len(found.space) <= 2 * 400
