# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration file: what it can say, and that nothing wrong in it is passed over."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from sgx_enclaves_hub.config import CONFIG_FILE, Settings, read_settings, settings

from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.gate.decide import Rule
from sgx_enclaves.settings import check_file
from tests.support.records import A, B

ROOT = Path(__file__).resolve().parents[4]
SHIPPED = ROOT / "koji_plugin/hub/sgx_enclaves.conf"


def test_without_a_file_there_are_defaults(conf: Path) -> None:
    assert not conf.exists()
    assert settings() == Settings()
    assert Settings().hook_enabled is False


def test_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "x.conf"
    path.write_text(
        f"""
[tasks]
channel = sgx
build_tags = f42-sgx-build:42  f43/x.1+y:7

[hook]
enabled = Yes
build_tag = f42-build

[hook targets]
f42-Candidate = f42-sgx-build
eln:x = eln-build

[signers]
demo = {A} {B}

[enforce]
f42* = signer=demo release=sgx-*
eln = on
"""
    )
    found = read_settings(str(path))
    assert (found.tasks_channel, found.hook_enabled) == ("sgx", True)
    assert found.hook_build_tag == "f42-build"
    assert found.pins == {"f42-sgx-build": 42, "f43/x.1+y": 7}
    assert found.hook_targets == {"f42-Candidate": "f42-sgx-build", "eln:x": "eln-build"}
    assert found.signers == {"demo": {A, B}}
    assert found.rules == (
        ("f42*", Rule(signer=frozenset({A, B}), release="sgx-*")),
        ("eln", Rule()),
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[hooks]\n", "gate, signers, enforce, found hooks"),
        (
            "[hook]\nenable = yes\n",
            "hook does not fit (expected one of enabled, build_tag, found enable",
        ),
        ("[tasks]\nChannel = x\n", "expected one of channel, build_tags, found Channel"),
        (
            "[tasks]\nbuild_tags = f42\n",
            "expected NAME:ID of each tag, once, such as f43-sgx-build:42",
        ),
        ("[tasks]\nbuild_tags = f42\n", "shows the ID in brackets, found f42"),
        (
            "[tasks]\nbuild_tags = f42:1 f4*-build\n",
            "and no glob; `koji taginfo NAME` shows the ID in brackets, found f4*-build",
        ),
        ("[tasks]\nbuild_tags = f42:1 f42:2\n", "expected NAME:ID of each tag, once"),
        *(
            (f"[tasks]\nbuild_tags = {word}\n", "expected NAME:ID of each tag")
            for word in ("f4?:1", "f4[23]:1", "*:1", "f42:", ":1", "f42:0", "f42:-1", "f42:1:2")
        ),
        ("[hook]\nenabled = maybe\nbuild_tag = x\n", "expected yes or no"),
        ("[hook]\nenabled = yes\n", "nowhere to build"),
        (f"[signers]\nintel = {A}\n", "expected a plain name other than intel"),
        (f"[signers]\na b = {A}\n", "expected a plain name other than intel"),
        ("[signers]\ndemo =\n", "signers.demo does not fit (expected one or more MRSIGNER values"),
        (f"[signers]\ndemo = {A.upper()}\n", "64 lower-case hexadecimal digits for each MRSIGNER"),
        (f"[signers]\ndemo = {A} {B[:-1]}\n", "64 lower-case hexadecimal digits for each MRSIGNER"),
        ("[enforce]\nf42 = maxage=1d\n", "a word that cannot be read"),
        ("[enforce]\nf42 = no\n", "a word that cannot be read"),
        ("[enforce]\nf42 = signer=demo\n", "signer 'demo' is not known"),
        ("[hook]\nenabled = no\nenabled = yes\n", "cannot be read"),
        ("[hook]\n[hook]\n", "cannot be read"),
        ("enabled = yes\n", "cannot be read"),
        ("[hook]\nenabled\n", "cannot be read"),
        ("[hook\n", "cannot be read"),
        ("[hook]\nbuild_tag = \xff\n", "cannot be read"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "x.conf"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(SgxEnclavesError) as caught:
        read_settings(str(path))
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SgxEnclavesError, match="cannot be read"):
        read_settings(str(tmp_path))


def test_the_shipped_file_says_what_holds_without_it() -> None:
    assert read_settings(str(SHIPPED)) == Settings()


def test_the_shipped_file_s_examples_can_be_used(tmp_path: Path) -> None:
    """Each commented example, taken in, is good."""
    text = SHIPPED.read_text(encoding="utf-8")
    examples = re.sub(r"^#(?=[^ #\n])", "", text, flags=re.M)
    assert examples != text
    path = tmp_path / "x.conf"
    path.write_text(examples)
    found = read_settings(str(path))
    assert all((found.hook_enabled, found.hook_targets, found.signers, found.rules))
    assert found.tasks_channel


def test_a_file_can_be_checked_before_it_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.conf"
    assert check_file(read_settings, CONFIG_FILE, [str(path)]) == 1
    assert "cannot be read: No such file" in capsys.readouterr().err
    path.write_text("[hook]\nenable = yes\n")
    assert check_file(read_settings, CONFIG_FILE, [str(path)]) == 1
    assert (
        "hook does not fit (expected one of enabled, build_tag, found enable"
        in capsys.readouterr().err
    )
    path.write_text("[hook]\nenabled = no\n")
    assert check_file(read_settings, CONFIG_FILE, [str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: good\n"


@pytest.mark.parametrize(("half", "section"), [("hub", "[tasks]"), ("builder", "[build]")])
def test_it_can_be_checked_without_koji(tmp_path: Path, half: str, section: str) -> None:
    path = tmp_path / "x.conf"
    path.write_text(f"{section}\n")
    code = "import sys; sys.modules['koji'] = None; import runpy; sys.argv[1:] = sys.argv[2:];"
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    program = ROOT / f"koji_plugin/{half}/sgx_enclaves_{half}/config.py"
    done = subprocess.run(
        [sys.executable, "-c", code.replace("sys.argv[0]", repr(str(program))), "-", str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout) == (0, f"{path}: good\n"), done.stderr
