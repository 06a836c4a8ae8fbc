"""Faults, checkpoints and logs through a real node agent."""

from __future__ import annotations

import hashlib
from pathlib import Path

from phalanx.v1 import agent_pb2, types_pb2

from tests.fixtures.node_agent_harness import JOB, Site, apply_generation, until, with_site


@with_site
async def test_fault_injection_is_reported_at_once_and_cleared(site: Site) -> None:
    agent, session = await site.started()
    session.effect("e1", inject_fault=agent_pb2.InjectFault(accelerator=1, code="XID79", message="off the bus"))
    await until(lambda: session.accelerator(1).state == types_pb2.ACCELERATOR_STATE_FAILED, "the fault")
    assert session.accelerator(1).serial == "sim-n1-1"
    (fault,) = await until(session.faults, "what is wrong with it")
    assert (fault.entity, fault.code, fault.message) == ("accelerator/1", "XID79", "off the bus")
    assert (fault.assertion, fault.vendor) == (types_pb2.FAULT_ASSERTION_OCCURRED, "simulated")
    assert fault.raised_age_ms > 0
    assert session.accelerator(0).state == types_pb2.ACCELERATOR_STATE_HEALTHY
    session.effect("e2", inject_fault=agent_pb2.InjectFault(accelerator=1))
    await until(lambda: session.accelerator(1).state == types_pb2.ACCELERATOR_STATE_HEALTHY, "cleared")
    await until(lambda: session.faults()[-1].assertion == types_pb2.FAULT_ASSERTION_RECOVERED, "the fault is over")
    await until(lambda: len(agent.logged("fault.told")) > 1, "both are logged")
    assert [entry["assertion"] for entry in agent.logged("fault.told")] == ["occurred", "recovered"]


@with_site
async def test_a_canary_fails_once_and_breaks_nothing(site: Site) -> None:
    _, session = await site.started()
    session.effect("e1", raise_canary=agent_pb2.RaiseCanary(number=7))
    await until(session.faults, "the canary's fault")
    (fault,) = session.faults()
    assert (fault.entity, fault.vendor, fault.code, fault.sequence) == ("node", "canary", "CANARY", 7)
    assert fault.assertion == types_pb2.FAULT_ASSERTION_ONCE
    assert fault.raised_age_ms > 0
    assert session.accelerator(0).state == types_pb2.ACCELERATOR_STATE_HEALTHY
    host = await site.host(session, "j-1")
    session.effect("e2", apply_generation=apply_generation(1, {0: host.host_id}))
    await host.assignment(1)
    session.effect("e3", raise_canary=agent_pb2.RaiseCanary(number=8))
    refused = await until(lambda: session.result("e3"), "the refusal")
    assert not refused.ok
    assert "ranks live here" in refused.message


def _write(path: Path, data: bytes, relative: str) -> agent_pb2.VerifyCheckpoint:
    path.mkdir(parents=True)
    (path / relative).write_bytes(data)
    order = agent_pb2.VerifyCheckpoint(job_uid=JOB, checkpoint_id="c1", folder=str(path))
    order.files.add(path=relative, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    return order


@with_site
async def test_verify_finds_a_flipped_byte(site: Site) -> None:
    _, session = await site.started()
    data = bytes(range(256)) * 20_000
    order = _write(site.directory.parent / "ckpt" / JOB / "g1" / "step-10", data, "part.bin")
    session.effect("e1", verify_checkpoint=order)
    checked = await until(lambda: [row for report in session.reports for row in report.checked], "the check")
    assert checked[0].ok
    assert (await until(lambda: session.result("e1"), "the result")).ok
    flipped = bytearray(data)
    flipped[1_234_567] ^= 1
    (Path(order.folder) / "part.bin").write_bytes(flipped)
    session.effect("e2", verify_checkpoint=order)
    await until(lambda: len([row for report in session.reports for row in report.checked]) == 2, "the second check")
    bad = [row for report in session.reports for row in report.checked][1]
    assert (bad.ok, bad.file, bad.checkpoint_id) == (False, "part.bin", "c1")
    assert "SHA-256" in bad.reason
    (Path(order.folder) / "part.bin").unlink()
    session.effect("e3", verify_checkpoint=order)
    await until(lambda: len([row for report in session.reports for row in report.checked]) == 3, "the third check")
    assert "No such file" in [row for report in session.reports for row in report.checked][2].reason


@with_site
async def test_sweep_deletes_only_checkpoint_folders(site: Site) -> None:
    _, session = await site.started()
    await site.host(session, "j-1")
    root = site.directory.parent / "ckpt"
    order = apply_generation(2, {0: "j-1"})
    order.checkpoint_folder = str(root / JOB / "g2")
    old, current, precious = root / JOB / "g1" / "step-10", root / JOB / "g2" / "step-20", root.parent / "home" / "work"
    for folder in (old, current, precious):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"x")
    session.effect("e1", apply_generation=order)
    await until(lambda: session.result("e1"), "applied")
    session.effect("e2", sweep_folders=agent_pb2.SweepFolders(folders=[str(old), str(current), str(old)]))
    assert (await until(lambda: session.result("e2"), "swept")).ok
    assert not old.exists()
    assert not current.exists()
    refused = [
        str(precious),
        str(root / JOB / "g2"),
        str(root),
        str(root / JOB),
        f"{old}/../../../../home",
        "/",
        "ckpt",
    ]
    session.effect("e3", sweep_folders=agent_pb2.SweepFolders(folders=refused))
    result = await until(lambda: session.result("e3"), "refused")
    assert not result.ok
    assert all(folder in result.message for folder in refused)
    assert (precious / "file").exists()
    assert (root / JOB / "g2").exists()


