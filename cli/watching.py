"""`get --watch`: the list, then whatever changes in it.

The journal's events say when to look again, so a quiet site costs nothing; what only grows (steps, ages) is looked at as
it is printed, and does not count as a change.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from cli.client import Client
from cli.errors import CliError, Exit
from cli.following import patiently, watch_events
from cli.kinds import listing
from cli.listing import Listing, Selection, show
from cli.options import Output

QUIET_S = 0.5
"""At most one listing in this time, however many events there are."""
VOLATILE = frozenset(("BEAT", "STEP", "LOSS", "ETTR", "STEP TIME", "CHECKPOINT"))


def watch_list(client: Client, kind: str, selection: Selection, output: Output, job: str) -> None:
    """Prints the list, then rows that are new or changed, until interrupted. Survives a restart of the controller."""
    if kind == "events":
        raise CliError("events are followed with `phalanx events -f`", code=Exit.USAGE)
    if output in (Output.JSON, Output.YAML):
        raise CliError(f"-o {output.value} does not go with --watch", fix="use table, wide or name", code=Exit.USAGE)
    revision = newest_revision(client)
    found = listing(client, kind, full=False, job=job)
    seen = _states(found)
    show(found, _present(found, selection), output)
    looked = time.monotonic()
    for _ in watch_events(client, revision):
        if (early := QUIET_S - (time.monotonic() - looked)) > 0:
            time.sleep(early)
        found = patiently(lambda: listing(client, kind, full=False, job=job))
        looked = time.monotonic()
        states = _states(found)
        changed = [row for row in _present(found, selection) if seen.get(found.names[row]) != states[found.names[row]]]
        seen = states
        if changed:
            show(found, changed, output)


def newest_revision(client: Client) -> int:
    """Where the journal is now."""
    from phalanx.v1 import event_pb2  # noqa: PLC0415

    from cli.client import CALL_TIMEOUT_S  # noqa: PLC0415

    return int(client.events.ListEvents(event_pb2.ListEventsRequest(limit=1), timeout=CALL_TIMEOUT_S).revision)


def _present(found: Listing, selection: Selection) -> Sequence[int]:
    """The selected rows; a name that is gone is no error while watching."""
    names = tuple(name for name in selection.names if name in set(found.names))
    if selection.names and not names:
        return []
    return found.select(Selection(names, selection.labels, selection.fields))


def _states(found: Listing) -> dict[str, tuple[str, ...]]:
    """What counts as a change, by name."""
    steady = [column for header, column in found.table.items() if header not in VOLATILE]
    return {name: tuple(column[row] for column in steady) for row, name in enumerate(found.names)}
