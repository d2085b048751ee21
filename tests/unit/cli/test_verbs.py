# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs of one enclave: exit status, output, files written, and every refusal."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sgx_enclaves import __version__
from sgx_enclaves.cli.declare import VERBS
from sgx_enclaves.cli.main import main
from sgx_enclaves.errors import InputError
from tests.support.keys import foreign_key, mrsigner, private_pem, public_pem, vendor_key
from tests.support.signed import DATE, Case, config_xml, fips_enclave, signed_enclave
from tests.unit.conftest import Run

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def case() -> Case:
    return signed_enclave()


@pytest.fixture
def folder(tmp_path: Path, case: Case) -> Path:
    """Everything that the verbs need, as files."""
    for name, data in {
        "built.so": case.built,
        "signed.so": case.signed,
        "config.xml": case.config,
        "other.xml": config_xml(HeapMaxSize=0x2000),
        "vendor.pem": public_pem(vendor_key()),
        "private.pem": private_pem(vendor_key()),
        "foreign.pem": public_pem(foreign_key()),
        "text": b"no enclave",
        "empty": b"",
    }.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder").mkdir()
    return tmp_path


VENDOR = mrsigner(vendor_key())


def compare_arguments(folder: Path, *more: object) -> list[object]:
    return [
        "compare",
        folder / "built.so",
        folder / "signed.so",
        "--config",
        folder / "config.xml",
        *more,
    ]


# The command itself.


def test_without_a_verb(run: Run) -> None:
    status, out, _ = run()
    assert status == 2
    assert all(verb in out for verb in VERBS)


@pytest.mark.parametrize("word", ["-h", "--help", "help"])
def test_help(run: Run, word: str) -> None:
    status, out, _ = run(word)
    assert status == 0
    assert "exit status: 0 identical or done, 1 differs, 2 unverifiable" in out


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_each_verb(run: Run, verb: str) -> None:
    status, out, err = run(verb, "--help")
    assert status == 0
    assert out.startswith(f"usage: sgx-enclaves {verb}")
    assert not err


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"sgx-enclaves {__version__}\n", "")


@pytest.mark.parametrize("word", ["prove", "Compare", "--json", ""])
def test_an_unknown_verb(run: Run, word: str) -> None:
    status, out, err = run(word)
    assert (status, out) == (2, "")
    assert "unknown verb" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["show"],
        ["show", "a", "b"],
        ["show", "a", "--yaml"],
        ["compare", "a", "b"],
        ["compare", "a", "b", "--conf", "c"],
        ["compare", "a", "b", "--config", "c", "--min-isvsvn", "seven"],
        ["compare", "a", "b", "--config", "c", "--enclave", "id_enclave"],
        ["graft", "a", "b", "--config", "c"],
        ["sign", "a", "--config", "c", "-o", "d"],
        ["sign", "a", "--config", "c", "-o", "d", "--key", "e", "--date", "yesterday"],
        ["extract-signature", "a"],
        ["verify-signature"],
        ["measure"],
    ],
    ids=" ".join,
)
def test_wrong_arguments(run: Run, arguments: list[str]) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"sgx-enclaves: {arguments[0]}: ")
    assert err.endswith(f"; `sgx-enclaves help {arguments[0]}` explains\n")
    assert len(err.splitlines()) == 1


# Bad input, the same for every verb.

BAD_FILES = ("missing", "folder", "text", "empty", "config.xml")


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize(
    "verb", ["show", "measure", "verify-signature", "extract-signature", "graft", "sign"]
)
def test_a_file_that_is_no_enclave(run: Run, folder: Path, verb: str, name: str) -> None:
    config = ["--config", folder / "config.xml"]
    output = ["-o", folder / "out"]
    more = {
        "extract-signature": output,
        "graft": [folder / "text", *config, *output],
        "sign": [*config, *output, "--key", folder / "private.pem"],
    }
    status, out, err = run(verb, folder / name, *more.get(verb, []))
    assert (status, out) == (2, "")
    assert err.startswith("sgx-enclaves: ")
    assert str(folder / name) in err
    assert not (folder / "out").exists()


