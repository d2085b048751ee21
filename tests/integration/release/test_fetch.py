# SPDX-License-Identifier: GPL-2.0-or-later
"""The fetcher against a real server that misbehaves on demand."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from sgx_enclaves.catalogue.artifact import Artifact, Lookaside
from sgx_enclaves.errors import DigestError, FetchError
from sgx_enclaves.files import locked
from sgx_enclaves.progress import Event
from sgx_enclaves.release import transport
from sgx_enclaves.release.fetch import Fetcher, Partial, path_of
from sgx_enclaves.release.transport import HttpsTransport
from tests.unit.release import tarmaker as tm
from tests.vendor_server import Authority, Fault, VendorServer, vendor_server

DATA = hashlib.shake_256(b"archive").digest(300_000)
OTHER = hashlib.shake_256(b"other").digest(300_000)
SHA = hashlib.sha256(DATA).hexdigest()
PATH = "/a/prebuilt.tar.gz"
ATTEMPTS = 3


class Bench:
    """A fetcher with everything it reports and every wait it makes."""

    def __init__(
        self,
        root: Path,
        ca_file: Path,
        own: Optional[HttpsTransport] = None,
        **settings: Any,
    ) -> None:
        self.cache = root
        self.events: list[Event] = []
        self.waits: list[float] = []
        self.fetcher = Fetcher(
            self.cache,
            own or HttpsTransport(ca_file=str(ca_file)),
            progress=self.events.append,
            sleep=self.waits.append,
            **{"attempts": ATTEMPTS, **settings},
        )

    @property
    def notes(self) -> str:
        return "\n".join(event.note for event in self.events if event.note)

    def nothing_taken_for_whole(self) -> bool:
        return not list(self.cache.glob("sha256/*/*"))


@pytest.fixture
def bench(tmp_path: Path, vendor: VendorServer) -> Bench:
    return Bench(tmp_path / "cache", vendor.ca_file)


@pytest.fixture
def impatient(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(transport, "_MIN_RATE", 10**6)
    monkeypatch.setattr(transport, "_RATE_WINDOW", 1)
    return bench


def artifact(*urls: str, sha256: Optional[str] = SHA, **more: Any) -> Artifact:
    return Artifact("prebuilt.tar.gz", urls, sha256, **more)


def test_file_is_fetched_once_and_kept(bench: Bench, vendor: VendorServer) -> None:
    url = vendor.put(PATH, DATA)
    first = bench.fetcher.fetch(artifact(url))
    assert first.path.read_bytes() == DATA
    assert first.path == bench.cache / "sha256" / SHA[:2] / SHA[2:]
    assert (first.url, first.pinned, first.size) == (url, True, len(DATA))
    second = bench.fetcher.fetch(artifact(url))
    assert second.path == first.path
    assert second.url is None
    assert len(vendor.asked(PATH)) == 1
    assert max(event.done for event in bench.events) == len(DATA)
    assert not list(bench.cache.glob("partial/*"))


@pytest.mark.parametrize(
    "fault",
    [
        Fault(until_close=True),
        Fault(until_close=True, close_after=100_000),
        Fault(no_length=True, close_after=100_000),
    ],
)
def test_end_that_looks_like_a_break_is_one(
    bench: Bench, vendor: VendorServer, fault: Fault
) -> None:
    url = vendor.put(PATH, DATA)
    vendor.fault(PATH, fault)
    assert bench.fetcher.fetch(artifact(url)).path.read_bytes() == DATA
    assert len(vendor.asked(PATH)) == 2
    assert "trying again" in bench.notes
    assert not list(bench.cache.glob("quarantine/*"))


@pytest.mark.parametrize("kind", ["reset", "close"])
def test_broken_connection_is_resumed(bench: Bench, vendor: VendorServer, kind: str) -> None:
    url = vendor.put(PATH, DATA)
    faults = {
        "reset": Fault(reset_after=100_000),
        "close": Fault(close_after=100_000),
    }
    vendor.fault(PATH, faults[kind])
    assert bench.fetcher.fetch(artifact(url)).path.read_bytes() == DATA
    again = vendor.asked(PATH)[1].headers
    start = int(again["Range"][len("bytes=") : -1])
    if kind == "reset":  # a reset may lose what was on its way
        assert 0 < start <= 100_000
    else:
        assert start == 100_000
    assert again["If-Range"].startswith('"')


def test_stalled_connection_is_resumed(impatient: Bench, vendor: VendorServer) -> None:
    url = vendor.put(PATH, DATA)
    vendor.fault(PATH, Fault(stall_after=100_000))
    assert impatient.fetcher.fetch(artifact(url)).path.read_bytes() == DATA
    assert vendor.asked(PATH)[1].headers["Range"] == "bytes=100000-"


def test_changed_etag_begins_again(bench: Bench, vendor: VendorServer) -> None:
    url = vendor.put(PATH, OTHER)
    vendor.fault(PATH, Fault(close_after=100_000), Fault(status=503))
    with pytest.raises(FetchError):
        Bench(bench.cache, vendor.ca_file, attempts=2).fetcher.fetch(artifact(url))
    vendor.put(PATH, DATA)
    assert bench.fetcher.fetch(artifact(url)).path.read_bytes() == DATA
    assert vendor.asked(PATH)[-1].headers["Range"] == "bytes=100000-"
    assert len(vendor.asked(PATH)) == 3


def test_pieces_of_two_files_are_fetched_again(bench: Bench, vendor: VendorServer) -> None:
    """A server that lies about its ETag: the digest notices, and one clean try follows."""
    url = vendor.put(PATH, OTHER, etag='"same"')
    vendor.fault(PATH, Fault(close_after=100_000), Fault(status=404))
    with pytest.raises(FetchError):
        bench.fetcher.fetch(artifact(url))
    vendor.put(PATH, DATA, etag='"same"')
    assert bench.fetcher.fetch(artifact(url)).path.read_bytes() == DATA
    assert "did not fit" in bench.notes
    assert not list(bench.cache.glob("quarantine/*"))


@pytest.mark.parametrize("fault", [Fault(ignore_range=True), Fault(wrong_range=True)])
def test_servers_without_proper_ranges(bench: Bench, vendor: VendorServer, fault: Fault) -> None:
    url = vendor.put(PATH, DATA)
    vendor.fault(PATH, Fault(close_after=100_000), fault)
    assert bench.fetcher.fetch(artifact(url)).path.read_bytes() == DATA


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_validator_nothing_is_resumed(
    bench: Bench, vendor: VendorServer, etag: Optional[str]
) -> None:
    url = vendor.put(PATH, DATA, etag=etag)
    vendor.fault(PATH, Fault(close_after=100_000))
    assert bench.fetcher.fetch(artifact(url)).path.read_bytes() == DATA
    assert all("Range" not in request.headers for request in vendor.asked(PATH))


def test_server_that_is_silent_times_out(impatient: Bench, vendor: VendorServer) -> None:
    url = vendor.put(PATH, DATA)
    vendor.always[PATH] = Fault(stall_after=10)
    begun = time.monotonic()
    with pytest.raises(FetchError, match="too slow"):
        impatient.fetcher.fetch(artifact(url))
    assert time.monotonic() - begun < 15
    assert len(vendor.asked(PATH)) == ATTEMPTS
    assert impatient.nothing_taken_for_whole()


def test_server_that_drips_headers_times_out(impatient: Bench, vendor: VendorServer) -> None:
    url = vendor.put(PATH, DATA)
    vendor.always[PATH] = Fault(stall_headers=True)
    begun = time.monotonic()
    with pytest.raises(FetchError, match="too slow"):
        impatient.fetcher.fetch(artifact(url))
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize(
    ("window", "total", "words"),
    [(1, 20, "too slow. Less than 1024 bytes/sec"), (9, 1, "Operation timed out after ")],
)
def test_server_that_drips_content_is_left(
    tmp_path: Path,
    vendor: VendorServer,
    monkeypatch: pytest.MonkeyPatch,
    window: int,
    total: int,
    words: str,
) -> None:
    monkeypatch.setattr(transport, "_RATE_WINDOW", window)
    url = vendor.put(PATH, DATA)
    vendor.always[PATH] = Fault(drip=0.02)
    begun = time.monotonic()
    own = HttpsTransport(total, str(vendor.ca_file))
    with pytest.raises(FetchError, match=re.escape(words)):
        Bench(tmp_path, vendor.ca_file, own, attempts=1).fetcher.fetch(artifact(url))
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("off", [1, -1])
def test_wrong_length_is_never_taken_for_whole(
    bench: Bench, vendor: VendorServer, off: int
) -> None:
    url = vendor.put(PATH, DATA)
    vendor.always[PATH] = Fault(length_off=off)
    with pytest.raises((FetchError, DigestError)):
        bench.fetcher.fetch(artifact(url))
    assert bench.nothing_taken_for_whole()


def test_another_size_than_the_catalogues_is_refused(bench: Bench, vendor: VendorServer) -> None:
    url = vendor.put(PATH, DATA)
    with pytest.raises(FetchError, match="another size"):
        bench.fetcher.fetch(artifact(url, size=len(DATA) + 1))
    assert len(vendor.asked(PATH)) == 1


@pytest.mark.parametrize("fault", [Fault(), Fault(no_length=True)])
def test_oversize_is_refused(bench: Bench, vendor: VendorServer, fault: Fault) -> None:
    url = vendor.put(PATH, DATA)
    vendor.always[PATH] = fault
    with pytest.raises(FetchError, match="too large"):
        bench.fetcher.fetch(artifact(url, max_size=100_000))
    parts = list(bench.cache.glob("partial/*.part"))
    assert sum(part.stat().st_size for part in parts) == 0
    assert len(vendor.asked(PATH)) == 1


def test_content_without_a_length_is_fetched(bench: Bench, vendor: VendorServer) -> None:
    url = vendor.put(PATH, DATA)
    vendor.always[PATH] = Fault(no_length=True)
    assert bench.fetcher.fetch(artifact(url)).path.read_bytes() == DATA


def test_mirror_follows_a_404(bench: Bench, vendor: VendorServer) -> None:
    mirror = vendor.put("/mirror", DATA)
    fetched = bench.fetcher.fetch(artifact(vendor.url + PATH, mirror))
    assert fetched.url == mirror
    assert len(vendor.asked(PATH)) == 1
    assert "404" in bench.notes


def test_another_place_does_not_go_on_with_the_firsts_part(
    bench: Bench, vendor: VendorServer
) -> None:
    """An ETag says nothing about another server's files, even when it is spelt alike."""
    url = vendor.put(PATH, DATA, etag='"same"')
    mirror = vendor.put("/mirror", DATA, etag='"same"')
    vendor.fault(PATH, Fault(close_after=100_000), Fault(status=404))
    assert bench.fetcher.fetch(artifact(url, mirror)).url == mirror
    assert "Range" in vendor.asked(PATH)[1].headers
    assert "Range" not in vendor.asked("/mirror")[0].headers


