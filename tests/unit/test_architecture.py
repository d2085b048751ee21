# SPDX-License-Identifier: GPL-2.0-or-later
"""Arrows go one way between the rooms of the house, and no room names a machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "sgx_enclaves"

# From below: a room may import what is on lower floors. Modules outside any room
# (errors, limits, files, ...) are on the ground, and import no room.
ROOMS = (
    *("enclave", "explain", "catalogue", "release", "rpm", "specs", "gate", "report"),
    "evidence",
    "cli",
)
FLOORS = {room: floor for floor, room in enumerate(ROOMS, 1)}
GROUND = 0
ADAPTERS = ("koji_plugin", "rpmlint_checks")
# Third-party and system packages, and the only room that may import each.
ONLY_IN = {"rpm": "rpm", "socket": "release", "http": "release", "ssl": "release"}
PLUGINS = ("sgx_enclaves_hub", "sgx_enclaves_builder", "sgx_enclaves_cli", "sgx_enclaves_rpmlint")
NEVER = ("koji", "kojihub", "koji_cli", "rpmlint", *ADAPTERS, *PLUGINS)


def modules() -> list[Path]:
    return sorted((ROOT / PACKAGE).rglob("*.py"))


def room_of(parts: tuple[str, ...]) -> str:
    """The room of a dotted module below the package; empty on the ground."""
    return parts[0] if parts and parts[0] in FLOORS else ""


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a module imports, at any depth of it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            yield node.lineno, node.module or ""
            # `from sgx_enclaves import format` imports a room.
            if node.module == PACKAGE:
                for alias in node.names:
                    yield node.lineno, f"{PACKAGE}.{alias.name}"


def violations(path: Path, root: Path = ROOT) -> list[str]:
    """What a module imports and must not."""
    own = path.relative_to(root / PACKAGE).with_suffix("").parts
    room = room_of(own)
    # What is above all rooms: the command, and the public functions.
    is_start = own in (("__main__",), ("api",))
    wrong = []
    for line, name in imports(path):
        parts = tuple(name.split("."))
        place = f"{path.name}:{line} in {room or 'ground'}: {name}"
        if parts[0] in NEVER or (parts[0] in ONLY_IN and room != ONLY_IN[parts[0]]):
            wrong.append(place)
        if parts[0] != PACKAGE or is_start:
            continue
        other = room_of(parts[1:])
        mine, theirs = FLOORS.get(room, GROUND), FLOORS.get(other, GROUND)
        if room != other and theirs >= mine and theirs != GROUND:
            wrong.append(place)
    return wrong


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    assert violations(path) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("enclave/bad.py", "from sgx_enclaves.rpm.check import check"),
        ("enclave/bad.py", "from sgx_enclaves import release"),
        ("explain/bad.py", "import sgx_enclaves.release.build"),
        ("enclave/bad.py", "def f():\n    from sgx_enclaves.report.forms import verdict_text"),
        ("enclave/bad.py", "from sgx_enclaves.cli.main import main"),
        ("gate/bad.py", "from sgx_enclaves.report.forms import verdict_text"),
        ("explain/bad.py", "from sgx_enclaves.cli.main import main"),
        ("release/bad.py", "from sgx_enclaves.rpm.check import check"),
        ("release/bad.py", "from sgx_enclaves.report.forms import verdict_text"),
        ("rpm/bad.py", "from sgx_enclaves.gate.record import Record"),
        ("gate/bad.py", "from sgx_enclaves.cli.main import main"),
        ("gate/bad.py", "import kojihub"),
        ("gate/bad.py", "from sgx_enclaves_hub.store import newest"),
        ("rpm/bad.py", "from sgx_enclaves.specs import render"),
        ("specs.py", "from sgx_enclaves.cli.main import main"),
        ("errors.py", "from sgx_enclaves.enclave.elf import EnclaveImage"),
        ("enclave/bad.py", "import rpm"),
        ("enclave/bad.py", "import http.client"),
        ("rpm/bad.py", "import koji"),
        ("cli/bad.py", "from rpmlint.checks import AbstractCheck"),
        ("cli/bad.py", "import koji_plugin.hub"),
    ],
)
def test_an_arrow_upwards_is_seen(tmp_path: Path, module: str, line: str) -> None:
    path = tmp_path / PACKAGE / module
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line + "\n")
    assert len(violations(path, tmp_path)) == 1


def test_every_folder_is_a_room_with_a_floor() -> None:
    folders = {p.parent.name for p in (ROOT / PACKAGE).glob("*/__init__.py")}
    assert folders | {"specs"} == set(FLOORS)


# Prefixes of places that exist on the machine of one developer only.
_PLACES = re.compile(r"/home/[a-z]{2}|/root/[.a-z]{2}|/Users/")
_TEXT = {".py", ".md", ".cfg", ".toml", ".json", ".jsonl", ".xml", ".c", ".h", ".S", ".lds", ".map"}
_SKIPPED = {"build", ".git", ".venv", "dist"}


def texts() -> list[Path]:
    found = []
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") and part != ".ci" for part in parts)
        if hidden or parts[0] in _SKIPPED or path == Path(__file__) or not path.is_file():
            continue
        if path.suffix in _TEXT or path.name in ("Makefile", "run"):
            found.append(path)
    return found


def test_no_file_names_a_place_of_one_machine() -> None:
    seen = texts()
    assert len(seen) > 50
    bad = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in seen
        for match in _PLACES.finditer(path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert bad == []


@pytest.mark.parametrize("text", ["see /home/jane/x", "/root/.cache", "/Users/jane"])
def test_a_place_of_one_machine_is_seen(text: str) -> None:
    assert _PLACES.search(text)


# Who decides over packages and builds reads facts of a release; the machine that fetches and
# builds one is not for them, nor is the schema library before a file is read.
_MACHINE = ("archive", "build", "fetch", "sandbox", "store", "transport", "vendor", "verify")


def test_gate_and_comparison_load_no_release_machine() -> None:
    code = (
        "import sys, sgx_enclaves.gate.collect, sgx_enclaves.specs, sgx_enclaves.cli.compare\n"
        "print(*sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(out.stdout.split())
    assert "sgx_enclaves.gate.collect" in loaded
    assert loaded & {f"sgx_enclaves.release.{name}" for name in _MACHINE} == set()
    assert "jsonschema" not in loaded
