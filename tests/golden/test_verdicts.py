# SPDX-License-Identifier: GPL-2.0-or-later
"""Verdicts as the command gives them: each enclave against each, and what a spoiled one gives."""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from sgx_enclaves.cli.output import out
from sgx_enclaves.explain.description import describe_file
from sgx_enclaves.explain.metadata_causes import fields_by_byte
from tests.enclaves.compiled import have_toolchain
from tests.golden import enclaves
from tests.golden.enclaves import Pair
from tests.golden.stored import check, digest, facts, stored, updating
from tests.golden.subjects import Output, command, compared
from tests.support.keys import mrsigner, public_pem, vendor_key
from tests.support.once import built_enclaves, regenerated_once

# Shown whole, because a person should see how they read.
TYPICAL = ("honest", "code byte", "foreign signer", "one block missing", "half", "debug vendor")
_NUMBER = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+")
PAGES = ("honest", "code byte")


def laid_out(folder: Path, pairs: dict[str, Pair]) -> None:
    for name, pair in pairs.items():
        (folder / f"{name}.so").write_bytes(pair.built)
        (folder / f"{name}.xml").write_bytes(pair.config)
        (folder / f"{name}.signed.so").write_bytes(pair.signed)
    (folder / "vendor.pem").write_bytes(public_pem(vendor_key()))


def compare(folder: Path, built: str, signed: str, *options: str) -> Output:
    return command(
        folder,
        *("compare", f"{built}.so", f"{signed}.signed.so", "--config", f"{built}.xml"),
        *("--signer", "vendor.pem", *options),
    )


def summary(output: Output) -> str:
    """What decides, for a reader, and a digest of all facts; texts are in texts.txt."""
    if not output.out:
        return f"{output.status} | {output.err.strip()}"
    verdict = json.loads(output.out)
    codes = [finding["code"] for finding in verdict["findings"]]
    found = [f"{code} x{codes.count(code)}" for code in dict.fromkeys(codes)]
    explanation = verdict["explanation"] or {"causes": (), "differing_bytes": 0}
    causes = [cause["code"] for cause in explanation["causes"]]
    states = "".join(check["state"][0] for check in verdict["checks"])
    return (
        f"{output.status} {verdict['outcome']} {states} | {', '.join(found)} | "
        f"{', '.join(causes)} | {explanation['differing_bytes']} {digest(facts(verdict))}"
    )


@pytest.fixture(scope="module", autouse=True)
def _described_here() -> Iterator[None]:
    """A child process for each of a thousand descriptions, and white space, would take longest.

    Each file is one of a hundred: it is described, and its metadata are regenerated, once.
    """
    with pytest.MonkeyPatch.context() as patch, regenerated_once():
        patch.setattr("sgx_enclaves.explain.description.in_child", lambda work, **_: work())
        once = functools.cache(describe_file)
        patch.setattr(
            "sgx_enclaves.explain.explain.describe_file",
            lambda data, name, addresses=(): once(data, name, tuple(addresses)),
        )
        patch.setattr(
            "sgx_enclaves.explain.explain.fields_by_byte", functools.cache(fields_by_byte)
        )
        patch.setattr("sgx_enclaves.cli.output.out_json", _out_compact)
        # A page has its date.
        patch.setattr("sgx_enclaves.cli.arguments.today", lambda: datetime.date(2026, 11, 29))
        yield


def _out_compact(plain: Mapping[str, object]) -> None:
    out(json.dumps({"schema_version": 1, **plain}))


Outputs = dict[tuple[str, str], Output]


def each_with_each(folder: Path, pairs: dict[str, Pair]) -> Outputs:
    laid_out(folder, pairs)
    return {
        (built, signed): compare(folder, built, signed, "--json")
        for built in pairs
        for signed in pairs
    }


def lines_of(outputs: Outputs) -> str:
    return "\n".join(f"{b} {s}: {summary(output)}" for (b, s), output in outputs.items())


@pytest.fixture(scope="module", name="synthetic")
def _synthetic(tmp_path_factory: pytest.TempPathFactory, _described_here: None) -> Outputs:
    return each_with_each(tmp_path_factory.mktemp("synthetic"), enclaves.synthetic())


