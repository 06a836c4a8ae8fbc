"""Strain: what makes us see late while silence is trusted. Shares by table, what is shown, and that silence stays trusted."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from controlplane.core.fleet import Fleet, NodeFacts
from controlplane.core.health.distrust import DistrustPolicy
from controlplane.core.health.distrust import reasons as distrusted
from controlplane.core.health.strain import HELD_NS, LEAST_HEARD, LEAST_LATE, Shown, Strain, after, late_beats, reasons
from controlplane.core.units import NS_PER_S, ms, seconds
from controlplane.core.vocabulary import NodeLiveness
from controlplane.engine.soft import UNSAID, SoftColumns
from controlplane.observability.processor import MOST_LOOKS, ProcessorWait
from controlplane.strain import LOOK_NS, StrainWatch

NOW = 1_000 * NS_PER_S
BEAT = NS_PER_S


@pytest.mark.parametrize(
    ("ago_s", "waited_s", "late"),
    [
        (0.0, 0.0, 0),
        (0.9, 0.4, 0),
        (0.1, 0.41, 1),
        (1.4, 0.0, 0),
        (1.41, 0.0, 1),
        (1.41, 2.0, 1),
    ],
    ids=["fresh", "as late as may be", "waited", "due for as long as may be", "overdue", "both count once"],
)
def test_a_beat_is_late_when_it_waited_or_is_overdue(ago_s: float, waited_s: float, late: int) -> None:
    beats, waited = np.array([NOW - seconds(ago_s)]), np.array([seconds(waited_s)])
    assert late_beats(beats, waited, NOW, BEAT) == late


def test_a_node_that_does_not_say_when_it_sent_is_late_only_when_overdue() -> None:
    beats, waited = np.array([NOW, NOW - 2 * BEAT]), np.array([UNSAID, UNSAID])
    assert late_beats(beats, waited, NOW, BEAT) == 1


@pytest.mark.parametrize(
    ("strain", "told"),
    [
        (Strain(), ()),
        (Strain(0.29, 0, 6_250), ()),
        (Strain(0.6, 0, 6_250), ("the controller waits for the processor 60 % of the time",)),
        (Strain(math.nan, 1_125, 6_250), ("18 % of the beats come more than 0.4 s late",)),
        (Strain(0.0, 312, 6_250), ()),
        (Strain(0.0, 313, 6_250), ("5 % of the beats come more than 0.4 s late",)),
        (Strain(0.0, LEAST_LATE - 1, LEAST_HEARD), ()),
        (Strain(0.0, LEAST_LATE, LEAST_HEARD), ("25 % of the beats come more than 0.4 s late",)),
        (Strain(0.0, LEAST_HEARD - 1, LEAST_HEARD - 1), ()),
    ],
)
def test_what_strains_is_said_in_words(strain: Strain, told: tuple[str, ...]) -> None:
    assert reasons(strain) == told


def test_a_cause_is_shown_a_while_longer_and_begins_once() -> None:
    busy, calm = Strain(0.5), Strain(0.1)
    shown = after(Shown(), calm, NOW)
    assert (shown.reasons, shown.since_ns) == ((), 0)
    shown = after(after(shown, busy, NOW), Strain(0.8), NOW + NS_PER_S)
    assert shown.reasons == ("the controller waits for the processor 80 % of the time",)
    assert shown.since_ns == NOW
    held = after(shown, calm, NOW + NS_PER_S + HELD_NS - 1)
    assert (held.reasons, held.since_ns, held.strain) == (shown.reasons, NOW, calm)
    assert after(held, calm, NOW + NS_PER_S + HELD_NS) == Shown(calm)


class Machine:
    """Threads of a process as files, as the kernel shows them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def waited(self, **threads_ns: int) -> None:
        for thread, waited_ns in threads_ns.items():
            (self.folder / thread).mkdir(exist_ok=True)
            (self.folder / thread / "schedstat").write_text(f"123456 {waited_ns} 42\n")


def test_the_thread_that_waits_longest_counts_over_the_last_second(tmp_path: Path) -> None:
    machine, waits = Machine(tmp_path), ProcessorWait(tmp_path)
    machine.waited(t1=seconds(100), t2=seconds(7))
    assert math.isnan(waits.share(NOW)), "one look says nothing"
    machine.waited(t1=seconds(100.2), t2=seconds(7.1))
    assert waits.share(NOW + ms(400)) == pytest.approx(0.2), "of a second, though it is not over"
    machine.waited(t1=seconds(100.4), t2=seconds(7.7), t3=seconds(50))
    assert waits.share(NOW + ms(1_000)) == pytest.approx(0.7), "a thread that began since says nothing yet"
    machine.waited(t1=seconds(100.4), t2=seconds(7.7))
    assert waits.share(NOW + ms(1_400)) == pytest.approx(0.6), "what was before the last second is forgotten"
    assert waits.share(NOW + ms(3_000)) == pytest.approx(0.0)


