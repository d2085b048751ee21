# SPDX-License-Identifier: GPL-2.0-or-later
"""Task `sgxEnclave`: build one enclave, or take it from a build, and hold signed files against it.

The parent names the release's very bytes and the packages' digests, so that all
subtasks work from the same. What is wrong with sources, vendor or packages is a
verdict; only what keeps the machinery from working fails the task.
"""

from __future__ import annotations

from typing import Any, ClassVar, Optional

import koji

from sgx_enclaves.releases.narrow import catalogue_from, only

from .job import EnclaveJob
from .signatures import CHILD
from .words import checked, name_or_id, number, text, truth, wrong
from .work import X86_64, SgxTask
from .workshop import Workshop


def _files(value: Any, name: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise wrong(name, "a mapping of names to texts", value)
    return {text(key, name): data for key, data in value.items()}


def _rpms(value: Any, name: str) -> list[dict[str, str]]:
    if not isinstance(value, list):
        raise wrong(name, "a list", value)
    known = {"name": text, "relative": text, "sha256": text}
    return [checked(item, known, name) for item in value]


_OPTIONS = {
    "repo_id": number,
    "releases": _files,
    "release_sha256": text,
    "rpms": _rpms,
    "allow_unpinned": truth,
    "unsigned_build": name_or_id,
}


class SgxEnclaveTask(SgxTask):
    """See the top of this module."""

    Methods: ClassVar[list[str]] = [CHILD]
    _taskWeight = 2.0

    def checkHost(self, hostdata: Any) -> bool:
        """Only x86_64 hosts can run this."""
        return X86_64 in hostdata["arches"].split()

    def handler(
        self,
        release: str,
        enclave: str,
        build_tag: Any,
        build: Any = None,
        opts: Optional[dict[str, Any]] = None,
    ) -> dict[str, Any]:
        """Give the answer about one enclave, as `sgx_enclaves.gate.collect` reads it."""
        options = checked(opts, _OPTIONS)
        if "releases" not in options or "repo_id" not in options:
            raise koji.ParameterError(f"{CHILD} is started by its parent, and is incomplete so")
        with self.at_work() as (config, log):
            catalogue = catalogue_from(
                {name: data.encode() for name, data in options["releases"].items()}
            )
            part = only(catalogue.release(release), enclave)
            tag = name_or_id(build_tag, "build_tag")
            with Workshop(self, config, log, part.name, tag, options["repo_id"]) as workshop:
                answer = EnclaveJob(workshop, catalogue, part).run(options)
            log(f"{answer.verdict}: {answer.claim}")
            mapping = answer.as_mapping()
            del mapping["task_id"]
            return mapping
