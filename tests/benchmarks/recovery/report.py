"""What is printed and what is written: `.phalanx/bench/recovery.json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from statistics import median

from controlplane.config import Settings
from tests.benchmarks import report
from tests.benchmarks.recovery.runs import Cell, Results, Say
from tests.benchmarks.recovery.scaling import FAR, PHASES, fit
from tests.benchmarks.recovery.scaling import WHOLE as KILL_TO_STEP
from tests.benchmarks.recovery.steplog import Recovery
from tests.benchmarks.recovery.systems import ACTOR, NODE, RANK, RANK0, TWO, WHOLE, System
from tests.benchmarks.report import Figure, of_samples

BUDGET_S = 0.5
"""At most this, plus one undisturbed step; for a node plus the lease, by which silence alone is noticed."""
LEASE_S = {setting.name: setting.default for setting in fields(Settings)}["lease_ms"] / 1000
REDONE = 1
"""Steps that any recovery does again at most."""
GOAL_NEW_STEP, GOAL_LOADED = 10.0, 5.0
"""The better peer takes this many times longer, to the first new step and until groups are rebuilt and state is loaded."""
IDS = {
    RANK: "recover_rank_s",
    RANK0: "recover_rank0_s",
    TWO: "recover_two_s",
    ACTOR: "recover_actor_s",
    NODE: "recover_node_s",
}
SIMULATED = (
    "accelerators",
    "nodes: processes of one machine",
    "shared storage: a folder",
    "extrapolated_50000_s: no measurement, a fit carried on",
)
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
        loaded = median(_loaded(cell))
        must = f"{_must(kind, results.step_s[name]):.2f}" if name == OURS else ""
        say(
            f"{name:<11}{kind:<7}{len(times):>3}{median(times):>8.2f} s{spread:>14}{loaded:>7.2f} s"
            f"{_redone(cell):>8.0f}{must:>8}"
        )
    _show_phases(results, say)
    _show_ratio(results, "kill to first new step", _times, GOAL_NEW_STEP, say)
    _show_ratio(results, "groups rebuilt and state loaded", _loaded, GOAL_LOADED, say)


def _show_ratio(results: Results, what: str, times: Callable[[Cell], list[float]], goal: float, say: Say) -> None:
    mine = results.cells.get((OURS, RANK))
    if not mine or mine.failure or not mine.recoveries:
        return
    for guarantee, cells in (("", _peers(results)), (", all ranks again", _all_again(results))):
        peers = {name: median(times(cell)) for name, cell in cells.items() if not cell.failure and cell.recoveries}
        if not peers:
            continue
        better = min(peers, key=lambda name: peers[name])
        ratio = peers[better] / median(times(mine))
        say(
            f"\n{what}{guarantee}: the better peer ({better}) takes {ratio:.1f} times as long as {OURS} (goal {goal:g})"
        )


def _show_phases(results: Results, say: Say) -> None:
    told = {kind: cell.phases_s for (name, kind), cell in results.cells.items() if name == OURS and cell.phases_s}
    if told:
        say(f"\n{OURS}, medians in ms:".ljust(24) + "".join(f"{phase:>12}" for phase in PHASES))
    for kind, rows in sorted(told.items()):
        cells = "".join(f"{median(row.get(phase, 0.0) for row in rows) * 1000:>12.0f}" for phase in PHASES)
        say(f"  {kind:<21}" + cells)


def write(results: Results, seed: int, name: str, phases: Mapping[str, Mapping[int, float]] | None = None) -> Path:
    """Write the figures for programs and return the file. `phases`: median seconds by number of ranks."""
    redone = [found.steps_redone for found in _ours(results)]
    peers = {name: _redone(cell) if not cell.failure else "n/a" for name, cell in _peers(results).items()}
    figures = [_figure(results, kind, figure_id) for kind, figure_id in IDS.items()]
    mine = results.cells.get((OURS, RANK))
    if mine and not mine.failure and mine.recoveries:
        loaded = of_samples("recover_rank_loaded_s", _loaded(mine), "s")
        figures.append(_beside_peers(results, loaded, _loaded, GOAL_LOADED))
    if redone:
        most = of_samples("steps_redone", redone, "steps", must=REDONE)
        figures.append(replace(most, value=float(max(redone)), peers=peers))
    points = (phases or {}).get(KILL_TO_STEP, {})
    if len(points) > 1:
        figures.append(Figure("extrapolated_50000_s", round(fit(points).at(FAR), 3), "s", len(points)))
    return report.write(name, [figure for figure in figures if figure], seed=seed, simulated=SIMULATED)


def within_must(results: Results) -> bool:
    """Whether every cell of ours has a figure and keeps to its limit, and no recovery did more steps again than it may."""
    ours = {kind: cell for (name, kind), cell in results.cells.items() if name == OURS}
    step_s = results.step_s.get(OURS, 0.0)
    in_time = all(not cell.failure and median(_times(cell)) <= _must(kind, step_s) for kind, cell in ours.items())
    return bool(ours) and in_time and all(found.steps_redone <= REDONE for found in _ours(results))


def _figure(results: Results, kind: str, figure_id: str) -> Figure | None:
    cell = results.cells.get((OURS, kind))
    if cell is None or cell.failure or not cell.recoveries:
        return None
    figure = of_samples(figure_id, _times(cell), "s", must=round(_must(kind, results.step_s[OURS]), 3))
    return figure if kind != RANK else _beside_peers(results, figure, _times, GOAL_NEW_STEP)


def _beside_peers(results: Results, figure: Figure, times: Callable[[Cell], list[float]], ratio: float) -> Figure:
    medians = {name: round(median(times(peer)), 3) for name, peer in _peers(results).items() if not peer.failure}
    goal = round(min(medians.values()) / ratio, 3) if medians else None
    return replace(figure, goal=goal, peers={name: medians.get(name, "n/a") for name in _peers(results)})


def _ours(results: Results) -> list[Recovery]:
    return [found for (name, _), cell in results.cells.items() if name == OURS for found in cell.recoveries]


def _loaded(cell: Cell) -> list[float]:
    return [found.loaded_s for found in cell.recoveries]


def _times(cell: Cell) -> list[float]:
    return [found.new_step_s for found in cell.recoveries]


def _redone(cell: Cell) -> float:
    return float(median(found.steps_redone for found in cell.recoveries)) if cell.recoveries else 0.0


def _must(kind: str, step_s: float) -> float:
    return BUDGET_S + step_s + (LEASE_S if kind == NODE else 0.0)


def _peers(results: Results) -> dict[str, Cell]:
    return {name: cell for (name, kind), cell in results.cells.items() if name != OURS and kind == RANK}


def _all_again(results: Results) -> dict[str, Cell]:
    """Peers with the guarantee that ours gives: every rank takes part in the step. Of most that is the only figure there is."""
    return {name: results.cells.get((name, WHOLE), cell) for name, cell in _peers(results).items()}
