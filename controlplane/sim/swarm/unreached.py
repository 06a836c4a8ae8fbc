"""Cells of the coverage table that no seed reaches, each with the reason. tests/simulation holds it against what seeds do."""

from __future__ import annotations

from collections.abc import Mapping

from controlplane.core.vocabulary import JOB_STATES, NODE_SERVICE, JobState, NodeService

ENDLESS = "jobs of the swarm train without end; stories and the property test finish them"
RETIREMENT = "operators of the swarm give every node back; a story and unit tests retire some"

UNREACHED: Mapping[str, str] = {
    **{
        f"job {before.name} > SUCCEEDED": ENDLESS for before, after in JOB_STATES.items() if JobState.SUCCEEDED in after
    },
    **{
        f"service {before.name} > RETIRED": RETIREMENT
        for before, after in NODE_SERVICE.items()
        if NodeService.RETIRED in after
    },
}
