# SPDX-License-Identifier: GPL-2.0-or-later
"""A scan that is killed in the middle is resumed, and comes to the same end."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sgx_enclaves.files import sha256_of
from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER
from tests.support.keys import mrsigner, vendor_key
from tests.support.signed import signed_enclave
from tests.support_rpm import RpmFile, write_rpm

# The test vendor, whose products and security versions are not Intel's.
SIGNER = ("--signer", mrsigner(vendor_key()), "--any-product", "--min-isvsvn", "0")
CASE = signed_enclave("2.25")
PACKAGES = 160
SIGNED = 16


@pytest.fixture(scope="module", name="tree")
def _tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many packages, some with a signed enclave, one tampered with; no scan writes there."""
    tree = tmp_path_factory.mktemp("tree")
    plain = write_rpm([RpmFile("/usr/share/doc/x", os.urandom(300_000))], compressor="xz")
    signed = write_rpm([RpmFile(ENCLAVE_FOLDER + "libsgx_pce.signed.so", CASE.signed)])
    tampered = bytearray(CASE.signed)
    tampered[-1] ^= 1
    bad = write_rpm([RpmFile(ENCLAVE_FOLDER + "libsgx_pce.signed.so", bytes(tampered))])
    for index in range(PACKAGES):
        (tree / f"{index:03}.rpm").write_bytes(plain)
    for index in range(0, PACKAGES, PACKAGES // SIGNED):
        (tree / f"{index:03}.rpm").write_bytes(signed)
    (tree / "095.rpm").write_bytes(bad)
    return tree


@pytest.fixture(scope="module", name="command")
def _command(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    reference = tmp_path_factory.mktemp("reference")
    (reference / "libsgx_pce.so").write_bytes(CASE.built)
    (reference / "pce.config.xml").write_bytes(CASE.config)
    # Every payload is read, so that there is time to be killed.
    options = ["--deep", "--reference", str(reference), *SIGNER]
    return [sys.executable, "-m", "sgx_enclaves", "scan", str(tree), *options, "--json"]


def lines(state: Path) -> list[str]:
    return state.read_text().splitlines() if state.exists() else []


def files_in(state: Path) -> list[str]:
    """Of the whole lines, each of which ends with its digest; the first one is the key's."""
    parts = [line.rpartition(" ") for line in lines(state)[1:]]
    whole = [text for text, _, digest in parts if digest == sha256_of(text.encode())]
    return [json.loads(text)[0] for text in whole]


def outcome(command: list[str]) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, report


@pytest.fixture(scope="module", name="undisturbed")
def _undisturbed(command: list[str]) -> tuple[int, dict[str, Any]]:
    """What comes of a scan that nobody disturbs."""
    return outcome(command)


@pytest.mark.parametrize(
    ("jobs", "sent"), [("1", signal.SIGKILL), ("2", signal.SIGKILL), ("2", signal.SIGINT)]
)
def test_a_killed_scan_is_resumed(
    command: list[str],
    undisturbed: tuple[int, dict[str, Any]],
    tmp_path: Path,
    jobs: str,
    sent: signal.Signals,
) -> None:
    state = tmp_path / "state"
    resumable = [*command, "--state", str(state), "--jobs", jobs]
    with subprocess.Popen(
        resumable, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as scan:
        deadline = time.monotonic() + 60
        while len(lines(state)) < 20 and scan.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        # Ctrl-C reaches the whole group; a kill reaches nobody else.
        (os.killpg if sent is signal.SIGINT else os.kill)(scan.pid, sent)
        scan.wait(30)
    assert sent is not signal.SIGINT or scan.returncode == 130
    kept = files_in(state)
    assert 0 < len(kept) < PACKAGES, "the scan was over before it was killed"

    status, report = outcome(resumable)
    assert (status, report["scanned"]) == (1, PACKAGES)
    assert (status, report) == undisturbed
    after = files_in(state)
    # What was done before was not done again, and everything is there once.
    assert after[: len(kept)] == kept
    assert len(after) == len(set(after)) == PACKAGES


def test_the_progress_of_a_resumed_scan_counts_what_was_kept(
    command: list[str], tmp_path: Path
) -> None:
    """On a terminal, which is a pseudo-terminal here, and without a second's patience."""
    resumable = [*command, "--state", str(tmp_path / "state")]
    outcome(resumable)
    ours, theirs = pty.openpty()
    impatient = (
        "import sys, sgx_enclaves.progress as progress\n"
        "progress._PATIENCE = 0.0\n"
        "from sgx_enclaves.cli.main import main\n"
        "sys.exit(main())\n"
    )
    words = [sys.executable, "-c", impatient, *resumable[resumable.index("scan") :]]
    terminal = {**os.environ, "TERM": "xterm"}
    done = subprocess.run(
        words, check=False, env=terminal, stdout=subprocess.DEVNULL, stderr=theirs
    )
    os.set_blocking(ours, False)
    shown = os.read(ours, 1 << 16).decode()
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 1
    # All is kept here, so each package that the bar counts is a kept one; at the end it goes.
    assert re.match(rf"scan \[[#.]+\] \d+ of {PACKAGES} packages \(\d+ %\)", shown)
    assert shown.endswith("\r\x1b[K")
