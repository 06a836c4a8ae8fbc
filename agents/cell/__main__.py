"""Command line of the cell agent: `python -m agents.cell`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from agents.cell.config import CellConfig
from agents.node.connection_options import add_connection, check_connection
from agents.node.observability import add_logging, configure_logging, name_process

EXIT_CANNOT_START = 2
# Ray reads these when it is imported. The first keeps 127.0.0.1 from being replaced by the machine's address.
_RAY_DEFAULTS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
}


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return text


def build_parser() -> argparse.ArgumentParser:
    """The command line of docs/design/0003-processes.md."""
    parser = argparse.ArgumentParser(
        prog="python -m agents.cell",
        description="Cell agent of Phalanx: starts rank hosts through one Ray cluster and reports what Ray sees.",
        epilog="Environment: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH. Exit status 2: it cannot start; 3: Ray is "
        "lost, start a new one. SIGTERM ends it with 0; the actors stay.",
    )
    add = parser.add_argument
    add_connection(parser)
    add("--identity", type=Path, metavar="DIR", help="folder of the agent's key and certificate; unless --plaintext")
    add("--cell", required=True, metavar="NAME", help="name of this cell, unique in the site")
    add("--ray-address", required=True, type=_address, metavar="HOST:PORT", help="address of the cell's GCS")
    add("--store", required=True, type=_address, metavar="HOST:PORT", help="the cell's rendezvous store, probed")
    add(
        "--ray-limit-s",
        default=20.0,
        type=float,
        metavar="S",
        help="Ray may be silent this long (default: %(default)s)",
    )
    add_logging(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the agent until SIGTERM."""
    parser = build_parser()
    parsed = parser.parse_args(arguments)
    check_connection(parser, parsed)
    if not parsed.plaintext and parsed.identity is None:
        parser.error("--identity DIR is needed, for the agent's key and certificate (or --plaintext, on loopback)")
    configure_logging(parsed.log_level, parsed.log_format)
    name_process(cell=parsed.cell)
    log = structlog.get_logger(__name__)
    if os.environ.get("RAY_AUTH_MODE") != "token" or not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        log.error("agent.failed", reason="RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH are needed: a cell is never open")
        sys.exit(EXIT_CANNOT_START)
    for name, value in _RAY_DEFAULTS.items():
        os.environ.setdefault(name, value)
    config = CellConfig(
        controllers=parsed.controller,
        identity=None if parsed.plaintext else parsed.identity.absolute(),
        join_file=parsed.join_file and parsed.join_file.absolute(),
        cell=parsed.cell,
        ray_address=parsed.ray_address,
        store=parsed.store,
        ray_limit_s=parsed.ray_limit_s,
    )
    from agents.cell.agent import CellAgent, end_process  # noqa: PLC0415  imports Ray, which reads the environment

    async def run() -> int:
        return await CellAgent(config).run()

    code = asyncio.run(run())
    sys.stdout.flush()
    end_process(code)


if __name__ == "__main__":
    main()
