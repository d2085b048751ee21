# SPDX-License-Identifier: GPL-2.0-or-later
"""Take one defence after the other out of the product and see that an attack's test fails.

python -m tests.redteam.mutants [MODULE...]     # of `TARGETS`; all by default
python -m tests.redteam.mutants --list MODULE   # what would be changed, with numbers

Each mutant is one change to one expression or statement. Its tests run in a fork, so that
nothing of the changed module stays. A mutant that no test fails for is a survivor: it is
reported unless survivors.txt explains it. Exit status 1: there are such survivors, or
survivors.txt explains mutants that are no longer there.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Optional

import pytest

ROOT = Path(__file__).resolve().parents[2]
SURVIVORS = Path(__file__).with_name("survivors.txt")
# What one run of the tests may use: a change can make a loop endless, or a list.
CPU_SECONDS = 120
MEMORY = 4 << 30
# So many of the tests that noticed something are tried first.
APT = 60
PYTEST = ("-x", "-q", "-n0", "-p", "no:cacheprovider", "-p", "no:randomly")
PROJECT = ("conftest", "koji_plugin", "rpmlint_checks", "sgx_enclaves", "tests")

ENCLAVE = ("tests/redteam/test_vendor_fields.py", "tests/unit/enclave")
# The module, and the tests that must notice a change to it.
TARGETS: Mapping[str, Sequence[str]] = {
    "sgx_enclaves.enclave.compare": ENCLAVE,
    "sgx_enclaves.enclave.verdict": ENCLAVE,
    "sgx_enclaves.enclave.sigstruct": ENCLAVE,
    "sgx_enclaves.enclave.regenerate": ENCLAVE,
    "sgx_enclaves.enclave.blocks": ENCLAVE,
    "sgx_enclaves.enclave.metadata": ENCLAVE,
    "sgx_enclaves.enclave.measure": ENCLAVE,
    "sgx_enclaves.enclave.layout": ENCLAVE,
    "sgx_enclaves.enclave.elf": ENCLAVE,
    "sgx_enclaves.enclave.elf_headers": ENCLAVE,
    "sgx_enclaves.enclave.sdk": ENCLAVE,
    "sgx_enclaves.enclave.policy": (*ENCLAVE, "tests/unit/catalogue/test_identity.py"),
    "sgx_enclaves.enclave.config": ENCLAVE,
    "sgx_enclaves.enclave.sign": ENCLAVE,
    "sgx_enclaves.catalogue.identity": ("tests/unit/catalogue/test_identity.py",),
    "sgx_enclaves.gate.decide": ("tests/unit/gate",),
    "sgx_enclaves.rpm.references": ("tests/unit/rpm",),
    "sgx_enclaves.rpm.rules": ("tests/unit/rpm",),
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
        lines: of that function.
        change: the source before, and after.
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
    for function, lines, parent, field, index in places(tree, "", range(0)):
        held = getattr(parent, field)
        node = held if index is None else held[index]
        for new in variants(node):
            put = ast.copy_location(new or ast.Pass(), node)
            if index is None:
                setattr(parent, field, put)
            else:
                held[index] = put
            before, after = (shortened(ast.unparse(part)) for part in (node, put))
            change = f"{before} -> {after}"
            yield Mutant(function, lines, change, ast.fix_missing_locations(tree))
            if index is None:
                setattr(parent, field, held)
            else:
                held[index] = node


Place = tuple[str, range, ast.AST, str, Optional[int]]


def places(node: ast.AST, function: str, lines: range) -> Iterator[Place]:
    """Each node that runs inside of a function: the function, its lines; parent, field, index."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        children = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
        for index, child in children:
            if not isinstance(child, ast.AST):
                continue
            inner, its = function, lines
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                inner = f"{function}.{child.name}".lstrip(".")
                first = min(part.lineno for part in (child, *child.decorator_list))
                its = range(first, (child.end_lineno or first) + 1)
            elif function:
                yield function, lines, node, field, index
            yield from places(child, inner, its)


