# SPDX-License-Identifier: GPL-2.0-or-later
"""What a step of a build can see and reach, and what outlives the builder: nothing."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sgx_enclaves.errors import BuildError, ManifestError
from sgx_enclaves.release.manifest import StepOutcome, load_built
from sgx_enclaves.release.place import Command, Output
from sgx_enclaves.release.sandbox import (
    Isolation,
    Sandbox,
    best_isolation,
    choose_isolation,
    remove_tree,
)
from sgx_enclaves.release.toolchain import ToolchainKind
from tests.enclaves.compiled import have_toolchain
from tests.integration.release.building import SmallRelease, wrapper

pytestmark = pytest.mark.skipif(not have_toolchain(), reason="needs gcc, ld, strip and make")


@pytest.fixture(scope="session")
def best() -> Isolation:
    isolation, reason = best_isolation()
    if isolation is Isolation.NONE:
        pytest.skip(f"nothing can be shut off here: {reason}")
    return isolation


@pytest.fixture(params=["best", "user"])
def shut_off(request: pytest.FixtureRequest, best: Isolation, tmp_path: Path) -> Isolation:
    """Both ways of shutting a step off: root's, and that of an ordinary user."""
    if request.param == "best":
        return best
    sandbox = Sandbox(tmp_path / "probe", "/probe/tree", Isolation.USER)
    sandbox.path.mkdir(parents=True)
    command = Command(["true"], sandbox.root, {"PATH": os.defpath}, 0o022, 20)
    ended = sandbox.run(command, tmp_path / "probe.log")
    sandbox.close()
    if ended.status != 0:
        pytest.skip("users may have no namespaces here")
    return Isolation.USER


@pytest.fixture
def small(tmp_path: Path) -> SmallRelease:
    return SmallRelease(tmp_path / "small", enclaves=("pce",))


def shell(small: SmallRelease, into: Path, isolation: Isolation, script: str) -> list[str]:
    """What a script prints as a step; it must succeed."""
    small.steps = {"look": ["bash", "-c", script]}
    manifest = small.build(into, isolation=isolation)
    assert manifest.trees[0].steps[0].message is None
    lines = (into / "logs" / "look.log").read_text("utf-8").splitlines()
    return [line for line in lines if not line.startswith("# ")]


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.2)
        yield server


def _connect(server: socket.socket) -> str:
    port = server.getsockname()[1]
    return f"if (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; then echo reached; fi"


def test_no_network_inside(
    small: SmallRelease, into: Path, shut_off: Isolation, listening: socket.socket
) -> None:
    assert shell(small, into, shut_off, _connect(listening)) == []
    with pytest.raises(socket.timeout):
        listening.accept()
    assert load_built(into).manifest.trees[0].network is False


def test_a_network_that_cannot_be_cut_is_recorded(
    small: SmallRelease, into: Path, listening: socket.socket
) -> None:
    assert shell(small, into, Isolation.NONE, _connect(listening)) == ["reached"]
    listening.accept()[0].close()
    assert load_built(into).manifest.trees[0].network is True


