"""A listing as columns says what the listing as messages says, also after what it remembers has changed."""

import math
import random
from dataclasses import replace

import numpy as np
from phalanx.v1 import fleet_pb2

from controlplane.core.fleet import Accelerator, Cordon, Fleet, NodeFacts
from controlplane.core.jobs import Job
from controlplane.core.spec import JobSpec, Workload
from controlplane.core.state import State
from controlplane.core.vocabulary import JobState
from controlplane.rpc.node_columns import NodeListing
from controlplane.rpc.views import node_message

NOW_NS = 10**12


def job(serial: int, state: JobState = JobState.RUNNING) -> Job:
    spec = JobSpec(f"job-{serial}", Workload("m"), ranks=1)
    return Job(uid=f"job-{serial}-u", name=spec.name, serial=serial, spec=spec, submitted_ns=serial, state=state)


def fleet(random_: random.Random, size: int) -> Fleet:
    made = Fleet()
    for number in range(size):
        labels = (("rack", f"r{number // 4}"), ("pool", random_.choice("ab")))
        devices = tuple(Accelerator(f"n{number}-{index}") for index in range(random_.randint(0, 3)))
        cordons = (Cordon("operator", "fan"), Cordon("health", "hot"))[: random_.randint(0, 2)]
        made.add(NodeFacts(f"node-{number}", "b", f"10.0.0.{number}", random_.choice(("0.1.0", "0.2.0")), labels))
        made.set_accelerators(number, devices, tuple(random_.randint(1, 6) for _ in devices))
        made.set_facts(number, replace(made.facts[number], cordons=cordons, accelerators=devices))
    made.liveness = np.array([random_.randint(1, 4) for _ in range(size)], dtype=np.uint8)
    made.service = np.array([random_.randint(1, 8) for _ in range(size)], dtype=np.uint8)
    made.session = np.array([random_.random() < 0.5 for _ in range(size)])
    made.cell_member = np.array([random_.random() < 0.5 for _ in range(size)])
    owned(made, random_)
    return made


def owned(made: Fleet, random_: random.Random) -> None:
    made.acc_owner = np.array([[random_.randint(-1, 3) for _ in row] for row in made.acc_owner], dtype=np.int32)
    made.reserved = np.array([random_.randint(-1, 3) for _ in made.reserved], dtype=np.int32)


def check(listing: NodeListing, state: State, beats: list[int]) -> None:
    columns = listing.columns(state, beats, NOW_NS)
    texts = list(columns.texts)
    assert texts[0] == ""
    assert len(columns.names) == state.fleet.size
    for number, beat in enumerate(beats):
        node: fleet_pb2.Node = node_message(state, number, beat, NOW_NS)
        age = columns.last_beat_age_s[number]
        assert math.isnan(age) if beat == 0 else math.isclose(age, node.last_beat_age_s, rel_tol=1e-6)
        assert texts[columns.labels[number]] == ",".join(f"{key}={node.labels[key]}" for key in sorted(node.labels))
        assert texts[columns.cordons[number]] == "; ".join(f"{one.owner}: {one.reason}" for one in node.cordons)
        assert set(filter(None, texts[columns.jobs[number]].split(","))) == set(node.jobs)
        assert (columns.accelerators[number], columns.healthy[number]) == (
            len(node.accelerators),
            sum(device.state == 1 for device in node.accelerators),
        )
        assert (
            columns.names[number], columns.service[number], columns.liveness[number], columns.session_open[number],
            columns.cell_member[number], texts[columns.versions[number]], texts[columns.addresses[number]],
        ) == (
            node.name, node.service, node.liveness, node.session_open, node.cell_member, node.agent_version, node.address,
        )  # fmt: skip


def test_columns_and_messages_agree_whatever_changes() -> None:
    random_ = random.Random(7)
    listing = NodeListing()
    state = State(fleet=fleet(random_, 12), jobs={f"u{serial}": job(serial) for serial in range(4)})
    beats = [random_.choice((0, NOW_NS - 5 * 10**8)) for _ in range(12)]
    check(listing, state, beats)
    owned(state.fleet, random_)
    check(listing, state, beats)
    state.jobs["u1"] = job(1, JobState.SUCCEEDED)
    check(listing, state, beats)
    state.fleet.set_facts(3, replace(state.fleet.facts[3], cordons=(Cordon("upgrade", "kernel"),)))
    check(listing, state, beats)
    state.fleet.add(NodeFacts("node-late"))
    check(listing, state, [*beats, 0])


def test_names_of_ended_jobs_do_not_pile_up() -> None:
    random_ = random.Random(8)
    listing = NodeListing()
    state = State(fleet=fleet(random_, 4))
    sizes = set()
    for serial in range(50):
        state.jobs = {"u": job(serial)}
        state.fleet.acc_owner = np.full_like(state.fleet.acc_owner, serial)
        sizes.add(len(listing.columns(state, [0] * 4, NOW_NS).texts))
    assert len(sizes) == 1


def test_no_nodes() -> None:
    assert list(NodeListing().columns(State(), [], NOW_NS).names) == []
