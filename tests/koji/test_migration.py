# SPDX-License-Identifier: GPL-2.0-or-later
"""The hub plugin's SQL, and the way back that docs/koji.md describes, on Koji's own schema."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.koji.harness.daemon import DaemonError
from tests.koji.harness.settings import ROOT, Settings
from tests.koji.harness.site import MIGRATIONS, Site

NAME = "migrated"
TABLES = {"sgx_verification", "sgx_former_tag_name", "sgx_lock"}
PERMISSIONS = {"sgx-enclaves", "sgx-enclaves-lock"}
_INSERT = """
insert into sgx_verification
    (build_id, task_id, host_id, release, origin, verdict, reproducible, record)
select null, null, null, 'r', 'catalogue', 'identical', true, '{}'
"""


@pytest.fixture(scope="module")
def fresh(site: Site, settings: Settings) -> Any:
    """A database as a hub without the plugin has it."""
    site.database.another(NAME)
    site.database.load(settings.koji.schema, NAME)
    return site.database


def migrate(database: Any) -> None:
    for path in sorted(MIGRATIONS.glob("[0-9]*.sql")):
        database.load(path, NAME)


def things(database: Any) -> dict[str, set[str]]:
    """Our tables, triggers, functions and permissions."""
    queries = {
        "tables": "select relname n from pg_class where relkind = 'r' and relname ~ '^sgx_'",
        "triggers": "select tgname n from pg_trigger where tgname ~ '^sgx_'",
        "functions": "select proname n from pg_proc where proname ~ '^sgx_'",
        "permissions": "select name n from permissions where name ~ '^sgx'",
    }
    return {kind: {row["n"] for row in database.query(sql, NAME)} for kind, sql in queries.items()}


def rollback() -> str:
    """The statements in the section Rollback."""
    text = (ROOT / "docs/koji.md").read_text(encoding="utf-8")
    section = text.partition("### Rollback")[2].partition("\n## ")[0]
    return "\n".join(re.findall(r"^    (\w.*;)$", section, re.MULTILINE))


def test_there_and_back_and_there_again(fresh: Any) -> None:
    migrate(fresh)
    made = things(fresh)
    assert made["tables"] == TABLES
    assert made["permissions"] == PERMISSIONS
    assert made["triggers"]
    migrate(fresh)
    assert things(fresh) == made
    fresh.execute(rollback(), NAME)
    # Koji keeps permissions for its history.
    nothing: dict[str, set[str]] = {"tables": set(), "triggers": set(), "functions": set()}
    assert things(fresh) == {**nothing, "permissions": PERMISSIONS}
    migrate(fresh)
    assert things(fresh) == made


def test_a_record_of_nothing_is_refused_by_the_database_itself(fresh: Any) -> None:
    migrate(fresh)
    with pytest.raises(DaemonError, match="not-null"):
        fresh.execute(_INSERT, NAME)
