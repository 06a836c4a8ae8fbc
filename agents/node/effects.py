"""Carries out the controller's effects: old epochs refused, one outcome per id, each kind in one handler."""

from __future__ import annotations

import asyncio
import functools
import secrets
import threading
import time

import structlog
from phalanx.v1 import agent_pb2

from agents.node import checkpoints
from agents.node.checks.desk import CheckDesk
from agents.node.checks.pairs import PairDesk
from agents.node.config import AgentConfig
from agents.node.desk import LocalDesk
from agents.node.durable import AgentMemory
from agents.node.endings import FENCE_LIMIT_S, Endings
from agents.node.generations import GenerationStore, Rejected
from agents.node.hosts import HeldAssignment
from agents.node.memory.desk import MemoryDesk
from agents.node.observability import note_order
from agents.node.outbox import CheckedFinding
from agents.node.outcomes import Outcome, OutcomeMemory
from agents.node.stacks import StackDesk
from agents.node.state import NodeState

FENCE_LEAST_S = 2.0

log = structlog.get_logger(__name__)


class Effects:
    """The effect desk. Orders are begun in the sequence in which they came."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        state: NodeState,
        memory: AgentMemory,
        endings: Endings,
        generations: GenerationStore,
        desk: LocalDesk,
        checks: CheckDesk,
        pairs: PairDesk,
        memory_desk: MemoryDesk,
    ) -> None:
        self._config = config
        self._state = state
        self._memory = memory
        self._endings = endings
        self._generations = generations
        self._desk = desk
        self._checks = checks
        self._pairs = pairs
        self._states = memory_desk
        self._stacks = StackDesk(state)
        self.outcomes = OutcomeMemory()
        self._tasks: set[asyncio.Task[None]] = set()
        self._disk = asyncio.Lock()
        self._scrub = asyncio.Lock()
        self._stop = threading.Event()

    def submit(self, effect: agent_pb2.AgentEffect) -> None:
        """Take an effect from the stream; its result goes out with a later message."""
        if effect.epoch < self._memory.highest_epoch:
            self._state.counters.add("effects_of_lower_epoch")
            if self._state.counters.first("controller", f"epoch {effect.epoch}"):
                log.warning("effect.lower_epoch", epoch=effect.epoch, highest_epoch=self._memory.highest_epoch)
            message = f"epoch {effect.epoch} is lower than {self._memory.highest_epoch}, which this node obeys"
            self.outcomes.answer(effect.effect_id, Outcome(ok=False, message=message, final=False))
        else:
            self._memory.obey(effect.epoch)
            if self.outcomes.begin(effect.effect_id):
                task = asyncio.create_task(self._carry_out(effect), name=f"effect {effect.effect_id}")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        self._state.wake.set()

    async def close(self) -> None:
        """Break off what runs."""
        self._stop.set()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry_out(self, effect: agent_pb2.AgentEffect) -> None:
        kind = effect.WhichOneof("body")
        note_order(effect.effect_id, getattr(effect, kind) if kind else None)
        try:
            outcome = await self._dispatch(effect)
        except Exception as error:  # process edge: one bad order must not end the agent
            log.exception("effect.broke", kind=kind)
            not_run = agent_pb2.PairResult(word=agent_pb2.PAIR_WORD_NOT_RUN) if kind == "check_pair" else None
            outcome = Outcome(ok=False, message=f"the node agent failed on it: {error!r}", pair=not_run)
        self.outcomes.end(effect.effect_id, outcome, time.monotonic(), quiet=effect.quiet)
        self._state.wake.set()
        log.info("effect.ended", kind=kind, ok=outcome.ok, message=outcome.message)

    async def _dispatch(self, effect: agent_pb2.AgentEffect) -> Outcome:
        match effect.WhichOneof("body"):
            case "apply_generation":
                refusal = await self._preflight(effect.apply_generation)
                return refusal or self._apply_generation(effect.apply_generation)
            case "fence_hosts":
                return await self._fence(effect.fence_hosts, effect.deadline_ms)
            case "forget_hosts":
                return self._forget(effect.forget_hosts)
            case "verify_checkpoint":
                return await self._verify(effect.verify_checkpoint)
            case "sweep_folders":
                return await self._sweep(effect.sweep_folders)
            case "inject_fault":
                return self._inject(effect.inject_fault)
            case "run_checks":
                return await self._checks.carry_out(effect.run_checks)
            case "check_pair":
                return await self._pairs.carry_out(effect.check_pair, effect.deadline_ms / 1_000)
            case "raise_canary":
                return self._raise_canary(effect.raise_canary)
            case "gather_stacks":
                return await self._stacks.carry_out(effect.gather_stacks, effect.deadline_ms / 1_000)
            case "save_now":
                return self._save_now(effect.save_now)
            case None:
                return Outcome(ok=False, message="this agent does not know this kind of effect; it may be older")

    async def _preflight(self, order: agent_pb2.ApplyGeneration) -> Outcome | None:
        """Work with a known answer before a gang starts here; why it must not, None when it may."""
        records = [self._state.table.get(binding.host_id) for binding in order.bindings]
        if not records or any(record is None or record.assigned is not None for record in records):
            return None  # they have begun already, or the order is refused for what it names
        problem = await self._checks.preflight(order.join_timeout_ms / 1_000)
        return Outcome(ok=False, message=f"the check before the start: {problem}") if problem else None

    def _apply_generation(self, order: agent_pb2.ApplyGeneration) -> Outcome:
        """Keep the table, give every bound process its assignment. All bindings hold, or none is made."""
        older = [binding.host_id for binding in order.bindings if not self._takes_own_rows(binding.host_id)]
        if order.own_rows and older:
            message = f"need full table: {', '.join(older)} read whole tables, their rank library is older than 0.3"
            return Outcome(ok=False, message=message, final=False, need_full=True)
        whole = self._generations.tables.merge(order)
        if isinstance(whole, Rejected):
            return Outcome(ok=False, message=whole.message, final=not whole.need_full)
        fresh = order.generation > self._generations.tables.newest(order.job_uid)
        self._generations.keep(whole)
        refusals = [self._state.table.bindable(binding.host_id, order.job_uid) for binding in order.bindings]
        reasons = [refusal.reason for refusal in refusals if refusal is not None]
        if reasons:
            return Outcome(ok=False, message="; ".join(reasons))
        self._states.begin(order, fresh=fresh)
        for binding in order.bindings:
            held = HeldAssignment(order.generation, binding.rank, secrets.token_hex(16), tuple(binding.accelerators))
            self._state.table.assign(binding.host_id, held)
        self._state.save()
        waiting = [
            binding.host_id
            for binding in order.bindings
            if not self._desk.assign(self._state.table.records[binding.host_id])
        ]
        log.info(
            "generation.applied",
            job=order.job_name,
            generation=order.generation,
            base_generation=order.base_generation,
            ranks=[binding.rank for binding in order.bindings],
            not_connected=waiting,
        )
        return Outcome(ok=True, message=f"not connected yet: {', '.join(waiting)}" if waiting else "")

    def _takes_own_rows(self, host_id: str) -> bool:
        record = self._state.table.get(host_id)
        return record is None or record.own_rows

    async def _fence(self, order: agent_pb2.FenceHosts, deadline_ms: int) -> Outcome:
        grace_s = order.grace_ms / 1000
        limit_s = grace_s + FENCE_LIMIT_S
        if deadline_ms:
            # An order that comes late, sent again by a new controller, still gets the time that a fence takes.
            limit_s = min(limit_s, max(deadline_ms / 1000, grace_s + FENCE_LEAST_S))
        fences = (
            self._endings.fence(host_id, grace_s=grace_s, reason=order.reason, limit_s=limit_s)
            for host_id in order.host_ids
        )
        ended = await asyncio.gather(*fences)
        left = [host_id for host_id, empty in zip(order.host_ids, ended, strict=True) if not empty]
        if left:
            return Outcome(ok=False, message=f"processes are left after {limit_s:.1f} s: {', '.join(left)}")
        return Outcome(ok=True)

    def _forget(self, order: agent_pb2.ForgetHosts) -> Outcome:
        kept = self._state.table.forget(order.host_ids)
        self._state.save()
        jobs_left = {record.identity.job_uid for record in self._state.table}
        for job_uid in [job for job in self._generations.tables.jobs if job not in jobs_left]:
            self._generations.drop(job_uid)
        if kept:
            return Outcome(ok=False, message=f"not reported empty yet: {', '.join(kept)}")
        return Outcome(ok=True)

    async def _verify(self, order: agent_pb2.VerifyCheckpoint) -> Outcome:
        async with self._scrub if order.most_bytes_per_s else self._disk:  # a slow reading holds up nothing else
            checked = await asyncio.to_thread(checkpoints.verify, order, self._stop)
        if not checked.ok:
            log.error("checkpoint.bad", checkpoint=order.checkpoint_id, file=checked.file, reason=checked.reason)
        self._state.outbox.add_finding(CheckedFinding(checked))
        return Outcome(ok=True)

    async def _sweep(self, order: agent_pb2.SweepFolders) -> Outcome:
        tables = [table for kept in self._generations.tables.jobs.values() for table in kept.values()]
        job_folders = [
            folder for folder in (checkpoints.job_folder(table.checkpoint_folder) for table in tables) if folder
        ]
        live_jobs = {record.identity.job_uid for record in self._state.table if not record.exited}
        live = [
            table.checkpoint_folder
            for table in tables
            if table.checkpoint_folder
            and table.job_uid in live_jobs
            and table.generation == self._generations.tables.newest(table.job_uid)
        ]
        problems = []
        async with self._disk:
            for folder in order.folders:
                refuse = functools.partial(checkpoints.sweep_refusal, folder, job_folders, live, self._config.directory)
                problem = await asyncio.to_thread(refuse)
                if problem:
                    self._state.counters.add("sweeps_refused")
                    log.warning("sweep.refused", folder=folder, reason=problem)
                else:
                    problem = await asyncio.to_thread(_sweep_problem, folder)
                if problem:
                    problems.append(f"{folder}: {problem}")
        return Outcome(ok=not problems, message="; ".join(problems))

    def _save_now(self, order: agent_pb2.SaveNow) -> Outcome:
        """Done once the ranks here are told: that they have saved shows in what they report."""
        if self._desk.save_now(order):
            return Outcome(ok=True)
        return Outcome(ok=False, message=f"no rank of generation {order.generation} is connected here")

    def _inject(self, order: agent_pb2.InjectFault) -> Outcome:
        simulated = self._state.devices.simulated
        if simulated is None:
            message = "this node has no simulated accelerators; real ones are not broken on request"
            return Outcome(ok=False, message=message)
        try:
            simulated.inject(order.accelerator, order.code, order.message, time.time_ns())
        except IndexError as error:
            return Outcome(ok=False, message=str(error))
        self._state.devices.read_simulated()
        return Outcome(ok=True)

    def _raise_canary(self, order: agent_pb2.RaiseCanary) -> Outcome:
        """Have the canary fail; the next look at it finds that, as with every device."""
        held = [record for record in self._state.table if record.assigned is not None and not record.exited]
        if held:
            return Outcome(ok=False, message="ranks live here: nothing is broken on purpose beside them")
        self._state.devices.canary.fail(order.number, time.time_ns())
        return Outcome(ok=True)


def _sweep_problem(folder: str) -> str:
    try:
        checkpoints.sweep(folder)
    except OSError as error:
        return f"cannot be deleted: {error.strerror}"
    return ""