def test_no_place_left_names_them_all(bench: Bench, vendor: VendorServer) -> None:
    vendor.always["/busy"] = Fault(status=503)
    with pytest.raises(FetchError) as caught:
        bench.fetcher.fetch(artifact(vendor.url + PATH, vendor.url + "/busy"))
    assert "404" in str(caught.value)
    assert "503" in str(caught.value)
    assert len(vendor.asked("/busy")) == ATTEMPTS
    with pytest.raises(FetchError, match="0 places"):
        bench.fetcher.fetch(artifact())


def test_waits_grow_and_are_bounded(tmp_path: Path, vendor: VendorServer) -> None:
    vendor.put(PATH, DATA)
    asked = [Fault(status=429, headers=(("Retry-After", after),)) for after in ("20", "9999")]
    vendor.fault(PATH, Fault(status=503), *asked, *[Fault(status=503)] * 3)
    bench = Bench(tmp_path, vendor.ca_file, attempts=7)
    bench.fetcher.fetch(artifact(vendor.url + PATH))
    assert bench.waits == [1, 20, 30, 8, 16, 30]


def test_redirect_is_followed(bench: Bench, vendor: VendorServer) -> None:
    vendor.put(PATH, DATA)
    vendor.always["/old"] = Fault(status=301, location="/older")
    vendor.always["/older"] = Fault(status=302, location=vendor.url + PATH)
    assert bench.fetcher.fetch(artifact(vendor.url + "/old")).path.read_bytes() == DATA


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("http://127.0.0.1/x", "is refused: only https"),
        ("ftp://127.0.0.1/x", "is refused: only https"),
        ("file:///etc/passwd", "is refused: only https"),
        ("https://user:pw@127.0.0.1/x", "is refused: a URL needs a host and must hold no password"),
        ("", "leads nowhere"),
        ("/loop", "more than 5 redirects"),
    ],
)
def test_bad_redirects_are_refused(
    bench: Bench, vendor: VendorServer, location: str, words: str
) -> None:
    vendor.always["/loop"] = Fault(status=302, location=location)
    with pytest.raises(FetchError, match=words):
        bench.fetcher.fetch(artifact(vendor.url + "/loop"))
    assert bench.nothing_taken_for_whole()


