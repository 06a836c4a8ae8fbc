"""Bringing a site up and taking it down, from the side of the command that is run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from cli.errors import CliError, Exit
from cli.site import read_site, site_path
from cli.supervisor import control, processes
from cli.supervisor.enrolment import enrol, make_authority
from cli.supervisor.layout import SiteOptions, make_plan, make_run_folder, run_folder
from cli.supervisor.plan import Plan, write_plan

if TYPE_CHECKING:
    from cli.client import Client

LOCK = "site.lock"
DOWN_TIMEOUT_S = 30.0
GONE_TIMEOUT_S = 10.0
POLL_S = 0.1
TAIL_LINES = 15
MAX_RESTARTS = 4
"""A unit that died this often while the site comes up will not come up at all."""

Say = Callable[[str], None]


class Trust(TypedDict):
    """Keyword arguments of `cli.client.connect`."""

    identity: Path | None
    plaintext: bool


def trust(options: SiteOptions) -> Trust:
    """How the one who starts a site speaks to it."""
    if options.plaintext:
        return {"identity": None, "plaintext": True}
    return {"identity": options.directory.resolve() / "pki" / "admin", "plaintext": False}


def bring_up(options: SiteOptions, say: Say, *, fresh: bool = False) -> tuple[Plan, subprocess.Popen[bytes]]:
    """Cleans what an earlier run left, starts the supervisor, and returns at once.

    The journal and everything else in the folder is kept, unless `fresh`.
    """
    directory = options.directory.resolve()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(directory) as lock:
        run = run_folder(directory)
        left = sweep(run, GONE_TIMEOUT_S)
        if left:
            say(f"ended {left} processes that an earlier run had left")
        shutil.rmtree(run, ignore_errors=True)
        if fresh:
            _empty(directory)
        make_run_folder(run)
        plan = make_plan(options, run)
        if not options.plaintext:
            make_authority(Path(plan.site["identity"]).parent, run.name)
        return plan, start_supervisor(plan, lock)


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def _locked(directory: Path) -> Iterator[int]:
    """The lock that the supervisor of a site folder holds for life; it is inherited by descriptor."""
    descriptor = os.open(directory / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        site = read_site(directory)
        where = f" at {site.address}" if site else ""
        raise CliError(
            f"the site in {directory} is up already{where}",
            fix=f"`phalanx down --dir {directory}` ends it; another --dir starts a second one",
            code=Exit.CONFLICT,
        ) from None
    else:
        yield descriptor
    finally:
        os.close(descriptor)


def start_supervisor(plan: Plan, lock: int | None = None) -> subprocess.Popen[bytes]:
    """Starts the supervisor in a session of its own; it writes `site.json` and outlives us unless the plan says no."""
    path = Path(plan.run) / "plan.json"
    write_plan(plan, path)
    with open(Path(plan.directory) / "supervisor.log", "ab") as output:
        return subprocess.Popen(
            (sys.executable, "-P", "-m", "cli.supervisor", str(path)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=plan.directory,
            env=dict(os.environ) | {processes.SITE_MARKER: plan.run},
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
        )


def wait_ready(plan: Plan, supervisor: subprocess.Popen[bytes], client: Client, timeout_s: float, say: Say) -> None:
    """Returns when every unit runs and the controller shows every node in service and in the cell."""
    end = time.monotonic() + timeout_s
    seen: dict[str, str] = {}
    enrolled = bool(plan.site["plaintext"])
    missing = "the supervisor to answer"
    while time.monotonic() < end:
        if supervisor.poll() is not None:
            raise _failed("the supervisor ended", Path(plan.directory) / "supervisor.log")
        units = _status(Path(plan.run))
        _announce(units, seen, say)
        for name, unit in units.items():
            if unit["restarts"] >= MAX_RESTARTS:
                raise _failed(f"`{name}` does not stay up ({unit['last_exit']})", Path(unit["log"]))
        if not enrolled:
            enrolled = _enrol(plan, client, say)
        waiting = [name for name, unit in units.items() if unit["state"] not in ("running", "done")]
        missing = ", ".join(waiting) or (_nodes_missing(plan, client) if units else missing)
        if not missing:
            return
        time.sleep(POLL_S)
    guilty = _guilty(_status(Path(plan.run)), Path(plan.directory))
    raise _failed(f"the site is not ready after {timeout_s:g} s: it waits for {missing}", guilty, Exit.TIMED_OUT)


def _status(run: Path) -> dict[str, dict[str, Any]]:
    try:
        units: dict[str, dict[str, Any]] = control.call(run, {"command": "status"}, timeout_s=5.0)["units"]
    except CliError:
        return {}
    return units


def _announce(units: dict[str, dict[str, Any]], seen: dict[str, str], say: Say) -> None:
    for name, unit in units.items():
        if unit["state"] in ("running", "done") and seen.get(name) != "running":
            seen[name] = "running"
            say(f"  {name} runs" if unit["state"] == "running" else f"  {name} done")
        if unit["restarts"] and seen.get(f"{name} restarts") != str(unit["restarts"]):
            seen[f"{name} restarts"] = str(unit["restarts"])
            say(f"  {name} died ({unit['last_exit']}), started again")


def _enrol(plan: Plan, client: Client, say: Say) -> bool:
    """Give every agent without a certificate a join file, once the controller answers."""
    import grpc  # noqa: PLC0415

    from cli.client import status_of  # noqa: PLC0415

    try:
        enrol(plan.site, client, say)
    except grpc.RpcError as error:
        if status_of(error) not in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
            raise
        return False
    return True


def _nodes_missing(plan: Plan, client: Client) -> str:
    """What the controller does not show yet; empty: every node is in service and a member of the cell."""
    import grpc  # noqa: PLC0415
    from phalanx.v1 import fleet_pb2, types_pb2  # noqa: PLC0415

    from cli.client import status_of  # noqa: PLC0415

    try:
        answer = client.fleet.ListNodes(fleet_pb2.ListNodesRequest(), timeout=5.0)
    except grpc.RpcError as error:
        if status_of(error) not in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
            raise
        return "the controller to answer"
    ready = {
        node.name
        for node in answer.nodes
        if node.service == types_pb2.NODE_SERVICE_IN_SERVICE
        and node.session_open
        and (node.cell_member or not plan.site["cell"])
    }
    wanted = {node["name"] for node in plan.site["nodes"]}
    return ", ".join(f"{name} in service" for name in sorted(wanted - ready))


def _guilty(units: dict[str, dict[str, Any]], directory: Path) -> Path:
    """The log that most likely says why: of the unit that died most, else of the first one that is not ready."""
    died = sorted((unit for unit in units.values() if unit["restarts"]), key=lambda unit: -int(unit["restarts"]))
    late = [unit for unit in units.values() if unit["state"] not in ("running", "done")]
    for unit in (*died, *late):
        return Path(unit["log"])
    return directory / "controller" / "controller.log"


def _failed(what: str, log: Path, code: Exit = Exit.ERROR) -> CliError:
    return CliError(
        what, details=(f"end of {log}:", *tail(log)), fix="correct that, then `phalanx up` again", code=code
    )


def tail(path: Path, lines: int = TAIL_LINES) -> tuple[str, ...]:
    """The last lines of a log."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 64 * 1024))
            text = file.read().decode(errors="replace")
    except OSError as error:
        return (f"  ({error.strerror})",)
    return tuple(f"  | {line[:400]}" for line in text.splitlines()[-lines:]) or ("  (empty)",)


