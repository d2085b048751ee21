# SPDX-License-Identifier: GPL-2.0-or-later
"""What readers of plain data and of configuration files take, one thing changed at a time."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sgx_enclaves.plain import _validator
from tests.golden.stored import check
from tests.golden.subjects import CATALOGUE, manifest_data, read_plain, release_data
from tests.support.records import record
from tests.unit.koji.hub.fakehub import Delegate
from tests.unit.release.test_manifest import sample
from tests.unit.release.test_toolchain import LOCK

# One sign for each outcome, in the order of VALUES.
SIGNS: dict[str, str] = {"taken": "+"}
VALUES: Mapping[str, Any] = {
    "null": None,
    "empty": "",
    "text": "some text",
    "path": "../../x",
    "zero": 0,
    "less": -1,
    "much": 1 << 70,
    "half": 0.5,
    "true": True,
    "list": [],
    "table": {},
    "list of null": [None],
}
MANY = "many"
DIGEST = "ab" * 32
LONG = "x" * 100_000

INI_VALUES = (
    *("", "x", "0", "1", "-1", "1.5", "1e3", "9" * 20, "yes", "no", "/a", "a/b", "~"),
    *("https://h.example/x", "http://h.example/x", "h.example i.example", "* ?", DIGEST, "%(x)s"),
    *("max_age=90d", "max_age=x", "signer=demo", "signer=nobody", "release=sgx-*", "origin=vendor"),
)
BUILDER = {
    "fetch": {
        **{"cache": "/c", "hosts": "a.example", "lookaside": "https://l.example/x"},
        **{"lookaside_package": "p", "ca_file": "/ca"},
        **{"attempts": "2", "timeout": "3", "max_mib": "5"},
    },
    "catalogue": {"folders": "/f /g"},
    "build": {"make_timeout": "7", "wait_timeout": "8"},
}
HUB = {
    "tasks": {"channel": "sgx"},
    "hook": {"enabled": "yes", "build_tag": "b"},
    "hook targets": {"candidate": "target"},
    "signers": {"demo": DIGEST},
    "enforce": {"f42*": "signer=demo max_age=90d", "eln": ""},
}
RPMLINT = {
    "reference": {"pce": {"1.2": ["/a", "/b"]}, "qe3": "/c"},
    "signers": {"pce": DIGEST},
    "least_isvsvn": {"pce": 3},
    "permit": ["qve"],
    "quiet": "x",
}


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of the data; of a list, its first item of each form."""
    if path:
        yield path
    if isinstance(data, dict):
        for key, value in data.items():
            yield from places(value, (*path, key))
    elif isinstance(data, list):
        forms = set()
        for index, value in enumerate(data):
            form = tuple(sorted(value)) if isinstance(value, dict) else type(value)
            if form not in forms:
                forms.add(form)
                yield from places(value, (*path, index))


def shorter(reader: str, data: Any) -> Any:
    """The data without the items of lists that `places` does not visit, where it is still taken."""
    for depth in range(1, max(map(len, places(data)))):
        for path in [path for path in places(data) if len(path) == depth]:
            items = at_path(data, path)
            visited = {inner[0] for inner in places(items)} if isinstance(items, list) else set()
            for index in reversed(range(2, len(items) if visited else 0)):
                less = at_path(data, path)
                kept = put(data, path, less[:index] + less[index + 1 :])
                if index not in visited and read_plain(reader, kept) == "taken":
                    data = kept
    return data


