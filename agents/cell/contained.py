"""The first process in a rank's container: it runs the rank process, and ends it at once when the rank host is gone.

`python3 -m agents.cell.contained HOST_PID`. A container does not belong to the rank host's session, so its death reaches
nobody here by itself. The exit status is the rank's; 128 + n when signal n ended it.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

from agents.cell.container import SIGNAL_BASE
from agents.cell.host_exit import kill_leftovers
from agents.cell.rank_host import CODE_NOT_STARTED, child_set_up, sigterm_held

EXIT_USAGE = 2
LEFTOVER_LIMIT_S = 5.0


def main() -> int:
    """Entry point."""
    if len(sys.argv) != 2 or not sys.argv[1].isdecimal():
        sys.stderr.write(f"{__doc__}\n")
        return EXIT_USAGE
    try:
        host = os.pidfd_open(int(sys.argv[1]))
    except (ProcessLookupError, OSError) as error:
        sys.stderr.write(f"phalanx: the rank host {sys.argv[1]} is not seen from the container: {error}\n")
        return CODE_NOT_STARTED
    with sigterm_held():
        child = subprocess.Popen([sys.executable, "-u", "-m", "agents.rank"], preexec_fn=child_set_up(os.getpid()))  # noqa: PLW1509  one thread
        signal.signal(signal.SIGTERM, lambda number, _frame: child.send_signal(number))
    ended = os.pidfd_open(child.pid)
    ready, _, _ = select.select([host, ended], [], [])
    if ended not in ready:
        child.kill()
    status = child.wait()
    kill_leftovers(os.getpid(), LEFTOVER_LIMIT_S)
    return status if status >= 0 else SIGNAL_BASE - status


if __name__ == "__main__":
    sys.exit(main())
