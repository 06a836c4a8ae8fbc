"""The leader's lease in a SQL database, on a connection of its own, timed by the database's clock."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Connection, select, update
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from controlplane.adapters.journal.database import open_database
from controlplane.adapters.journal.schema import leader
from controlplane.engine.ports import EpochLost, Lease


class _NowMs(FunctionElement[int]):
    """Unix milliseconds by the database's clock, when the statement runs."""

    type = BigInteger()
    inherit_cache = True


@compiles(_NowMs, "postgresql")
def _postgres_now(_element: _NowMs, _compiler: Any, **_options: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"


@compiles(_NowMs, "sqlite")
def _sqlite_now(_element: _NowMs, _compiler: Any, **_options: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"


class SqlLease:
    """`engine.ports.LeaseStore` on the database of a journal that is open already. One thread at a time.

    A stopped leader cannot keep the row locked for longer than `limit_ms` on PostgreSQL: the server ends its transaction.
    On SQLite a leader that is stopped in the middle of a commit holds the file until it goes on or ends.
    """

    def __init__(self, url: str, *, limit_ms: int, password_file: str = "") -> None:
        self._database = open_database(url, limit_ms=limit_ms, password_file=password_file)

    def look(self) -> Lease:
        """See `engine.ports.LeaseStore`."""
        with self._database.read() as connection:
            return _row(connection)

    def take(self, seen: Lease, holder: str, address: str, place: str, lease_ms: int) -> int | None:
        """See `engine.ports.LeaseStore`."""
        with self._database.write() as connection:
            expected = (leader.c.epoch == seen.epoch, leader.c.holder == seen.holder)
            values = {"epoch": seen.epoch + 1, "holder": holder, "address": address, "place": place}
            taken = connection.execute(update(leader).where(*expected).values(**values, expires_ms=_NowMs() + lease_ms))
            return seen.epoch + 1 if taken.rowcount == 1 else None

    def renew(self, epoch: int, lease_ms: int) -> None:
        """See `engine.ports.LeaseStore`."""
        with self._database.write() as connection:
            held = connection.execute(
                update(leader).where(leader.c.epoch == epoch).values(expires_ms=_NowMs() + lease_ms)
            )
            if held.rowcount != 1:
                row = _row(connection)
                raise EpochLost(
                    f"this controller's epoch {epoch} is over: {row.holder} at {row.address or 'an unknown address'} leads "
                    f"with epoch {row.epoch}"
                )

    def release(self, epoch: int) -> None:
        """See `engine.ports.LeaseStore`."""
        with self._database.write() as connection:
            connection.execute(update(leader).where(leader.c.epoch == epoch).values(expires_ms=0))

    def close(self) -> None:
        """See `engine.ports.LeaseStore`."""
        self._database.close()


def _row(connection: Connection) -> Lease:
    columns = (leader.c.epoch, leader.c.holder, leader.c.address, leader.c.place, leader.c.expires_ms, _NowMs())
    epoch, holder, address, place, expires_ms, now_ms = connection.execute(select(*columns)).one()
    return Lease(epoch, holder, address, place, held=expires_ms > 0, left_ms=max(0, expires_ms - now_ms))
