# SPDX-License-Identifier: GPL-2.0-or-later
"""`regenerate` against Intel's own signing tools, release by release.

The golden values are what the tools wrote; see tests/data/golden/README.md.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import zlib
from dataclasses import replace
from typing import Any, Union

import pytest

from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.regenerate import Regenerated, regenerate
from sgx_enclaves.enclave.sdk import GENERATIONS, Generation, generation_named
from sgx_enclaves.errors import ConfigError, FormatError, UnsupportedError
from tests.enclaves.sdk import sdk_releases, sdk_shape
from tests.unit.enclave.golden import image_shapes, lines, write_image

Outcome = Union[Regenerated, str]


@functools.cache
def parsed_image(shape: str, release: str) -> EnclaveImage:
    return EnclaveImage.parse(write_image(image_shapes()[shape], release))


def outcome(record: dict[str, Any], generation: Generation, release: str) -> Outcome:
    """What we make of a record, or why we refuse it."""
    image = parsed_image(record["image"], release)
    try:
        config = Config.parse(record["config"].encode())
        return regenerate(image, config, generation, fips=record.get("fips", False))
    except (ConfigError, UnsupportedError, FormatError) as error:
        return str(error)


def differences(record: dict[str, Any], generation: Generation) -> list[str]:
    """Where we and the tools of one generation disagree about a record."""
    found = []
    ours: dict[str, Outcome] = {}
    for group in record["results"]:
        # Releases of a generation differ in nothing but the word that their enclaves carry.
        for release in set(group["sdks"]) & set(generation.releases):
            if generation.name not in ours:
                ours[generation.name] = outcome(record, generation, release)
            ours_now = ours[generation.name]
            if isinstance(ours_now, str):
                if not group.get("refused"):
                    found.append(f"{release} accepts, we refuse: {ours_now}: {record['config']}")
            elif group.get("refused"):
                found.append(f"{release} refuses, we accept: {record['config']}")
            else:
                found += _mismatch(ours_now, group, release, record)
    return found


def _mismatch(
    ours: Regenerated, group: dict[str, Any], release: str, record: dict[str, Any]
) -> list[str]:
    blocks = [[str(b.version), b.header.size] for b in ours.blocks]
    what = f"{release}, image {record['image']}: {record['config']}"
    if blocks != group["blocks"]:
        return [f"blocks {blocks}, not {group['blocks']}: {what}"]
    if ours.mrenclave.hex() != group["mrenclave"]:
        return [f"another MRENCLAVE: {what}"]
    if hashlib.sha256(ours.descriptor).hexdigest() != group["sha256"]:
        return [f"another descriptor: {what}"]
    return []


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda g: g.name)
@pytest.mark.parametrize("name", ["options.jsonl", "random.jsonl"])
def test_every_golden_value_is_regenerated(name: str, generation: Generation) -> None:
    compared = 0
    found: list[str] = []
    for record in lines(name):
        found += differences(record, generation)
        compared += any(set(g["sdks"]) & set(generation.releases) for g in record["results"])
    assert not found, "\n".join([f"{len(found)} differences", *found[:40]])
    assert compared >= 20


@pytest.mark.parametrize("name", ["2.16.100-edmm", "2.18", "2.19", "2.25", "2.26"])
def test_where_the_runtimes_bookkeeping_is_rounded(name: str) -> None:
    """Where one byte more, or the least that there can be less, makes another user region."""
    generation = generation_named(name)
    records = [
        record
        for record in lines("edges.jsonl")
        if any(set(group["sdks"]) & set(generation.releases) for group in record["results"])
    ]
    assert len(records) >= 6
    assert [found for record in records for found in differences(record, generation)] == []


@pytest.mark.parametrize("name", ["2.16", "2.29"])
def test_which_node_of_the_xml_counts(name: str) -> None:
    """Text, CDATA sections, comments, elements and references, in each order that matters."""
    records = list(lines("xml.jsonl"))
    refused = [record for record in records if "refused" in record["results"][0]]
    assert 40 <= len(refused) <= len(records) - 40
    generation = generation_named(name)
    assert [found for record in records for found in differences(record, generation)] == []


def test_every_release_has_golden_values() -> None:
    covered = {v for r in lines("options.jsonl") for g in r["results"] for v in g["sdks"]}
    assert covered == set(sdk_releases())
    assert covered == {release for g in GENERATIONS for release in g.releases}


@pytest.mark.parametrize(
    "record", list(lines("descriptors.jsonl")), ids=lambda r: f"{r['sdk']}-{r['image']}"
)
def test_a_whole_descriptor(record: dict[str, Any]) -> None:
    """The same, with all bytes at hand: a mismatch names the block and the offset."""
    generation = generation_named(record["sdk"])
    ours = outcome(record, generation, record["sdk"])
    assert isinstance(ours, Regenerated)
    wanted = zlib.decompress(base64.b64decode(record["descriptor_zlib"]))
    for block in ours.blocks:
        found = block.serialise()
        expected = wanted[block.offset : block.offset + block.header.size]
        first = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), None)
        assert first is None, f"block {block.version} differs first at 0x{first:x}"
    assert ours.descriptor == wanted


def test_a_golden_value_can_say_no() -> None:
    record = next(lines("options.jsonl"))
    generation = GENERATIONS[0]
    assert differences(record, generation) == []
    changed = replace(generation, flags_mask=generation.flags_mask ^ (1 << 40))
    assert "another descriptor" in differences(record, changed)[0]
    other = {**record, "config": "<EnclaveConfiguration><TCSNum>0</TCSNum></EnclaveConfiguration>"}
    assert "we refuse" in differences(other, generation)[0]
    other = {**record, "results": [{"sdks": [generation.name], "refused": True}]}
    assert "we accept" in differences(other, generation)[0]


@pytest.mark.parametrize("release", sdk_releases())
def test_the_size_of_global_data(release: str) -> None:
    assert generation_named(release).global_data_size == sdk_shape(release).global_data_size
