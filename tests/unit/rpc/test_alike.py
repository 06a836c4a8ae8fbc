"""Reports that say the same are one event: what follows from it is what follows from the reports, and nobody is passed over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from phalanx.v1 import agent_pb2, types_pb2

from controlplane.core import events as ev
from controlplane.core.draft import Answer, Refusal
from controlplane.core.jobs import NONE, Job, host_id
from controlplane.core.state import State
from controlplane.core.units import NS_PER_MS, NS_PER_S
from controlplane.core.vocabulary import RankState
from controlplane.rpc import alike, observations
from controlplane.rpc.alike import FOLDED_FIELDS, FOLDED_OF_HOST, SAME_NS, AlikeReports
from tests.support.world import World, spec

RANKS, NODES = 8, 4
JOINING, RESTORING, RUNNING = types_pb2.RANK_STATE_JOINING, types_pb2.RANK_STATE_RESTORING, types_pb2.RANK_STATE_RUNNING
UNAVAILABLE = Refusal("unavailable", "JOURNAL_UNAVAILABLE", "the disk is full")
PID, HOST_PID = 70, 69


class Site:
    """What the fold needs of the edge's site; the brain answers at once, unless it takes nothing."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.loop = asyncio.get_running_loop()
        self.events: list[ev.Event] = []
        self.refusing = 0
        self.full = False
        self.forgotten = False
        self.spawned: list[asyncio.Task[object]] = []

    @property
    def state(self) -> State:
        return State() if self.forgotten else self.world.state()

    def post(self, event: ev.Event) -> asyncio.Future[Answer | Refusal | None] | None:
        if self.full:
            return None
        answer: asyncio.Future[Answer | Refusal | None] = self.loop.create_future()
        if self.refusing:
            self.refusing -= 1
            answer.set_result(UNAVAILABLE)
        else:
            self.events.append(event)
            answer.set_result(self.world.turn(event)[0])
        return answer

    async def tell_until_durable(self, event: ev.Event) -> object:
        while True:
            answer = self.post(event)
            outcome = UNAVAILABLE if answer is None else await answer
            if outcome is not UNAVAILABLE:
                return outcome
            await asyncio.sleep(0)

    def spawn(self, work: Coroutine[Any, Any, object]) -> None:
        self.spawned.append(self.loop.create_task(work))


class Teller:
    """The session of a node's agent."""

    def __init__(self, bench: Bench, number: int) -> None:
        self.number = number
        self.ended = False
        self.told_ns = 0
        self.acked = 0
        self.alone: list[agent_pb2.Report] = []
        self._bench = bench

    def durable(self, sequence: int) -> None:
        self.acked = sequence

    def report_alone(self, message: agent_pb2.Report) -> None:
        self.alone.append(message)


class Bench:
    """A job whose processes have parked and have their ranks; the test speaks for their agents."""

    def __init__(self) -> None:
        self.world = World(nodes=NODES, accelerators=2, racks=2)
        self.world.cell_open = False
        self.world.submit(spec("moe", RANKS))
        self.wait()
        for number in self.job.nodes():
            rows = tuple(
                ev.HostRow(self.job.uid, int(serial), RankState.PARKED, NONE, 0, PID, HOST_PID, self.world.now_ns)
                for serial in self.job.hosts.serial[self.job.hosts.node == number]
            )
            self.world.turn(ev.NodeReport(self.name(number), self.boot(number), hosts=rows))
        assert self.job.generation == 1
        self.wait()
        self.site = Site(self.world)
        self.fold = AlikeReports(self.site)  # type: ignore[arg-type] # what it needs of a site
        self.tellers = {number: Teller(self, number) for number in self.job.nodes()}

    @property
    def job(self) -> Job:
        return self.world.job("moe")

    def name(self, number: int) -> str:
        return self.world.state().fleet.name(number)

    def boot(self, number: int) -> str:
        return self.world.state().fleet.facts[number].boot_id

    def wait(self, wait_s: float = 1.0) -> None:
        self.world.kernel.run_until(self.world.now_ns + round(wait_s * NS_PER_S))

    def report(self, number: int, state: int, ages_ms: tuple[int, ...], sequence: int = 7) -> agent_pb2.Report:
        """Of all processes of a node. `ages_ms`: of the moments that they have reached."""
        message = agent_pb2.Report(sequence=sequence)
        hosts = self.job.hosts
        for row in (hosts.node == number).nonzero()[0].tolist():
            host = message.hosts.add(
                host_id=host_id(self.job.uid, int(hosts.serial[row])), job_uid=self.job.uid, state=state,
                rank=int(hosts.rank[row]), generation=self.job.generation, pid=PID, host_pid=HOST_PID,
                age_ms=ages_ms[-1],
            )  # fmt: skip
            names = ("joining_age_ms", "rendezvous_age_ms", "restored_age_ms", "first_step_age_ms")
            for name, age_ms in zip(names, ages_ms, strict=False):
                setattr(host.times, name, age_ms)
        return message

    def take(self, number: int, message: agent_pb2.Report) -> bool:
        teller = self.tellers[number]
        self.fold.tell_of(teller)
        return self.fold.take(teller, message, self.world.now_ns)

    async def all_tell(self, state: int, ages_ms: tuple[int, ...]) -> None:
        for number in self.tellers:
            assert self.take(number, self.report(number, state, ages_ms))
        await self.told()

    async def told(self) -> None:
        self.fold.tell()
        await asyncio.gather(*self.site.spawned)

    def states(self) -> set[RankState]:
        """Of the processes that hold ranks; spare ones are on their way."""
        hosts = self.job.hosts
        return {RankState(state) for state in hosts.state[hosts.rank != NONE].tolist()}


