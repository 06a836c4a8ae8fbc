"""Whether anything grows: memory and descriptors of who lives through recoveries, and how many processes a site has."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from cli.supervisor import processes
from tests.e2e.site import RunningSite

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Vitals:
    """One look. `survivor`: process of rank 0, with resident MiB, descriptors and threads; `units`: resident MiB by name;
    `processes`: of the whole site, `zombies` among them."""

    recoveries: int
    survivor: int
    survivor_mb: float
    survivor_descriptors: int
    survivor_threads: int
    units: dict[str, float]
    processes: int
    zombies: int

    def line(self) -> str:
        """For people."""
        units = "  ".join(f"{name} {mb:.0f}" for name, mb in self.units.items())
        return (
            f"after {self.recoveries} recoveries: rank 0 (process {self.survivor}) {self.survivor_mb:.0f} MiB, "
            f"{self.survivor_descriptors} descriptors, {self.survivor_threads} threads; MiB: {units}; "
            f"{self.processes} processes, {self.zombies} zombies"
        )

    def of_survivor(self, before: Vitals) -> dict[str, float]:
        """What rank 0 has grown by since `before`, if it is still the same process."""
        if before.survivor != self.survivor:
            return {}
        return {
            "survivor_grown_mb": round(self.survivor_mb - before.survivor_mb, 1),
            "survivor_grown_descriptors": self.survivor_descriptors - before.survivor_descriptors,
            "survivor_grown_threads": self.survivor_threads - before.survivor_threads,
        }


def look(site: RunningSite, job: str, recoveries: int) -> Vitals:
    """Take them; the job must run."""
    survivor = psutil.Process(site.pids(job)[0])
    units = {
        name: round(psutil.Process(unit["pid"]).memory_info().rss / MIB, 1)
        for name, unit in site.units().items()
        if unit["pid"] and (name == "controller" or name.startswith(("agent-", "cell-agent")))
    }
    everyone = processes.marked(processes.SITE_MARKER, str(site.site.run))
    return Vitals(
        recoveries=recoveries,
        survivor=survivor.pid,
        survivor_mb=survivor.memory_info().rss / MIB,
        survivor_descriptors=survivor.num_fds(),
        survivor_threads=survivor.num_threads(),
        units=units,
        processes=len(everyone),
        zombies=sum(one.status() == psutil.STATUS_ZOMBIE for one in psutil.process_iter()),
    )
