# SPDX-License-Identifier: GPL-2.0-or-later
"""A child's answer comes back; a child that takes too much is stopped and said to be."""

from __future__ import annotations

import os
import resource
import signal
import time
import tracemalloc

import pytest

from sgx_enclaves.child import Send, in_child, pieces_from_child
from sgx_enclaves.errors import LimitError, PackageDamagedError, UnsupportedError
from sgx_enclaves.limits import MIB

WHAT = "cannot be looked at"


def forever() -> bytes:
    while True:
        time.sleep(1)


def busy() -> bytes:
    while True:
        pass


def greedy() -> bytes:
    return bytes(256 * MIB)[:1]


def raising() -> bytes:
    raise OverflowError("as pyelftools does")


def killed() -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    return b""


def test_an_answer_comes_back_whole() -> None:
    assert in_child(lambda: b"x" * (3 * MIB), what=WHAT) == b"x" * (3 * MIB)
    assert in_child(lambda: b"", what=WHAT) == b""


def test_an_answer_is_held_no_more_than_twice() -> None:
    size = 16 * MIB
    tracemalloc.start()
    try:
        assert len(in_child(lambda: bytes(size), what="it cannot be read")) == size
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2.5 * size


def test_the_child_is_another_process_and_leaves_none_behind() -> None:
    assert int(in_child(lambda: str(os.getpid()).encode(), what=WHAT)) != os.getpid()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("work", [forever, busy])
def test_a_slow_child_is_stopped(work: object) -> None:
    started = time.monotonic()
    with pytest.raises(LimitError, match=WHAT):
        in_child(work, what=WHAT, seconds=0.2)  # type: ignore[arg-type]
    assert time.monotonic() - started < 5


def test_a_greedy_child_is_refused() -> None:
    with pytest.raises(LimitError, match="at most 32 MiB of memory"):
        in_child(greedy, what=WHAT, memory=32 * MIB)
    large = bytes(2 * MIB)
    with pytest.raises(LimitError, match="bytes of answer"):
        in_child(lambda: large, what=WHAT, memory=MIB)


def test_limits_that_are_lower_already_stay() -> None:
    def lowered() -> bytes:
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
        return in_child(lambda: str(resource.getrlimit(resource.RLIMIT_CPU)).encode(), what=WHAT)

    assert in_child(lowered, what=WHAT) == b"(20, 20)"


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(UnsupportedError, match="OverflowError: as pyelftools does"):
        in_child(raising, what=WHAT)


def test_a_child_that_dies_is_no_answer() -> None:
    with pytest.raises(LimitError, match=WHAT):
        in_child(killed, what=WHAT)


def test_pieces_come_one_by_one_and_an_error_as_what_it_was() -> None:
    def work(send: Send) -> None:
        send(b"one")
        send(b"")
        raise PackageDamagedError("cut", file="x.rpm", offset=7, hint="get it again")

    pieces = pieces_from_child(work, what=WHAT)
    assert [next(pieces), next(pieces)] == [b"one", b""]
    with pytest.raises(PackageDamagedError) as raised:
        next(pieces)
    assert str(raised.value) == "x.rpm at 0x7: cut; get it again"


@pytest.mark.parametrize(
    "answer",
    [
        b'{"kind": "Optional", "message": "it is no error"}',
        b'{"kind": "annotations", "message": "it is no class"}',
        b'{"kind": "LimitedError", "message": "it is not there"}',
        b'{"kind": 1, "message": "it has no name"}',
        b'{"kind": "LimitError", "message": "x", "status": 0}',
        b'{"kind": "LimitError", "message": "x", "offset": "y"}',
        b'{"kind": "LimitError", "message": "x", "file": 1}',
        b'{"message": "x"}',
        b"[]",
        b"1",
        b"\xff",
        b"[" * 100_000,
    ],
    ids=lambda answer: answer[:60].decode("ascii", "replace"),
)
def test_a_child_that_sends_no_error_of_ours_proves_nothing(answer: bytes) -> None:
    def work(send: Send) -> None:
        send(answer, b"X")  # type: ignore[call-arg]

    with pytest.raises(UnsupportedError, match=f"{WHAT}.*none of ours"):
        next(pieces_from_child(work, what=WHAT))


def test_a_child_whose_pieces_nobody_wants_any_more_is_ended() -> None:
    def work(send: Send) -> None:
        while True:
            send(bytes(MIB))

    pieces = pieces_from_child(work, what=WHAT)
    next(pieces)
    pieces.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
