"""Brings a database to this version's schema. Imports Alembic (0.3 s), so only when needed."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from controlplane.adapters.journal.schema import SCHEMA_VERSION
from controlplane.engine.ports import JournalCorrupt


def upgrade(connection: Connection, found: str | None) -> None:
    """Run the migrations from `found` (None: an empty database) to the newest, in the caller's transaction.

    Raises:
        JournalCorrupt: `found` is no schema that this version knows.
    """
    config = Config()
    config.set_main_option("script_location", "controlplane.adapters.journal:migrations")
    config.set_main_option("path_separator", "os")
    if found is not None:
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if found not in known:
            raise JournalCorrupt(
                f"the journal has schema version {found}, this version of Phalanx knows up to {SCHEMA_VERSION}; "
                f"start the version of Phalanx that wrote it, or a newer one; nothing was changed"
            )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