@pytest.mark.parametrize("shut", [True, False])
def test_the_environment_is_the_releases_alone(
    small: SmallRelease, into: Path, best: Isolation, shut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CFLAGS", "MAKEFLAGS", "LD_LIBRARY_PATH", "CPATH", "GCC_EXEC_PREFIX", "BASH_ENV"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("PATH", f"/nowhere:{os.environ['PATH']}")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    small.environment = 'SGX_SDK = "/small-build/sdk"\nSOURCE_DATE_EPOCH = "1700000000"'
    isolation = best if shut else Isolation.NONE
    small.steps = {"env": ["env"]}
    small.build(into, isolation=isolation)
    lines = (into / "logs" / "env.log").read_text("utf-8").splitlines()
    seen = dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")
    home = seen.pop("HOME")
    assert seen == {
        "LC_ALL": "C",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "SGX_SDK": "/small-build/sdk",
        "SOURCE_DATE_EPOCH": "1700000000",
    }
    # a folder of the build's own, which is gone now
    assert home == "/tmp/home" if shut else home.startswith(str(into))  # noqa: S108
    recorded = dict(line.split("=", 1) for line in load_built(into).manifest.trees[0].environment)
    assert recorded == {**seen, "HOME": home}


@pytest.mark.parametrize(
    ("script", "toolchain", "words", "set_by_it"),
    [
        ('printf "%s\\0" FLAGS="-isystem a b" TZ=shell "$1"', "designated", "run in", True),
        ("exit 127", "designated", "run not in", False),
        ('printf "%s\\0" FLAGS=x; exit 1', "designated", "run not in", False),
        ('printf "%s\\0" FLAGS=x', "host", "", False),
    ],
)
def test_steps_have_the_variables_of_the_makers_shell_where_that_is(
    small: SmallRelease, into: Path, script: str, toolchain: str, words: str, set_by_it: bool
) -> None:
    small.shell = ["sh", "-c", script, "shell", "TOOLS={tools}"]
    small.environment = 'TZ = "release"'
    notes: list[str] = []
    small.build(into, toolchain=ToolchainKind(toolchain), notes=notes)
    (tree,) = load_built(into).manifest.trees
    seen = dict(line.split("=", 1) for line in tree.environment)
    # what the release says itself is stronger
    assert seen["TZ"] == "release"
    assert (seen.get("FLAGS"), seen.get("TOOLS")) == (
        ("-isystem a b", "") if set_by_it else (None,) * 2
    )
    assert [line for line in notes if "makers' shell" in line] == [
        line for line in notes if words and words in line
    ]
    assert bool(words) == any("makers' shell" in line for line in notes)


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_umask_is_the_releases(
    small: SmallRelease, into: Path, best: Isolation, umask: int
) -> None:
    before = os.umask(umask)
    try:
        assert shell(small, into, best, "umask") == ["0022"]
    finally:
        os.umask(before)


def test_the_tree_stands_in_the_path_that_the_release_wants(
    small: SmallRelease, into: Path, shut_off: Isolation
) -> None:
    lines = shell(small, into, shut_off, "pwd -P; hostname; mkdir ../sdk; ls -d /small-build/*")
    assert lines == [
        "/small-build/tree",
        "localhost",
        "/small-build/sdk",
        "/small-build/tree",
    ]
    assert not Path("/small-build").exists()
    assert load_built(into).manifest.trees[0].fixed_path


@pytest.mark.parametrize("top", ["opt/small", "tmp/small", "home/me"])
def test_the_path_may_lie_among_the_machines_own_folders(
    small: SmallRelease, into: Path, best: Isolation, top: str
) -> None:
    root = small.root = f"/{top}/tree"
    assert shell(small, into, best, "pwd -P; ls -d /usr/bin") == [root, "/usr/bin"]
    assert not Path(root).exists()


def test_nothing_of_the_machine_can_be_written(
    small: SmallRelease, into: Path, shut_off: Isolation, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    mark.write_text("mine")
    places = ["/usr/x", "/etc/x", "/x", "/run/x", "/root/x", "/home/x", "/dev/x"]
    places += ["/proc/sys/kernel/hostname", "/proc/sys/kernel/core_pattern", "/var/x"]
    lines = shell(
        small,
        into,
        shut_off,
        f"for p in {' '.join(places)}; do (echo x > $p) 2>/dev/null && echo wrote $p; done; "
        f"cat {mark} 2>/dev/null; ls /home /root /run /sys | grep -v : ; "
        "ls /dev | tr '\\n' ' '; echo mine > /tmp/own && cat /tmp/own",
    )
    devices = "core fd full null ptmx pts random shm stderr stdin stdout tty urandom zero "
    assert [line for line in lines if line] == [f"{devices}mine"]
    assert mark.read_text() == "mine"


def test_a_step_has_no_power_over_the_kernel(
    small: SmallRelease, into: Path, best: Isolation
) -> None:
    script = (
        "mount -o remount,rw /usr 2>/dev/null && echo remounted; "
        "mount -t tmpfs none /tmp 2>/dev/null && echo mounted; "
        "mknod /tmp/disk b 8 0 2>/dev/null && echo made a device; true"
    )
    assert shell(small, into, best, script) == []


def test_a_step_sees_no_other_process(small: SmallRelease, into: Path, best: Isolation) -> None:
    lines = shell(small, into, best, "ls -d /proc/[0-9]* | wc -l")
    assert int(lines[0]) < 8


def test_without_isolation_the_path_is_taken_if_it_is_free(
    small: SmallRelease, into: Path, tmp_path: Path
) -> None:
    small.root = str(tmp_path / "new" / "tree")
    notes: list[str] = []
    small.steps = {"look": ["pwd"]}
    manifest = small.build(into, isolation=Isolation.NONE, notes=notes)
    assert manifest.trees[0].root == small.root
    assert manifest.trees[0].fixed_path
    assert not (tmp_path / "new").exists()
    assert not any("warning" in line for line in notes)


def test_without_isolation_a_path_that_is_taken_is_left_alone(
    small: SmallRelease, into: Path, tmp_path: Path
) -> None:
    taken = tmp_path / "taken" / "tree"
    taken.mkdir(parents=True)
    (taken / "mine").write_text("keep")
    small.root = str(taken)
    small.environment = f'SGX_SDK = "{taken.parent}/sdk"'
    small.steps = {"look": ["env"]}
    notes: list[str] = []
    manifest = small.build(into, isolation=Isolation.NONE, notes=notes)
    assert manifest.complete
    tree = manifest.trees[0]
    assert not tree.fixed_path
    # what lies beside the tree moved along
    assert f"SGX_SDK={Path(tree.root).parent}/sdk" in tree.environment
    assert any(f"{taken} is taken" in line for line in notes)
    assert [path.name for path in taken.iterdir()] == ["mine"]


def test_without_isolation_nothing_is_built_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sgx_enclaves.release.sandbox.shutil.which", lambda _name: None)
    with pytest.raises(BuildError, match="cannot be separated") as caught:
        choose_isolation()
    assert "install the package bubblewrap" in str(caught.value)
    assert "--allow-no-isolation" in str(caught.value)
    isolation, reason = choose_isolation(allow_none=True)
    assert isolation is Isolation.NONE
    assert "bubblewrap" in reason


def test_without_proc_nothing_is_built_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is mounted in a scratch directory could not be seen when that is removed."""
    monkeypatch.setattr("sgx_enclaves.release.sandbox.os.path.exists", lambda _path: False)
    with pytest.raises(BuildError, match="/proc is not mounted") as caught:
        choose_isolation(allow_none=True)
    assert "mount -t proc" in str(caught.value)


def test_where_no_new_proc_may_be_mounted_the_machines_is_shown(
    best: Isolation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that masks parts of its own."""

    def refuse(command: Sequence[str], timeout: float) -> Output:
        assert "--proc" in command
        return Output(1, "bwrap: Can't mount proc on /newroot/proc: Operation not permitted")

    monkeypatch.setattr("sgx_enclaves.release.place.run_tool", refuse)
    sandbox = Sandbox(tmp_path / "scratch", "/small-build/tree", best)
    sandbox.path.mkdir(parents=True)
    words = ["sh", "-c", "test -e /proc/version && ! (echo x >/proc/sys/kernel/hostname)"]
    command = Command(words, sandbox.root, {"PATH": "/usr/bin:/bin"}, 0o022, 20)
    assert sandbox.run(command, tmp_path / "log").status == 0


def test_in_a_chroot_that_is_no_mount_point_the_cure_is_named(
    best: Isolation, tmp_path: Path
) -> None:
    if best is not Isolation.ROOT or shutil.which("unshare") is None:
        pytest.skip("only root may enter a chroot")
    # all of the machine's directories in a new one, which is itself no mount point
    code = "from sgx_enclaves.release.sandbox import best_isolation; print(best_isolation())"
    script = (
        'for d in /*; do if [ -L "$d" ]; then cp -P "$d" "$0"; '
        'elif [ -d "$d" ]; then mkdir "$0$d" && mount --rbind "$d" "$0$d" || exit; fi; done; '
        'exec chroot "$0" "$@"'
    )
    said = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, str(tmp_path), sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "mount --bind DIR DIR" in said.stdout, said


def test_a_container_that_forbids_a_hostname_is_noticed_before_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Podman's default container allows namespaces, but no hostname in them."""
    refusal = "bwrap: Can't set hostname to localhost: Operation not permitted"
    podmans = tmp_path / "bwrap"
    podmans.write_text(
        f'#!/bin/sh\ncase " $* " in *" --hostname "*) echo "{refusal}" >&2; exit 1;; esac\n'
    )
    podmans.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    isolation, reason = best_isolation()
    assert isolation is Isolation.NONE
    assert reason.startswith(refusal)


@pytest.mark.parametrize("secret", ["/etc/shadow", "/etc/machine-id", "/var/lib", "/var/log"])
def test_nothing_of_the_machine_but_tools_is_visible(
    small: SmallRelease, into: Path, shut_off: Isolation, secret: str
) -> None:
    assert shell(small, into, shut_off, f"test -e {secret} && echo seen {secret}; true") == []


def test_a_tree_cannot_stand_among_the_tools(tmp_path: Path, best: Isolation) -> None:
    for root in ("/usr/src/tree", "/etc/tree", "/proc/tree", "/"):
        with pytest.raises(BuildError, match="cannot stand"):
            Sandbox(tmp_path / "scratch", root, best)


def test_tools_elsewhere_are_visible_if_named(tmp_path: Path, best: Isolation) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "text").write_text("a tool")
    log = tmp_path / "log"
    for visible, status in (((str(tools),), 0), ((), 1)):
        sandbox = Sandbox(tmp_path / f"scratch{status}", "/small-build/tree", best, visible)
        sandbox.path.mkdir(parents=True)
        words = ["grep", "a tool", str(tools / "text")]
        command = Command(words, sandbox.root, {"PATH": os.defpath}, 0o022, 20)
        assert (sandbox.run(command, log).status == 0) == (status == 0)


def test_a_setuid_file_of_a_step_is_out_of_reach(tmp_path: Path, best: Isolation) -> None:
    sandbox = Sandbox(tmp_path / "scratch", "/small-build/tree", best)
    sandbox.path.mkdir(parents=True)
    words = ["sh", "-c", "cp /bin/true x && chmod 4755 x"]
    command = Command(words, sandbox.root, {"PATH": "/usr/bin:/bin"}, 0o022, 20)
    assert sandbox.run(command, tmp_path / "log").status == 0
    assert (sandbox.path / "x").stat().st_mode & 0o4000
    # nobody but its owner comes that far
    assert (tmp_path / "scratch").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("kind", [Isolation.NONE, Isolation.ROOT])
def test_a_path_of_the_designated_toolchain_alone_will_do(
    kind: Isolation, best: Isolation, tmp_path: Path
) -> None:
    isolation = best if kind is Isolation.ROOT else kind
    sandbox = Sandbox(tmp_path / "scratch", str(tmp_path / "new" / "tree"), isolation)
    sandbox.path.mkdir(parents=True, exist_ok=True)
    command = Command(["/bin/true"], sandbox.root, {"PATH": "/no/tools/here"}, 0o022, 20)
    assert sandbox.run(command, tmp_path / "log").status == 0
    sandbox.close()


def test_limits_hold_for_every_step(small: SmallRelease, into: Path, shut_off: Isolation) -> None:
    for isolation in (shut_off, Isolation.NONE):
        made = into / isolation.name
        lines = shell(small, made, isolation, "ulimit -Hc; ulimit -Hn; ulimit -Hf; ulimit -Hu")
        assert lines[0] == "0"
        assert int(lines[1]) <= 1 << 16
        assert int(lines[2]) <= 64 << 20
        assert int(lines[3]) <= 1 << 15


def test_a_folder_with_something_mounted_in_it_is_never_removed(
    best: Isolation, tmp_path: Path
) -> None:
    if best is not Isolation.ROOT:
        pytest.skip("only root may mount")
    Sandbox(tmp_path / "scratch", "/small-build/tree", best)
    inner = tmp_path / "scratch" / "area" / "inner"
    inner.mkdir()
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("keep")
    subprocess.run(["mount", "--bind", str(precious), str(inner)], check=True)
    try:
        with pytest.raises(BuildError, match="is mounted"):
            remove_tree(tmp_path / "scratch")
        assert (precious / "file").read_text() == "keep"
    finally:
        subprocess.run(["umount", str(inner)], check=True)
    remove_tree(tmp_path / "scratch")
    assert not (tmp_path / "scratch").exists()


def test_what_a_build_made_unreadable_is_removed_all_the_same(
    small: SmallRelease, into: Path, shut_off: Isolation
) -> None:
    shell(small, into, shut_off, "mkdir -p a/b; touch a/b/c; chmod 0 a/b a")
    assert not (into / ".work").exists()


def _sleepers(mark: str) -> list[Path]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cmdline").read_bytes().startswith(f"sleep\0{mark}".encode()):
                found.append(path)
        except OSError:
            continue
    return found


def _wait(what: str, mark: str, *, there: bool) -> None:
    deadline = time.monotonic() + 20
    while bool(_sleepers(mark)) != there:
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.mark.parametrize("shut", [True, False])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_builder_that_is_ended_takes_its_steps_along(
    small: SmallRelease, into: Path, best: Isolation, shut: bool, number: signal.Signals
) -> None:
    mark = f"{7000 + os.getpid()}.5"
    small.steps = {"slow": ["sh", "-c", f"setsid sleep {mark} & sleep {mark}"]}
    small.catalogue()
    isolation = (best if shut else Isolation.NONE).name
    code = (
        "from pathlib import Path\n"
        "from sgx_enclaves.release.sandbox import Isolation\n"
        "from tests.integration.release.building import SmallRelease\n"
        f"small = SmallRelease(Path({str(small.folder)!r}), enclaves=('pce',))\n"
        f"small.steps = {small.steps!r}\n"
        f"small.build(Path({str(into)!r}), isolation=Isolation.{isolation})\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as builder:
        _wait("the step did not start", mark, there=True)
        builder.send_signal(number)
        builder.wait(20)
    _wait("the step was left running", mark, there=False)
    with pytest.raises(ManifestError, match="no build ended here"):
        load_built(into)


def test_a_log_that_cannot_be_written_fails_the_step(best: Isolation, tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "scratch", "/small-build/tree", best)
    sandbox.path.mkdir(parents=True)
    command = Command(["echo", "text"], sandbox.root, {"PATH": os.defpath}, 0o022, 20)
    ended = sandbox.run(command, Path("/dev/full"))
    assert ended.status != 0
    assert ended.problem is not None
    assert "No space left on device" in ended.problem
    sandbox.close()


def test_a_step_that_prints_without_end_is_ended(
    best: Isolation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgx_enclaves.release.sandbox.MAX_LOG", 100_000)
    sandbox = Sandbox(tmp_path / "scratch", "/small-build/tree", best)
    sandbox.path.mkdir(parents=True)
    command = Command(
        ["sh", "-c", "while echo yes; do :; done"], sandbox.root, {"PATH": os.defpath}, 0o022, 20
    )
    ended = sandbox.run(command, tmp_path / "log")
    assert (ended.status, ended.problem) == (None, "printed more than 100000 bytes")
    sandbox.close()


# each make waits for the other one's mark
_MEET = (
    "touch ../$@.mark",
    "for n in 1 2 3 4 5 6 7 8 9 10; do test -e ../pce.mark -a -e ../qe3.mark && break;"
    " sleep 0.3; done",
    "test -e ../pce.mark -a -e ../qe3.mark",
)


@pytest.mark.parametrize("jobs", [1, 2])
def test_makes_run_at_once_only_if_asked(small: SmallRelease, into: Path, jobs: int) -> None:
    small.enclaves = ("pce", "qe3")
    small.own_folders(*_MEET)
    manifest = small.build(into, jobs=jobs)
    outcomes = [step.outcome for step in manifest.trees[0].steps]
    # the first waits in vain if they run one after the other
    assert outcomes == [StepOutcome.OK if jobs == 2 else StepOutcome.FAILED, StepOutcome.OK]
    assert [step.enclave for step in manifest.trees[0].steps] == ["pce", "qe3"]


def test_makes_in_one_folder_never_run_at_once(small: SmallRelease, into: Path) -> None:
    small.enclaves = ("pce", "qe3")
    small.files["GNUmakefile"] = wrapper("mkdir busy", "sleep 0.5", "rmdir busy")
    assert small.build(into, jobs=2).complete
