# SPDX-License-Identifier: GPL-2.0-or-later
"""What a verification in Koji gives: the answer, the record, the uploads and the reports."""

from __future__ import annotations

import json
from typing import Any

from demo import vendor as demo_vendor
from tests.golden.stored import check, normalised
from tests.support.keys import foreign_key
from tests.unit.koji.builder import conftest as fixtures
from tests.unit.koji.builder.world import PCE, World

buildroots, rpm_database = fixtures.buildroots, fixtures.rpm_database
vendor, world = fixtures.vendor, fixtures.world


def of_here(world: World) -> list[tuple[str, str]]:
    """What is of this run and of this machine."""
    return [
        (str(world.folder), "<folder>"),
        (world.vendor.server.url, "<vendor>"),
    ]


def plain(world: World, value: Any) -> str:
    return normalised(json.dumps(value, indent=1, sort_keys=True), of_here(world))


def test_a_record_and_its_answer(world: World) -> None:
    """One good package, one with another byte, one by another signer, one of another build."""
    key, built = foreign_key(), world.vendor.built / PCE.unsigned
    tampered = demo_vendor.with_other_code(world.vendor.signed[PCE.signed], built)
    builds = {
        "good": world.signed_build("good"),
        "tampered": world.signed_build("tampered", pce=tampered),
        "foreign": world.signed_build(
            "foreign", pce=demo_vendor.sign_enclave(built, PCE.config, key)
        ),
    }
    texts = []
    for name, build in builds.items():
        answer = world.verify("demo", "demo-build", build["nvr"])
        record = world.hub.records[-1]
        texts.append(f"=== {name}: answer\n{plain(world, answer)}")
        texts.append(f"=== {name}: record\n{plain(world, record)}")
    check("koji.txt", "\n".join(texts))


def test_a_release_and_its_uploads(world: World) -> None:
    answer = world.verify("demo", "demo-build", None, {"enclaves": ["pce"]})
    output = world.hub.output(world.child())
    report = json.loads(output["sgx-enclaves-report.json"])
    parent = world.hub.output(100)
    texts = [
        f"=== answer\n{plain(world, answer)}",
        "=== uploads of the parent",
        *sorted(parent),
        "=== uploads of the subtask",
        *sorted(output),
        f"=== report\n{plain(world, report)}",
        "=== text",
        normalised(output["sgx-enclaves-report.txt"].decode(), of_here(world)),
    ]
    check("koji-release.txt", "\n".join(texts))
