"""`phalanx-agent check --listen` on one node and `--call` on another: the path between them, tested as before a node comes back."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import TextIO

from agents.node.checks.finding import NODE, Answer
from agents.node.checks.pair import SPEED, Word
from agents.node.checks.process import Order, run

TEST = "by hand"
LIMIT_S = 180.0
MEET_S = 120.0
"""Two people have to type it."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """One of them on each of the two nodes."""
    for option, what in (("--listen", "wait here for another node that calls"), ("--call", "call a node that listens")):
        parser.add_argument(
            option, type=_place, metavar="ADDRESS:PORT", help=f"test the path to another node, and nothing else: {what}"
        )
    parser.add_argument(
        "--wait-s", type=float, default=MEET_S, metavar="S", help="for the other node to come (default: %(default)s)"
    )


def check_pair(parsed: argparse.Namespace, out: TextIO) -> bool:
    """Test, and write what came out; whether the path is well."""
    rank, place = (0, parsed.listen) if parsed.listen else (1, parsed.call)
    address, port = place
    arguments = (
        "--rank",
        str(rank),
        "--address",
        address,
        "--port",
        str(port),
        "--test",
        TEST,
        "--meet-s",
        str(parsed.wait_s),
    )
    answer = asyncio.run(run(Order("pair", parsed.wait_s + LIMIT_S, (*arguments, "--sums"))))
    word = answer.word or "broke off"
    text = answer.text or "; ".join(finding.message for finding in answer.findings)
    out.write(_json(answer, word, text) if parsed.form == "json" else f"{word}: {text}\n")
    return answer.word == Word.PASSED and not answer.findings


def _json(answer: Answer, word: str, text: str) -> str:
    speed = answer.figures.get(f"{NODE}: {SPEED}", 0.0)
    body = {"word": word, "text": text, "backend": answer.backend, "bytes_per_s": speed}
    return json.dumps({"pair": body}, indent=2) + "\n"


def _place(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    if not address or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise argparse.ArgumentTypeError(f"{text!r} is no ADDRESS:PORT, for example 10.0.0.7:29700")
    return address.strip("[]"), int(port)
