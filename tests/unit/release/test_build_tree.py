# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources are laid out as they were fetched, or not at all; what steps left is removed or named."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Optional

import pytest

from sgx_enclaves.catalogue.artifact import Artifact
from sgx_enclaves.catalogue.records import Build, Source
from sgx_enclaves.errors import BuildError, DigestError
from sgx_enclaves.release.archive import lay_out, read_contents
from sgx_enclaves.release.fetch import Fetched
from sgx_enclaves.release.sandbox import remove_tree
from tests.unit.release import tarmaker as tm

EIGHTY = 315_619_200  # 1980-01-02


class Place:
    """A tree with one source archive, which was fetched."""

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "tree"
        self.path = tm.write(folder, tm.file("top/a.c", b"int a;"))
        contents = read_contents(self.path)
        self.sha256, self.contents = contents.archive_sha256, contents.sha256

    def lay_out(
        self, sha256: Optional[str] = None, contents: Optional[str] = None, unpack: bool = True
    ) -> Path:
        artifact = Artifact("a.tar", (), sha256, contents_sha256=contents)
        source = Source("a", artifact, "", 1, None, unpack)
        fetched = Fetched(self.path, self.sha256, 0, artifact.pinned)
        lay_out(self.tree, Build("/build", (source,), (), ()), {"a": fetched})
        return self.tree / ("a.c" if unpack else "a.tar")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_times_are_the_archives_only_if_they_are_pinned(place: Place) -> None:
    assert place.lay_out(sha256=place.sha256).stat().st_mtime == 1_700_000_000
    place.tree = place.tree.with_name("both")
    both = place.lay_out(sha256=place.sha256, contents=place.contents)
    assert both.stat().st_mtime == 1_700_000_000
    place.tree = place.tree.with_name("contents")
    assert place.lay_out(contents=place.contents).stat().st_mtime == EIGHTY


@pytest.mark.parametrize("unpack", [True, False])
def test_a_file_changed_since_it_was_fetched_is_refused(place: Place, unpack: bool) -> None:
    tm.write(place.path.parent, tm.file("top/a.c", b"int evil;"))
    with pytest.raises(DigestError, match="changed after it was checked") as caught:
        place.lay_out(sha256=place.sha256, unpack=unpack)
    assert caught.value.file == str(place.path)
    assert caught.value.expected == f"sha256 {place.sha256}"


def test_a_packed_source_is_copied_whole(place: Place) -> None:
    put = place.lay_out(sha256=place.sha256, unpack=False)
    assert put.read_bytes() == place.path.read_bytes()


def test_directories_that_lie_too_deep_are_named_or_removed(tmp_path: Path) -> None:
    """A step can make any number of them; newer Pythons remove them all."""
    top = tmp_path / "deep"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    try:
        remove_tree(top)
    except BuildError as error:
        assert "too deep" in error.message
        assert error.file == str(top)
    else:
        assert not top.exists()
    finally:
        subprocess.run(["rm", "-rf", str(top)], check=True)