def shortened(text: str) -> str:
    """On one line, and not for ever."""
    line = " ".join(text.split())
    return line if len(line) <= 90 else f"{line[:87]}..."


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
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


class _Failures:
    """A plugin of pytest that notes which tests fail."""

    def __init__(self) -> None:
        self.tests: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.tests.append(report.nodeid)


class Callers:
    """A plugin of pytest that notes which tests call the functions of one module.

    Attributes:
        of_line: the tests by the line where a function that they call begins; "" stands for
            all tests: the call was made while a module was imported or a fixture made.
        forking: tests that make processes of their own, whose calls nobody sees.
    """

    def __init__(self, file: Path) -> None:
        self.of_line: dict[int, set[str]] = {}
        self.forking: set[str] = set()
        self._file = str(file)
        self._test = ""
        os.register_at_fork(before=self._before_fork)

    def _before_fork(self) -> None:
        if self._test:
            self.forking.add(self._test)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        self._test = item.nodeid
        yield
        self._test = ""

    def trace(self, frame: FrameType, *_: object) -> None:
        if frame.f_code.co_filename == self._file:
            self.of_line.setdefault(frame.f_code.co_firstlineno, set()).add(self._test)

    def of(self, lines: range, tests: Sequence[str]) -> Sequence[str]:
        """The tests that can notice a change to a function, out of all."""
        called = set().union(*(self.of_line.get(line, set()) for line in lines))
        return tests if "" in called else sorted(called | self.forking)


def callers_in(module: str, tests: Sequence[str]) -> Callers:
    """Run the tests on the module as it is."""
    callers = Callers(file_of(module))
    threading.settrace(callers.trace)
    sys.settrace(callers.trace)
    status = pytest.main([*PYTEST, *tests], [callers])
    sys.settrace(None)
    threading.settrace(None)
    if status:
        sys.exit(f"{module}: its tests fail with nothing changed")
    # Libraries stay imported for the forks; what may import the changed module does not.
    for name in list(sys.modules):
        if name.partition(".")[0] in PROJECT:
            del sys.modules[name]
    return callers


def noticed_by(module: str, mutant: Mutant, tests: Sequence[str]) -> Optional[str]:
    """The first test that fails when the module is changed; None: all of them pass.

    "" is the answer when no single test can be named: the module cannot be imported, or the
    tests take too long.
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
        sys.meta_path.insert(0, _Finder(module, mutant.tree))
        status = 1
        with contextlib.suppress(BaseException):
            failures = _Failures()
            status = int(pytest.main([*PYTEST, *tests], [failures]))
            os.write(writing, "".join(failures.tests[:1]).encode())
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        test = pipe.read().decode()
    return test if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) else None


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
    left = 0
    for module in arguments.modules:
        source = file_of(module).read_text("utf-8")
        if arguments.list:
            print("\n".join(mutant.name for mutant in mutants_of(source)))
            continue
        callers, apt = callers_in(module, TARGETS[module]), list[str]()
        known, survivors, count = explained(module), [], 0
        for mutant in mutants_of(source):
            count += 1
            # The tests that noticed the mutants before it most likely notice this one.
            test = noticed_by(module, mutant, apt) if apt else None
            if test is None:
                tests = callers.of(mutant.lines, TARGETS[module])
                test = noticed_by(module, mutant, tests) if tests else None
            if test:
                apt = [test, *(other for other in apt if other != test)][:APT]
            if test is None:
                survivors.append(mutant.name)
                if mutant.name not in known:
                    print(f"{module} {mutant.name}", flush=True)
        stale = sorted(known - set(survivors))
        for name in stale:
            print(f"no longer survives: {module} {name}")
        unexplained = sum(name not in known for name in survivors)
        left += unexplained + len(stale)
        print(
            f"{module}: {count} mutants, {count - len(survivors)} noticed, "
            f"{len(survivors)} survive, {unexplained} of them unexplained",
            flush=True,
        )
    return int(left > 0)


if __name__ == "__main__":
    sys.exit(main())
