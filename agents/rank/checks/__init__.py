"""Results that are wrong and look right: replicas compared every k steps, steps computed again elsewhere. See docs/numbers.md.

Imports torch; `agents.rank` itself does not.
"""

from agents.rank.checks.compare import StateMark
from agents.rank.checks.digest import digest
from agents.rank.checks.replay import StepReplay
from agents.rank.checks.replica import Exchange, ReplicaCheck, ReplicaSet

__all__ = ["Exchange", "ReplicaCheck", "ReplicaSet", "StateMark", "StepReplay", "digest"]
