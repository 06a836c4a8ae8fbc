"""The audit chain: what its verifier finds, and what commands leave behind."""

from __future__ import annotations

import dataclasses
import json
from typing import cast

import pytest

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.audit import GENESIS, AuditEntry, By, Head, canonical, digest, verify
from controlplane.core.draft import Answer, Refusal
from controlplane.core.state import State
from controlplane.core.vocabulary import JobState
from tests.support.world import World, spec

ANN = By("spiffe://site/operator/ann", "OPERATOR", "10.0.0.7")


def chain(count: int) -> list[AuditEntry]:
    links: list[AuditEntry] = []
    for number in range(1, count + 1):
        previous = links[-1].digest if links else GENESIS
        link = AuditEntry(
            number, number, "ann", "ADMIN", "", "CordonNode", "node/n", "{}", "{}", f"q{number}", previous, ""
        )
        links.append(dataclasses.replace(link, digest=digest(link)))
    return links


def journalled(world: World) -> list[AuditEntry]:
    entries = world.journal.oldest(10_000, types=("Audited",))
    return [cast("r.Audited", r.decode(entry.type, entry.version, entry.body)).entry for entry in entries]


def test_canonical_text_does_not_depend_on_order_or_alphabet() -> None:
    assert canonical({"b": 1, "a": "é"}) == canonical({"a": "é", "b": 1}) == '{"a":"\\u00e9","b":1}'


def test_an_untouched_chain_holds() -> None:
    links = chain(5)
    head = Head(5, links[-1].digest)
    assert verify(links, Head(), head) is None
    assert verify(links[2:], None, head) is None, "what retention has left"
    assert verify(links[2:], Head(2, links[1].digest), head) is None
    assert verify([], None, Head()) is None


@pytest.mark.parametrize(
    "field", [field.name for field in dataclasses.fields(AuditEntry) if field.name not in ("number", "previous")]
)
def test_a_changed_field_breaks_the_chain_at_its_number(field: str) -> None:
    links = chain(4)
    value = getattr(links[1], field)
    links[1] = dataclasses.replace(links[1], **{field: value + 1 if isinstance(value, int) else value + "x"})
    broken = verify(links, Head())
    assert broken is not None
    assert broken.number == 2


def test_a_record_that_was_forged_with_a_fitting_digest_breaks_the_next_one() -> None:
    links = chain(4)
    forged = dataclasses.replace(links[1], actor="eve")
    links[1] = dataclasses.replace(forged, digest=digest(forged))
    broken = verify(links, Head())
    assert broken is not None
    assert broken.number == 3


def test_missing_records_are_named() -> None:
    links = chain(4)
    head = Head(4, links[-1].digest)
    for gone, number in ((0, 1), (1, 2), (3, 4)):
        left = [link for index, link in enumerate(links) if index != gone]
        broken = verify(left, Head(), head)
        assert broken is not None
        assert broken.number == number


def test_commands_are_recorded_with_who_gave_them() -> None:
    world = World(3)
    world.turn(ev.Ordered(ev.SubmitJob("s1", spec("moe", 2)), ANN))
    world.turn(ev.CordonNode("c1", "node-02", "operator", "look"))
    first, second = journalled(world)
    assert (first.actor, first.role, first.peer, first.action) == (ANN.actor, ANN.role, ANN.peer, "SubmitJob")
    assert (first.subject, second.actor, second.subject) == ("job/moe-1", "local", "node/node-02")
    assert verify(journalled(world), Head(), world.state().audit) is None


def test_dry_runs_repeats_and_refusals_leave_no_record() -> None:
    world = World(3)
    world.turn(ev.SubmitJob("s1", spec("moe", 2), dry_run=True))
    world.turn(ev.UncordonNode("u1", "node-00", "operator"))
    for _ in range(3):
        world.turn(ev.CordonNode("c1", "node-02", "operator", "look"))
    assert [link.request_id for link in journalled(world)] == ["c1"]


def test_commands_of_one_batch_follow_one_another() -> None:
    world = World(3)
    world.turn(*(ev.CordonNode(f"c{number}", "node-02", f"owner-{number}", "look") for number in range(20)))
    links = journalled(world)
    assert [link.number for link in links] == list(range(1, 21))
    assert verify(links, Head(), world.state().audit) is None


def test_the_head_survives_snapshots_and_restarts() -> None:
    world = World(3)
    world.turn(ev.CordonNode("c1", "node-02", "operator", "look"))
    head = world.state().audit
    assert State.from_json(world.state().to_json()).audit == head
    world.restart_controller()
    world.turn(ev.UncordonNode("c2", "node-02", "operator"))
    assert journalled(world)[1].previous == head.digest


def test_a_request_id_stands_for_one_request() -> None:
    world = World(3)
    world.submit(spec("moe", 2), "q1")
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    again = world.turn(ev.SubmitJob("q1", spec("moe", 2)))[0]
    assert isinstance(again, Answer)
    assert again.fields["uid"] == "moe-1"
    for other in (ev.CancelJob("q1", "moe", ""), ev.SubmitJob("q1", spec("moe", 1))):
        refused = world.turn(other)[0]
        assert isinstance(refused, Refusal)
        assert refused.reason == "REQUEST_ID_REUSED"
    assert world.job("moe").state is JobState.RUNNING


def test_snapshots_of_0_1_have_no_audit_and_no_fingerprints() -> None:
    world = World(3)
    world.turn(ev.CordonNode("c1", "node-02", "operator", "look"))
    body = json.loads(world.state().to_json())
    del body["audit"], body["acts"]
    body["answers"] = [[key, fields] for key, fields, _ in body["answers"]]
    state = State.from_json(json.dumps(body))
    assert state.audit == Head()
    assert state.answers["c1"].command == ""
