"""What an agent finds when it is asked to check its node, and what the checks repair."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from controlplane.core.effects import Effect
from controlplane.core.vocabulary import Assertion, PairWord
from controlplane.sim.world.nodes import SimNode

if TYPE_CHECKING:
    from controlplane.sim.world.site import World

NOT_KNOWN = "this agent does not know this kind of effect; it may be older"


def run_checks(world: World, node: SimNode, effect: Effect) -> tuple[bool, str]:
    """Repair what the effect names, report what is found then, and say whether all is well."""
    if not node.knows_checks:
        return False, NOT_KNOWN
    if not node.incurable:
        for entity in effect.items[1:]:
            kind, _, position = entity.partition("/")
            if (row := node.events.pop(entity, None)) is not None:
                node.recovered.append(replace(row, assertion=Assertion.RECOVERED))
            if kind == "accelerator":
                node.faults.pop(int(position), None)
    world.agents.report_devices(node)
    left = [*node.faults.values(), *(row.code for row in node.events.values())] if node.incurable else []
    return not left, f"still reports {', '.join(left)}" if left else ""


def check_pair(world: World, node: SimNode, effect: Effect) -> tuple[PairWord, str]:
    """What a node says of its test with another one."""
    peer = world.nodes[effect.items[0]]
    if not node.knows_checks:
        return PairWord.UNSPECIFIED, NOT_KNOWN
    if node.live():
        return PairWord.NOT_RUN, "processes of ranks live here"
    if not (peer.up and peer.agent and peer.knows_checks and not peer.deaf) or peer.name in node.cut_off:
        return PairWord.UNMET, f"{peer.name} did not come"
    if node.spoils_pairs or peer.spoils_pairs:
        return PairWord.FAILED, "a sum with a known answer came out wrong"
    return PairWord.PASSED, "a sum with a known answer came out right"
