"""The table of peers that send bad input: bounded, in order, and fit to be shown."""

from __future__ import annotations

from controlplane.observability.offenders import FLOOD, MAX_OFFENCES, MAX_OFFENDERS, MAX_TEXT, RECENT_NS, Offenders

PEER = "ipv4:10.0.0.7:4711"


class Clock:
    def __init__(self) -> None:
        self.now_ns = 1_000

    def __call__(self) -> int:
        self.now_ns += 1
        return self.now_ns


def test_what_a_peer_did_how_often_and_since_when() -> None:
    table = Offenders(Clock())
    table.note("node/a", PEER, FLOOD, "first", proven=True)
    table.note("node/a", PEER, "NO_HELLO", "other", proven=True)
    table.note("node/a", "ipv4:10.0.0.8:1", FLOOD, "second", proven=True, count=3)
    (row,) = table.rows()
    assert (row.name, row.peer, row.proven) == ("node/a", "ipv4:10.0.0.8", True)
    flood = row.offences[FLOOD]
    assert (flood.count, flood.first_ns, flood.last_ns, flood.message) == (4, 1_001, 1_003, "second")
    assert row.offences["NO_HELLO"].count == 1
    assert row.last_ns == 1_003


def test_the_newest_first_and_the_oldest_is_forgotten() -> None:
    table = Offenders(Clock())
    for number in range(MAX_OFFENDERS):
        table.note(f"node/{number}", PEER, FLOOD, "")
    table.note("node/0", PEER, FLOOD, "")  # again: it is no longer the oldest
    table.note("node/new", PEER, FLOOD, "")
    names = [row.name for row in table.rows()]
    assert len(names) == MAX_OFFENDERS
    assert names[:2] == ["node/new", "node/0"]
    assert "node/1" not in names
    assert table.forgotten == 1


def test_nothing_of_a_peers_choice_grows_it() -> None:
    table = Offenders(Clock())
    for number in range(3 * MAX_OFFENCES):
        table.note("x" * 100_000, "y" * 100_000 + ":1", f"REASON_{number}", "z" * 100_000)
    (row,) = table.rows()
    assert len(row.offences) == MAX_OFFENCES + 1
    assert row.offences["OTHER"].count == 2 * MAX_OFFENCES
    assert max(len(text) for text in (row.name, row.peer, row.offences["OTHER"].message)) <= MAX_TEXT


def test_a_name_reaches_no_terminal_as_it_came() -> None:
    table = Offenders(Clock())
    table.note("node/\x1b[31mred\n", PEER, FLOOD, "\u202edesrever \x07")
    (row,) = table.rows()
    assert row.name == "node/?[31mred?"
    assert row.offences[FLOOD].message == "?desrever ?"


def test_the_metric_forgets_who_has_stopped() -> None:
    clock = Clock()
    table = Offenders(clock)
    table.note("node/a", PEER, FLOOD, "")
    (family,) = table.collect()
    assert family.samples[0].value == 1
    clock.now_ns += RECENT_NS + 10
    (family,) = table.collect()
    assert family.samples[0].value == 0
