"""Breaking things on purpose: `phalanx inject ...`, for a site on this machine."""

from __future__ import annotations

import os
import signal
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from cli import render
from cli.client import CALL_TIMEOUT_S, Client, new_request_id
from cli.errors import CliError, Exit
from cli.grammar import Argument, Group, Option
from cli.options import DEFAULT_DIRECTORY, Directory, SiteChoice, for_site
from cli.site import require_site
from cli.supervisor import control, processes
from cli.supervisor.enrolment import enrol
from cli.supervisor.layout import CONTROLLER_UNIT, agent_unit
from cli.supervisor.ray_cell import AGENT_UNIT, GCS_UNIT, raylet_unit

JobName = Annotated[str, Argument(metavar="JOB")]
NodeName = Annotated[str, Argument(metavar="NODE")]


class Target(StrEnum):
    """Which process of a rank."""

    PROCESS = "process"
    HOST = "host"
    ACTOR = "actor"


def register(app: Group) -> None:
    """Adds the group."""
    group = Group("Break something on purpose, to see it recover.")
    app.add_group(group, name="inject")
    for command, example in (
        (kill_rank, "kill-rank moe 3 --what host"),
        (kill_agent, "kill-agent node-2"),
        (kill_raylet, "kill-raylet node-2"),
        (kill_gcs, "kill-gcs"),
        (kill_cell_agent, "kill-cell-agent"),
        (kill_controller, "kill-controller"),
        (stop_controller, "stop-controller 5"),
        (destroy_node, "destroy-node node-2"),
        (restart_node, "restart-node node-2"),
        (accelerator_fault, "accelerator-fault node-2 0 --code XID-79"),
        (corrupt_checkpoint, "corrupt-checkpoint moe"),
    ):
        group.command(epilog=f"Example: phalanx inject {example}")(command)


@for_site
def kill_rank(
    job: JobName,
    rank: Annotated[int, Argument(min=0, metavar="RANK")],
    what: Annotated[Target, Option(help="The training process, its rank host, or its Ray actor.")] = Target.PROCESS,
    *,
    site: SiteChoice,
) -> None:
    """SIGKILL one process of a rank."""
    with site.connect() as client:
        pid = rank_pid(client, job, rank, what)
    kill_of_site(pid, site.directory)
    render.out(f"SIGKILL to process {pid} ({what} of rank {rank} of {job})")


def rank_pid(client: Client, job: str, rank: int, what: Target) -> int:
    """The process id of a rank's part, as the controller knows it now."""
    from phalanx.v1 import job_pb2  # noqa: PLC0415

    answer = client.jobs.GetJob(job_pb2.GetJobRequest(name=job), timeout=CALL_TIMEOUT_S)
    found = next((one for one in answer.job.ranks if one.rank == rank), None)
    if found is None:
        raise CliError(f"{job} has no rank {rank} now", fix=f"`phalanx describe job {job}`", code=Exit.NOT_FOUND)
    match what:
        case Target.PROCESS:
            pid = found.pid
        case Target.HOST:
            pid = found.host_pid
        case Target.ACTOR:
            pid = _actor_of(found.host_pid)
    if not pid:
        state = render.job_state(answer.job)
        raise CliError(
            f"the {what} of rank {rank} does not run now",
            why=f"{job} is {state}" + (f": {answer.job.blocker}" if answer.job.blocker else ""),
            fix=f"submit {job} again" if answer.job.ended_at else f"try again when `phalanx watch {job}` shows RUNNING",
            code=Exit.CONFLICT,
        )
    return pid


def _actor_of(host_pid: int) -> int:
    """The Ray worker that started a rank host; 0 when it is gone (the host then has another parent)."""
    parent = processes.parent_of(host_pid) if host_pid else 0
    command = " ".join(processes.command_of(parent)) if parent else ""
    return parent if "ray::" in command or "default_worker.py" in command else 0


def kill_of_site(pid: int, directory: Path) -> None:
    """SIGKILL to a process of the site in this folder, never to another one that got its number meanwhile."""
    run = require_site(directory).run
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        raise CliError(f"process {pid} is gone", fix="try again", code=Exit.CONFLICT) from None
    try:
        if pid not in processes.marked(processes.SITE_MARKER, str(run)):
            raise CliError(f"process {pid} is not of this site", why=f"it lacks {processes.SITE_MARKER}={run}")
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        raise CliError(f"process {pid} is gone", fix="try again", code=Exit.CONFLICT) from None
    finally:
        os.close(descriptor)


def _kill_unit(directory: Path, name: str) -> None:
    answer = control.call(require_site(directory).run, {"command": "kill", "name": name, "signal": int(signal.SIGKILL)})
    render.out(f"SIGKILL to process {answer['pid']} ({name})")


def kill_agent(node: NodeName, directory: Directory = DEFAULT_DIRECTORY) -> None:
    """SIGKILL a node agent."""
    _kill_unit(directory, agent_unit(node))


