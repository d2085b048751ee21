# SPDX-License-Identifier: GPL-2.0-or-later
"""A tree of packages: what is passed by, what is judged, and how a scan resumes."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Optional

import pytest

from sgx_enclaves.cli.main import main
from sgx_enclaves.enclave.policy import Policy, policy_for
from sgx_enclaves.errors import InputError, LimitError, SgxEnclavesError
from sgx_enclaves.files import sha256_of
from sgx_enclaves.report.forms import result_dict
from sgx_enclaves.rpm import scan as scanning
from sgx_enclaves.rpm.check import check_package
from sgx_enclaves.rpm.enclaves import may_carry_enclaves
from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER
from sgx_enclaves.rpm.reader import open_package
from sgx_enclaves.rpm.repodata import Listing
from sgx_enclaves.rpm.scan import (
    Scanned,
    ScanSettings,
    ScanState,
    Target,
    scan,
    stamps_below,
    survey,
)
from tests.support.keys import mrsigner, vendor_key
from tests.support.signed import signed_enclave
from tests.support_rpm import RpmFile, folder, link, write_rpm

# The test vendor, whose products and security versions are not Intel's.
SIGNER = ("--signer", mrsigner(vendor_key()), "--any-product", "--min-isvsvn", "0")
CASE = signed_enclave("2.25")
PLAIN = write_rpm([RpmFile("/usr/bin/x", b"text"), folder("/usr/share/x")], provides=["x"])
SIGNED = write_rpm(
    [RpmFile(ENCLAVE_FOLDER + "libsgx_pce.signed.so", CASE.signed)],
    provides=["sgx-enclave(pce:signed)"],
)
HIDDEN = write_rpm([RpmFile("/usr/share/cat.jpg", CASE.signed)])


def vendor_policy(_path: str) -> Policy:
    return policy_for(None, mrsigners=[mrsigner(vendor_key())])


def deadly_policy(_path: str) -> Policy:
    os._exit(3)


CHECK = partial(check_package, policy_of=vendor_policy)


@pytest.fixture(name="tree")
def _tree(tmp_path: Path) -> Path:
    """Three plain packages, a good one, a hidden enclave and a broken package."""
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    for index in range(3):
        (tree / f"plain{index}.rpm").write_bytes(PLAIN)
    (tree / "sub" / "signed.rpm").write_bytes(SIGNED)
    (tree / "hidden.rpm").write_bytes(HIDDEN)
    (tree / "broken.rpm").write_bytes(PLAIN[:-5])
    (tree / "notes.txt").write_text("not a package")
    return tree


@pytest.fixture(name="reference")
def _reference(tmp_path: Path) -> str:
    where = tmp_path / "reference"
    where.mkdir()
    (where / "libsgx_pce.so").write_bytes(CASE.built)
    (where / "pce.config.xml").write_bytes(CASE.config)
    return str(where)


def targets_in(folder: Path) -> Mapping[str, Optional[Listing]]:
    return survey(str(folder)).targets


def outcomes(results: Sequence[Scanned]) -> dict[str, object]:
    return {Path(file).name: report and report["outcome"] for file, report in results}


EXPECTED = {
    "plain0.rpm": None,
    "plain1.rpm": None,
    "plain2.rpm": None,
    "signed.rpm": "identical",
    "hidden.rpm": None,
    "broken.rpm": "unverifiable",
}


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_tree(tree: Path, reference: str, jobs: int) -> None:
    seen: list[tuple[int, int]] = []
    results = list(
        scan(
            targets_in(tree),
            ScanSettings((reference,), CHECK, result_dict),
            jobs=jobs,
            progress=lambda done, total: seen.append((done, total)),
        )
    )
    assert outcomes(results) == EXPECTED
    assert seen == [(i + 1, 6) for i in range(6)]
    assert [report["exit_status"] for _, report in sorted(results, key=str) if report] == [2, 0]


def test_many_batches_come_back_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "_BATCH", 2)
    for index in range(25):
        (tmp_path / f"{index}.rpm").write_bytes(PLAIN)
    targets = targets_in(tmp_path)
    results = list(scan(targets, ScanSettings((), CHECK, result_dict), jobs=2))
    assert sorted(dict(results)) == list(targets)


def test_deep_finds_what_is_hidden(tree: Path, reference: str) -> None:
    shown = ScanSettings((reference,), CHECK, result_dict, deep=True)
    found = outcomes(list(scan(targets_in(tree), shown)))
    assert found == {**EXPECTED, "hidden.rpm": "unverifiable"}


def test_a_process_that_dies_is_an_error(tree: Path, reference: str) -> None:
    deadly = ScanSettings(
        (reference,), partial(check_package, policy_of=deadly_policy), result_dict
    )
    with pytest.raises(LimitError, match="a process of the scan died"):
        list(scan(targets_in(tree), deadly, jobs=2))


def test_a_bad_reference_is_an_error(tree: Path) -> None:
    missing = ScanSettings((str(tree / "no"),), CHECK, result_dict)
    for jobs in (1, 2):
        with pytest.raises(InputError, match="cannot be read"):
            list(scan(targets_in(tree), missing, jobs=jobs))


def test_links_to_folders_are_not_followed(tree: Path) -> None:
    (tree / "sub" / "up").symlink_to(tree)
    assert len(targets_in(tree)) == 6
    with pytest.raises(InputError, match="cannot be read"):
        survey(str(tree / "missing"))


def forbidden(*_args: object) -> Scanned:
    raise AssertionError("this package was scanned before")


def test_a_scan_is_resumed(
    tree: Path, reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "state")
    judged = ScanSettings((reference,), CHECK, result_dict)
    targets = targets_in(tree)
    state = ScanState(path, "key")
    begun = scan(targets, judged, state=state)
    first = [next(begun) for _ in range(4)]
    state.close()
    with open(path, "a", encoding="utf-8") as stream:
        stream.write('{"a":' * 5000 + '\n{"file": "half')

    state = ScanState(path, "key")
    looked_at: list[str] = []
    original = scanning.scan_one

    def counted(given: ScanSettings, target: Target) -> Scanned:
        looked_at.append(target[0])
        return original(given, target)

    monkeypatch.setattr(scanning, "scan_one", counted)
    assert outcomes(list(scan(targets, judged, state=state))) == EXPECTED
    state.close()
    assert looked_at == list(targets)[4:]
    assert list(dict(first)) == list(targets)[:4]

    monkeypatch.setattr(scanning, "scan_one", forbidden)
    state = ScanState(path, "key")
    assert outcomes(list(scan(targets, judged, state=state))) == EXPECTED
    state.close()

    os.utime(min(targets), ns=(1, 1))
    state = ScanState(path, "key")
    with pytest.raises(AssertionError, match="scanned before"):
        list(scan(targets, judged, state=state))
    state.close()


def test_a_package_that_was_replaced_is_looked_at_again(tree: Path, tmp_path: Path) -> None:
    """Size and time are the old ones, as anybody can set them."""
    path = str(tmp_path / "state")
    judged = ScanSettings((), CHECK, result_dict)
    target = str(tree / "sub" / "signed.rpm")
    state = ScanState(path, "key")
    assert list(scan({target: None}, judged, state=state))
    state.close()
    file = Path(target)
    data, times = bytearray(file.read_bytes()), os.stat(file)
    data[-9] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (os.stat(file).st_size, os.stat(file).st_mtime_ns) == (len(data), times.st_mtime_ns)
    state = ScanState(path, "key")
    assert state.known(target) is None
    assert list(scan({target: None}, judged, state=state))
    state.close()
    ScanState(path, "key").close()
    # what was true of the file before is not kept for ever
    assert len(Path(path).read_text().splitlines()) == 2


def test_a_replaced_reference_makes_another_key(reference: str) -> None:
    file = Path(reference) / "libsgx_pce.so"
    before, times = stamps_below(reference), os.stat(file)
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert stamps_below(reference) != before


def test_other_settings_start_again(tree: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "state")
    package = str(tree / "plain0.rpm")
    state = ScanState(path, "one")
    assert list(scan({package: None}, ScanSettings((), CHECK, result_dict), state=state))
    state.close()
    state = ScanState(path, "one")
    assert state.known(package) is not None
    state.close()
    state = ScanState(path, "two")
    assert state.known(package) is None
    state.close()


def test_a_state_that_is_none_is_not_written_over(tmp_path: Path) -> None:
    precious = tmp_path / "thesis.txt"
    precious.write_text("twelve years of work\n")
    with pytest.raises(InputError, match="not the state of a scan"):
        ScanState(str(precious), "key")
    assert precious.read_text() == "twelve years of work\n"
    with pytest.raises(InputError, match="cannot be written"):
        ScanState(str(tmp_path / "no" / "state"), "key")
    with pytest.raises(InputError, match="cannot be read"):
        ScanState(str(tmp_path), "key")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="no regular file"):
        ScanState(str(tmp_path / "pipe"), "key")


@pytest.mark.parametrize(
    "line",
    [
        *("", "x", "[]", "{}", '["a", [1], null]', '["a", "", {}]', '["a", ""]'),
        '["a", "", {"exit_status": Infinity}]',
    ],
)
def test_lines_that_are_no_results_are_left_out(tmp_path: Path, line: str) -> None:
    path = tmp_path / "state"
    path.write_text('{"scan": "key"}\n' + f"{line} {sha256_of(line.encode())}\n")
    state = ScanState(str(path), "key")
    state.close()
    assert path.read_text() == '{"scan": "key"}\n'


def test_results_that_were_edited_are_found_again(
    tree: Path, reference: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    arguments = (str(tree), "--reference", reference, "--state", str(state), "--json")
    assert run(*arguments) == 2
    first, kept = capsys.readouterr().out, state.read_text()
    state.write_text(kept.replace('"findings": ', '"others": '))
    assert run(*arguments) == 2
    assert capsys.readouterr().out == first
    assert sorted(state.read_text().splitlines()) == sorted(kept.splitlines())


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    state = ScanState(str(tmp_path / "state"), "key")
    state.close()
    state._stream = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115
    with pytest.raises(InputError, match="No space left"):
        state.add("a", None)


def test_stamps_change_with_the_files(reference: str) -> None:
    before = stamps_below(reference)
    assert before == stamps_below(reference)
    (Path(reference) / "more").write_bytes(b"")
    assert before != stamps_below(reference)
    file = Path(reference) / "libsgx_pce.so"
    single = stamps_below(str(file))
    file.write_bytes(b"other")
    assert single != stamps_below(str(file))


def plain(tmp_path: Path, data: bytes) -> bool:
    path = tmp_path / "x.rpm"
    path.write_bytes(data)
    return passed_by(str(path))


def passed_by(path: str) -> bool:
    """Whether its header alone says that it is intact and has no enclaves."""
    try:
        with open_package(path) as (package, _stream):
            return not may_carry_enclaves(package)
    except SgxEnclavesError:
        return False


def test_a_plain_package_is_passed_by(tmp_path: Path) -> None:
    assert plain(tmp_path, PLAIN)
    new = write_rpm([RpmFile("/usr/bin/x", b"text")], v6=True)
    assert plain(tmp_path, new)
    assert not plain(tmp_path, new[:-1])
    many = [RpmFile(f"/usr/share/doc/file-{i}", b"x") for i in range(700)]
    assert len(write_rpm(many)) > 64 << 10
    assert plain(tmp_path, write_rpm(many))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        PLAIN[:4],
        PLAIN[:90],
        PLAIN[:300],
        PLAIN[:-1],
        PLAIN + b"x",
        b"\0" + PLAIN[1:],
        PLAIN[:96] + b"\0" + PLAIN[97:],
        SIGNED,
        write_rpm([RpmFile("/opt/libsgx_qe3.so")]),
        write_rpm([RpmFile("/opt/mine.signed.so")]),
        write_rpm([link(ENCLAVE_FOLDER + "x", "y")]),
        write_rpm([], provides=["sgx-enclave(x:signed)"]),
        write_rpm([], signature={273: None}),
        write_rpm([], signature={273: "0" * 64}),
        write_rpm([], signature={1000: [7]}),
        write_rpm([], signature={1000: "7"}),
    ],
)
def test_whatever_is_odd_or_of_interest_is_looked_at(tmp_path: Path, data: bytes) -> None:
    assert not plain(tmp_path, data)


def test_what_is_no_file_is_never_plain(tmp_path: Path) -> None:
    assert not passed_by(str(tmp_path))
    assert not passed_by(str(tmp_path / "missing"))
    os.mkfifo(tmp_path / "fifo")
    assert not passed_by(str(tmp_path / "fifo"))
    huge = bytearray(PLAIN)
    start = PLAIN.rindex(b"\x8e\xad\xe8\x01")
    huge[start + 8 : start + 12] = b"\x7f\xff\xff\xff"
    assert not plain(tmp_path, bytes(huge))


def run(*arguments: str) -> int:
    return main(["scan", *arguments, *SIGNER, "--jobs", "1"])


def test_the_verb(tree: Path, reference: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(tree), "--reference", reference) == 2
    out = capsys.readouterr().out
    assert f"{tree}/sub/signed.rpm: IDENTICAL\n" in out
    assert f"MRENCLAVE {CASE.regenerated.mrenclave.hex()}" in out
    assert f"{tree}/broken.rpm: UNVERIFIABLE\n  the package is truncated" in out
    assert out.endswith(
        "6 packages, 1 with enclaves, 1 with something wrong; enclaves: 1 identical\n"
    )
    (tree / "broken.rpm").unlink()
    assert run(str(tree), "--reference", reference) == 0
    sdk = CASE.regenerated.generation.name
    assert run(str(tree), "--reference", reference, "--sdk", sdk) == 0
    assert run(str(tree)) == 2
    out = capsys.readouterr().out
    assert "unverifiable: no reference has an unsigned counterpart" in out


def test_the_verb_in_json(tree: Path, reference: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(tree), "--reference", reference, "--json") == 2
    report = json.loads(capsys.readouterr().out)
    assert (report["exit_status"], report["scanned"]) == (2, 6)
    assert [p["outcome"] for p in report["packages"]] == ["unverifiable", "identical"]


def test_the_verb_keeps_its_state(
    tree: Path,
    reference: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = str(tmp_path / "state")
    arguments = (str(tree), "--reference", reference, "--state", state)
    assert run(*arguments) == 2
    first = capsys.readouterr().out
    monkeypatch.setattr(scanning, "scan_one", forbidden)
    assert run(*arguments) == 2
    assert capsys.readouterr().out == first
    # Another reference may give another verdict.
    (Path(reference) / "libsgx_pce.so").write_bytes(b"other")
    assert run(*arguments) == 2
    assert "scanned before" in capsys.readouterr().err


def test_bad_arguments(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", str(tree), "--jobs", "0"]) == 2
    assert main(["scan", str(tree), "--signer", "/no/key"]) == 2
    assert main(["scan", str(tree / "no")]) == 2
    err = capsys.readouterr().err
    assert "--jobs: must be a number from 1 to " in err
    assert "no MRSIGNER, and as a file it" in err
    assert "cannot be read" in err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_where_a_scan_takes_long(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for patience, streams in ((3600.0, ("", "")), (0.0, ("\r\x1b[K", "of 6 packages (100 %)"))):
        monkeypatch.setattr("sgx_enclaves.progress._PATIENCE", patience)
        for stream, expected in zip((Terminal(), io.StringIO()), streams):
            monkeypatch.setattr("sys.stderr", stream)
            run(str(tree))
            assert expected in stream.getvalue()
            assert bool(stream.getvalue()) is bool(expected)
            run(str(tree), "--quiet")
            assert stream.getvalue().count("(100 %)") <= 1


def test_unsigned_enclaves_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [RpmFile(ENCLAVE_FOLDER + "libsgx_pce.so", CASE.built)]
    (tmp_path / "u.rpm").write_bytes(write_rpm([replace(files[0])]))
    assert run(str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "u.rpm: UNSIGNED\n" in out
    assert "enclaves: 1 unsigned" in out
