"""Who gets in, as whom, and how one is put out again: a real controller over TLS, forged and true certificates."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from phalanx.v1 import cell_pb2, cell_pb2_grpc, fleet_pb2, fleet_pb2_grpc, identity_pb2, identity_pb2_grpc

from controlplane.core.identity import Role
from controlplane.pki.authority import make_authority, new_serial
from controlplane.pki.certificates import Claims, key_pem, new_key
from tests.fixtures.controller_peers import FakeAgent, Stream
from tests.fixtures.controller_process import refusal, until
from tests.fixtures.secure_site import SITE, NodeAgent, SecureController, Shown, signing_request, site_of

UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[SecureController]:
    one = SecureController(tmp_path).start()
    yield one
    one.close()


class As:
    """What `FakeAgent` needs of a controller, with another identity."""

    def __init__(self, controller: SecureController, shown: Shown) -> None:
        self._controller, self._shown = controller, shown

    def new_channel(self) -> grpc.Channel:
        return self._controller.channel_as(self._shown)


def fake_agent(controller: SecureController, shown: Shown, says: str, **options: str) -> FakeAgent:
    return FakeAgent(As(controller, shown), says, **options)  # type: ignore[arg-type]


def ended(stream: Stream) -> tuple[grpc.StatusCode, str]:
    until(stream.ended.is_set, "the stream ends")
    assert stream.error is not None
    return refusal(stream.error)


def test_without_a_certificate_nothing_is_served_but_join(controller: SecureController) -> None:
    trust = grpc.ssl_channel_credentials(controller.authority.pem)
    options = (("grpc.ssl_target_name_override", "controller.phalanx"),)
    with (
        grpc.secure_channel(controller.address, trust, options=options) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        site_of(channel)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE, "TLS ends it before a word"
    with grpc.insecure_channel(controller.address) as channel, pytest.raises(grpc.RpcError):
        site_of(channel)
    with grpc.secure_channel(controller.join_address, trust, options=options) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            site_of(channel)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED, "the join port has no other method"
        with pytest.raises(grpc.RpcError) as caught:
            identity_pb2_grpc.IdentityServiceStub(channel).Join(
                identity_pb2.JoinRequest(token="x", csr_pem=signing_request())
            )
        assert refusal(caught.value) == (UNAUTHENTICATED, "TOKEN_UNKNOWN")


def test_certificates_of_others_are_refused(controller: SecureController, tmp_path: Path) -> None:
    """Another authority, another site's name under our authority, an expired one: none speaks."""
    other = make_authority(tmp_path / "other", SITE)
    key = new_key()
    now_ns = time.time_ns()
    claims = Claims(SITE, "operator", "admin", Role.ADMIN, (), 1, new_serial(), now_ns, now_ns + 10**12)
    forged = Shown(key_pem(key), other.issue(claims, key.public_key()), controller.authority.pem)
    foreign = Claims("elsewhere", "operator", "admin", Role.ADMIN, (), 1, new_serial(), now_ns, now_ns + 10**12)
    stranger = Shown(key_pem(key), controller.authority.issue(foreign, key.public_key()), controller.authority.pem)
    expired = controller.shown("operator", "late", role=Role.ADMIN, life_s=-60)
    for shown, expected in ((forged, "UNAVAILABLE"), (stranger, "UNAUTHENTICATED"), (expired, "UNAVAILABLE")):
        with pytest.raises(grpc.RpcError) as caught:
            site_of(controller.channel_as(shown))
        assert caught.value.code().name == expected
    wrong_server = Shown(key_pem(key), controller.authority.issue(claims, key.public_key()), other.pem)
    with pytest.raises(grpc.RpcError) as caught:
        site_of(controller.channel_as(wrong_server))
    assert "handshake failed" in caught.value.details(), "an agent does not speak to a false controller"


def test_roles(controller: SecureController) -> None:
    viewer = fleet_pb2_grpc.FleetServiceStub(
        controller.channel_as(controller.shown("operator", "eve", role=Role.VIEWER))
    )
    assert viewer.GetSite(fleet_pb2.GetSiteRequest(), timeout=30).version
    with pytest.raises(grpc.RpcError) as caught:
        viewer.CordonNode(fleet_pb2.CordonNodeRequest(request_id="r", name="n", owner="o", reason="x"), timeout=30)
    assert refusal(caught.value) == (DENIED, "ROLE_NEEDED")
    assert "needs the role operator" in caught.value.details()
    operator = identity_pb2_grpc.IdentityServiceStub(
        controller.channel_as(controller.shown("operator", "olga", role=Role.OPERATOR))
    )
    with pytest.raises(grpc.RpcError) as caught:
        operator.RevokeIdentity(
            identity_pb2.RevokeIdentityRequest(request_id="r", uri="node/n", reason="x"), timeout=30
        )
    assert refusal(caught.value) == (DENIED, "ROLE_NEEDED")
    node = fleet_pb2_grpc.FleetServiceStub(controller.channel_as(controller.shown("node", "node-1")))
    with pytest.raises(grpc.RpcError) as caught:
        node.GetSite(fleet_pb2.GetSiteRequest(), timeout=30)
    assert refusal(caught.value) == (DENIED, "ROLE_NEEDED")
    me = operator.WhoAmI(identity_pb2.WhoAmIRequest(), timeout=30)
    assert (me.identity.uri, me.identity.role, me.plaintext) == (
        f"spiffe://{SITE}/operator/olga", identity_pb2.ROLE_OPERATOR, False,
    )  # fmt: skip
    until(lambda: controller.identity("operator/olga"), "a certificate from outside is recorded when it is first seen")
    named = {f"spiffe://{SITE}/{name}" for name in ("operator/eve", "operator/olga", "node/node-1")}

    def refused() -> set[str]:
        lines = [json.loads(line) for line in controller.log_lines("request_refused")]
        return {line["caller"] for line in lines if line["reason"] == "ROLE_NEEDED"}

    until(lambda: refused() >= named, "who was refused is in the log")
    assert refused() == named


