# SPDX-License-Identifier: GPL-2.0-or-later
"""rpmlint takes attestations as `check-rpm` does; what cannot be trusted attests nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from sgx_enclaves_rpmlint.options import Options, references_for

from tests.support.signed import Case
from tests.unit.conftest import Run


def test_what_the_signers_agree_on(folder: Path, run: Run, case: Case) -> None:
    assert run("attest", "built/report.json", "--key", "p256.pem", "-o", "a")[0] == 0
    options = Options({"attestations": "a", "attestation_keys": ["p256.pub"]})
    assert options.problems == []
    assert options.attested == frozenset({hashlib.sha256(case.built).hexdigest()})
    _, neighbours = references_for((), options)
    assert neighbours.attested == options.attested
    assert Options({}).attested is None


def test_who_only_compared_attests_nothing(folder: Path, run: Run) -> None:
    assert run("attest", "report/report.json", "--key", "p256.pem", "-o", "a")[0] == 0
    options = Options({"attestations": "a", "attestation_keys": ["p256.pub"]})
    assert options.attested == frozenset()
    assert "none says that he built it" in " ".join(options.problems)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attestation_keys": "p384.pub"}, "no signature is by one of the keys"),
        ({"attestation_keys": []}, "nobody is trusted"),
        ({"attestation_threshold": 2}, "too few signers"),
        ({"attestation_threshold": "two"}, "a threshold is at least 1"),
        ({"attestations": "none"}, "cannot be read"),
        ({"attestations": 1}, "a text or a list of texts"),
    ],
)
def test_what_cannot_be_trusted(folder: Path, run: Run, change: dict[str, Any], words: str) -> None:
    assert run("attest", "built/report.json", "--key", "p256.pem", "-o", "a")[0] == 0
    options = Options({"attestations": "a", "attestation_keys": "p256.pub", **change})
    assert options.attested == frozenset()
    assert words in " ".join(options.problems)
