# SPDX-License-Identifier: GPL-2.0-or-later
"""The one way out: no name steers a terminal or fakes a line, and no output is lost in silence."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sgx_enclaves.cli.declare import VERBS
from sgx_enclaves.cli.main import main, parser_of
from sgx_enclaves.cli.output import coloured, out_json
from sgx_enclaves.report.forms import verdict_text
from tests.support.keys import mrsigner, private_pem, vendor_key
from tests.support.signed import signed_enclave
from tests.support_rpm import RpmFile, write_rpm
from tests.unit.release import tarmaker
from tests.unit.report.verdicts import DIFFERS, IDENTICAL, UNVERIFIABLE, evil

# ESC, OSC (a title, as xterm takes it), CR, a C1 control, a change of direction, no UTF-8.
HOSTILE = "a\nIDENTICAL: all\r\x1b[2J\x1b]0;x\x07\x9b31m\u202e" + os.fsdecode(b"\xff")
VENDOR = ["--signer", mrsigner(vendor_key())]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a hostile name, whose files' names are as bad."""
    case = signed_enclave()
    folder = tmp_path / HOSTILE
    folder.mkdir()
    for name, data in {
        "built": case.built,
        "signed": case.signed,
        "config": case.config,
        "key": private_pem(vendor_key()),
        "text": b"no enclave",
    }.items():
        (folder / f"{name}{HOSTILE}").write_bytes(data)
    archive = tarmaker.write(folder, tarmaker.directory("top"), tarmaker.file("top/x\x1b[2J"))
    archive.rename(folder / f"tar{HOSTILE}")
    package = write_rpm([RpmFile("/usr/x\n\x1b[2J", case.signed)])
    (folder / f"x{HOSTILE}.rpm").write_bytes(package)
    return folder


# What is between braces is a file of `folder`.
RUNS = [
    "show {signed}",
    "show {text}",
    "show {absent}",
    "show {signed} --json",
    "measure {text}",
    "verify-signature {signed} --signer {text}",
    "compare {built} {signed} --config {config}",
    "compare {built} {text} --config {config} --report {report}",
    "compare {built} {signed} --config {text}",
    "compare {built} {signed} --config {config} --sdk {text}",
    "compare {built} {signed} --config {config} --no-such {text}",
    "extract-signature {signed} -o {out}",
    "extract-signature {text} -o {out}",
    "sign {built} --config {config} --key {key} -o {out}",
    "sign {built} --config {config} --key {text} -o {out}",
    "contents {tar} --list",
    "contents {text}",
    "check-rpm {x.rpm}",
    "check-rpm {text}",
    "check-rpm {x.rpm} --reference {absent}",
    "scan {.} --deep",
    "check-built {.}",
    "build {text} --into {out}",
    "fetch {text}",
    "fetch sgx-2.25-dcap-1.22 {text}",
    "verify-release {text}",
    "verify-release sgx-2.25-dcap-1.22 --allow-no-isolation --offline --cache {cache}"
    " --repacked {text} --work {work}",
    "spec {text} --kind grafted",
    "spec sgx-2.25-dcap-1.22 --kind grafted -o {text}/x",
    "toolchain check {text}",
    "toolchain check --lock {text}",
    "{text}",
]
# These do not name the file.
QUIET = [
    "measure {signed}",
    "measure {built} --config {config}",
    "verify-signature {signed}",
    "graft {built} {text} --config {config} -o {out}",
]


