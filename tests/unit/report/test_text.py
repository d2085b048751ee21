# SPDX-License-Identifier: GPL-2.0-or-later
"""The text report says what was proved and what not, on one screen."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from sgx_enclaves.enclave.verdict import (
    CheckState,
    Explanation,
    Finding,
    Outcome,
    Severity,
    Verdict,
)
from sgx_enclaves.report.forms import finding_lines, verdict_text
from tests.unit.report.verdicts import (
    DIFFERS,
    IDENTICAL,
    THEIRS,
    UNVERIFIABLE,
    block,
    checks,
    difference,
    evil,
)

ALL = pytest.mark.parametrize("verdict", [IDENTICAL, DIFFERS, UNVERIFIABLE], ids=["0", "1", "2"])


@ALL
def test_a_report_fits_a_screen(verdict: Verdict) -> None:
    lines = verdict_text(verdict).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_the_first_line_is_the_verdict() -> None:
    assert verdict_text(IDENTICAL).splitlines()[0] == (
        "IDENTICAL: libsgx_pce.signed.so is our build plus a signature, and nothing else"
    )
    assert verdict_text(DIFFERS).splitlines()[0] == (
        "DIFFERS: libsgx_pce.signed.so is not our build plus a signature"
    )
    first = verdict_text(UNVERIFIABLE).splitlines()[0]
    assert first.startswith("UNVERIFIABLE: it is undecided whether libsgx_pce.signed.so is")


@ALL
def test_only_identical_says_nothing_else(verdict: Verdict) -> None:
    said = "nothing else" in verdict_text(verdict)
    assert said == (verdict.outcome is Outcome.IDENTICAL)


def test_inputs_are_named_with_their_digests() -> None:
    text = verdict_text(IDENTICAL)
    assert "built    build/libsgx_pce.so, 2000 bytes, sha256 0101010101010101\n" in text
    assert "signed   vendor/libsgx_pce.signed.so, 2000 bytes, sha256 2323232323232323\n" in text
    assert "config   config.xml, 700 bytes, sha256 4545454545454545, SDK 2.25\n" in text


def test_each_check_says_how_it_ended() -> None:
    text = verdict_text(
        replace(DIFFERS, checks=checks(payload=CheckState.REFUTED, policy=CheckState.NOT_DONE))
    )
    assert re.search(r"^refuted  payload: ", text, re.M)
    assert re.search(r"^proved   metadata: ", text, re.M)
    assert re.search(r"^not done policy: ", text, re.M)


def test_a_block_names_its_signer_and_whether_debug_is_open() -> None:
    text = verdict_text(IDENTICAL)
    assert (
        "block 0  same MRENCLAVE, Intel (PCE), ISVPRODID 1, ISVSVN 16, 2024-08-07, not debug\n"
        in " ".join(text.split("\n         ")) + "\n"
    )
    text = verdict_text(
        replace(IDENTICAL, blocks=(block(), block(1, mrenclave=THEIRS, signer=None, debug=True)))
    )
    assert "block 1  MRENCLAVE b2b2b2b2..., unknown signer c54a62f2be9ef76e..." in text
    assert text.count("DEBUG") == 1


def test_the_byte_map_is_summed_up() -> None:
    text = verdict_text(DIFFERS)
    assert "bytes    built 998, regenerated 900, signature 100, unexplained 2\n" in text


def test_causes_take_the_place_of_findings_that_say_the_same() -> None:
    text = verdict_text(DIFFERS)
    assert "why" not in text
    assert "cause    PT_INTERP is /a in the vendor's file, /b in ours -> same\n" in text
    assert "\n         the build id is absent\n" in text
    assert "note     the SDK was guessed\n" in text
    bare = verdict_text(replace(DIFFERS, explanation=None))
    assert "expected 3634, found 3332; see the explanation" in " ".join(bare.split())
    assert "why      the vendor's file has other bytes" in bare


def test_a_finding_of_its_own_is_said_beside_a_cause() -> None:
    invalid = Finding(
        "signature-invalid", Severity.DIFFERS, "the RSA signature is not valid", 0, 7, "x", "y", "z"
    )
    text = verdict_text(replace(DIFFERS, findings=(*DIFFERS.findings, invalid)))
    said = "why block 0: the RSA signature is not valid (at 0x7): expected x, found y; z note"
    assert said in " ".join(text.split())


def test_the_first_ranges_are_listed_and_the_rest_counted() -> None:
    text = verdict_text(DIFFERS)
    assert "where    0x204+2 .interp enclave_entry, measured, 3634 -> 3332\n" in text
    assert "\n         0x900+32 metadata block 0 SIGSTRUCT.isvsvn, measured" in text
    assert "0x500" not in text
    # Two that are listed elsewhere, twelve that are nowhere.
    assert "... and 14 more; --json has more\n" in text
    one = replace(DIFFERS, explanation=Explanation((difference(),), 0, 2, ()))
    assert "more" not in verdict_text(one).split("where")[1]


def test_many_findings_are_cut_and_counted() -> None:
    many = tuple(Finding("x", Severity.DIFFERS, f"finding {n}") for n in range(30))
    text = verdict_text(replace(DIFFERS, findings=many, explanation=None))
    assert "finding 5\n" in text
    assert "finding 6\n" not in text
    assert "... and 24 more; --json has them\n" in text


def test_less_is_shown_where_a_report_would_not_fit() -> None:
    many = tuple(Finding("x", Severity.DIFFERS, f"finding {n} " + "word " * 30) for n in range(9))
    text = verdict_text(replace(DIFFERS, findings=many))
    assert len(text.splitlines()) <= 24
    assert "finding 1 " in text
    assert "finding 2 " not in text
    assert "... and 7 more; --json has them\n" in text
    # What is cut is counted, and nothing else is lost.
    assert text.count("cause") == 1
    assert text.count("where") == 1


def test_no_text_of_a_file_steers_the_terminal() -> None:
    text = verdict_text(evil())
    assert "\x1b" not in text
    assert "\\x1b[2J" in text
    assert all(c.isprintable() or c == "\n" for c in text)


def test_width_is_kept_where_words_allow_it() -> None:
    assert max(map(len, verdict_text(DIFFERS, width=132).splitlines())) <= 132
    narrow = verdict_text(replace(DIFFERS, mrenclave=None), width=60)
    assert max(map(len, narrow.splitlines())) <= 60


def test_a_block_that_the_message_names_is_named_once() -> None:
    note = Finding("x", Severity.NOTE, "block 0 has something", block=0)
    other = replace(note, message="block 10 is like it", block=1)
    text = verdict_text(replace(IDENTICAL, findings=(note, other)))
    assert "note     block 0 has something\n" in text
    assert "block 1: block 10 is like it" in text
    assert finding_lines(note) == ["block 0 has something"]
    assert finding_lines(other) == ["block 10 is like it (block 1)"]


def test_the_sentence_names_the_file_without_its_folder() -> None:
    assert IDENTICAL.headline.startswith("libsgx_pce.signed.so is our build")
