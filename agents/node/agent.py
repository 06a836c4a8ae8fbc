"""One node agent: its parts put together, its life from start to SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from typing import Literal

import structlog
from phalanx.v1 import agent_pb2

from agents.node.boot import Boot
from agents.node.checks.desk import CheckDesk, CheckSettings
from agents.node.checks.idle import IdleChecks
from agents.node.checks.pairs import PairDesk, PairSettings
from agents.node.config import AGENT_VERSION, AgentConfig
from agents.node.connections import Connections
from agents.node.desk import LocalDesk
from agents.node.devices import Devices, DeviceSettings
from agents.node.dial import Dialer
from agents.node.durable import AgentMemory, load_or_create_key, lock_folder
from agents.node.effects import Effects
from agents.node.endings import Endings
from agents.node.generations import GenerationStore
from agents.node.host_facts import DiskWatch, HostFacts, read_facts
from agents.node.hosts_file import load_hosts
from agents.node.local_server import LocalServer
from agents.node.logs import LogStreams
from agents.node.loop_lag import LoopLag
from agents.node.membership import Membership
from agents.node.memory.desk import MemoryDesk
from agents.node.memory.disk import LocalDisk
from agents.node.orphans import OrphanWatch
from agents.node.probes.supervised import Pace
from agents.node.session import ControllerSession
from agents.node.state import NodeState
from agents.node.supervision import tell_supervisor

DISK_LOOK_S = 30.0

log = structlog.get_logger(__name__)


class NodeAgent:
    """The parts of the agent. Make it on the event loop, then `run` it once."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._lock = lock_folder(config.directory)
        config.logs_path.mkdir(exist_ok=True)
        self._boot = Boot(config.boot_path)
        self._facts: HostFacts = read_facts(config.directory)
        self._devices = Devices(
            DeviceSettings(
                node=config.node,
                vendors=config.vendors,
                simulated=config.simulated_accelerators,
                kept_path=config.accelerators_path,
                telemetry_path=config.telemetry_path,
                pace=Pace(deadline_s=config.probe_deadline_s),
            )
        )
        self._state = NodeState(config.hosts_path, load_hosts(config.hosts_path), self._devices)
        self._memory = AgentMemory(config.memory_path, config.orphan_grace_ms)
        connections = Connections()
        self._endings = Endings(self._state, connections, node=config.node, exits_folder=config.exits_path)
        generations = GenerationStore(config.generations_path)
        self._states = MemoryDesk(
            config.memory_folder,
            disk=LocalDisk(config.disk_folder, self._state.counters),
            node=config.node,
            address=config.address,
            identity=None if config.membership is None else config.membership.folder,
            port_path=config.memory_port_path,
            table=self._state.table,
            counters=self._state.counters,
        )
        self._states.resume(tables[max(tables)] for tables in generations.tables.jobs.values())
        self._desk = LocalDesk(
            self._state,
            self._endings,
            connections,
            generations.tables,
            self._states,
            key=load_or_create_key(config.key_path),
            boot_id=self._boot.id,
        )
        self._server = LocalServer(config.socket_path, self._desk, self._state.counters)
        self._checks = CheckDesk(
            CheckSettings(
                folder=config.directory, kept_path=config.checks_path, preflight_age_s=config.preflight_age_s
            ),
            self._devices,
            self._state.busy_positions,
        )
        self._effects = Effects(
            config,
            state=self._state,
            memory=self._memory,
            endings=self._endings,
            generations=generations,
            desk=self._desk,
            checks=self._checks,
            pairs=PairDesk(
                PairSettings(config.pair_sums, config.spoiled), self._checks, self._devices, self._state.busy_positions
            ),
            memory_desk=self._states,
        )
        self._idle_checks = IdleChecks(self._checks, self._state.busy_positions, config.idle_check_interval_s)
        self._orphans = OrphanWatch(self._memory, self._endings, self._living_hosts)
        self._lag = LoopLag()
        membership = None if config.membership is None else Membership(config.membership)
        self._dialer = Dialer(config.controllers, membership, config.relays)
        self._session = ControllerSession(
            self._dialer,
            boot=self._boot,
            hello=self._hello,
            state=self._state,
            memory=self._memory,
            effects=self._effects,
            logs=LogStreams(self._state, config.logs_path),
            orphans=self._orphans,
            lag=self._lag,
            states=self._states,
            on_confirmed=self._confirmed,
        )

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; ranks are left alone. Raises what ends one of its parts."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await self._server.start()
        log.info("agent.started", boot_id=self._boot.id, pid=os.getpid(), socket=str(self._config.socket_path))
        self._endings.adopt()
        tell_supervisor("READY=1", f"STATUS=agent of {self._config.node}")
        works = {"session": self._introduced()}
        if self._dialer.membership is not None:
            works["identity"] = self._dialer.membership.keep_fresh(self._dialer.controller_channel)
        parts = [
            asyncio.create_task(work, name=name)
            for name, work in (
                *works.items(),
                ("probes", self._devices.run()),
                ("orphans", self._orphans.run()),
                ("loop lag", self._lag.run()),
                ("checks", self._idle_checks.run()),
                ("housekeeping", self._keep_house()),
                ("disk", self._watch_disk()),
            )
        ]
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait({stopping, *parts}, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            log.info("agent.stopping", living_hosts=self._living_hosts(), counters=dict(self._state.counters.values))
            await self._close([*parts, stopping])

    async def _close(self, tasks: Sequence[asyncio.Task[None] | asyncio.Task[Literal[True]]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._effects.close()
        await self._states.close()
        await self._endings.close()
        await self._server.close()
        self._state.save()
        os.close(self._lock)

    async def _introduced(self) -> None:
        await self._devices.first_readings()
        await self._session.run()

    def _living_hosts(self) -> int:
        return sum(not record.exited for record in self._state.table)

    def _hello(self) -> agent_pb2.AgentHello:
        return agent_pb2.AgentHello(
            node=self._config.node,
            agent_version=AGENT_VERSION,
            labels={**self._facts.labels(), **self._config.labels},
            address=self._config.address,
            cpu_count=self._facts.cpu_count,
            memory_bytes=self._facts.memory_bytes,
            own_rows=True,
            memory_address=self._states.address,
        )

    def _confirmed(self, sequence: int) -> None:
        self._desk.confirmed(self._state.outbox.acknowledge(sequence, time.monotonic()))

    async def _keep_house(self) -> None:
        """Now and then a full snapshot, which heals whatever was lost, and the counters if they moved."""
        shown: dict[str, int] = {}
        while True:
            await asyncio.sleep(self._config.snapshot_interval_s)
            self._states.sweep(time.monotonic())
            self._state.outbox.request_full()
            self._state.wake.set()
            values = dict(self._state.counters.values)
            if values != shown:
                shown = values
                log.info("agent.counters", **values)

    async def _watch_disk(self) -> None:
        watch = DiskWatch(self._config.directory)
        while True:
            used = watch.read()
            if used is not None:
                log.warning("disk.nearly_full", used_percent=round(used * 100, 1), folder=str(self._config.directory))
            await asyncio.sleep(DISK_LOOK_S)