@pytest.mark.parametrize("line", [*RUNS, *QUIET])
def test_no_name_steers_the_terminal(
    line: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def named(word: str) -> str:
        def path(match: re.Match[str]) -> str:
            name, dot, suffix = match[1].partition(".")
            return str(folder / f"{name}{HOSTILE}{dot}{suffix}") if name else str(folder)

        return re.sub(r"\{([^}]*)\}", path, word)

    with contextlib.suppress(SystemExit):
        main([named(word) for word in line.split()])
    said = capsys.readouterr()
    assert ("\\x1b" in said.out + said.err or "\\u001b" in said.out) is (line in RUNS)
    for text in said:
        assert all(c.isprintable() or c == "\n" for c in text)
        assert not re.search(r"^\s*IDENTICAL: all", text, re.MULTILINE)


def test_graft_of_what_was_extracted_says_a_hostile_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {n: str(folder / f"{n}{HOSTILE}") for n in ("built", "signed", "config", "sig", "out")}
    assert main(["extract-signature", names["signed"], "-o", names["sig"]]) == 0
    arguments = ["--config", names["config"], "-o", names["out"], *VENDOR]
    assert main(["graft", names["built"], names["sig"], *arguments]) == 0
    assert all(c.isprintable() or c == "\n" for c in capsys.readouterr().out)


def test_colours_are_around_words_only() -> None:
    for verdict in (IDENTICAL, DIFFERS, UNVERIFIABLE, evil()):
        plain = verdict_text(verdict)
        shown = "\n".join(map(coloured, plain.split("\n")))
        assert "\x1b" not in plain
        assert re.sub(r"\x1b\[\d+m", "", shown) == plain
        assert shown.startswith("\x1b[")
    assert coloured("proved   payload: x") == "\x1b[32mproved\x1b[0m   payload: x"
    assert coloured("  refuted  policy: x") == "  \x1b[31mrefuted\x1b[0m  policy: x"
    assert coloured("prove it") == "prove it"


# --- standard output that is closed, full, or whose reader goes away ---


def run(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of shell, in which $VERB is the program."""
    program = f"{sys.executable} -m sgx_enclaves"
    return subprocess.run(
        ["sh", "-c", line],
        env={**os.environ, "VERB": program, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    path = tmp_path / "signed.so"
    path.write_bytes(signed_enclave().signed)
    return path


@pytest.mark.parametrize("more", ["", "--json"])
@pytest.mark.parametrize(
    ("where", "words"),
    [(">&-", "standard output is closed"), (">/dev/full", "No space left on device")],
)
def test_an_output_that_cannot_be_written(signed: Path, more: str, where: str, words: str) -> None:
    done = run(f"$VERB show {signed} {more} {where}")
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert run(f"$VERB show --help {where}").returncode == 2


def test_closed_standard_error_is_no_reason_to_print_elsewhere(tmp_path: Path) -> None:
    done = run(f"$VERB show {tmp_path / 'absent'} 2>&-")
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize(("verb", "status"), [("show", 0), ("measure", 0), ("verify-signature", 1)])
def test_a_reader_who_goes_away_changes_no_status(signed: Path, verb: str, status: int) -> None:
    """Whether the text was written whole, in part or not at all."""
    for reader in ("true", "head -1", "head -c 5000"):
        line = f"{{ $VERB {verb} {signed} --json; echo $? >&2; }} | {reader}"
        assert run(line).stderr.split() == [str(status)]


def test_a_terminal_that_knows_ascii_only(tmp_path: Path) -> None:
    path = tmp_path / "é.so"
    path.write_bytes(signed_enclave().signed)
    done = run(f"$VERB show {path}", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "\\xe9.so: " in done.stdout


def test_an_interrupt_has_a_status_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_name: str) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr("sgx_enclaves.cli.main.verb_named", interrupted)
    assert main(["show", "x"]) == 130
    assert capsys.readouterr().err == "sgx-enclaves: interrupted\n"


# --- what -o names ---


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """What is needed to sign, and to take signatures out."""
    case = signed_enclave()
    for name, data in {
        "built.so": case.built,
        "signed.so": case.signed,
        "config.xml": case.config,
        "key.pem": private_pem(vendor_key()),
        "there": b"precious",
    }.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "link").symlink_to("there")
    (tmp_path / "dangling").symlink_to("nothing")
    os.link(tmp_path / "key.pem", tmp_path / "key-too.pem")
    (tmp_path / "folder").mkdir()
    return tmp_path


def signing(own: Path, output: str, *more: str) -> list[str]:
    named = ("sign", "built.so", "--config", "config.xml", "--key", "key.pem", "-o", output)
    return [str(own / word) if "." in word or word == output else word for word in named] + [*more]


@pytest.mark.parametrize("more", [[], ["--force"]])
@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("key.pem", "it is one of the inputs"),
        ("key-too.pem", "it is one of the inputs"),
        ("built.so", "it is one of the inputs"),
        ("config.xml", "it is one of the inputs"),
        ("link", "it is a symbolic link"),
        ("dangling", "it is a symbolic link"),
        ("folder", "it is no file, pipe or character device"),
        ("there/x", "Not a directory"),
        ("absent/x", "No such file or directory"),
    ],
)
def test_what_an_output_never_replaces(
    own: Path, output: str, words: str, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.read_bytes() for p in own.iterdir() if p.is_file()}
    assert main(signing(own, output, *more)) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert output in said.err
    assert said.out == ""
    assert {p: p.read_bytes() for p in own.iterdir() if p.is_file()} == before
    assert (own / "dangling").is_symlink()


def test_a_file_is_replaced_on_request_only(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(signing(own, "there")) == 2
    assert "replace it with --force" in capsys.readouterr().err
    assert (own / "there").read_bytes() == b"precious"
    assert main(signing(own, "there", "--force")) == 0
    assert (own / "there").read_bytes()[:4] == b"\x7fELF"


@pytest.mark.parametrize(
    "line",
    [
        "toolchain record sgx-2.25-dcap-1.22 -o record --force",
        "spec sgx-2.25-dcap-1.22 --kind prebuilt -o prebuilt --force",
        "spec sgx-2.25-dcap-1.22 --kind prebuilt -o sgx-2.25-dcap-1.22 --force",
    ],
)
def test_a_word_that_names_no_file_is_no_input(
    own: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own)
    *_, output, _ = words = line.split()
    Path(output).write_text("an older one")
    assert main(words) == 0
    assert Path(output).read_text() != "an older one"


@pytest.mark.parametrize(
    "line",
    [
        "extract-signature {own}/signed.so -o {own}/there",
        "toolchain record sgx-2.25-dcap-1.22 -o {own}/there",
        "spec sgx-2.25-dcap-1.22 --kind grafted -o {own}/there",
    ],
)
def test_every_verb_asks_before_it_replaces(own: Path, line: str) -> None:
    assert main(line.format(own=own).split()) == 2
    assert (own / "there").read_bytes() == b"precious"
    assert main([*line.format(own=own).split(), "--force"]) == 0
    assert (own / "there").read_bytes() != b"precious"


def test_a_device_and_a_pipe_are_written_to(own: Path) -> None:
    assert main(signing(own, "/dev/null")) == 0
    assert Path("/dev/null").is_char_device()
    line = f"{{ $VERB extract-signature {own / 'signed.so'} -o /dev/fd/3 3>&1 >&2; }} | wc -c"
    assert run(line).stdout.split() == [str(3 * 1808)]
    pipe = own / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert main(["extract-signature", str(own / "signed.so"), "-o", str(pipe)]) == 0
    assert len(os.read(reader, 1 << 16)) == 3 * 1808
    os.close(reader)
    assert main(["extract-signature", str(own / "signed.so"), "-o", str(pipe)]) == 2


# --- inputs that never end ---


@pytest.mark.parametrize(
    "line",
    [
        "show {pipe}",
        "measure {pipe}",
        "measure {own}/built.so --config {pipe}",
        "verify-signature {pipe}",
        "verify-signature {own}/signed.so --signer {pipe}",
        "compare {pipe} {own}/signed.so --config {own}/config.xml",
        "compare {own}/built.so {pipe} --config {own}/config.xml",
        "compare {own}/built.so {own}/signed.so --config {pipe}",
        "extract-signature {pipe} -o {own}/out",
        "sign {own}/built.so --config {own}/config.xml --key {pipe} -o {own}/out",
        "graft {own}/built.so {pipe} --config {own}/config.xml -o {own}/out",
        "check-rpm {pipe}",
        "check-rpm {own}/there --reference {pipe}",
        "scan {pipe}",
        "contents {pipe}",
        "check-built {pipe}",
        "toolchain check --lock {pipe}",
        "verify-release sgx-2.25-dcap-1.22 pce --allow-no-isolation --offline --cache {own}/c"
        " --repacked {pipe}",
    ],
)
def test_a_pipe_that_nobody_writes_to_is_not_waited_for(own: Path, line: str) -> None:
    os.mkfifo(own / "pipe")
    done = run("timeout 50 $VERB " + line.format(own=own, pipe=own / "pipe"))
    assert done.returncode == 2
    assert str(own / "pipe") in done.stderr + done.stdout
    assert "internal error" not in done.stderr


def test_standard_input_is_an_input(own: Path) -> None:
    done = run(f"$VERB show - < {own / 'signed.so'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("-: ")


# --- JSON, on errors too, and alone ---


@pytest.mark.parametrize(
    "line",
    [
        "show {own}/there",
        "show {own}/absent",
        "show --no-such",
        "measure {own}/built.so",
        "verify-signature {own}/there",
        "compare {own}/built.so {own}/signed.so --config {own}/absent",
        "compare {own}/built.so {own}/signed.so --config {own}/config.xml --report {own}/there",
        "check-rpm {own}/there --reference {own}/absent",
        "scan {own}/absent",
        "contents {own}/there",
        "fetch nothing",
        "build nothing --into {own}/x",
        "verify-release nothing",
        "verify-release sgx-2.25-dcap-1.22 --report {own}/there",
        "toolchain check nothing",
    ],
)
def test_an_error_is_json_too(own: Path, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        assert main([*line.format(own=own).split(), "--json"]) == 2
    said = capsys.readouterr()
    plain = json.loads(said.out)
    assert plain["schema_version"] == 1
    assert plain["exit_status"] == 2
    assert plain["error"]["message"] in said.err


@pytest.mark.parametrize(
    "line",
    [
        "show {own}/signed.so",
        "measure {own}/signed.so",
        "measure {own}/built.so --config {own}/config.xml",
        "verify-signature {own}/signed.so",
        "compare {own}/built.so {own}/signed.so --config {own}/config.xml --diffoscope",
        "check-rpm {own}/there",
        "scan {own}",
        "contents {own}/archive.tar",
        "toolchain check sgx-2.25-dcap-1.22",
    ],
)
def test_json_has_a_version_and_stands_alone(own: Path, line: str) -> None:
    tarmaker.write(own, tarmaker.directory("top"))
    program = own / "bin" / "diffoscope"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho a view; exit 1\n")
    program.chmod(0o755)
    done = run(
        f"$VERB {line.format(own=own)} --json", PATH=f"{program.parent}:{os.environ['PATH']}"
    )
    assert isinstance(json.loads(done.stdout)["schema_version"], int)
    assert ("a view" in done.stderr) is ("--diffoscope" in line)


def test_reports_have_their_place_before_the_work_and_come_after_the_verdict(own: Path) -> None:
    arguments = f"{own}/built.so {own}/signed.so --config {own}/config.xml"
    done = run(f"$VERB compare {arguments} --report {own}/there")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there: the directory cannot be made: File exists; name another" in done.stderr
    (own / "reports" / "verdict.txt").mkdir(parents=True)
    done = run(f"$VERB compare {arguments} --report {own}/reports")
    assert done.returncode == 2
    assert done.stdout.startswith("UNVERIFIABLE: ")


def test_trying_a_directory_of_reports_takes_nothing_away(own: Path) -> None:
    arguments = f"{own}/built.so {own}/signed.so --config {own}/config.xml"
    (own / ".sgx-enclaves").write_text("mine")
    run(f"$VERB compare {arguments} --report {own}")
    assert (own / "report.json").exists()
    assert (own / ".sgx-enclaves").read_text() == "mine"


# --- at the terminal ---


@pytest.mark.parametrize(("typed", "meant"), [("comapre", "compare"), ("verify", "verify-")])
def test_a_mistyped_verb(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([typed]) == 2
    said = capsys.readouterr().err
    assert f"unknown verb {typed}; did you mean {meant}" in said


def test_help_of_a_verb_by_either_word(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for arguments in (["help", "compare"], ["compare", "--help"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("environment", "colours"),
    [
        ({}, True),
        ({"NO_COLOR": ""}, True),
        ({"NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_a_terminal_gets_colours_and_its_own_width(
    own: Path, environment: dict[str, str], colours: bool
) -> None:
    files = f"{own}/built.so {own}/signed.so --config {own}/config.xml"
    command = f"$VERB compare {files} {' '.join(VENDOR)}"
    settings = {"TERM": "xterm", "COLUMNS": "200", "NO_COLOR": "", **environment}
    done = run(f'script --quiet --return --command "{command}" /dev/null', **settings)
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert ("\x1b[32m" in done.stdout) is colours
    assert max(map(len, lines)) > 100


def test_quiet_and_verbose_are_about_standard_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["show", str(folder / f"signed{HOSTILE}")]
    assert main(arguments) == 0
    usual = capsys.readouterr()
    assert usual.err == ""
    assert main([*arguments, "--quiet"]) == 0
    assert capsys.readouterr() == usual
    assert main([*arguments, "-v"]) == 0
    assert "exit status 0, " in capsys.readouterr().err
    assert main([*arguments, "--verbose"]) == 0
    verbose = capsys.readouterr()
    assert verbose.out == usual.out
    assert "exit status 0, " in verbose.err
    assert "\x1b" not in verbose.err
    # an error is no note
    assert main(["show", "absent", "--quiet"]) == 2
    assert "absent" in capsys.readouterr().err
    assert main([*arguments, "-q", "--verbose"]) == 2


def test_a_verbose_report_cuts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    many = tuple(DIFFERS.findings[0] for _ in range(40))
    verdict = replace(DIFFERS, findings=many, explanation=None)
    assert "--json has" in verdict_text(verdict)
    assert "--json has" not in verdict_text(verdict, full=True)


def test_every_verb_but_rpms_own_speaks_json() -> None:
    without = {verb for verb in VERBS if "--json" not in parser_of(verb).format_help()}
    assert without == {"rpm-provides"}


WRITING = {
    "sign {built} --config {config} --key {key} --date 2026-01-01": {"sdk", "mrenclave"},
    "sign-data {built} --config {config}": {"date", "debug", "isvprodid", "isvsvn"},
    "unsign {signed}": set(),
    "extract-signature {signed}": {"signatures"},
    "spec sgx-2.25-dcap-1.22 --kind grafted": {"spec"},
}


@pytest.mark.parametrize("run", WRITING)
def test_what_was_written_is_json_too(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], run: str
) -> None:
    written = tmp_path / "out"
    words = [
        str(folder / f"{word[1:-1]}{HOSTILE}") if word.startswith("{") else word
        for word in run.split()
    ]
    assert main([*words, "-o", str(written), "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["file"] == str(written)
    assert plain["size"] == written.stat().st_size
    assert plain["sha256"] == hashlib.sha256(written.read_bytes()).hexdigest()
    assert WRITING[run] <= set(plain)


def test_json_is_json_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    odd = "a\x7fb\x1b[2J\u202e\n\ud800"
    out_json({"text": odd})
    printed = capsys.readouterr().out
    assert json.loads(printed)["text"] == odd
    assert printed.isascii() and printed.replace("\n", "").isprintable()
