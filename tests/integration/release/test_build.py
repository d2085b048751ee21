# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds of small releases with real tools: what comes out, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sgx_enclaves.errors import ArchiveError, BuildError, CatalogueError, FetchError, InputError
from sgx_enclaves.release.archive import read_contents
from sgx_enclaves.release.build import build_release
from sgx_enclaves.release.build_tree import BuildRequest
from sgx_enclaves.release.manifest import Manifest, StepOutcome, StepRecord, load_built
from sgx_enclaves.release.sandbox import Isolation, Machine, best_isolation, choose_isolation
from sgx_enclaves.release.toolchain import ToolchainKind
from tests.enclaves.compiled import build_enclaves, have_toolchain
from tests.integration.release.building import SmallRelease, make_tar, wrapper
from tests.unit.release import tarmaker

pytestmark = pytest.mark.skipif(not have_toolchain(), reason="needs gcc, ld, strip and make")


def step(manifest: Manifest, name: str) -> StepRecord:
    (tree,) = manifest.trees
    return next(item for item in tree.steps if item.id == name)


def problem(manifest: Manifest, name: str) -> str:
    found = {enclave.name: enclave.problem for enclave in manifest.enclaves}[name]
    assert found is not None
    return found


def _here() -> Machine:
    return Machine(isolation=choose_isolation(allow_none=True)[0])


def log_of(into: Path, name: str) -> list[str]:
    """What a step printed."""
    lines = (into / "logs" / f"{name}.log").read_text("utf-8").splitlines()
    return [line for line in lines if not line.startswith("# ")]


def test_what_is_built_is_what_make_builds(small: SmallRelease, into: Path, tmp_path: Path) -> None:
    small.build(into)
    built = load_built(into)
    out = tmp_path / "out"
    build_enclaves(out)
    assert [enclave.name for enclave in built.enclaves] == ["pce", "qe3"]
    for enclave in built.enclaves:
        assert enclave.unsigned == (out / f"libsgx_{enclave.file}.so").read_bytes()
        assert enclave.config == small.files[f"configs/{enclave.file}.config.xml"]


def test_the_unstripped_file_is_kept_for_explanations(small: SmallRelease, into: Path) -> None:
    """Packages do not ship it, and a build without it is as good."""
    manifest = small.build(into, enclaves=("pce",))
    (pce,) = load_built(into).enclaves
    assert pce.unstripped is not None
    assert b"\0.symtab\0" in pce.unstripped
    assert b"\0.symtab\0" not in pce.unsigned
    assert manifest.only("pce").enclaves[0].unstripped is None
    shutil.rmtree(into)
    small.files["Makefile"] = small.files["Makefile"].replace(b"$$(STRIP)", b"strip")
    small.build(into, enclaves=("pce",))
    (pce,) = load_built(into).enclaves
    assert pce.unstripped is None


def test_the_manifest_says_how(small: SmallRelease, into: Path) -> None:
    small.steps = {"look": ["uname"]}
    before = int(time.time())
    made = small.build(into)
    manifest = load_built(into).manifest
    assert manifest == made
    (tree,) = manifest.trees
    assert (manifest.release, tree.release) == ("small-1", "small-1")
    assert before <= manifest.started <= time.time()
    assert manifest.complete
    assert manifest.designated
    assert manifest.pinned
    assert manifest.reproducible is None
    assert [(item.id, item.enclave, item.outcome) for item in tree.steps] == [
        ("look", None, StepOutcome.OK),
        ("make-pce", "pce", StepOutcome.OK),
        ("make-qe3", "qe3", StepOutcome.OK),
    ]
    assert [source.sha256 for source in tree.sources] == [
        hashlib.sha256(make_tar(small.files)).hexdigest()
    ]
    assert sorted(path.name for path in into.iterdir()) == [
        "libsgx_pce.config.xml",
        "libsgx_pce.so",
        "libsgx_pce.unstripped.so",
        "libsgx_qe3.config.xml",
        "libsgx_qe3.so",
        "libsgx_qe3.unstripped.so",
        "logs",
        "manifest.json",
    ]


