"""The state of a running site as one text, for planning elsewhere: what would be decided if something were lost.

Identities, answers to past requests and the audit head stay behind: no plan needs them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from controlplane.core import codec
from controlplane.core.draft import Policy
from controlplane.core.identity import IdentityBook
from controlplane.core.state import NO_AUDIT, State

FORMAT = 1


@dataclass(frozen=True, slots=True)
class JobProgress:
    """Newest step of a job, when it was told of (Unix ns), and how long its steps take."""

    step: int
    at_ns: int
    step_time_s: float


@dataclass(frozen=True, slots=True)
class Export:
    """A site at one moment: what the journal says, what is only soft (steps by job uid), and by which limits it decides."""

    state: State
    progress: Mapping[str, JobProgress]
    policy: Policy
    at_ns: int
    version: str

    def to_json(self) -> str:
        """As text, without identities, answers and audit."""
        state = self.state.fork()
        state.identity, state.answers, state.audit = IdentityBook(), {}, NO_AUDIT
        beside = {
            "format": FORMAT,
            "progress": {uid: codec.encode(known) for uid, known in self.progress.items()},
            "policy": codec.encode(self.policy),
            "at_ns": self.at_ns,
            "version": self.version,
        }
        head = json.dumps(beside, sort_keys=True, separators=(",", ":"))
        # The state is text already: on a large site reading it again would take the controller half as long once more.
        return f'{head[:-1]},"state":{state.to_json()}}}'

    @staticmethod
    def from_json(text: str) -> Export:
        """The export of a text.

        Raises:
            UnreadableExport: not an export, or one of another version.
        """
        try:
            body = json.loads(text)
            if body["format"] != FORMAT:
                raise UnreadableExport(f"the export has format {body['format']}, this version reads {FORMAT}")
            return Export(
                State.from_json(json.dumps(body["state"])),
                {uid: codec.decode(JobProgress, known) for uid, known in body["progress"].items()},
                codec.decode(Policy, body["policy"]),
                body["at_ns"],
                body["version"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableExport(f"the exported state cannot be read by this version: {error}") from error


class UnreadableExport(Exception):
    """The text is no export that this version understands."""
