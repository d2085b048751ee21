# SPDX-License-Identifier: GPL-2.0-or-later
"""Signing where the key is elsewhere, taking a signature off, and bare SIGSTRUCTs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from sgx_enclaves.cli.main import main
from tests.enclaves.sdk import sdk_version
from tests.enclaves.synthetic import Symbol
from tests.support.keys import foreign_key, mrsigner, private_pem, public_pem, vendor_key
from tests.support.signed import DATE, Case, signed_enclave

DAY = DATE.isoformat()


@pytest.fixture
def case() -> Case:
    return signed_enclave()


@pytest.fixture
def folder(tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, data in {
        "e.so": case.built,
        "s.so": case.signed,
        "c.xml": case.config,
        "key.pem": private_pem(vendor_key()),
        "pub.pem": public_pem(vendor_key()),
        "foreign.pem": public_pem(foreign_key()),
        "one.css": case.blocks[0].sigstruct.serialise(),
    }.items():
        (tmp_path / name).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    try:
        return main(list(arguments))
    except SystemExit as stop:
        return int(str(stop.code))


def test_data_out_signature_in(
    folder: Path, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sign-data", "e.so", "--config", "c.xml", "--date", DAY, "-o", "tbs") == 0
    assert case.regenerated.mrenclave.hex() in capsys.readouterr().out
    data = (folder / "tbs").read_bytes()
    assert data == case.blocks[0].sigstruct.signed_message
    (folder / "raw").write_bytes(vendor_key().sign(data, PKCS1v15(), SHA256()))
    attach = ["attach", "e.so", "--config", "c.xml", "--signature", "raw"]
    assert run(*attach, "--public-key", "pub.pem", "--data", "tbs", "-o", "out.so") == 0
    assert (folder / "out.so").read_bytes() == case.signed
    assert run(*attach, "--public-key", "pub.pem", "--date", DAY, "-o", "two.so") == 0
    assert (folder / "two.so").read_bytes() == case.signed


def test_a_signature_that_does_not_fit_writes_nothing(
    folder: Path, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    data = case.blocks[0].sigstruct.signed_message
    (folder / "raw").write_bytes(vendor_key().sign(data, PKCS1v15(), SHA256()))
    (folder / "tbs").write_bytes(data[:-1] + b"\7")
    attach = ["attach", "e.so", "--config", "c.xml", "--signature", "raw", "-o", "out.so"]
    for more, says in (
        (("--public-key", "foreign.pem", "--date", DAY), "does not fit"),
        (("--public-key", "pub.pem", "--date", "2024-03-01"), "does not fit"),
        (("--public-key", "pub.pem", "--data", "tbs"), "other data than this enclave's"),
        (("--public-key", "pub.pem", "--data", "e.so"), "not the data that sign-data writes"),
        (("--public-key", "c.xml", "--date", DAY), "neither a key nor a certificate"),
        (("--public-key", "pub.pem", "--date", "yesterday"), "no date like"),
    ):
        assert run(*attach, *more) == 2
        assert says in capsys.readouterr().err
        assert not (folder / "out.so").exists()


SERVICE = """
import sys
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
key = load_pem_private_key(open("key.pem", "rb").read(), None)
data = sys.stdin.buffer.read()
kind = Prehashed(SHA256()) if len(data) == 32 else SHA256()
sys.stdout.buffer.write(key.sign(data, PKCS1v15(), kind))
"""


@pytest.mark.parametrize("digest", [False, True])
def test_a_command_signs(folder: Path, case: Case, digest: bool) -> None:
    (folder / "service.py").write_text(SERVICE)
    more = ["--sign-digest"] if digest else []
    sign = ["sign", "e.so", "--config", "c.xml", "--date", DAY, "-o", "out.so", *more]
    command = f"{sys.executable} service.py"
    assert run(*sign, "--sign-with", command, "--public-key", "pub.pem") == 0
    assert (folder / "out.so").read_bytes() == case.signed


def test_a_command_that_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sign = ["sign", "e.so", "--config", "c.xml", "-o", "out.so", "--public-key", "pub.pem"]
    for command, says in (
        ("/nowhere/signer", "cannot be run"),
        (f"{sys.executable} -c 'raise SystemExit(3)'", "status 3"),
        (f"{sys.executable} -c 'print(1)'", "found 2 bytes"),
    ):
        assert run(*sign, "--sign-with", command) == 2
        assert says in capsys.readouterr().err
    assert run(*sign[:-2], "--sign-with", "true") == 2
    assert "needs --public-key" in capsys.readouterr().err
    assert not (folder / "out.so").exists()


SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"


@pytest.mark.skipif(
    not (Path(SOFTHSM).exists() and shutil.which("pkcs11-tool") and shutil.which("softhsm2-util")),
    reason="needs softhsm2 and opensc",
)
def test_a_key_that_never_leaves_its_token(
    folder: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the how-to says."""
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
    pin = ["--pin", "1234"]
    token = ["--token-label", "t", *pin]
    new = ["softhsm2-util", "--init-token", "--free", "--label", "t", "--so-pin", "5678", *pin]
    subprocess.run(new, check=True, capture_output=True)
    pkcs8 = vendor_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "p8.pem").write_bytes(pkcs8)
    keep = ["softhsm2-util", "--import", "p8.pem", "--token", "t", "--label", "k", "--id", "01"]
    subprocess.run([*keep, *pin], check=True, capture_output=True)
    tool = ["pkcs11-tool", "--module", SOFTHSM, "--login", *token, "--sign", "--id", "01"]
    command = " ".join([*tool, "-m", "SHA256-RSA-PKCS"])
    sign = ["sign", "e.so", "--config", "c.xml", "--date", DAY, "-o", "out.so"]
    assert run(*sign, "--sign-with", command, "--public-key", "pub.pem") == 0
    assert (folder / "out.so").read_bytes() == case.signed


