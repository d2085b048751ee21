# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of fetching that need no server: names, checksums files, local files, progress."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
import threading
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Optional

import pytest
from hypothesis import given, strategies as st

from sgx_enclaves.catalogue.artifact import Artifact, Lookaside
from sgx_enclaves.cli.releases import chosen_cache_dir
from sgx_enclaves.errors import CatalogueError, DigestError, FetchError, FormatError
from sgx_enclaves.files import DigestedStream
from sgx_enclaves.progress import (
    Event,
    PlainProgress,
    TerminalProgress,
    elapsed,
    for_stream,
    silent,
)
from sgx_enclaves.release import transport
from sgx_enclaves.release.fetch import Fetcher
from sgx_enclaves.release.transport import RetryableError
from sgx_enclaves.release.vendor import parse_checksums

DIGEST = "ab" * 32


def test_keys_differ_without_a_pin() -> None:
    one, two = (Artifact("a", (f"https://example.org/{n}",)) for n in range(2))
    assert one.key != two.key
    assert Artifact("a", (), DIGEST).key == DIGEST


def test_lookaside_layout() -> None:
    lookaside = Lookaside("https://example.org/pkgs/rpms", "linux-sgx")
    both = Artifact("a-1.tar.gz", (), DIGEST, "cd" * 64)
    base = "https://example.org/pkgs/rpms/linux-sgx/a-1.tar.gz"
    assert lookaside.urls(both) == (
        f"{base}/sha512/{'cd' * 64}/a-1.tar.gz",
        f"{base}/sha256/{DIGEST}/a-1.tar.gz",
    )
    assert lookaside.urls(Artifact("a", ())) == ()
    other = Artifact("a", (), contents_sha256=DIGEST, lookaside_sha512=("ab" * 64, "cd" * 64))
    base = "https://example.org/pkgs/rpms/linux-sgx/a/sha512"
    assert lookaside.urls(other) == (f"{base}/{'ab' * 64}/a", f"{base}/{'cd' * 64}/a")
    elsewhere = replace(both, lookaside_package="other")
    assert all("/rpms/other/a-1.tar.gz/" in url for url in lookaside.urls(elsewhere))
    with pytest.raises(CatalogueError):
        Lookaside("http://example.org", "p")
    with pytest.raises(CatalogueError):
        Lookaside("https://example.org", "../p")