def test_another_nodes_identity_is_refused_and_the_true_session_untouched(controller: SecureController) -> None:
    true = fake_agent(controller, controller.shown("node", "node-1"), "node-1").connect()
    other = fake_agent(controller, controller.shown("node", "node-2"), "node-2").connect()
    boot = controller.node("node-1").boot_id
    liar = fake_agent(controller, controller.shown("node", "node-2"), "node-1", boot_id="9")
    assert ended(liar.dial()) == (DENIED, "NOT_YOUR_NAME")
    operator = fake_agent(controller, controller.shown("operator", "ada", role=Role.ADMIN), "node-1", boot_id="9")
    assert ended(operator.dial()) == (DENIED, "ROLE_NEEDED")
    node = controller.node("node-1")
    assert (node.session_open, node.boot_id) == (True, boot)
    for agent in (true, other):
        assert agent.stream is not None
        assert not agent.stream.ended.is_set()


def test_a_cell_speaks_for_its_nodes_only(controller: SecureController) -> None:
    shown = controller.shown("cell", "cell-1", speaks_for=("node-[1-4]",))
    cells = cell_pb2_grpc.CellServiceStub(controller.channel_as(shown))

    def hello(cell: str, *nodes: str) -> cell_pb2.CellMessage:
        rows = [cell_pb2.CellNode(node=node, alive=True) for node in nodes]
        snapshot = cell_pb2.CellReport(sequence=1, full=True, nodes=rows, store_address="127.0.0.1:1")
        return cell_pb2.CellMessage(
            hello=cell_pb2.CellHello(cell=cell, boot_id="1", agent_version="fake", incarnation="r", snapshot=snapshot)
        )

    assert ended(Stream(cells.Session, hello("cell-2"), lambda _: None).open()) == (DENIED, "NOT_YOUR_NAME")
    assert ended(Stream(cells.Session, hello("cell-1", "node-1", "node-5"), lambda _: None).open()) == (
        DENIED,
        "NOT_YOUR_NAME",
    )
    good = Stream(cells.Session, hello("cell-1", "node-1", "node-4"), lambda _: None).open()
    until(lambda: good.received, "the cell is welcomed")
    report = cell_pb2.CellReport(sequence=2, nodes=[cell_pb2.CellNode(node="node-9", alive=False)])
    good.send(cell_pb2.CellMessage(report=report))
    assert ended(good) == (DENIED, "NOT_YOUR_NAME")
    assert 'reason="NOT_YOUR_NODES"' in controller.metrics()


def test_a_token_is_for_one_key_once(controller: SecureController) -> None:
    key = new_key()
    token = controller.token("node", "node-1").token
    first = controller.join(token, signing_request(key))
    again = controller.join(token, signing_request(key))
    assert first.uri == again.uri == f"spiffe://{SITE}/node/node-1", "a lost answer can be asked for again"
    with pytest.raises(grpc.RpcError) as caught:
        controller.join(token, signing_request())
    assert refusal(caught.value) == (UNAUTHENTICATED, "TOKEN_SPENT")
    short = controller.token("node", "node-2", ttl_ms=1).token
    until(lambda: time.sleep(0.01) is None, "a moment has passed")
    with pytest.raises(grpc.RpcError) as caught:
        controller.join(short, signing_request())
    assert refusal(caught.value) == (UNAUTHENTICATED, "TOKEN_EXPIRED")
    with pytest.raises(grpc.RpcError) as caught:
        controller.join(controller.token("node", "node-3").token, b"no request")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert token not in (controller.folder / "journal" / "journal.db").read_bytes().decode("latin1"), (
        "only its digest is stored"
    )


