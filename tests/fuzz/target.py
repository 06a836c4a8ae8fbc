"""A real controller with a small site behind it, and what must hold whatever is sent to it."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import time
from pathlib import Path
from typing import Any

import grpc
import phalanx.v1
from google.protobuf.descriptor import ServiceDescriptor
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.fixtures.controller_peers import FakeAgent, FakeCell
from tests.fixtures.controller_process import Controller, until

BROKEN = re.compile(r'"event": "(request_broke|turn_broke|background_task_broke)"|Traceback|"level": "critical"')
CANONICAL = {
    grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED,
}  # fmt: skip
"""What a client may be told; INTERNAL and UNKNOWN are defects."""
GROWTH_LIMIT_BYTES = 200 << 20
DESCRIPTORS_LIMIT = 64
NOT_YET = {"phalanx.v1.AdminService"}
OURS = "phalanx.v1."


class Target:
    """The controller under fire. `agents` and `cell` are honest peers, so that commands reach something."""

    def __init__(self, folder: Path) -> None:
        self.controller = Controller(folder).start()
        self.agents = [FakeAgent(self.controller, name).connect() for name in ("node-1", "node-2")]
        self.cell = FakeCell(self.controller, self.agents).connect()
        until(lambda: self.controller.site().revision > 0, "the site is there")
        self.controller.submit("seed-job")
        until(lambda: self.controller.job().generation == 1, "the job has a generation")
        self.uid = self.controller.job().uid
        self.words = {
            "": ("node-1", "node-2", "demo", self.uid, "cell-1", "operator", "training_jobs.examples.counter"),
            "name": ("demo", "node-1", "node-2", self.uid, "nobody", "other"),
            "node": ("node-1", "node-2", "node-9"),
            "request_id": ("a", "b", "c", "d", "e", "seed-job"),
            "job_uid": (self.uid, "x-1"),
            "host_id": (f"{self.uid}-1", f"{self.uid}-2", "x-1"),
            "digest": ("sha256:" + "a" * 64,),
        }
        self._log_read = 0
        self._bytes_at_start = self.resident_bytes()
        self._descriptors_at_start = self.descriptors()

    def close(self) -> None:
        for peer in (*self.agents, self.cell):
            if peer.stream is not None:
                peer.stream.reset()
        self.controller.close()

    @property
    def pid(self) -> int:
        assert self.controller.process is not None
        return self.controller.process.pid

    def services(self) -> list[ServiceDescriptor]:
        """Every service that the controller itself says it serves: a new one is fuzzed without a word here."""
        stub = reflection_pb2_grpc.ServerReflectionStub(self.controller.new_channel())
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter((request,)), timeout=60)
        served = {row.name for row in answer.list_services_response.service if row.name.startswith(OURS)}
        known = known_services()
        assert served | NOT_YET == known.keys() | NOT_YET, (
            "a service is defined and not served, or served and not shown by reflection"
        )
        return [known[name] for name in sorted(served)]

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def unbroken(self) -> None:
        """The controller lives, serves, has logged no defect, and has not grown without bound."""
        assert self.controller.process is not None
        assert self.controller.process.poll() is None, self.controller.log.read_text()[-6_000:]
        lines = self._new_log_lines()
        broken = [number for number, line in enumerate(lines) if BROKEN.search(line)]
        text = "".join(lines[max(0, broken[0] - 3) : broken[0] + 50])[:6_000] if broken else ""
        assert not broken, f"{len(broken)} defects in the log, the first:\n{text}"
        until(self.controller.serving, "it serves")
        grown = self.resident_bytes() - self._bytes_at_start
        assert grown < GROWTH_LIMIT_BYTES, f"{grown >> 20} MiB more than at the start"
        until(lambda: self.descriptors() - self._descriptors_at_start < DESCRIPTORS_LIMIT, "closed streams are let go")

    def _new_log_lines(self) -> list[str]:
        with self.controller.log.open(errors="replace") as file:
            file.seek(self._log_read)
            lines = file.readlines()
            self._log_read = file.tell()
        return lines

    def settled(self) -> int:
        """The revision, once it has not moved for a moment."""
        deadline = time.monotonic() + 60
        last, since = self.controller.site().revision, time.monotonic()
        while time.monotonic() - since < 0.25:
            now = self.controller.site().revision
            if now != last:
                last, since = now, time.monotonic()
            assert time.monotonic() < deadline, "the journal does not come to rest"
            time.sleep(0.02)
        return last


def known_services() -> dict[str, ServiceDescriptor]:
    """Services of all generated modules by full name."""
    found = {}
    for info in pkgutil.iter_modules(phalanx.v1.__path__):
        if info.name.endswith("_pb2"):
            module: Any = importlib.import_module(f"phalanx.v1.{info.name}")
            for service in module.DESCRIPTOR.services_by_name.values():
                found[service.full_name] = service
    return found


def fault_of(error: grpc.RpcError) -> str:
    """What is wrong with an error as a client sees it; "" when it is a clean one."""
    code, details = error.code(), error.details() or ""  # type: ignore[attr-defined]
    reason = str(dict(error.trailing_metadata() or ()).get("phalanx-reason", ""))  # type: ignore[attr-defined]
    if code not in CANONICAL:
        return f"{code}: {details}"
    if not details:
        return f"{code} without a message"
    if not re.fullmatch(r"[A-Z][A-Z0-9_]+", reason) and code is not grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"{code} without a reason: {details}"
    return ""
