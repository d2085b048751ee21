# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports whose words stand in templates/: pages of HTML, and texts of a fixed form.

Decides nothing. A page holds no script and loads nothing. jinja2 escapes every value in
it; `printable` makes every value of every report harmless. Records and answers of a
build system are plain mappings as they come over the wire: a field that is missing is
shown as unknown.
"""

from __future__ import annotations

import datetime
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sgx_enclaves import __version__
from sgx_enclaves.enclave import metadata, sigstruct
from sgx_enclaves.enclave.policy import signer_named
from sgx_enclaves.enclave.verdict import ByteRange, CheckState, Origin, Outcome, Verdict
from sgx_enclaves.plain import printable
from sgx_enclaves.release.outcome import EnclaveOutcome, ReleaseVerdict
from sgx_enclaves.report.text import (
    build_words,
    headline,
    paragraph,
    reasons,
    reproducible_words,
    shorten,
    table,
)

# The picture of a file: its width, how many bars it has, and how high they are. Height
# says the same as colour, and no bar is too thin to be seen.
_WIDTH, _BARS = 1000, 250
_HEIGHTS = {
    Origin.BUILT: 14,
    Origin.REGENERATED: 21,
    Origin.SIGNATURE: 28,
    Origin.SECOND_SIGNATURE: 34,
    Origin.UNEXPLAINED: 40,
}
# Exit status of what was not verified.
UNKNOWN_STATUS = 2
_HEADER = ("ENCLAVE", "VERDICT", "MRENCLAVE")
# Between columns, and how short a MRENCLAVE may be cut at most.
_GAPS, _LEAST = 4, 16

# What every template can call and name.
_GLOBALS: Mapping[str, Any] = {
    "version": __version__,
    "signer_named": signer_named,
    "spell": sigstruct.spell,
    "secinfo": sigstruct.spell_secinfo,
    "flags": sigstruct.FLAG_NAMES,
    "xfrm": sigstruct.XFRM_NAMES,
    "misc": sigstruct.MISC_NAMES,
    "added": metadata.ATTRIBUTE_NAMES,
    "build_words": build_words,
    "reproducible_words": reproducible_words,
    "heights": {origin.value: height for origin, height in _HEIGHTS.items()},
}


# --- pages ---


def verdict_html(verdict: Verdict) -> str:
    """The whole report on one enclave."""
    ranges = verdict.byte_map
    metadata_ranges = [r for r in ranges if r.origin not in (Origin.BUILT, Origin.UNEXPLAINED)]
    area = (metadata_ranges[0].start, metadata_ranges[-1].end) if metadata_ranges else None
    words: dict[bool, list[str]] = {True: [], False: []}
    for check in verdict.checks:
        proved = check.state is CheckState.PROVED
        state = "" if proved else f"{check.state.value}: "
        words[proved].append(f"{state}{check.name}: {check.claim}")
    return filled(
        "verdict.html",
        verdict=verdict,
        proved=words[True],
        refuted=words[False],
        origins=tuple(Origin),
        whole=_picture(ranges, 0, verdict.signed.size),
        area=area,
        magnified=_picture(ranges, *area) if area else (),
    )


def _picture(ranges: Sequence[ByteRange], start: int, end: int) -> list[tuple[int, int, str]]:
    """Bars of a file, or of a part of it, in scale: place, width, origin.

    A bar says of the bytes that it stands for where the least explained of them is from.
    """
    order = list(_HEIGHTS)
    bars = [0] * _BARS
    size = max(end - start, 1)
    for item in ranges:
        first = max(item.start - start, 0) * _BARS // size
        last = (min(item.end, end) - start) * _BARS - 1
        for at in range(first, min(last // size + 1, _BARS)):
            bars[at] = max(bars[at], order.index(item.origin))
    width = _WIDTH // _BARS
    picture: list[tuple[int, int, str]] = []
    for at, rank in enumerate(bars):
        origin = order[rank].value
        if picture and picture[-1][2] == origin:
            picture[-1] = (picture[-1][0], picture[-1][1] + width, origin)
        else:
            picture.append((at * width, width, origin))
    return picture


def release_html(verdict: ReleaseVerdict) -> str:
    """The whole report on a release, with links to each enclave's own."""
    words: dict[bool, list[str]] = {True: [], False: []}
    for enclave in verdict.enclaves:
        own = enclave.verdict
        said = own.headline if own is not None else f"stopped at {enclave.refused_by}"
        words[enclave.bytes_outcome is Outcome.IDENTICAL].append(f"{enclave.name}: {said}")
    return filled(
        "release.html",
        title=headline(verdict),
        verdict=verdict,
        proved=words[True],
        refuted=words[False],
    )


