# SPDX-License-Identifier: GPL-2.0-or-later
"""Build steps that setup.cfg cannot express: packaging the rpmlint check and its `.pth` hook.

rpmlint loads checks from its own package only. The wheel therefore has a `.pth`
file, which Python reads at its start, that registers a finder for the one module.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

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
    cmdclass={"build_py": BuildWithHook},
)