@pytest.mark.parametrize("at", [1, 2, 4])
@pytest.mark.parametrize("name", ["missing", "folder"])
def test_compare_with_files_that_cannot_be_read(run: Run, folder: Path, at: int, name: str) -> None:
    arguments = compare_arguments(folder)
    arguments[at] = folder / name
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert f"{folder / name}: cannot be read" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
def test_a_file_without_read_permission(run: Run, folder: Path) -> None:
    (folder / "signed.so").chmod(0)
    status, _, err = run("show", folder / "signed.so")
    assert status == 2
    assert "Permission denied" in err


# show, measure, verify-signature.


def test_show(run: Run, folder: Path, case: Case) -> None:
    status, out, _ = run("show", folder / "signed.so")
    assert status == 0
    assert VENDOR in out
    assert case.regenerated.mrenclave.hex() in out
    for version in ("2.4", "2.1", "1.4"):
        assert version in out


def test_show_as_json(run: Run, folder: Path) -> None:
    status, out, _ = run("show", folder / "signed.so", "--json")
    assert status == 0
    assert VENDOR in json.dumps(json.loads(out))


def test_show_an_unsigned_enclave(run: Run, folder: Path) -> None:
    status, out, _ = run("show", folder / "built.so")
    assert status == 0
    assert VENDOR not in out


def test_measure_signed(run: Run, folder: Path, case: Case) -> None:
    status, out, _ = run("measure", folder / "signed.so")
    assert status == 0
    lines = out.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(case.regenerated.mrenclave.hex()) for line in lines)


def test_measure_says_no(run: Run, folder: Path, case: Case) -> None:
    evil = bytearray(case.signed)
    evil[case.image.header.e_entry] ^= 1
    (folder / "signed.so").write_bytes(evil)
    status, out, _ = run("measure", folder / "signed.so")
    assert status == 1
    assert "but signed for " + case.regenerated.mrenclave.hex() in out
    status, out, _ = run("measure", folder / "signed.so", "--json")
    assert status == 1
    assert [block["match"] for block in json.loads(out)["blocks"]] == [False] * 3


def test_measure_unsigned(run: Run, folder: Path, case: Case) -> None:
    arguments = ["measure", folder / "built.so", "--config", folder / "config.xml"]
    status, out, _ = run(*arguments, "--json")
    assert status == 0
    facts = json.loads(out)
    assert (facts["sdk"], facts["mrenclave"]) == ("2.17", case.regenerated.mrenclave.hex())
    assert run(*arguments, "--sdk", "2.17")[0] == 0
    # The SDK's tool, too, refuses an enclave of another SDK.
    status, _, err = run(*arguments, "--sdk", "2.18")
    assert status == 2
    assert "another SDK" in err


def test_what_is_measured_has_a_budget(run: Run, folder: Path) -> None:
    """1 GiB to hash and 64 times the file, shared by its blocks; lifted on purpose."""
    size = 0x3400_0000
    (folder / "large.xml").write_bytes(config_xml(StackMinSize=size, StackMaxSize=size))
    arguments = ["measure", folder / "built.so", "--config", folder / "large.xml"]
    before = time.process_time()
    status, _, err = run(*arguments)
    assert time.process_time() - before < 0.5
    assert status == 2
    assert "too many pages to measure" in err
    assert "--no-limit" in err
    assert run(*arguments, "--no-limit")[0] == 0


def test_measure_what_makes_no_sense(run: Run, folder: Path) -> None:
    assert "--config" in run("measure", folder / "built.so")[2]
    status, _, err = run("measure", folder / "signed.so", "--config", folder / "config.xml")
    assert status == 2
    assert "drop --config" in err


