# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports whose words stand in templates/: pages of HTML, and texts of a fixed form.

Decides nothing. A page holds no script and loads nothing. jinja2 escapes every value in it;
`printable` makes every value of every report harmless. Records and answers of a build system
are plain mappings: a field that is missing is shown as unknown.
"""

from __future__ import annotations

import datetime
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from sgx_enclaves import __version__
from sgx_enclaves.catalogue.records import MAKERS
from sgx_enclaves.enclave import metadata, sigstruct
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.metadata import Descriptor
from sgx_enclaves.enclave.policy import known_signer
from sgx_enclaves.enclave.verdict import ByteRange, CheckState, Finding, Origin, Outcome, Verdict
from sgx_enclaves.explain.description import Description
from sgx_enclaves.explain.picture import Picture, Span, address_space, file_picture
from sgx_enclaves.plain import printable, some
from sgx_enclaves.release.outcome import BuildFacts, ReleaseVerdict
from sgx_enclaves.report import forms

if TYPE_CHECKING:
    import jinja2

    from sgx_enclaves.gate.collect import Combined
    from sgx_enclaves.rpm.check import PackageResult

# The picture of a file: its width, and how many bars it has. No bar is too thin to be seen: on a
# telephone 360 pixels wide one has 3.6.
_WIDTH, _BARS = 1000, 100
NO_PICTURE = Picture()
# What is said of claims, by how a check or a comparison ended.
_WORDS = ("Proved", "Refuted", "Not decided")
_SAID: Mapping[str, str] = dict(zip((*CheckState, *Outcome), _WORDS * 2))
_SAME = "is our build plus a signature, and nothing else"
# Exit status of what was not verified.
UNKNOWN_STATUS = 2
_HEADER = ("ENCLAVE", "VERDICT", "MRENCLAVE")
# Between columns, and how short a MRENCLAVE may be cut at most.
_GAPS, _LEAST = 4, 16

_BUILD_WORDS = {
    "DESIGNATED": "built here with the designated toolchain",
    "OPEN": "built here with the designated toolchain, NOT SEPARATED from the machine",
    "HOST": "built here with ANOTHER toolchain than the designated one",
    "GIVEN": "a build that was given; how it was made is not proved here",
    "NONE": "nothing was built",
}


def _title(verdict: str, reproducible: Optional[bool], name: str) -> str:
    """What a report begins with; the weaker *identical* is as visible as the other."""
    weaker = verdict == Outcome.IDENTICAL.value and reproducible is False
    return f"{verdict.upper()}{', NOT REPRODUCIBLE' if weaker else ''}: {name}"


def reproducible_words(verdict: ReleaseVerdict) -> str:
    """Whether an identical release is the reproducible verdict, in words."""
    if verdict.reproducible:
        return "reproducible: our own build, pinned sources, designated toolchain"
    return "the bytes are identical, but this is NOT the reproducible verdict"


def build_words(build: BuildFacts) -> str:
    """Whose build it is, by which route if not the maker's, and what a given one says of itself."""
    text = f"{build.tree}: {_BUILD_WORDS[build.kind.name]}"
    text += f", by the route {build.route!r}" if build.route not in ("", MAKERS) else ""
    return text + (f"; {build.says}" if build.says else "")


def counted(words: Iterable[str]) -> str:
    """How many there are of each."""
    return ", ".join(f"{count} {word}" for word, count in sorted(Counter(words).items()))


def _said(claims: Iterable[tuple[str, str]]) -> dict[str, Sequence[str]]:
    """What is said of each, by the word for how it ended."""
    said: dict[str, list[str]] = {word: [] for word in _WORDS}
    for ended, claim in claims:
        said[_SAID[ended]].append(claim)
    return dict(said)


def verdict_html(verdict: Verdict, picture: Picture = NO_PICTURE, date: str = "") -> str:
    """The whole report on one enclave, with a picture where the files are at hand."""
    said = _said((check.state, f"{check.name}: {check.claim}") for check in verdict.checks)
    causes = verdict.explanation.causes[:1] if verdict.explanation else ()
    said["Likely cause"] = [cause.message for cause in causes]
    said["Not proved"] = verdict.not_proved
    values = {"verdict": verdict, "picture": picture, "said": said, "date": date}
    claim = f"{verdict.signed.name.rpartition('/')[2]} {_SAME}"
    return filled("verdict.html", claim=claim, **values)


