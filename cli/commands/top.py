"""`phalanx top`: the site as it changes, on one screen."""

from __future__ import annotations

import os
import sys

from cli.errors import CliError, Exit
from cli.grammar import Group
from cli.options import SiteChoice, for_site


def register(app: Group) -> None:
    """Adds the command."""
    app.command(epilog="Example: phalanx top --dir .phalanx/site")(top)


@for_site
def top(*, site: SiteChoice) -> None:
    """Watch the site on a full screen: map of nodes, jobs, events. Enter opens what is under the cursor."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        fix = "run it in a terminal; in a script use `phalanx get site`, `get nodes` and `get jobs` with -o json"
        raise CliError("`phalanx top` needs a terminal", fix=fix, code=Exit.USAGE)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC would write its own lines across the screen
    from cli.top.app import TopApp  # noqa: PLC0415 - textual is heavy
    from cli.top.feed import read_snapshot  # noqa: PLC0415

    with site.connect() as client:  # a wrong address or a missing right is told before the screen opens
        read_snapshot(client)
    TopApp(site.connect).run()
