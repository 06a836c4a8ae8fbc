"""The tables, the same for every database. A change here needs a migration and a new `SCHEMA_VERSION`."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, MetaData, SmallInteger, Table, Text

SCHEMA_VERSION = "0001"
"""The newest migration's name, here too so that opening a current database does not import Alembic (0.3 s)."""

metadata = MetaData()

_revision = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER PRIMARY KEY is the rowid in SQLite

journal = Table(
    "journal",
    metadata,
    Column("revision", _revision, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("cause", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Column("job", Text, nullable=False),
    Column("node", Text, nullable=False),
    Index("journal_job", "job", "revision"),
    Index("journal_node", "node", "revision"),
)
"""The columns stand in the order of the fields of `JournalEntry`."""

leader = Table(
    "leader",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("holder", Text, nullable=False),
    CheckConstraint("id = 1", name="leader_one_row"),
)
"""One row, written by the first migration with epoch 0. Every append updates it, which is what fences an old leader."""

snapshots = Table(
    "snapshots",
    metadata,
    Column("revision", _revision, primary_key=True, autoincrement=False),
    Column("digest", Text, nullable=False),
    Column("body", Text, nullable=False),
)
"""The columns stand in the order of the fields of `Snapshot`."""
