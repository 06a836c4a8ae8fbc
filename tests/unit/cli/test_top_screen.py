"""`phalanx top` itself, driven by keys against a real gRPC server."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_controller import FakeController, Refusal, Served
from google.protobuf.struct_pb2 import Struct
from phalanx.v1 import agent_pb2, event_pb2, fleet_pb2, job_pb2
from phalanx.v1 import types_pb2 as t
from textual.pilot import Pilot

from cli.client import Client, connect
from cli.top.app import TopApp
from cli.top.detail_screen import DetailScreen
from cli.top.feed import Poller
from cli.top.table import Table

LIMIT_S = 60.0
EVERY_S = 0.1
Story = Callable[["Screen"], Coroutine[Any, Any, None]]


def node(number: int, **more: Any) -> fleet_pb2.Node:
    return fleet_pb2.Node(
        **{
            "name": f"node-{number}",
            "liveness": t.NODE_LIVENESS_ALIVE,
            "service": t.NODE_SERVICE_IN_SERVICE,
            "labels": {"rack": f"r{(number - 1) // 16 + 1}"},
            "accelerators": [agent_pb2.AcceleratorStatus(index=0, state=t.ACCELERATOR_STATE_HEALTHY)],
            **more,
        }
    )


def job(name: str, **more: Any) -> job_pb2.Job:
    args = Struct()
    args.update({"steps": 200})
    spec = t.TrainingJobSpec(name=name, ranks=2, workload=t.WorkloadSpec(module="m", args=args))
    ranks = [job_pb2.Rank(rank=n, state=t.RANK_STATE_RUNNING, node=f"node-{n + 1}", pid=70 + n) for n in range(2)]
    values = {"uid": f"{name}-u", "state": t.JOB_STATE_RUNNING, "step": 100, "step_time_s": 0.031, "ettr": 0.97, **more}
    return job_pb2.Job(name=name, spec=spec, ranks=ranks, **values)


def event(revision: int, message: str, *, type: str = "JobPlaced", **about: str) -> event_pb2.Event:
    return event_pb2.Event(revision=revision, at="2026-01-02T03:04:05+00:00", type=type, message=message, **about)


@pytest.fixture
def filled(controller: FakeController) -> FakeController:
    for number in range(1, 5):
        controller.nodes[f"node-{number}"] = node(number, jobs=["moe"] if number < 3 else [])
    controller.jobs["moe"] = job("moe")
    controller.events.append(event(1, "moe was placed", job="moe"))
    return controller


class Screen:
    """The running application as a test sees it."""

    def __init__(self, app: TopApp, pilot: Pilot[None]) -> None:
        self.app = app
        self.press: Callable[..., Awaitable[None]] = pilot.press
        self._pilot = pilot

    def text(self) -> str:
        """What stands on the screen."""
        return "\n".join("".join(part.text for part in strip) for strip in self.app.screen._compositor.render_strips())

    async def shows(self, *wanted: str) -> str:
        """The screen, once it shows all of `wanted`."""
        end = asyncio.get_running_loop().time() + LIMIT_S
        while not all(part in self.text() for part in wanted):
            assert asyncio.get_running_loop().time() < end, f"{wanted} never came:\n{self.text()}"
            await self._pilot.pause(0.02)
        return self.text()

    async def shows_no_more(self, unwanted: str) -> str:
        """The screen, once `unwanted` is gone from it."""
        async with asyncio.timeout(LIMIT_S):
            while unwanted in self.text():
                await asyncio.sleep(EVERY_S)
        return self.text()


def play(address: str, story: Story, size: tuple[int, int] = (80, 24)) -> None:
    """Runs the application on a terminal of `size` through a story."""

    async def run() -> None:
        app = TopApp(lambda: connect(address, Path()), EVERY_S)
        async with app.run_test(size=size) as pilot:
            await story(Screen(app, pilot))

    asyncio.run(run())


def test_it_all_stands_on_80_by_24(served: Served, filled: FakeController) -> None:
    filled.site.CopyFrom(fleet_pb2.GetSiteResponse(version="9.9", nodes=4, accelerators=4, epoch=2, revision=7))
    filled.site.ledger_s.update({"PRODUCTIVE": 3.0, "IDLE": 1.0})

    async def story(screen: Screen) -> None:
        of_node = "node-1  IN_SERVICE  ALIVE  jobs moe  1/1 accelerators"
        text = await screen.shows(
            "r1 ■■□□", "■ 2 in use   □ 2 free", "moe  RUNNING  100/200", "moe was placed", of_node,
            "4 nodes  4 accelerators  productive 75.0 %", "controller 9.9  epoch 2  revision 7  journal and detector ok",
        )  # fmt: skip
        assert "#####....." in text
        assert "31 ms" in text
        assert "q quit" in text

    play(served.address, story)


def test_trouble_is_visible_without_colour(served: Served, filled: FakeController) -> None:
    filled.nodes["node-3"].liveness = t.NODE_LIVENESS_DEAD
    filled.nodes["node-4"].cordons.add(owner="ops", reason="fan")
    filled.site.journal_state = "disk full"

    async def story(screen: Screen) -> None:
        await screen.shows("r1 ■■XC", "X 1 dead", "C 1 cordoned", "!! journal: disk full")
        await screen.press("x")
        await screen.shows("node-3  IN_SERVICE  DEAD")
        await screen.press("right")
        await screen.shows("cordons ops: fan")

    play(served.address, story)


def test_the_map_of_a_large_site_is_entered_and_left(served: Served, controller: FakeController) -> None:
    for number in range(1, 2001):
        controller.nodes[f"node-{number}"] = node(number)
    controller.nodes["node-40"].liveness = t.NODE_LIVENESS_SUSPECT

    async def story(screen: Screen) -> None:
        await screen.shows("site, one sign per rack", "□ 1,999 free")
        await screen.press("x")
        await screen.shows("rack r3: 16 nodes: 15 free, 1 suspect (node-40)")
        await screen.press("enter")
        await screen.shows("rack r3, one sign per node", "node-33  IN_SERVICE  ALIVE")
        await screen.press("escape", "escape")
        await screen.shows("site, one sign per rack")

    play(served.address, story)


def test_from_node_to_job_to_rank_and_back(served: Served, filled: FakeController) -> None:
    async def story(screen: Screen) -> None:
        await screen.shows("r1 ■■□□")
        await screen.press("enter")
        await screen.shows("node node-1", "jobs on this node", "because of node-1", "moe was placed")
        await screen.press("enter")
        await screen.shows("job moe", "RUNNING", "because of moe", "node-2")
        await screen.press("down", "enter")
        await screen.shows("rank moe/1", "because of moe/1", "phalanx logs moe --rank 1", "node node-2")
        await screen.press("down", "enter")  # the job: it is already open, so it comes back up
        await screen.shows("job moe", "because of moe")
        assert sum(isinstance(open_, DetailScreen) for open_ in screen.app.screen_stack) == 2
        await screen.press("escape", "escape")
        await screen.shows("site, one sign per node")

    play(served.address, story)


def test_what_is_gone_is_said(served: Served, filled: FakeController) -> None:
    async def story(screen: Screen) -> None:
        await screen.shows("r1 ■■□□")
        await screen.press("right", "right")
        await screen.shows("node-3  IN_SERVICE")
        del filled.nodes["node-3"]
        await screen.press("enter")
        await screen.shows("!! there is no `node-3`", "nothing was read yet")

    play(served.address, story)


def test_jobs_and_events_lead_to_their_details(served: Served, filled: FakeController) -> None:
    filled.events.append(event(2, "node-2 is late", node="node-2"))

    async def story(screen: Screen) -> None:
        await screen.shows("moe  RUNNING", "node-2 is late")
        await screen.press("tab", "enter")
        await screen.shows("job moe", "because of moe")
        await screen.press("escape", "tab", "enter")
        await screen.shows("node node-2", "because of node-2")

    play(served.address, story)


def test_tables_change_under_a_cursor_that_stays(served: Served, filled: FakeController) -> None:
    async def story(screen: Screen) -> None:
        await screen.shows("moe was placed")
        jobs, events = (screen.app.screen.query_one(name, Table) for name in ("#jobs", "#events"))
        filled.jobs.clear()
        filled.jobs.update({"first": job("first"), "moe": job("moe", step=150)})
        filled.events.extend(event(2 + number, f"event {number}", job="moe") for number in range(30))
        await screen.shows("first  RUNNING", "150/200", "event 29")
        assert jobs.cursor_row == 1
        assert events.cursor_row == 30  # on the newest, which was where it stood
        screen.app.screen.set_focus(events)
        await screen.press("home" if events.cursor_row == 0 else "ctrl+home")
        filled.events.append(event(40, "one more", job="moe"))
        end = asyncio.get_running_loop().time() + LIMIT_S
        while events.row_count < 32 and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.02)
        assert (events.row_count, events.cursor_row) == (32, 0)

    play(served.address, story)


def test_jobs_of_one_name_are_told_apart(served: Served, filled: FakeController) -> None:
    old = job("moe", uid="moe-old", state=t.JOB_STATE_FAILED, ended_at="2026-01-01T00:00:00+00:00", end_reason="spent")
    filled.jobs = {"moe-old": old, "moe-u": job("moe")}

    async def story(screen: Screen) -> None:
        await screen.shows("jobs, 2", "spent")
        await screen.press("tab", "down", "enter")
        await screen.shows("job moe-old", "FAILED")

    play(served.address, story)


def test_text_of_others_cannot_steer_the_terminal(served: Served, filled: FakeController) -> None:
    filled.nodes["node-1"].labels["rack"] = "\x1b[2J"
    filled.jobs["moe"].blocker = "wait\x1b]0;x\x07"
    filled.events.append(event(2, "bell\x07 [red]text[/red]", job="moe"))

    async def story(screen: Screen) -> None:
        text = await screen.shows(r"\x1b[2J", r"wait\x1b]0;x\x07", r"bell\x07 [red]text[/red]")
        assert not {letter for letter in text if not letter.isprintable()} - {"\n"}

    play(served.address, story)


def test_a_controller_that_was_away_is_found_at_its_new_address(served: Served, filled: FakeController) -> None:
    at = [served]

    @contextmanager
    def where_it_is() -> Iterator[Client]:
        with connect(at[0].address, Path()) as client:
            yield client

    async def run() -> None:
        app = TopApp(where_it_is, EVERY_S)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = Screen(app, pilot)
            await screen.shows("r1 ■■□□", "moe was placed")
            served.stop()
            await screen.shows("!! controller away since", "r1 ■■□□")  # what was known stays
            at[0] = again
            again.controller.nodes.update(filled.nodes)
            again.controller.events.extend([*filled.events, event(2, "a new leader", node="node-1")])
            again.controller.nodes["node-1"].liveness = t.NODE_LIVENESS_SUSPECT
            await screen.shows("r1 !■□□", "a new leader")
            text = await screen.shows_no_more("away since")
            assert text.count("moe was placed") == 1

    again = Served()
    try:
        asyncio.run(run())
    finally:
        again.stop()


def test_a_journal_that_begins_anew_replaces_the_events(served: Served, filled: FakeController) -> None:
    async def story(screen: Screen) -> None:
        await screen.shows("moe was placed")
        filled.refusals["WatchEventsRequest"] = Refusal(grpc.StatusCode.OUT_OF_RANGE, "compacted", "COMPACTED")
        filled.hang_up()
        filled.events[:] = [event(9, "after the gap", job="moe")]
        text = await screen.shows("after the gap")
        assert "moe was placed" not in text

    play(served.address, story)


def test_routine_does_not_push_the_news_away(served: Served, filled: FakeController) -> None:
    filled.events.extend(event(n, "saved again", type="CheckpointCommitted", job="moe") for n in range(2, 300))

    async def story(screen: Screen) -> None:
        await screen.shows("moe was placed")
        filled.events.append(event(300, "node-2 is DEAD", type="LivenessChanged", node="node-2"))
        assert "saved again" not in await screen.shows("moe was placed", "node-2 is DEAD")

    play(served.address, story)


def test_q_ends_it_even_while_a_stream_is_open(served: Served, filled: FakeController) -> None:
    async def story(screen: Screen) -> None:
        await screen.shows("moe was placed")
        await screen.press("q")
        assert screen.app._exit

    play(served.address, story)


def test_nothing_is_read_for_a_screen_that_is_covered(served: Served, filled: FakeController) -> None:
    async def story(screen: Screen) -> None:
        await screen.shows("r1 ■■□□")
        await screen.press("enter")
        await screen.shows("because of node-1")
        below = screen.app.screen
        assert isinstance(below, DetailScreen)
        await screen.press("enter")
        await screen.shows("because of moe")
        assert below._poller is None

    play(served.address, story)


def test_off_a_terminal_it_refuses_and_says_what_to_use(phalanx: Callable[..., Any], served: Served) -> None:
    outcome = phalanx("top")
    assert (outcome.code, outcome.out) == (2, "")
    assert "get nodes" in outcome.err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_reader_that_died_is_not_mistaken_for_calm(served: Served) -> None:
    def defect(client: Client) -> int:
        raise ZeroDivisionError

    poller = Poller(lambda: connect(served.address, Path()), defect, EVERY_S)
    poller.start()
    poller._thread.join(LIMIT_S)
    with pytest.raises(RuntimeError, match="did not expect"):
        poller.newest()


def test_faults_have_a_pane_while_any_stand(served: Served, filled: FakeController) -> None:
    fault = fleet_pb2.Fault(node="node-2", entity="accelerator/0", code="XID-79", level="ISOLATE", reason="off the bus")

    async def story(screen: Screen) -> None:
        assert "faults that stand" not in await screen.shows("moe was placed")
        filled.faults = fleet_pb2.ListFaultsResponse(standing=[fault], standing_total=7)
        await screen.shows("faults that stand, 7, the hardest 1 shown", "XID-79", "off the bus")
        screen.app.screen.query_one("#faults", Table).focus()
        await screen.press("enter")
        await screen.shows("node node-2")
        await screen.press("escape")
        filled.faults = fleet_pb2.ListFaultsResponse()
        await screen.shows_no_more("faults that stand")  # the pane goes with the last fault

    play(served.address, story)
