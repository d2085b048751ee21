# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds the enclaves of this folder from source, and says what each one is.

Needs gcc, GNU ld, strip and make; see `have_toolchain`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

HERE = Path(__file__).resolve().parent

_TOOLS = ("make", "gcc", "ld", "strip")


@dataclass(frozen=True)
class Part:
    """An enclave that plays the part of one of Intel's.

    Attributes:
        name: its name in file names, e.g. "id_enclave".
        sdk: the SDK release that its g_global_data names.
    """

    name: str
    sdk: str

    @property
    def file(self) -> str:
        """Its file name, unsigned."""
        return f"libsgx_{self.name}.so"

    @property
    def config(self) -> Path:
        """Its config.xml."""
        return HERE / "configs" / f"{self.name}.config.xml"


PARTS: Mapping[str, Part] = {
    part.name: part
    for part in (
        Part("pce", "2.25"),
        Part("id_enclave", "2.17"),
        Part("qe3", "2.26"),
        Part("tdqe", "2.25"),
    )
}

# Variants of the pce whose difference no measurement sees: it lies in sections that
# are not loaded, or in g_global_data, which the loader overwrites.
UNMEASURED_VARIANTS = ("comment", "unstripped", "debug", "sdk-version")
MEASURED_VARIANTS = (
    "interp",
    "interp-same-length",
    "no-interp",
    "build-id",
    "hash-style",
    "opt",
    "lfence",
    "retpoline",
    "cet",
    "textrel",
    "textrel-code",
    "constant",
    "build-path",
    "build-date",
    "link-order",
)


def have_toolchain() -> bool:
    """Whether the enclaves can be built here."""
    return all(shutil.which(tool) for tool in _TOOLS)


def build_enclaves(
    out: Path, *targets: str, source: Path = HERE, tools: Optional[Mapping[str, str]] = None
) -> None:
    """Run the Makefile.

    Args:
        out: folder that receives the enclaves.
        *targets: "all", "variants", "variant-NAME"; none: "all".
        source: a copy of this folder to build from.
        tools: other tools: CC, LD, STRIP.

    Raises:
        subprocess.CalledProcessError: a tool failed; its messages are in `stderr`.
    """
    settings = [f"{name}={value}" for name, value in (tools or {}).items()]
    # An outer make would pass its flags and job server on.
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
    subprocess.run(
        ["make", "-s", "-C", str(source), f"OUT={out.resolve()}", *settings, *targets],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )


def variant_file(out: Path, name: str) -> Path:
    """Where `build_enclaves(out, "variant-NAME")` puts the enclave."""
    return out / "variants" / name / PARTS["pce"].file