@pytest.mark.parametrize("path", ["/direct", PATH])
def test_only_named_servers_are_asked_also_by_redirect(
    bench: Bench, vendor: VendorServer, path: str
) -> None:
    port = vendor.url.rpartition(":")[2]
    vendor.always["/direct"] = Fault(status=302, location=f"https://localhost:{port}{PATH}")
    vendor.put(PATH, DATA)
    transport = HttpsTransport(ca_file=str(vendor.ca_file), hosts=("127.0.0.1",))
    fetcher = Fetcher(bench.cache, transport)
    if path == PATH:
        assert fetcher.fetch(artifact(vendor.url + PATH)).path.read_bytes() == DATA
    else:
        with pytest.raises(FetchError, match="localhost is not one of the servers"):
            fetcher.fetch(artifact(vendor.url + path))
        assert vendor.asked(PATH) == []


@pytest.mark.parametrize("fault", [Fault(), Fault(no_length=True)])
def test_the_user_s_bound_on_sizes_holds_besides_the_release_s(
    tmp_path: Path, vendor: VendorServer, fault: Fault
) -> None:
    vendor.always[PATH] = fault
    bench = Bench(tmp_path, vendor.ca_file, max_size=1000)
    with pytest.raises(FetchError, match="at most 1000 bytes"):
        bench.fetcher.fetch(artifact(vendor.put(PATH, DATA)))
    assert bench.nothing_taken_for_whole()


