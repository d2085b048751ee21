# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON report holds all of the verdict, in the form of its schema."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pytest

from sgx_enclaves.enclave.compare import compare
from sgx_enclaves.enclave.policy import policy_for
from sgx_enclaves.enclave.verdict import Verdict
from sgx_enclaves.explain.explain import explained
from sgx_enclaves.report.forms import SCHEMA_VERSION, verdict_dict
from tests.enclaves.synthetic import small_enclave
from tests.support.schemas import schema
from tests.unit.explain.explaining import Case
from tests.unit.report.verdicts import DIFFERS, IDENTICAL, OURS, UNVERIFIABLE

VERDICTS = pytest.mark.parametrize("verdict", [IDENTICAL, DIFFERS, UNVERIFIABLE])
CONFIG = b"<EnclaveConfiguration><ISVSVN>16</ISVSVN></EnclaveConfiguration>"


def as_read(verdict: Verdict) -> Any:
    return json.loads(json.dumps(verdict_dict(verdict)))


def check(document: Any) -> None:
    jsonschema.Draft202012Validator(schema("verdict")).validate(document)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema("verdict"))
    assert schema("verdict")["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@VERDICTS
def test_a_verdict_is_as_the_schema_says(verdict: Verdict) -> None:
    check(as_read(verdict))


def test_a_verdict_of_the_comparison_is_as_the_schema_says() -> None:
    built = small_enclave()
    signed = bytearray(Case.of(built).signed() + b"more")
    signed[0x18] ^= 1
    for theirs in (bytes(signed), built, b"", b"\x7fELF"):
        verdict = compare(built, theirs, CONFIG, policy_for(None))
        check(as_read(verdict))
        check(as_read(explained(verdict, built, theirs, CONFIG)))
    check(as_read(compare(b"", bytes(signed), CONFIG, policy_for(None))))


def test_nothing_is_lost() -> None:
    document = as_read(DIFFERS)
    assert document["schema_version"] == SCHEMA_VERSION
    assert document["outcome"] == "differs"
    assert document["exit_status"] == 1
    assert document["bytes"] == {
        "built": 998,
        "regenerated": 900,
        "signature": 100,
        "second signature": 0,
        "unexplained": 2,
    }
    assert document["mrenclave"] == OURS
    assert document["signed"]["sha256"] == "23" * 32
    assert [c["state"] for c in document["checks"]] == ["refuted"] * 3 + ["proved"] * 2
    assert document["findings"][0]["offset"] == 0x204
    assert document["findings"][0]["severity"] == "differs"
    assert document["byte_map"][1] == {"start": 516, "end": 518, "origin": "unexplained"}
    assert document["explanation"]["omitted"] == 12
    assert len(document["explanation"]["differences"]) == 5
    assert document["explanation"]["causes"][0]["code"] == "interpreter-path"
    assert as_read(IDENTICAL)["explanation"] is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("outcome",), "probably identical"),
        (("schema_version",), 2),
        (("extra",), 1),
        (("built", "sha256"), "XY"),
        (("explanation", "differences", 0, "where"), "somewhere"),
        (("byte_map", 0, "origin"), "magic"),
        (("findings", 0, "offset"), -1),
        (("blocks", 0, "isvsvn"), 65536),
        (("checks",), []),
    ],
    ids=str,
)
def test_the_schema_refuses_what_no_verdict_is(path: tuple[Any, ...], value: object) -> None:
    document = copy.deepcopy(as_read(DIFFERS))
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check(document)


def test_every_field_is_required_and_no_other_is_allowed() -> None:
    def objects(part: object) -> list[dict[str, Any]]:
        if isinstance(part, list):
            return [found for item in part for found in objects(item)]
        if not isinstance(part, dict):
            return []
        own = [part] if part.get("type") == "object" else []
        return own + [found for item in part.values() for found in objects(item)]

    found = objects(schema("verdict"))
    assert len(found) == 12
    for part in found:
        assert part["additionalProperties"] is False
        assert sorted(part["required"]) == sorted(part["properties"])