def release_summary(verdict: ReleaseVerdict, form: str) -> str:
    """The verdict on a release in short: `md`, a table for a review, or `xml`, JUnit's for CI."""

    def why(enclave: EnclaveOutcome) -> list[str]:
        own = enclave.verdict
        stopped = [f"stopped at {enclave.refused_by}"] if enclave.refused_by else []
        return stopped + reasons(own.findings if own is not None else enclave.findings)

    required = [enclave for enclave in verdict.enclaves if enclave.required]
    return filled(
        f"release.{form}",
        title=headline(verdict),
        verdict=verdict,
        failed=[e for e in required if e.bytes_outcome is Outcome.DIFFERS],
        undecided=[e for e in required if e.bytes_outcome is Outcome.UNVERIFIABLE],
        why=why,
    )


# --- texts of a build system ---


def exit_status(verdict: object) -> int:
    """0 identical, 1 differs, 2 unverifiable or none."""
    return {"identical": 0, "differs": 1}.get(str(verdict), UNKNOWN_STATUS)


def records_table(records: Sequence[Mapping[str, Any]]) -> str:
    """One line a record; the newest first, as the hub gives them."""
    rows = [
        (
            *(_known(record.get(name)) for name in ("id", "nvr", "verdict", "release")),
            "no" if record.get("outdated") else "yes",
            _moment(record.get("create_ts")),
            ", ".join(sorted({_known(e.get("name")) for e in record.get("enclaves") or ()})),
        )
        for record in records
    ]
    header = ("RECORD", "BUILD", "VERDICT", "RELEASE", "CURRENT", "WHEN", "ENCLAVES")
    return "\n".join(table(header, rows)) + "\n"


def enclave_table(enclaves: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """One row an enclave: name, verdict, MRENCLAVE; why not, below it.

    Args:
        enclaves: mappings with name, verdict, mrenclave and cause.
        width: columns; a MRENCLAVE is cut short rather than the line broken.
    """
    cells = [[_known(e.get(name)) for name in ("name", "verdict", "mrenclave")] for e in enclaves]
    names, verdicts = (max(len(row[at]) for row in [_HEADER, *cells]) for at in (0, 1))
    room = max(width - names - verdicts - _GAPS, _LEAST)
    header, *lines = table(_HEADER, [(*row[:2], shorten(row[2], room)) for row in cells])
    shown = [header]
    for line, enclave in zip(lines, enclaves):
        shown.append(line)
        if enclave.get("cause"):
            shown += paragraph(str(enclave["cause"]), width, " " * (names + 2) + "cause: ")
    return shown


def _known(value: object) -> str:
    return "-" if value is None else printable(str(value))


def _moment(timestamp: object) -> str:
    if not isinstance(timestamp, (int, float)):
        return "-"
    moment = datetime.datetime.fromtimestamp(timestamp, datetime.timezone.utc)
    return moment.strftime("%Y-%m-%d %H:%M")


# --- templates ---


# What has a meaning in a table of Markdown.
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|])")


class _Lines(str):
    """Text that is printable already, line ends and all."""


def _joined(lines: Iterable[str]) -> _Lines:
    return _Lines("\n".join(lines))


def filled(template: str, **values: object) -> str:
    """A text or a page.

    Args:
        template: its file in templates/ without `.j2`, such as `build.txt`.
        values: what it names.
    """
    import jinja2  # noqa: PLC0415  (slow to import; a comparison does without)

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(Path(__file__).with_name("templates"))),
        autoescape=template.endswith((".html", ".xml")),
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(_GLOBALS)
    # What a mapping lacks is no value at all to jinja2, and an empty text.
    environment.filters.update(
        cell=lambda text: _MARKDOWN.sub(r"\\\1", printable(text)),
        quote=shlex.quote,
        known=lambda value: str("-" if value is None else value) or "-",
        paragraph=lambda text, *how: _joined(paragraph(str(text), *how)),
        enclaves=lambda found, width: _joined(enclave_table(found, width)),
    )
    return environment.get_template(f"{template}.j2").render(values)


def _shown(value: object) -> object:
    """Nothing for what is absent; what a template or a layout made stays as it is."""
    if value is None:
        return ""
    ready = isinstance(value, _Lines) or hasattr(value, "__html__")
    return value if ready else printable(str(value))
