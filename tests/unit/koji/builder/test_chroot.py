# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs in a buildroot: their output, their ends, and what a hostile one may not do."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest
from sgx_enclaves_builder.buildroot import (
    BuildrootTree,
    Chroot,
    children_end_within,
    descendants,
    has_routes,
    how_ended,
)

from sgx_enclaves.errors import BuildError, LimitError
from sgx_enclaves.release.place import Command, LockedPackage
from tests.unit.koji.builder.buildroots import FakeBuildRoot

PATH = {"PATH": "/usr/bin:/bin"}


@pytest.fixture
def broot(buildroots: type[FakeBuildRoot]) -> FakeBuildRoot:
    return buildroots(None, SimpleNamespace(topurl=None), "demo-build", "x86_64", 1, 4)


@pytest.fixture
def chroot(broot: FakeBuildRoot) -> Chroot:
    return Chroot(broot)


def put(chroot: Chroot, name: str, data: bytes) -> None:
    with chroot.create(name) as file:
        file.write(data)


def place_in(chroot: Chroot, tmp_path: Path) -> BuildrootTree:
    return BuildrootTree(chroot, "first-demo", str(tmp_path / "place" / "tree"))


def run(place: BuildrootTree, log: Path, *argv: str, timeout: float = 30) -> tuple[object, str]:
    place.path.mkdir(exist_ok=True)
    ended = place.run(Command(list(argv), place.root, PATH, 0o027, timeout), log)
    return ended, log.read_text() if log.exists() else ""


def test_commands_answer_one_by_one(chroot: Chroot) -> None:
    asked = [
        ["echo", "a b", "*"],
        ["sh", "-c", "echo no >&2; exit 3"],
        ["absent-program"],
        ["true"],
    ]
    answers = chroot.ask(asked, 10)
    assert [answer.text for answer in answers][:2] == ["a b *\n", "no\n"]
    assert [answer.status == 0 for answer in answers] == [True, False, False, True]


def test_a_command_that_hangs_is_ended(chroot: Chroot) -> None:
    start = time.monotonic()
    hung, good = chroot.ask([["sleep", "60"], ["echo", "on"]], 0.2)
    assert time.monotonic() - start < 20
    assert (hung.status == 0, good.text) == (False, "on\n")


def test_a_mock_that_does_not_work_is_reported(
    chroot: Chroot, buildroots: type[FakeBuildRoot]
) -> None:
    buildroots.instead = staticmethod(lambda _argv: 30 << 8)
    with pytest.raises(BuildError, match=r"cannot be run in the buildroot: mock ended with status"):
        chroot.ask([["true"]], 1)


def test_a_step_has_its_folder_variables_and_mask(chroot: Chroot, tmp_path: Path) -> None:
    place = place_in(chroot, tmp_path)
    script = "pwd; umask; env | sort; cat; echo err >&2"
    ended, log = run(place, tmp_path / "s.log", "sh", "-c", script)
    assert getattr(ended, "status", None) == 0
    lines = log.splitlines()
    assert place.root in lines
    assert "0027" in lines
    assert "err" in lines
    assert not any(line.startswith(("HOME=", "LANG=")) for line in lines)
    assert place.fixed


def test_what_has_begun_can_be_seen_before_it_says_anything(
    chroot: Chroot, broot: FakeBuildRoot, tmp_path: Path, buildroots: type[FakeBuildRoot]
) -> None:
    place = place_in(chroot, tmp_path)
    watched: list[str] = []

    def mock(_argv: Sequence[str]) -> int:
        watched.append((Path(broot.resultdir()) / "step-quiet.log").read_text())
        return 0

    buildroots.instead = staticmethod(mock)
    run(place, tmp_path / "quiet.log", "sleep", "1000")
    assert "# sleep 1000\n" in watched[0]


@pytest.mark.parametrize(
    ("script", "status", "words"),
    [
        ("exit 7", 7, "exit status 7"),
        ("kill -9 $$", -9, "SIGKILL"),
        ("exit 124", 124, "exit status 124"),
    ],
)
def test_how_a_step_ends_is_known(
    chroot: Chroot, tmp_path: Path, script: str, status: int, words: str
) -> None:
    ended, log = run(place_in(chroot, tmp_path), tmp_path / "s.log", "sh", "-c", script)
    assert getattr(ended, "status", None) == status
    assert words in log


