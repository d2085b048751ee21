# SPDX-License-Identifier: GPL-2.0-or-later
"""A verdict for people: a short text that fits a screen in the usual cases.

Decides nothing and leaves nothing that matters out: what is cut is counted.
Text out of the files is made printable, so that it cannot steer a terminal.

Tables of text for terminals. Knows no enclaves.

The verdict on a release for people: it fits a screen, and what is cut is counted.

Decides nothing. What weakens the verdict (facts that nobody pinned, another
toolchain) is as visible as the verdict itself. Text out of files is made printable.

An enclave's structures for people and for programs; judges nothing.

What a build system keeps of verifications, in words for a terminal.

Takes plain mappings as they come over the wire and decides nothing: a field that
is missing is shown as unknown. All text is made printable.

The result of a package check for programs and for people; decides nothing.
"""

from __future__ import annotations

import datetime
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.known import signer_named
from sgx_enclaves.enclave.metadata import (
    ATTRIBUTE_NAMES,
    DIRECTORY_NAMES,
    Block,
    Descriptor,
    Layout,
    LayoutEntry,
)
from sgx_enclaves.enclave.sigstruct import (
    FLAG_NAMES,
    MISC_NAMES,
    XFRM_NAMES,
    Sigstruct,
    spell,
    spell_secinfo,
)
from sgx_enclaves.enclave.verdict import (
    BlockFacts,
    Cause,
    Difference,
    FileFacts,
    Finding,
    Origin,
    Outcome,
    Severity,
    Verdict,
)
from sgx_enclaves.plain import as_plain, printable
from sgx_enclaves.release.outcome import (
    BuildFacts,
    BuildKind,
    EnclaveOutcome,
    ReleaseVerdict,
    Stage,
    StageState,
)
from sgx_enclaves.report.as_json import finding_dict, finding_lines, verdict_dict
from sgx_enclaves.rpm.check import EnclaveResult, PackageResult
from sgx_enclaves.rpm.scan import Survey

if TYPE_CHECKING:
    from sgx_enclaves.explain.description import Description

_GAP = "  "


