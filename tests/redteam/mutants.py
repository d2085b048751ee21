# SPDX-License-Identifier: GPL-2.0-or-later
"""Take one defence after the other out of the product and see that an attack's test fails.

python -m tests.redteam.mutants [MODULE...]     # of `TARGETS`; all by default
python -m tests.redteam.mutants --list MODULE   # what would be changed, with numbers

Each mutant is one change to one expression or statement. The tests that run the changed function
run in a fork of this process, where it has the changed code; those first that noticed the mutants
before. What runs when the module is imported (a default, a class's attribute) needs all tests, and
a fork that imports everything again. A mutant that no test fails for is a survivor: it is reported
unless survivors.txt explains it. Exit status 1: there are such survivors, or survivors.txt explains
mutants that are no longer there.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Optional

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[2]
SURVIVORS = Path(__file__).with_name("survivors.txt")
# What one run of the tests may use, and one test beyond its usual time: a change can make a loop
# endless, or a list.
CPU_SECONDS = 120
SLOW_SECONDS = 5
MEMORY = 4 << 30
PYTEST = (
    *("-n0", "-o", "addopts=", "-o", "tmp_path_retention_policy=failed"),
    *("-p", "no:terminal", "-p", "no:cacheprovider"),
)
PROJECT = ("conftest", "koji_plugin", "rpmlint_checks", "sgx_enclaves", "tests")
PASSED = "all tests pass"
BROKEN = "broken: "

ENCLAVE = (
    *("tests/redteam/test_vendor_fields.py", "tests/unit/enclave"),
    "tests/golden/test_elf.py",
)
IDENTITY = "tests/unit/catalogue/test_identity.py"
PACKAGES = ("tests/unit/rpm", "tests/integration/test_check_rpm.py")
# The module, and the tests that must notice a change to it.
TARGETS: Mapping[str, Sequence[str]] = {
    "sgx_enclaves.enclave.compare": (*ENCLAVE, IDENTITY),
    "sgx_enclaves.enclave.verdict": ENCLAVE,
    "sgx_enclaves.enclave.sigstruct": (*ENCLAVE, IDENTITY),
    "sgx_enclaves.enclave.regenerate": ENCLAVE,
    "sgx_enclaves.enclave.metadata": ENCLAVE,
    "sgx_enclaves.enclave.measure": ENCLAVE,
    "sgx_enclaves.enclave.layout": ENCLAVE,
    "sgx_enclaves.enclave.elf": ENCLAVE,
    "sgx_enclaves.enclave.elf_headers": ENCLAVE,
    "sgx_enclaves.enclave.sdk": ENCLAVE,
    "sgx_enclaves.enclave.policy": (*ENCLAVE, IDENTITY),
    "sgx_enclaves.enclave.config": ENCLAVE,
    "sgx_enclaves.enclave.sign": ENCLAVE,
    "sgx_enclaves.catalogue.identity": (IDENTITY,),
    "sgx_enclaves.gate.decide": ("tests/unit/gate",),
    "sgx_enclaves.rpm.references": PACKAGES,
    "sgx_enclaves.rpm.rules": (*PACKAGES, "tests/unit/rpmlint"),
}

OPPOSITES: Mapping[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        function: where, as in a traceback.
        lines: of the outermost function around it; empty for what runs at the import.
        change: the source before, and after; with a number where the function has it again.
        tree: the module with it; good until the next mutant is asked for.
    """

    function: str
    lines: range
    change: str
    tree: ast.Module

    @property
    def name(self) -> str:
        """What survivors.txt calls it: no line number, so that it lasts."""
        return f"{self.function}: {self.change}"


def variants(node: ast.AST) -> Iterator[Optional[ast.AST]]:
    """Other nodes for this one; None: the statement is left out."""
    if isinstance(node, ast.Compare):
        opposite = OPPOSITES[type(node.ops[0])]
        yield ast.Compare(node.left, [opposite(), *node.ops[1:]], node.comparators)
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield ast.BoolOp(other, node.values)
        for index in range(len(node.values)):
            rest = node.values[:index] + node.values[index + 1 :]
            yield rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, (ast.If, ast.IfExp)):
        for outcome in (True, False):
            changed = copy.copy(node)
            changed.test = ast.Constant(outcome)
            yield changed
    elif isinstance(node, ast.Raise) or (
        isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
    ):
        yield None
    elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int)):
        yield ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1)