@with_site
async def test_log_tail_follow_and_exited_rank(site: Site) -> None:
    _, session = await site.started()
    host = await site.host(session, "j-1")
    path = site.directory / "logs" / "j-1.log"
    path.write_bytes(b"0123456789" * 1000)
    session.effect("e1", apply_generation=apply_generation(1, {0: "j-1"}))
    await host.assignment(1)
    logs = site.controller
    session.send(open_log=agent_pb2.OpenLog(stream_id="tail", host_id="j-1", tail_bytes=15))
    await until(lambda: "tail" in logs.logs_ended, "the tail")
    assert logs.log_text("tail") == b"567890123456789"
    assert logs.logs["tail"][-1].end_offset == 10_000
    # From a byte on: nothing twice and nothing left out; a byte that is not there yet is the end.
    session.send(open_log=agent_pb2.OpenLog(stream_id="on", host_id="j-1", offset=9_997))
    await until(lambda: "on" in logs.logs_ended, "the rest")
    assert logs.log_text("on") == b"789"
    session.send(open_log=agent_pb2.OpenLog(stream_id="beyond", host_id="j-1", offset=99_999))
    await until(lambda: "beyond" in logs.logs_ended, "nothing")
    assert logs.log_text("beyond") == b""
    # By rank, followed: what is added comes, until the process has ended.
    session.send(open_log=agent_pb2.OpenLog(stream_id="f", job_uid=JOB, rank=0, follow=True, tail_bytes=5))
    await until(lambda: logs.log_text("f") == b"56789", "the tail first")
    with path.open("ab") as file:
        file.write(b"more")
    await until(lambda: logs.log_text("f") == b"56789more", "then what is added")
    assert {chunk.host_id for chunk in logs.logs["f"]} == {"j-1"}
    session.effect("e2", fence_hosts=agent_pb2.FenceHosts(host_ids=["j-1"]))
    await until(lambda: "f" in logs.logs_ended, "the stream ends with the process")
    session.effect("e3", forget_hosts=agent_pb2.ForgetHosts(host_ids=["j-1"]))
    await until(lambda: session.result("e3"), "forgotten")
    session.send(open_log=agent_pb2.OpenLog(stream_id="dead", job_uid=JOB, rank=0, tail_bytes=4))
    await until(lambda: "dead" in logs.logs_ended, "the log of an ended rank")
    assert logs.log_text("dead") == b"more"
    session.send(open_log=agent_pb2.OpenLog(stream_id="none", host_id="../../etc/passwd"))
    await until(lambda: "none" in logs.logs_ended, "no log")
    assert logs.log_text("none") == b""


@with_site
async def test_at_most_eight_readers_and_a_reader_that_leaves_frees_its_place(site: Site) -> None:
    agent, session = await site.started()
    await site.host(session, "j-1")
    (site.directory / "logs" / "j-1.log").write_bytes(b"text")
    for number in range(9):
        session.send(open_log=agent_pb2.OpenLog(stream_id=f"s{number}", host_id="j-1", follow=True))
    await until(lambda: len(site.controller.logs) == 8, "eight streams")
    await until(lambda: agent.logged("log.refused"), "the ninth is refused")
    assert agent.logged("log.refused")[0]["stream_id"] == "s8"
    site.controller.cut_logs.add("s0")
    with (site.directory / "logs" / "j-1.log").open("ab") as file:
        file.write(b"more")
    opened = 0

    def again() -> bool:
        nonlocal opened
        opened += 1
        session.send(open_log=agent_pb2.OpenLog(stream_id=f"again{opened}", host_id="j-1"))
        return any(stream.startswith("again") for stream in site.controller.logs)

    await until(again, "a place is free again")
    beats = len(session.beats)
    await until(lambda: len(session.beats) > beats, "the session goes on")


@with_site
async def test_an_order_to_save_reaches_ranks_of_its_generation_and_what_they_say_of_it_the_controller(
    site: Site,
) -> None:
    _, session = await site.started()
    host = await site.host(session, "j-1")
    session.effect("e1", save_now=agent_pb2.SaveNow(job_uid=JOB, generation=1, deadline_ms=5_000))
    refused = await until(lambda: session.result("e1"), "the refusal")
    assert (refused.ok, refused.message) == (False, "no rank of generation 1 is connected here")
    session.effect("e2", apply_generation=apply_generation(1, {0: host.host_id}))
    await host.assignment(1)
    session.effect("e3", save_now=agent_pb2.SaveNow(job_uid=JOB, generation=1, deadline_ms=5_000))
    assert (await until(lambda: session.result("e3"), "the result")).ok
    (told,) = await until(lambda: host.instructions("save_now"), "the order")
    assert (told.save_now.generation, told.save_now.deadline_ms) == (1, 5_000)
    for rank in (0, 7):  # the second is not here, and speaks for itself elsewhere
        finding = agent_pb2.SaveFinding(
            job_uid=JOB, generation=1, step=12, rank=rank, word=agent_pb2.SAVE_WORD_FAILED, reason="full" * 200
        )
        host.send(save_finding=finding)
    await until(lambda: host.instructions("refused"), "the refusal of the second")
    rows = await until(lambda: [row for report in session.reports for row in report.save_findings], "the finding")
    assert [(row.step, row.rank, len(row.reason)) for row in rows] == [(12, 0, 500)]
