# SPDX-License-Identifier: GPL-2.0-or-later
"""What is promised about speed and memory, one function a promise."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.scan import rates, run, seconds
from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.measure import mrenclave
from sgx_enclaves.enclave.regenerate import regenerate
from sgx_enclaves.enclave.sdk import generation_named
from sgx_enclaves.enclave.sign import load_key
from tests.enclaves.synthetic import small_enclave

MIB = 1 << 20
PAGE = 4096
# Bytes hashed for a measured page: EADD, and 16 times EEXTEND with 256 bytes.
MEASURED_PAGE = 64 + 16 * (64 + 256)
ROUNDS = 5


@dataclass(frozen=True)
class Result:
    """One measured value and the most that it may be."""

    what: str
    value: float
    limit: float
    unit: str = "times"

    @property
    def kept(self) -> bool:
        """Whether the promise is kept."""
        return self.value <= self.limit


def _best(action: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The shortest of several runs, in seconds: the least disturbed one."""
    return min(seconds(action) for _ in range(rounds))


def _measuring(**options: int) -> Callable[[], bytes]:
    """What measures a small enclave with these options."""
    image = EnclaveImage.parse(small_enclave())
    block = regenerate(image, Config(options), generation_named("2.25")).blocks[0]
    return lambda: mrenclave(image, block)


def measure_stacks() -> list[Result]:
    """256 MiB of measured stacks cost little more than hashing as many bytes."""
    size = 256 * MIB
    bulk = bytes(size // PAGE * MEASURED_PAGE)
    raw = _best(lambda: hashlib.sha256(bulk).digest())
    stacks = {"StackMinSize": size, "StackMaxSize": size, "HeapMinSize": 0, "HeapMaxSize": 0}
    ours = _best(_measuring(**stacks))
    return [Result("measure 256 MiB of stacks / raw SHA-256", ours / raw, 1.25)]


def measure_memory() -> list[Result]:
    """Measuring takes no more memory than the file and 32 MiB."""
    script = (
        "import resource\n"
        "from benchmarks import cases\n"
        "image = cases.EnclaveImage.parse(cases.small_enclave())\n"
        "size = 256 << 20\n"
        "config = cases.Config({'StackMinSize': size, 'StackMaxSize': size})\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "cases.regenerate(image, config, cases.generation_named('2.25'))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", script]
    grown = int(subprocess.run(command, check=True, capture_output=True).stdout)
    return [Result("more memory while measuring", grown / 1024, 32 + 1, "MiB")]


def measure_heap() -> list[Result]:
    """A heap of 4 GiB is added, not measured: less than a second."""
    measure = _measuring(HeapMinSize=4096 * MIB, HeapMaxSize=4096 * MIB)
    return [Result("measure a heap of 4 GiB", _best(measure), 1, "s")]


def measure_linear() -> list[Result]:
    """Four times the pages cost at most five times the time."""
    sizes = (64 * MIB, 256 * MIB)
    times = [_best(_measuring(StackMinSize=size, StackMaxSize=size)) for size in sizes]
    return [Result("measure 256 MiB / 64 MiB", times[1] / times[0], 5)]


def compare_process() -> list[Result]:
    """The whole command on a 2 MB enclave: at most 3 imports of an RSA library."""
    with tempfile.TemporaryDirectory() as folder:
        built, signed, config = signed_pair(Path(folder), bytes(2 * MIB))
        command = [
            *(sys.executable, "-m", "sgx_enclaves", "compare", str(built), str(signed)),
            *("--config", str(config), "--signer", (Path(folder) / "signer").read_text()),
        ]
        reference = [sys.executable, "-c", "import cryptography.hazmat.primitives.asymmetric.rsa"]
        ours, theirs = [], []
        run(*command)
        # Alternate, so that both see the same machine.
        for _ in range(3 * ROUNDS):
            theirs.append(_best(lambda: run(*reference), 1))
            ours.append(_best(lambda: run(*command), 1))
    return [Result("compare / import of rsa, whole processes", min(ours) / min(theirs), 3)]


def signed_pair(folder: Path, data: bytes) -> tuple[Path, Path, Path]:
    """An enclave with this data, the same signed, its config.xml, and `signer`, its MRSIGNER."""
    import datetime  # noqa: PLC0415

    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat  # noqa: PLC0415

    from sgx_enclaves.enclave.sign import sign  # noqa: PLC0415

    pem = rsa.generate_private_key(3, 3072).private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    )
    key = load_key(pem)
    image = EnclaveImage.parse(small_enclave(data=data))
    config = b"<EnclaveConfiguration><DisableDebug>1</DisableDebug></EnclaveConfiguration>"
    metadata = regenerate(image, Config.parse(config), generation_named("2.25"))
    signed = sign(image, metadata, key, datetime.date(2026, 1, 1))
    modulus = key.public_key().public_numbers().n.to_bytes(384, "little")
    paths = folder / "enclave.so", folder / "enclave.signed.so", folder / "config.xml"
    for path, content in zip(paths, (image.data, signed, config)):
        path.write_bytes(content)
    (folder / "signer").write_text(hashlib.sha256(modulus).hexdigest())
    return paths


def scan_packages() -> list[Result]:
    """Packages without enclaves: 5 times as many a second as an rpm process for each.

    One rpm process for all is a program in C with nothing to start: it is only
    said how a scan stands to it, and that it is not far off.
    """
    per_second = rates()
    return [
        Result(f"scan by {way} / {rpm}, time a package", per_second[rpm] / per_second[way], limit)
        for rpm, limit in (("rpm for each", 1 / 5), ("rpm for all", 4))
        for way in ("repodata", "headers")
        if way in per_second and rpm in per_second
    ]


CASES = (
    measure_memory,
    measure_stacks,
    measure_heap,
    measure_linear,
    compare_process,
    scan_packages,
)