@pytest.mark.parametrize(
    "signer",
    [VENDOR, VENDOR.upper(), "vendor.pem", "private.pem"],
    ids=["hex", "HEX", "pem", "key"],
)
def test_verify_signature_by_a_named_signer(run: Run, folder: Path, signer: str) -> None:
    named = folder / signer if signer.endswith(".pem") else signer
    status, out, _ = run("verify-signature", folder / "signed.so", "--signer", named)
    assert status == 0
    assert out.count("valid") == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "no signer is pinned"),
        (["--enclave", "pce"], "another signer"),
        (["--signer", "foreign.pem"], "another signer"),
        (["--signer", VENDOR, "--min-isvsvn", "8"], "security version"),
        (["--signer", VENDOR, "--isvprodid", "0x10"], "another product"),
    ],
    ids=["nobody", "intel", "foreign", "svn", "product"],
)
def test_verify_signature_says_no(run: Run, folder: Path, more: list[str], message: str) -> None:
    arguments = [str(folder / a) if a.endswith(".pem") else a for a in more]
    status, out, _ = run("verify-signature", folder / "signed.so", *arguments)
    assert status == 1
    assert message in out
    status, out, _ = run("verify-signature", folder / "signed.so", *arguments, "--json")
    assert status == 1
    assert [s["valid"] for s in json.loads(out)["signatures"]] == [False] * 3


@pytest.mark.parametrize("signer", ["missing.pem", "text", "folder", VENDOR[:-1], VENDOR + "0"])
def test_a_signer_that_is_none(run: Run, folder: Path, signer: str) -> None:
    status, out, err = run("verify-signature", folder / "signed.so", "--signer", folder / signer)
    assert (status, out) == (2, "")
    assert str(folder / signer) in err


def test_verify_a_bare_sigstruct(run: Run, folder: Path, case: Case) -> None:
    (folder / "css.bin").write_bytes(case.blocks[0].sigstruct.serialise())
    assert run("verify-signature", folder / "css.bin", "--signer", VENDOR)[0] == 0


def test_a_debug_signature_is_allowed_on_purpose_only(run: Run, folder: Path) -> None:
    (folder / "signed.so").write_bytes(signed_enclave("2.17", {"DisableDebug": 0}).signed)
    arguments = ["verify-signature", folder / "signed.so", "--signer", VENDOR]
    status, out, _ = run(*arguments)
    assert status == 1
    assert "debug" in out
    assert run(*arguments, "--allow-debug")[0] == 0


# compare.


def test_compare_identical(run: Run, folder: Path) -> None:
    status, out, err = run(*compare_arguments(folder, "--signer", VENDOR))
    assert (status, err) == (0, "")
    assert "identical" in out
    assert "\x1b" not in out


def test_compare_as_json(run: Run, folder: Path, case: Case) -> None:
    status, out, _ = run(*compare_arguments(folder, "--signer", VENDOR, "--json"))
    assert status == 0
    assert case.regenerated.mrenclave.hex() in json.dumps(json.loads(out))


@pytest.mark.parametrize("json_too", [[], ["--json"]], ids=["text", "json"])
def test_compare_differs(run: Run, folder: Path, case: Case, json_too: list[str]) -> None:
    (folder / "signed.so").write_bytes(case.signed + b"\0")
    status, out, _ = run(*compare_arguments(folder, "--signer", VENDOR, *json_too))
    assert status == 1
    assert "differs" in out
    if json_too:
        json.loads(out)


@pytest.mark.parametrize("name", ["text", "signed.so", "empty"])
def test_compare_unverifiable(run: Run, folder: Path, name: str) -> None:
    arguments = compare_arguments(folder, "--signer", VENDOR)
    arguments[1] = folder / name
    status, out, _ = run(*arguments)
    assert status == 2
    assert "unverifiable" in out


def test_compare_with_another_config(run: Run, folder: Path) -> None:
    arguments = compare_arguments(folder, "--signer", VENDOR)
    arguments[4] = folder / "other.xml"
    status, out, _ = run(*arguments)
    assert status == 1
    assert "HeapMaxSize" in out


def test_compare_with_a_config_that_is_none(run: Run, folder: Path) -> None:
    arguments = compare_arguments(folder, "--signer", VENDOR)
    arguments[4] = folder / "text"
    assert run(*arguments)[0] == 2


@pytest.mark.parametrize(("sdk", "expected"), [("2.17", 0), ("2.16", 2), ("9.9", 2), ("x", 2)])
def test_compare_with_a_named_sdk(run: Run, folder: Path, sdk: str, expected: int) -> None:
    status, out, err = run(*compare_arguments(folder, "--signer", VENDOR, "--sdk", sdk))
    assert status == expected, out + err