def mutants_of(source: str) -> Iterator[Mutant]:
    """Every change to what the functions of a module do."""
    tree = ast.parse(source)
    seen: Counter[str] = Counter()
    for function, lines, parent, field, index in places(tree, "", AT_IMPORT):
        held = getattr(parent, field)
        node = held if index is None else held[index]
        before = ""
        for new in variants(node):
            before = before or shortened(ast.unparse(node))
            put = ast.copy_location(new or ast.Pass(), node)
            if index is None:
                setattr(parent, field, put)
            else:
                held[index] = put
            change = f"{before} -> {shortened(ast.unparse(put))}"
            seen[f"{function}: {change}"] += 1
            times = seen[f"{function}: {change}"]
            change += f" ({times})" if times > 1 else ""
            # The rest has its places.
            ast.fix_missing_locations(put)
            yield Mutant(function, lines, change, tree)
            if index is None:
                setattr(parent, field, held)
            else:
                held[index] = node


Place = tuple[str, range, ast.AST, str, Optional[int]]
AT_IMPORT = range(0)


def places(node: ast.AST, function: str, lines: range) -> Iterator[Place]:
    """Each node that runs inside of a function or class: where, and parent, field, index."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        children = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
        for index, child in children:
            if not isinstance(child, ast.AST):
                continue
            inner, its = function, lines
            if isinstance(node, ast.FunctionDef) and field == "body" and not lines:
                first = min([node.lineno, *(part.lineno for part in node.decorator_list)])
                its = range(first, (node.end_lineno or first) + 1)
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                inner = f"{function}.{child.name}".lstrip(".")
            elif function:
                yield function, its, node, field, index
            yield from places(child, inner, its)


def shortened(text: str) -> str:
    """On one line, and not for ever."""
    line = " ".join(text.split())
    return line if len(line) <= 90 else f"{line[:87]}..."


class Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Hands out one changed module."""

    def __init__(self, module: str, tree: ast.Module) -> None:
        self._module = module
        self._tree = tree

    def find_spec(self, fullname: str, *_: object) -> Optional[importlib.machinery.ModuleSpec]:
        if fullname != self._module:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=str(file_of(fullname)))

    def get_source(self, fullname: str) -> str:
        return file_of(fullname).read_text("utf-8")

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._tree, str(file_of(fullname)), "exec")


def file_of(module: str) -> Path:
    return ROOT / f"{module.replace('.', '/')}.py"


class Failures:
    """A plugin of pytest that notes which tests fail, and how long each takes in seconds."""

    def __init__(self) -> None:
        self.tests: list[str] = []
        self.durations: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.durations[report.nodeid] = self.durations.get(report.nodeid, 0) + report.duration
        if report.failed:
            self.tests.append(report.nodeid)


class Callers:
    """A plugin of pytest that notes which tests run the functions of one file.

    Attributes:
        of_line: by the line where a function begins, who runs it: a test, or a fixture.
        forking: who makes processes, in which calls are not seen.
    """

    def __init__(self, file: Path) -> None:
        self.of_line: dict[int, set[str]] = {}
        self.forking: set[str] = set()
        self._file = str(file)
        self._running = ""
        os.register_at_fork(before=lambda: self.forking.add(self._running))

    @contextlib.contextmanager
    def _runs(self, who: str) -> Iterator[None]:
        before, self._running = self._running, who
        yield
        self._running = before

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        with self._runs(item.nodeid):
            yield

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object]) -> Iterator[None]:
        with self._runs(fixturedef.argname):
            yield

    def trace(self, frame: FrameType, *_: object) -> None:
        if frame.f_code.co_filename == self._file:
            self.of_line.setdefault(frame.f_code.co_firstlineno, set()).add(self._running)


