"""Command line of the relay: `python -m agents.relay`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from agents.node.connection_options import add_connection, check_connection
from agents.node.dial import is_loopback, split_addresses
from agents.node.durable import AlreadyRunningError
from agents.node.observability import add_logging, configure_logging, name_process
from agents.relay.config import RelayConfig
from agents.relay.relay import CannotListen, Relay

EXIT_CANNOT_START = 2


def _address(text: str) -> str:
    try:
        (address,) = split_addresses(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not one HOST:PORT") from error
    return address


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m agents.relay",
        description="Relay of Phalanx: node agents dial it with --relay, and one stream to the controller carries their "
        "beats as columns and everything else as it is. It keeps nothing: SIGTERM and SIGKILL make its agents dial again.",
    )
    add = parser.add_argument
    add_connection(parser)
    add("--listen", required=True, type=_address, metavar="HOST:PORT", help="where node agents dial")
    add("--relay", required=True, metavar="NAME", help="name of this relay, unique in the site")
    add(
        "--dir", required=True, type=Path, metavar="DIR", help="folder of its key and certificate; created when missing"
    )
    add_logging(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the relay until SIGTERM. Exit code 2: it cannot start, and says why."""
    parser = build_parser()
    parsed = parser.parse_args(arguments)
    check_connection(parser, parsed)
    if parsed.plaintext and not is_loopback(parsed.listen):
        parser.error(f"--plaintext is for loopback only, {parsed.listen} is not: join with a token instead")
    config = RelayConfig(
        controllers=parsed.controller,
        listen=parsed.listen,
        relay=parsed.relay,
        directory=parsed.dir.absolute(),
        plaintext=parsed.plaintext,
        join_file=parsed.join_file and parsed.join_file.absolute(),
    )
    configure_logging(parsed.log_level, parsed.log_format)
    name_process(relay=config.relay)
    log = structlog.get_logger(__name__)
    config.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def run() -> None:
        await Relay(config).run()

    try:
        asyncio.run(run())
    except (AlreadyRunningError, CannotListen, OSError, ValueError) as error:
        log.error("relay.failed", reason=str(error))  # noqa: TRY400  the reason is for an operator
        sys.exit(EXIT_CANNOT_START)
    log.info("relay.stopped")
