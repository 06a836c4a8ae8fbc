"""The rendezvous store of a cell: a TCPStore server outside every rank, on one address only.

`python -m agents.cell.store --listen 127.0.0.1:PORT`; SIGTERM ends it. Keys carry job and generation, so a restarted
store needs no recovery: ranks that are meeting publish themselves again.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from collections.abc import Sequence

import structlog
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported, but not by its __all__

BACKLOG = 4096


def listen(address: str) -> socket.socket:
    """A listening TCP socket on `host:port`, and nowhere else. Raises OSError, or ValueError for a bad address."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"--listen {address!r} is not host:port")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host.strip("[]"), int(port)))
    listener.listen(BACKLOG)
    return listener


def serve(listener: socket.socket) -> TCPStore:
    """Serve on `listener`, which TCPStore takes over: given only a port it would listen on all interfaces."""
    host, port = listener.getsockname()[:2]
    return TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m agents.cell.store", description="Rendezvous store of a cell.")
    parser.add_argument("--listen", required=True, metavar="HOST:PORT", help="address to listen on, and no other")
    options = parser.parse_args(arguments)
    structlog.configure(
        processors=[structlog.processors.TimeStamper(fmt="iso", utc=True), structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    log = structlog.get_logger()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        listener = listen(options.listen)
    except (OSError, ValueError) as error:
        log.exception("store_listen_failed", listen=options.listen, reason=str(error))
        return 2
    store = serve(listener)
    log.info("store_listening", listen=options.listen, port=store.port, pid=os.getpid())
    received = signal.sigwait({signal.SIGTERM, signal.SIGINT})
    log.info("store_stopped", signal=signal.Signals(received).name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