def kill_raylet(node: NodeName, directory: Directory = DEFAULT_DIRECTORY) -> None:
    """SIGKILL a node's raylet."""
    _kill_unit(directory, raylet_unit(node))


def kill_gcs(directory: Directory = DEFAULT_DIRECTORY) -> None:
    """SIGKILL the cell's GCS."""
    _kill_unit(directory, GCS_UNIT)


def kill_cell_agent(directory: Directory = DEFAULT_DIRECTORY) -> None:
    """SIGKILL the cell agent."""
    _kill_unit(directory, AGENT_UNIT)


def kill_controller(directory: Directory = DEFAULT_DIRECTORY) -> None:
    """SIGKILL the controller."""
    _kill_unit(directory, CONTROLLER_UNIT)


def stop_controller(
    seconds: Annotated[float, Option(min=0.1, max=3600, help="How long it is frozen.")],
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Freeze the controller (SIGSTOP); the supervisor lets it go on after the time."""
    run = require_site(directory).run
    answer = control.call(run, {"command": "stop_process", "name": CONTROLLER_UNIT, "seconds": seconds})
    render.out(f"SIGSTOP to process {answer['pid']} ({CONTROLLER_UNIT}) for {seconds:g} s")


def destroy_node(
    node: NodeName,
    *,
    keep_disk: Annotated[
        bool,
        Option("--keep-disk", help="As after a power cut: the local disk is there when the node is started again."),
    ] = False,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Destroy a node at once: agent, raylet, ranks, shared memory, local disk, sockets. It does not come back."""
    command = {"command": "destroy_node", "node": node, "keep_disk": keep_disk}
    answer = control.call(require_site(directory).run, command)
    disk = ", its local disk is kept" if keep_disk else ""
    render.out(f"{node} destroyed, {answer['killed']} processes killed{disk}")


def restart_node(node: NodeName, directory: Directory = DEFAULT_DIRECTORY) -> None:
    """Start a destroyed node again, empty unless its disk was kept."""
    site = require_site(directory)
    if not site.plaintext and node in site.nodes:
        with SiteChoice(directory=directory).connect() as client:
            enrol(site.document, client, render.note, only=node)  # with an empty disk it joins anew
    control.call(site.run, {"command": "restart_node", "node": node})
    render.out(f"{node} started again")


@for_site
def accelerator_fault(
    node: NodeName,
    index: Annotated[int, Argument(min=0, metavar="INDEX")],
    *,
    code: Annotated[str, Option(help="The fault code that the probe reports.")] = "",
    clear: Annotated[bool, Option("--clear", help="Clear the fault.")] = False,
    message: Annotated[str, Option(help="Text of the fault.")] = "injected by the operator",
    site: SiteChoice,
) -> None:
    """Raise or clear a fault of a simulated accelerator."""
    from phalanx.v1 import fleet_pb2  # noqa: PLC0415

    if bool(code) == clear:
        raise CliError("say which: a fault or its end", fix="pass --code CODE, or --clear", code=Exit.USAGE)
    with site.connect() as client:
        request = fleet_pb2.InjectAcceleratorFaultRequest(
            request_id=new_request_id(), node=node, accelerator=index, code=code, message="" if clear else message
        )
        answer = client.fleet.InjectAcceleratorFault(request, timeout=CALL_TIMEOUT_S)
    verb = "cleared on" if clear else f"{code} raised on"
    render.out(f"{verb} accelerator {index} of {node} at revision {answer.revision}")


@for_site
def corrupt_checkpoint(
    job: JobName,
    checkpoint: Annotated[str, Option(help="Id of the checkpoint; default: the newest one.")] = "",
    *,
    site: SiteChoice,
) -> None:
    """Flip one byte in the largest file of a checkpoint."""
    from phalanx.v1 import checkpoint_pb2, types_pb2  # noqa: PLC0415

    readable = (types_pb2.CHECKPOINT_STATE_COMMITTED, types_pb2.CHECKPOINT_STATE_VERIFIED)
    with site.connect() as client:
        request = checkpoint_pb2.ListCheckpointsRequest(job=job)
        answer = client.checkpoints.ListCheckpoints(request, timeout=CALL_TIMEOUT_S)
    found = [item for item in answer.checkpoints if (item.id == checkpoint if checkpoint else item.state in readable)]
    if not found:
        fix = f"`phalanx get checkpoints --job {job}`"
        raise CliError(f"{job} has no such checkpoint", fix=fix, code=Exit.NOT_FOUND)
    newest = max(found, key=lambda item: (item.step, item.generation))
    path, offset = flip_byte(Path(newest.folder))
    render.out(f"flipped byte {offset} of {path} (checkpoint {newest.id}, step {newest.step})")


def flip_byte(folder: Path) -> tuple[Path, int]:
    """Inverts the middle byte of the largest file below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    if not files:
        raise CliError(f"there is no file in {folder}", code=Exit.NOT_FOUND)
    path = max(files, key=lambda file: (file.stat().st_size, str(file)))
    offset = path.stat().st_size // 2
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0xFF]))
    return path, offset
