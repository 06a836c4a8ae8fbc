"""Options of the command line with which every agent finds and trusts its controllers."""

from __future__ import annotations

import argparse
from pathlib import Path

from agents.node.dial import is_loopback, split_addresses


def _addresses(text: str) -> tuple[str, ...]:
    try:
        return split_addresses(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Add `--controller`, `--join-file` and `--plaintext`."""
    add = parser.add_argument
    add(
        "--controller",
        required=True,
        type=_addresses,
        metavar="HOST:PORT[,HOST:PORT]",
        help="where the controllers listen; tried one after the other, the leader serves",
    )
    add(
        "--join-file",
        type=Path,
        metavar="FILE",
        help="of `phalanx token create`, deleted once it is used (default: join.json beside the identity)",
    )
    add(
        "--plaintext",
        action="store_true",
        help="no TLS and no identity; refused unless every controller is on loopback",
    )


def add_relays(parser: argparse.ArgumentParser) -> None:
    """Add `--relay`."""
    parser.add_argument(
        "--relay",
        default=(),
        type=_addresses,
        metavar="HOST:PORT[,HOST:PORT]",
        help="relays to dial first; while none of them answers, the controllers are dialled (default: none)",
    )


def check_connection(parser: argparse.ArgumentParser, parsed: argparse.Namespace, others: tuple[str, ...] = ()) -> None:
    """End with a message when plaintext would leave the machine. `others`: where it connects beside the controllers."""
    far = [address for address in (*parsed.controller, *others) if not is_loopback(address)]
    if parsed.plaintext and far:
        parser.error(f"--plaintext is for loopback only, {far[0]} is not: join with a token instead")
