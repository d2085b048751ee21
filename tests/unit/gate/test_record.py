# SPDX-License-Identifier: GPL-2.0-or-later
"""A record is taken whole or refused whole."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from sgx_enclaves.errors import RecordError
from sgx_enclaves.gate import record as record_module
from sgx_enclaves.gate.record import read_record, record_from_json, time_text
from sgx_enclaves.plain import as_plain
from tests.support.records import A, Place, changed, enclave, package, record


def test_a_good_record_comes_back_as_it_was() -> None:
    read = read_record(record())
    mapping = as_plain(read)
    assert mapping.pop("enclaves") == [{**enclave(), "cause": None, "policy": None}]
    # a record of schema 1, as older hubs have kept it
    new = ("build_tag", "repo_id", "buildroot_sha256", "lock_sha256", "partial")
    assert [mapping.pop(name) for name in new] == [None, None, None, None, False]
    assert mapping == {k: v for k, v in record().items() if k != "enclaves"}
    assert record_from_json(read.as_json()) == read


def test_what_may_be_unknown_of_one_that_is_not_identical() -> None:
    unknown = dict.fromkeys(
        ("version", "mrenclave", "mrsigner", "isvprodid", "isvsvn", "built_sha256")
    )
    bad = enclave(**unknown, verdict="unverifiable", cause="not an enclave")
    read = read_record(
        record(
            verdict="unverifiable",
            reproducible=False,
            enclaves=[bad],
            toolchain_sha256=None,
            release_sha256=None,
            verified_at=None,
        )
    )
    assert read.enclaves[0].mrenclave is None
    assert read.verified_time() is None
    assert read_record(record(verdict="differs", enclaves=[])).enclaves == ()


@pytest.mark.parametrize("verdict", ["differs", "unverifiable"])
def test_not_all_enclaves_need_be_bad(verdict: str) -> None:
    assert read_record(record(verdict=verdict)).verdict == verdict


WRONG: list[tuple[Place, Any]] = [
    (("schema",), 3),
    (("schema",), 1.0),
    (("build_tag",), ""),
    (("repo_id",), 0),
    (("repo_id",), 1.0),
    (("lock_sha256",), "x"),
    (("buildroot_sha256",), 1),
    (("partial",), None),
    (("schema",), True),
    (("schema",), "1"),
    (("release",), ""),
    (("release",), "a\nb"),
    (("release",), "x" * 1025),
    (("release",), 5),
    (("origin",), "\x1b[31m"),
    (("release_sha256",), A.upper()),
    (("release_sha256",), A[:-1]),
    (("release_sha256",), A + "\n"),
    (("nvr",), "x 1 1"),
    (("nvr",), "x-1-1\n"),
    (("nvr",), "x-1-é"),
    (("nvr",), "x" * 256),
    (("build_id",), 0),
    (("build_id",), True),
    (("build_id",), 1 << 31),
    (("build_id",), "7"),
    (("build_id",), 7.0),
    (("task_id",), -1),
    (("verdict",), "IDENTICAL"),
    (("verdict",), ["identical"]),
    (("reproducible",), 1),
    (("rpms",), "abc"),
    (("rpms",), {"a": 1}),
    (("rpms", 0), []),
    (("rpms", 0, "name"), "../x.rpm"),
    (("rpms", 0, "name"), "x.deb"),
    (("rpms", 0, "file_sha256"), None),
    (("rpms", 0, "content_sha256"), "z" * 64),
    (("enclaves", 0, "name"), ""),
    (("enclaves", 0, "path"), "relative"),
    (("enclaves", 0, "path"), "/a/../b"),
    (("enclaves", 0, "path"), "/a//b"),
    (("enclaves", 0, "path"), "/a\0b"),
    (("enclaves", 0, "path"), "/a\u202eb"),
    (("enclaves", 0, "version"), "1;2"),
    (("enclaves", 0, "version"), "1.2\n"),
    (("enclaves", 0, "isvprodid"), -1),
    (("enclaves", 0, "isvsvn"), 0x10000),
    (("enclaves", 0, "verdict"), None),
    (("enclaves", 0, "cause"), "a\tb"),
    (("report_sha256",), None),
    (("plugin_version",), None),
    (("verified_at",), "yesterday"),
    (("verified_at",), 5),
    (("verified_at",), "2026-11-25T00:00:00Z\n"),
    (("verified_at",), "2026-99-99T00:00:00Z"),
]


@pytest.mark.parametrize(("place", "value"), WRONG)
def test_a_malformed_part_is_named(place: Place, value: Any) -> None:
    with pytest.raises(RecordError) as caught:
        read_record(changed(record(), place, value))
    name = place[-1] if isinstance(place[-1], str) else "rpms[0]"
    assert str(name) in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("key", sorted(record()))
def test_a_missing_part_is_named(key: str) -> None:
    mapping = record()
    del mapping[key]
    if key == "verified_at":
        assert read_record(mapping).verified_at is None
        return
    with pytest.raises(RecordError, match=f"{key} does not fit .expected a value, found nothing"):
        read_record(mapping)


@pytest.mark.parametrize("part", ["rpms", "enclaves"])
def test_an_unknown_part_is_named(part: str) -> None:
    with pytest.raises(RecordError, match="found extra"):
        read_record({**record(), "extra": 1})
    items = [{**record()[part][0], "extra": 1}]
    with pytest.raises(RecordError, match=rf"{part}\[0\].*found extra"):
        read_record(record(**{part: items}))


def test_many_unknown_parts_do_not_flood_the_message() -> None:
    with pytest.raises(RecordError) as caught:
        read_record({**record(), **{f"{'x' * 500}{i}": 1 for i in range(10_000)}})
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rpms": [package(), package()]}, "a package twice"),
        ({"enclaves": [enclave(), enclave()]}, "an enclave twice"),
        ({"rpms": []}, "does not name its package"),
        ({"enclaves": []}, "not that of the enclaves"),
        ({"enclaves": [enclave(verdict="differs")]}, "not that of the enclaves"),
        ({"enclaves": [enclave(), enclave(path="/b", verdict="differs")]}, "not that of"),
        ({"enclaves": [enclave(mrenclave=None)]}, "lacks what is known"),
        ({"enclaves": [enclave(mrsigner=None)]}, "lacks what is known"),
        ({"enclaves": [enclave(isvsvn=None)]}, "lacks what is known"),
        ({"enclaves": [enclave(isvprodid=None)]}, "lacks what is known"),
        ({"enclaves": [enclave(built_sha256=None)]}, "lacks what is known"),
        ({"enclaves": [enclave(cause="none")]}, "with a cause why it is not"),
        ({"toolchain_sha256": None}, "does not say by what"),
        ({"release_sha256": None}, "does not say by what"),
    ],
)
def test_parts_that_contradict_each_other(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecordError, match=reason):
        read_record(record(**changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"rpms": [package(name=f"{i}.rpm") for i in range(2001)]},
            "rpms does not fit .expected at most 2000 items",
        ),
        (
            {"enclaves": [enclave(path=f"/{i}") for i in range(257)]},
            "enclaves does not fit .expected at most 256 items",
        ),
    ],
)
def test_a_record_is_bounded(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecordError, match=reason):
        read_record(record(**changes))


def test_a_record_is_bounded_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = len(read_record(record()).as_json())
    monkeypatch.setattr(record_module, "MAX_SIZE", whole)
    read_record(record())
    monkeypatch.setattr(record_module, "MAX_SIZE", whole - 1)
    with pytest.raises(RecordError, match="the record is too large"):
        read_record(record())


@pytest.mark.parametrize("data", [None, [], "x", 5, b"x"])
def test_what_is_no_mapping(data: object) -> None:
    with pytest.raises(RecordError, match="a value of the type object"):
        read_record(data)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\0"])
def test_a_kept_record_that_is_damaged(text: str) -> None:
    with pytest.raises(RecordError):
        record_from_json(text)


def test_times() -> None:
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=datetime.timezone.utc)
    assert time_text(moment) == "2026-01-02T03:04:05Z"
    read = read_record({**record(), "verified_at": "2026-01-02T03:04:05Z"})
    assert read.verified_time() == moment.replace(microsecond=0)
    east = moment.astimezone(datetime.timezone(datetime.timedelta(hours=5)))
    assert time_text(east) == "2026-01-02T03:04:05Z"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
PLACES = st.sampled_from([place for place, _ in WRONG])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PLACES, JSON)
def test_any_value_anywhere_is_taken_or_refused(place: Place, value: Any) -> None:
    try:
        read = read_record(changed(record(), place, value))
    except RecordError as error:
        assert str(error).isprintable()
    else:
        assert read_record(json.loads(read.as_json())) == read