@pytest.mark.parametrize(
    ("environment", "where"),
    [
        ({"HOME": "/h"}, "/h/.cache/sgx-enclaves"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/c"}, "/c/sgx-enclaves"),
        ({"HOME": "/h", "SGX_ENCLAVES_CACHE": "/x"}, "/x"),
    ],
)
def test_cache_directory(
    environment: dict[str, str], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "SGX_ENCLAVES_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert chosen_cache_dir(Namespace(cache=None)) == Path(where)
    assert chosen_cache_dir(Namespace(cache=Path("/own"))) == Path("/own")


def test_checksums_as_sha256sum_writes_them(tmp_path: Path) -> None:
    (tmp_path / "a b.tar.gz").write_bytes(b"1")
    (tmp_path / "c.tar.gz").write_bytes(b"2")
    written = b"".join(
        subprocess.run(
            ["sha256sum", mode, "a b.tar.gz", "c.tar.gz"],
            cwd=tmp_path,
            capture_output=True,
            timeout=20,
            check=True,
        ).stdout
        for mode in ("--text", "--binary")
    )
    assert parse_checksums(written, "sums") == {
        "a b.tar.gz": hashlib.sha256(b"1").hexdigest(),
        "c.tar.gz": hashlib.sha256(b"2").hexdigest(),
    }
    assert parse_checksums(written.replace(b"\n", b"\r\n").upper(), "sums")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "holds no checksum"),
        (b"\n\n", "holds no checksum"),
        (b"hello\n", "line 1"),
        (b"ab" * 32 + b" name\n", "line 1"),
        (b"ab" * 31 + b"  name\n", "line 1"),
        (b"\\" + b"ab" * 32 + b"  name\n", "line 1"),
        (b"ab" * 32 + b"  n\n" + b"cd" * 32 + b"  n\n", "second digest"),
        (b"\xff", "not text"),
    ],
)
def test_checksums_that_are_none(data: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        parse_checksums(data, "sums")


@given(st.binary(max_size=300))
def test_any_checksums_file_is_read_or_refused(data: bytes) -> None:
    try:
        assert parse_checksums(data, "sums")
    except FormatError as error:
        assert error.file == "sums"


class Clock:
    """Goes on by so many seconds each time that it is asked."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_plain_progress_is_few_lines() -> None:
    stream = io.StringIO()
    progress = for_stream(stream)
    assert isinstance(progress, PlainProgress)
    progress = PlainProgress(stream, Clock(0.1))
    for done in range(0, 1001, 1):
        progress(Event("a", done << 10, 1000 << 10))
    progress(Event("a", 5, None))
    progress(Event("a", note="here"))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 11
    assert re.fullmatch(r"a: 0\.1 of 1\.0 MiB \(10 %\), 0\.0 MiB/s, \d+ (s|min) left", lines[0])
    assert re.fullmatch(r"a: 1\.0 of 1\.0 MiB \(100 %\), 0\.0 MiB/s", lines[-2])
    assert lines[-1] == "a: here"
    assert "\r" not in stream.getvalue()


@pytest.mark.parametrize("kind", [PlainProgress, TerminalProgress])
def test_what_takes_less_than_a_second_is_not_shown(kind: type[PlainProgress]) -> None:
    stream = io.StringIO()
    progress = kind(stream, Clock(0.0001))
    for done in range(1001):
        progress(Event("a", done, 1000))
    assert stream.getvalue() == ""


def test_terminal_progress_draws_over_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    stream = io.StringIO()
    clock = Clock()
    progress = TerminalProgress(stream, clock)
    progress(Event("a", 0, 4 << 20))
    clock.now = 2.0
    for done in (1, 2, 3):
        progress(Event("a", done << 20, 4 << 20))
    assert stream.getvalue().count("MiB/s") == 1
    clock.now = 3.0
    progress(Event("a", 3 << 20, 4 << 20))
    drawn = "a [######################........] 3.0 of 4.0 MiB (75 %), 1.0 MiB/s, 1 s left"
    assert stream.getvalue().endswith(drawn)
    progress(Event("a", note="broken\x1b off"))
    assert stream.getvalue().endswith("\r\x1b[Ka: broken\\x1b off\n")


def test_a_bar_fits_the_terminal_and_goes_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = io.StringIO()
    clock = Clock()
    progress = TerminalProgress(stream, clock)
    progress(Event("name" * 20, 0, 1000, unit="pages"))
    clock.now = 5.0
    progress(Event("name" * 20, 500, 1000, unit="pages"))
    assert len(stream.getvalue()) == 39
    progress(Event("name" * 20, 1000, 1000, unit="pages"))
    assert stream.getvalue().endswith("\r\x1b[K")


def test_what_is_begun_again_is_counted_from_there() -> None:
    stream = io.StringIO()
    clock = Clock()
    progress = PlainProgress(stream, clock)
    progress(Event("a", 900, 1000, unit="pages"))
    clock.now = 10.0
    progress(Event("a", 0, 1000, unit="pages"))
    clock.now = 14.0
    progress(Event("a", 200, 1000, unit="pages"))
    assert stream.getvalue() == "a: 200 of 1000 pages (20 %), 50 pages/s, 16 s left\n"


def test_reading_is_watched() -> None:
    seen: list[int] = []
    stream = DigestedStream(io.BytesIO(b"x" * 10), shown=seen.append)
    assert stream.read(4) + stream.read() == b"x" * 10
    assert seen == [4, 10]


def test_what_cannot_say_how_far_it_is_shows_how_long_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[Event] = []
    with elapsed(events.append, "make pce"):
        time.sleep(1.3)
    assert [(e.name, e.done, e.total) for e in events] == [
        ("make pce", 0, None),
        ("make pce", 1, None),
        ("make pce", 1, 1),
    ]
    monkeypatch.setenv("COLUMNS", "80")
    stream = io.StringIO()
    clock = Clock()
    progress = TerminalProgress(stream, clock)
    for seconds in (0, 1, 2):
        clock.now = float(seconds)
        progress(Event("make pce", seconds, unit="s"))
    assert stream.getvalue() == "make pce 1 s\r\x1b[Kmake pce 2 s"
    with elapsed(progress, "make pce"):
        pass
    assert stream.getvalue().endswith("make pce 2 s\r\x1b[K")
    # a log gets nothing of it
    log = io.StringIO()
    with elapsed(PlainProgress(log), "make pce"):
        time.sleep(1.1)
    assert log.getvalue() == ""


def test_what_is_shown_to_nobody_starts_no_thread() -> None:
    before = threading.active_count()
    with elapsed(silent, "make pce"):
        assert threading.active_count() == before
    with elapsed(lambda _event: None, "make pce"):
        assert threading.active_count() == before + 1


def test_terminal_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(for_stream(Terminal()), TerminalProgress)
    monkeypatch.setenv("TERM", "dumb")
    assert not isinstance(for_stream(Terminal()), TerminalProgress)


def test_importing_the_package_loads_no_network() -> None:
    code = "import sgx_enclaves, sgx_enclaves.release, sys; print('ssl' in sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert out.stdout.strip() == "False"


# Files that lie beside a spec file.

DATA = b"an archive"


def artifact(sha256: Optional[str], sha512: Optional[str] = None) -> Artifact:
    return Artifact("a.tar.gz", ("https://vendor.example/a.tar.gz",), sha256, sha512)


@pytest.fixture(name="fetcher")
def _fetcher(tmp_path: Path) -> Fetcher:
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "a.tar.gz").write_bytes(DATA)
    return Fetcher(tmp_path / "cache", None, local=tmp_path / "local")


def test_the_right_file_is_used_where_it_lies(fetcher: Fetcher, tmp_path: Path) -> None:
    digest = hashlib.sha256(DATA).hexdigest()
    fetched = fetcher.fetch(artifact(digest))
    assert fetched.path == tmp_path / "local" / "a.tar.gz"
    assert (fetched.sha256, fetched.size, fetched.pinned) == (digest, len(DATA), True)
    assert not (tmp_path / "cache").exists()


def test_a_wrong_file_is_an_error(fetcher: Fetcher) -> None:
    with pytest.raises(DigestError, match="not the file that the release pins"):
        fetcher.fetch(artifact("0" * 64))
    good = hashlib.sha256(DATA).hexdigest()
    with pytest.raises(DigestError, match="not the file that the release pins"):
        fetcher.fetch(artifact(good, "0" * 128))


def test_without_a_pin_it_must_be_allowed(fetcher: Fetcher) -> None:
    with pytest.raises(FetchError, match="has no pinned digest"):
        fetcher.fetch(artifact(None))
    fetched = fetcher.fetch(artifact(None), allow_unpinned=True)
    assert not fetched.pinned
    assert fetched.sha256 == hashlib.sha256(DATA).hexdigest()


def test_a_file_that_is_not_there(fetcher: Fetcher, tmp_path: Path) -> None:
    (tmp_path / "local" / "a.tar.gz").rename(tmp_path / "local" / "b.tar.gz")
    with pytest.raises(FetchError, match="not in the cache"):
        fetcher.fetch(artifact(hashlib.sha256(DATA).hexdigest()))


BURSTS = """
import sys, time
for _ in range(6):
    sys.stdout.buffer.write(bytes(500))
    sys.stdout.flush()
    time.sleep(0.4)
"""


@pytest.mark.parametrize(("least", "enough"), [(100, True), (20_000, False)])
def test_a_server_that_gives_bursts_is_judged_by_its_average(
    least: int, enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_MIN_RATE", least)
    monkeypatch.setattr(transport, "_RATE_WINDOW", 1)
    with transport._Curl([sys.executable, "-c", BURSTS]) as curl:
        if enough:
            assert sum(map(len, curl.content())) == 3000
        else:
            with pytest.raises(RetryableError, match="too slow: less than 20000 bytes a second"):
                list(curl.content())
