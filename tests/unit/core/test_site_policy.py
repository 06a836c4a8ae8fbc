"""The site's policy: every number has a name, a file changes them or is refused with its place, and the journal keeps them."""

from __future__ import annotations

import dataclasses

import pytest

from controlplane.catalogues import built_in, site_policy
from controlplane.core.apply import apply
from controlplane.core.draft import Policy
from controlplane.core.machine import Machine
from controlplane.core.site_policy import BadPolicy, changed, parse, unlisted, values, with_values
from controlplane.core.state import State
from controlplane.engine.recover import assume, load
from controlplane.sim.journal import SimJournal, Storage


def test_every_number_of_the_policy_has_a_name_and_lies_in_its_bounds() -> None:
    assert unlisted(Policy()) == set()
    lines: dict[str, list[str]] = {}
    for name, value in values(Policy()).items():
        table, _, key = name.rpartition(".")
        lines.setdefault(table, []).append(f"{key} = {value!r}")
    flags = {"orphan_grace_ms", "effect_ms", "max_active_jobs", "lease_s", "brief_s", "dead_without_witness_s"}
    flags |= {"lag_s", "after_s"}
    text = ""
    for table in sorted(lines):
        kept = [line for line in lines[table] if line.split()[0] not in flags]
        text += "\n".join([f"[{table}]" if table else "", *kept]) + "\n"
    assert parse(text, "all", Policy()) == Policy(), "the defaults, written into a file, are the defaults"


def test_a_file_changes_what_it_names_in_either_unit() -> None:
    text = 'hang_ms = "20m"\nhang_steps = 80\n[ladder]\ngroups_s = 20\ndeadline_floor_ms = "15s"\n[actions]\nshare = 0.02\n'
    policy = parse(text, "f", Policy())
    assert (policy.hang_ms, policy.hang_steps, policy.actions.share) == (1_200_000, 80, 0.02)
    assert (policy.ladder.groups_s, policy.ladder.deadline_floor_ms) == (20.0, 15_000)
    untouched = dataclasses.replace(
        policy, hang_ms=600_000, hang_steps=50, actions=Policy().actions, ladder=Policy().ladder
    )
    assert untouched == Policy()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\nhang_ms = = 2\nx = 1\n", "is no TOML: .*line 2"),
        ("hang_m = 3", "nothing is named `hang_m`; did you mean `hang_ms`?"),
        ("[laddr]\nx = 1", "nothing is named `laddr`; did you mean `ladder`?"),
        ("[ladder]\nrestor_s = 3", r"nothing is named `ladder.restor_s`; did you mean `restore_s`\?"),
        ("[ladder]\nzzz = 3", "known are announce_s, "),
        ("ladder = 3", r"ladder is a table: write \[ladder\]"),
        ('[ladder]\nrestore_s = "2 min"', "ladder.restore_s: `2 min` is no duration; write a number with a unit"),
        ('[actions]\nshare = "5%"', "actions.share: `5%` is no number; write a plain number"),
        ("[actions]\nshare = true", "True is not a number"),
        ("[actions]\nshare = nan", "is not between 0.1% and 100%"),
        ("[ladder]\nrestore_s = -1", "is not between 0s and 1h"),
        ("[ladder]\nrestore_s = 1e9", "is not between 0s and 1h"),
        ("hang_steps = 3.5", "is not a whole number of steps"),
        ("[suspicion]\nlease_s = 5", "follows from the controller's --lease-ms: set it there"),
        ("[ladder]\ngroups_s = 500", "ladder.groups_s is 500s, above ladder.groups_whole_s with 75s"),
        ("[quarantine]\ntrial_ms = '700h'", "above quarantine.trial_most_ms"),
    ],
)
def test_what_cannot_be_is_refused_with_the_place(text: str, said: str) -> None:
    with pytest.raises(BadPolicy, match=said) as refused:
        parse(text, "policy.toml", Policy())
    assert str(refused.value).startswith("policy.toml: ")


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(BadPolicy, match="cannot be read: No such file"):
        site_policy("/nowhere/policy.toml", Policy())
    assert site_policy("", Policy()) == Policy()


def test_the_journal_knows_when_the_policy_changed_and_a_replay_too() -> None:
    def lead(policy: Policy, before: State, epoch: int) -> State:
        assert journal.acquire("me") == epoch
        return assume(journal, Machine(policy), before, epoch=epoch, version="t", now_ns=epoch, note_policy=True)

    journal = SimJournal(Storage())
    first = lead(Policy(), State(), 1)
    assert first.policy is not None
    assert (first.revision, first.policy.changes) == (2, ())
    same = lead(Policy(), first, 2)
    assert same.revision == 3, "nothing changed, nothing is written"
    other = lead(parse("hang_ms = 60000", "f", Policy(catalogue=built_in())), same, 3)
    assert other.policy is not None
    assert other.policy.changes[0] == "hang_ms 1m (was 10m)"
    assert other.policy.changes[1].startswith("fault table ")
    replayed = load(journal)
    assert replayed.digest() == other.digest() == State.from_json(other.to_json()).digest()
    assert with_values(Policy(), replayed.policy.settings if replayed.policy else {}).hang_ms == 60_000


def test_a_journal_of_a_version_with_other_names_is_still_read() -> None:
    assert with_values(Policy(), {"gone.long_ago": 3.0, "hang_steps": 60}).hang_steps == 60
    state, record = State(), changed(None, Policy())
    assert record is not None
    apply(state, dataclasses.replace(record, settings={**record.settings, "gone": 1.0}), 1)
    now = changed(state.policy, Policy())
    assert now is not None
    assert now.changes == (), "a name that is gone changes nothing that still is"


def test_a_quiet_number_is_told_only_where_a_site_has_set_it() -> None:
    usual, asked = Policy(), with_values(Policy(), {"quarantine.pair_ms": 60_000})
    state, first = State(), changed(None, usual)
    assert first is not None
    assert "quarantine.pair_ms" not in first.settings
    apply(state, first, 1)
    second = changed(state.policy, asked)
    assert second is not None
    assert second.changes == ("quarantine.pair_ms 1m",)
    apply(state, second, 2)
    back = changed(state.policy, usual)
    assert back is not None
    assert back.changes == ("quarantine.pair_ms as usual (was 1m)",)
