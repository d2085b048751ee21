# SPDX-License-Identifier: GPL-2.0-or-later
"""Several answers become one: what counts, what is said, and what is recorded."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Optional

import pytest

from sgx_enclaves.errors import RecordError
from sgx_enclaves.evidence.report import canonical, of_build, of_record, read_report
from sgx_enclaves.gate.collect import (
    Answer,
    combine,
    failed,
    read_answer,
    record_of,
)
from sgx_enclaves.gate.inspect import PackageFacts, RpmDigests
from sgx_enclaves.gate.record import RecordedEnclave, read_record
from sgx_enclaves.plain import as_plain
from sgx_enclaves.report.templated import combined_html, filled

RELEASE = "cd" * 32
FILE = "ef" * 32
PACKAGE = "x-1-1.x86_64.rpm"
AROUND: dict[str, Any] = {
    "origin": "catalogue",
    "release_sha256": RELEASE,
    "build_id": 7,
    "task_id": 41,
    "report_sha256": "12" * 32,
    "build_tag": "demo-build",
    "repo_id": 4,
}


def subject(
    packed: bool = True, verdict: str = "identical", cause: Optional[str] = None, name: str = "pce"
) -> RecordedEnclave:
    file = f"libsgx_{name}.signed.so"
    return RecordedEnclave(
        name,
        PACKAGE if packed else None,
        f"/lib/{file}.1.2" if packed else file,
        FILE,
        verdict,
        version="1.2" if packed else None,
        mrenclave="ab" * 32,
        mrsigner="ac" * 32,
        isvprodid=1,
        isvsvn=2,
        built_sha256="ad" * 32,
        cause=cause,
    )


def answer(name: str = "pce", *subjects: RecordedEnclave, **more: Any) -> Answer:
    held = subjects or (subject(False, name=name), subject(name=name))
    values: dict[str, Any] = {
        "enclave": name,
        "reproducible": True,
        "claim": f"{name} is our own build plus a signature",
        "subjects": held,
        "toolchain_sha256": "af" * 32,
        "buildroot_sha256": "bb" * 32,
        "lock_sha256": "bc" * 32,
        "release_sha256": RELEASE,
        "report_sha256": "ba" * 32,
        "task_id": 50,
    }
    return Answer(**{**values, **more})


def package(*names: str, problem: Optional[str] = None) -> PackageFacts:
    files = {f"/lib/libsgx_{name}.signed.so.1.2": FILE for name in names}
    return PackageFacts(PACKAGE, RpmDigests("1a" * 32, "1b" * 32), files, problem=problem)


def mapping(given: Answer) -> dict[str, Any]:
    """As it comes from another process."""
    plain: dict[str, Any] = json.loads(json.dumps(as_plain(given)))
    return plain


def test_an_answer_survives_the_way() -> None:
    given = answer()
    assert read_answer(mapping(given), "pce", 50, RELEASE) == given


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        {"verdict": "identical"},
        {**mapping(answer()), "verdict": "identical"},
        {**mapping(answer()), "subjects": [{}]},
        {**mapping(answer()), "subjects": []},
        mapping(answer("pce", subject(True, "fine"))),
        {**mapping(answer()), "claim": "a\x1bb"},
        mapping(answer("pce", replace(subject(), path="/a\nb"))),
        {**mapping(answer()), "task_id": 51},
        {**mapping(answer()), "enclave": "ide"},
        mapping(answer("pce", subject(), subject(name="ide"))),
        {**mapping(answer()), "release_sha256": "00" * 32},
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(broken: object) -> None:
    with pytest.raises(RecordError):
        read_answer(broken, "pce", 50, RELEASE)


def test_all_identical_is_identical_and_recorded() -> None:
    both = combine("demo", "x-1-1", [answer("pce"), answer("ide")], [package("pce", "ide")])
    assert (both.verdict, both.reproducible) == ("identical", True)
    assert both.claim == (
        "x-1-1 against release demo: each of pce, ide is our own build plus a signature"
    )
    record = record_of(both, **AROUND)
    read = read_record(as_plain(record))
    assert [enclave.name for enclave in read.enclaves] == ["pce", "ide"]
    assert read.toolchain_sha256 == "af" * 32
    assert (read.build_tag, read.repo_id, read.partial) == ("demo-build", 4, False)
    assert (read.buildroot_sha256, read.lock_sha256) == ("bb" * 32, "bc" * 32)
    assert read.rpms[0].content_sha256 == "1b" * 32


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        ([answer("pce"), failed("ide", 51, "died")], "unverifiable"),
        (
            [
                failed("ide", 51, "died"),
                answer("pce", subject(True, "differs", "x")),
            ],
            "differs",
        ),
        ([], "unverifiable"),
    ],
)
def test_one_is_enough_against(answers: list[Answer], verdict: str) -> None:
    combined = combine("demo", "x-1-1", answers, [package("pce")])
    assert (combined.verdict, combined.reproducible) == (verdict, False)
    assert combined.claim.partition(": ")[2]


def test_one_that_is_not_reproducible_is_enough() -> None:
    answers = [answer("pce"), answer("ide", reproducible=False)]
    combined = combine("demo", None, answers)
    assert (combined.verdict, combined.reproducible) == ("identical", False)


def test_a_file_that_nobody_compared_counts() -> None:
    combined = combine("demo", "x-1-1", [answer("pce")], [package("pce", "qve")])
    assert combined.verdict == "unverifiable"
    assert (
        "libsgx_qve.signed.so.1.2 of x-1-1.x86_64.rpm was compared with nothing" in combined.claim
    )
    enclaves = {enclave.path: enclave for enclave in record_of(combined, **AROUND).enclaves}
    assert enclaves["/lib/libsgx_qve.signed.so.1.2"].verdict == "unverifiable"
    assert enclaves["/lib/libsgx_pce.signed.so.1.2"].verdict == "identical"


def test_a_package_that_cannot_be_read_counts() -> None:
    combined = combine("demo", "x-1-1", [answer("pce")], [package("pce", problem="truncated")])
    assert combined.verdict == "unverifiable"
    assert "truncated" in combined.claim


def test_a_file_that_was_exchanged_meanwhile_is_not_recorded_as_good() -> None:
    other = replace(package("pce"), signed={"/lib/libsgx_pce.signed.so.1.2": "00" * 32})
    combined = combine("demo", "x-1-1", [answer("pce")], [other])
    assert combined.verdict == "unverifiable"
    record = read_record(as_plain(record_of(combined, **AROUND)))
    assert (record.verdict, record.enclaves[0].verdict) == ("unverifiable", "unverifiable")


def test_without_digests_there_is_no_record() -> None:
    broken = PackageFacts(PACKAGE, None, problem="not a package")
    with pytest.raises(RecordError, match=r"no digests.*not a package"):
        record_of(combine("demo", "x-1-1", [answer("pce")], [broken]), **AROUND)


def test_without_a_build_there_is_no_record() -> None:
    with pytest.raises(RecordError, match="without a build"):
        record_of(combine("demo", None, [answer("pce")]), **AROUND)


def test_several_toolchains_have_one_digest_in_any_order() -> None:
    answers = [answer("pce"), answer("ide", toolchain_sha256="00" * 32)]
    one = combine("demo", None, answers).digest("toolchain_sha256")
    assert one == combine("demo", None, answers[::-1]).digest("toolchain_sha256")
    assert one not in ("af" * 32, "00" * 32, None)


def test_the_row_is_of_the_file_that_speaks_most_against_it() -> None:
    bad = answer(
        "pce",
        subject(False),
        subject(True, "differs", "byte 5 is 6"),
        claim="not so",
    )
    (row,) = combine("demo", None, [bad]).rows()
    assert (row["verdict"], row["cause"], row["task_id"]) == ("differs", "byte 5 is 6", 50)


def test_the_report_has_every_answer() -> None:
    answers = [answer("pce", subject(True, "differs", "x")), failed("ide", 51, "died\n")]
    combined = combine("demo", "x-1-1", answers, [package("pce")])
    reports = {50: of_record(record_of(combined, **AROUND))}
    release = {"name": "demo", "sha256": "5" * 64, "origin": "catalogue"}
    buildroot = {"build_tag": "demo-build", "repo_id": 4}
    buildroot |= {"packages_sha256": combined.digest("buildroot_sha256"), "lock_sha256": None}
    report = read_report(canonical(of_build(combined, release, buildroot, reports)), "report")
    assert [enclave["name"] for enclave in report["enclaves"]] == ["pce", "ide"]
    assert report["enclaves"][0]["signed"]["sha256"] == FILE
    assert report["enclaves"][1]["headline"] == "died\\x0a"
    assert (report["verdict"], report["buildroot"]) == ("differs", buildroot)
    assert report["packages"][0]["sha256"] == "1a" * 32


def test_people_read_the_same() -> None:
    bad = answer("pce", subject(True, "differs", "<b>byte 5</b>"), claim="not so")
    combined = combine("demo", "x-1-1", [bad, failed("ide", 51, "died")], [package("pce")])
    words = filled("combined.txt", combined=combined)
    assert words.startswith("DIFFERS: x-1-1 against release demo: pce: <b>byte 5</b>; ide: died")
    assert "/lib/libsgx_pce.signed.so.1.2 of x-1-1.x86_64.rpm" in words
    assert "1a" * 32 in words
    page = combined_html(combined, {"not_proved": ["that <b>"]})
    assert '<h1 class="differs">x-1-1: differs</h1>' in page
    assert "&lt;b&gt;byte 5" in page
    assert "<b>" not in page
    for part in ("Refuted:</dt><dd>pce: not so.", "Not decided:", "that &lt;b&gt;"):
        assert part in page


def test_one_lock_must_pin_all_buildroots() -> None:
    both = [answer("pce"), answer("ide", lock_sha256=None)]
    combined = combine("demo", "x-1-1", both, [package("pce", "ide")])
    assert combined.lock_sha256 is None
    assert combined.digest("buildroot_sha256") == "bb" * 32
    assert combine("demo", None, [answer("pce")]).lock_sha256 == "bc" * 32
    assert combine("demo", None, []).lock_sha256 is None
    other = combine("demo", None, [answer("pce"), answer("ide", buildroot_sha256="00" * 32)])
    assert other.digest("buildroot_sha256") not in (None, "bb" * 32, "00" * 32)


@pytest.mark.parametrize(
    ("reproducible", "mood"), [(True, 'class="identical"'), (False, 'class="weaker"')]
)
def test_an_identical_that_is_not_reproducible_is_not_green(reproducible: bool, mood: str) -> None:
    combined = combine("demo", "x-1-1", [answer("pce", reproducible=reproducible)], [package()])
    assert f"<h1 {mood}>" in combined_html(combined, {"not_proved": ["that <b>"]})
