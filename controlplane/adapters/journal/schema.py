"""The tables, the same for every database. A change here needs a migration and a new `SCHEMA_VERSION`."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, MetaData, SmallInteger, Table, Text

SCHEMA_VERSION = "0002"
"""The newest migration's name, here too so that opening a current database does not import Alembic (0.3 s)."""

metadata = MetaData()

_revision = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER PRIMARY KEY is the rowid in SQLite


def _records(name: str) -> Table:
    return Table(
        name,
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
        Index(f"{name}_job", "job", "revision"),
        Index(f"{name}_node", "node", "revision"),
    )


journal = _records("journal")
"""The columns stand in the order of the fields of `JournalEntry`."""

archive = _records("archive")
"""Records that explain decisions, moved here by compaction: with holes, and all before the journal's oldest."""

leader = Table(
    "leader",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("holder", Text, nullable=False),
    Column("address", Text, nullable=False, server_default=""),
    Column("place", Text, nullable=False, server_default=""),
    Column("expires_ms", BigInteger, nullable=False, server_default="0"),
    CheckConstraint("id = 1", name="leader_one_row"),
)
"""One row, written by the first migration with epoch 0. Every append locks it, which is what fences an old leader.
`expires_ms`: Unix milliseconds by the database's clock; 0: nobody holds the lease."""

snapshots = Table(
    "snapshots",
    metadata,
    Column("revision", _revision, primary_key=True, autoincrement=False),
    Column("digest", Text, nullable=False),
    Column("body", Text, nullable=False),
)
"""The columns stand in the order of the fields of `Snapshot`."""