def with_bench(check: Callable[[Bench], Awaitable[None]]) -> Callable[[pytest.MonkeyPatch], None]:
    """A test in a loop, with a job that is large enough."""

    def test(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(alike, "FOLDED_RANKS", RANKS)

        async def run() -> None:
            await check(Bench())

        asyncio.run(asyncio.wait_for(run(), 60))

    return test


@with_bench
async def test_a_gang_comes_to_run_by_an_event_for_each_phase(bench: Bench) -> None:
    moments = []
    for count, state in enumerate((JOINING, RESTORING, RESTORING, RUNNING), start=1):
        bench.wait()
        moments.append(bench.world.now_ns - 3 * NS_PER_MS)
        await bench.all_tell(state, tuple(3 + 1_000 * (count - 1 - k) for k in range(count)))
        assert bench.states() == {RankState(state)}
    assert len(bench.site.events) == 4, "one for all nodes, and no rows"
    assert bench.job.rank_times.tolist() == [moments] * RANKS
    assert {teller.acked for teller in bench.tellers.values()} == {7}
    assert not any(teller.alone for teller in bench.tellers.values())


@with_bench
async def test_moments_that_differ_are_events_of_their_own_in_their_order(bench: Bench) -> None:
    bench.wait()
    for count, number in enumerate(bench.tellers):
        assert bench.take(number, bench.report(number, JOINING, (1 + 400 * count,)))
    await bench.told()
    told = [event.at_ns for event in bench.site.events if isinstance(event, ev.HostsReached)]
    assert len(told) == NODES
    assert told == sorted(told)
    job = bench.job
    for rank, (at_ns, *_) in enumerate(job.rank_times.tolist()):
        count = list(bench.tellers).index(int(job.rank_node[rank]))
        assert abs(at_ns - (bench.world.now_ns - (1 + 400 * count) * NS_PER_MS)) <= SAME_NS


@with_bench
async def test_what_a_node_tells_later_is_not_passed_over_however_early_it_seems(bench: Bench) -> None:
    """The first report was long on its way, so that the second one seems to be of an earlier moment."""
    bench.wait()
    await bench.all_tell(JOINING, (1,))
    await bench.all_tell(RESTORING, (950, 900))
    assert bench.states() == {RankState.RESTORING}
    assert (bench.job.rank_times[:, 1] >= bench.job.rank_times[:, 0]).all()
    number = next(iter(bench.tellers))
    message = bench.report(number, RESTORING, (950, 930, 910))
    assert bench.take(number, message)
    assert bench.take(number, bench.report(number, RUNNING, (950, 930, 910, 900), sequence=8)), "in the same moment"
    await bench.told()
    at = bench.job.rank_node == number
    assert (bench.job.rank_times[at] > 0).all()
    assert bench.tellers[number].acked == 8


@with_bench
async def test_phases_that_were_never_told_are_folded_only_when_they_were_at_the_same_time(bench: Bench) -> None:
    bench.wait()
    first, second, *_ = bench.tellers
    near, far = bench.report(first, RUNNING, (40, 30, 20, 10)), bench.report(second, RUNNING, (900, 700, 500, 10))
    assert bench.take(first, near)
    assert bench.take(second, far)
    await bench.told()
    assert bench.tellers[second].alone == [far]
    assert (bench.tellers[first].alone, bench.tellers[first].acked) == ([], 7)
    assert (bench.job.rank_times[bench.job.rank_node == first] > 0).all()
    assert not (bench.job.rank_times[bench.job.rank_node == second] > 0).any()


def another_process(message: agent_pb2.Report) -> None:
    message.hosts[0].pid += 1


def another_rank(message: agent_pb2.Report) -> None:
    message.hosts[0].rank, message.hosts[1].rank = message.hosts[1].rank, message.hosts[0].rank


def no_such_process(message: agent_pb2.Report) -> None:
    message.hosts[0].host_id = message.hosts[0].host_id.rpartition("-")[0] + "-99"


def no_moment(message: agent_pb2.Report) -> None:
    message.hosts[0].times.joining_age_ms = 0


def a_moment_to_come(message: agent_pb2.Report) -> None:
    message.hosts[0].times.first_step_age_ms = 1


ODD_ROWS = (another_process, another_rank, no_such_process, no_moment, a_moment_to_come)


@with_bench
async def test_a_row_that_is_odd_has_its_report_judged_alone_and_no_other(bench: Bench) -> None:
    bench.wait()
    first, second, *_ = bench.tellers
    for odd in ODD_ROWS:
        message = bench.report(first, JOINING, (1,))
        odd(message)
        assert bench.take(first, message), odd
        assert bench.take(second, bench.report(second, JOINING, (1,)))
        await bench.told()
        assert bench.tellers[first].alone == [message], odd
        assert bench.tellers[second].alone == []
        assert bench.tellers[first].acked == 0
        bench.tellers[first].alone.clear()


def more_than_that(message: agent_pb2.Report, bench: Bench) -> list[agent_pb2.Report]:
    """Reports that say more than that living processes have got further."""
    found = []
    for change in (
        lambda one: setattr(one, "full", True),
        lambda one: one.accelerators.add(index=0),
        lambda one: one.shards.add(),
        lambda one: one.faults.add(),
        lambda one: one.unreadable.SetInParent(),
        lambda one: one.broken_links.SetInParent(),
        lambda one: one.hosts[0].exit.SetInParent(),
        lambda one: setattr(one.hosts[0], "state", types_pb2.RANK_STATE_PAUSED),
        lambda one: setattr(one.hosts[0], "state", types_pb2.RANK_STATE_EXITED),
        lambda one: setattr(one.hosts[0], "generation", bench.job.generation + 1),
        lambda one: setattr(one.hosts[0], "host_id", "other-1-1"),
        lambda one: setattr(one.hosts[0], "host_id", "x"),
        lambda one: setattr(one.hosts[0], "age_ms", 2**64 - 1),
        lambda one: setattr(one.hosts[0].times, "joining_age_ms", 2**63),
        lambda one: one.ClearField("hosts"),
    ):
        copy = agent_pb2.Report()
        copy.CopyFrom(message)
        change(copy)
        found.append(copy)
    return found


@with_bench
async def test_what_says_more_is_not_taken(bench: Bench) -> None:
    number = next(iter(bench.tellers))
    for message in more_than_that(bench.report(number, JOINING, (1,)), bench):
        assert not bench.take(number, message), message
    assert bench.take(number, bench.report(number, JOINING, (1,)))


@with_bench
async def test_a_report_with_any_other_field_is_not_taken(bench: Bench) -> None:
    number = bench.job.nodes()[0]
    others = [part for part in agent_pb2.Report.DESCRIPTOR.fields if part.name not in FOLDED_FIELDS]
    assert len(others) >= 8
    for part in others:
        message = bench.report(number, JOINING, (3,))
        if part.is_repeated:
            getattr(message, part.name).add()
        elif part.message_type is not None:
            getattr(message, part.name).SetInParent()
        else:
            setattr(message, part.name, 1)
        assert not bench.take(number, message), part.name
    without = bench.report(number, JOINING, (3,))
    without.ClearField("sequence")
    assert not bench.take(number, without), "one more field must not make up for one that is missing"
    assert bench.take(number, bench.report(number, JOINING, (3,)))


def test_no_field_of_a_process_is_folded_away_unseen() -> None:
    known = {part.name for part in agent_pb2.HostStatus.DESCRIPTOR.fields}
    assert known == FOLDED_OF_HOST | {"exit"}, "look at it in alike.AlikeReports._rows_of, or name it in FOLDED_OF_HOST"


@with_bench
async def test_jobs_do_not_cut_each_others_folds_short(bench: Bench) -> None:
    """Two large gangs start at once, and their reports alternate: each waits for others of its own job."""
    other = Bench()
    other.world.job("moe").uid = "other-1"
    bench.world.control.leader.state.jobs["other-1"] = other.job  # type: ignore[union-attr] # there is one
    for number in list(bench.tellers)[:2]:
        assert bench.take(number, bench.report(number, JOINING, (1,)))
        assert bench.fold.take(other.tellers[number], other.report(number, JOINING, (1,)), bench.world.now_ns)  # type: ignore[arg-type]
    assert bench.site.events == [], "all of them wait"


def test_a_small_job_keeps_its_milliseconds() -> None:
    async def check() -> None:
        bench = Bench()
        number = next(iter(bench.tellers))
        assert not bench.take(number, bench.report(number, JOINING, (1,)))

    asyncio.run(check())


@with_bench
async def test_nothing_is_acknowledged_before_it_is_durable(bench: Bench) -> None:
    bench.wait()
    bench.site.refusing = 2
    for number in bench.tellers:
        assert bench.take(number, bench.report(number, JOINING, (1,)))
    bench.fold.tell()
    await asyncio.sleep(0)
    assert {teller.acked for teller in bench.tellers.values()} == {0}
    await bench.told()
    assert bench.states() == {RankState.JOINING}
    assert {teller.acked for teller in bench.tellers.values()} == {7}


@with_bench
async def test_a_full_inbox_is_waited_for(bench: Bench) -> None:
    bench.wait()
    bench.site.full = True
    for number in bench.tellers:
        assert bench.take(number, bench.report(number, JOINING, (1,)))
    bench.fold.tell()
    await asyncio.sleep(0)
    bench.site.full = False
    await bench.told()
    assert bench.states() == {RankState.JOINING}


@with_bench
async def test_who_has_left_is_neither_believed_nor_answered(bench: Bench) -> None:
    bench.wait()
    first, *others = bench.tellers
    for number in bench.tellers:
        assert bench.take(number, bench.report(number, JOINING, (1,)))
    bench.tellers[first].ended = True
    await bench.told()
    assert (bench.tellers[first].acked, bench.tellers[first].alone) == (0, [])
    assert {bench.tellers[number].acked for number in others} == {7}
    assert not bench.job.rank_times[bench.job.rank_node == first].any()


@with_bench
async def test_reports_of_a_job_that_is_gone_are_judged_alone(bench: Bench) -> None:
    bench.wait()
    number = next(iter(bench.tellers))
    message = bench.report(number, JOINING, (1,))
    assert bench.take(number, message)
    bench.site.forgotten = True
    await bench.told()
    assert (bench.tellers[number].alone, bench.site.events) == ([message], [])


@with_bench
async def test_folded_or_not_the_state_is_the_same(bench: Bench) -> None:
    other = Bench()
    for one, folds in ((bench, True), (other, False)):
        for count, state in enumerate((JOINING, RESTORING, RUNNING), start=1):
            one.wait()
            for number in one.tellers:
                ages_ms = (2_001, 1_001, 1, 1)[3 - count :] if state == RUNNING else (1_001, 1)[2 - count :]
                message = one.report(number, state, ages_ms[: count + (state == RUNNING)])
                if folds:
                    assert one.take(number, message)
                else:
                    event = observations.node_report(
                        one.name(number), one.boot(number), message, one.world.now_ns, one.world.state()
                    )
                    one.world.turn(event)
            if folds:
                await one.told()
    assert bench.job.state is other.job.state
    assert bench.job.rank_times.tolist() == other.job.rank_times.tolist()
    for name in ("serial", "node", "rank", "generation", "state", "pid", "host_pid", "since_ms"):
        assert getattr(bench.job.hosts, name).tolist() == getattr(other.job.hosts, name).tolist(), name
