# SPDX-License-Identifier: GPL-2.0-or-later
"""The command, run in this process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sgx_enclaves.cli.main import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a verb: exit status, output, messages; no traceback ever."""

    def call(*arguments: object) -> tuple[int, str, str]:
        try:
            status = main([str(a) for a in arguments])
        except SystemExit as stop:
            assert isinstance(stop.code, int)
            status = stop.code
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return call
