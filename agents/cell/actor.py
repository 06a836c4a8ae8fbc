"""The Ray actor of one rank host: it starts the host in a session of its own, then only waits for it.

Ray imports this module in its worker process. Plain class on purpose: the cell agent applies `ray.remote` to it, so
that nothing but Ray's own serialisation is needed. What it starts must not depend on it: the host lives on when the
actor, its raylet or the whole cell is gone.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from typing import NamedTuple

from phalanx.v1 import cell_pb2

LINGER_S = 30.0
"""How long an actor whose host has ended waits for a cell agent to let it go."""


class Described(NamedTuple):
    """What an actor says of itself."""

    host_id: str
    node: str
    host_pid: int


class RankActor:
    """Parent of one rank host. Raises OSError from its constructor when the host id has already run on this node."""

    def __init__(self, spec: bytes) -> None:
        host = cell_pb2.HostSpec.FromString(spec)
        self._host_id = host.host_id
        self._node = os.environ["PHALANX_NODE"]
        node_dir = os.environ["PHALANX_NODE_DIR"]
        os.makedirs(f"{node_dir}/logs", mode=0o700, exist_ok=True)
        # One life per host id: a command repeated to a new cell agent after the host's end must not start it again.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        log = os.open(f"{node_dir}/logs/{host.host_id}.log", flags, 0o600)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "agents.cell.rank_host"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=node_dir,
                env=environment | {"PHALANX_HOST_ID": host.host_id},  # the mark by which agents find the session
                start_new_session=True,
            )
        finally:
            os.close(log)
        assert self._process.stdin is not None  # stdin=PIPE
        with self._process.stdin as pipe:
            pipe.write(spec)
        self._ended: Future[str] = Future()
        threading.Thread(target=self._wait, name="rank-host", daemon=True).start()

    async def describe(self) -> Described:
        """Which host this is; answered once the constructor has started it."""
        return Described(self._host_id, self._node, self._process.pid)

    async def hold(self) -> str:
        """Returns when the rank host has ended, with a word on how. The cell agent keeps one such call pending."""
        # Shielded: a caller that went away must not cancel what the other callers wait for.
        return await asyncio.shield(asyncio.wrap_future(self._ended))

    async def leave(self) -> None:
        """End this actor in order. Its host is not touched."""
        from ray.actor import exit_actor  # noqa: PLC0415  this module stays importable without Ray

        exit_actor()  # type: ignore[no-untyped-call]

    def _wait(self) -> None:
        status = self._process.wait()
        how = f"exit status {status}" if status >= 0 else f"signal {-status}"
        self._ended.set_result(f"the rank host has ended with {how}")
        time.sleep(LINGER_S)
        os._exit(0)  # no cell agent came: nothing is lost, the node agent knows how the process ended
