"""Checks of a machine: what is right passes, what is wrong is found, what cannot say is never well."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from phalanx.v1 import agent_pb2, types_pb2

from agents.node.board import DeviceBoard
from agents.node.checks import arithmetic, disk, finding, handling, memory, network, process, record
from agents.node.checks.finding import CRASHED, HUNG, NODE, VENDOR, Answer, Finding, NoAnswerError, decode
from agents.node.checks.places import Places
from controlplane.catalogues import built_in

SLOW = Finding("node", "CHECK-MEMORY-SLOW", "x")


def test_the_known_answer_is_the_one_of_exact_integers() -> None:
    left, right = (factor.astype(np.int64) for factor in arithmetic.factors())
    exact = left @ right
    assert arithmetic.is_right(exact)
    assert exact.max() < 2**24, "single precision holds it exactly"


def test_one_wrong_bit_of_a_product_is_found() -> None:
    left, right = arithmetic.factors()
    product = left @ right
    assert arithmetic.is_right(product)
    product[200, 100] += 1
    assert not arithmetic.is_right(product)


class Devices:
    """Two devices of which the second one adds wrong."""

    kind = "pretended"
    indexes = (0, 1)

    def entity(self, index: int) -> str:
        return f"accelerator/{index}"

    def put(self, values: np.ndarray, index: int) -> np.ndarray:
        wrong = values.copy()
        wrong[0, 0] += index
        return wrong

    def take(self, tensor: np.ndarray) -> np.ndarray:
        return tensor


def test_the_device_that_calculates_wrong_is_named() -> None:
    answer = arithmetic.check(Devices(), 0.0)  # type: ignore[arg-type]  the real one needs a device
    assert [(found.entity, found.code) for found in answer.findings] == [("accelerator/1", "CHECK-ARITHMETIC")]
    assert answer.backend == "pretended"


def test_memory_disk_and_loopback_of_this_machine_are_well(tmp_path: Path) -> None:
    answers = [memory.check(None), disk.check(tmp_path), network.check_loopback()]
    assert [answer.findings for answer in answers] == [(), (), ()]
    assert all(value > 0 for answer in answers for value in answer.figures.values())
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_a_disk_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    (found,) = disk.check(tmp_path / "missing").findings
    assert (found.entity, found.code) == (NODE, "CHECK-DISK")
    assert "No such file" in found.message


def test_bytes_that_change_on_the_way_are_seen_by_the_sender() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as relay:

        def change_one_byte() -> None:
            link, _ = relay.accept()
            with link, socket.create_connection(server.getsockname()) as onward:
                first = bytearray(link.recv(1))
                first[0] ^= 1
                onward.sendall(first)
                left = network.BYTES + 4 - 1
                while left:
                    data = link.recv(min(left, 1 << 16))
                    onward.sendall(data)
                    left -= len(data)
                link.sendall(onward.recv(1))

        threads = [threading.Thread(target=change_one_byte), threading.Thread(target=network.receive, args=(server,))]
        for thread in threads:
            thread.start()
        with pytest.raises(OSError, match="arrived changed"):
            network.send(relay.getsockname())
        for thread in threads:
            thread.join()


def test_a_path_is_lossy_above_one_segment_in_a_hundred() -> None:
    segments = network.BYTES // network.SEGMENT_BYTES
    assert network.findings(network.Path(1.0, segments // 200), "n2") == ()
    (found,) = network.findings(network.Path(1.0, segments // 20), "n2")
    assert found.code == "CHECK-LOSS"
    assert "to n2" in found.message


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"backend": 1}', b'{"backend":"","findings":[{}],"figures":{}}'])
def test_what_is_no_answer_is_refused(line: bytes) -> None:
    with pytest.raises(NoAnswerError):
        decode(line)


def test_an_answer_travels_whole() -> None:
    answer = Answer("cpu", (SLOW,), {"node: memory copy, bytes per second": 1.5})
    assert decode(answer.encode()) == answer


async def _run(order: process.Order) -> Answer:
    return await process.run(order)


def test_a_check_that_gives_no_answer_is_killed_and_found() -> None:
    answer = asyncio.run(_run(process.Order("arithmetic", 0.3, ("--seconds", "1000"))))
    assert [found.code for found in answer.findings] == [HUNG]
    assert not answer.backend


def test_a_check_that_ends_without_an_answer_is_found() -> None:
    answer = asyncio.run(_run(process.Order("arithmetic", 120.0, ("--seconds", "no number"))))
    (found,) = answer.findings
    assert found.code == CRASHED
    assert "exit code 2" in found.message


def test_nobody_runs_on_when_a_check_is_cancelled() -> None:
    before = _children()  # of tests that ran earlier in this process

    async def cancelled() -> set[int]:
        task = asyncio.create_task(process.run(process.Order("arithmetic", 60.0, ("--seconds", "1000"))))
        deadline = time.monotonic() + 60
        while not _children() - before and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert _children() - before
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return _children() - before

    assert asyncio.run(cancelled()) == set()


def _children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def test_a_node_is_measured_against_itself(tmp_path: Path) -> None:
    kept = record.CheckRecord()
    name = f"node: {memory.FIGURE}"
    assert kept.slow({name: 1e9}) == (), "the first figure has nothing to be compared with"
    kept.remember({name: 10e9})
    kept.remember({name: 8e9})
    assert kept.slow({name: 5.1e9}) == ()
    (found,) = kept.slow({name: 4.9e9})
    assert (found.entity, found.code) == ("node", "CHECK-MEMORY-SLOW")
    assert "4.9 GB/s" in found.message
    assert "10.0 GB/s" in found.message
    kept.found((found,), frozenset())
    record.save(tmp_path / "checks.json", kept)
    assert record.load(tmp_path / "checks.json") == kept
    (tmp_path / "checks.json").write_text("{")
    assert record.load(tmp_path / "checks.json") == record.CheckRecord()


def test_a_finding_stands_until_the_same_check_finds_it_well() -> None:
    kept = record.CheckRecord()
    disk_bad = Finding("node", "CHECK-DISK", "no")
    kept.found((SLOW, disk_bad), frozenset())
    kept.found((), frozenset({("node", "CHECK-MEMORY-SLOW")}))
    assert kept.standing == (disk_bad,)


def _row(index: int, pci: str, vendor: str = "nvidia") -> agent_pb2.AcceleratorStatus:
    return agent_pb2.AcceleratorStatus(index=index, pci_address=pci, vendor=vendor)


def test_devices_are_found_by_address_and_else_by_their_order_on_the_bus() -> None:
    places = Places([_row(0, "0000:c1:00.0"), _row(1, "0000:41:00.0"), _row(2, "0000:02:00.0", "simulated")])
    assert len(places) == 2
    assert places.placed(Finding("pci/0000:c1:00.0", "C", "m")).entity == "accelerator/0"
    assert places.placed(Finding("accelerator/0", "C", "m")).entity == "accelerator/1"
    strange = places.placed(Finding("accelerator/7", "C", "m"))
    assert (strange.entity, strange.message) == ("node", "accelerator/7, which no probe lists: m")
    assert places.words([1]) == ("pci/0000:41:00.0", "accelerator/0")


def test_a_reset_that_nobody_knows_how_to_do_is_said() -> None:
    assert asyncio.run(handling.reset("simulated", "")) == "no way is known to reset a device of simulated"


def test_checks_wait_for_a_boot_and_go_on_after_it() -> None:
    kept = record.CheckRecord()
    assert "booted anew" in handling.waits_for_boot(kept)
    assert "booted anew" in handling.waits_for_boot(kept)
    kept.reboot_asked_in = "an earlier boot"
    assert handling.waits_for_boot(kept) == ""
    assert kept.reboot_asked_in == ""


def test_findings_are_faults_of_the_board_and_end_when_they_are_not_told_any_more() -> None:
    board = DeviceBoard(("host",))
    row = agent_pb2.FaultStatus(entity="node", code="CHECK-DISK", vendor=VENDOR, sequence=1)
    assert board.checked([row], VENDOR, 1.0).faults == {("node", "CHECK-DISK")}
    assert not board.checked([row], VENDOR, 2.0).faults
    board.take(agent_pb2.ProbeReading(vendor="host"), 3.0)
    assert ("node", "CHECK-DISK") in board.fault_keys(), "no probe speaks for a check"
    assert board.checked([], VENDOR, 4.0).faults == {("node", "CHECK-DISK")}
    assert board.fault(("node", "CHECK-DISK"), 5.0).assertion == types_pb2.FAULT_ASSERTION_RECOVERED


def test_every_code_of_a_check_has_its_level() -> None:
    codes = {value for name, value in vars(finding).items() if name.isupper() and str(value).startswith("CHECK-")}
    assert codes == {code for vendor, code in built_in().rules if vendor == VENDOR}
