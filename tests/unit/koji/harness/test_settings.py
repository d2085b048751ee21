# SPDX-License-Identifier: GPL-2.0-or-later
"""When the suite on a real Koji runs, and with which Koji."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.koji.harness.hub import policy_text
from tests.koji.harness.settings import NotAskedError, read
from tests.koji.harness.source import NoKojiError, find


def checkout(folder: Path, *, schema: str = "schemas/schema.sql") -> Path:
    """A folder that looks like Koji's source."""
    for name in ("builder/kojid", "util/kojira", "cli/koji", schema, "koji/_version.py"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("__version_info__ = (1, 35, 3)\n")
    return folder


def test_without_a_koji_the_suite_is_skipped_with_the_reason() -> None:
    with pytest.raises(NotAskedError, match="make koji-test KOJI_SRC="):
        read({})


def test_a_plain_user_reads_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NotAskedError, match="root"):
        read({"KOJI_SRC": str(checkout(tmp_path))})


def test_a_folder_that_is_no_koji_is_an_error_and_no_skip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(NoKojiError, match="not a checkout"):
        read({"KOJI_SRC": str(tmp_path)})


@pytest.mark.parametrize("schema", ["schemas/schema.sql", "docs/schema.sql"])
def test_old_and_new_checkouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schema: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    settings = read({"KOJI_SRC": str(checkout(tmp_path, schema=schema))})
    assert settings.koji.version == "1.35.3"
    assert settings.koji.schema == tmp_path / schema
    assert (settings.real_mock, settings.scratch, settings.plugins) == (None, None, True)


def test_a_checkout_without_a_builder_is_named(tmp_path: Path) -> None:
    (checkout(tmp_path) / "builder/kojid").unlink()
    with pytest.raises(NoKojiError, match="builder is at none of"):
        find(str(tmp_path))


def test_policies_as_hub_conf_has_them() -> None:
    text = policy_text({"tag": "\n  a :: {\n b :: allow\n }\n all :: deny"})
    assert text == "tag =\n    a :: {\n    b :: allow\n    }\n    all :: deny"
