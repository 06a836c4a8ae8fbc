"""The sum of a sweep as text: what ran, what was injected, what was violated, and what was never reached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from controlplane.core.vocabulary import Rung
from controlplane.sim.coverage import cells
from controlplane.sim.swarm.results import Total
from controlplane.sim.swarm.unreached import HARDLY, UNREACHED, why_never
from controlplane.sim.version import SIM_VERSION

COLUMNS = 3


def render(total: Total, faults: Iterable[str]) -> str:
    """The whole report. `faults`: every kind that there is."""
    kinds = sorted(faults)
    lines = [
        f"simulated, version {SIM_VERSION} of the simulator",
        f"seeds run        {total.seeds:,}",
        f"simulated years  {total.years:,.2f}",
        f"records          {total.records:,}",
        f"violations       {len(total.violations)}",
        "",
        f"faults injected  {sum(total.faults.values()):,}",
        *_counts({kind: total.faults.get(kind, 0) for kind in kinds}),
    ]
    sections = cells(kinds)
    sections.pop("fault x rung")
    for title, names in sections.items():
        reached = sum(1 for name in names if total.coverage.get(name))
        lines += ["", f"{title}: {reached} of {len(names)} reached"]
        lines += _counts({name: total.coverage.get(name, 0) for name in names})
    lines += [
        "",
        "fault x rung: verdicts whose cause it was (+ those that followed it within 2 min, of no known cause)",
    ]
    lines += [*_grid(kinds, total.coverage), "", *_empty_pairs(kinds, total.coverage)]
    lines += ["", *_zeros([name for names in sections.values() for name in names], total.coverage)]
    silent = [kind for kind in kinds if not total.faults.get(kind)]
    if silent:
        lines.append(f"kinds of faults that never struck: {', '.join(silent)}")
    for result in total.violations[:20]:
        first = result.text.splitlines()[0] if result.text else ""
        lines.append(f"VIOLATED  seed {result.seed}  {first}")
    if total.violations:
        worst = total.violations[0].seed
        lines.append(f"again, with every record: phalanx sim replay --seed {worst} --trace")
    return "\n".join(lines)


def _counts(counts: Mapping[str, int]) -> list[str]:
    width = max((len(name) for name in counts), default=0)
    shown = [f"{name.ljust(width)} {count:>9,}" for name, count in counts.items()]
    return ["  " + "   ".join(shown[i : i + COLUMNS]) for i in range(0, len(shown), COLUMNS)]


def _grid(kinds: list[str], coverage: Mapping[str, int]) -> list[str]:
    width = max((len(kind) for kind in kinds), default=0)
    head = " ".join(f"{rung.value:>12}" for rung in Rung)
    rows = [
        f"  {kind.ljust(width)} " + " ".join(f"{_cell(kind, rung, coverage):>12}" for rung in Rung) for kind in kinds
    ]
    return ["  " + " " * width + " " + head, *rows]


def _empty_pairs(kinds: list[str], coverage: Mapping[str, int]) -> list[str]:
    """Pairs of a fault and a rung that were never seen, by the reason, and by the rung within it."""
    by_reason: dict[str, dict[Rung, list[str]]] = {}
    for kind in kinds:
        for rung in Rung:
            if not coverage.get(f"{kind} x {rung}"):
                by_reason.setdefault(why_never(kind, rung), {}).setdefault(rung, []).append(kind)
    lines = [f"fault x rung, never seen: {sum(len(names) for rungs in by_reason.values() for names in rungs.values())}"]
    for why, rungs in by_reason.items():
        lines.append(f"  {why}:")
        same = next(iter(rungs.values()))
        if len(rungs) == len(Rung) and all(names == same for names in rungs.values()):
            lines.append(f"    every rung: {', '.join(same)}")
        else:
            lines += [f"    {rung}: {', '.join(names)}" for rung, names in rungs.items()]
    return lines


def _cell(kind: str, rung: Rung, coverage: Mapping[str, int]) -> str:
    by_time = coverage.get(f"{kind} ~ {rung}", 0)
    return f"{coverage.get(f'{kind} x {rung}', 0):,}" + (f" (+{by_time:,})" if by_time else "")


def _zeros(names: list[str], coverage: Mapping[str, int]) -> list[str]:
    """Cells that nothing reached: each with the reason why it cannot be, or as a gap."""
    missing = [name for name in names if not coverage.get(name)]
    reasons = {**UNREACHED, **HARDLY}
    explained = {name: reasons[name] for name in missing if name in reasons}
    gaps = [name for name in missing if name not in explained]
    by_reason: dict[str, list[str]] = {}
    for name, why in explained.items():
        by_reason.setdefault(why, []).append(name)
    lines = [f"never reached: {len(missing)}, of which explained {len(explained)}"]
    for why, cells_ in by_reason.items():
        lines.append(f"  {', '.join(cells_)}: {why}")
    if gaps:
        lines.append("never reached and not explained (more seeds, or a fault that is missing):")
        lines += [f"  {group}: {', '.join(rest)}" for group, rest in _grouped(gaps).items()]
    return lines


def _grouped(cells_: list[str]) -> dict[str, list[str]]:
    """Cells by their table: a line each."""
    groups: dict[str, list[str]] = {}
    for cell in cells_:
        table, _, name = cell.partition(" ")
        groups.setdefault(table, []).append(name)
    return groups
