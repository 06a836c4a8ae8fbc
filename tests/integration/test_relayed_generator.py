"""The load generator's relays speak the relays' protocol: every beat is counted, and a relay that dies convicts nobody."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.fleet import relays, scenarios
from tests.benchmarks.fleet.site import Generator, make_site, read_lag
from tests.benchmarks.fleet.watch import Watch
from tests.fixtures.controller_process import until

NODES = 70
"""Two relays, one of them with few nodes."""


def test_every_beat_behind_a_relay_is_heard_and_a_dead_relay_convicts_nobody(tmp_path: Path) -> None:
    controller = make_site(tmp_path, NODES, tls=True, lease_ms=15_000, beat_ms=100)
    relays.certify(controller, tmp_path, NODES)
    controller.start()
    generator = Generator(tmp_path, "relayed")
    try:
        assert generator.ask("connect")["count"] == NODES
        watch = Watch(controller)
        generator.ask("beats", interval_s=0.1)
        until(lambda: read_lag(controller).beats >= 5 * NODES, "beats are heard")
        generator.ask("hold")
        sent = generator.ask("marks")["sent"]
        until(lambda: read_lag(controller).beats == sent, "every beat that was sent is counted")
        generator.ask("beats", interval_s=0.1)
        moved = generator.ask("kill_relay", relay=1)["nodes"]
        until(lambda: generator.ask("marks")["open"] == NODES - len(moved), "the relay's nodes have no session")
        generator.ask("reconnect")
        assert generator.ask("marks")["open"] == NODES
        assert scenarios.deaths(watch.seen) == set()
        watch.close()
    finally:
        generator.close()
        controller.close()