def test_a_step_that_takes_too_long_is_ended(chroot: Chroot, tmp_path: Path) -> None:
    place = place_in(chroot, tmp_path)
    ended, log = run(place, tmp_path / "s.log", "sleep", "60", timeout=0.3)
    assert getattr(ended, "timed_out", False)
    assert "took too long" in log


def test_a_log_of_one_step_does_not_run_into_the_next(chroot: Chroot, tmp_path: Path) -> None:
    place = place_in(chroot, tmp_path)
    run(place, tmp_path / "a.log", "echo", "first")
    _ended, log = run(place, tmp_path / "b.log", "echo", "second")
    assert "first" not in log
    assert "second" in log


def test_a_log_that_kojid_cannot_watch_is_uploaded_whole(
    chroot: Chroot, broot: FakeBuildRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_disk(*_arguments: object, **_keywords: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr("os.link", other_disk)
    run(place_in(chroot, tmp_path), tmp_path / "make-x.log", "true")
    assert broot.uploaded == ["step-make-x.log"]


def test_a_mock_that_is_killed_is_no_failed_step(
    chroot: Chroot, tmp_path: Path, buildroots: type[FakeBuildRoot]
) -> None:
    place = place_in(chroot, tmp_path)
    buildroots.instead = staticmethod(lambda _argv: signal.SIGKILL)
    ended, _log = run(place, tmp_path / "s.log", "true")
    assert getattr(ended, "status", 0) is None
    assert "mock was killed by signal 9" in str(getattr(ended, "problem", ""))


def test_a_full_disk_ends_the_step_with_words(
    chroot: Chroot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_in(chroot, tmp_path)

    def full(_name: str) -> IO[bytes]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(chroot, "create", full)
    ended, _log = run(place, tmp_path / "s.log", "true")
    assert "No space left on device" in str(getattr(ended, "problem", ""))


def test_a_path_that_is_taken_gives_another(chroot: Chroot, tmp_path: Path) -> None:
    (tmp_path / "place" / "tree").mkdir(parents=True)
    place = place_in(chroot, tmp_path)
    assert not place.fixed
    assert place.root == f"{chroot.inside}/place-first-demo/tree"
    ended, _log = run(place, tmp_path / "s.log", "true")
    assert getattr(ended, "status", None) == 0


def test_links_on_the_way_are_those_of_the_buildroot(
    broot: FakeBuildRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    (root / "usr" / "src").mkdir(parents=True)
    (root / "src").symlink_to("usr/src")
    (root / "out").symlink_to("/usr/src")
    (root / "up").symlink_to("../../../usr")
    monkeypatch.setattr(broot, "rootdir", lambda: str(root))
    chroot = Chroot(broot)
    assert BuildrootTree(chroot, "x", "/src/a/tree").path == root / "usr" / "src" / "a" / "tree"
    for name in ("out", "up", "src/../../up"):
        with pytest.raises(BuildError, match="leads out of the buildroot"):
            BuildrootTree(chroot, name[:2], f"/{name}/a/tree")
    assert not (tmp_path / "usr").exists()


@pytest.mark.parametrize("link", ["{outside}", "tree"])
def test_a_tree_that_a_step_has_turned_into_a_link_is_not_read(
    chroot: Chroot, tmp_path: Path, link: str
) -> None:
    place = place_in(chroot, tmp_path)
    run(place, tmp_path / "s.log", "true")
    outside = tmp_path / "secret" / "tree"
    outside.mkdir(parents=True)
    script = f"cd / && rm -r {place.root} && ln -s {link.format(outside=outside)} {place.root}"
    place.run(Command(["sh", "-c", script], place.root, PATH, 0o022, 9), tmp_path / "t.log")
    with pytest.raises(BuildError, match="put a link in the tree's place"):
        place.path  # noqa: B018


def test_a_link_in_the_place_of_our_folder_leads_nowhere(chroot: Chroot, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    chroot.folder.rename(tmp_path / "moved")
    chroot.folder.symlink_to(elsewhere)
    put(chroot, "x", b"ours")
    assert list(elsewhere.iterdir()) == []
    assert (tmp_path / "moved" / "x").read_bytes() == b"ours"


def test_a_link_among_our_files_is_not_followed(chroot: Chroot, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (chroot.folder / "a.out").symlink_to(secret)
    put(chroot, "a.out", b"new")
    assert secret.read_text() == "secret"


def test_a_program_that_puts_links_in_its_files_place_shows_nothing_of_theirs(
    chroot: Chroot, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    script = f"ln -sf {secret} ask-0.log; ln -sf {secret} ask-1.status"
    with pytest.raises(BuildError, match="cannot be run in the buildroot"):
        chroot.ask([["sh", "-c", script], ["true"]], 10)
    (answer,) = chroot.ask([["true"]], 10)
    assert (answer.status, answer.text) == (0, "")


def test_a_program_that_prints_too_much_is_refused(
    chroot: Chroot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgx_enclaves.release.place.MAX_OUTPUT", 10)
    assert chroot.ask([["echo", "123456789"]], 10)[0].text == "123456789\n"
    with pytest.raises(LimitError, match="at most 10 bytes"):
        chroot.ask([["echo", "1234567890"]], 10)


def test_what_the_buildroot_cannot_do_is_reported(
    chroot: Chroot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgx_enclaves_builder.buildroot._UNSHARE", ("absent-unshare",))
    monkeypatch.setattr("sgx_enclaves_builder.buildroot._ROUTES", ("echo", "Iface\neth0 0 x"))
    said: list[str] = []
    chroot.shut_off(said.append)
    assert any("no processes of their own" in line for line in said)
    assert "warning: steps can reach a network in this buildroot" in said


def test_routes_that_cannot_be_seen_count_as_a_network(
    chroot: Chroot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgx_enclaves_builder.buildroot._UNSHARE", ("env",))
    monkeypatch.setattr("sgx_enclaves_builder.buildroot._ROUTES", ("false",))
    chroot.shut_off(print)
    assert chroot.network


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("", False),
        ("00 00 00 00 00 ffffffff 1 0 200200 lo\n", False),
        ("Iface\tDestination\tGateway\n", False),
        ("Iface\tDestination\neth0\t00000000\t0100A8C0\n", True),
        ("fe80 40 00 00 00 100 1 0 1 eth0\n", True),
        ("Iface\tDestination\nlo\t0000007F\t00000000\n", False),
    ],
)
def test_a_route_that_leads_away_is_seen(text: str, network: bool) -> None:
    assert has_routes(text) is network


@pytest.mark.parametrize(
    ("status", "seconds", "expected"),
    [
        ("0", 1.0, (0, False)),
        ("124", 30.0, (None, True)),
        ("137", 41.0, (None, True)),
        ("137", 3.0, (-9, False)),
        ("124", 3.0, (124, False)),
        ("", 3.0, (None, False)),
        ("x", 3.0, (None, False)),
    ],
)
def test_a_status_is_read_with_the_time(
    status: str, seconds: float, expected: tuple[object, bool]
) -> None:
    ended = how_ended(status, "ended with status 1", seconds, 30.0)
    assert (ended.status, ended.timed_out) == expected
    assert (ended.problem is not None) == (not status.isdigit())


def test_packages_are_asked_once_and_from_outside(
    broot: FakeBuildRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def packages(urls: Mapping[str, str], dbpath: str) -> Sequence[LockedPackage]:
        asked.append((dict(urls), dbpath))
        return ()

    root = tmp_path / "root"
    (root / "var/lib/rpm").mkdir(parents=True)
    monkeypatch.setattr(broot, "rootdir", lambda: str(root))
    monkeypatch.setattr("sgx_enclaves.release.place.installed_packages", packages)
    monkeypatch.setattr(
        "sgx_enclaves_builder.buildroot.component_urls",
        lambda *_arguments: {"x-1-1.noarch": "https://k.example/x"},
    )
    chroot = Chroot(broot)
    chroot.open(root, "/builddir/tree")
    # what a step does to them afterwards is not asked for
    chroot.packages()
    assert asked == [({"x-1-1.noarch": "https://k.example/x"}, str(root / "var/lib/rpm"))]


def test_a_deadline_ends_children_and_their_children(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    pid = os.fork()
    if pid == 0:
        os.execvp("sh", ["sh", "-c", f"sleep 60 & echo $! >{note}; wait"])  # noqa: S606
    with children_end_within(1.0) as deadline:
        os.waitpid(pid, 0)
    assert deadline.is_set()
    grandchild = int(note.read_text())
    for _turn in range(100):
        if grandchild not in descendants(1) and not Path(f"/proc/{grandchild}").exists():
            break
        if Path(f"/proc/{grandchild}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the grandchild is still there")


def test_a_deadline_that_does_not_pass_leaves_no_alarm() -> None:
    with children_end_within(60.0) as deadline:
        pass
    assert not deadline.is_set()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
