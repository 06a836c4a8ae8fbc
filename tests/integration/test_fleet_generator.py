"""The load generator speaks the agents' protocol to a real controller, and counts what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from phalanx.v1 import fleet_pb2

from cli import health_report
from tests.benchmarks.fleet import history, recoveries, restart, scenarios
from tests.benchmarks.fleet.scenarios import Bench
from tests.benchmarks.fleet.site import Generator, make_site, read_lag
from tests.benchmarks.fleet.watch import Watch
from tests.fixtures.controller_process import until

NODES = 24
LEASE_MS = 6_000
"""A busy machine may stop the generator for some seconds."""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    controller = make_site(tmp_path, NODES, tls=True, lease_ms=LEASE_MS, beat_ms=1_000)
    controller.start()
    generator = Generator(tmp_path)
    try:
        generator.ask("connect")
        generator.ask("cells")
        watch = Watch(controller)
        yield Bench(controller, generator, watch, tuple(f"node-{number:04d}" for number in range(NODES)), 1)
        watch.close()
    finally:
        generator.close()
        controller.close()


def test_every_beat_is_heard_and_every_death_is_told(bench: Bench) -> None:
    bench.generator.ask("beats", interval_s=0.2)
    until(lambda: bench.generator.ask("marks")["sent"] >= NODES, "beats are sent")
    bench.generator.ask("hold")
    sent = bench.generator.ask("marks")["sent"]
    until(lambda: read_lag(bench.controller).beats == sent, "every beat that was sent is counted")

    bench.generator.ask("beats", interval_s=0.2)
    detected = scenarios.resets(bench, 5)
    assert len(detected) == 5
    assert min(detected) > 0
    marks = bench.generator.ask("marks")
    assert marks["open"] == NODES
    assert bench.generator.ask("ended")["ended"] == {}


def test_late_beats_are_shown_as_what_degrades_the_detector_and_convict_nobody(bench: Bench) -> None:
    """A quarter of the beats come two seconds late, less than the lease."""

    def late() -> list[str]:
        answer = bench.controller.fleet.GetHealth(fleet_pb2.GetHealthRequest(), timeout=30)
        return [why for why in health_report.problems(answer) if "of the beats come more than 0.4 s late" in why]

    bench.generator.ask("beats", interval_s=0.2)
    until(lambda: read_lag(bench.controller).beats >= 2 * NODES, "all beat")
    bench.generator.ask("delay", nodes=list(bench.names[:6]), delay_s=2.0)
    until(late, "`phalanx health` says that beats are late")
    assert "phalanx_detector_strained 1.0" in bench.controller.metrics()
    bench.generator.ask("speak")
    until(lambda: not late(), "beats come in time again")
    assert not scenarios.deaths(bench.watch.seen)


def test_a_gang_loses_a_node_and_every_agent_is_told(bench: Bench) -> None:
    """160 ranks on 20 nodes and two spare ones, as the bench plays 50,000."""
    bench.generator.ask("beats", interval_s=0.2)
    recoveries.submit(bench, 160, 2)
    lost = recoveries.ranks_on(bench)[0]
    found = recoveries.go_dark(bench, [lost], recovers=True)
    assert (found.rung, found.generations) == ("REPLACE_RANK", 1)
    assert found.told_nodes == 20
    assert 0 < found.told_ms <= found.fanout_ms
    assert found.message_bytes < 1_000
    assert lost not in recoveries.ranks_on(bench)


def test_a_site_with_a_long_history_is_back_after_a_kill(tmp_path: Path) -> None:
    """The generator's nodes have the processes that the history left, so that nobody is fenced and nothing recovers."""
    nodes = 24
    controller = make_site(tmp_path, nodes, tls=True, lease_ms=LEASE_MS, beat_ms=1_000, snapshot_records=restart.KEPT)
    history.build(tmp_path, nodes, 1_000, 500, 1)
    controller.start()
    generator = Generator(tmp_path)
    try:
        generator.ask("beats", interval_s=0.2)
        generator.ask("connect")
        generator.ask("cells")
        gang = controller.job("gang")
        found = restart.restart(controller, generator)
        assert (found.convicted, found.after_snapshot >= 500) == (0, True)
        assert generator.ask("marks")["open"] == nodes
        after = controller.job("gang")
        assert (after.state, after.generation) == (gang.state, gang.generation)
        assert generator.ask("effects")["effects"] == {}
    finally:
        generator.close()
        controller.close()
