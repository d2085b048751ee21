# SPDX-License-Identifier: GPL-2.0-or-later
"""Mistakes that people make: each is answered by one sentence that says the next step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.golden.test_verbs import lay_out
from tests.support.keys import vendor_key
from tests.unit.conftest import Run

RELEASE = "sgx-2.25-dcap-1.22"
SIGN = "sign built.so --config built.xml -o new.so"
# What is typed, what is wrong with it, and what to do.
MISTAKES = [
    ("show tree/plain0.rpm", "found an RPM package", "sgx-enclaves check-rpm"),
    ("compare built.so packed.rpm --config built.xml", "an RPM package", "check-rpm packed.rpm"),
    ("compare packed.rpm signed.so --config built.xml", "an RPM package", "check-rpm packed.rpm"),
    ("check-rpm packed.rpm --reference built.so", "not an RPM package", "or a directory with them"),
    (f"{SIGN} --key ec.pem", "not an RSA key", "openssl genrsa -3"),
    (f"{SIGN} --key encrypted.pem", "the key is encrypted", "--passphrase-file"),
    (f"{SIGN} --key vendor.pem", "a public key cannot sign", "name the private key"),
    (f"{SIGN} --key pkcs11:token=t;object=o", "a key in a token", "--sign-with"),
    (f"{SIGN} --key key.pem --date yesterday", "no date like 2026-11-29", "help sign"),
    ("sign signed.so --config built.xml --key key.pem -o new.so", "already signed", "unsign"),
    ("contents signed.so", "no tar archive", "found an ELF file"),
    ("contents text.txt", "no tar archive", "packed with gzip, xz, zstd or not at all"),
    ("contents tree", "no archive, but a directory", "tree"),
    ("scan packed.rpm", "Not a directory", "check-rpm checks a package"),
    ("scan absent", "No such file or directory", "check path and rights"),
    ("scan reference", "there is no package to scan", "name a folder of RPM packages"),
    ("comapre built.so signed.so", "unknown verb comapre", "did you mean compare?"),
    ("spec sgx-2.25 --kind grafted", "there is no release 'sgx-2.25'", f"mean {RELEASE}?"),
    ("releases show sxg-2.25-dcap-1.22", "there is no release", f"mean {RELEASE}"),
    ("compare", "required: BUILT, SIGNED, --config", "sgx-enclaves help compare"),
    ("verify-release", "required: RELEASE; ", "sgx-enclaves help verify-release"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("files")
    lay_out(here)
    for name, key, encryption in (
        ("ec.pem", ec.generate_private_key(ec.SECP256R1()), serialization.NoEncryption()),
        ("encrypted.pem", vendor_key(), serialization.BestAvailableEncryption(b"x")),
    ):
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )
        (here / name).write_bytes(pem)
    return here


@pytest.fixture
def folder(files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(files)
    return files


@pytest.mark.parametrize(("arguments", "mistake", "step"), MISTAKES)
def test_one_sentence_names_the_mistake_and_the_next_step(
    folder: Path, run: Run, arguments: str, mistake: str, step: str
) -> None:
    status, out, err = run(*arguments.split())
    assert (status, out) == (2, "")
    assert mistake in err
    assert step in err.splitlines()[-1]
    assert len(err.splitlines()) == 1
    assert not (folder / "new.so").exists()


def test_another_toolchain_than_the_designated_one_is_named(run: Run, tmp_path: Path) -> None:
    words = ("build", RELEASE, "--into", tmp_path / "new", "--allow-no-isolation")
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    # where steps cannot be separated, a warning stands before both
    looking, mistake = err.splitlines()[-2:]
    assert looking.endswith("looking at the toolchain")
    assert "designated toolchain" in mistake
    assert f"toolchain check {RELEASE}" in mistake


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            "compare signed.so built.so --config built.xml",
            ["the two are swapped: name our unsigned build first"],
        ),
        (
            "check-rpm signed.so",
            ["an ELF file, such as an enclave", "compare, show and measure take enclaves"],
        ),
        ("check-rpm text.txt", ["not an RPM package", "name an RPM package, or get it again"]),
        (
            "check-rpm packed.rpm --reference reference --signer absent",
            ["there is no usable unsigned counterpart of", "mend what the other findings name"],
        ),
        (
            "check-rpm packed.rpm",
            [
                "no reference has an unsigned counterpart of",
                "name the package or folder with our own build of it with --reference",
            ],
        ),
        (
            "compare built.so built.so --config built.xml",
            ["is this the vendor's signed enclave?"],
        ),
    ],
)
def test_a_report_says_it_too(run: Run, arguments: str, words: list[str]) -> None:
    status, out, _ = run(*arguments.split())
    assert status == 2
    assert all(said in " ".join(out.split()) for said in words)


def test_no_network_is_said_once_and_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    curl = tmp_path / "curl"
    words = "curl: (6) Could not resolve host: github.com"
    curl.write_text(f'#!/bin/sh\necho "$@" >>$0.asked\necho "{words}" >&2\nexit 6\n')
    curl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    status, _, err = run("fetch", RELEASE, "pce", "--cache", tmp_path)
    assert status == 2
    asked = (tmp_path / "curl.asked").read_text().splitlines()
    assert len(asked) == 2  # each place of the first file, never again
    assert all("--url https://github.com/" in arguments for arguments in asked)
    assert err.count("Could not resolve host") == 1
    assert len(err.splitlines()) == 1
    assert "connect this machine, or name a directory that has the file with --local" in err