def test_revocation_ends_sessions_and_survives_a_restart(controller: SecureController) -> None:
    shown = controller.shown("node", "node-1")
    controller.token("node", "node-1")  # makes the name known: a certificate from outside is noted for operators only
    agent = fake_agent(controller, shown, "node-1").connect()
    watcher = controller.shown("operator", "eve", role=Role.VIEWER)
    channel = controller.channel_as(watcher)
    assert site_of(channel).version
    until(lambda: controller.identity("operator/eve"), "eve is known")
    controller.revoke("node/node-1")
    controller.revoke("operator/eve")
    assert agent.stream is not None
    assert ended(agent.stream) == (UNAUTHENTICATED, "REVOKED")
    with pytest.raises(grpc.RpcError) as caught:
        site_of(channel)
    assert refusal(caught.value) == (UNAUTHENTICATED, "REVOKED")
    assert ended(agent.dial()) == (UNAUTHENTICATED, "REVOKED")
    controller.kill()
    controller.start()
    assert ended(fake_agent(controller, shown, "node-1").dial()) == (UNAUTHENTICATED, "REVOKED")
    controller.reinstate("node/node-1")
    assert ended(agent.dial()) == (UNAUTHENTICATED, "REVOKED"), "certificates from before stay refused"
    key = new_key()
    joined = controller.join(controller.token("node", "node-1").token, signing_request(key))
    fresh = Shown(key_pem(key), joined.certificate_pem, joined.ca_pem)
    fake_agent(controller, fresh, "node-1", boot_id="2").connect()


def test_watches_end_with_a_revocation_too(controller: SecureController) -> None:
    from phalanx.v1 import event_pb2, event_pb2_grpc

    shown = controller.shown("operator", "eve", role=Role.VIEWER)
    events = event_pb2_grpc.EventServiceStub(controller.channel_as(shown))
    stream = events.WatchEvents(event_pb2.WatchEventsRequest())
    next(stream)
    until(lambda: controller.identity("operator/eve"), "eve is known")
    controller.revoke("operator/eve")
    with pytest.raises(grpc.RpcError) as caught:
        for _ in stream:
            pass
    assert refusal(caught.value) == (UNAUTHENTICATED, "REVOKED")


def test_a_stream_does_not_outlive_its_certificate(controller: SecureController) -> None:
    for life_s in (3.0, 10.0, 30.0):  # on a busy machine a certificate may end before its session begins
        stream = fake_agent(controller, controller.shown("node", "node-1", life_s=life_s), "node-1").dial()
        refused = ended(stream)
        if stream.received:
            break
    assert stream.received, "it was welcomed"
    assert refused == (UNAUTHENTICATED, "EXPIRED")


def test_real_agents_join_and_renew_without_a_gap(tmp_path: Path) -> None:
    """Certificates that live 24 seconds, so that a busy machine may stop the agent for some of the last eight: two renewals,
    and the node is never anything but ALIVE."""
    controller = SecureController(tmp_path, certificate_ms=24_000).start()
    controller.join_file(tmp_path / "n1" / "join.json", "node", "node-1")
    agent = NodeAgent(controller, tmp_path / "n1", "node-1")
    try:
        controller.until_session("node-1")
        assert not (tmp_path / "n1" / "join.json").exists(), "a used token does not stay on disk"
        modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "n1").glob("*.pem")}
        assert set(modes.values()) == {"0o600"}
        until(lambda: len(agent.logged("identity.renewed")) >= 2, "two renewals")
        until(lambda: len(agent.logged("session.welcomed")) >= 3, "a session with each certificate")
        assert not agent.logged("session.ended"), "sessions were handed over"
        from phalanx.v1 import event_pb2

        rows = controller.events.ListEvents(event_pb2.ListEventsRequest(node="node-1"), timeout=30).events
        assert not [row.message for row in rows if "SUSPECT" in row.message]
    finally:
        agent.close()
        controller.close()


def test_a_revoked_agent_says_what_to_do_and_joins_again_with_a_new_token(tmp_path: Path) -> None:
    controller = SecureController(tmp_path).start()
    join_file = controller.join_file(tmp_path / "n1" / "join.json", "node", "node-1")
    agent = NodeAgent(controller, tmp_path / "n1", "node-1")
    try:
        controller.until_session("node-1")
        controller.revoke("node/node-1")
        controller.until_session("node-1", open_=False)
        until(lambda: [row for row in agent.logged("session.ended") if "revoked" in row["reason"]], "the agent is told")
        assert agent.process.poll() is None
        controller.reinstate("node/node-1")
        controller.join_file(join_file, "node", "node-1")
        controller.until_session("node-1")
    finally:
        agent.close()
        controller.close()


def test_an_agent_without_identity_says_how_to_get_one(tmp_path: Path) -> None:
    controller = SecureController(tmp_path).start()
    agent = NodeAgent(controller, tmp_path / "n1", "node-1")
    try:
        until(
            lambda: [r for r in agent.logged("session.ended") if "phalanx token create node node-1" in r["reason"]],
            "a hint",
        )
    finally:
        agent.close()
        controller.close()
