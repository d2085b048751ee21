# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands of the documents: each is one that the program takes, and each block is run.

They are run on the demo's files, with its test vendor in Intel's place. What needs a network, a
hub or hours is only parsed; `NOT_HERE` says why. The tutorial has its own test.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from sgx_enclaves.catalogue.reader import OWN_FOLDER
from sgx_enclaves.cli.declare import VERBS
from sgx_enclaves.cli.main import parser_of
from sgx_enclaves.errors import InputError
from tests.enclaves.compiled import PARTS, have_toolchain
from tests.integration.test_check_rpm import signed_by_vendor
from tests.support.keys import VENDOR_PEM, public_pem, vendor_key
from tests.support.once import built_enclaves
from tests.support_rpm import RpmFile, write_rpm
from tests.unit.evidence.conftest import as_built_here, edited

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *(p for p in sorted((ROOT / "docs").glob("*.md")) if p.stem != "tutorial"),
]
PROGRAMS: tuple[str, ...] = (
    "sgx-enclaves",
    "koji",
    "openssl",
    "rpmlint",
    "git",
    "mkdir",
    "sha256sum",
    "gpg",
)
PROGRAMS += ("rpmbuild", "pipx", "apt-get", "mock", "dnf", "python3", "build/venv/bin/python")
SHIPPED = OWN_FOLDER / "sgx-2.25-dcap-1.22.toml"
# How a command begins that is not run, and why.
NOT_HERE = {
    "apt-get": "tests/unit/test_setup.py looks at it",
    "build/venv/bin/python": "tests/unit/cli/test_manual.py and test_completions.py run it",
    "dnf": "needs the network",
    "git clone": "needs the network",
    "koji": "needs a hub: tests/koji",
    "mock": "needs the network: tests/integration/test_own_packages.py builds them",
    "pipx": "needs the network",
    "python3 -m venv": "needs the network",
    "rpmbuild": "tests/integration/test_spec_templates.py builds them",
    "rpmlint": "tests/integration/test_rpmlint.py runs it",
    "sgx-enclaves build": "needs the network: tests/integration/release/test_build_verbs.py",
    "sgx-enclaves fetch": "needs the network: tests/integration/release/test_fetch.py",
    **dict.fromkeys(
        (f"sgx-enclaves releases {action}" for action in ("new", "pin", "check", "repack")),
        "needs the network: tests/unit/catalogue",
    ),
    "sgx-enclaves verify-release": "needs the network: tests/integration/release",
    "gpg": "needs a secret key: tests/unit/evidence",
    "sgx-enclaves compare libsgx_qe3.so": "needs Intel's own identity: tests/unit/enclave",
    "sgx-enclaves sign enclave.so --config config.xml --public-key": "needs a token: "
    "tests/unit/cli/test_signing_verbs.py",
}
# Verbs that the test vendor is named to, and what is not 0.
WITH_POLICY = ("compare", "graft", "verify-signature", "check-rpm", "scan")
STATUS = {"sgx-enclaves toolchain check": 1}
# What stands for a file in a document, and the file.
WORDS = {
    "--signed FILE": "--signed libsgx_pce.signed.so",
    "--key PEM -o FILE": "--key rebuilder.pem -o new",
    "verify-attestation FILE... --key PUB": "verify-attestation attestation --key rebuilder.pub",
    "lint FILE": "lint ledger.jsonl",
    "show NAME --catalogue NAME.toml": "show name --catalogue name.toml",
}
FILES = {
    "ARCHIVE": "sources.tar.gz",
    "PACKAGE.rpm": "packages/signed.rpm",
    "SIGNED.rpm": "packages/signed.rpm",
    "UNSIGNED.rpm": "reference",
    "sgx-enclave-prebuilt-pce-signed-1.25-1.x86_64.rpm": "packages/signed.rpm",
    "sgx-enclave-prebuilt-pce-signed.rpm": "packages/signed.rpm",
    "REFERENCE": "reference",
    "DIR": "reference",
    "FOLDER": "packages",
    "/srv/mirror/fedora": "packages",
    "REPOSITORY": "repository",
    "COMMIT": "HEAD",
}


class Block(NamedTuple):
    page: str
    line: int
    commands: tuple[str, ...]


def blocks_of(page: Path) -> Iterator[Block]:
    """Runs of lines that are indented or fenced and begin with a program's name."""
    commands: list[str] = []
    first, fenced, goes_on = 0, False, False
    for number, line in enumerate([*page.read_text("utf-8").splitlines(), ""], 1):
        fenced ^= line.startswith("```")
        text = line.strip().removeprefix("$ ") if fenced or line.startswith("    ") else ""
        if goes_on:
            commands[-1] = commands[-1].rstrip("\\") + text
        elif text.split(" ")[0] in PROGRAMS:
            first = first or number
            commands.append(text)
        elif not text and commands:
            yield Block(page.name, first, tuple(commands))
            commands, first = [], 0
        goes_on = text.endswith("\\")


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def names(block: Block) -> str:
    return f"{block.page}:{block.line}"


@pytest.mark.parametrize("block", BLOCKS, ids=names)
def test_every_command_is_one_that_the_program_takes(block: Block) -> None:
    for line in block.commands:
        for command in line.split(";"):
            words = shlex.split(command.partition(" > ")[0], comments=True)
            if words[0] == "sgx-enclaves" and words[1] in VERBS:
                parser_of(words[1]).parse_args([w.replace("…", "x") for w in words[2:]])
            elif words[:2] == ["koji", "sgx-enclaves"]:
                plugin = pytest.importorskip("sgx_enclaves_cli", reason="needs Koji's library")
                plugin.koji_parser().parse_args(["1" if w == "TASK" else w for w in words[2:]])


