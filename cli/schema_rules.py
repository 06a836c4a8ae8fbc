"""What the restart rules of a manifest may say."""

from __future__ import annotations

from collections.abc import Iterable

from cli.schema_field import Field
from controlplane.core.evidence import AXES, SENDERS, UNKNOWN, Reason
from controlplane.core.recovery.patterns import MAX_PATTERN
from controlplane.core.spec import NodeAction, RuleAction
from controlplane.core.vocabulary import Blame, HandlingLevel


def _among(name: str, meaning: str, choices: Iterable[str]) -> Field:
    return Field(name, "words", meaning, choices=tuple(choices))


MATCH = Field(
    "match",
    "section",
    "Conditions on the root of an incident; all that are given must hold. What was not observed is `unknown`.",
    required=True,
    fields=(
        Field("exitCode", "numbers", "Exit codes, 0 to 255; a signal n is 128+n.", example="[42, unknown]"),
        Field("signal", "numbers", "Signals, by name or number.", example="[SIGKILL, SIGSEGV]"),
        _among("sender", "Who sent the signal.", SENDERS),
        Field(
            "fault",
            "section",
            "The fault of a device.",
            fields=(
                _among("level", "Handling levels.", (*(level.name for level in HandlingLevel), UNKNOWN)),
                Field("code", "words", "Codes as the vendor names them.", example="[XID-79]"),
            ),
        ),
        Field(
            "message",
            "text",
            f"RE2 pattern, searched in the last output; at most {MAX_PATTERN} characters. `unknown`: there was none.",
            example="loss is nan",
        ),
        _among("reason", "Why the rank was lost.", (*(reason.value for reason in Reason), UNKNOWN)),
        _among("blame", "Who is to blame.", (blame.value for blame in Blame)),
        Field("ranks", "ranks", "first, last, all (are lost), a number, or ranges.", example="0-3,8"),
        Field(
            "coordinates",
            "section",
            "Parallel coordinates of the rank.",
            fields=tuple(Field(axis, "numbers", f"Coordinates on {axis}.") for axis in AXES),
        ),
        Field("failuresOfRank", "integer", "At least so many incidents of this rank within the time.", least=1),
        Field("failuresOnNode", "integer", "At least so many incidents on this node within the time.", least=1),
        Field("within", "duration", "The time in which failures are counted.", example="6h"),
    ),
)
_JOB_ACTIONS = tuple(action.value for action in RuleAction if action is not RuleAction.AUTO)
JOB_RULES = Field(
    "jobRules",
    "sections",
    "Rules that choose what is done: ordered, the first that matches wins; the last one leaves it to the ladder.",
    fields=(
        MATCH,
        Field("action", "text", "What is done.", required=True, choices=_JOB_ACTIONS),
        Field(
            "ledger",
            "text",
            "Whose budget is charged; left out, of whom the loss is blamed on.",
            choices=tuple(blame.value for blame in Blame),
        ),
        Field("reason", "text", "Said in the verdict.", example="bad configuration"),
        Field("checkpoints", "integer", "Of rollback: so many of the newest checkpoints are passed over.", least=1),
        Field("thenPoison", "flag", "Of rollback: these are never restored."),
    ),
)
NODE_RULES = Field(
    "nodeRules",
    "sections",
    "Rules on the node where an incident began: all are evaluated, none replaces the job's verdict.",
    fields=(
        MATCH,
        Field("action", "text", "What is done.", required=True, choices=tuple(action.value for action in NodeAction)),
        Field("reason", "text", "Said with the cordon."),
    ),
)