def test_a_step_knows_how_many_processors_it_may_use(
    small: SmallRelease, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.steps = {"look": ["echo", "-j{jobs}"]}
    monkeypatch.setattr("sgx_enclaves.release.build_tree._WORTH_A_LINE", 0)
    said: list[str] = []
    small.build(into, enclaves=("pce",), notes=said)
    assert f"\n-j{len(os.sched_getaffinity(0))}\n" in (into / "logs" / "look.log").read_text()
    took = [line for line in said if " took " in line]
    assert took[0].startswith("look took 0 s; 1 of 2 are done")
    assert took[1].startswith("make-pce took")
    assert took[1].endswith("2 of 2 are done")


def test_only_the_enclaves_that_are_named_are_built(small: SmallRelease, into: Path) -> None:
    manifest = small.build(into, enclaves=("qe3",))
    assert [enclave.name for enclave in manifest.enclaves] == ["qe3"]
    assert not (into / "libsgx_pce.so").exists()


def test_an_unknown_enclave_is_refused(small: SmallRelease, into: Path) -> None:
    with pytest.raises(CatalogueError, match="no enclave 'qve'"):
        small.build(into, enclaves=("qve",))
    assert not into.exists()


def test_a_folder_with_something_in_it_is_refused(small: SmallRelease, into: Path) -> None:
    into.mkdir()
    (into / "mine").write_text("keep me")
    with pytest.raises(InputError, match="not empty"):
        small.build(into)
    assert [path.name for path in into.iterdir()] == ["mine"]


def test_a_step_that_fails_ends_the_tree(small: SmallRelease, into: Path) -> None:
    small.steps = {
        "good": ["true"],
        "bad": ["sh", "-c", "echo the reason; exit 7"],
        "later": ["true"],
    }
    manifest = small.build(into)
    assert step(manifest, "good").outcome is StepOutcome.OK
    assert step(manifest, "bad").message == "failed with exit status 7"
    assert log_of(into, "bad") == ["the reason"]
    assert step(manifest, "later").outcome is StepOutcome.SKIPPED
    for name in ("pce", "qe3"):
        assert problem(manifest, name) == "bad failed with exit status 7; see logs/bad.log"
    assert load_built(into).enclaves == ()
    assert not (into / "logs" / "make-pce.log").exists()


def test_one_enclave_that_fails_does_not_hide_the_other(small: SmallRelease, into: Path) -> None:
    small.files["src/pce.c"] += b"\nthis is not C\n"
    manifest = small.build(into)
    assert problem(manifest, "pce") == "make-pce failed with exit status 2; see logs/make-pce.log"
    assert [enclave.name for enclave in load_built(into).enclaves] == ["qe3"]
    assert not manifest.complete
    assert any("error" in line for line in log_of(into, "make-pce"))


def test_a_program_that_is_not_there_is_named(small: SmallRelease, into: Path) -> None:
    small.steps = {"lost": ["no-such-program", "-x"]}
    message = step(small.build(into), "lost").message
    assert message is not None
    assert message.startswith("no-such-program cannot be started in /small-build/tree")


def test_a_step_that_is_killed_is_not_one_that_fails(small: SmallRelease, into: Path) -> None:
    small.steps = {"shot": ["sh", "-c", "kill -KILL $$"]}
    assert step(small.build(into), "shot").message == "was killed by SIGKILL"


def _running(mark: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if line.startswith(f"sleep {mark}"):
            found.append(line)
    return found


@pytest.mark.parametrize("isolation", [None, Isolation.NONE])
def test_a_deadline_ends_grandchildren_in_sessions_of_their_own(
    small: SmallRelease, into: Path, isolation: Isolation | None
) -> None:
    mark = f"{9000 + os.getpid()}.5"
    small.step_timeout = 2
    small.steps = {"slow": ["sh", "-c", f"setsid sleep {mark} & sleep {mark}"]}
    start = time.monotonic()
    manifest = small.build(into, isolation=isolation)
    assert 2 <= time.monotonic() - start < 20
    assert step(manifest, "slow").outcome is StepOutcome.TIMED_OUT
    assert step(manifest, "slow").message == (
        "took too long and was killed with all that it had started (after 2 s)"
    )
    assert "see logs/slow.log" in problem(manifest, "pce")
    assert _running(mark) == []


@pytest.mark.parametrize("isolation", [None, Isolation.NONE])
def test_what_a_step_leaves_running_is_ended_with_it(
    small: SmallRelease, into: Path, isolation: Isolation | None
) -> None:
    mark = f"{8000 + os.getpid()}.5"
    small.steps = {"daemon": ["sh", "-c", f"setsid sleep {mark} & exit 0"]}
    start = time.monotonic()
    manifest = small.build(into, isolation=isolation, enclaves=("pce",))
    assert time.monotonic() - start < 20
    assert manifest.complete
    assert _running(mark) == []


def test_a_make_has_a_deadline_too(small: SmallRelease, into: Path) -> None:
    small.files["GNUmakefile"] = wrapper("test $@ = qe3 || sleep 60")
    manifest = small.build(into, make_timeout=3)
    assert step(manifest, "make-pce").outcome is StepOutcome.TIMED_OUT
    assert [enclave.name for enclave in load_built(into).enclaves] == ["qe3"]


def test_a_make_without_a_result_is_reported_with_its_log(small: SmallRelease, into: Path) -> None:
    small.files["GNUmakefile"] = b"pce qe3:\n\techo nothing to do\n"
    text = problem(small.build(into), "pce")
    assert text == (
        "make-pce gave no unsigned enclave: out/libsgx_pce.so: is not there; logs/make-pce.log"
    )


def test_a_result_that_comes_with_the_sources_is_not_taken(
    small: SmallRelease, into: Path, tmp_path: Path
) -> None:
    build_enclaves(tmp_path / "out")
    small.files["out/libsgx_pce.so"] = (tmp_path / "out" / "libsgx_pce.so").read_bytes()
    small.files["GNUmakefile"] = b"pce qe3:\n\techo up to date\n"
    assert "is not there" in problem(small.build(into), "pce")


@pytest.mark.parametrize(
    ("commands", "said"),
    [
        (("ln -s /etc/passwd out/libsgx_pce.so",), "a link leads out of the tree"),
        (("echo text > out/libsgx_pce.so",), "out/libsgx_pce.so"),
        (("mkdir out/libsgx_pce.so",), "is no file"),
        (("ln -s nowhere out/libsgx_pce.so",), "is no file"),
    ],
)
def test_a_result_that_is_no_enclave_is_refused(
    small: SmallRelease, into: Path, commands: tuple[str, ...], said: str
) -> None:
    lines = "".join(f"\t{command}\n" for command in ("mkdir -p out", *commands))
    small.files["GNUmakefile"] = f"pce qe3:\n{lines}".encode()
    manifest = small.build(into, enclaves=("pce",))
    assert step(manifest, "make-pce").outcome is StepOutcome.OK
    text = problem(manifest, "pce")
    assert said in text
    assert "logs/make-pce.log" in text
    assert not (into / "libsgx_pce.so").exists()


def test_a_config_that_is_missing_or_wrong_is_reported(small: SmallRelease, into: Path) -> None:
    del small.files["configs/pce.config.xml"]
    small.files["configs/qe3.config.xml"] = b"<no/>"
    manifest = small.build(into)
    assert "configs/pce.config.xml: is not there" in problem(manifest, "pce")
    assert "configs/qe3.config.xml" in problem(manifest, "qe3")


def test_a_step_cannot_change_the_config_that_is_kept(small: SmallRelease, into: Path) -> None:
    small.steps = {"change": ["sh", "-c", "echo '<!-- -->' >> configs/pce.config.xml"]}
    small.build(into, enclaves=("pce",))
    enclave = load_built(into).enclave("pce")
    assert enclave is not None
    assert enclave.config == small.files["configs/pce.config.xml"]


@pytest.mark.parametrize(
    "member",
    [
        tarmaker.file("small-1/../../evil"),
        tarmaker.file("/evil"),
        tarmaker.symlink("small-1/src", "/etc"),
    ],
)
def test_a_hostile_archive_leaves_nothing(
    small: SmallRelease, into: Path, tmp_path: Path, member: bytes
) -> None:
    small.archive = member + tarmaker.END
    with pytest.raises(ArchiveError):
        small.build(into)
    assert not into.exists()
    assert not list(tmp_path.rglob("evil"))


def test_a_source_with_another_digest_is_not_used(
    small: SmallRelease, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.catalogue()
    (path,) = [item for item in small.cache.rglob("*") if item.is_file()]
    path.write_bytes(path.read_bytes() + b"x")
    # the cache is left as it is now
    monkeypatch.setattr(SmallRelease, "_put", lambda _self, data: hashlib.sha256(data).hexdigest())
    with pytest.raises(FetchError, match="is not in the cache"):
        small.build(into)
    assert not into.exists()


def test_submodules_are_laid_out_in_their_places(small: SmallRelease, into: Path) -> None:
    small.others = {"external/part": make_tar({"inner/file.txt": b"from the part\n"}, "part-2")}
    small.raw = {"external/whole": b"as it is\n"}
    small.steps = {
        "look": ["cat", "external/part/inner/file.txt", "external/whole/whole.tar.gz"],
    }
    manifest = small.build(into, enclaves=("pce",))
    assert log_of(into, "look") == ["from the part", "as it is"]
    assert [source.place for source in manifest.trees[0].sources] == [
        "",
        "external/part",
        "external/whole",
    ]


PATCH = b"""\
--- a/GNUmakefile
+++ b/GNUmakefile
@@ -1 +1,2 @@
-broken:
+.PHONY: pce
+pce:
"""


def _patched(small: SmallRelease) -> None:
    body = b"\t$(MAKE) -f Makefile OUT=out out/libsgx_pce.so\n"
    small.files["GNUmakefile"] = b"broken:\n" + body
    small.files["fix.patch"] = PATCH.replace(b"@@ -1 +1,2 @@", b"@@ -1,2 +1,3 @@") + b" " + body
    small.patches = [("fix.patch", ".")]


def test_patches_of_the_sources_are_applied(small: SmallRelease, into: Path) -> None:
    _patched(small)
    manifest = small.build(into, enclaves=("pce",))
    assert manifest.complete
    assert log_of(into, "patch-1") == ["patching file GNUmakefile"]


def test_a_patch_that_does_not_fit_ends_the_tree(small: SmallRelease, into: Path) -> None:
    _patched(small)
    small.files["GNUmakefile"] = wrapper()
    manifest = small.build(into)
    assert step(manifest, "patch-1").outcome is StepOutcome.FAILED
    assert "see logs/patch-1.log" in problem(manifest, "pce")


def _write_tree(small: SmallRelease, folder: Path) -> Path:
    for name, data in small.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@pytest.mark.parametrize("patched", [False, True])
def test_a_ready_made_tree_is_built_and_reported_as_unpinned(
    small: SmallRelease, into: Path, tmp_path: Path, patched: bool
) -> None:
    _patched(small)
    tree = _write_tree(small, tmp_path / "ready")
    (tree / ".git").mkdir()
    (tree / ".git" / "HEAD").write_text("x")
    if patched:
        subprocess.run(["patch", "-s", "-p1", "-i", "fix.patch"], cwd=tree, check=True)
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    manifest = small.build(into, enclaves=("pce",), source_dir=tree)
    assert manifest.complete
    assert not manifest.pinned
    (source,) = manifest.trees[0].sources
    assert (source.id, source.filename, source.pinned) == ("source-dir", "ready", False)
    assert {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()} == before
    steps = [item.id for item in manifest.trees[0].steps]
    assert steps == (["make-pce"] if patched else ["patch-1", "make-pce"])


def test_the_digest_of_a_ready_made_tree_is_that_of_its_content(
    small: SmallRelease, tmp_path: Path
) -> None:
    tree = _write_tree(small, tmp_path / "ready")
    digests = []
    for number in range(3):
        if number == 2:
            (tree / "src" / "pce.c").write_bytes(small.files["src/pce.c"] + b"\n")
        manifest = small.build(tmp_path / f"into-{number}", enclaves=("pce",), source_dir=tree)
        digests.append(manifest.trees[0].sources[0].sha256)
    assert digests[0] == digests[1] != digests[2]


def test_a_ready_made_tree_must_be_one(small: SmallRelease, into: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no such source tree"):
        small.build(into, source_dir=tmp_path / "nowhere")
    tree = _write_tree(small, tmp_path / "ready")
    os.mkfifo(tree / "pipe")
    with pytest.raises(BuildError, match="cannot be copied"):
        small.build(into, source_dir=tree)
    assert not into.exists()


def test_an_enclave_may_be_built_in_an_older_releases_tree(small: SmallRelease, into: Path) -> None:
    small.steps = {"look": ["pwd"]}
    newer = SmallRelease(small.folder, root="/newer-build/tree")
    newer.files["src/qe3.c"] += b"\nconst int newer __attribute__((used)) = 1;\n"
    text = newer.toml().replace('name = "small-1"', 'name = "small-2"')
    head, _build, rest = text.partition("[enclave.build]")
    _pce, enclave, qe3 = rest.partition("[[enclave]]")
    text = head + 'built_in = "small-1"\n\n' + enclave + qe3
    small.releases.mkdir(parents=True)
    (small.releases / "newer.toml").write_text(text)
    catalogue = small.catalogue()
    request = BuildRequest(catalogue, catalogue.release("small-2"), _here(), print)
    manifest = build_release(request, into, small.fetch)
    assert manifest.complete
    assert [(e.name, e.tree) for e in manifest.enclaves] == [("pce", "small-1"), ("qe3", "small-2")]
    assert [tree.root for tree in manifest.trees] == ["/small-build/tree", "/newer-build/tree"]
    assert [[step.log for step in tree.steps] for tree in manifest.trees] == [
        ["logs/small-1.look.log", "logs/small-1.make-pce.log"],
        ["logs/make-qe3.log"],
    ]
    assert load_built(into).manifest == manifest
    with pytest.raises(BuildError, match="several releases"):
        build_release(replace(request, source_dir=into), into, small.fetch)


def test_unpinned_sources_are_reported(small: SmallRelease, into: Path, tmp_path: Path) -> None:
    small.pinned = False
    with pytest.raises(FetchError):
        # nothing has it, since only pinned files are found in a cache
        small.build(into)
    assert not into.exists()


def contents_of(archive: bytes, folder: Path) -> str:
    path = folder / "archive"
    path.write_bytes(archive)
    return read_contents(path).sha256


def test_sources_pinned_by_contents_give_the_same_however_packed(
    small: SmallRelease, into: Path, tmp_path: Path
) -> None:
    small.steps = {"times": ["stat", "--format=%Y", "GNUmakefile"]}
    first = small.build(into)
    small.by_contents = True
    again = tmp_path / "again"
    small.archive = lzma.compress(gzip.decompress(make_tar(small.files, "renamed")))
    second = small.build(again)
    assert second.pinned
    assert second.designated
    assert [e.unsigned for e in load_built(again).enclaves] == [
        e.unsigned for e in load_built(into).enclaves
    ]
    assert second.trees[0].sources[0].sha256 == hashlib.sha256(small.archive).hexdigest()
    assert first.trees[0].sources[0].contents_sha256 is None
    assert second.trees[0].sources[0].contents_sha256 == contents_of(small.archive, tmp_path)
    logs = [(folder / "logs" / "times.log").read_text() for folder in (into, again)]
    assert "\n1600000000\n" in logs[0]
    assert "\n315619200\n" in logs[1]


def test_another_toolchain_is_refused(small: SmallRelease, into: Path) -> None:
    small.gcc = "9.5.0"
    with pytest.raises(BuildError, match="designated toolchain") as caught:
        small.build(into)
    assert caught.value.expected == "gcc 9.5.0"
    assert str(caught.value.found).startswith("gcc ")
    assert "--toolchain=host" in str(caught.value.hint)
    assert not into.exists()


def test_another_toolchain_can_be_asked_for_and_is_recorded(
    small: SmallRelease, into: Path
) -> None:
    small.gcc = "9.5.0"
    small.build(into, toolchain=ToolchainKind.HOST)
    manifest = load_built(into).manifest
    assert manifest.complete
    assert not manifest.designated
    toolchain = manifest.trees[0].toolchain
    assert toolchain.kind is ToolchainKind.HOST
    states = {part.name: part.state.value for part in toolchain.parts}
    assert states["gcc"] == "differs"
    assert states["gnumake"] == "match"
    assert toolchain.record.tools[0].version != "9.5.0"


def test_the_right_toolchain_asked_for_as_host_is_not_designated(
    small: SmallRelease, into: Path
) -> None:
    assert not small.build(into, toolchain=ToolchainKind.HOST).designated


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_named_as_the_cause(small: SmallRelease, tiny_disk: Path) -> None:
    small.root = str(tiny_disk / "machine" / "tree")
    small.steps = {"fill": ["dd", "if=/dev/zero", "of=big", "bs=64k", "count=1000"]}
    manifest = small.build(tiny_disk / "into")
    message = step(manifest, "fill").message
    assert message is not None
    assert "No space left on device" in message
    assert not manifest.complete


def test_sources_that_do_not_fit_on_the_disk_leave_nothing(
    small: SmallRelease, tiny_disk: Path
) -> None:
    small.root = str(tiny_disk / "machine" / "tree")
    small.files["big"] = os.urandom(6 << 20)
    with pytest.raises(InputError, match="No space left"):
        small.build(tiny_disk / "into")
    assert not (tiny_disk / "into").exists()


def test_isolation_is_there_or_the_reason_is() -> None:
    isolation, reason = best_isolation()
    assert (isolation is Isolation.NONE) == bool(reason)
