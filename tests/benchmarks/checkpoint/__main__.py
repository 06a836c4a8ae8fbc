"""`make bench-checkpoint`: stall of a step, bytes per second and restore time of each tier that holds a rank's state.

One rank (this process, on core 0) makes steps of fixed arithmetic; its node's memory tier and that of the partner node run in
processes of their own on core 1, as on a real node, where the host's processors are idle beside the accelerators. Blocks of
steps with and without the tiers of the node (memory, and every fourth step its own disk) alternate in seeded order, so that what
else the machine does meets both. Shared storage is a folder on this machine's disk: files are written, synced and digested as the
MoE trainer does it.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import time
import timeit
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch

from agents.memory.places import disk_folder, disk_path
from agents.memory.state_file import digest_of
from agents.rank.assignment import Assignment, Degrees, RestorePoint
from agents.rank.checkpoint_files import describe_files, verify_files
from agents.rank.group import Group
from agents.rank.keeper import Part, StateKeeper
from agents.rank.phases import Phase, PhaseClock
from tests.benchmarks.checkpoint import nodes
from tests.benchmarks.checkpoint.nodes import GENERATION, HOST, JOB, LINE, RANK
from tests.benchmarks.report import Figure, of_samples, write
from training_jobs.moe.checkpoint import Part as SavedPart
from training_jobs.moe.checkpoint import Unit, read_part, write_part
from training_jobs.moe.config import ModelConfig

MB = 1_000_000
SHM = Path("/dev/shm")
MUST_PCT = 1.0


@dataclass(frozen=True, slots=True)
class Ratio:
    """Unique state of a rank against the time of its steps."""

    id: str
    state_mb: int
    step_s: float

    @property
    def mb_per_s(self) -> float:
        """MB of unique state per second of step."""
        return self.state_mb / self.step_s


RATIOS = (
    Ratio("memory_tier_overhead_pct", 20, 1.0),
    Ratio("memory_tier_overhead_80_pct", 20, 0.25),
    Ratio("memory_tier_overhead_200_pct", 100, 0.5),
)


class _Context:
    """The part of a RankContext that a keeper uses; what it says goes to the node's process."""

    host_id = HOST

    def __init__(self, node: nodes.Node) -> None:
        self._node = node
        self._clock = PhaseClock()

    def send(self, _key: object, message: Any, *, acknowledged: bool) -> None:
        del acknowledged
        self._node.pipe.send(("taken", message(0.0).snapshot.step))

    def phase(self, name: str) -> Phase:
        """As a real context does."""
        return self._clock.phase(name)


class _Nobody:
    def check(self) -> None:
        """The generation goes on."""

    def peer_lost(self, group: str, error: RuntimeError) -> Exception:
        return RuntimeError(group, error)


class _Generation:
    def __init__(
        self, memory: Path, number: int, memory_step: int, *, fetched: bool = False, disk: Path | None = None
    ) -> None:
        self.number, self.rank, self.over = number, RANK, False
        self.restore = RestorePoint("", memory_step, Path(), ())
        self.assignment = Assignment(
            JOB, "bench", number, RANK, 1, "", (), (0,), Degrees(), self.restore, "", Path(), 0, 60.0,
            memory_step=memory_step, memory_folder=memory, memory_bytes=1 << 34, fetched=fetched,
            disk_folder=disk and disk_folder(disk, JOB), line=LINE,
        )  # fmt: skip

    def check(self) -> None:
        """It goes on."""


class _Groups:
    def __init__(self) -> None:
        alone = Group("alone", cast("Any", None), (0,), 0, _Nobody())
        self.data_parallel = self.expert_data_parallel = alone


class Work:
    """Arithmetic that takes about so long, on one thread."""

    def __init__(self, step_s: float) -> None:
        self._a = torch.randn(384, 384)
        begun, count = time.perf_counter(), 200
        for _ in range(count):
            self._a @ self._a
        self._count = max(1, round(step_s / ((time.perf_counter() - begun) / count)))

    def step(self) -> None:
        """One step's forward and backward."""
        for _ in range(self._count):
            self._a @ self._a