def shorten(text: str, width: int) -> str:
    """At most `width` characters; what is cut off is marked."""
    return text if len(text) <= width else text[: max(width - 3, 1)] + "..."


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with each column as wide as its widest cell, the last one as it comes."""
    cells = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return [
        _GAP.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells
    ]


def wrapped(start: str, text: str, width: int) -> list[str]:
    """A paragraph that hangs behind `start`."""
    return textwrap.wrap(
        printable(text),
        max(width, 40),
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [start.rstrip()]


_LABEL = 9
# Lines of a terminal, and how many findings, causes and ranges to show: fewer
# when the report would not fit.
_SCREEN = 24
_AMOUNTS = ((6, 4, 3), (3, 3, 2), (2, 3, 1))
_DIGITS = 16
# Of a value in a finding, and of the bytes in a difference.
_VALUE = 32
_EXCERPT = 12

# The claims in words that fit a line; JSON and HTML have the full ones.
_CLAIMS = {
    "payload": "every byte outside the metadata equals our build",
    "metadata": "it follows from our build and the config, but for signatures",
    "measurement": "what was signed is the MRENCLAVE of our build",
    "signature": "every signature is valid",
    "policy": "expected signer and product, recent, not for debug",
}

# They say again what the checks, "block", "cause" and "where" say.
_SHOWN_ELSEWHERE = frozenset({"payload-differs", "metadata-differs", "measurement-differs"})


def sentence(verdict: Verdict) -> str:
    """The verdict as one precise sentence, the file named without its folder."""
    name = verdict.signed.name.rsplit("/", 1)[-1]
    if verdict.outcome is Outcome.IDENTICAL:
        return f"{name} is our build plus a signature, and nothing else"
    if verdict.outcome is Outcome.DIFFERS:
        return f"{name} is not our build plus a signature"
    return f"it is undecided whether {name} is our build plus a signature"


def verdict_text(verdict: Verdict, *, width: int = 80) -> str:
    """The whole report, lines of at most `width` where words allow it.

    Args:
        verdict: what to report.
        width: columns.
    """
    lines: list[str] = []
    for amounts in _AMOUNTS:
        lines = _wrapped(f"{verdict.outcome.value.upper()}: {sentence(verdict)}", width)
        for label, text in _rows(verdict, *amounts):
            lines += _wrapped(text, width, label)
        if len(lines) <= _SCREEN:
            break
    return "\n".join(lines) + "\n"


def _rows(
    verdict: Verdict, findings: int, most_causes: int, differences: int
) -> Iterator[tuple[str, str]]:
    """Label and text; a repeated label is left out."""
    yield "built", _file(verdict.built)
    yield "signed", _file(verdict.signed)
    yield "config", _file(verdict.config) + (f", SDK {verdict.sdk}" if verdict.sdk else "")
    for check in verdict.checks:
        yield check.state.value, f"{check.name}: {_CLAIMS.get(check.name, check.claim)}"
    if verdict.mrenclave is not None:
        yield "measured", verdict.mrenclave
    for block in verdict.blocks:
        yield f"block {block.index}", _block(block, verdict.mrenclave)
    yield "bytes", _bytes(verdict)
    explanation = verdict.explanation
    causes = explanation.causes if explanation is not None else ()
    explained = explanation is not None and bool(causes and explanation.differences)
    against = [
        f
        for f in verdict.findings
        if f.severity is not Severity.NOTE and not (explained and f.code in _SHOWN_ELSEWHERE)
    ]
    yield from _some("why", [_finding(f) for f in against], findings)
    notes = [f for f in verdict.findings if f.severity is Severity.NOTE]
    yield from _some("note", [_finding(f) for f in notes], findings)
    if explanation is None:
        return
    texts = [_cause(c, hint=index == 0) for index, c in enumerate(causes)]
    yield from _some("cause", texts, most_causes)
    listed = [_difference(d) for d in explanation.differences]
    yield from _some("where", listed, differences, explanation.omitted)


def _some(label: str, texts: list[str], most: int, omitted: int = 0) -> Iterator[tuple[str, str]]:
    for index, text in enumerate(texts[:most]):
        yield label if index == 0 else "", text
    more = max(0, len(texts) - most) + omitted
    if more:
        # Ranges beyond those that were kept are counted, nowhere listed.
        has = "--json has them" if not omitted else "--json has more"
        yield "", f"... and {more} more; {has}"


def _wrapped(text: str, width: int, label: Optional[str] = None) -> list[str]:
    """Lines with an indent that leaves the labels in a column of their own."""
    start = "" if label is None else f"{label:<{_LABEL}}"
    return textwrap.wrap(
        printable(text),
        max(width, 40),
        initial_indent=start,
        subsequent_indent=" " * _LABEL,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [start.rstrip()]


def _file(facts: FileFacts) -> str:
    return f"{facts.name}, {facts.size} bytes, sha256 {facts.sha256[:_DIGITS]}"


def _block(block: BlockFacts, ours: Optional[str]) -> str:
    signer = block.signer or f"unknown signer {block.mrsigner[:_DIGITS]}..."
    same = "same MRENCLAVE" if block.mrenclave == ours else f"MRENCLAVE {block.mrenclave[:8]}..."
    return (
        f"{same}, {signer}, ISVPRODID {block.isvprodid}, ISVSVN {block.isvsvn}, "
        f"{block.date}, {'DEBUG' if block.debug else 'not debug'}"
    )


def _bytes(verdict: Verdict) -> str:
    parts = [f"{origin.value} {verdict.bytes_of(origin)}" for origin in Origin]
    return ", ".join(parts)


def _finding(finding: Finding) -> str:
    where = f"block {finding.block}: " if finding.block is not None else ""
    at = f" (at 0x{finding.offset:x})" if finding.offset is not None else ""
    details = [
        f"{word} {_short(value)}"
        for word, value in (("expected", finding.expected), ("found", finding.found))
        if value is not None
    ]
    text = f"{where}{finding.message}{at}"
    if details:
        text += f": {', '.join(details)}"
    return text + (f"; {finding.hint}" if finding.hint else "")


def _short(value: str) -> str:
    return value if len(value) <= _VALUE else value[:_VALUE] + "..."


def _cause(cause: Cause, hint: bool) -> str:
    return cause.message + (f" -> {cause.hint}" if hint and cause.hint else "")


def _difference(difference: Difference) -> str:
    size = difference.end - difference.start
    # All metadata are in one section.
    section = None if difference.field and difference.where == "metadata" else difference.section
    name = " ".join(n for n in (section, difference.symbol, difference.field) if n)
    measured = "measured" if difference.measured else "not measured"
    more = "..." if 2 * size > _EXCERPT else ""
    change = f"{_start_of(difference.expected, more)} -> {_start_of(difference.found, more)}"
    what = "" if difference.where == "payload" else f" {difference.where}"
    place = f"0x{difference.start:x}+{size}{what} {name or '(no section)'}"
    return f"{place}, {measured}, {change}"


def _start_of(digits: str, more: str) -> str:
    return digits[:_EXCERPT] + more if digits else "nothing"


_ROW_LABEL = 10
_HANG = 19
_REASONS = 3
_UNPINNED = 6
_MISMATCHES = 3
_LONGEST_VALUE = 72

_BUILD_WORDS = {
    BuildKind.DESIGNATED: "built here with the designated toolchain",
    BuildKind.HOST: "built here with ANOTHER toolchain than the designated one",
    BuildKind.GIVEN: "a build that was given; how it was made is not proved here",
    BuildKind.NONE: "nothing was built",
}


def release_text(verdict: ReleaseVerdict, *, width: int = 80) -> str:
    """The whole report.

    Args:
        verdict: what to report.
        width: columns.
    """
    lines = _wrapped_row("", headline(verdict), width)
    for row in _release_rows(verdict):
        lines += _wrapped_row(f"{row.label:<{_ROW_LABEL}}{row.mark}", row.text, width, row.hang)
    return "\n".join(lines) + "\n"


def headline(verdict: ReleaseVerdict) -> str:
    """The verdict as one precise sentence."""
    return f"{verdict.outcome.value.upper()}: {verdict.release}: {verdict.claim}"


class _Row(NamedTuple):
    """A label in the first column, or none; a mark before the text; how far later lines hang."""

    label: str
    text: str
    mark: str = ""
    hang: int = 0


def _release_rows(verdict: ReleaseVerdict) -> Iterator[_Row]:
    yield _Row("release", verdict.title)
    if verdict.outcome is Outcome.IDENTICAL:
        yield _Row("verdict", reproducible_words(verdict))
    for build in verdict.builds:
        yield from _build(build)
    if verdict.unpinned:
        names = ", ".join(verdict.unpinned[:_UNPINNED])
        more = len(verdict.unpinned) - _UNPINNED
        names += f" and {more} more" if more > 0 else ""
        said = "accepted by --allow-unpinned" if verdict.unpinned_allowed else "not accepted"
        yield _Row("UNPINNED", f"{said}: {names}")
    told: set[Finding] = set()
    for index, stage in enumerate(verdict.stages):
        yield _Row("stages" if index == 0 else "", _stage(stage), hang=_HANG)
        if stage.state is StageState.REFUSED:
            # what is wrong with the toolchain stands with the build
            if stage.name != "toolchain":
                yield from _reasons(stage.findings)
            yield from (_Row("", f"-> {hint}", "    ") for hint in _hints(stage.findings))
            told |= set(stage.findings)
    for index, enclave in enumerate(verdict.enclaves):
        yield _Row("enclaves" if index == 0 else "", _enclave(enclave), hang=_HANG)
        findings = enclave.verdict.findings if enclave.verdict is not None else enclave.findings
        yield from _reasons(f for f in findings if f not in told)
    for enclave in verdict.enclaves:
        if not enclave.may_ship:
            yield _Row("MAY NOT", f"be shipped: {enclave.name}: {enclave.reason}")
    notes = [f.message for s in verdict.stages for f in s.findings if _worth_a_line(f)]
    for notice in (*verdict.notices, *notes):
        yield _Row("note", notice)


def reproducible_words(verdict: ReleaseVerdict) -> str:
    """Whether an identical release is the reproducible verdict, in words."""
    if verdict.reproducible:
        return "reproducible: our own build, pinned sources, designated toolchain"
    return "the bytes are identical, but this is NOT the reproducible verdict"


def _worth_a_line(finding: Finding) -> bool:
    """Notes on the toolchain are told with the build."""
    return finding.severity is Severity.NOTE and finding.code != "toolchain-not-designated"


def build_words(build: BuildFacts) -> str:
    """Whose build it is, and what a given one says of itself."""
    text = f"{build.tree}: {_BUILD_WORDS[build.kind]}"
    return text + (f"; {build.says}" if build.says else "")


def _build(build: BuildFacts) -> Iterator[_Row]:
    yield _Row("build", build_words(build))
    if build.mismatches:
        shown = "; ".join(build.mismatches[:_MISMATCHES])
        more = len(build.mismatches) - _MISMATCHES
        yield _Row("TOOLCHAIN", shown + (f"; and {more} more" if more > 0 else ""))


def _stage(stage: Stage) -> str:
    seconds = f" ({stage.seconds:.1f} s)" if stage.seconds >= 0.05 else ""
    detail = f" {stage.detail}" if stage.detail else ""
    return f"{stage.name:<9} {stage.state.value:<8}{detail}{seconds}"


def _enclave(enclave: EnclaveOutcome) -> str:
    outcome = enclave.bytes_outcome.value
    parts = []
    if enclave.verdict is not None:
        if enclave.verdict.mrenclave is not None:
            parts.append(f"MRENCLAVE {enclave.verdict.mrenclave[:16]}...")
        if enclave.refused_checks:
            parts = ["compare refuses: " + ", ".join(enclave.refused_checks)]
    else:
        parts.append(f"stopped at {enclave.refused_by}")
    if enclave.unpinned:
        parts.append(f"NOT PINNED: {', '.join(enclave.unpinned)}")
    if not enclave.required:
        parts.append("not required")
    return f"{enclave.name:<9} {outcome:<12} {', '.join(parts)}"


def _reasons(findings: Iterable[Finding]) -> Iterator[_Row]:
    """Each reason once: an enclave's blocks often have the same."""
    against = (reason_words(f) for f in findings if f.severity is not Severity.NOTE)
    texts = list(dict.fromkeys(against))
    for text in texts[:_REASONS]:
        yield _Row("", text, "  - ")
    if len(texts) > _REASONS:
        yield _Row("", f"and {len(texts) - _REASONS} more, see the JSON report", "  - ")


