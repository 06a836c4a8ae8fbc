"""Rank processes under a fake node agent, with the counter workload: membership, waiting, leaving."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from phalanx.v1 import types_pb2

from tests.fixtures.rank_fake_agent import RankSite

STEPS = 1_000_000
FIXTURES = str(Path(__file__).resolve().parents[1] / "fixtures")
PARKED, RUNNING = types_pb2.RANK_STATE_PARKED, types_pb2.RANK_STATE_RUNNING
JOINING = types_pb2.RANK_STATE_JOINING


@pytest.fixture(scope="module")
def site() -> Iterator[RankSite]:
    """Processes that count for ever; each test makes its own generations of them."""
    with RankSite("training_jobs.examples.counter", {"steps": STEPS, "step_floor_ms": 1}) as site:
        site.pool = 3
        yield site


def count_of(pid: int, what: str) -> int:
    return len(os.listdir(f"/proc/{pid}/{what}"))


def listening(pid: int) -> list[str]:
    table = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    return [line.split()[3] for line in table.splitlines() if re.search(rf"\bpid={pid}\b", line)]


def test_states_are_reported_in_order_with_ages(site: RankSite) -> None:
    hosts = site.take(2)
    site.announce(hosts)
    site.wait_step(5)
    view = site.agent.hosts[hosts[0]]
    states = [status.state for status in view.statuses]
    assert states[0] in (types_pb2.RANK_STATE_STARTING, PARKED)
    assert states.index(PARKED) < states.index(RUNNING)
    last = view.statuses[-1]
    times = last.times
    assert last.state == RUNNING
    assert last.token
    assert times.joining_age_ms >= times.rendezvous_age_ms >= times.restored_age_ms >= times.first_step_age_ms >= 1
    report = view.progress[-1][1]
    assert (report.rank, report.generation, report.job_uid) == (0, site.generation, "job-1")
    assert report.step_time_s > 0


def test_nothing_listens_beyond_the_address_of_the_table(site: RankSite) -> None:
    hosts = site.take(2)
    site.announce(hosts)
    site.wait_step(1)
    for pid in [*(site.processes[host].pid for host in hosts), site.store.pid]:
        addresses = listening(pid)
        assert addresses, f"{pid} listens nowhere: the check would prove nothing"
        assert all(address.startswith("127.0.0.1:") for address in addresses), addresses


SET_ASIDE = (12, 24)
"""Threads and descriptors of the groups of one generation, which may linger; 45 generations that leak one each show."""


def test_threads_and_descriptors_are_flat_over_fifty_generations(site: RankSite) -> None:
    hosts = site.take(2)
    pids = [site.processes[host].pid for host in hosts]

    def measure() -> list[tuple[int, int]]:
        return [(count_of(pid, "task"), count_of(pid, "fd")) for pid in pids]

    before: list[tuple[int, int]] = []
    for turn in range(50):
        site.announce(hosts if turn % 2 else hosts[::-1])
        site.wait_step(2)
        if turn == 4:
            before = measure()
    # A group whose peer dies in the middle of a send is set aside for a while; growth with the generations is what must not be.
    allowed = [(threads + SET_ASIDE[0], descriptors + SET_ASIDE[1]) for threads, descriptors in before]

    def flat() -> bool:
        return all(now[0] <= top[0] and now[1] <= top[1] for now, top in zip(measure(), allowed, strict=True))

    try:
        site.agent.wait("counts are flat", lambda: flat() or None)
    except AssertionError as error:
        raise AssertionError(f"(threads, descriptors) went from {before} to {measure()} in 45 generations") from error


def test_a_killed_peer_is_replaced_and_survivors_keep_their_process(site: RankSite) -> None:
    a, b, c = site.take(3)
    first = site.announce([a, b])
    site.wait_step(20)
    pid = site.agent.hosts[a].pid
    site.kill(b)
    site.wait_state(a, types_pb2.RANK_STATE_PAUSED, first)  # it says at once that it cannot go on
    site.announce([a, c])
    site.wait_step(20)
    assert site.agent.hosts[a].pid == pid
    assert site.processes[a].poll() is None


def test_all_survivors_say_that_they_cannot_go_on(site: RankSite) -> None:
    """Those too that do not speak with the killed one: nobody waits in a collective until somebody tells him."""
    hosts = site.take(6)
    first = site.announce(hosts)
    site.wait_step(20)
    site.kill(hosts[2])
    for host in [*hosts[:2], *hosts[3:]]:
        site.wait_state(host, types_pb2.RANK_STATE_PAUSED, first, timeout_s=20.0)


def test_a_stopped_peer_is_left_behind(site: RankSite) -> None:
    a, b, c = site.take(3)
    site.announce([a, b])
    site.wait_step(20)
    site.freeze(b)
    site.announce([a, c])
    site.wait_step(20)
    site.kill(b)


def test_a_peer_that_never_comes_does_not_hold_the_others(site: RankSite) -> None:
    a, b, c = site.take(3)
    site.kill(b)
    site.announce([a, b])
    site.wait_state(a, JOINING, site.generation)
    site.announce([a, c])
    site.wait_step(1)


def test_ranks_meet_again_after_the_store_was_restarted(site: RankSite) -> None:
    a, b = site.take(2)
    site.announce([a, b])
    site.wait_step(5)
    site.store.kill()
    site.store.wait(60)
    reached = site.agent.hosts[a].step(site.generation)
    site.wait_step(reached + 50)  # a running generation does not need the store
    site.announce([a, b])
    site.wait_state(a, JOINING, site.generation)
    site.store = site.start_store()
    site.wait_step(5)


def test_the_store_ends_on_sigterm(site: RankSite) -> None:
    site.store.send_signal(signal.SIGTERM)
    assert site.store.wait(60) == 0
    site.store = site.start_store()


def test_an_absent_agent_does_not_stall_steps_and_gets_the_truth_afterwards(site: RankSite) -> None:
    a, b = site.take(2)
    generation = site.announce([a, b], every_steps=100)
    site.wait_step(100)
    site.agent.close()
    seen = site.agent.hosts[a].step(generation)
    target = (seen // 100 + 8) * 100  # about a second of steps on an idle machine
    folder = site.checkpoints / f"g{generation}" / f"step-{target}"
    site.agent.wait(f"step {target} without an agent", folder.exists)
    registrations = site.agent.hosts[a].registrations
    site.agent.open()
    site.wait_step(target)
    site.wait_committed(target)  # reported while away, sent on reconnect
    view = site.agent.hosts[a]
    assert view.registrations == registrations + 1
    assert view.registered_as[-1].state == RUNNING
    assert view.registered_as[-1].generation == generation


def test_a_repeated_assignment_with_a_new_token_changes_only_the_token(site: RankSite) -> None:
    a, b = site.take(2)
    generation = site.announce([a, b])
    site.wait_step(5)
    again = site.agent.hosts[a].assignment
    assert again is not None
    joins = sum(status.state == JOINING for status in site.agent.hosts[a].statuses)
    again.token = "after-restart"
    site.agent.assign(a, again)
    site.agent.wait("new token", lambda: site.agent.hosts[a].statuses[-1].token == "after-restart")
    assert site.agent.hosts[a].statuses[-1].generation == generation
    site.wait_step(site.agent.hosts[a].step(generation) + 5)
    assert sum(status.state == JOINING for status in site.agent.hosts[a].statuses) == joins


def test_sigterm_ends_a_rank_with_143(site: RankSite) -> None:
    a, b = site.take(2)
    site.announce([a, b])
    site.wait_step(5)
    site.freeze(b)  # a is inside a collective that cannot complete
    site.processes[a].send_signal(signal.SIGTERM)
    assert site.processes[a].wait(60) == 143
    site.kill(b)


def test_a_lost_peer_without_a_successor_ends_the_process_in_bounded_time(site: RankSite) -> None:
    a, b = site.take(2)
    site.announce([a, b], join_timeout_ms=500)
    site.wait_step(5)
    site.kill(b)
    assert site.processes[a].wait(60) == 75
    assert "no new generation came within" in site.tail(a)


def start_other(site: RankSite, module: str, count: int, **args: object) -> list[str]:
    """Processes of another workload beside the counters; their module lies in tests/fixtures or is ours."""
    workload = {"module": module, "path": FIXTURES, "args": args}
    return site.start(count, PHALANX_WORKLOAD=json.dumps(workload))


def test_the_final_marker_is_sent_until_acknowledged_and_survives_a_reconnect(site: RankSite) -> None:
    hosts = start_other(site, "training_jobs.examples.counter", 1, steps=30)
    site.parked(hosts)
    site.agent.ack_finals = False
    site.announce(hosts)
    view = site.agent.hosts[hosts[0]]
    site.agent.wait("sent, and sent again", lambda: len(view.finals) >= 2)
    site.agent.close()
    site.agent.open()
    count = len(view.finals)
    site.agent.wait("sent again after a reconnect", lambda: len(view.finals) > count)
    assert site.processes[hosts[0]].poll() is None
    generation = site.announce(hosts)  # needed again: the marker of the old generation is withdrawn
    site.agent.wait("runs again", lambda: view.finals[-1].generation == generation)
    site.agent.ack_finals = True
    assert site.results() == [{"steps": "30", "total": str(sum(range(30)))}]


def test_a_workload_that_fails_ends_with_its_code_and_its_reason(site: RankSite) -> None:
    cases = {
        "raise": (1, "ValueError: bad luck"),
        "return": (1, "without context.finish"),
        "diverge": (17, "w differs"),
        "allocate": (12, "out of memory in the workload"),
        "overload": (13, "6.5 times the mean: the routing is to blame"),
        "module": (1, "has no main(context)"),
    }
    hosts = {}
    for how in cases:
        (hosts[how],) = start_other(site, "json" if how == "module" else "rank_broken_workload", 1, how=how)
    for how in ("raise", "return", "diverge", "allocate", "overload"):
        site.parked([hosts[how]])
        site.announce([hosts[how]])
    for how, (code, said) in cases.items():
        assert site.processes[hosts[how]].wait(60) == code, how
        assert said in site.tail(hosts[how])


def test_a_workload_that_lets_the_end_of_a_generation_out_is_called_again(site: RankSite) -> None:
    a, b, c = start_other(site, "rank_plain_workload", 3, steps=200, endless=site.generation + 1)
    site.parked([a, b, c])
    site.announce([a, b])
    site.wait_step(5)
    site.kill(b)
    generation = site.announce([a, c])
    assert site.results() == [{"generation": str(generation)}] * 2
    assert "main() left by GenerationChanged" in site.tail(a)


@pytest.mark.soak  # a timing: it says something on a quiet machine only
def test_waiting_in_slices_costs_little_against_plain_gloo(site: RankSite, capsys: pytest.CaptureFixture[str]) -> None:
    hosts = start_other(site, "rank_bench_workload", 2)
    site.parked(hosts)
    site.announce(hosts)
    result = {key: float(value) for key, value in site.results()[0].items()}
    with capsys.disabled():
        sys.stdout.write(f"\nall-reduce, ms: { {key: round(value, 3) for key, value in result.items()} }\n")
    for size in ("4B", "1MB"):  # ten collectives in a step of 30 ms: 5 % is 0.15 ms each; the rest is for noise
        assert result[f"ours_{size}"] < result[f"plain_{size}"] * 1.25 + 0.15