def take_down(directory: Path, say: Say) -> None:
    """Ends everything of a site, in order when the supervisor lives, by its marker when it does not."""
    directory = directory.resolve()
    run, pid = run_folder(directory), 0
    with contextlib.suppress(CliError):  # an unreadable site.json does not keep a site up
        site = read_site(directory)
        if site is not None:
            run, pid = site.run, site.supervisor_pid
    if pid and _is_supervisor(pid, run):
        processes.send(pid, signal.SIGCONT)  # also a frozen one
        processes.send(pid, signal.SIGTERM)
        if not _wait_for_end(pid, DOWN_TIMEOUT_S):
            say(f"the supervisor did not end in {DOWN_TIMEOUT_S:g} s and is killed")
    left = sweep(run, GONE_TIMEOUT_S)
    if left:
        say(f"ended {left} processes that the supervisor had left")
    remove_run_folder(run)
    site_path(directory).unlink(missing_ok=True)


def remove_run_folder(run: Path) -> None:
    """Removes a run folder, and nothing that does not look like one: its path was read from a file."""
    if run.parent == Path("/tmp") and run.name.startswith("phx-") and not run.is_symlink():
        shutil.rmtree(run, ignore_errors=True)


def _is_supervisor(pid: int, run: Path) -> bool:
    entry = f"{processes.SITE_MARKER}={run}".encode()
    return processes.is_alive(pid) and entry in processes.environment_of(pid)


def _wait_for_end(pid: int, timeout_s: float) -> bool:
    end = time.monotonic() + timeout_s
    while processes.is_alive(pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def sweep(run: Path, timeout_s: float) -> int:
    """SIGKILL for every process with the marker of a run folder, and its shared memory. Returns how many there were."""

    def find() -> set[int]:
        return processes.marked(processes.SITE_MARKER, str(run))

    first = find()
    memory = processes.shared_memory_of(first)
    left = processes.kill_until_gone(find, timeout_s, lambda: None)
    if left:
        raise CliError(f"processes {sorted(left)} of {run} do not end", fix="look at them with ps, then try again")
    processes.remove_shared_memory(memory)
    return len(first)
