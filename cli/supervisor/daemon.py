"""The supervisor process: one loop, no threads.

It starts units in order, restarts with back-off what dies, reaps every orphan of the site (it is a child subreaper: an
unreaped raylet would leave its workers running), and ends everything in order. Nothing here knows what a unit does.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from cli.site import site_path
from cli.supervisor import processes
from cli.supervisor.control import Answer, ControlServer, socket_path
from cli.supervisor.machine import accepts, group_of, log, private, raise_file_limit, remove
from cli.supervisor.plan import Plan, Unit, next_delay

MEMORY = "/dev/shm/"
"""What lies there is gone with a machine's power."""
POLL_S = 0.05
IDLE_S = 1.0
QUICK_LIFE_S = 5.0
QUICK_DEATHS = 3
"""A unit with `rebuilds` that dies this often in a row within `QUICK_LIFE_S` takes its dependants along."""
GONE_TIMEOUT_S = 10.0
RANK_GRACE_S = 2.0


class State(StrEnum):
    """Where a unit is."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    DONE = "done"
    DESTROYED = "destroyed"


@dataclass(slots=True)
class Running:
    """A unit and what happened to it."""

    unit: Unit
    state: State = State.WAITING
    pid: int = 0
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    delay_s: float = 0.0
    restarts: int = 0
    quick_deaths: int = 0
    last_exit: str = ""
    resume_at: float = field(default=float("inf"))
    held_until: float = 0.0


class Supervisor:
    """Runs a plan until it is told to stop."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._run = Path(plan.run)
        self._units = {unit.name: Running(unit) for unit in plan.units}
        named = {name for unit in plan.units for name in (*unit.needs, *unit.after, *unit.kills, *unit.rebuilds)}
        if named - self._units.keys():
            raise ValueError(f"the plan names units that it lacks: {sorted(named - self._units.keys())}")
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._wake_read, self._wake_write = socket.socketpair()

    def run(self) -> None:
        """The whole life of a site."""
        processes.become_subreaper()
        if self._plan.end_with_parent:
            processes.end_with_parent()
        raise_file_limit()
        self._install_signals()
        server = ControlServer(socket_path(self._run), self._selector, self._handle)
        self._write_site()
        log("SupervisorStarted", pid=os.getpid(), units=len(self._units))
        while not self._stopping:
            self._reap()
            self._resume_stopped()
            self._probe()
            self._start_due()
            self._wait()
        server.close()
        self._shut_down()

    # --- the loop ----------------------------------------------------------------------------------------------------

    def _install_signals(self) -> None:
        for one in (self._wake_read, self._wake_write):
            one.setblocking(False)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_stop_signal)
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._drain_wakeups)

    def _on_stop_signal(self, number: int, _frame: object) -> None:
        log("StopRequested", signal=signal.Signals(number).name)
        self._stopping = True

    def _drain_wakeups(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_read.recv(4096):
                pass

    def _wait(self) -> None:
        now = time.monotonic()
        due = [self._next_moment(running, now) for running in self._units.values()]
        timeout = max(0.0, min([IDLE_S, *due]))
        for key, _ in self._selector.select(0 if self._stopping else timeout):
            key.data()

    @staticmethod
    def _next_moment(running: Running, now: float) -> float:
        if running.state is State.STARTING:
            return POLL_S
        if running.state is State.WAITING and running.start_at > now:
            return running.start_at - now
        return running.resume_at - now

    def _reap(self) -> None:
        """Collects every dead child. A unit's process group is killed while its leader is still a zombie: until the
        leader is collected nobody else can get its number.
        """
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            owner = next((one for one in self._units.values() if one.pid == found.si_pid), None)
            if owner is not None:
                processes.send_group(found.si_pid, signal.SIGKILL)
            _, status = os.waitpid(found.si_pid, 0)
            if owner is not None:
                self._on_exit(owner, os.waitstatus_to_exitcode(status))

    def _on_exit(self, running: Running, code: int) -> None:
        unit, now = running.unit, time.monotonic()
        life_s = now - running.started_at
        running.last_exit = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if running.process is not None:
            running.process.returncode = code
        running.pid, running.process, running.resume_at = 0, None, float("inf")
        if self._stopping or running.state is State.DESTROYED:
            return
        if unit.one_shot and code == 0:
            running.state = State.DONE
            log("UnitDone", unit=unit.name, seconds=round(life_s, 3))
            return
        running.delay_s = next_delay(running.delay_s, life_s)
        running.state, running.start_at = State.WAITING, max(now + running.delay_s, running.held_until)
        running.quick_deaths = running.quick_deaths + 1 if life_s < QUICK_LIFE_S else 0
        log("UnitExited", unit=unit.name, how=running.last_exit, life_s=round(life_s, 3), delay_s=running.delay_s)
        victims = set(unit.kills)
        if unit.rebuilds and running.quick_deaths >= QUICK_DEATHS:
            victims |= set(unit.rebuilds)
            running.quick_deaths = 0
            self._rebuild(unit)
        for name in victims:
            self._kill_unit(self._units[name])
        self._write_site()

    def _rebuild(self, unit: Unit) -> None:
        log("GroupRebuilt", unit=unit.name, restarted=list(unit.rebuilds), removed=list(unit.wipes))
        for path in unit.wipes:
            shutil.rmtree(path, ignore_errors=True)
        for name in unit.rebuilds:
            other = self._units[name]
            if other.state is State.DONE:
                other.state = State.WAITING

    def _kill_unit(self, running: Running) -> None:
        if running.pid:
            processes.send_group(running.pid, signal.SIGKILL)

    def _resume_stopped(self) -> None:
        now = time.monotonic()
        for running in self._units.values():
            if running.pid and running.resume_at <= now:
                running.resume_at = float("inf")
                processes.send(running.pid, signal.SIGCONT)
                log("UnitContinued", unit=running.unit.name)

    def _probe(self) -> None:
        for running in self._units.values():
            if running.state is State.STARTING and not running.unit.one_shot and accepts(running.unit.probe):
                running.state = State.RUNNING
                log("UnitReady", unit=running.unit.name, seconds=round(time.monotonic() - running.started_at, 3))

    def _start_due(self) -> None:
        now = time.monotonic()
        started = False
        for running in self._units.values():
            if running.state is not State.WAITING or running.start_at > now:
                continue
            first = running.started_at == 0
            awaited = running.unit.needs + (running.unit.after if first else ())
            if all(self._units[name].state in (State.RUNNING, State.DONE) for name in awaited):
                self._start(running, now)
                started = True
        if started:
            self._write_site()

    def _start(self, running: Running, now: float) -> None:
        unit = running.unit
        for folder in (*unit.folders, str(Path(unit.log).parent)):
            Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment = kept | {processes.SITE_MARKER: self._plan.run} | dict(unit.environment)
        running.restarts += running.started_at > 0
        running.started_at = now
        try:
            with open(unit.log, "ab", opener=private) as output:
                running.process = subprocess.Popen(
                    unit.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    cwd=self._plan.directory,
                    start_new_session=True,
                )
        except OSError as error:
            running.delay_s = next_delay(running.delay_s, 0)
            running.start_at, running.last_exit = now + running.delay_s, str(error)
            log("UnitNotStarted", unit=unit.name, reason=str(error), delay_s=running.delay_s)
            return
        running.pid, running.state = running.process.pid, State.STARTING
        log("UnitStarted", unit=unit.name, pid=running.pid)

    def _write_site(self) -> None:
        document = self._plan.site | {
            "run": self._plan.run,
            "supervisor_pid": os.getpid(),
            "pids": {name: running.pid for name, running in self._units.items() if running.pid},
            "destroyed": sorted({r.unit.node for r in self._units.values() if r.state is State.DESTROYED}),
        }
        path = site_path(Path(self._plan.directory))
        fresh = path.with_suffix(".tmp")
        with open(fresh, "w", encoding="utf-8", opener=private) as file:
            json.dump(document, file, indent=2)
        fresh.replace(path)

    # --- requests ----------------------------------------------------------------------------------------------------

    def _handle(self, request: dict[str, Any]) -> Answer:
        match request:
            case {"command": "status"}:
                return {"ok": True, "pid": os.getpid(), "units": self._status()}
            case {"command": "stop"}:
                self._stopping = True
                return {"ok": True, "pid": os.getpid()}
            case {"command": "kill", "name": str(name), "signal": int(number)} if number in signal.valid_signals():
                return self._signal(name, number)
            case {"command": "stop_process", "name": str(name), "seconds": int() | float() as seconds}:
                answer = self._signal(name, signal.SIGSTOP)
                if answer["ok"]:
                    self._units[name].resume_at = time.monotonic() + seconds
                return answer
            case {"command": "hold", "name": str(name), "seconds": int() | float() as seconds}:
                return self._signal(name, signal.SIGKILL, hold_s=seconds)
            case {"command": "cont", "name": str(name)}:
                return self._signal(name, signal.SIGCONT)
            case {"command": "destroy_node", "node": str(node), **rest}:
                return self._destroy_node(node, keep_disk=rest.get("keep_disk") is True)
            case {"command": "restart_node", "node": str(node)}:
                return self._restart_node(node)
            case _:
                return {"ok": False, "code": 2, "error": f"unknown request {json.dumps(request)[:200]}"}

    def _status(self) -> dict[str, Any]:
        return {
            name: {
                "state": str(running.state),
                "pid": running.pid,
                "node": running.unit.node,
                "restarts": running.restarts,
                "last_exit": running.last_exit,
                "log": running.unit.log,
            }
            for name, running in self._units.items()
        }

    def _signal(self, name: str, number: int, hold_s: float = 0.0) -> Answer:
        running = self._units.get(name)
        if running is None:
            return {"ok": False, "code": 3, "error": f"there is no `{name}`; there are {', '.join(self._units)}"}
        if not running.pid:
            return {"ok": False, "code": 5, "error": f"`{name}` does not run now ({running.state})"}
        if number == signal.SIGCONT:
            running.resume_at = float("inf")
        running.held_until = time.monotonic() + hold_s  # no new start before
        processes.send(running.pid, number)
        log("UnitSignalled", unit=name, signal=signal.Signals(number).name)
        return {"ok": True, "pid": running.pid}

    def _destroy_node(self, node: str, *, keep_disk: bool) -> Answer:
        """`keep_disk`: as after a power cut, what lies in memory is gone and the node's folder is not."""
        units = [running for running in self._units.values() if node and running.unit.node == node]
        if not units:
            return {"ok": False, "code": 3, "error": f"there is no node `{node}`"}
        victims = processes.marked(processes.NODE_MARKER, node) & self._ours()
        memory = processes.shared_memory_of(victims)
        for running in units:
            running.state = State.DESTROYED
            self._kill_unit(running)
        left = processes.kill_until_gone(
            lambda: processes.marked(processes.NODE_MARKER, node) & self._ours(), GONE_TIMEOUT_S, self._reap
        )
        processes.remove_shared_memory(memory)
        for path in self._plan.node_paths.get(node, ()):
            if not keep_disk or path.startswith(MEMORY):
                remove(Path(path))
        self._write_site()
        log("NodeDestroyed", node=node, processes=len(victims), left=sorted(left), disk_kept=keep_disk)
        if left:
            return {"ok": False, "error": f"processes {sorted(left)} of {node} did not end"}
        return {"ok": True, "killed": len(victims)}

    def _ours(self) -> set[int]:
        """Processes of this site: another site on the machine may have a node of the same name."""
        return processes.marked(processes.SITE_MARKER, self._plan.run) | processes.descendants(os.getpid())

    def _restart_node(self, node: str) -> Answer:
        units = [running for running in self._units.values() if node and running.unit.node == node]
        if not units:
            return {"ok": False, "code": 3, "error": f"there is no node `{node}`"}
        for running in units:
            if running.state is State.DESTROYED:
                running.state, running.start_at, running.delay_s = State.WAITING, 0.0, 0.0
        return {"ok": True}

    # --- the end -----------------------------------------------------------------------------------------------------

    def _shut_down(self) -> None:
        """Ends units by `stop_order`, and the ranks after the first two steps: controller and cell agent must not see
        their deaths as failures to recover from.
        """
        self._stopping = True
        memory = processes.shared_memory_of(self._ours())
        orders = sorted({running.unit.stop_order for running in self._units.values()})
        for order in orders:
            if order > 1:
                self._end_ranks()
            self._end_units([running for running in self._units.values() if running.unit.stop_order == order])
        memory |= processes.shared_memory_of(self._ours())
        left = processes.kill_until_gone(self._ours, GONE_TIMEOUT_S, self._reap)
        processes.remove_shared_memory(memory)
        for path in (Path(path) for paths in self._plan.node_paths.values() for path in paths):
            if path.is_relative_to(processes.SHARED_MEMORY):  # states of ranks, which the next run could not use
                remove(path)
        site_path(Path(self._plan.directory)).unlink(missing_ok=True)
        shutil.rmtree(self._run, ignore_errors=True)
        log("SupervisorEnded", left=sorted(left))

    def _end_units(self, units: list[Running]) -> None:
        for running in units:
            if running.pid:
                processes.send(running.pid, signal.SIGCONT)
                processes.send(running.pid, signal.SIGTERM)
        grace_s = max((running.unit.grace_s for running in units), default=0.0)
        started = time.monotonic()
        self._reap_until(lambda: not any(running.pid for running in units), grace_s)
        late = [running.unit.name for running in units if running.pid]
        names = [running.unit.name for running in units]
        log("UnitsStopped", units=names, killed=late, seconds=round(time.monotonic() - started, 3))
        for running in units:
            self._kill_unit(running)
        self._reap_until(lambda: not any(running.pid for running in units), 1.0)

    def _end_ranks(self) -> None:
        """SIGTERM, then SIGKILL, to what runs in no unit's process group: rank hosts and their processes."""
        groups = {running.pid for running in self._units.values() if running.pid}

        def ranks() -> set[int]:
            return {pid for pid in self._ours() if group_of(pid) not in groups}

        started = time.monotonic()
        found = ranks()
        for pid in found:
            processes.send(pid, signal.SIGTERM)
        self._reap_until(lambda: not ranks(), RANK_GRACE_S)
        late = ranks()
        processes.kill_until_gone(ranks, GONE_TIMEOUT_S, self._reap)
        if found:
            log("RanksStopped", processes=len(found), killed=len(late), seconds=round(time.monotonic() - started, 3))

    def _reap_until(self, done: Any, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        self._reap()
        while not done() and time.monotonic() < end:
            time.sleep(0.005)
            self._reap()
