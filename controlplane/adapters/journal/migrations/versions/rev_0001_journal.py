"""The journal, its leader and its snapshots."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_REVISION = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "journal",
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
    op.create_index("journal_job", "journal", ["job", "revision"])
    op.create_index("journal_node", "journal", ["node", "revision"])
    leader = op.create_table(
        "leader",
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.CheckConstraint("id = 1", name="leader_one_row"),
    )
    op.bulk_insert(leader, [{"id": 1, "epoch": 0, "holder": ""}])
    op.create_table(
        "snapshots",
        sa.Column("revision", _REVISION, primary_key=True, autoincrement=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