def test_synthetic_enclaves_each_with_each(synthetic: Outputs) -> None:
    check("pairs-synthetic.txt", lines_of(synthetic))


@pytest.mark.skipif(not have_toolchain(), reason="needs make, gcc, ld and strip")
def test_compiled_enclaves_each_with_each(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Their bytes, and so most facts, are those of one compiler and linker."""
    name, tools = "pairs-compiled.txt", enclaves.tools()
    made_with = stored(name).partition("\n")[0]
    if not updating() and made_with != tools:
        pytest.skip(f"stored for enclaves of {made_with}; here are {tools}")
    pairs = enclaves.compiled(built_enclaves(tmp_path_factory))
    check(name, f"{tools}\n{lines_of(each_with_each(tmp_path, pairs))}")


def test_spoiled_enclaves(tmp_path: Path) -> None:
    pairs = enclaves.spoiled()
    laid_out(tmp_path, pairs)
    lines = [f"{name}: {summary(compare(tmp_path, name, name, '--json'))}" for name in pairs]
    check("spoiled.txt", "\n".join(lines))


def test_typical_verdicts_as_people_and_programs_read_them(tmp_path: Path) -> None:
    laid_out(tmp_path, enclaves.spoiled())
    texts, plain = [], {}
    for name in TYPICAL:
        output = compare(tmp_path, name, name, "--report", "report")
        texts.append(f"=== {name}: {output.text}")
        plain[name] = json.loads((tmp_path / "report" / "verdict.json").read_text())
        head = (tmp_path / "report" / "verdict.txt").read_text().partition("\n")[0]
        assert output.out.startswith(head)
        if name in PAGES:
            page = (tmp_path / "report" / "verdict.html").read_text()
            check(f"verdict-{name.replace(' ', '-')}.html", page)
    check("verdicts.txt", "\n".join(texts))
    check("verdicts.json", json.dumps(plain, indent=1))


def test_every_sdk(tmp_path: Path) -> None:
    """One small enclave of each release, with the release named, and found out."""
    pairs = enclaves.of_every_sdk()
    laid_out(tmp_path, pairs)
    lines = []
    for name in pairs:
        named = compare(tmp_path, name, name, "--json", "--sdk", name)
        assert named.status == 0, named.text
        lines.append(f"{name}: {summary(named)}")
        lines.append(f"  found out: {summary(compare(tmp_path, name, name, '--json'))}")
        for verb in ("show", "measure"):
            output = command(tmp_path, verb, f"{name}.signed.so")
            lines.append(f"  {verb}: {output.status} {digest(output.text)}")
    check("sdks.txt", "\n".join(lines))


def test_what_findings_and_causes_say(tmp_path: Path, synthetic: Outputs) -> None:
    """Each sentence once, with N for numbers: better words change lines here and nothing else."""
    spoiled = enclaves.spoiled()
    laid_out(tmp_path, spoiled)
    outputs = [*synthetic.values(), *(compare(tmp_path, n, n, "--json") for n in spoiled)]
    names = sorted({*spoiled, *enclaves.synthetic()}, key=len, reverse=True)
    file = re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\.(?=so\b|signed\.so\b|xml\b)")
    sentences: set[str] = set()
    for output in outputs:
        verdict = json.loads(output.out)
        causes = (verdict["explanation"] or {"causes": ()})["causes"]
        for kind, items in (("finding", verdict["findings"]), ("cause", causes)):
            for item in items:
                said = file.sub("FILE.", f"{item['message']} -> {item['hint']}")
                sentences.add(f"{kind} {item['code']}: {_NUMBER.sub('N', said)}")
    check("texts.txt", "\n".join(sorted(sentences)))


def test_every_honest_enclave_is_identical() -> None:
    """What makes every difference above mean something."""
    signer = mrsigner(vendor_key())
    for name, pair in enclaves.synthetic().items():
        if name != "debug":
            # SDK 1.5 leaves no version word, and 1.9 would have written other metadata.
            expected = "unverifiable" if name == "1.5" else "identical"
            outcome = compared(pair.built, pair.signed, pair.config, signer)[0]
            assert outcome.split()[0] == expected, name
