"""Names and ranges that one may speak for, and the book of identities: tokens, revocations, series."""

from __future__ import annotations

import pytest

from controlplane.core import events as ev
from controlplane.core.draft import Answer, Refusal
from controlplane.core.identity import TOKEN_MEMORY_NS, IdentityBook, Role, Token, covers, pattern_problem
from tests.support.world import World


@pytest.mark.parametrize(
    ("pattern", "name", "covered"),
    [
        ("node-1", "node-1", True),
        ("node-1", "node-11", False),
        ("node-[1-64]", "node-1", True),
        ("node-[1-64]", "node-64", True),
        ("node-[1-64]", "node-65", False),
        ("node-[1-64]", "node-0", False),
        ("node-[1-64]", "node-01", False),
        ("node-[1-64]", "node-", False),
        ("node-[1-64]", "node-1.evil", False),
        ("node-[1-64]", "node-\u0661", False),
        ("n[0001-0064]", "n0007", True),
        ("n[0001-0064]", "n7", False),
        ("rack[1-2]-a", "rack2-a", True),
        ("rack[1-2]-a", "rack2-b", False),
        ("*", "node-1", False),
    ],
)
def test_covers(pattern: str, name: str, covered: bool) -> None:
    assert covers((pattern,), name) is covered


def test_what_is_no_pattern() -> None:
    assert not pattern_problem("node-[1-64]")
    assert not pattern_problem("node-1")
    for bad in ("*", "", "node-[64-1]", "node-[1-]", "[1-2][3-4]", "a b", "node-[1-99999999999]"):
        assert pattern_problem(bad), bad


def test_old_tokens_are_forgotten() -> None:
    book = IdentityBook().with_token(Token("a", "node", "n1", (), 10), 0)
    later = book.with_token(Token("b", "node", "n2", (), 10), 11 + TOKEN_MEMORY_NS)
    assert set(later.tokens) == {"b"}


@pytest.fixture
def world() -> World:
    return World(2)


def answer(world: World, event: ev.Command) -> dict[str, str]:
    (reply,) = world.turn(event)
    assert isinstance(reply, Answer), reply
    return reply.fields


def refused(world: World, event: ev.Command) -> str:
    (reply,) = world.turn(event)
    assert isinstance(reply, Refusal), reply
    return reply.reason


def test_the_life_of_an_identity(world: World) -> None:
    answer(world, ev.CreateToken("r1", "d1", "node", "n1", (), 60_000))
    first = answer(world, ev.Join("d1", "key-1", "s1", 1_000))
    assert (first["kind"], first["name"], first["series"], first["serial"]) == ("node", "n1", "1", "s1")
    assert answer(world, ev.Join("d1", "key-1", "s2", 1_000))["serial"] == "s2", "the same key may ask again"
    assert refused(world, ev.Join("d1", "key-2", "s3", 1_000)) == "TOKEN_SPENT"
    assert refused(world, ev.Join("never", "key-2", "s3", 1_000)) == "TOKEN_UNKNOWN"
    assert refused(world, ev.Renew("node", "n1", 1, (), "s4", 1_000)) == "RENEWED_JUST_NOW", "no journal is filled so"
    world.run(1)
    assert answer(world, ev.Renew("node", "n1", 1, (), "s4", 1_000))["series"] == "1"
    answer(world, ev.CreateToken("r2", "d2", "node", "n1", (), 60_000))
    answer(world, ev.RevokeIdentity("r3", "node", "n1", "sold"))
    assert refused(world, ev.Join("d2", "key-3", "s5", 1_000)) == "TOKEN_UNKNOWN", "its tokens are withdrawn"
    assert refused(world, ev.Renew("node", "n1", 1, (), "s6", 1_000)) == "REVOKED"
    assert refused(world, ev.CreateToken("r4", "d3", "node", "n1", (), 60_000)) == "REVOKED"
    answer(world, ev.ReinstateIdentity("r5", "node", "n1"))
    assert refused(world, ev.Renew("node", "n1", 1, (), "s7", 1_000)) == "REVOKED", (
        "certificates from before stay refused"
    )
    answer(world, ev.CreateToken("r6", "d4", "node", "n1", (), 60_000))
    assert answer(world, ev.Join("d4", "key-4", "s8", 1_000))["series"] == "2"


def test_a_certificate_from_outside_is_noted_once_and_never_undoes_a_revocation(world: World) -> None:
    seen = ev.CertificateSeen("operator", "admin", Role.ADMIN, (), 1, "s1", 100, 200)
    world.turn(seen)
    revision = world.state().revision
    world.turn(seen)
    assert world.state().revision == revision
    world.turn(ev.RevokeIdentity("r1", "operator", "admin", "gone"))
    world.turn(seen)
    assert world.state().identity.identities["operator/admin"].revoked


def test_operators_are_told_apart_from_agents(world: World) -> None:
    assert refused(world, ev.CreateToken("r1", "d1", "operator", "ada", (), 60_000)) == "NO_AGENT"
    fields = answer(world, ev.IssueOperator("r2", "ada", Role.OPERATOR, "key", "s1", 1_000))
    assert (fields["kind"], fields["role"]) == ("operator", "2")
    assert refused(world, ev.RevokeIdentity("r3", "operator", "eve", "x")) == "NO_SUCH_IDENTITY"
    assert refused(world, ev.ReinstateIdentity("r4", "operator", "ada")) == "NOT_REVOKED"
