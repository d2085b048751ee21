# SPDX-License-Identifier: GPL-2.0-or-later
"""What a second build does otherwise, and how its results compare with the first's.

A build is reproducible when path, time, umask, locale, time zone and host name leave
no trace in it. SOURCE_DATE_EPOCH stays: it is how a build is told the time.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.files import read_file
from sgx_enclaves.format.elf import EnclaveImage
from sgx_enclaves.limits import DEFAULT_LIMITS
from sgx_enclaves.releases.build_sandbox import Isolation
from sgx_enclaves.releases.manifest import Difference, EnclaveRecord, SecondBuild
from sgx_enclaves.verdict.diffs import scan
from sgx_enclaves.verdict.places import Places

_SECOND_PLACE = "/sgx-enclaves-second"
_MOST = 64
# a little over a year, so that year, month, day, weekday and hour are all others
_LATER = "+34567890s"


@dataclass(frozen=True)
class Variation:
    """How one build is done.

    Attributes:
        root: path of its tree.
        umask: file mode mask.
        environment: variables that are other than usual.
        hostname: name of its machine.
        prefix: words that come before each command.
        varied: what is other than in the first build.
        not_varied: what should be other and is not, and why.
    """

    root: str
    umask: int
    environment: Mapping[str, str]
    hostname: str
    prefix: tuple[str, ...]
    varied: tuple[str, ...]
    not_varied: tuple[str, ...]


def first_variation(root: str, umask: int) -> Variation:
    """The build as the release describes it."""
    return Variation(root, umask, {}, "localhost", (), (), ())


def second_variation(root: str, umask: int, isolation: Isolation, scratch: Path) -> Variation:
    """The same build with everything otherwise that should not matter.

    Args:
        root: path of the tree in the first build.
        umask: mask of the first build.
        isolation: what can be changed here.
        scratch: where the tree is put if its path cannot be chosen.
    """
    varied = ["path", "umask", "locale", "timezone"]
    not_varied = []
    prefix: tuple[str, ...] = ()
    if isolation is Isolation.NONE:
        place = str(scratch / "second-place" / root.strip("/"))
        not_varied.append("hostname: it cannot be changed here")
    else:
        place = _SECOND_PLACE + root
        varied.append("hostname")
    faketime = shutil.which("faketime")
    if faketime is None:
        not_varied.append("time: faketime is not installed, so it is only a little later")
    else:
        prefix = (faketime, "-f", _LATER)
        varied.append("time")
    return Variation(
        root=place,
        umask=0o077 if umask != 0o077 else 0o022,
        environment={"LC_ALL": "C.UTF-8", "TZ": "SECOND-13:37"},
        hostname="second",
        prefix=prefix,
        varied=tuple(varied),
        not_varied=tuple(not_varied),
    )


def compare_builds(
    first: Path,
    second: Path,
    enclaves: tuple[tuple[EnclaveRecord, EnclaveRecord], ...],
    variation: Variation,
) -> SecondBuild:
    """Hold the results of two builds against each other.

    Args:
        first: the built directory.
        second: that of the second build.
        enclaves: the records of both, pair by pair.
        variation: of the second build.

    Raises:
        SgxEnclavesError: a result cannot be read.
    """
    differences: list[Difference] = []
    for one, other in enclaves:
        for kept, again in ((one.unsigned, other.unsigned), (one.config, other.config)):
            if kept is None:
                continue
            if again is None:
                differences.append(Difference(kept.file, None, 0, None))
            elif kept.sha256 != again.sha256:
                limit = DEFAULT_LIMITS.file_size
                left = read_file(str(first / kept.file), limit)
                right = read_file(str(second / again.file), limit)
                differences += find_differences(kept.file, left, right)
    return SecondBuild(variation.varied, variation.not_varied, tuple(differences))


def find_differences(file: str, left: bytes, right: bytes) -> list[Difference]:
    """The first stretches in which two files differ; sections are those of the first."""
    common = min(len(left), len(right))
    ranges = list(scan(left, right, [(0, common)], _MOST).ranges)
    if len(left) != len(right):
        ranges.append((common, max(len(left), len(right))))
    try:
        places = Places(EnclaveImage.parse(left, file))
    except SgxEnclavesError:
        return [Difference(file, start, end - start, None) for start, end in ranges]
    return [Difference(file, start, end - start, places.section(start)) for start, end in ranges]
