"""The language of the golden stories: one command per line, the records that follow below it.

A story is a text file. A line that begins with `> ` is a command; `# ` begins a remark; everything else is what the
machine wrote down, indented, and is generated. See `COMMANDS` for the words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

import yaml

from controlplane.catalogues import built_in
from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.audit import LOCAL, By, verify
from controlplane.core.draft import Answer, Policy, Refusal
from controlplane.core.health.suspicion import SuspicionPolicy
from controlplane.core.jobs import Exit
from controlplane.core.manifest_restart import parse_policy
from controlplane.core.placement.spares import SparePlan
from controlplane.core.recovery.phase_times import LadderPolicy
from controlplane.core.spec import (
    AUTO,
    Budget,
    CheckpointPolicy,
    Elastic,
    JobSpec,
    Parallel,
    RestartPolicy,
    SparePolicy,
    Timeouts,
)
from controlplane.core.units import to_s
from controlplane.core.vocabulary import Assertion, CheckpointState, JobState, NodeLiveness
from controlplane.sim.faults import FaultPlan, check_plan
from controlplane.sim.faults.injector import Injector, RepairPlan
from controlplane.sim.world.truth import running
from tests.support.world import World, spec

QUIET = (
    "HostsObserved",
    "EffectsFinished",
    "HostsForgotten",
    "RequestAnswered",
    "Audited",
    "NodeSessionChanged",
    "NodeRegistered",
)
"""Records that a story does not show: they say how it happened, not what."""


class ScriptError(Exception):
    """A line that is no command, or an expectation that does not hold."""


def _options(words: list[str]) -> tuple[list[str], dict[str, str]]:
    plain = [word for word in words if "=" not in word]
    return plain, dict(word.split("=", 1) for word in words if "=" in word)


def _number(text: str) -> int:
    return AUTO if text == "auto" else int(text)


def _duration(text: str) -> float:
    return float(text.removesuffix("s"))


@dataclass
class Story:
    """A world and the text that its story makes."""

    world: World | None = None
    lines: list[str] = field(default_factory=list)
    shown: int = 0
    who: By = LOCAL
    rules: RestartPolicy | None = None

    # -- commands ---------------------------------------------------------------------------------------------------

    def site(
        self, *, nodes: str = "4", accelerators: str = "2", racks: str = "2", dead_after: str = "300s", grow: str = "600s",
        pause: str = "15s", failing: str = "0.0038", relay: str = "0",
    ) -> None:  # fmt: skip
        """`site nodes=4 accelerators=2 racks=2`: a fresh site; must come first. `grow=5s`: a job has its replicas back no
        sooner after a change; `pause=2s`: ranks wait so long for a peer that nobody misses; `failing=0.4`: failures of a
        node in a day, until enough were seen here; `relay=2`: so many nodes talk through one relay."""
        ladder = LadderPolicy(
            grow_interval_ms=round(_duration(grow) * 1000), pause_patience_ms=round(_duration(pause) * 1000)
        )
        suspicion = SuspicionPolicy(dead_without_witness_s=_duration(dead_after))
        spares = SparePlan(prior_per_node_day=float(failing))
        policy = Policy(suspicion=suspicion, ladder=ladder, catalogue=built_in(), spares=spares)
        self.world = World(int(nodes), int(accelerators), int(racks), policy)
        for number, node in enumerate(self.world.nodes.values()):
            node.relay = f"relay-{number // int(relay)}" if int(relay) else ""
        self.shown = len(self.world.lines)

    def policy(self, *words: str) -> None:
        """`policy jobRules: [{match: {exitCode: 42}, action: fail}]`: the restart policy of jobs submitted from now on, in the
        words of a manifest; nothing: the usual one."""
        self.rules, violations = parse_policy(yaml.safe_load(f"restartPolicy: {{{' '.join(words)}}}"))
        if violations:
            raise ScriptError(str(violations[0]))

    def submit(
        self, name: str, *, ranks: str = "4", per_rank: str = "1", spares: str = "0", parked: str = "0",
        start: str = "120s", join: str = "60s", user: str = "3", priority: str = "0", keep: str = "3",
        pp: str = "1", ep: str = "1", least: str = "0", retry: str = "", infra: str = "200", every: str = "20", cold: str = "0",
    ) -> None:  # fmt: skip
        """`submit moe ranks=4 per_rank=1 spares=0 parked=0 start=120s join=60s user=3`; `pp=2 ep=2`: parallel degrees;
        `least=2`: elastic down to so many replicas; `retry=yes`: its ranks can do a step again; `spares=auto every=auto`:
        the controller finds the numbers."""
        base: JobSpec = spec(
            name,
            int(ranks),
            accelerators_per_rank=int(per_rank),
            spares=SparePolicy(_number(spares), int(parked), int(cold)),
            timeouts=Timeouts(round(_duration(start) * 1000), round(_duration(join) * 1000)),
            checkpoint=CheckpointPolicy(every_steps=_number(every), keep=int(keep)),
            priority=int(priority),
            parallel=Parallel(pp=int(pp), dp=int(ranks) // int(pp), ep=int(ep)),
            elastic=Elastic(int(least)),
        )
        budgets = replace(
            base.restart_policy,
            user=Budget(int(user), 3_600_000, 200),
            infrastructure=Budget(int(infra), 24 * 3_600_000),
            retry_step=bool(retry),
        )
        wanted = replace(base, restart_policy=self.rules or budgets)
        self._tell(ev.SubmitJob(f"submit-{name}", wanted))

    def run(self, duration: str, tick: str = "0.1s") -> None:
        """`run 5s`, `run 3600s tick=1s`: let time pass."""
        self._world.run(_duration(duration), _duration(tick))

    def until(self, name: str, state: str, limit: str = "120s") -> None:
        """`until moe RUNNING limit=120s`: let time pass until a job is in a state."""
        self._world.run_until(lambda: self._world.job(name).state.name == state, _duration(limit))

    def kill(self, name: str, what: str, lingers: str = "") -> None:
        """`kill moe 2`, `kill moe 0,1`, `kill moe all`: SIGKILL at the same instant."""
        job = self._world.job(name)
        ranks = range(job.spec.ranks) if what == "all" else [int(rank) for rank in what.split(",")]
        for rank in ranks:
            if not self._world.kill_rank(job.uid, rank, lingers=bool(lingers)):
                raise ScriptError(f"rank {rank} of {name} has no process")

    def exit(self, name: str, rank: str, code: str, message: str = "") -> None:
        """`exit moe 1 42 message=text_with_underscores`: the user's code ends."""
        exit_ = Exit(observed=True, code=int(code), message=message.replace("_", " "), group_empty=True)
        if not self._world.end(name, int(rank), exit_):
            raise ScriptError(f"rank {rank} of {name} has no process")

    def signal(self, name: str, rank: str, number: str, sender: str = "unknown") -> None:
        """`signal moe 1 9 sender=oom`: a signal ends a rank."""
        exit_ = Exit(observed=True, signal=int(number), sender=sender, group_empty=True)
        if not self._world.end(name, int(rank), exit_):
            raise ScriptError(f"rank {rank} of {name} has no process")

    def finish(self, name: str, what: str = "all") -> None:
        """`finish moe`, `finish moe 0,1`: ranks end with the final marker."""
        self._world.finish(name, None if what == "all" else [int(rank) for rank in what.split(",")])

    def flap(self, name: str) -> None:
        """`flap moe`: a link flaps, a collective fails, every rank keeps process and state."""
        self._world.gangs.flap(self._world.job(name).uid)

    def jam(self, name: str) -> None:
        """`jam moe`: its ranks cannot find each other."""
        self._world.jammed.add(name)

    def unjam(self, name: str) -> None:
        """`unjam moe`: they can again."""
        self._world.jammed.discard(name)

    def stuck(self, node: str, how: str = "yes") -> None:
        """`stuck node-01`, `stuck node-01 no`: processes that are started there do not park any more."""
        (self._world.stuck.discard if how == "no" else self._world.stuck.add)(node)

    def hang(self, name: str, rank: str) -> None:
        """`hang moe 1`: the process of a rank does nothing any more."""
        if not self._world.hang(name, int(rank)):
            raise ScriptError(f"rank {rank} of {name} has no process")

    def breaks(self, name: str, message: str = "") -> None:
        """`breaks moe message=ImportError`: every new process of the job ends while it starts; no message: no more."""
        self._world.broken.pop(name, None)
        if message:
            self._world.broken[name] = message.replace("_", " ")

    def destroy(self, nodes: str) -> None:
        """`destroy node-01`, `destroy node-01,node-02`: it burns; everything on it is gone."""
        for node in nodes.split(","):
            self._world.destroy(node)

    def repair(self, node: str) -> None:
        """`repair node-01`: it comes back, empty."""
        self._world.repair(node)

    def lose_agent(self, node: str) -> None:
        """`lose_agent node-01`: its agent dies, ranks go on."""
        self._world.lose_agent(node)

    def return_agent(self, node: str) -> None:
        """`return_agent node-01`: a new agent finds what runs."""
        self._world.return_agent(node)

    def freeze(self, nodes: str) -> None:
        """`freeze node-00,node-02`: nothing of them gets through, all at once; ranks go on."""
        for node in nodes.split(","):
            self._world.freeze(node)

    def thaw(self, nodes: str) -> None:
        """`thaw node-00,node-02`: the path is whole again."""
        for node in nodes.split(","):
            self._world.thaw(node)

    def raylet(self, node: str, how: str) -> None:
        """`raylet node-01 down` or `up`."""
        self._world.set_raylet(node, up=how == "up")

    def cell(self, how: str) -> None:
        """`cell lost` or `cell back`."""
        if how == "lost":
            self._world.lose_cell()
        else:
            self._world.cell_hello()

    def fault(self, node: str, index: str, code: str = "") -> None:
        """`fault node-01 0 XID-79`; without a code the fault is cleared."""
        self._world.set_fault(node, int(index), code)

    def strike(self, kind: str, target: str = "", lasts: str = "", **parameters: str) -> None:
        """`strike zombie node-01 lasts=20s`, `strike slow_fsync fsync_s=2`: a fault of the simulator's catalogue."""
        plan = FaultPlan(
            kind, target, 0.0, duration_s=_duration(lasts) if lasts else None,
            parameters=tuple((name, float(value)) for name, value in parameters.items()),
        )  # fmt: skip
        injector = Injector(self._world, (), RepairPlan(), 0.0)
        injector.strike(plan, check_plan(plan, "strike"))
        if not injector.counted:
            raise ScriptError(f"nothing is there for {kind} to strike: {target}")

    def truth(self, name: str) -> None:
        """`truth moe`: which processes of a job really live, and where."""
        uid = self._world.job(name).uid
        for node, process in running(self._world, uid):
            devices = ",".join(str(position) for position in process.devices)
            alive = process.state.name if process.works else "hangs" if process.exit is None else "ends"
            self._write(
                f"{node.name}/{devices}: process {process.serial}, rank {process.rank} of generation {process.generation}, {alive}"
            )
        self._write(f"newest step really made: {self._world.gangs.step(uid)}")

    def event(self, node: str, entity: str, code: str, says: str = "occurred", severity: str = "") -> None:
        """`event node-01 port/0 SIM-PORT-DOWN says=recovered severity=minor`: any part of a node reports a fault."""
        row = ev.FaultRow(entity, code, "simulated", severity, Assertion(says))
        self._world.agents.raise_fault(self._world.nodes[node], row)

    def source(self, node: str, name: str, reason: str = "") -> None:
        """`source node-01 probe reason=times_out`: a source of health cannot be read; without a reason it can again."""
        machine = self._world.nodes[node]
        machine.unreadable = (ev.SourceRow(name, reason.replace("_", " ")),) if reason else ()
        self._world.agents.report_devices(machine)

    def links(self, node: str, broken: str = "") -> None:
        """`links node-00 node-03,node-04`: which nodes a node cannot reach; none: all links are whole."""
        names = tuple(broken.split(",")) if broken else ()
        machine = self._world.nodes[node]
        self._world.agents.tell([(machine, ev.NodeReport(node, machine.boot_id, broken_links=names))])

    def checks(self, node: str, how: str) -> None:
        """`checks node-01 repair`, `fail` (they find the fault still there) or `unknown` (its agent is too old for them)."""
        machine = self._world.nodes[node]
        machine.incurable, machine.knows_checks = how == "fail", how != "unknown"

    def slow_journal(self, took: str) -> None:
        """`slow_journal 2s`: an append took so long."""
        self._world.soft.appended(round(_duration(took) * 1e9))

    def drain(self, node: str, owner: str = "operator") -> None:
        """`drain node-01 owner=ann`: what runs there is to move."""
        self._tell(ev.DrainNode("", node, owner, "new firmware"))

    def retire(self, node: str) -> None:
        """`retire node-01`: out for good."""
        self._tell(ev.RetireNode("", node, "sent back"))

    def restart(self, name: str) -> None:
        """`restart moe`."""
        self._tell(ev.RestartJob("", name, "new data"))

    def pin(self, name: str, step: str, owner: str = "operator") -> None:
        """`pin moe 20 owner=ann`."""
        self._tell(ev.PinCheckpoint("", name, self._checkpoint(name, step), owner, "for the paper"))

    def unpin(self, name: str, step: str, owner: str = "operator") -> None:
        """`unpin moe 20 owner=ann`."""
        self._tell(ev.UnpinCheckpoint("", name, self._checkpoint(name, step), owner))

    def poison(self, name: str, step: str) -> None:
        """`poison moe 40`: an operator distrusts that checkpoint and those after it."""
        self._tell(ev.PoisonCheckpoint("", name, self._checkpoint(name, step), "the loss looks odd"))

    def clear(self, name: str) -> None:
        """`clear moe`: she trusts them again."""
        self._tell(ev.ClearCheckpoints("", name, "ann", "a replay agrees"))

    def copies(self, name: str) -> None:
        """`copies moe`: from now on its ranks' state is copied to other nodes' memory after every step."""
        self._world.keeps_copies.add(name)

    def ready(self, name: str) -> None:
        """`ready moe`: spares, save interval, where it restored from."""
        job = self._world.job(name)
        names = ", ".join(self._world.state().fleet.name(node) for node in job.spare_nodes) or "none"
        self._write(f"spares of {job.uid}: {names} ({job.wanted_spares} wanted) {job.spares_reason}".rstrip())
        self._write(f"saves every {job.saves_every} steps {job.interval_reason}".rstrip())
        if job.restored_from:
            tiers = ", ".join(f"{ranks} from {tier}" for tier, ranks in job.restored_from)
            self._write(f"generation {job.generation} began with step {job.restore_step}: {tiers}")

    def _checkpoint(self, name: str, step: str) -> str:
        known = self._world.job(name).checkpoints.values()
        return next((c.id for c in known if c.step == int(step)), f"step-{step}")

    def audit(self) -> None:
        """`audit`: the chain, oldest first, as its verifier sees it."""
        entries = self._world.journal.newest(1_000, types=("Audited",))
        links = [cast("r.Audited", r.decode(e.type, e.version, e.body)).entry for e in entries]
        for link in links:
            after = re.sub("[0-9a-f]{64}", "<sha256>", link.after)
            self._write(
                f"{link.number} {link.actor} ({link.role}) {link.action} {link.subject}: {link.before} -> {after}"
            )
        broken = verify(links, head=self._world.state().audit)
        self._write(f"chain: {broken.reason if broken else 'unbroken'}")

    def by(self, name: str) -> None:
        """`by ann`: the commands that follow are hers."""
        self.who = By(f"spiffe://site/operator/{name}", "OPERATOR", "10.0.0.7")

    def cordon(self, node: str) -> None:
        """`cordon node-01`, by the operator."""
        self._tell(ev.CordonNode("", node, "operator", "look"))

    def uncordon(self, node: str, owner: str = "operator") -> None:
        """`uncordon node-01 owner=ann`."""
        self._tell(ev.UncordonNode("", node, owner))

    def checkpoint(self, name: str, step: str, what: str = "all") -> None:
        """`checkpoint moe 20`, `checkpoint moe 20 0,1` (only some ranks report)."""
        ranks = None if what == "all" else [int(rank) for rank in what.split(",")]
        self._world.checkpoint(name, int(step), ranks)

    def corrupt(self, name: str, step: str) -> None:
        """`corrupt moe 20`: the files of that step are damaged from now on."""
        self._world.corrupt.update(c.id for c in self._world.job(name).checkpoints.values() if c.step == int(step))

    def cancel(self, name: str, grace: str = "0s") -> None:
        """`cancel moe grace=5s`."""
        self._tell(ev.CancelJob("", name, "", round(_duration(grace) * 1000)))

    def restart_controller(self, stall: str = "0.5s") -> None:
        """`restart_controller stall=2s`: SIGKILL and a new one."""
        self._world.restart_controller(_duration(stall))

    def stall_controller(self, duration: str) -> None:
        """`stall_controller 5s`: the brain sleeps."""
        self._world.stall_controller(_duration(duration))

    def expect(  # noqa: PLR0917 - words of a line
        self, name: str, state: str, generation: str = "", step: str = "", rungs: str = "", path: str = "whole"
    ) -> None:
        """`expect moe RUNNING generation=2 step=20 rungs=RESTART_RANK`; `expect node-01 ALIVE path=broken`."""
        fleet = self._world.state().fleet
        number = fleet.number(name)
        if number is not None:
            self._same(name, NodeLiveness(int(fleet.liveness[number])).name, state)
            broken = bool(fleet.path_broken[number])
            self._same(f"path of {name}", "broken" if broken else "whole", path)
            return
        job = self._world.job(name)
        self._same(name, JobState(job.state).name, state)
        if generation:
            self._same(f"generation of {name}", str(job.generation), generation)
        if step:
            self._same(f"restore step of {name}", str(job.restore_step), step)
        if rungs:
            self._same(f"rungs of {name}", ",".join(recovery.rung for recovery in job.recoveries), rungs)

    def show(self, name: str) -> None:
        """`show moe`: state, blocker, recoveries, checkpoints, where its time went."""
        job = self._world.job(name)
        blocker = f", blocker: {job.blocker}" if job.blocker else ""
        reason = f", reason: {job.end_reason}" if job.terminal else ""
        self._write(f"{job.uid} is {job.state.name}, generation {job.generation}{blocker}{reason}")
        for recovery in job.recoveries:
            phases = " ".join(f"{phase}={to_s(took):g}" for phase, took in recovery.phases_ns.items())
            over = " (overtaken)" if recovery.overtaken else ""
            self._write(
                f"recovery to generation {recovery.generation}{over}: {recovery.rung or 'undecided'} of {recovery.ranks}, "
                f"{recovery.blame}: {recovery.cause}; {recovery.steps_lost} steps lost; {phases}"
            )
        for known in job.checkpoints.values():
            self._write(f"checkpoint {known.id} {CheckpointState(known.state).name} {known.reason}".rstrip())
        buckets = " ".join(f"{bucket}={to_s(took):g}" for bucket, took in sorted(job.ledger_ns.items()) if took)
        self._write(f"accelerator-seconds: {buckets}")

    # -- the run ----------------------------------------------------------------------------------------------------

    @property
    def _world(self) -> World:
        if self.world is None:
            raise ScriptError("the first command must be `site`")
        return self.world

    def _tell(self, event: ev.Command) -> None:
        answer = self._world.turn(ev.Ordered(event, self.who))[0]
        if isinstance(answer, Refusal):
            self._write(f"refused {answer.reason}: {answer.message}")
        elif isinstance(answer, Answer) and answer.fields.get("blocker"):
            self._write(f"answer: {answer.fields['blocker']}")

    def _same(self, what: str, found: str, expected: str) -> None:
        if found != expected:
            tail = "\n".join(self._world.lines[-25:])
            raise ScriptError(f"{what} is {found}, expected {expected}; the newest records:\n{tail}")

    def _write(self, text: str) -> None:
        self.lines.append(f"      {text}")

    def play(self, text: str) -> str:
        """Run a story's commands and return the whole text with fresh records."""
        for line in text.splitlines():
            if line.startswith("> "):
                self.lines.append(line)
                self._command(line[2:].split())
                if self.world is not None:
                    fresh, self.shown = self.world.lines[self.shown :], len(self.world.lines)
                    self.lines += [entry.rstrip() for entry in fresh if entry.split()[1] not in QUIET]
            elif line.startswith("#") or not line.strip():
                self.lines.append(line)
        return "\n".join(self.lines) + "\n"

    def _command(self, words: list[str]) -> None:
        command = COMMANDS.get(words[0])
        if command is None:
            raise ScriptError(f"no command is named {words[0]}: {', '.join(COMMANDS)}")
        plain, options = _options(words[1:])
        try:
            command(self, *plain, **options)
        except TypeError as error:
            raise ScriptError(f"{' '.join(words)}: {error}; usage: {command.__doc__}") from None


COMMANDS: dict[str, Callable[..., None]] = {
    name: member
    for name, member in vars(Story).items()
    if callable(member) and not name.startswith("_") and name != "play"
}
