"""Two nodes test the path between them: what is right passes, what is wrong is found by both, who does not come convicts nobody."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from phalanx.v1 import agent_pb2

from agents.node.check import DEGRADED, check
from agents.node.checks import network, pair
from agents.node.checks.desk import CheckDesk, CheckSettings
from agents.node.checks.finding import Answer
from agents.node.checks.pair import SPEED, PairTest, Spoiled, Word
from agents.node.checks.pairs import PairDesk, PairSettings
from agents.node.devices import Devices, DeviceSettings
from agents.node.hosts import HostTable
from agents.node.outbox import ReportOutbox
from agents.node.outcomes import Outcome
from agents.node.state import NodeState
from tests.fixtures.ports import free_port

MEET_S = 60.0


def both(*, sums: bool = False, listener: Spoiled = Spoiled.NO, caller: Spoiled = Spoiled.NO) -> list[Answer]:
    """What the two ends of one path say."""
    port = free_port()
    tests = [
        PairTest(rank, "127.0.0.1", port, "e1", MEET_S, sums=sums, spoiled=spoiled)
        for rank, spoiled in enumerate((listener, caller))
    ]
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(pair.check, tests))


def words(answers: list[Answer]) -> list[str]:
    return [answer.word for answer in answers]


def test_a_sound_path_passes_with_one_speed_for_both_and_a_sum_through_gloo() -> None:
    answers = both(sums=True)
    assert words(answers) == [Word.PASSED, Word.PASSED]
    (one, other) = [answer.figures[f"node: {SPEED}"] for answer in answers]
    assert one == other > 0
    assert all(answer.backend == "gloo" for answer in answers)
    assert all(
        "sums through gloo came out right" in answer.text and "% sent again" in answer.text for answer in answers
    )


def test_a_sum_that_comes_out_wrong_fails_for_both() -> None:
    answers = both(sums=True, caller=Spoiled.SUM)
    assert words(answers) == [Word.FAILED, Word.FAILED]
    assert all("a sum through gloo on cpu came out wrong" in answer.text for answer in answers)


@pytest.mark.parametrize(("listener", "caller"), [(Spoiled.BYTES, Spoiled.NO), (Spoiled.NO, Spoiled.BYTES)])
def test_bytes_that_change_fail_for_both(listener: Spoiled, caller: Spoiled) -> None:
    assert words(both(listener=listener, caller=caller)) == [Word.FAILED, Word.FAILED]


def test_who_is_not_there_is_unmet_and_no_broken_link() -> None:
    alone = pair.check(PairTest(1, "127.0.0.1", free_port(), "e1", meet_s=0.3))
    assert (alone.word, "nobody listened" in alone.text) == (Word.UNMET, True)
    waiting = pair.check(PairTest(0, "127.0.0.1", free_port(), "e1", meet_s=0.3))
    assert (waiting.word, waiting.text) == (Word.UNMET, "nobody called within 0.3 s")


def test_a_taken_port_is_nobodys_fault() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        answer = pair.check(PairTest(0, "127.0.0.1", server.getsockname()[1], "e1"))
    assert (answer.word, "cannot listen" in answer.text) == (Word.NOT_RUN, True)


def test_strangers_are_turned_away_and_the_right_one_is_still_heard() -> None:
    port = free_port()
    with ThreadPoolExecutor(1) as threads:
        listening = threads.submit(pair.check, PairTest(0, "127.0.0.1", port, "e1", MEET_S, sums=False))
        stranger = pair.check(PairTest(1, "127.0.0.1", port, "another test", MEET_S, sums=False))
        assert stranger.word == Word.UNMET
        with socket.create_connection(("127.0.0.1", port)) as link:
            link.sendall(b"GET / HTTP/1.1\r\n\r\n")
        right = pair.check(PairTest(1, "127.0.0.1", port, "e1", MEET_S, sums=False))
        assert (right.word, listening.result().word) == (Word.PASSED, Word.PASSED)


def test_a_path_that_loses_much_is_a_finding_beside_the_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "MOST_SENT_AGAIN", -1.0)
    answers = both()
    assert words(answers) == [Word.PASSED, Word.PASSED]
    assert [finding.code for answer in answers for finding in answer.findings] == ["CHECK-LOSS"] * 2


class Node:
    """The parts of an agent that a test of a path needs."""

    def __init__(self, folder: Path, busy: frozenset[int] | None = None, spoiled: Spoiled = Spoiled.NO) -> None:
        settings = DeviceSettings(
            node="a", vendors=(), simulated=1, kept_path=folder / "kept", telemetry_path=folder / "told"
        )
        self.devices = Devices(settings)
        self.state = NodeState(folder / "hosts.json", HostTable(), self.devices)
        self.outbox: ReportOutbox = self.state.outbox
        desk = CheckDesk(CheckSettings(folder, folder / "checks.json"), self.devices, lambda: busy)
        self.pairs = PairDesk(PairSettings(sums=False, spoiled=spoiled), desk, self.devices, lambda: busy)

    async def test(self, limit_s: float = 60.0) -> Outcome:
        order = agent_pb2.CheckPair(peer="b", address="127.0.0.1", port=free_port(), rank=1, test="e1")
        return await self.pairs.carry_out(order, limit_s)

    def told(self) -> agent_pb2.Report:
        report = self.outbox.next_report(0.0)
        assert report is not None
        return report


def test_a_node_that_is_cut_off_tells_the_link_and_a_row_that_only_observes(tmp_path: Path) -> None:
    node = Node(tmp_path, spoiled=Spoiled.CUT)
    outcome = asyncio.run(node.test())
    assert outcome.pair is not None
    assert outcome.pair.word == agent_pb2.PAIR_WORD_UNMET
    report = node.told()
    assert list(report.broken_links.nodes) == ["b"]
    assert [(row.entity, row.code) for row in report.faults] == [("node", "CHECK-PEER")]
    node.devices.link("b", broken=False)
    report = node.told()
    assert report.HasField("broken_links")
    assert not report.broken_links.nodes


def test_ranks_go_first(tmp_path: Path) -> None:
    outcome = asyncio.run(Node(tmp_path, busy=frozenset({0})).test())
    assert outcome.pair is not None
    assert (outcome.ok, outcome.pair.word) == (False, agent_pb2.PAIR_WORD_NOT_RUN)
    assert "processes of ranks live here" in outcome.message


def test_a_test_that_hangs_is_killed_within_its_order_and_says_so(tmp_path: Path) -> None:
    outcome = asyncio.run(Node(tmp_path).test(10.0))  # nobody listens, and its process takes part of the time to start
    assert outcome.pair is not None
    assert (outcome.ok, outcome.pair.word) == (False, agent_pb2.PAIR_WORD_UNMET)


def test_a_person_who_calls_nobody_is_told_so() -> None:
    out = io.StringIO()
    assert check(["--call", "127.0.0.1:1", "--wait-s", "0.2", "-o", "json"], out) == DEGRADED
    told = json.loads(out.getvalue())["pair"]
    assert (told["word"], told["bytes_per_s"]) == ("unmet", 0.0)