@pytest.mark.parametrize("line", ["", "0\n", "a b c\n"], ids=["empty", "too short", "no numbers"])
def test_a_kernel_that_does_not_count_says_nothing(tmp_path: Path, line: str) -> None:
    (tmp_path / "t1").mkdir()
    (tmp_path / "t1" / "schedstat").write_text(line)
    (tmp_path / "t2").mkdir()
    waits = ProcessorWait(tmp_path)
    assert all(math.isnan(waits.share(NOW + ms(100) * look)) for look in range(3))
    assert math.isnan(ProcessorWait(tmp_path / "none").share(NOW))


def test_looks_that_come_too_often_do_not_pile_up(tmp_path: Path) -> None:
    machine, waits = Machine(tmp_path), ProcessorWait(tmp_path)
    for look in range(3 * MOST_LOOKS):
        machine.waited(t1=look * ms(1))
        share = waits.share(NOW + look * ms(1))
    assert share == pytest.approx(MOST_LOOKS / 1_000), "what is remembered, as a share of a second: never too much"


def test_this_process_can_be_looked_at() -> None:
    waits = ProcessorWait()
    found = [waits.share(NOW), waits.share(NOW + NS_PER_S)]
    assert math.isnan(found[0])
    assert math.isnan(found[1]) or 0 <= found[1] <= 1


class Site:
    """Nodes that all have a session, and beat at a moment."""

    def __init__(self, nodes: int, folder: Path) -> None:
        self.fleet = Fleet()
        self.fleet.extend(tuple(NodeFacts(f"n{number}") for number in range(nodes)))
        self.fleet.session[:] = True
        self.soft = SoftColumns(started_ns=1)
        self.soft.beats(np.arange(nodes), np.full(nodes, NOW), waited_ns=ms(2))
        self.machine = Machine(folder)
        self.machine.waited(t1=0)
        self.watch = StrainWatch(self.soft, BEAT, ProcessorWait(folder))
        self.look(NOW)

    def look(self, now_ns: int) -> tuple[str, ...]:
        self.watch.look(self.fleet, now_ns, now_ns)
        return self.watch.shown.reasons

    def late(self, nodes: int, now_ns: int) -> None:
        """Beats of the first nodes arrive late, those of the others in time."""
        count = self.fleet.size
        self.soft.beats(np.arange(nodes), np.full(nodes, now_ns), waited_ns=seconds(2))
        self.soft.beats(np.arange(nodes, count), np.full(count - nodes, now_ns), waited_ns=ms(2))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(100, tmp_path)


def test_a_fifth_of_late_beats_is_shown_and_silence_stays_trusted(site: Site) -> None:
    later = NOW + BEAT
    site.late(20, later)
    assert site.look(later) == ("20 % of the beats come more than 0.4 s late",)
    assert site.soft.behind(later) == 0
    assert distrusted(site.soft.vitals(), DistrustPolicy(), later) == ()
    site.late(0, later + HELD_NS)
    assert site.look(later + HELD_NS) == ()


def test_beats_that_are_overdue_are_shown_before_the_first_late_one_arrives(site: Site) -> None:
    speaking = np.arange(20, 100)
    site.soft.beats(speaking, np.full(80, NOW + seconds(1.0)), waited_ns=ms(2))
    assert site.look(NOW + seconds(1.4)) == ()
    assert site.look(NOW + seconds(1.51)) == ("20 % of the beats come more than 0.4 s late",)


def test_nodes_that_are_shown_as_not_seen_are_no_strain(site: Site) -> None:
    later = NOW + BEAT
    site.late(20, later)
    site.fleet.session[:10] = False
    site.fleet.liveness[10:16] = NodeLiveness.SUSPECT
    assert site.look(later) == ()
    assert (site.watch.shown.strain.late, site.watch.shown.strain.heard) == (4, 84)


def test_nodes_that_were_not_heard_since_this_controller_started_do_not_count(tmp_path: Path) -> None:
    site = Site(40, tmp_path)
    site.soft = SoftColumns(started_ns=NOW)
    site.watch = StrainWatch(site.soft, BEAT, ProcessorWait(tmp_path))
    assert site.look(NOW + 10 * BEAT) == ()
    assert site.watch.shown.strain.heard == 0


def test_a_look_is_taken_a_few_times_a_second_however_often_the_brain_ticks(site: Site) -> None:
    site.machine.waited(t1=seconds(0.5))
    assert site.look(NOW + LOOK_NS - 1) == ()
    assert site.look(NOW + LOOK_NS) == ("the controller waits for the processor 50 % of the time",)
