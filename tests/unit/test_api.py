# SPDX-License-Identifier: GPL-2.0-or-later
"""The example in `sgx_enclaves.api` runs, and the functions work from there."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest

from sgx_enclaves import api
from tests.enclaves.compiled import PARTS, build_enclaves, have_toolchain
from tests.support.keys import vendor_key

EXAMPLE = re.compile(r"^    .*$|^$", re.MULTILINE)


@pytest.mark.skipif(not have_toolchain(), reason="needs gcc, ld, strip and make")
def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    part = PARTS["pce"]
    build_enclaves(tmp_path)
    built = (tmp_path / part.file).read_bytes()
    config = part.config.read_bytes()
    image = api.EnclaveImage.parse(built)
    generation = api.detect_generation(image)
    regenerated = api.regenerate(image, api.Config.parse(config), generation)
    signed = api.sign(image, regenerated, vendor_key(), datetime.date(2026, 1, 1))
    block = api.Descriptor.parse(api.EnclaveImage.parse(signed).descriptor).blocks[0]
    assert api.mrenclave(image, block) == regenerated.mrenclave

    (tmp_path / "libsgx_pce.so").write_bytes(built)
    (tmp_path / "libsgx_pce.signed.so").write_bytes(signed)
    (tmp_path / "pce.config.xml").write_bytes(config)
    monkeypatch.chdir(tmp_path)
    assert api.__doc__ is not None
    lines = [line[4:] for line in EXAMPLE.findall(api.__doc__)]
    exec("\n".join(lines), {})  # noqa: S102
    # The example asks for Intel's signature, and this one is a test vendor's.
    said = capsys.readouterr().out
    assert said.startswith("differs")
    assert "another signer than the one pinned" in said


def test_everything_that_is_public_is_there() -> None:
    assert sorted(api.__all__) == api.__all__
    assert all(hasattr(api, name) for name in api.__all__)