class Mutation:
    """A plugin of pytest that tries each mutant of a module on the tests that were collected.

    Attributes:
        survivors: names of those that no test notices.
        count: of all.
    """

    def __init__(self, module: str, tests: Sequence[str], known: set[str]) -> None:
        self.survivors: list[str] = []
        self.count = 0
        self._module = module
        self._file = file_of(module)
        self._tests = tests
        self._known = known
        self._runners: Mapping[int, Sequence[str]] = {}
        self._forking: Sequence[str] = ()
        self._durations: Mapping[str, float] = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        # Forks share the folder, and so what tests make once for all. With the policy `none`
        # it has no lock, and whatever starts pytest the next time removes it.
        session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        runners = forked(lambda: self._who_runs_what(session))
        failed, self._forking, found, self._durations = map(json.loads, runners.splitlines())
        # One that is slow while its calls are watched, say. Without it more mutants survive.
        for test in failed:
            print(f"{self._module}: left out, as it fails: {test}", file=sys.stderr)
        session.items[:] = [item for item in session.items if item.nodeid not in failed]
        self._runners = {int(line): who for line, who in found.items()}
        apt: set[str] = set()
        gc.unfreeze()
        functions = functions_of(self._module)
        # The forks share what is there.
        gc.freeze()
        for mutant in mutants_of(self._file.read_text("utf-8")):
            self.count += 1
            if self.count % 50 == 0:
                print(f"{self._module}: {self.count} tried", file=sys.stderr, flush=True)
            test = forked(partial(self._tried, session, mutant, functions, apt))
            if test == PASSED:
                self.survivors.append(mutant.name)
                if mutant.name not in self._known:
                    print(f"{self._module} {mutant.name}", flush=True)
            elif test in self._durations:
                apt.add(test)
        # Those that noticed a mutant must notice nothing without one, to the end.
        items = [item for item in session.items if item.nodeid in apt]
        failed = forked(lambda: first_failure(session, items, Failures()))
        if failed != PASSED:
            sys.exit(f"{self._module}: a test fails with nothing changed: {failed}")
        return True

    def _who_runs_what(self, session: pytest.Session) -> str:
        callers = Callers(self._file)
        session.config.pluginmanager.register(callers)
        threading.settrace(callers.trace)
        sys.settrace(callers.trace)
        failures = Failures()
        for _ in run(session, session.items, failures):
            pass
        sys.settrace(None)
        runners = {line: sorted(who) for line, who in callers.of_line.items()}
        found = failures.tests, sorted(callers.forking), runners, failures.durations
        return "\n".join(map(json.dumps, found))

    def _tried(
        self,
        session: pytest.Session,
        mutant: Mutant,
        functions: Sequence[FunctionType],
        apt: set[str],
    ) -> str:
        who = {test for line in mutant.lines for test in self._runners.get(line, ())}
        if not who:
            # A function that no test was seen to call may well be called by the import.
            return self._tried_at_import(mutant, apt)
        change(functions, mutant)
        who.update(self._forking)
        items = [
            item
            for item in session.items
            if item.nodeid in who or who.intersection(getattr(item, "fixturenames", ()))
        ]
        # Those first that noticed others, the quick ones before all; the rest as they were
        # collected, since fixtures of modules are made again when modules take turns.
        items.sort(key=lambda i: self._durations[i.nodeid] if i.nodeid in apt else math.inf)
        return first_failure(session, items, Failures(), self._durations)

    def _tried_at_import(self, mutant: Mutant, apt: set[str]) -> str:
        for name in list(sys.modules):
            if name.partition(".")[0] in PROJECT:
                del sys.modules[name]
        sys.meta_path.insert(0, Finder(self._module, mutant.tree))
        failures = Failures()
        first = sorted(apt, key=lambda test: self._durations[test])
        status = pytest.main([*PYTEST, "-x", *first, *self._tests], [failures])
        if status == pytest.ExitCode.USAGE_ERROR:
            # A test may have another name with the change, which notices nothing.
            status = pytest.main([*PYTEST, "-x", *self._tests], [failures])
        return (*failures.tests, "collecting")[0] if status else PASSED


def first_failure(
    session: pytest.Session,
    items: Sequence[pytest.Item],
    failures: Failures,
    durations: Optional[Mapping[str, float]] = None,
) -> str:
    """Run tests up to the first that fails: its name, or `PASSED`."""
    for _ in run(session, items, failures, durations):
        if failures.tests:
            return failures.tests[0]
    return PASSED