def is_here(command: str) -> bool:
    return not any(command.startswith(start) for start in NOT_HERE)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all files that the documents name."""
    folder = tmp_path_factory.mktemp("documents")
    built = built_enclaves(tmp_path_factory) / PARTS["pce"].file
    config = PARTS["pce"].config.read_bytes()
    signed = signed_by_vendor(built, config)
    own = re.sub(rb"(?<=<ProdID>)[^<]*", b"7", config)
    files: Mapping[str, bytes] = {
        "libsgx_pce.so": built.read_bytes(),
        "enclave.so": built.read_bytes(),
        "own.so": built.read_bytes(),
        "THEIR-BUILD.so": built.read_bytes(),
        "libsgx_pce.signed.so": signed,
        "signed/libsgx_pce.signed.so": signed,
        "own.signed.so": signed_by_vendor(built, own),
        "config.xml": config,
        "own.config.xml": own,
        "vendor.pem": public_pem(vendor_key()),
        "public.pem": public_pem(vendor_key()),
        "name.toml": SHIPPED.read_bytes().replace(SHIPPED.stem.encode(), b"name"),
        "key.pem": VENDOR_PEM.read_bytes(),
        "reference/libsgx_pce.so": built.read_bytes(),
        "reference/libsgx_pce.config.xml": config,
        "packages/signed.rpm": write_rpm(
            [RpmFile("/usr/x86_64-intel-sgx/lib64/libsgx_pce.signed.so", signed)],
            provides=["sgx-enclave(pce:signed)"],
        ),
        "repository/source.c": b"int main;\n",
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    commands = (
        "git init -q repository && git -C repository add . && git -C repository"
        " -c user.name=x -c user.email=x commit -qm x",
        "git -C repository archive --prefix=top/ HEAD | gzip -n > sources.tar.gz",
        "sgx-enclaves compare libsgx_pce.so libsgx_pce.signed.so --config config.xml"
        " --report report --signer vendor.pem",
        "cp report/report.json report/head.json .",
        "for key in rebuilder a b c; do openssl genpkey -algorithm ed25519 -out $key.pem &&"
        " openssl pkey -in $key.pem -pubout -out $key.pub || exit; done",
        "for key in a b c; do sgx-enclaves attest built/report.json --key $key.pem -o"
        " $(echo $key | tr abc ABC) || exit; done",
        "sgx-enclaves attest built/report.json --key rebuilder.pem -o attestation",
        "sgx-enclaves ledger add ledger.jsonl attestation --key rebuilder.pub",
    )
    for command in commands:
        status, printed = run(folder, command)
        assert status == 0, printed
        if command.startswith("sgx-enclaves compare"):
            edited(folder, as_built_here, "built")
    return folder


def run(folder: Path, command: str) -> tuple[int, str]:
    """Its exit status, and what it printed."""
    done = subprocess.run(
        ["/bin/sh", "-c", f'sgx_enclaves() {{ "{sys.executable}" -m sgx_enclaves "$@"; }}\n'
         + re.sub(r"(^|[;&|] *|do )sgx-enclaves ", r"\1sgx_enclaves ", command)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout


def as_run(command: str) -> str:
    """A command of a document on our files, with the test vendor."""
    for words_there, words_here in WORDS.items():
        command = command.replace(words_there, words_here)
    words = [FILES.get(word, word) for word in re.split(r"(\s+)", command)]
    verb = command.split()[1]
    if words[0] == "sgx-enclaves" and verb in WITH_POLICY and "--signer" not in words:
        position = 3 if words[2] == verb else 1
        words.insert(position, " --signer vendor.pem")
    return "".join(words)


HERE = [block for block in BLOCKS if any(map(is_here, block.commands))]


@pytest.mark.slow
@pytest.mark.skipif(not have_toolchain(), reason="gcc, ld, strip or make is not installed")
@pytest.mark.parametrize("block", HERE, ids=names)
def test_a_block_of_commands_can_be_typed(block: Block, stock: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    shutil.copytree(stock, folder)
    for made in re.findall(r"-o (\S+)", " ".join(block.commands)):
        (folder / made).unlink(missing_ok=True)
    for command in filter(is_here, block.commands):
        expected = next((s for start, s in STATUS.items() if command.startswith(start)), 0)
        status, printed = run(folder, as_run(command))
        assert status == expected, f"$ {as_run(command)}\n{printed}"


def test_what_is_not_run_is_there() -> None:
    """An exception that nothing needs any more goes."""
    commands = [command for block in BLOCKS for command in block.commands]
    idle = [start for start in NOT_HERE if not any(c.startswith(start) for c in commands)]
    assert idle == []


def test_a_command_that_is_wrong_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Text.\n\n    sgx-enclaves show \\\n        x --frobnicate\n\n    other\n")
    (block,) = blocks_of(page)
    assert block.commands == ("sgx-enclaves show x --frobnicate",)
    with pytest.raises(InputError, match="--frobnicate"):
        test_every_command_is_one_that_the_program_takes(block)
    assert run(tmp_path, "sgx-enclaves show absent")[0] == 2
