"""The leader's lease, and the archive of what compaction takes from the journal."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_REVISION = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.add_column("leader", sa.Column("address", sa.Text, nullable=False, server_default=""))
    op.add_column("leader", sa.Column("place", sa.Text, nullable=False, server_default=""))
    op.add_column("leader", sa.Column("expires_ms", sa.BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "archive",
        sa.Column("revision", _REVISION, primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("at_ns", sa.BigInteger, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("job", sa.Text, nullable=False),
        sa.Column("node", sa.Text, nullable=False),
    )
    op.create_index("archive_job", "archive", ["job", "revision"])
    op.create_index("archive_node", "archive", ["node", "revision"])
