# SPDX-License-Identifier: GPL-2.0-or-later
"""How much the check adds to rpmlint's own run, on packages of the size of Intel's.

The real rpmlint, oldest and newest, on packages of the real rpmbuild: the signed
enclave and its unsigned counterpart. Promised are 60 ms or 15 %, whichever is more.
Counted is processor time, of rpmlint and all that it starts: on an idle machine it is
the time that passes, and a busy one does not stretch it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.cases import MIB, Result, signed_pair

VERSIONS = ("2.4.0", "2.10.0")
# Intel's PCE has 2.0 MiB; the largest, QvE, has 3.7 MiB.
SIZES = {"PCE": 2 * MIB, "QvE": 15 * MIB // 4}
ROUNDS = 15
HOOK = "import sgx_enclaves_rpmlint.hook as hook; hook.register()\n"
_LEAST = 60.0
_SHARE = 0.15
_ROOT = Path(__file__).resolve().parents[1]
_FOLDER = "/usr/x86_64-intel-sgx/lib64"

_SPEC = """
%global debug_package %{{nil}}
%global __os_install_post %{{nil}}
Name: sgx-enclave-{name}
Version: 2.25
Release: 1
Summary: An enclave
License: BSD-3-Clause
BuildArch: x86_64
AutoReqProv: no
{provides}

%description
An enclave.

%install
mkdir -p %{{buildroot}}{folder} %{{buildroot}}/usr/share/sgx-enclaves
{install}

%files
{folder}/*
/usr/share/sgx-enclaves
"""


def rpmlint_added() -> list[Result]:
    """One result for each version and size; none where rpmlint or rpmbuild is missing."""
    results = []
    for what, size in SIZES.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            packages = _packages(folder, size) if shutil.which("rpmbuild") else []
            for version in VERSIONS if packages else ():
                python = _ROOT / "build" / f"rpmlint-{version}" / "bin" / "python"
                if python.exists():
                    results.append(_added(python, folder, packages, f"{what}, {version}"))
    if not results:
        print("not measured: rpmbuild or rpmlint is missing (make rpmlint)", file=sys.stderr)
    return results


def _packages(folder: Path, size: int) -> list[str]:
    built, signed, config = signed_pair(folder, code_like(size))
    library = f"{_FOLDER}/libsgx_pce"
    full = f"{library}.signed.so.1.25.100.1"
    signed_files = [
        f"install -m 755 {signed} %{{buildroot}}{full}",
        f"ln -s libsgx_pce.signed.so.1.25.100.1 %{{buildroot}}{library}.signed.so.1",
        f"ln -s libsgx_pce.signed.so.1 %{{buildroot}}{library}.signed.so",
    ]
    unsigned_files = [
        f"install -m 755 {built} %{{buildroot}}{library}.so",
        f"install -m 644 {config} %{{buildroot}}/usr/share/sgx-enclaves/pce.config.xml",
    ]
    signer = (folder / "signer").read_text()
    (folder / "site.toml").write_text(
        '[SgxEnclave]\nany_product = ["pce"]\n'
        f'[SgxEnclave.signers]\npce = "{signer}"\n[SgxEnclave.least_isvsvn]\npce = 0\n'
    )
    of_unsigned = ["unsigned", "unsigned:reproducible"]
    return [
        _rpmbuild(folder, "prebuilt-pce-signed", ["signed", "signed:prebuilt"], signed_files),
        _rpmbuild(folder, "reproducible-pce-unsigned", of_unsigned, unsigned_files),
    ]


def code_like(size: int) -> bytes:
    """Bytes that compress as machine code does: the largest file that runs in this process.

    The interpreter's own may be a few kilobytes, which repeated compress to nothing.
    """
    mapped = (line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines())
    files = {Path(words[5]) for words in mapped if "x" in words[1] and "/" in words[-1]}
    code = max((file.read_bytes() for file in files), key=len)
    return (code * (size // len(code) + 1))[:size]


def _rpmbuild(folder: Path, name: str, provides: list[str], install: list[str]) -> str:
    top = folder / name
    top.mkdir()
    lines = "\n".join(f"Provides: sgx-enclave(pce:{p}) = 2.25" for p in provides)
    spec = top / "package.spec"
    spec.write_text(
        _SPEC.format(name=name, provides=lines, folder=_FOLDER, install="\n".join(install))
    )
    argv = ["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {top}"]
    # As Fedora packs; of what gzip has packed, a QvE and its counterpart take 35 ms more.
    argv += ["--define", "_binary_payload w19.zstdio"]
    argv += ["--define", "_build_id_links none", str(spec)]
    subprocess.run(argv, check=True, stderr=subprocess.DEVNULL)
    return str(next(top.glob("RPMS/*/*.rpm")))


def _added(python: Path, folder: Path, packages: list[str], what: str) -> Result:
    without = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "XDG_CONFIG_DIRS": str(folder)}
    # As the wheel's .pth file does, which needs no installation.
    (folder / "sitecustomize.py").write_text(HOOK)
    with_check = {**without, "PYTHONPATH": f"{folder}:{_ROOT / 'rpmlint_checks'}:{_ROOT}"}
    argv = [str(python), str(python.with_name("rpmlint"))]
    argv += ["--config", str(folder / "site.toml"), *packages]
    seen = subprocess.run(argv, check=False, capture_output=True, text=True, env=with_check).stdout
    if "sgx-enclave-verified" not in seen:
        raise AssertionError(f"the enclave was not verified:\n{seen}")
    times: dict[bool, list[float]] = {False: [], True: []}
    # Alternate, so that both see the same machine.
    for _ in range(ROUNDS):
        for ours, environment in ((False, without), (True, with_check)):
            times[ours].append(_processor_time(argv, environment))
    own, whole = (1000 * min(times[ours]) for ours in (False, True))
    limit = max(_LEAST, _SHARE * own)
    return Result(f"added to rpmlint's {own:.0f} ms ({what})", whole - own, round(limit, 1), "ms")


def _processor_time(argv: list[str], environment: dict[str, str]) -> float:
    """Seconds that a program and its children spend computing."""
    out = subprocess.DEVNULL
    with subprocess.Popen(argv, stdout=out, stderr=out, env=environment) as process:
        _pid, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime
