# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages of the documentation that are made from the code: `pages()` gives each with its lines."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import inspect
import io
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from man_pages import ENVIRONMENT, EXIT_STATUS

from sgx_enclaves import limits
from sgx_enclaves.cli.declare import VERBS, read_verbs
from sgx_enclaves.cli.main import parser_of

ROOT = Path(__file__).resolve().parent.parent
HUB = ROOT / "koji_plugin/hub/sgx_enclaves_hub"
REPORTS = {
    "report.json of every verb with --report": "evidence/report.schema.json",
    "What attest writes": "evidence/attestation.schema.json",
    "compare --json, verdict.json": "report/verdict.schema.json",
    "verify-release --json, release.json": "report/release.schema.json",
    "manifest.json of a built directory": "release/manifest.schema.json",
    "A record on Koji's hub, and a subtask's answer": "gate/record.schema.json",
    "What toolchain lock writes, and mock": "release/lock.schema.json",
    "What --identity names, as the vendor publishes it": "catalogue/identity.schema.json",
}
ARGUMENTS = "gate/arguments.schema.json"
# Attributes of rpmlint's options, by the keys of its table.
_LINT = {"references": "reference"}


def pages() -> Mapping[str, Iterator[str]]:
    """The lines of each page, by its name."""
    return {
        "verbs.md": verbs(),
        "exit-status.md": exit_statuses(),
        "release-keys.md": release_keys(),
        "reports.md": reports(),
        "configuration.md": configuration(),
        "rpcs.md": rpcs(),
        "limits.md": limits_page(),
        "api.md": api(),
    }


def api() -> Iterator[str]:
    """Sphinx makes it."""
    yield "# Functions for programs\n"
    yield "```{eval-rst}\n.. automodule:: sgx_enclaves.api"
    yield "   :members:\n   :imported-members:\n```"


def verbs() -> Iterator[str]:
    """Each verb's own help."""
    # So that the page does not depend on a terminal.
    os.environ["COLUMNS"] = "100"
    yield "# Verbs\n\nWhat `sgx-enclaves VERB --help` and `koji sgx-enclaves VERB --help` say.\n"
    for name in VERBS:
        yield f"## {name}\n\n```text\n{parser_of(name).format_help().rstrip()}\n```\n"
    sys.path.append(str(ROOT / "koji_plugin/cli"))
    parser = importlib.import_module("sgx_enclaves_cli").koji_parser()
    yield f"## koji sgx-enclaves\n\n```text\n{parser.format_help().rstrip()}\n```\n"
    for name in read_verbs(ROOT / "koji_plugin/cli/sgx_enclaves_cli.txt")[0]:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            parser.parse_args([name, "--help"])
        yield f"## koji sgx-enclaves {name}\n\n```text\n{said.getvalue().rstrip()}\n```\n"


def exit_statuses() -> Iterator[str]:
    """The statuses of all verbs, and what each verb says of its own."""
    yield "# Exit statuses\n\n| status | meaning |\n| --- | --- |"
    for status, meaning in re.findall(r"(\d+) {2}(.*)", EXIT_STATUS):
        yield f"| {status} | {meaning} |"
    yield "| 130 | interrupted |\n"
    yield "A verb that says more of its own:\n\n| verb | exit status |\n| --- | --- |"
    for name in VERBS:
        about = parser_of(name).description or ""
        # a paragraph about nothing else, or a sentence
        form = r"^Exit status.*?(?=\n\n|\Z)|[^.;]*\bexit status[^.;]*\."
        said = re.findall(form, about, re.DOTALL | re.MULTILINE)
        if said:
            yield f"| {name} | {cell(said[0])} |"


def cell(text: object) -> str:
    """A text as a cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def release_keys() -> Iterator[str]:
    """The keys of a release's TOML file."""
    schema = json.loads((ROOT / "sgx_enclaves/catalogue/schema.json").read_text("utf-8"))
    yield f"# Keys of a release\n\n{schema['description']} See [releases](releases.md).\n"
    yield from table(schema)


def reports() -> Iterator[str]:
    """The keys of each report for programs."""
    yield "# Reports for programs\n\nEach follows a JSON Schema, which the program carries.\n"
    for title, file in REPORTS.items():
        yield from section(title, file)


def section(title: str, file: str) -> Iterator[str]:
    """What a schema is about, and its keys; those of its definitions where it has no other."""
    schema = json.loads((ROOT / "sgx_enclaves" / file).read_text("utf-8"))
    if not {"properties", "$ref"} & set(schema):
        parts = {name: {"$ref": f"#/definitions/{name}"} for name in schema["definitions"]}
        schema["properties"], schema["required"] = parts, list(parts)
    yield f"## {title}\n\n{schema['title']}. {schema.get('description', '')}\n"
    yield from table(schema)


def table(schema: Mapping[str, Any]) -> Iterator[str]:
    """A row for each key of a JSON Schema."""
    yield "| key | value | |\n| --- | --- | --- |"
    for path, node, required in keys_of(schema, schema, "", ()):
        must = "" if required else "may be missing"
        yield f"| `{path}` | {value_of(schema, node)} | {must} |"
    yield ""


def resolved(schema: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    """A node, with what it refers to."""
    while "$ref" in node:
        target: Any = schema
        for part in node["$ref"].lstrip("#/").split("/"):
            target = target[part]
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    return node


def keys_of(
    schema: Mapping[str, Any], node: Mapping[str, Any], path: str, above: tuple[int, ...]
) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    """Path, node and whether it must be there, of each key below a node."""
    node = resolved(schema, node)
    for choice in node.get("oneOf", node.get("anyOf", ())):
        yield from keys_of(schema, choice, path, above)
    if id(node.get("properties")) in above:
        return
    for key, inner in node.get("properties", {}).items():
        place = f"{path}.{key}" if path else key
        found = resolved(schema, inner)
        yield place, found, key in node.get("required", ())
        within = (*above, id(node["properties"]))
        yield from keys_of(schema, found, place, within)
        if isinstance(found.get("items"), Mapping):
            yield from keys_of(schema, found["items"], f"{place}[]", within)
    if isinstance(node.get("additionalProperties"), Mapping):
        yield from keys_of(schema, node["additionalProperties"], f"{path}.NAME", above)


def value_of(schema: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    """What a key's value is, in words."""
    if "description" in node:
        return cell(node["description"])
    if "enum" in node or "const" in node:
        return cell(" or ".join(json.dumps(v) for v in node.get("enum", [node.get("const")])))
    choices = node.get("oneOf", node.get("anyOf"))
    if choices:
        return " or ".join(dict.fromkeys(value_of(schema, resolved(schema, c)) for c in choices))
    kinds = node.get("type", "anything")
    words = " or ".join([kinds] if isinstance(kinds, str) else kinds)
    if kinds == "array" and isinstance(node.get("items"), Mapping):
        return f"list of: {value_of(schema, resolved(schema, node['items']))}"
    return f"{words} like `{cell(node['pattern'])}`" if "pattern" in node else words


def configuration() -> Iterator[str]:
    """The files that are shipped, rpmlint's table, and the environment."""
    yield "# Configuration\n\n## Environment\n\n| variable | meaning |\n| --- | --- |"
    for name, meaning in re.findall(r"(\w+) {2}(.*)", ENVIRONMENT):
        yield f"| `{name}` | {cell(meaning)} |"
    for title, half in (
        ("Koji's builders: /etc/kojid/plugins/sgx_enclaves.conf", "builder"),
        ("Koji's hub: /etc/koji-hub/plugins/sgx_enclaves.conf", "hub"),
    ):
        folder = ROOT / "koji_plugin" / half
        text = (folder / "sgx_enclaves.conf").read_text("utf-8").rstrip()
        yield f"\n## {title}\n\n```ini\n{text}\n```\n"
        schema = folder / f"sgx_enclaves_{half}/config.schema.json"
        yield from table(json.loads(schema.read_text("utf-8")))
    yield "\n## rpmlint: the table [SgxEnclave]\n\nSee [rpmlint](rpmlint.md).\n"
    tree = ast.parse((ROOT / "rpmlint_checks/sgx_enclaves_rpmlint/options.py").read_text("utf-8"))
    options = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Options")
    meanings = attributes(inspect.cleandoc(ast.get_docstring(options) or ""))
    yield "| key | meaning |\n| --- | --- |"
    for name, meaning in meanings.items():
        if name != "problems":
            yield f"| `{_LINT.get(name, name)}` | {cell(meaning)} |"


def attributes(documentation: str) -> Mapping[str, str]:
    """The attributes that a docstring describes."""
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {6,}.*)*)", documentation, re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in found}


def rpcs() -> Iterator[str]:
    """The calls that the hub's plugin exports, by their docstrings."""
    yield "# Calls of Koji's hub\n\nWhat the plugin adds to its XML-RPC. See [Koji](koji.md).\n"
    for path in sorted(HUB.glob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if not isinstance(node, ast.FunctionDef):
                continue
            exported = [ast.unparse(d) for d in node.decorator_list]
            kinds = [d for d in exported if d.startswith("export")]
            if not kinds:
                continue
            name = f"host.{node.name}" if "host" in kinds[0] else node.name
            said = inspect.cleandoc(ast.get_docstring(node) or "")
            yield f"## {name}\n\n```text\n{name}({ast.unparse(node.args)})\n\n{said}\n```\n"
    yield from section("What each argument must be", ARGUMENTS)


def limits_page() -> Iterator[str]:
    """The fields of each record of limits, with their meanings and values."""
    yield "# Limits\n\nHow much memory and time a file may cost, whatever it claims about itself.\n"
    for name, record in vars(limits).items():
        if not (inspect.isclass(record) and dataclasses.is_dataclass(record)):
            continue
        documentation = inspect.getdoc(record) or ""
        meanings = attributes(documentation)
        yield f"## {name}\n\n{documentation.split(chr(10), 1)[0]}\n"
        yield "| limit | value | meaning |\n| --- | --- | --- |"
        for field in dataclasses.fields(record):
            yield f"| `{field.name}` | {cell(field.default)} | {meanings.get(field.name, '')} |"
        yield ""