def run(
    session: pytest.Session,
    items: Sequence[pytest.Item],
    failures: Failures,
    durations: Optional[Mapping[str, float]] = None,
) -> Iterator[None]:
    """Run tests one by one. One that takes much longer than its duration ends this process."""
    session.config.pluginmanager.register(failures)
    for item, following in zip(items, [*items[1:], None]):
        if durations is not None:
            signal.setitimer(signal.ITIMER_PROF, SLOW_SECONDS + 5 * durations[item.nodeid])
        item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        yield


def functions_of(module: str) -> list[FunctionType]:
    """The functions of an imported module."""
    file = sys.modules[module].__file__
    return [
        thing
        for thing in gc.get_objects()
        if isinstance(thing, FunctionType) and thing.__code__.co_filename == file
    ]


def change(functions: Sequence[FunctionType], mutant: Mutant) -> None:
    """Give functions of a module the code that they have in a mutant."""
    there = [f for f in functions if f.__code__.co_firstlineno in mutant.lines]
    assert there, f"{mutant.name} is nowhere"
    code = compile(mutant.tree, there[0].__code__.co_filename, "exec")
    new = {(part.co_name, part.co_firstlineno): part for part in codes(code)}
    for function in there:
        function.__code__ = new[function.__code__.co_name, function.__code__.co_firstlineno]


def codes(code: CodeType) -> Iterator[CodeType]:
    """The code of all functions in it."""
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield part
            yield from codes(part)


def forked(work: Callable[[], str]) -> str:
    """What work answers in a copy of this process, of which nothing stays.

    "" when it does not come to its end within `CPU_SECONDS` and `MEMORY`.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        signal.alarm(10 * CPU_SECONDS)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        try:
            answer = work()
        except MemoryError:
            answer = ""
        except BaseException:
            answer = f"{BROKEN}{traceback.format_exc()}"
        with os.fdopen(writing, "w", encoding="utf-8") as pipe:
            pipe.write(answer)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    if answer.startswith(BROKEN):
        raise RuntimeError(answer)
    return answer


def explained(module: str) -> set[str]:
    """Mutants of a module that survivors.txt explains: a line `module function: change # why`."""
    lines = SURVIVORS.read_text("utf-8").splitlines() if SURVIVORS.exists() else []
    known = (line.partition(" # ") for line in lines if line.startswith(f"{module} "))
    return {name[len(module) + 1 :] for name, _, reason in known if reason}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("modules", nargs="*", default=list(TARGETS))
    arguments = parser.parse_args()
    if arguments.list:
        for module in arguments.modules:
            source = file_of(module).read_text("utf-8")
            print("\n".join(mutant.name for mutant in mutants_of(source)))
        return 0
    if len(arguments.modules) > 1:
        # What tests make once for a process is gone when pytest has ended in it.
        command = [sys.executable, "-m", "tests.redteam.mutants"]
        runs = [subprocess.run([*command, m], cwd=ROOT, check=False) for m in arguments.modules]
        return max(run.returncode for run in runs)
    # A busy machine is not what a test is to notice.
    hypothesis.settings.register_profile(
        "mutants", deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    hypothesis.settings.load_profile("mutants")
    (module,) = arguments.modules
    known = explained(module)
    mutation = Mutation(module, TARGETS[module], known)
    if pytest.main([*PYTEST, *TARGETS[module]], [mutation]) or not mutation.count:
        sys.exit(f"{module}: its tests cannot be collected")
    stale = sorted(known.difference(mutation.survivors))
    for name in stale:
        print(f"no longer survives: {module} {name}")
    unexplained = sum(name not in known for name in mutation.survivors)
    noticed = mutation.count - len(mutation.survivors)
    print(
        f"{module}: {mutation.count} mutants, {noticed} noticed, "
        f"{len(mutation.survivors)} survive, {unexplained} of them unexplained",
        flush=True,
    )
    return int(unexplained + len(stale) > 0)


if __name__ == "__main__":
    sys.exit(main())
