"""The rank host: a tiny parent of one training process, in its own session.

It reads a `HostSpec` from stdin, registers at the node agent's socket, runs `python -m agents.rank` as its child,
reaps it, reports how it ended, and ends itself. It survives actor, raylet and agents; its child does not survive it.
One thread only: the kernel sends the parent-death signal when the *thread* that forked ends. No ray, torch or grpc.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct, Value
from phalanx.v1 import cell_pb2, local_pb2, types_pb2

from agents.cell.container import SIGNAL_BASE, NoRuntime, find_runtime, remove, run_command
from agents.cell.host_exit import MemoryKills, kill_leftovers, killed_for_memory, last_words
from agents.cell.host_link import HostLink, LinkState

EXIT_USAGE = 2
EXIT_REFUSED = 3
EXIT_NODE_GONE = 4
REGISTER_FIRST_S = 2.0
REPORT_LIMIT_S = 600.0
KILL_LIMIT_S = 5.0
FOLDER_CHECK_S = 1.0
CODE_NOT_STARTED = 127
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LARGEST_EXACT_FLOAT = 2**53
_NAMES = ("PHALANX_NODE", "PHALANX_NODE_SOCKET", "PHALANX_NODE_DIR")


@dataclass(frozen=True, slots=True)
class HostSettings:
    """The node's side of the environment, and this host's files in it."""

    node: str
    socket_path: str
    node_dir: str
    host_id: str

    @property
    def log_path(self) -> str:
        """Output of the training process."""
        return f"{self.node_dir}/logs/{self.host_id}.log"

    def proof(self) -> str:
        """HMAC-SHA256 of the host id with the node's key. Raises OSError while the key is not there."""
        with open(f"{self.node_dir}/host.key", "rb") as file:
            return hmac.new(file.read(), self.host_id.encode(), hashlib.sha256).hexdigest()


def plain(value: Value) -> object:
    """A protobuf value as JSON data. Struct knows only doubles: a whole number becomes an int again."""
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) <= _LARGEST_EXACT_FLOAT else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return plain_struct(value.struct_value)
        case "list_value":
            return [plain(item) for item in value.list_value.values]
        case _:
            return None


def plain_struct(struct: Struct) -> dict[str, object]:
    """A protobuf struct as JSON data."""
    return {name: plain(value) for name, value in struct.fields.items()}


def rank_environment(spec: cell_pb2.HostSpec, environ: Mapping[str, str]) -> dict[str, str]:
    """What the training process finds in its environment."""
    workload = {"module": spec.workload.module, "path": spec.workload.path, "args": plain_struct(spec.workload.args)}
    return {
        **environ,
        "PHALANX_HOST_ID": spec.host_id,
        "PHALANX_JOB": spec.job_name,
        "PHALANX_WORKLOAD": json.dumps(workload),
    }


def rank_command(spec: cell_pb2.HostSpec, environment: Mapping[str, str]) -> list[str]:
    """What the child runs: the rank process, or what gets its shipped code ready, or what runs its container.

    Raises NoRuntime when there is no way to run containers here.
    """
    if spec.workload.image:
        return run_command(spec, find_runtime(), environment, user=os.getuid(), group=os.getgid())
    if spec.workload.code_digest:
        return [sys.executable, "-u", "-m", "agents.cell.with_code", spec.code_archive, spec.workload.code_digest]
    return [sys.executable, "-u", "-m", "agents.rank"]


class NodeFolder:
    """Notices that NODE_DIR was removed, also when a folder of the same name has taken its place."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def gone(self) -> bool:
        """Whether the folder is no longer the one that was opened. The open descriptor keeps its number from reuse."""
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
        except (FileNotFoundError, NotADirectoryError):
            return True


@contextmanager
def sigterm_held() -> Iterator[None]:
    """Fork inside this with `child_set_up`: a SIGTERM that comes meanwhile is kept, for the parent and for the child.

    Else the child, until its exec, would take it with the handler that it has from its parent, and it would be lost.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def child_set_up(parent: int) -> Callable[[], None]:
    """What the child does between fork and exec: it must not outlive its parent, and SIGTERM ends it from now on."""
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork

    def set_up() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # died before the line above: nobody would send the signal any more
            os._exit(CODE_NOT_STARTED)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    return set_up


