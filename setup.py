# SPDX-License-Identifier: GPL-2.0-or-later
"""Build steps that setup.cfg cannot express: the rpmlint check and its `.pth` hook, and an
sdist that is the same each time.

rpmlint loads checks from its own package only. The wheel therefore has a `.pth`
file, which Python reads at its start, that registers a finder for the one module.
"""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HOOK = "import sgx_enclaves_rpmlint.hook as hook; hook.register()\n"


class BuildWithHook(build_py):
    """Adds the `.pth` file beside the packages."""

    def run(self) -> None:
        """Build as ever, then add it; an editable install has no place for it."""
        super().run()
        if not getattr(self, "editable_mode", False):
            Path(self.build_lib, "sgx_enclaves_rpmlint.pth").write_text(HOOK, encoding="ascii")

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """All files that are built."""
        outputs = list(super().get_outputs(include_bytecode))
        if not getattr(self, "editable_mode", False):
            outputs.append(str(Path(self.build_lib, "sgx_enclaves_rpmlint.pth")))
        return outputs


class SameArchive(sdist):
    """Writes an archive that depends on names, contents and $SOURCE_DATE_EPOCH alone."""

    def make_archive(
        self, base_name: str, format: str, root_dir: Any = None, base_dir: Any = None, **_: Any
    ) -> str:
        """A .tar.gz of `base_dir`, whatever the format."""
        when = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
        name = f"{base_name}.tar.gz"
        files = sorted(path for path in Path(base_dir).rglob("*") if path.is_file())
        with (
            gzip.GzipFile(name, "wb", mtime=when) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for path in files:
                member = tarfile.TarInfo(path.as_posix())
                member.size, member.mtime = path.stat().st_size, when
                with path.open("rb") as file:
                    tar.addfile(member, file)
        return name


setup(
    packages=[
        *find_packages(include=["sgx_enclaves", "sgx_enclaves.*"]),
        "sgx_enclaves.spec_templates",
        "sgx_enclaves_rpmlint",
    ],
    package_dir={
        "sgx_enclaves.spec_templates": "spec-templates",
        "sgx_enclaves_rpmlint": "rpmlint_checks/sgx_enclaves_rpmlint",
    },
    cmdclass={"build_py": BuildWithHook, "sdist": SameArchive},
)