def test_an_encrypted_key(folder: Path, case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    locked = vendor_key().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    (folder / "locked.pem").write_bytes(locked)
    (folder / "pass").write_bytes(b"secret\n")
    sign = ["sign", "e.so", "--config", "c.xml", "--key", "locked.pem", "--date", DAY]
    assert run(*sign, "-o", "out.so") == 2
    assert "--passphrase-file" in capsys.readouterr().err
    assert run(*sign, "--passphrase-file", "pass", "-o", "out.so") == 0
    assert (folder / "out.so").read_bytes() == case.signed


def test_unsign(folder: Path, case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("unsign", "s.so", "-o", "u.so") == 0
    assert (folder / "u.so").read_bytes() == case.built
    assert run("unsign", "e.so", "-o", "v.so") == 2
    assert "not signed" in capsys.readouterr().err
    assert run("sign", "s.so", "--config", "c.xml", "--key", "key.pem", "-o", "w.so") == 2
    assert "unsign" in capsys.readouterr().err
    assert not (folder / "w.so").exists()


def test_what_no_loader_takes_is_not_signed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = signed_enclave("2.25", extra_symbols=(Symbol("gone", st_info=0x10, st_shndx=0),))
    (folder / "bad.so").write_bytes(bad.built)
    assert run("sign", "bad.so", "--config", "c.xml", "--key", "key.pem", "-o", "w.so") == 2
    assert "undefined" in capsys.readouterr().err
    code = signed_enclave("2.25", textrel=True)
    (folder / "code.so").write_bytes(code.built)
    sign = ["sign", "code.so", "--config", "c.xml", "--key", "key.pem", "-o", "w.so"]
    assert run(*sign) == 2
    assert "--ignore-text-relocations" in capsys.readouterr().err
    assert run(*sign, "--ignore-text-relocations") == 0


def test_what_the_hint_says_to_follow_can_be_followed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an enclave that only its version word makes newer than known."""
    old = signed_enclave("2.23").built
    word = sdk_version(2, 23).to_bytes(8, "little")
    assert old.count(word) == 1
    (folder / "new.so").write_bytes(old.replace(word, sdk_version(2, 31).to_bytes(8, "little")))
    sign = ["sign", "new.so", "--config", "c.xml", "--key", "key.pem", "-o", "new.signed.so"]
    assert run(*sign) == 2
    hint = capsys.readouterr().err.rpartition("is known: ")[2].split()
    assert hint[0] == "--follow-sdk"
    assert run(*sign, *hint) == 0
    assert f"SDK 2.31 as {hint[1]}" in capsys.readouterr().out
    assert run("measure", "new.so", "--config", "c.xml", *hint) == 0
    files = ("new.so", "new.signed.so", "--config", "c.xml")
    assert run("compare", *files, "--signer", "key.pem", "--any-product", *hint) == 0


def test_a_bare_sigstruct(folder: Path, case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "one.css") == 0
    out = capsys.readouterr().out
    assert "one.css: a SIGSTRUCT of 1808 bytes" in out
    for word in (case.regenerated.mrenclave.hex(), mrsigner(vendor_key()), "MISCSELECT", "XFRM"):
        assert word in out
    rows = [line for line in out.splitlines() if line.startswith("  ")]
    assert run("show", "s.so") == 0
    of_an_enclave = capsys.readouterr().out.splitlines()
    assert len(rows) == 11
    assert set(rows) <= set(of_an_enclave)
    assert "\\x0a" not in out + "".join(of_an_enclave)
    assert run("show", "one.css", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["sigstruct"]["enclavehash"] == case.regenerated.mrenclave.hex()
    assert run("verify-signature", "one.css", "--signer", "pub.pem") == 0
    policy = ["--signer", "pub.pem", "--config", "c.xml"]
    assert run("graft", "e.so", "one.css", *policy, "-o", "g.so") == 0
    assert run("graft", "e.so", "s.so", *policy, "-o", "h.so") == 0
    assert (folder / "g.so").read_bytes() == (folder / "h.so").read_bytes() == case.signed


def test_le_names_the_file_of_its_production_signature(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("verify-signature", "s.so", "--enclave", "le") == 1
    assert "le_prod_css.bin" in capsys.readouterr().out
    assert run("verify-signature", "s.so", "--enclave", "pce") == 1
    assert "le_prod_css.bin" not in capsys.readouterr().out


def test_forms_of_a_signer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits = mrsigner(vendor_key())
    colons = ":".join(digits[i : i + 2] for i in range(0, 64, 2))
    for form in (digits, digits.upper(), f"0x{digits}", colons, "pub.pem", "s.so", "one.css"):
        assert run("verify-signature", "s.so", "--signer", form) == 0, form
    for form in (digits[1:], f"{colons}:00", "/no/such/key.pem"):
        capsys.readouterr()
        assert run("verify-signature", "s.so", "--signer", form) == 2
        assert "no MRSIGNER, and as a file it cannot be read: " in capsys.readouterr().err


def test_a_negative_security_version_is_no_number(folder: Path) -> None:
    for option in ("--min-isvsvn", "--isvprodid"):
        for value in ("-1", "65536", "x"):
            assert run("verify-signature", "s.so", f"{option}={value}") == 2