def at_path(data: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        data = data[key]
    return data


def put(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at a place; what is elsewhere is shared, for nothing changes it."""
    changed = copy.copy(data)
    changed[path[0]] = put(data[path[0]], path[1:], value) if path[1:] else value
    return changed


def put_without(data: Any, path: tuple[Any, ...]) -> Any:
    """A copy without a place, that shares what is elsewhere, too."""
    within = copy.copy(at_path(data, path[:-1]))
    del within[path[-1]]
    return put(data, path[:-1], within) if path[:-1] else within


def changes(data: Any, path: tuple[Any, ...]) -> Iterator[Any]:
    """The data with each value at the place; without it; twice; with something unknown in it."""
    old = at_path(data, path)
    for value in VALUES.values():
        yield put(data, path, value)
    yield put(data, path, LONG)
    yield put_without(data, path)
    if isinstance(old, dict):
        yield put(data, path, {**old, "unknown": 1})
    if isinstance(old, list):
        yield put(data, path, old + old)
    if isinstance(old, str):
        yield put(data, path, f"{old}\n")
        yield put(data, path, f"{old}\x1b[31m")
        yield put(data, path, old.upper())


def table_of(reader: str, data: Any) -> list[str]:
    assert read_plain(reader, data) == "taken", reader
    lines = [f"{reader}, unknown at the top: {read_plain(reader, {**data, 'unknown': 1})}"]
    for path in places(data):
        outcomes = [read_plain(reader, changed) for changed in changes(data, path)]
        lines.append(f"{reader} {'.'.join(map(str, path))}: {shortened(outcomes)}")
    return lines


def shortened(outcomes: list[str]) -> str:
    """`+` for taken, `-` for the usual refusal, which is named; others by name."""
    usual = max(sorted(set(outcomes) - {"taken"}), key=outcomes.count, default="")
    others = sorted(set(outcomes) - {"taken", usual})
    signs = {"taken": "+", usual: "-", **{other: str(n) for n, other in enumerate(others)}}
    named = ", ".join(f"{signs[word]} {word}" for word in (usual, *others) if word)
    return f"{''.join(signs[word] for word in outcomes)} {named}"


def test_plain_data(tmp_path: Path) -> None:
    data = {
        "record": record(),
        "manifest": manifest_data(sample(), tmp_path),
        "lock": LOCK,
        "rpmlint": RPMLINT,
    }
    lines = [f"values: {', '.join(VALUES)}, long, absent; then by form: more, twice, odd texts"]
    for reader, plain in data.items():
        lines += table_of(reader, plain)
    check("plain-data.txt", "\n".join(lines))


@pytest.fixture(name="_sound_parts_once")
def _checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fits a part of a schema is not checked again while it is the same object."""
    validator, _formats = _validator()
    plainly = validator.descend
    sound: dict[tuple[int, int], Any] = {}

    def descend(self: Any, instance: Any, schema: Any, *where: Any, **named: Any) -> Iterator[Any]:
        key = id(instance), id(schema)
        if key in sound:
            return
        mistakes = list(plainly(self, instance, schema, *where, **named))
        if not mistakes:
            # Kept, so that no other object gets the number.
            sound[key] = instance, schema
        yield from mistakes

    monkeypatch.setattr(validator, "descend", descend)


@pytest.mark.usefixtures("_sound_parts_once")
def test_releases() -> None:
    """One with its sources and toolchain, and one whose enclaves were built elsewhere."""
    lines = []
    for name in ("sgx-2.25-dcap-1.22", "sgx-2.26-dcap-1.23"):
        path = CATALOGUE / f"{name}.toml"
        lines += [path.name, *table_of("release", shorter("release", release_data(path)))]
    check("plain-releases.txt", "\n".join(lines))


def ini(sections: Mapping[str, Mapping[str, str]]) -> str:
    lines = []
    for section, values in sections.items():
        lines += [f"[{section}]", *(f"{key} = {value}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def test_configuration_files(tmp_path: Path) -> None:
    assert Delegate.hub is None
    path = tmp_path / "x.conf"

    def outcome(reader: str, text: str) -> str:
        path.write_text(text)
        return read_plain(reader, path)

    lines = [f"values: {', '.join(map(repr, INI_VALUES))}"]
    for reader, sections in (("builder", BUILDER), ("hub", HUB)):
        assert outcome(reader, ini(sections)) == "taken"
        for section, values in sections.items():
            for key in values:
                found = [
                    outcome(reader, ini({**sections, section: {**values, key: value}}))
                    for value in INI_VALUES
                ]
                lines.append(f"{reader} [{section}] {key}: {shortened(found)}")
            more = ini({**sections, section: {**values, "unknown": "1"}})
            lines.append(f"{reader} [{section}] unknown: {outcome(reader, more)}")
        odd = {
            "unknown section": ini({**sections, "unknown": {}}),
            "twice": ini(sections) * 2,
            "no section": "key = value\n",
            "no value": "[tasks]\nchannel\n",
            "nothing": "",
            "DEFAULT": "[DEFAULT]\nx = 1\n",
        }
        lines += [f"{reader} {name}: {outcome(reader, text)}" for name, text in odd.items()]
    check("plain-configurations.txt", "\n".join(lines))