def overhead(
    ratio: Ratio, own: nodes.Node, memory: Path, *, blocks: int, steps: int, seed: int
) -> tuple[list[float], dict[str, float]]:
    """Per cent by which the tier lengthens a step, one value for each pair of blocks; and what its parts took."""
    chance, work = random.Random(seed), Work(ratio.step_s)
    state = torch.zeros(ratio.state_mb * MB // 4)
    keeper = StateKeeper(cast("Any", _Context(own)), [Part("experts", {"values": state}, "expert_data_parallel")])
    keeper.restore(cast("Any", _Generation(memory, GENERATION, 0)), cast("Any", _Groups()))
    step, found, copies, stalls = 0, [], [], []
    keeper.hold(0)
    for _ in range(2):  # first use of every page, buffer and connection
        step = _with(keeper, state, work, step)
        time.sleep(0.3)
    before = own.call("brought")
    for _ in range(blocks):
        seconds = {}
        for kept in chance.sample((True, False), 2):
            keeper.settle()
            begun = time.perf_counter()
            for _ in range(steps):
                if kept:
                    step = _with(keeper, state, work, step)
                    stalls.append(keeper.stall_s)
                else:
                    work.step()
                    state.add_(1.0)
            seconds[kept] = time.perf_counter() - begun
            keeper.settle()
            if kept:
                copies.append(keeper.copy_s)
        found.append(100 * (seconds[True] / seconds[False] - 1))
    time.sleep(0.5)
    brought = own.call("brought")
    parts = {
        "copy_ms": 1e3 * median(copies),
        "stall_ms": 1e3 * median(stalls),
        "copy_gb_s": ratio.state_mb * MB / median(copies) / 1e9,
        "peer_gb_s": (brought[0] - before[0]) / max(1e-9, brought[1] - before[1]) / 1e9,
        "step": float(step),
    }
    keeper.close()
    data = memoryview(bytearray(ratio.state_mb * MB))
    parts["digest_ms"] = min(timeit.repeat(lambda: digest_of(data), number=1, repeat=5)) * 1e3
    return found, parts


def _with(keeper: StateKeeper, state: torch.Tensor, work: Work, step: int) -> int:
    work.step()
    with keeper.updating(step + 1):
        state.add_(1.0)
    return step + 1


def restores(
    own: nodes.Node, partner: nodes.Node, memory: Path, *, disk: Path, mb: int, tries: int
) -> dict[str, list[float]]:
    """Milliseconds from each tier for a state of so many MB, in a process that holds nothing of it."""
    state = torch.zeros(mb * MB // 4)
    parts = [Part("experts", {"values": state}, "expert_data_parallel")]
    first = StateKeeper(cast("Any", _Context(own)), parts)
    first.restore(cast("Any", _Generation(memory, GENERATION, 0)), cast("Any", _Groups()))
    first.hold(0)
    with first.updating(1):
        state.fill_(7.0)
    first.settle()
    time.sleep(1.0)  # the partner has it
    found: dict[str, list[float]] = {"memory": [], "partner": [], "disk": [], "write": []}
    own_file = memory / "own" / f"{HOST}.state"
    for attempt in range(tries):
        other = _Context(own)
        other.host_id = f"{JOB}-{attempt + 100}"
        state.zero_()
        found["memory"].append(_restore(other, parts, _Generation(memory, 2 + attempt, 1), state))
        found["write"].append(1e3 * own.call("write", 1))
        own_file.rename(own_file.with_suffix(".away"))
        forget_pages(disk_path(disk_folder(disk, JOB), RANK))
        state.zero_()
        found["disk"].append(_restore(other, parts, _Generation(memory, 500 + attempt, 1, disk=disk), state))
        generation = 1_000 + attempt
        begun = time.perf_counter()
        own.call("fetch", partner.address, 1, generation)
        state.zero_()
        _restore(other, parts, _Generation(memory, generation, 1, fetched=True), state)
        found["partner"].append(1e3 * (time.perf_counter() - begun))
        own_file.with_suffix(".away").rename(own_file)
        for left in (memory / "fetched").iterdir():
            left.unlink()
    first.close()
    return found


def forget_pages(path: Path) -> None:
    """Have a file read from its disk again."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _restore(context: _Context, parts: list[Part], generation: _Generation, state: torch.Tensor) -> float:
    begun = time.perf_counter()
    keeper = StateKeeper(cast("Any", context), parts)
    held = keeper.restore(cast("Any", generation), cast("Any", _Groups()))
    took = 1e3 * (time.perf_counter() - begun)
    if held.missing or float(state[0]) != 7.0 or float(state[-1]) != 7.0:
        raise RuntimeError(f"the state did not come back: {held}")
    keeper.close()
    (generation.assignment.memory_folder or SHM).joinpath("own", f"{context.host_id}.state").unlink()
    return took


def shared(folder: Path, mb: int, tries: int) -> dict[str, list[float]]:
    """Stall, write and restore of a state on shared storage, ms: what the MoE trainer does for its experts."""
    state, model = torch.zeros(mb * MB // 4), ModelConfig()
    unit = Unit({"experts": state})
    part = SavedPart("experts-0-0", {"expert-0": unit})
    found: dict[str, list[float]] = {"stall": [], "write": [], "shared": []}
    for attempt in range(tries):
        place = folder / f"step-{attempt}"
        begun = time.perf_counter()
        unit.stage()
        staged = time.perf_counter()
        write_part(place, part, attempt, model)
        files = describe_files(place, part.name)
        written = time.perf_counter()
        verify_files(RestorePoint("bench", attempt, place, tuple(files)), [part.name])
        read_part(place, part.name, {"expert-0": unit})
        unit.unstage()
        ended = time.perf_counter()
        found["stall"].append(1e3 * (staged - begun))
        found["write"].append(1e3 * (written - staged))
        found["shared"].append(1e3 * (ended - written))
        shutil.rmtree(place)
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--block-seconds", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=1)
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {0})
    folder, memory = Path(tempfile.mkdtemp(prefix="phx-bench-")), Path(tempfile.mkdtemp(prefix="phx-bench-", dir=SHM))
    figures: list[Figure] = []
    try:
        nodes.identities(folder)
        own = nodes.start(nodes.OWN, folder / nodes.OWN, memory / nodes.OWN, 1)
        partner = nodes.start(nodes.PARTNER, folder / nodes.PARTNER, memory / nodes.PARTNER, 1)
        own.call("holder", partner.address)
        print("\none rank on core 0, both nodes' memory tiers on core 1, mutual TLS between them\n")
        heads = f"{'unique MB per s of step':<26}{'overhead %':>12}{'spread':>18}{'stall ms':>10}{'copy ms':>9}{'of it digest':>14}"
        print(f"{heads}{'GB/s':>7}{'to partner GB/s':>17}")
        for ratio in RATIOS:
            steps = max(2, round(parsed.block_seconds / ratio.step_s))
            found, parts = overhead(ratio, own, memory / nodes.OWN, blocks=parsed.blocks, steps=steps, seed=parsed.seed)
            figure = of_samples(ratio.id, found, "%", must=MUST_PCT if ratio is RATIOS[0] else None)
            figures.append(figure)
            spread = f"{min(found):.2f} to {max(found):.2f}"
            print(
                f"{ratio.mb_per_s:<26.0f}{figure.value:>12.2f}{spread:>18}{parts['stall_ms']:>10.1f}{parts['copy_ms']:>9.1f}"
                f"{parts['digest_ms']:>14.1f}"
                f"{parts['copy_gb_s']:>7.1f}{parts['peer_gb_s']:>17.2f}",
                flush=True,
            )
            if ratio is RATIOS[0]:
                figures += [
                    Figure("memory_stall_ms", round(parts["stall_ms"], 2), "ms", parsed.blocks * steps),
                    Figure("memory_copy_gb_s", round(parts["copy_gb_s"], 2), "GB/s", parsed.blocks),
                    Figure("memory_digest_gb_s", round(ratio.state_mb / parts["digest_ms"], 2), "GB/s", 5),
                    Figure("partner_gb_s", round(parts["peer_gb_s"], 3), "GB/s", parsed.blocks * steps),
                ]
        mb, tries = 100, 7
        disk = nodes.states_folder(folder / nodes.OWN)
        times = restores(own, partner, memory / nodes.OWN, disk=disk, mb=mb, tries=tries)
        stored = shared(folder, mb, tries)
        rows = [
            ("memory_restore_ms", "own node's memory", times["memory"]),
            ("partner_restore_ms", "partner's memory", times["partner"]),
            ("disk_restore_ms", "own node's disk, nothing cached", times["disk"]),
            ("disk_write_ms", "and its writing, beside steps", times["write"]),
            ("shared_restore_ms", "shared storage (here: a disk)", stored["shared"]),
            ("shared_stall_ms", "stall of a save to it", stored["stall"]),
            ("shared_write_ms", "and its writing, beside steps", stored["write"]),
        ]
        print(f"\n{f'state of {mb} MB':<32}{'ms':>9}{'spread':>18}{'GB/s':>8}")
        for name, words, values in rows:
            figures.append(of_samples(name, values, "ms"))
            spread = f"{min(values):.0f} to {max(values):.0f}"
            print(f"{words:<32}{median(values):>9.1f}{spread:>18}{mb / median(values):>8.2f}")
        own.close()
        partner.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(memory, ignore_errors=True)
    path = write(
        "checkpoint",
        figures,
        seed=parsed.seed,
        simulated=["accelerator: matrix products on one core", "two nodes on one machine"],
    )
    print(f"\nwritten to {path}")
    raise SystemExit(int(any(figure.must is not None and figure.value > figure.must for figure in figures)))


if __name__ == "__main__":
    main()