@pytest.mark.parametrize(
    ("expired", "other_host", "words"),
    [
        (True, False, "expired"),
        (False, True, "certificate is not good: .*does not match|no alternative certificate"),
    ],
)
def test_bad_certificates_are_refused(
    tmp_path: Path, authority: Authority, expired: bool, other_host: bool, words: str
) -> None:
    with vendor_server(authority, expired=expired, other_host=other_host) as vendor:
        url = vendor.put(PATH, DATA)
        with pytest.raises(FetchError, match=words):
            Bench(tmp_path, vendor.ca_file).fetcher.fetch(artifact(url))
        assert vendor.requests == []


def test_unknown_authority_is_refused(
    tmp_path: Path, vendor: VendorServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stranger = Authority(tmp_path_factory.mktemp("stranger"))
    url = vendor.put(PATH, DATA)
    with pytest.raises(FetchError, match="certificate is not good"):
        Bench(tmp_path, stranger.ca_file).fetcher.fetch(artifact(url))
    assert vendor.requests == []


def test_server_that_is_not_there_is_an_error(tmp_path: Path, authority: Authority) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{unused.getsockname()[1]}/x"
        with pytest.raises(FetchError, match=r"(?i)(failed to|could not) connect"):
            Bench(tmp_path, authority.ca_file).fetcher.fetch(artifact(url))


def test_wrong_digest_is_kept_aside(bench: Bench, vendor: VendorServer) -> None:
    url = vendor.put(PATH, OTHER)
    found = hashlib.sha256(OTHER).hexdigest()
    with pytest.raises(DigestError) as caught:
        bench.fetcher.fetch(artifact(url, vendor.url + "/none"))
    assert SHA in str(caught.value)
    assert found in str(caught.value)
    assert caught.value.file is not None
    assert Path(caught.value.file).read_bytes() == OTHER
    assert Path(caught.value.file).parent == bench.cache / "quarantine"
    assert bench.nothing_taken_for_whole()
    assert not list(bench.cache.glob("partial/*"))
    assert len(vendor.asked(PATH)) == 1


def test_wrong_digest_at_one_place_is_reported(bench: Bench, vendor: VendorServer) -> None:
    url = vendor.put(PATH, OTHER)
    mirror = vendor.put("/mirror", DATA)
    fetched = bench.fetcher.fetch(artifact(url, mirror))
    assert fetched.path.read_bytes() == DATA
    assert [Path(name).read_bytes() for name in fetched.rejected] == [OTHER]
    assert "is not the pinned file" in bench.notes


def test_second_pin_must_hold_too(bench: Bench, vendor: VendorServer) -> None:
    url = vendor.put(PATH, DATA)
    with pytest.raises(DigestError, match="sha512"):
        bench.fetcher.fetch(artifact(url, sha512="0" * 128))
    good = hashlib.sha512(DATA).hexdigest()
    assert bench.fetcher.fetch(artifact(url, sha512=good)).sha256 == SHA


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty"])
def test_damaged_cache_file_is_noticed(bench: Bench, vendor: VendorServer, damage: str) -> None:
    url = vendor.put(PATH, DATA)
    path = bench.fetcher.fetch(artifact(url)).path
    path.chmod(0o644)
    path.write_bytes({"truncated": DATA[:-1], "changed": DATA[:-1] + b"\0", "empty": b""}[damage])
    offline = Fetcher(bench.cache, None)
    with pytest.raises(FetchError, match="not in the cache"):
        offline.fetch(artifact(url))
    assert len(list(bench.cache.glob("quarantine/*"))) == 1
    assert bench.fetcher.fetch(artifact(url)).path.read_bytes() == DATA
    assert offline.fetch(artifact(url)).path.read_bytes() == DATA


def test_offline_never_asks(bench: Bench, vendor: VendorServer) -> None:
    url = vendor.put(PATH, DATA)
    offline = Fetcher(bench.cache, None)
    with pytest.raises(FetchError, match="--offline"):
        offline.fetch(artifact(url))
    assert vendor.requests == []


def test_unpinned_must_be_asked_for(bench: Bench, vendor: VendorServer) -> None:
    url = vendor.put(PATH, DATA)
    with pytest.raises(FetchError, match="no pinned digest"):
        bench.fetcher.fetch(artifact(url, sha256=None))
    assert vendor.requests == []
    fetched = bench.fetcher.fetch(artifact(url, sha256=None), allow_unpinned=True)
    assert (fetched.sha256, fetched.pinned) == (SHA, False)


TREE = [tm.directory("top"), tm.file("top/a.c", b"int a;"), tm.file("top/b.c", b"int b;")]
PACKED = gzip.compress(b"".join(TREE) + tm.END, 9, mtime=0)
# another top folder, another compressor, another order: the same contents
RENAMED = lzma.compress(
    b"".join([tm.file("new/b.c", b"int b;"), tm.file("new/a.c", b"int a;")]) + tm.END
)
CHANGED = gzip.compress(b"".join([*TREE[:2], tm.file("top/b.c", b"evil b;")]) + tm.END, mtime=0)
CONTENTS = hashlib.sha256(
    b"".join(
        b"f\0" + name + b"\0" + hashlib.sha256(data).hexdigest().encode() + b"\0"
        for name, data in ((b"a.c", b"int a;"), (b"b.c", b"int b;"))
    )
).hexdigest()


def source(*urls: str, sha256: Optional[str] = None, contents: str = CONTENTS) -> Artifact:
    return Artifact("a.tar.gz", urls, sha256, contents_sha256=contents)


@pytest.mark.parametrize("data", [PACKED, RENAMED], ids=["first", "renamed"])
def test_contents_are_a_pin(bench: Bench, vendor: VendorServer, data: bytes) -> None:
    url = vendor.put(PATH, data)
    first = bench.fetcher.fetch(source(url))
    assert first.path == bench.cache / "contents" / CONTENTS[:2] / CONTENTS[2:]
    assert first.sha256 == hashlib.sha256(data).hexdigest()
    assert (first.pinned, first.contents_sha256) == (True, CONTENTS)
    again = Fetcher(bench.cache, None).fetch(source(url))
    assert (again.path, again.sha256, again.pinned) == (first.path, first.sha256, True)
    assert len(vendor.asked(PATH)) == 1
    assert not list(bench.cache.glob("quarantine/*"))


def test_other_contents_are_kept_aside(bench: Bench, vendor: VendorServer) -> None:
    url = vendor.put(PATH, CHANGED)
    with pytest.raises(DigestError) as caught:
        bench.fetcher.fetch(source(url))
    assert caught.value.expected == f"contents_sha256 {CONTENTS}"
    assert caught.value.found is not None
    assert caught.value.found.startswith("contents_sha256 ")
    assert caught.value.file is not None
    assert Path(caught.value.file).read_bytes() == CHANGED
    assert not list(bench.cache.glob("contents/*/*"))
    # another place still has the right one
    good = vendor.put("/mirror", RENAMED)
    fetched = bench.fetcher.fetch(source(url, good))
    assert fetched.url == good
    assert len(fetched.rejected) == 1


NO_CONTENTS = {
    "a page": b"<html>not here</html>",
    "cut off": PACKED[:-20],
    "two tops": gzip.compress(b"".join([*TREE, tm.file("more/a")]) + tm.END),
    "a hard link": gzip.compress(b"".join([*TREE, tm.header("top/h", flag=b"1")]) + tm.END),
    "a bomb": gzip.compress(tm.file("top/a", bytes(40 << 20)) + tm.END),
}


@pytest.mark.parametrize("case", sorted(NO_CONTENTS))
def test_what_has_no_contents_is_not_the_pinned_file(
    bench: Bench, vendor: VendorServer, case: str
) -> None:
    url = vendor.put(PATH, NO_CONTENTS[case])
    with pytest.raises(DigestError, match="of nothing: ") as caught:
        bench.fetcher.fetch(source(url))
    assert caught.value.file is not None
    assert Path(caught.value.file).parent == bench.cache / "quarantine"


def test_with_both_pins_both_must_hold(bench: Bench, vendor: VendorServer) -> None:
    packed, renamed = (hashlib.sha256(data).hexdigest() for data in (PACKED, RENAMED))
    url = vendor.put(PATH, PACKED)
    with pytest.raises(DigestError, match=f"expected sha256 {renamed}"):
        bench.fetcher.fetch(source(url, sha256=renamed))
    with pytest.raises(DigestError, match="expected contents_sha256 0000"):
        bench.fetcher.fetch(source(url, sha256=packed, contents="0" * 64))
    fetched = bench.fetcher.fetch(source(url, sha256=packed))
    assert fetched.path == path_of(bench.cache, source(url, sha256=packed))
    # here by its sha256, which does not help the other pin
    with pytest.raises(DigestError, match="contradict each other"):
        bench.fetcher.fetch(source(url, sha256=packed, contents="0" * 64))
    assert bench.fetcher.fetch(source(url, sha256=packed)).path == fetched.path


@pytest.mark.parametrize("damage", [CHANGED, PACKED[:-1], b""], ids=["changed", "cut", "empty"])
def test_damaged_contents_in_the_cache_are_noticed(
    bench: Bench, vendor: VendorServer, damage: bytes
) -> None:
    url = vendor.put(PATH, PACKED)
    path = bench.fetcher.fetch(source(url)).path
    path.chmod(0o644)
    path.write_bytes(damage)
    with pytest.raises(FetchError, match="not in the cache") as caught:
        Fetcher(bench.cache, None).fetch(source(url))
    assert caught.value.expected == f"contents_sha256 {CONTENTS}"
    assert len(list(bench.cache.glob("quarantine/*"))) == 1
    assert bench.fetcher.fetch(source(url)).path.read_bytes() == PACKED


def test_local_archives_are_compared_with_their_contents(tmp_path: Path) -> None:
    folder = tmp_path / "local"
    folder.mkdir()
    fetcher = Fetcher(tmp_path / "cache", None, local=folder)
    for data in (PACKED, RENAMED):
        (folder / "a.tar.gz").write_bytes(data)
        fetched = fetcher.fetch(source())
        assert fetched.path == folder / "a.tar.gz"
        assert (fetched.pinned, fetched.sha256) == (True, hashlib.sha256(data).hexdigest())
    for data in (CHANGED, *NO_CONTENTS.values()):
        (folder / "a.tar.gz").write_bytes(data)
        with pytest.raises(DigestError, match="not the file that the release pins"):
            fetcher.fetch(source())


def test_a_download_of_contents_is_resumed(bench: Bench, vendor: VendorServer) -> None:
    url = vendor.put(PATH, PACKED)
    vendor.fault(PATH, Fault(close_after=50))
    assert bench.fetcher.fetch(source(url)).path.read_bytes() == PACKED
    assert "Range" in vendor.asked(PATH)[1].headers


def test_a_whole_part_file_only_gets_its_name(bench: Bench, vendor: VendorServer) -> None:
    """The last run ended between the last byte and the rename."""
    url = vendor.put(PATH, PACKED)
    wanted = source(url)
    partial = Partial(bench.cache / "partial", wanted.key)
    partial.begin(url, "")
    partial.path.write_bytes(PACKED)
    assert bench.fetcher.fetch(wanted).path.read_bytes() == PACKED
    assert vendor.requests == []
    assert not list(bench.cache.glob("partial/*"))


def test_lookaside_is_asked_first(tmp_path: Path, vendor: VendorServer) -> None:
    sha512 = hashlib.sha512(DATA).hexdigest()
    place = f"/rpms/linux-sgx/prebuilt.tar.gz/sha512/{sha512}/prebuilt.tar.gz"
    vendor.put(place, DATA)
    url = vendor.put(PATH, DATA)
    lookaside = Lookaside(vendor.url + "/rpms/", "linux-sgx")
    bench = Bench(tmp_path / "a", vendor.ca_file, lookaside=lookaside)
    assert bench.fetcher.fetch(artifact(url, sha512=sha512)).url == vendor.url + place
    assert vendor.asked(PATH) == []
    # keyed by sha256, which this server does not have: the vendor's place follows
    bench = Bench(tmp_path / "b", vendor.ca_file, lookaside=lookaside)
    assert bench.fetcher.fetch(artifact(url)).url == url
    assert vendor.asked(f"/rpms/linux-sgx/prebuilt.tar.gz/sha256/{SHA}/prebuilt.tar.gz")


def test_a_lookaside_is_not_asked_for_what_has_no_digest(
    tmp_path: Path, vendor: VendorServer
) -> None:
    url = vendor.put(PATH, DATA)
    lookaside = Lookaside(vendor.url + "/rpms/", "linux-sgx")
    bench = Bench(tmp_path / "a", vendor.ca_file, lookaside=lookaside)
    unknown = "no SHA-512 of it is known, by which look-aside caches find files"
    bench.fetcher.fetch(artifact(url, sha256=None), allow_unpinned=True)
    assert f"{unknown}; the look-aside cache is not asked\n" in bench.notes
    assert not any("/rpms/" in str(request) for request in vendor.requests)
    bench = Bench(tmp_path / "b", vendor.ca_file, lookaside=lookaside)
    bench.fetcher.fetch(artifact(url))
    assert f"{unknown}; the look-aside cache is asked by SHA-256 alone" in bench.notes
    bench = Bench(tmp_path / "c", vendor.ca_file, lookaside=lookaside)
    bench.fetcher.fetch(artifact(url, sha512=hashlib.sha512(DATA).hexdigest()))
    assert "SHA-512" not in bench.notes


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small tmpfs")
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "none", str(folder)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    if mount.returncode:
        pytest.skip(f"no tmpfs here: {mount.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], timeout=20, check=True)


@pytest.mark.parametrize("fault", [Fault(), Fault(no_length=True)])
def test_disk_full_is_said_and_survived(
    tiny_disk: Path, tmp_path: Path, vendor: VendorServer, fault: Fault
) -> None:
    """With a length it is noticed beforehand, without one while writing."""
    url = vendor.put(PATH, DATA)
    vendor.always[PATH] = fault
    bench = Bench(tiny_disk / "cache", vendor.ca_file)
    with pytest.raises(FetchError, match="No space left") as caught:
        bench.fetcher.fetch(artifact(url))
    assert "make room" in (caught.value.hint or "")
    assert caught.value.file is not None
    assert bench.nothing_taken_for_whole()
    assert len(vendor.asked(PATH)) == 1


CHILD = """
import sys
from pathlib import Path
from sgx_enclaves.catalogue.artifact import Artifact
from sgx_enclaves.release.fetch import Fetcher
from sgx_enclaves.release.transport import HttpsTransport

root, ca_file, url, sha256 = sys.argv[1:]
transport = HttpsTransport(ca_file=ca_file)
fetched = Fetcher(
    Path(root), transport, progress=lambda event: print(event.note, flush=True)
).fetch(Artifact("prebuilt.tar.gz", (url,), sha256))
print("FETCHED", fetched.url, flush=True)
"""


def child(root: Path, vendor: VendorServer, url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root), str(vendor.ca_file), url, SHA],
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Any, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_killed_in_the_middle_then_run_again(bench: Bench, vendor: VendorServer) -> None:
    url = vendor.put(PATH, DATA)
    vendor.fault(PATH, Fault(stall_after=200_000))
    process = child(bench.cache, vendor, url)
    part = bench.cache / "partial" / f"{SHA}.part"
    wait_until(lambda: part.exists() and part.stat().st_size > 100_000)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    assert bench.nothing_taken_for_whole()
    with pytest.raises(FetchError):
        Fetcher(bench.cache, None).fetch(artifact(url))
    assert bench.fetcher.fetch(artifact(url)).path.read_bytes() == DATA
    assert int(vendor.asked(PATH)[1].headers["Range"][len("bytes=") : -1]) > 100_000


def test_killed_before_the_rename_needs_no_network(bench: Bench, vendor: VendorServer) -> None:
    url = vendor.put(PATH, DATA)
    partial = bench.cache / "partial"
    partial.mkdir(parents=True)
    (partial / f"{SHA}.part").write_bytes(DATA)
    assert bench.fetcher.fetch(artifact(url)).path.read_bytes() == DATA
    assert vendor.requests == []


@pytest.mark.parametrize("note", ["", "URL", 'URL2\n"etag"', 'URL\n"etag"\nX: y', "\x00"])
def test_part_of_unknown_origin_is_not_used(bench: Bench, vendor: VendorServer, note: str) -> None:
    url = vendor.put(PATH, DATA)
    partial = bench.cache / "partial"
    partial.mkdir(parents=True)
    (partial / f"{SHA}.part").write_bytes(OTHER[:1000])
    (partial / f"{SHA}.origin").write_text(note.replace("URL", url))
    assert bench.fetcher.fetch(artifact(url)).path.read_bytes() == DATA
    assert "Range" not in vendor.asked(PATH)[0].headers


def test_two_processes_at_once_fetch_once(tmp_path: Path, vendor: VendorServer) -> None:
    url = vendor.put(PATH, DATA)
    vendor.fault(PATH, Fault(drip=0.01, close_after=300))
    processes = [child(tmp_path / "cache", vendor, url) for _ in range(2)]
    outputs = [process.communicate(timeout=30)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(f"FETCHED {url}" in output for output in outputs) == [False, True]
    assert len(vendor.asked(PATH)) == 2  # the broken one and its continuation
    assert any("another process" in output for output in outputs)


def test_lock_is_not_waited_for_without_an_end(
    bench: Bench, vendor: VendorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = vendor.put(PATH, DATA)
    monkeypatch.setattr("sgx_enclaves.release.fetch._LOCK_TIMEOUT", 0.0)
    with (
        locked(bench.cache / "locks" / f"{SHA}.lock", 1),
        pytest.raises(FetchError, match="another process"),
    ):
        bench.fetcher.fetch(artifact(url))
    assert bench.fetcher.fetch(artifact(url)).sha256 == SHA


def test_cache_that_cannot_be_written_is_an_error(tmp_path: Path, vendor: VendorServer) -> None:
    (tmp_path / "file").write_text("in the way")
    url = vendor.put(PATH, DATA)
    with pytest.raises(FetchError, match="cache cannot be used"):
        Bench(tmp_path / "file", vendor.ca_file).fetcher.fetch(artifact(url))


class _Proxy(socketserver.StreamRequestHandler):
    """Answers CONNECT, then passes bytes both ways."""

    seen: list[str]

    def handle(self) -> None:
        request = self.rfile.readline().decode()
        head = [request]
        while head[-1].strip():
            head.append(self.rfile.readline().decode())
        self.seen.append("".join(head))
        host, port = request.split()[1].rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=5) as upstream:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=_pump, args=(upstream, self.connection), daemon=True)
            back.start()
            _pump(self.connection, upstream)
            back.join(5)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return


def test_proxy_of_the_environment_is_used(
    tmp_path: Path, vendor: VendorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = vendor.put(PATH, DATA)
    _Proxy.seen = []
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Proxy) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("https_proxy", f"http://me:p%40ss@127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("no_proxy", "elsewhere.example")
        transport = HttpsTransport(ca_file=str(vendor.ca_file))
        fetcher = Fetcher(tmp_path / "a", transport)
        assert fetcher.fetch(artifact(url)).path.read_bytes() == DATA
        assert len(_Proxy.seen) == 1
        assert _Proxy.seen[0].startswith("CONNECT 127.0.0.1:")
        assert "Basic bWU6cEBzcw==" in _Proxy.seen[0]
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        fetcher = Fetcher(tmp_path / "b", transport)
        assert fetcher.fetch(artifact(url)).path.read_bytes() == DATA
        assert len(_Proxy.seen) == 1
        server.shutdown()


@pytest.mark.parametrize(
    "proxy",
    ["gopher://me:p%40ss@127.0.0.1:1", "http://me:p%40ss@127.0.0.1:x", "gopher://127.0.0.1:1"],
)
def test_proxies_of_other_kinds_are_refused_and_passwords_not_repeated(
    bench: Bench, vendor: VendorServer, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    url = vendor.put(PATH, DATA)
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(FetchError, match="proxy") as caught:
        bench.fetcher.fetch(artifact(url))
    assert "p%40ss" not in str(caught.value) + bench.notes
    assert vendor.requests == []


def test_missing_certificates_are_an_error(tmp_path: Path, vendor: VendorServer) -> None:
    url = vendor.put(PATH, DATA)
    with pytest.raises(FetchError, match="certificates cannot be loaded"):
        Bench(tmp_path / "cache", tmp_path / "none").fetcher.fetch(artifact(url))
    assert vendor.requests == []


def test_a_missing_curl_is_named(
    bench: Bench, vendor: VendorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(FetchError, match="install the package curl"):
        bench.fetcher.fetch(artifact(vendor.put(PATH, DATA)))


def test_no_configuration_of_curl_is_read(
    bench: Bench, tmp_path: Path, vendor: VendorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = vendor.put(PATH, DATA)
    (tmp_path / ".curlrc").write_text("insecure\n")
    for name in ("HOME", "CURL_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    stranger = Authority(tmp_path)
    with pytest.raises(FetchError, match="certificate is not good"):
        Bench(tmp_path / "cache", stranger.ca_file).fetcher.fetch(artifact(url))
    assert vendor.requests == []


@pytest.mark.parametrize(("headers", "trailers"), [(3000, 0), (0, 3000)])
def test_headers_without_an_end_are_left(
    impatient: Bench, vendor: VendorServer, headers: int, trailers: int
) -> None:
    """More than a pipe holds, before the content or after it."""
    url = vendor.put(PATH, DATA)
    flood = tuple((f"X-{number}", "x" * 50) for number in range(headers))
    vendor.always[PATH] = Fault(no_length=True, headers=flood, trailers=trailers)
    begun = time.monotonic()
    with pytest.raises(FetchError, match=r"headers are too large|nothing came for 2 s"):
        impatient.fetcher.fetch(artifact(url))
    assert time.monotonic() - begun < 20
    assert impatient.nothing_taken_for_whole()


def test_early_hints_are_no_answer(bench: Bench, vendor: VendorServer) -> None:
    url = vendor.put(PATH, DATA)
    vendor.fault(PATH, Fault(early=True))
    assert bench.fetcher.fetch(artifact(url)).path.read_bytes() == DATA
    assert len(vendor.asked(PATH)) == 1


def test_trailers_are_no_content(bench: Bench, vendor: VendorServer) -> None:
    url = vendor.put(PATH, DATA)
    vendor.always[PATH] = Fault(no_length=True, trailers=2)
    assert bench.fetcher.fetch(artifact(url)).path.read_bytes() == DATA


def test_ctrl_c_ends_the_fetch_and_its_curl(bench: Bench, vendor: VendorServer) -> None:
    url = vendor.put(PATH, DATA)
    vendor.fault(PATH, Fault(stall_after=200_000))
    process = child(bench.cache, vendor, url)
    part = bench.cache / "partial" / f"{SHA}.part"
    wait_until(lambda: part.exists() and part.stat().st_size > 100_000)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    (curl,) = children.read_text().split()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode != 0
    assert not Path(f"/proc/{curl}").exists()
    assert part.stat().st_size > 100_000


def test_no_secret_is_an_argument_and_no_other_certificate_is_trusted(
    bench: Bench, tmp_path: Path, vendor: VendorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Besides --cacert curl trusts the system's directory, unless another is named."""
    real = shutil.which("curl")
    wrapper = tmp_path / "curl"
    wrapper.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/asked\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("https_proxy", "http://me:secret@127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert bench.fetcher.fetch(artifact(vendor.put(PATH, DATA))).sha256 == SHA
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("--disable\n")
    assert "--proto\n=https\n" in asked
    assert f"--cacert\n{vendor.ca_file}\n--capath\n/dev/null\n" in asked
    assert "insecure" not in asked
    assert "secret" not in asked
