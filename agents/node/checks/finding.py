"""What a check says. Plain values, made in a child process and read back from it as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

VENDOR = "checks"
"""Whose fault table holds the codes of checks."""
NODE = "node"
MAX_FINDINGS = 64
MAX_ANSWER_BYTES = 1 << 16
_MAX_TEXT = 500

ARITHMETIC = "CHECK-ARITHMETIC"
MEMORY_DATA = "CHECK-MEMORY-DATA"
MEMORY_SLOW = "CHECK-MEMORY-SLOW"
DISK = "CHECK-DISK"
NIC = "CHECK-NIC"
LOSS = "CHECK-LOSS"
HUNG = "CHECK-HUNG"
CRASHED = "CHECK-CRASHED"
PAIR = "CHECK-PAIR"
PEER = "CHECK-PEER"


class NoAnswerError(Exception):
    """What a child wrote is no answer of a check."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something is wrong. `entity`: `node`, `pci/<address>`, or `accelerator/<index>`: in an answer as torch counts, afterwards
    the position on the node."""

    entity: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Answer:
    """All that one check says. `figures`: what was measured, `<entity>: <name with unit>`, more is better; kept as the
    node's own record. `backend`: what it ran on, "cpu" or
    torch's word for the device; "" when there is nothing of the kind that it is for. `word` and `text`: of a test with another
    node, one of `pair.Word`, and what was seen."""

    backend: str
    findings: tuple[Finding, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    word: str = ""
    text: str = ""

    def encode(self) -> bytes:
        """As one line of JSON."""
        rows = [asdict(finding) for finding in self.findings[:MAX_FINDINGS]]
        for row in rows:
            row["message"] = row["message"][:_MAX_TEXT]
        body = {"backend": self.backend, "findings": rows, "figures": dict(self.figures)}
        return json.dumps({**body, "word": self.word, "text": self.text[:_MAX_TEXT]}).encode()


def decode(line: bytes) -> Answer:
    """Raises NoAnswerError."""
    try:
        body = json.loads(line)
        return Answer(
            str(body["backend"]),
            tuple(
                Finding(str(r["entity"]), str(r["code"]), str(r["message"])) for r in body["findings"][:MAX_FINDINGS]
            ),
            {str(name): float(value) for name, value in body["figures"].items()},
            str(body["word"]),
            str(body["text"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise NoAnswerError(f"{line[:200]!r} is no answer of a check: {error!r}") from error
