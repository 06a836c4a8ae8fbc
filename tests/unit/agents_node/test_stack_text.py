"""A stack as one short text, and a page of counters as another process reads it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from phalanx.v1 import agent_pb2

from agents.node.processes import read_stat
from agents.node.stack_text import FRAMES, MOST, main_thread, place_of
from agents.node.stacks import MOST_BYTES, bound, find_py_spy, parse
from agents.rank import flight

LIB = "/usr/lib/python3.11"
TORCH = "/opt/venv/lib/python3.11/site-packages/torch/distributed"
RANK = "/srv/phalanx/agents/rank"
GROUP = f"{RANK}/group.py"
TRAIN = ("/job/train.py:step", "/job/train.py:main")


def frames(*names: str) -> list[dict[str, object]]:
    """`/folder/file.py:function`, the innermost first."""
    return [
        {"filename": file, "name": name, "line": number}
        for number, (file, _, name) in enumerate(n.rpartition(":") for n in names)
    ]


STACKS = [
    (
        "a wait is told by the call, wherever its loop is",
        frames(f"{GROUP}:_ended", f"{GROUP}:wait", f"{GROUP}:all_reduce", *TRAIN, f"{RANK}/__main__.py:_work"),
        ("train.py:step < train.py:main (in group.py:all_reduce)", True),
    ),
    (
        "the same wait in the middle of a check",
        frames(f"{RANK}/control.py:check_stop", f"{GROUP}:wait", f"{GROUP}:all_reduce", *TRAIN),
        ("train.py:step < train.py:main (in group.py:all_reduce)", True),
    ),
    ("a sleep in the loader", frames("/job/data.py:load", "/job/train.py:main"), ("data.py:load < train.py:main", False)),
    (
        "a read in a library",
        frames(f"{LIB}/socket.py:recv_into", f"{LIB}/http/client.py:read", "/job/data.py:fetch"),
        ("data.py:fetch (in client.py:read)", False),
    ),
    (
        "plain torch",
        frames(f"{TORCH}/distributed_c10d.py:all_reduce", f"{TORCH}/c10d_logger.py:wrapper", "/job/t.py:f"),
        ("t.py:f (in c10d_logger.py:wrapper)", True),
    ),
    (
        "no workload at all",
        frames(f"{RANK}/control.py:wait_newer", f"{RANK}/context.py:generations"),
        ("control.py:wait_newer < context.py:generations", False),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("case", "stack", "place"), STACKS)
def test_places(case: str, stack: list[dict[str, object]], place: tuple[str, bool]) -> None:
    assert place_of(stack) == place, case


def test_what_makes_no_sense_is_left_out_and_all_is_bounded() -> None:
    odd = [None, 3, {"name": None, "filename": None}, *frames(*[f"/job/{'x' * 400}.py:f\n{n}" for n in range(2_000)])]
    text, inside = place_of(odd)
    assert len(text) <= MOST
    assert "\n" not in text
    assert not inside
    assert place_of(frames(*["/job/a.py:f"] * 50))[0].count("a.py:f") == FRAMES
    assert place_of([]) == ("", False)
    assert main_thread([{"os_thread_id": 2}, "x"], 1) == ()
    assert parse(b"{", 1).trouble
    assert parse(b"[]", 1).trouble


def test_a_report_that_is_too_large_loses_collectives_then_places() -> None:
    report = agent_pb2.StackReport(places=["p" * 512] * 64)
    for rank in range(256):
        row = report.ranks.add(rank=rank, place=1)
        for number in range(16):
            row.collectives.add(group=f"group-{number}", members=7, issued=1 << 40, operation="all_reduce")
    bound(report)
    assert report.ByteSize() <= MOST_BYTES
    assert report.ranks[0].collectives
    assert not report.ranks[-1].collectives
    assert report.places
    report.places.extend(["q" * 512] * 200)
    bound(report)
    assert not report.places
    assert {row.place for row in report.ranks} == {0}


CHILD = """
import sys, time
from agents.rank import flight

def load():
    print("ready", flush=True)
    while True:
        time.sleep(0.01)

page = flight.page()
page.begin(3)
slot = page.slot("data_parallel", (0, 2))
for number in range(20):
    page.slot(f"more-{number}", (number,))
slot.begin("all_reduce"); slot.wait(1); slot.wait(-1)
slot.begin("broadcast"); slot.wait(1)
load()
"""


def test_counters_and_stack_of_another_process_even_when_a_signal_holds_it() -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        page = flight.read(child.pid)
        assert page is not None
        assert (page.generation, len(page.groups)) == (3, flight.SLOTS)
        first = flight.GroupCounts("data_parallel", flight.checksum((0, 2)), 2, 1, 1, "broadcast")
        assert page.groups[0] == first
        os.kill(child.pid, signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        stat = read_stat(child.pid)
        assert stat is not None
        assert stat.state == "T"
        assert flight.read(child.pid) == page
        command = [find_py_spy(), "dump", "--json", "--nonblocking", "--pid", str(child.pid)]
        out = subprocess.run(command, capture_output=True, check=True, timeout=20).stdout
        assert json.loads(out)
        assert parse(out, child.pid).place.startswith("<string>:load")
    finally:
        child.kill()
        child.wait()
    assert flight.read(child.pid) is None


def test_a_new_generation_counts_from_zero_and_nonsense_is_no_page() -> None:
    page = flight.FlightPage()
    page.begin(1)
    page.slot("world", (0, 1)).begin("all_reduce")
    page.begin(2)
    assert parsed(page) == (2, [])
    page.slot("data_parallel", (0,))
    assert parsed(page) == (2, [("data_parallel", 0)])
    assert flight.parse(b"\0" * flight.SIZE) is None
    assert flight.parse(b"short") is None
    assert flight.parse(flight._HEAD.pack(flight._MAGIC, 1, 1 << 60) + b"\xff" * flight.SIZE) is not None


def parsed(page: flight.FlightPage) -> tuple[int, list[tuple[str, int]]]:
    told = flight.parse(bytes(page._page))
    assert told is not None
    return told.generation, [(group.name, group.issued) for group in told.groups]