def _hints(findings: Iterable[Finding]) -> list[str]:
    """The next steps, each once."""
    return list(
        dict.fromkeys(f.hint for f in findings if f.hint and f.severity is not Severity.NOTE)
    )


def reason_words(finding: Finding) -> str:
    """A finding in one line."""
    details = [
        f"{word} {value if len(value) <= _LONGEST_VALUE else value[:_LONGEST_VALUE] + '...'}"
        for word, value in (("expected", finding.expected), ("found", finding.found))
        if value is not None
    ]
    return finding.message + (f": {', '.join(details)}" if details else "")


def _wrapped_row(start: str, text: str, width: int, hang: int = 0) -> list[str]:
    return textwrap.wrap(
        printable(text),
        max(width, 40),
        initial_indent=start,
        subsequent_indent=" " * (max(len(start), _ROW_LABEL) + hang),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [start.rstrip()]


def show_dict(
    image: EnclaveImage, descriptor: Descriptor, description: Description
) -> dict[str, object]:
    """Everything that was read, as a plain mapping; numbers are integers, bytes hexadecimal."""
    return {
        "file": image.name,
        "size": len(image.data),
        "interpreter": description.interpreter,
        "build_id": description.build_id,
        "comments": as_plain(description.comments),
        "producers": as_plain(description.producers),
        "features": as_plain(description.features),
        "sections": as_plain(description.sections),
        "symbols": len(description.symbols),
        "not_described": as_plain(description.problems),
        "segments": [s.as_dict() for s in image.load_segments],
        "tls_size": image.tls_size,
        "descriptor": {
            "offset": image.descriptor_offset,
            "size": image.descriptor_size,
            "note_type": image.note_type,
            "tail_is_zero": not any(descriptor.tail),
        },
        "blocks": [_block_dict(block) for block in descriptor.blocks],
    }


def _block_dict(block: Block) -> dict[str, object]:
    sigstruct = block.sigstruct
    mrsigner = sigstruct.mrsigner.hex()
    return {
        "offset": block.offset,
        "version": str(block.version),
        "header": block.header.as_dict(),
        "sigstruct": {
            **sigstruct.as_dict(),
            "mrsigner": mrsigner,
            "signer": signer_named(mrsigner),
            "debug": sigstruct.is_debug,
        },
        "directories": {
            name: directory.as_dict() for name, directory in zip(DIRECTORY_NAMES, block.directories)
        },
        "patches": [p.as_dict() for p in block.patches],
        "layout": [{"name": block.layout_name(i), **i.as_dict()} for i in block.layout],
        "elrange": None if block.elrange is None else block.elrange.as_dict(),
        "extensions": [e.as_dict() for e in block.extensions],
    }


def show_lines(image: EnclaveImage, descriptor: Descriptor, description: Description) -> list[str]:
    """The same for people: a table per block."""
    lines = [
        f"{image.name}: {len(image.data)} bytes, SGX enclave",
        f"  interpreter  {description.interpreter or 'none'}",
        f"  build id     {description.build_id or 'none'}",
    ]
    compilers = (*(description.comments or ()), *description.producers)
    lines += [f"  compiler     {text}" for text in dict.fromkeys(compilers)]
    lines += [
        f"  section      {s.address:10x}+{s.size:<8x} {printable(s.name)}"
        for s in description.sections
        if s.name
    ]
    lines += [f"  NOT DESCRIBED: {text}" for text in description.problems]
    lines += [
        f"  segment {index}    {s.rights}  file 0x{s.p_offset:x}+0x{s.p_filesz:x}  "
        f"memory 0x{s.p_vaddr:x}+0x{s.p_memsz:x}"
        for index, s in enumerate(image.load_segments)
    ]
    lines.append(
        f"  metadata     {image.descriptor_size} bytes at 0x{image.descriptor_offset:x}, "
        + (f"{len(descriptor.blocks)} block(s)" if descriptor.is_signed else "empty: not signed")
    )
    if any(descriptor.tail):
        lines.append("  metadata     the bytes behind the last block are NOT zero")
    for index, block in enumerate(descriptor.blocks):
        lines += ["", *_block_lines(index, block)]
    return lines


def _block_lines(index: int, block: Block) -> list[str]:
    header = block.header
    lines = [f"block {index}: metadata {block.version}, {header.size} bytes"]
    lines += _table(_sigstruct_rows(block.sigstruct))
    lines += _table(
        [
            ("enclave size", f"0x{header.enclave_size:x}"),
            ("SSA frame", f"{header.ssa_frame_size} page(s), XSAVE {header.max_save_buffer_size}"),
            ("TCS policy", "unbound" if header.tcs_policy else "bound"),
            ("TCS min pool", str(header.tcs_min_pool)),
            ("SECS attributes", spell(header.attributes_flags, FLAG_NAMES)),
            ("SECS XFRM", spell(header.attributes_xfrm, XFRM_NAMES)),
        ]
    )
    if block.elrange is not None:
        entry = block.elrange
        lines += _table(
            [
                (
                    "ELRANGE",
                    f"0x{entry.elrange_start_address:x}+0x{entry.elrange_size:x}, "
                    f"image at 0x{entry.enclave_image_address:x}",
                )
            ]
        )
    if block.fips_offset is not None:
        lines += _table([("FIPS signature", f"at 0x{block.fips_offset:x} of the block")])
    lines.append("  layout            offset       pages  page type  attributes")
    lines += [f"    {_layout_line(block.layout_name(item), item)}" for item in block.layout]
    lines.append("  patches           file offset <- block offset, bytes")
    lines += [f"    0x{p.dst:x} <- 0x{p.src:x}, {p.size}" for p in block.patches]
    return lines


def _sigstruct_rows(sigstruct: Sigstruct) -> list[tuple[str, str]]:
    mrsigner = sigstruct.mrsigner.hex()
    rows = [
        ("MRENCLAVE", sigstruct.enclavehash.hex()),
        ("MRSIGNER", mrsigner),
        ("signer", signer_named(mrsigner) or "not one of the known signers"),
        ("ISVPRODID", str(sigstruct.isvprodid)),
        ("ISVSVN", str(sigstruct.isvsvn)),
        ("date", sigstruct.date_text),
        ("debug", "YES: may be opened for debugging" if sigstruct.is_debug else "no"),
        (
            "attributes",
            f"{spell(sigstruct.attributes_flags, FLAG_NAMES)} "
            f"(mask 0x{sigstruct.attributemask_flags:x})",
        ),
        (
            "XFRM",
            f"{spell(sigstruct.attributes_xfrm, XFRM_NAMES)} "
            f"(mask 0x{sigstruct.attributemask_xfrm:x})",
        ),
        (
            "MISCSELECT",
            f"{spell(sigstruct.miscselect, MISC_NAMES)} (mask 0x{sigstruct.miscmask:x})",
        ),
        ("vendor field", f"0x{sigstruct.vendor:x} (proves nothing)"),
    ]
    if any(sigstruct.isvfamilyid) or any(sigstruct.isvextprodid):
        rows.append(("ISVFAMILYID", sigstruct.isvfamilyid.hex()))
        rows.append(("ISVEXTPRODID", sigstruct.isvextprodid.hex()))
    return rows


def _table(rows: list[tuple[str, str]]) -> list[str]:
    return [f"  {name:<17} {value}" for name, value in rows]


def _layout_line(name: str, item: Layout) -> str:
    if not isinstance(item, LayoutEntry):
        return (
            f"{name:<16}the {item.entry_count} entries above, {item.load_times} more time(s), "
            f"every 0x{item.load_step:x} bytes"
        )
    kind = spell_secinfo(item.si_flags) if item.si_flags else "-"
    attributes = spell(item.attributes, ATTRIBUTE_NAMES) if item.attributes else "not added"
    return f"{name:<16}0x{item.rva:<10x} {item.page_count:>6}  {kind:<9}  {attributes}"


# Exit status of each verdict; what has none of them was not verified.
STATUS = {"identical": 0, "differs": 1, "unverifiable": 2}
UNKNOWN_STATUS = 2
_HEADER = ("ENCLAVE", "VERDICT", "MRENCLAVE")
_RECORDS_TEXT_LABEL = 12
# Between columns, and how short a MRENCLAVE may be cut at most.
_GAPS, _LEAST = 4, 16


def exit_status(verdict: object) -> int:
    """0 identical, 1 differs, 2 unverifiable or none."""
    return STATUS.get(str(verdict), UNKNOWN_STATUS)


def enclave_table(enclaves: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """One row an enclave: name, verdict, MRENCLAVE; why not, below it.

    Args:
        enclaves: mappings with name, verdict, mrenclave and cause.
        width: columns; a MRENCLAVE is cut short rather than the line broken.
    """
    names = max([len(_HEADER[0]), *(len(_text(e, "name")) for e in enclaves)])
    verdicts = max([len(_HEADER[1]), *(len(_text(e, "verdict")) for e in enclaves)])
    room = max(width - names - verdicts - _GAPS, _LEAST)
    rows = [
        (_text(e, "name"), _text(e, "verdict"), shorten(_text(e, "mrenclave"), room))
        for e in enclaves
    ]
    header, *lines = table(_HEADER, rows)
    shown = [header]
    for line, enclave in zip(lines, enclaves):
        shown.append(line)
        if enclave.get("cause"):
            shown += wrapped(" " * (names + 2) + "cause: ", str(enclave["cause"]), width)
    return shown


def answer_text(result: Mapping[str, Any], width: int = 100) -> str:
    """What a verification task gave."""
    lines = [_headline(result)]
    lines += wrapped("", _text(result, "claim"), width)
    lines += _weaker(result, width)
    lines += ["", *enclave_table(list(result.get("enclaves") or ()), width)]
    if result.get("record") is not None:
        lines += ["", f"record {_text(result, 'record')} is kept on the hub"]
    return "\n".join(lines) + "\n"


def record_text(record: Mapping[str, Any], width: int = 100) -> str:
    """One record, in full but for its list of packages, which is counted."""
    rpms = list(record.get("rpms") or ())
    rows = (
        ("record", f"{_text(record, 'id')}, made by task {_text(record, 'task_id')}"),
        (
            "verified",
            f"{_text(record, 'verified_at')} by version {_text(record, 'plugin_version')}",
        ),
        ("release", f"{_text(record, 'release')} ({_text(record, 'origin')})"),
        ("toolchain", _text(record, "toolchain_sha256")),
        ("report", _text(record, "report_sha256")),
        ("packages", f"{len(rpms)}, each with its digest"),
    )
    lines = [_headline({**record, "build": record.get("nvr")})]
    lines += _weaker(record, width)
    lines += [f"{label:<{_RECORDS_TEXT_LABEL}}{text}" for label, text in rows]
    lines += ["", *enclave_table(list(record.get("enclaves") or ()), width)]
    return "\n".join(lines) + "\n"


def records_table(records: Sequence[Mapping[str, Any]]) -> str:
    """One line a record; the newest first, as the hub gives them."""
    rows = [
        (
            _text(record, "id"),
            _text(record, "nvr"),
            _text(record, "verdict"),
            _text(record, "release"),
            _day(record.get("create_ts")),
            ", ".join(sorted({_text(e, "name") for e in record.get("enclaves") or ()})),
        )
        for record in records
    ]
    header = ("RECORD", "BUILD", "VERDICT", "RELEASE", "WHEN", "ENCLAVES")
    return "\n".join(table(header, rows)) + "\n"


def gate_text(build: str, tag: str, status: Mapping[str, Any], width: int = 100) -> str:
    """Whether a tag takes a build, and why not."""
    word = "ALLOWED" if status.get("allowed") else "DENIED"
    record = status.get("record")
    if not status.get("present"):
        enclaves = "the build holds no signed enclave"
    elif status.get("verified"):
        enclaves = f"the build's signed enclaves are verified (record {printable(str(record))})"
    else:
        enclaves = "the build holds signed enclaves that are not verified, as below"
    gated = (
        "is gated" if status.get("enforced") else "is not gated (sgx_enclaves.enforce is not set)"
    )
    lines = [printable(f"{word}: {build} into {tag}"), f"  {enclaves}", f"  the tag {gated}"]
    for reason in status.get("reasons") or ():
        lines += wrapped("  - ", str(reason), width)
    if not status.get("enforced"):
        lines += wrapped("  ", "the hub's tag policy may still refuse, with these reasons", width)
    return "\n".join(lines) + "\n"


def _headline(found: Mapping[str, Any]) -> str:
    verdict = _text(found, "verdict").upper()
    what = f"{_text(found, 'build')} against " if found.get("build") else ""
    return f"{verdict}: {what}release {_text(found, 'release')}"


def _weaker(found: Mapping[str, Any], width: int) -> list[str]:
    """What is to be said of an identical that is not the reproducible verdict."""
    if found.get("verdict") != "identical" or found.get("reproducible"):
        return []
    words = "not the reproducible verdict: a gate takes it only with reproducible=no"
    return wrapped("NOTE: ", words, width)


def _text(mapping: Mapping[str, Any], key: str) -> str:
    value = mapping.get(key)
    return "-" if value is None else printable(str(value))


def _day(timestamp: object) -> str:
    if not isinstance(timestamp, (int, float)):
        return "-"
    moment = datetime.datetime.fromtimestamp(timestamp, datetime.timezone.utc)
    return moment.strftime("%Y-%m-%d %H:%M")


# Changes whenever a reader of the old form could misread the new one.
SCHEMA_VERSION = 1
# In words; JSON has all.
_MOST_LINKS = 20


def result_dict(result: PackageResult) -> dict[str, object]:
    """A package's result as a plain mapping; see `PackageResult`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "file": result.file,
        "package": result.nevra,
        "outcome": _word(result.outcome),
        "exit_status": result.exit_status,
        "findings": [finding_dict(f) for f in result.findings],
        "enclaves": [_enclave_dict(e) for e in result.enclaves],
    }


def _enclave_dict(enclave: EnclaveResult) -> dict[str, object]:
    return {
        "path": enclave.path,
        "links": list(enclave.links),
        "name": enclave.name,
        "signed": enclave.signed,
        "size": enclave.size,
        "sha256": enclave.sha256,
        "reference": enclave.reference,
        "outcome": _word(enclave.outcome),
        "exit_status": enclave.exit_status,
        "findings": [finding_dict(f) for f in enclave.findings],
        "verdict": None if enclave.verdict is None else verdict_dict(enclave.verdict),
    }


def _word(outcome: Optional[Outcome]) -> Optional[str]:
    return None if outcome is None else outcome.value


def result_text(result: PackageResult) -> str:
    """A package's result for people: much about what is wrong, little about what is right."""
    name = f" ({result.nevra})" if result.nevra else ""
    lines = [printable(f"{result.file}{name}: {_summary(result)}")]
    for finding in result.findings:
        lines += _indented(finding_lines(finding))
    for enclave in result.enclaves:
        lines += ["", *_enclave_lines(enclave)]
    return "\n".join(lines)


def _summary(result: PackageResult) -> str:
    if result.outcome is not None:
        counts = Counter(e.outcome.value for e in result.enclaves if e.outcome is not None)
        enclaves = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
        # The whole may be worse than each part: say what the parts are.
        return result.outcome.value.upper() + (f" (enclaves: {enclaves})" if enclaves else "")
    if result.enclaves:
        return f"{len(result.enclaves)} unsigned enclave(s), nothing to verify"
    return "no enclave"


def _enclave_lines(enclave: EnclaveResult) -> list[str]:
    name = f", enclave {enclave.name}" if enclave.name else ""
    state = "signed" if enclave.signed else "unsigned"
    if any(f.code == "enclave-malformed" for f in enclave.findings):
        state = "malformed"
    lines = [
        printable(f"{enclave.path}: {state}{name}, {enclave.size} bytes"),
        f"  sha256    {enclave.sha256}",
    ]
    lines += [printable(f"  link      {link}") for link in enclave.links[:_MOST_LINKS]]
    if len(enclave.links) > _MOST_LINKS:
        lines.append(f"  link      and {len(enclave.links) - _MOST_LINKS} more")
    if enclave.reference is not None:
        lines.append(printable(f"  reference {enclave.reference}"))
    for finding in enclave.findings:
        lines += _indented(finding_lines(finding))
    verdict = enclave.verdict
    if verdict is not None and verdict.outcome is Outcome.IDENTICAL:
        lines.append(printable(f"  IDENTICAL {sentence(verdict)}"))
        lines.append(f"  MRENCLAVE {verdict.mrenclave}")
    elif verdict is not None:
        text = verdict_text(verdict, width=78)
        lines += [f"  {line}" for line in text.rstrip("\n").split("\n")]
    return lines


def _indented(lines: list[str]) -> list[str]:
    return [printable(f"  {line}") for line in lines]


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """A report as `result_dict` gives it, in a line for the package and one for each enclave."""
    word = (report["outcome"] or "unsigned").upper()
    lines = [f"{report['file']}: {word}"]
    lines += [f"  {finding['message']}" for finding in report["findings"]]
    for enclave in report["enclaves"]:
        verdict = enclave["verdict"]
        findings = enclave["findings"] + (verdict["findings"] if verdict else [])
        said = enclave["outcome"] or "unsigned"
        if findings:
            said += f": {findings[0]['message']}"
        elif verdict:
            said += f", MRENCLAVE {verdict['mrenclave']}"
        lines.append(f"  {enclave['path']}: {said}")
    return [printable(line) for line in lines]


def survey_dict(survey: Survey) -> dict[str, object]:
    """What a scan rests on, as a plain mapping."""
    return {
        "scanned": len(survey.targets) + survey.passed,
        "by_repodata_alone": survey.passed,
        "listed_but_absent": survey.absent,
        "repodata_problems": [problem.as_dict() for problem in survey.problems],
    }


def scan_summary(survey: Survey, reports: Sequence[Mapping[str, Any]]) -> str:
    """One line about a whole scan.

    Args:
        survey: what it was about.
        reports: those that were worth a report.
    """
    enclaves = [enclave for report in reports for enclave in report["enclaves"]]
    carrying = sum(bool(report["enclaves"]) for report in reports)
    broken = sum(bool(report["findings"]) for report in reports)
    counts = Counter(enclave["outcome"] or "unsigned" for enclave in enclaves)
    words = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
    scanned = f"{len(survey.targets) + survey.passed} packages"
    if survey.passed:
        scanned += f" ({survey.passed} by repodata alone)"
    if survey.absent:
        scanned += f", {survey.absent} more listed but not there"
    return (
        f"{scanned}, {carrying} with enclaves, {broken} with something wrong; "
        f"enclaves: {words or 'none'}"
    )
