# SPDX-License-Identifier: GPL-2.0-or-later
"""The builder's configuration: what it means, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from sgx_enclaves_builder.config import CONFIG_FILE, Config, load_config, read_config

from sgx_enclaves.errors import InputError

SAMPLE = Path(__file__).parents[4] / "koji_plugin" / "builder" / "sgx_enclaves.conf"


def read(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "x.conf"
    path.write_text(text)
    return read_config(str(path))


def test_nothing_set_is_the_usual(tmp_path: Path) -> None:
    assert read(tmp_path, "[fetch]\n[build]\n") == Config()


def test_the_usual_file_need_not_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SGX_ENCLAVES_BUILDER_CONFIG", raising=False)
    monkeypatch.setattr("sgx_enclaves_builder.config.CONFIG_FILE", "/nowhere/at/all.conf")
    assert load_config() == Config()


def test_a_file_that_is_named_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGX_ENCLAVES_BUILDER_CONFIG", "/nowhere/at/all.conf")
    with pytest.raises(InputError, match="No such file"):
        load_config()


def test_the_sample_that_is_shipped_says_what_is_usual() -> None:
    text = SAMPLE.read_text()
    assert read_config(str(SAMPLE)) == Config()
    assert CONFIG_FILE in text


def test_every_setting_of_the_sample_can_be_set(tmp_path: Path) -> None:
    lines = [
        line[1:] if line.startswith("#") and " = " in line and line[1] != " " else line
        for line in SAMPLE.read_text().splitlines()
    ]
    config = read(tmp_path, "\n".join(lines))
    assert config.fetch_lookaside is not None
    assert config.fetch_ca_file is not None
    assert config.catalogue_folders


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_no_line_end_hides_a_setting(tmp_path: Path, end: str) -> None:
    assert read(tmp_path, end.join(["[fetch]", "attempts = 3", ""])) == Config(fetch_attempts=3)


def test_everything_can_be_set(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        "[fetch]\ncache = /c\nhosts = A.example b.example\nlookaside = https://l.example/x\n"
        "lookaside_package = p\nca_file = /ca\nattempts = 2\ntimeout = 3\nmax_mib = 5\n"
        "[catalogue]\nfolders = /a /b\n"
        "[build]\nmake_timeout = 7\nwait_timeout = 8\n",
    )
    assert config == Config(
        fetch_cache=Path("/c"),
        fetch_hosts=("a.example", "b.example"),
        fetch_lookaside="https://l.example/x",
        fetch_lookaside_package="p",
        fetch_ca_file="/ca",
        fetch_attempts=2,
        fetch_timeout=3,
        fetch_max_mib=5,
        catalogue_folders=(Path("/a"), Path("/b")),
        build_make_timeout=7,
        build_wait_timeout=8,
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[fetch]\nhost = x.example\n", "fetch does not fit .expected .*found host"),
        ("[other]\nx = 1\n", "expected .*catalogue.*found other"),
        ("[fetch]\ncache = relative\n", "cache does not fit.*absolute path"),
        ("[catalogue]\nfolders = /a b\n", "folders.1. does not fit"),
        ("[catalogue]\nlocks = /l\n", "found locks"),
        ("[fetch]\nhosts = x/y\n", "hosts.0. does not fit"),
        ("[fetch]\nlookaside = http://x.example\n", "lookaside does not fit.*https"),
        ("[fetch]\nattempts = 0\n", "attempts does not fit.*at least 1, found 0"),
        ("[fetch]\nattempts = \u0663\n", "attempts does not fit"),
        ("[build]\nwait_timeout = 1e3\n", "wait_timeout does not fit"),
        ("[build]\nmake_timeout = 999999999999999999999999\n", "make_timeout does not fit"),
        ("[fetch\n", "cannot be read"),
        ("[fetch]\nattempts = 1\nattempts = 2\n", "cannot be read"),
    ],
)
def test_what_is_wrong_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(tmp_path, text)