def bars(ranges: Sequence[ByteRange], start: int, end: int) -> list[tuple[int, int, str]]:
    """Bars in scale: place, width, and where the least explained of the bytes in each is from."""
    order = list(Origin)
    bars = [0] * _BARS
    size = max(end - start, 1)
    for item in ranges:
        first = max(item.start - start, 0) * _BARS // size
        last = (min(item.end, end) - start) * _BARS - 1
        for at in range(first, min(last // size + 1, _BARS)):
            bars[at] = max(bars[at], order.index(item.origin))
    width = _WIDTH // _BARS
    runs = [list(group) for _, group in groupby(range(_BARS), bars.__getitem__)]
    return [(run[0] * width, len(run) * width, order[bars[run[0]]].value) for run in runs]


def strip(spans: Iterable[Span], size: int) -> list[tuple[float, float, Span]]:
    """Place and width of each, in scale; whatever lies outside of all is left out."""
    scale = _WIDTH / max(size, 1)
    inside = [(max(s.start, 0), min(s.end, size), s) for s in spans]
    return [(round(a * scale, 2), round((b - a) * scale, 2), s) for a, b, s in inside if a < b]


def show_html(image: EnclaveImage, descriptor: Descriptor, description: Description) -> str:
    """A file as pictures: segments and sections, address spaces, signatures."""
    blocks = [(block, list(address_space(image, block))) for block in descriptor.blocks]
    picture = file_picture(image, descriptor.blocks)
    values = {"image": image, "description": description, "picture": picture, "blocks": blocks}
    return filled("show.html", **values)


def release_html(
    verdict: ReleaseVerdict, pictures: Mapping[str, Picture], report: Mapping[str, Any], date: str
) -> str:
    """One page, with a section for each enclave; sources, toolchain and digest by the report."""
    said: dict[tuple[Outcome, str], list[str]] = {}
    found = {enclave.name: (enclave.verdict or enclave).findings for enclave in verdict.enclaves}
    for enclave in verdict.enclaves:
        own, outcome = enclave.verdict, enclave.bytes_outcome
        words = own.headline if own is not None else f"stopped at {enclave.refused_by}"
        words = f"the vendor's file {_SAME}" if outcome is Outcome.IDENTICAL else words
        if own is not None and own.explanation is not None:
            words += "".join(f"; {cause.message}" for cause in own.explanation.causes[:1])
        said.setdefault((outcome, words), []).append(enclave.name)
    places: dict[Finding, dict[str, None]] = {}
    for name, findings in found.items():
        for finding in findings:
            places.setdefault(replace(finding, offset=None), {})[name] = None
    shared = {finding: list(names) for finding, names in places.items() if len(names) > 1}
    alone = {
        name: [f for f in findings if replace(f, offset=None) not in shared]
        for name, findings in found.items()
    }
    title = _title(verdict.outcome.value, verdict.reproducible, verdict.release)
    claim = verdict.claim
    if verdict.outcome is not Outcome.IDENTICAL:
        title, claim = f"{title}: {claim}", f"each enclave of the release {_SAME}"
    lines = _said((out, f"{', '.join(names)}: {words}") for (out, words), names in said.items())
    values: dict[str, object] = {"title": title, "claim": claim}
    values["said"] = {**lines, "Not proved": verdict.not_proved}
    values |= {"shared": shared, "alone": alone, "reported": sum(found.values(), ())}
    values |= {"pictures": pictures, "no_picture": NO_PICTURE, "date": date}
    return filled("release.html", verdict=verdict, report=report, **values)


def combined_html(combined: Combined, report: Mapping[str, Any], date: str = "") -> str:
    """What the tasks of a build system say of a build, in short; their own pages have the rest."""
    said = _said(
        (a.verdict, f"{a.enclave}: {a.claim.removeprefix(f'{a.enclave} ')}")
        for a in combined.answers
    )
    said["Not proved"] = report["not_proved"]
    claim = f"each signed enclave of {combined.nvr or combined.release} {_SAME}"
    return filled("combined.html", combined=combined, claim=claim, said=said, date=date)


def report_summary(report: Mapping[str, Any], form: str) -> str:
    """A report for programs in short: `md`, a table for a review, or `xml`, JUnit's for CI."""

    def against(item: Mapping[str, Any], start: str = "") -> list[str]:
        details = ("expected", "found")
        words = (
            start + ", ".join([f["message"], *(f"{part} {f[part]}" for part in details if f[part])])
            for f in item["findings"]
            if f["severity"] != "note"
        )
        return list(dict.fromkeys(words))

    def why(enclave: Mapping[str, Any]) -> list[str]:
        same = enclave["verdict"] == Outcome.IDENTICAL.value
        return against(enclave) or ([] if same else [enclave["headline"]])

    name = report["release"]["name"] if report["release"] else report["kind"]
    title = f"{_title(report['verdict'], report['reproducible'], name)}: {report['claim']}"
    # of the whole, and of what no enclave was found in
    found = [words for p in report["packages"] for words in against(p, f"{p['file']}: ")]
    found += against(report)
    weaker = report["verdict"] == "identical" and report["reproducible"] is False
    state = "weaker" if weaker else report["verdict"]
    cases = [(name, "verdict", state, "; ".join([title, *found]))]
    for enclave in report["enclaves"]:
        own = enclave["verdict"]
        state = own if enclave["required"] or own == Outcome.IDENTICAL.value else "not required"
        case = (enclave["package"] or name, enclave["path"] or enclave["name"])
        cases.append((*case, state, "; ".join(why(enclave))))
    values = {"title": title, "name": name, "report": report, "cases": cases}
    return filled(f"report.{form}", **values, found=found, why=why)


def release_text(verdict: ReleaseVerdict, *, width: int = 80) -> str:
    """The whole report on a release, in lines of `width`."""

    def row(label: str, text: str, mark: str = "", hang: int = 0) -> _Lines:
        start = f"{label:<10}{mark}"
        return _joined(forms.paragraph(text, width, start, len(start) + hang))

    title = _title(verdict.outcome.value, verdict.reproducible, verdict.release)
    values = {"title": f"{title}: {verdict.claim}", "row": row, "width": width}
    return filled("release.txt", verdict=verdict, **values)


def result_text(result: PackageResult, *, width: int = 80) -> str:
    """A package's result: much about what is wrong, little about what is right."""
    return filled("package.txt", result=result, width=width - 2).rstrip("\n")


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
    return "\n".join(forms.table(header, rows)) + "\n"


def enclave_table(enclaves: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """One row an enclave, its MRENCLAVE cut short rather than the line broken; its cause below."""
    cells = [[_known(e.get(name)) for name in ("name", "verdict", "mrenclave")] for e in enclaves]
    names, verdicts = (max(len(row[at]) for row in [_HEADER, *cells]) for at in (0, 1))
    room = max(width - names - verdicts - _GAPS, _LEAST)
    for row in cells:
        row[2] = row[2] if len(row[2]) <= room else f"{row[2][: room - 3]}..."
    lines = forms.table(_HEADER, cells)
    shown = lines[:1]
    for line, enclave in zip(lines[1:], enclaves):
        shown.append(line)
        if enclave.get("cause"):
            shown += forms.paragraph(str(enclave["cause"]), width, " " * (names + 2) + "cause: ")
    return shown


def _known(value: object) -> str:
    return printable(str("-" if value is None else value)) or "-"


def _moment(timestamp: object) -> str:
    if not isinstance(timestamp, (int, float)):
        return "-"
    moment = datetime.datetime.fromtimestamp(timestamp, datetime.timezone.utc)
    return moment.strftime("%Y-%m-%d %H:%M")


# What has a meaning in a table of Markdown.
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|])")


class _Lines(str):
    """Text that is printable already, line ends and all."""


def _joined(lines: Iterable[str]) -> _Lines:
    return _Lines("\n".join(lines))


def filled(template: str, **values: object) -> str:
    """A text or a page, by its file in templates/ without `.j2`, and the values that it names."""
    return _environment().get_template(f"{template}.j2").render(values)


@cache
def _environment() -> jinja2.Environment:
    """Of all templates; it keeps what it has compiled, which is most of a report's time."""
    import jinja2  # noqa: PLC0415  (slow to import; a comparison does without)

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(Path(__file__).with_name("templates"))),
        autoescape=jinja2.select_autoescape(["html.j2", "xml.j2"]),
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    own = (build_words, reproducible_words, counted, bars, strip)
    called = {function.__name__: function for function in (*own, forms.reasons, known_signer, some)}
    facts = {"version": __version__, "sigstruct": sigstruct, "added": metadata.PAGE_ATTR_NAMES}
    environment.globals.update(called, **facts, origins=list(Origin))
    # What a mapping lacks is no value at all to jinja2, and an empty text.
    environment.filters.update(
        cell=lambda text: _MARKDOWN.sub(r"\\\1", printable(text)),
        quote=shlex.quote,
        known=_known,
        paragraph=lambda text, *how: _joined(forms.paragraph(str(text), *how)),
        enclaves=lambda found, width: _joined(enclave_table(found, width)),
        finding=lambda found, start: _joined(start + line for line in forms.finding_lines(found)),
        verdict=lambda verdict, start, width: _joined(
            start + line for line in forms.verdict_text(verdict, width=width).splitlines()
        ),
    )
    return environment


def _shown(value: object) -> object:
    """Nothing for what is absent; what a template or a layout made stays as it is."""
    if value is None:
        return ""
    ready = isinstance(value, _Lines) or hasattr(value, "__html__")
    return value if ready else printable(str(value))