class RankHost:
    """One training process and what is said about it."""

    def __init__(
        self, spec: cell_pb2.HostSpec, settings: HostSettings, *, grace_s: float, report_limit_s: float, wake: int
    ) -> None:
        self._spec = spec
        self._settings = settings
        self._grace_s = grace_s
        self._report_limit_s = report_limit_s
        self._folder = NodeFolder(settings.node_dir)
        self._log = os.open(settings.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._log_start = os.fstat(self._log).st_size
        self._link = HostLink(settings.socket_path, self._registration, self.note)
        self._link.watch(wake)
        self._wake = wake
        self._mark = f"PHALANX_HOST_ID={spec.host_id}".encode() if spec.workload.image else b""
        self._child: subprocess.Popen[bytes] | None = None
        self._memory_kills = MemoryKills("", 0)
        self._exit: types_pb2.ExitInfo | None = None
        self._exited_at = 0.0
        self._kill_at = float("inf")
        self._check_folder_at = 0.0
        self.asked_to_end = False

    def note(self, text: str) -> None:
        """One line of the host itself in the rank's log."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        os.write(
            self._log, f"phalanx: {stamp} host {self._settings.host_id} on {self._settings.node}: {text}\n".encode()
        )

    def run(self) -> int:
        """Register, run the child to its end, report; returns this process's exit status."""
        self.note(f"job {self._spec.job_name or self._spec.job_uid}, host process {os.getpid()}")
        start_by = time.monotonic() + REGISTER_FIRST_S
        while self._link.state is not LinkState.REGISTERED and time.monotonic() < start_by and not self.asked_to_end:
            if not self._turn(start_by):
                return EXIT_NODE_GONE
            if self._link.refusal:
                return EXIT_REFUSED  # it could never be controlled, so it must not run anything
        self._start()
        while self._exit is None:
            if not self._turn(self._kill_at):
                return EXIT_NODE_GONE
            self._reap()
            self._stop_when_asked()
        give_up_at = time.monotonic() + self._report_limit_s
        while self._link.state is not LinkState.ACKNOWLEDGED or not self._exit.group_empty:
            if time.monotonic() >= give_up_at:
                self._leave_exit_file()
                break
            if not self._turn(give_up_at if self._exit.group_empty else time.monotonic()):
                return EXIT_NODE_GONE
            if not self._exit.group_empty and kill_leftovers(os.getpid(), FOLDER_CHECK_S, self._mark):
                self._exit.group_empty = True
                self._link.send_exit(self._exit_message)
        self._link.close()
        return 0

    def _turn(self, limit: float) -> bool:
        """Wait for something to do and serve the link; False when the node is gone, with every process of ours."""
        now = time.monotonic()
        if now >= self._check_folder_at:
            self._check_folder_at = now + FOLDER_CHECK_S
            if self._folder.gone():
                kill_leftovers(os.getpid(), KILL_LIMIT_S, self._mark)
                return False
        # Wait, then act, then let the caller look: what happened before the wait makes it return at once.
        self._link.wait(now, min(limit, self._check_folder_at))
        drain(self._wake)
        self._link.step(time.monotonic())
        return True

    def _start(self) -> None:
        if self.asked_to_end:
            self._ended(0, signal.SIGTERM, "the host was told to end before it started the process")
            return
        self._memory_kills = MemoryKills.now()
        environment = rank_environment(self._spec, os.environ)
        try:
            if self._spec.workload.image and self._spec.checkpoint_folder:
                os.makedirs(self._spec.checkpoint_folder, exist_ok=True)  # a runtime mounts only what is there
            command = rank_command(self._spec, environment)
            with sigterm_held():
                self._child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    env=environment,
                    preexec_fn=child_set_up(os.getpid()),  # noqa: PLW1509  safe: this process has one thread
                )
        except (OSError, subprocess.SubprocessError, NoRuntime) as error:
            self._ended(CODE_NOT_STARTED, 0, f"the process could not be started: {error}")

    def _reap(self) -> None:
        while self._exit is None:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._child is not None and pid == self._child.pid:
                code = os.waitstatus_to_exitcode(status)
                self._child.returncode = code  # reaped here, not by Popen
                if self._spec.workload.image:
                    code = self._container_ended(code)
                self._ended(max(code, 0), max(-code, 0), "")

    def _container_ended(self, code: int) -> int:
        """The rank's status from that of the runtime's client; after this the container is gone."""
        if code < 0:  # the client was killed, not the container
            remove(find_runtime(), self._spec.host_id)
            return code
        return SIGNAL_BASE - code if code > SIGNAL_BASE else code

    def _ended(self, code: int, signal_number: int, message: str) -> None:
        self._exited_at = time.monotonic()
        empty = kill_leftovers(os.getpid(), KILL_LIMIT_S, self._mark)
        sender = types_pb2.ExitInfo.SENDER_UNSPECIFIED
        if signal_number:
            sender = types_pb2.ExitInfo.SENDER_UNKNOWN
        child = self._child
        if signal_number == signal.SIGKILL and child is not None and killed_for_memory(self._memory_kills, child.pid):
            sender = types_pb2.ExitInfo.SENDER_OOM
        self._exit = types_pb2.ExitInfo(
            observed=True,
            code=code,
            signal=signal_number,
            sender=sender,
            message=message or last_words(self._settings.log_path, self._log_start),
            group_empty=empty,
        )
        how = f"signal {signal_number}" if signal_number else f"exit code {code}"
        self.note(f"the process has ended: {message or how}")
        self._link.send_exit(self._exit_message)

    def _stop_when_asked(self) -> None:
        if self._child is None or self._exit is not None:
            return
        now = time.monotonic()
        if self.asked_to_end and self._kill_at == float("inf"):
            self._kill_at = now + self._grace_s
            self.note(f"told to end: SIGTERM to the process, SIGKILL in {self._grace_s:g} s")
            os.kill(self._child.pid, signal.SIGTERM)
        elif now >= self._kill_at:
            self._kill_at = now + self._grace_s
            os.kill(self._child.pid, signal.SIGKILL)

    def _registration(self) -> local_pb2.HostRegister:
        return local_pb2.HostRegister(
            host_id=self._spec.host_id,
            job_uid=self._spec.job_uid,
            job_name=self._spec.job_name,
            host_pid=os.getpid(),
            pid=self._child.pid if self._child is not None else 0,
            proof=self._settings.proof(),
            log_path=self._settings.log_path,
            contained=bool(self._spec.workload.image),
        )

    def _exit_message(self) -> local_pb2.HostExit:
        age_ms = max(1, round((time.monotonic() - self._exited_at) * 1000))
        return local_pb2.HostExit(host_id=self._spec.host_id, exit=self._exit, age_ms=age_ms)

    def _leave_exit_file(self) -> None:
        from google.protobuf import json_format  # noqa: PLC0415  rarely needed, and slow to import

        folder = f"{self._settings.node_dir}/exits"
        os.makedirs(folder, mode=0o700, exist_ok=True)
        path = f"{folder}/{self._settings.host_id}.json"
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.write(json_format.MessageToJson(self._exit_message(), preserving_proto_field_name=True))
            file.flush()
            os.fsync(file.fileno())
        os.replace(path + ".new", path)
        self.note(f"the node agent took no report for {self._report_limit_s:g} s: left it in {path}")


