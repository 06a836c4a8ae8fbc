"""Whose identity the CLI shows, what it refuses to read, and how it finds the leader among several controllers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from phalanx.v1 import fleet_pb2, job_pb2

from cli.client import Client, translate
from cli.credentials import CERTIFICATE, KEY, check_loopback, find_folder, load, make_request, write_private
from cli.errors import CliError, Exit
from cli.supervisor.enrolment import reachable
from controlplane.pki.certificates import read_request

from fake_controller import Refusal, Served  # isort: skip # beside this file, put on the path by conftest


@pytest.fixture
def two() -> Iterator[tuple[Served, Served]]:
    both = Served(), Served()
    yield both
    for one in both:
        one.stop()


def standby(served: Served, request: str) -> None:
    served.controller.refusals[request] = Refusal(grpc.StatusCode.UNAVAILABLE, "controller b leads", "NOT_LEADER")


def test_the_leader_is_found_and_the_request_id_stays(two: tuple[Served, Served]) -> None:
    first, second = two
    standby(first, "CancelJobRequest")
    client = Client(f"{first.address},{second.address}")
    answer = client.jobs.CancelJob(job_pb2.CancelJobRequest(request_id="r1", name="moe"), timeout=60)
    assert answer.revision == 9
    ids = [one.request_id for served in two for one in served.controller.requests]
    assert ids == ["r1", "r1"], "a repeat is the same request"
    client.fleet.GetSite(fleet_pb2.GetSiteRequest(), timeout=60)
    assert len(first.controller.requests) == 1, "who led last is asked first"
    client.close()


def test_a_controller_that_is_gone_is_passed_over(two: tuple[Served, Served]) -> None:
    first, second = two
    first.stop()
    client = Client(f"{first.address},{second.address}")
    assert client.fleet.GetSite(fleet_pb2.GetSiteRequest(), timeout=60).version == "0.1.0"
    assert list(client.jobs.ReadLogs(job_pb2.ReadLogsRequest(name="moe"), timeout=60)) == []
    client.close()


def test_other_refusals_are_not_taken_elsewhere(two: tuple[Served, Served]) -> None:
    first, second = two
    first.controller.refusals["GetSiteRequest"] = Refusal(
        grpc.StatusCode.UNAVAILABLE, "the disk is full", "JOURNAL_UNAVAILABLE"
    )
    client = Client(f"{first.address},{second.address}")
    with pytest.raises(grpc.RpcError) as caught:
        client.fleet.GetSite(fleet_pb2.GetSiteRequest(), timeout=60)
    assert not second.controller.requests
    told = translate(caught.value, client.address)
    assert (told.what, told.why) == ("the disk is full", "JOURNAL_UNAVAILABLE")
    client.close()


def test_nobody_leads(two: tuple[Served, Served]) -> None:
    for one in two:
        standby(one, "GetSiteRequest")
    client = Client(",".join(one.address for one in two))
    with pytest.raises(grpc.RpcError) as caught:
        client.fleet.GetSite(fleet_pb2.GetSiteRequest(), timeout=3.0)
    assert translate(caught.value, client.address).why == "NOT_LEADER"
    client.close()


def test_where_an_identity_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, named = tmp_path / "site", tmp_path / "named"
    monkeypatch.delenv("PHALANX_IDENTITY", raising=False)
    with pytest.raises(CliError) as caught:
        find_folder(None, (None, site))
    assert caught.value.code is Exit.NOT_ALLOWED
    write_private(site / CERTIFICATE, b"x")
    assert find_folder(None, (None, site)) == site
    monkeypatch.setenv("PHALANX_IDENTITY", str(named))
    assert find_folder(None, (None, site)) == named
    assert find_folder(tmp_path / "chosen", (None, site)) == tmp_path / "chosen"


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "me"
    read_request(make_request(folder))
    assert (folder.stat().st_mode & 0o777, (folder / KEY).stat().st_mode & 0o777) == (0o700, 0o600)
    for name in (CERTIFICATE, "ca.pem"):
        write_private(folder / name, b"x")
    assert load(folder).certificate_pem == b"x"
    (folder / KEY).chmod(0o644)
    with pytest.raises(CliError) as caught:
        load(folder)
    assert (caught.value.code, "chmod 600" in caught.value.fix) == (Exit.NOT_ALLOWED, True)
    with pytest.raises(CliError) as caught:
        make_request(folder)
    assert caught.value.code is Exit.CONFLICT, "a key is not overwritten"


def test_plaintext_stays_on_this_machine(phalanx: Callable[..., object]) -> None:
    check_loopback(("127.0.0.1:7711", "localhost:1", "[::1]:2"))
    with pytest.raises(CliError):
        check_loopback(("127.0.0.1:7711", "10.0.0.1:7711"))
    outcome = phalanx("get", "nodes", "--plaintext", "--address", "10.0.0.1:7711")
    assert (outcome.code, "loopback only" in outcome.err) == (2, True)  # type: ignore[attr-defined]


def test_where_agents_join() -> None:
    assert reachable("ctl-1:7712", "10.0.0.1:7711") == "ctl-1:7712"
    assert reachable("0.0.0.0:7712", "ctl-1:7711, ctl-2:7711") == "ctl-1:7712,ctl-2:7712"
    assert reachable("[::]:7712", "[fd00::1]:7711") == "[fd00::1]:7712"
