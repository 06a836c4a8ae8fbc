"""Reports of one node that wait for the brain: where a later one says all that matters of an earlier one, they are one."""

from __future__ import annotations

from dataclasses import replace

from controlplane.core.events import HostRow, NodeReport
from controlplane.core.vocabulary import ENDED_PROCESS


def merged(earlier: NodeReport, later: NodeReport) -> NodeReport | None:
    """Both as one report, None where the brain has to see each.

    Living processes only go on: the later row of one has the state that counts and the moments of the generation's phases, those
    that the earlier one told included. Ends, devices, shards, findings and whole truths are told one by one.
    """
    if not (_living_only(earlier) and _living_only(later)):
        return None
    rows: dict[tuple[str, int], HostRow] = {(row.job, row.serial): row for row in earlier.hosts}
    rows.update(((row.job, row.serial), row) for row in later.hosts)
    return replace(later, hosts=tuple(rows.values()))


def _living_only(report: NodeReport) -> bool:
    bare = NodeReport(report.node, report.boot_id, hosts=report.hosts)
    return report == bare and not any(row.state in ENDED_PROCESS for row in report.hosts)
