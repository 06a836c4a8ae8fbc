"""What is printed and what is written: `.phalanx/bench/recovery.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from tests.benchmarks import report
from tests.benchmarks.recovery.runs import Cell, Results, Say
from tests.benchmarks.recovery.systems import ACTOR, NODE, RANK, System
from tests.benchmarks.report import Figure, of_samples

BUDGET_S = 1.5
"""Of the issue: at most this, plus the steps that are done again, plus one new step."""
GOAL_RATIO = 3.0
"""The better peer takes this many times longer."""
IDS = {RANK: "recover_rank_s", ACTOR: "recover_actor_s", NODE: "recover_node_s"}
PHASES = ("detect", "decide", "place", "start", "rendezvous", "restore", "first_step")
SIMULATED = ("accelerators", "nodes: processes of one machine", "shared storage: a folder")
OURS = "phalanx"


def show(results: Results, systems: Sequence[System], seed: int, say: Say) -> None:
    """The tables for a person."""
    say(f"\nseed {seed}, {results.wall_s:.0f} s in all, {report.machine()}")
    for system in systems:
        step = results.step_s.get(system.name)
        say(f"{system.name}: {system.settings}" + (f"; undisturbed step {step * 1000:.1f} ms" if step else ""))
    say(f"\n{'system':<11}{'killed':<7}{'n':>3}{'new step':>10}{'spread':>14}{'loaded':>9}{'redone':>8}{'must':>8}")
    for (name, kind), cell in sorted(results.cells.items()):
        if cell.failure or not cell.recoveries:
            say(f"{name:<11}{kind:<7}  n/a  {cell.failure or 'not run'}")
            continue
        times = [found.new_step_s for found in cell.recoveries]
        spread = f"{min(times):.2f}-{max(times):.2f}"
        loaded = median(found.loaded_s for found in cell.recoveries)
        must = f"{_must(cell, results.step_s[name]):.2f}" if name == OURS else ""
        say(
            f"{name:<11}{kind:<7}{len(times):>3}{median(times):>8.2f} s{spread:>14}{loaded:>7.2f} s"
            f"{_redone(cell):>8.0f}{must:>8}"
        )
    _show_phases(results, say)
    peers = {name: median(_times(cell)) for name, cell in _peers(results).items() if not cell.failure}
    mine = results.cells.get((OURS, RANK))
    if peers and mine and not mine.failure:
        better = min(peers, key=lambda name: peers[name])
        ratio = peers[better] / median(_times(mine))
        say(f"\nthe better peer ({better}) takes {ratio:.1f} times as long as {OURS} (goal {GOAL_RATIO:g})")


def _show_phases(results: Results, say: Say) -> None:
    told = {kind: cell.phases_s for (name, kind), cell in results.cells.items() if name == OURS and cell.phases_s}
    if told:
        say(f"\n{OURS}, medians in ms:".ljust(24) + "".join(f"{phase:>12}" for phase in PHASES))
    for kind, rows in sorted(told.items()):
        cells = "".join(f"{median(row.get(phase, 0.0) for row in rows) * 1000:>12.0f}" for phase in PHASES)
        say(f"  {kind:<21}" + cells)


def write(results: Results, seed: int, name: str) -> Path:
    """Write the figures for programs and return the file."""
    ours = [cell for (name, _), cell in results.cells.items() if name == OURS]
    redone = [found.steps_redone for cell in ours for found in cell.recoveries]
    peers = {name: _redone(cell) if not cell.failure else "n/a" for name, cell in _peers(results).items()}
    figures = [_figure(results, kind, figure_id) for kind, figure_id in IDS.items()]
    if redone:
        figures.append(replace(of_samples("steps_redone", redone, "steps"), peers=peers))
    return report.write(name, [figure for figure in figures if figure], seed=seed, simulated=SIMULATED)


def within_must(results: Results) -> bool:
    """Whether every cell of ours has a figure and keeps to its limit."""
    ours = [cell for (name, _), cell in results.cells.items() if name == OURS]
    step_s = results.step_s.get(OURS, 0.0)
    return bool(ours) and all(not cell.failure and median(_times(cell)) <= _must(cell, step_s) for cell in ours)


def _figure(results: Results, kind: str, figure_id: str) -> Figure | None:
    cell = results.cells.get((OURS, kind))
    if cell is None or cell.failure or not cell.recoveries:
        return None
    figure = of_samples(figure_id, _times(cell), "s", must=round(_must(cell, results.step_s[OURS]), 3))
    if kind != RANK:
        return figure
    medians = {name: round(median(_times(peer)), 3) for name, peer in _peers(results).items() if not peer.failure}
    goal = round(min(medians.values()) / GOAL_RATIO, 3) if medians else None
    return replace(figure, goal=goal, peers={name: medians.get(name, "n/a") for name in _peers(results)})


def _times(cell: Cell) -> list[float]:
    return [found.new_step_s for found in cell.recoveries]


def _redone(cell: Cell) -> float:
    return float(median(found.steps_redone for found in cell.recoveries)) if cell.recoveries else 0.0


def _must(cell: Cell, step_s: float) -> float:
    return BUDGET_S + (_redone(cell) + 1) * step_s


def _peers(results: Results) -> dict[str, Cell]:
    return {name: cell for (name, kind), cell in results.cells.items() if name != OURS and kind == RANK}