def test_compare_writes_reports(run: Run, folder: Path) -> None:
    reports = folder / "new" / "reports"
    status, _, _ = run(*compare_arguments(folder, "--signer", VENDOR, "--report", reports))
    assert status == 0
    assert sorted(p.name for p in reports.iterdir()) == [
        "head.json",
        "report.json",
        "report.md",
        "report.xml",
        "verdict.html",
        "verdict.json",
        "verdict.txt",
    ]
    json.loads((reports / "verdict.json").read_text())


def test_reports_that_cannot_be_written(run: Run, folder: Path) -> None:
    status, _, err = run(
        *compare_arguments(folder, "--signer", VENDOR, "--report", folder / "text")
    )
    assert status == 2
    assert str(folder / "text") in err


# extract-signature, graft, sign.


def extract(run: Run, folder: Path) -> Path:
    target = folder / "signatures"
    status, out, _ = run("extract-signature", folder / "signed.so", "-o", target)
    assert status == 0
    assert str(target) in out
    return target


def graft_arguments(folder: Path, *more: object) -> list[object]:
    return [
        "graft",
        folder / "built.so",
        folder / "signatures",
        "--config",
        folder / "config.xml",
        "-o",
        folder / "grafted.so",
        *more,
    ]


@pytest.mark.parametrize("fips", [False, True])
def test_graft_gives_the_vendors_file_back(run: Run, folder: Path, case: Case, fips: bool) -> None:
    chosen = fips_enclave() if fips else case
    for name, data in (
        ("built.so", chosen.built),
        ("signed.so", chosen.signed),
        ("config.xml", chosen.config),
    ):
        (folder / name).write_bytes(data)
    signatures = extract(run, folder)
    assert signatures.stat().st_size == (1808 + 772 if fips else 3 * 1808)
    assert stat.S_IMODE(signatures.stat().st_mode) == 0o644
    assert run(*graft_arguments(folder, "--signer", VENDOR))[0] == 0
    grafted = folder / "grafted.so"
    assert grafted.read_bytes() == chosen.signed
    assert stat.S_IMODE(grafted.stat().st_mode) == 0o755


def test_extract_from_an_unsigned_enclave(run: Run, folder: Path) -> None:
    status, _, err = run("extract-signature", folder / "built.so", "-o", folder / "signatures")
    assert status == 2
    assert "not signed" in err
    assert not (folder / "signatures").exists()


def change_nothing(folder: Path) -> None:
    """Only the policy says no."""


def other_code(folder: Path) -> None:
    data = bytearray((folder / "built.so").read_bytes())
    data[signed_enclave().image.header.e_entry] ^= 1
    (folder / "built.so").write_bytes(data)


def other_config(folder: Path) -> None:
    (folder / "config.xml").write_bytes((folder / "other.xml").read_bytes())


def signed_built(folder: Path) -> None:
    (folder / "built.so").write_bytes((folder / "signed.so").read_bytes())


def short_signatures(folder: Path) -> None:
    data = (folder / "signatures").read_bytes()
    (folder / "signatures").write_bytes(data[:-1])


def broken_signature(folder: Path) -> None:
    data = bytearray((folder / "signatures").read_bytes())
    data[2 * 1808 + 516] ^= 1
    (folder / "signatures").write_bytes(data)


@pytest.mark.parametrize(
    ("change", "more"),
    [
        (change_nothing, []),
        (change_nothing, ["--signer", mrsigner(foreign_key())]),
        (change_nothing, ["--signer", VENDOR, "--min-isvsvn", "8"]),
        (change_nothing, ["--signer", VENDOR, "--sdk", "2.16"]),
        (change_nothing, ["--signer", VENDOR, "--fips"]),
        (other_code, ["--signer", VENDOR]),
        (other_config, ["--signer", VENDOR]),
        (signed_built, ["--signer", VENDOR]),
        (short_signatures, ["--signer", VENDOR]),
        (broken_signature, ["--signer", VENDOR]),
    ],
    ids=[
        "not pinned",
        "foreign signer",
        "svn",
        "sdk",
        "fips",
        "code",
        "config",
        "signed",
        "short",
        "broken",
    ],
)
@pytest.mark.parametrize("existing", [None, b"an older file"])
def test_a_refused_graft_writes_nothing(
    run: Run, folder: Path, change: Callable[[Path], None], more: list[str], existing: Any
) -> None:
    extract(run, folder)
    change(folder)
    target = folder / "grafted.so"
    if existing is not None:
        target.write_bytes(existing)
    before = sorted(folder.iterdir())
    status, out, err = run(*graft_arguments(folder, *more))
    assert (status, out) == (2, "")
    assert err.startswith("sgx-enclaves: ")
    assert sorted(folder.iterdir()) == before
    if existing is not None:
        assert target.read_bytes() == existing


def test_sign(run: Run, folder: Path, case: Case) -> None:
    arguments = [
        *("sign", folder / "built.so", "--config", folder / "config.xml"),
        *("--key", folder / "private.pem", "-o", folder / "out.so"),
    ]
    assert run(*arguments, "--date", DATE.isoformat())[0] == 0
    assert (folder / "out.so").read_bytes() == case.signed
    assert stat.S_IMODE((folder / "out.so").stat().st_mode) == 0o755
    # Without a date it is today's.
    assert run(*arguments, "--force")[0] == 0
    assert len((folder / "out.so").read_bytes()) == len(case.signed)
    arguments[1] = folder / "signed.so"
    assert "already signed" in run(*arguments)[2]


@pytest.mark.parametrize("key", ["vendor.pem", "text", "missing", "folder"])
def test_sign_with_a_key_that_is_none(run: Run, folder: Path, key: str) -> None:
    status, _, err = run(
        *("sign", folder / "built.so", "--config", folder / "config.xml"),
        *("--key", folder / key, "-o", folder / "out.so"),
    )
    assert status == 2
    assert str(folder / key) in err
    assert not (folder / "out.so").exists()


@pytest.mark.parametrize("target", ["folder", "missing/out.so"])
def test_a_target_that_cannot_be_written(run: Run, folder: Path, target: str) -> None:
    before = sorted(folder.iterdir())
    status, _, err = run("extract-signature", folder / "signed.so", "-o", folder / target)
    assert status == 2
    assert "cannot be written" in err
    assert sorted(folder.iterdir()) == before


# Real processes.


def process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sgx_enclaves", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        **options,
    )


@pytest.mark.parametrize(("tail", "expected"), [(b"", 0), (b"\0", 1)])
def test_exit_status_of_a_process(folder: Path, case: Case, tail: bytes, expected: int) -> None:
    (folder / "signed.so").write_bytes(case.signed + tail)
    result = process(*compare_arguments(folder, "--signer", VENDOR))
    assert result.returncode == expected
    assert result.stderr == ""


def test_an_error_of_a_process(folder: Path) -> None:
    result = process("show", folder / "missing")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert "No such file" in result.stderr


def test_a_reader_that_goes_away(folder: Path) -> None:
    """As `sgx-enclaves show FILE --json | head -1`: no word, and the verb's status."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run(
            [sys.executable, "-m", "sgx_enclaves", "show", str(folder / "signed.so"), "--json"],
            check=False,
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            timeout=60,
        )
    finally:
        os.close(writer)
    assert result.stderr == ""
    assert result.returncode == 0


def test_a_bug_of_ours_never_looks_like_a_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("out of cheese")

    monkeypatch.setattr("sgx_enclaves.cli.arguments.load_enclave_or_sigstruct", broken)
    assert main(["show", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "internal error at" in said
    assert "out of cheese" in said
    assert "Traceback" not in said


def test_where_reports_go_is_tried_before_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built = []

    def build(*_arguments: object, **_options: object) -> None:
        built.append(1)
        raise InputError("an hour later")

    monkeypatch.setattr("sgx_enclaves.release.verify.verify_release", build)
    words = ["verify-release", "sgx-2.25-dcap-1.22", "--allow-no-isolation"]
    words += ["--work", str(tmp_path), "--report"]
    assert main([*words, "/proc/1/reports"]) == 2
    assert "the directory cannot be made" in capsys.readouterr().err
    assert built == []
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.json").write_text("of an earlier run")
    assert main([*words, str(tmp_path / "report")]) == 2
    assert "an hour later" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["report.json"]