def drain(descriptor: int) -> None:
    """Empty the signal pipe."""
    try:
        while os.read(descriptor, 512):
            pass
    except BlockingIOError:
        pass


def read_settings(spec: cell_pb2.HostSpec, environ: Mapping[str, str]) -> HostSettings:
    """Check the contract's variables and the spec. Raises ValueError that says what is wrong."""
    missing = [name for name in _NAMES if not environ.get(name)]
    if missing:
        raise ValueError(f"{', '.join(missing)} not set: a rank host is started by its Ray actor on a node")
    if not spec.host_id or "/" in spec.host_id or not spec.workload.module:
        raise ValueError("stdin holds no HostSpec with a host_id (a file name) and a workload.module")
    node, socket_path, node_dir = (environ[name] for name in _NAMES)
    if spec.node and spec.node != node:
        raise ValueError(f"host {spec.host_id} is for node {spec.node}, this is {node}")
    return HostSettings(node, socket_path, node_dir, spec.host_id)


def lead_session() -> None:
    """Make sure that this process leads its session: leftovers are found, and killed, by it."""
    if os.getsid(0) != os.getpid():
        os.setsid()  # refused for a group leader: then the caller's session would be ours to kill


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 0: the end was reported (or left in a file), 2 usage, 3 refused by the node agent, 4 node gone."""
    parser = argparse.ArgumentParser(
        prog="python -m agents.cell.rank_host",
        description="Run one training process; reads a serialised phalanx.v1.HostSpec from stdin until its end.",
        epilog=f"Environment: {', '.join(_NAMES)}.",
    )
    parser.add_argument("--grace", type=float, default=10.0, metavar="SECONDS", help="SIGTERM to SIGKILL (default 10)")
    parser.add_argument(
        "--report-limit",
        type=float,
        default=REPORT_LIMIT_S,
        metavar="SECONDS",
        help="offer the end to the node agent this long, then leave it in NODE_DIR/exits (default %(default)g)",
    )
    options = parser.parse_args(arguments)
    try:
        spec = cell_pb2.HostSpec.FromString(sys.stdin.buffer.read())
        settings = read_settings(spec, os.environ)
        lead_session()
        os.makedirs(f"{settings.node_dir}/logs", mode=0o700, exist_ok=True)
        read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        host = RankHost(spec, settings, grace_s=options.grace, report_limit_s=options.report_limit, wake=read_end)
    except (DecodeError, ValueError, OSError) as error:
        sys.stderr.write(f"phalanx: rank host not started: {error}\n")
        return EXIT_USAGE

    def ask_to_end(_number: int, _frame: object) -> None:
        host.asked_to_end = True

    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # only so that the pipe wakes the poll
    signal.signal(signal.SIGTERM, ask_to_end)
    # Orphans of the training process become ours: they can be found, killed and reaped even if they left the session.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return host.run()


if __name__ == "__main__":
    sys.exit(main())
