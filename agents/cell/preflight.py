"""Can this cell run the workload and write its checkpoints? Asked before a job is stored."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from contextlib import suppress

import structlog
from phalanx.v1 import cell_pb2, types_pb2

from agents.cell.container import NoRuntime, find_runtime
from agents.cell.preflight_probe import FOLDER_FIELD, MODULE_FIELD

IMAGE_FIELD = "spec.workload.image"
PROBE_LIMIT_S = 20.0
PROBES_AT_ONCE = 4

log = structlog.get_logger(__name__)


class Preflight:
    """Answers preflight requests with the violations that were found."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(PROBES_AT_ONCE)

    async def answer(self, request: cell_pb2.PreflightRequest) -> cell_pb2.PreflightResult:
        """The result, within 30 s: both probes run at the same time and each has 20 s."""
        workload = request.workload
        probes = [_workload_probe(request)]
        if request.checkpoint_folder:
            probes.append(_probe(FOLDER_FIELD, "writing to the folder", "folder", request.checkpoint_folder))
        async with self._slots:
            found = await asyncio.gather(*probes)
        result = cell_pb2.PreflightResult(preflight_id=request.preflight_id)
        for violations in found:
            result.violations.extend(violations)
        log.info(
            "preflight.answered",
            preflight_id=request.preflight_id,
            module=workload.module,
            violations=[violation.path for violation in result.violations],
        )
        return result


async def _workload_probe(request: cell_pb2.PreflightRequest) -> list[types_pb2.FieldViolation]:
    workload = request.workload
    if workload.image:
        return _image_violations()
    if not workload.code_digest:
        return await _probe(MODULE_FIELD, "importing its parent packages", "workload", workload.module, workload.path)
    doing = f"importing {workload.module} from the shipped folder"
    scratch = tempfile.mkdtemp(prefix="phalanx-code-")
    try:
        return await _probe(
            MODULE_FIELD, doing, "code", workload.module, request.code_archive, workload.code_digest, scratch
        )
    finally:
        await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)


def _image_violations() -> list[types_pb2.FieldViolation]:
    """Only whether containers can run at all: to look into the image is to pull it, which takes minutes."""
    try:
        find_runtime()
    except NoRuntime as error:
        reason, _, fix = str(error).partition(": ")
        return [types_pb2.FieldViolation(path=IMAGE_FIELD, reason=f"{reason} in this cell", fix=fix)]
    return []


async def _probe(field: str, doing: str, *arguments: str) -> list[types_pb2.FieldViolation]:
    """Run one probe in a short-lived process; `field` is to blame when it does not answer."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "agents.cell.preflight_probe", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), PROBE_LIMIT_S)
    except TimeoutError:
        reason = f"{doing} took longer than {PROBE_LIMIT_S:g} s"
        return [types_pb2.FieldViolation(path=field, reason=reason, fix="look for what blocks it in this cell")]
    finally:
        # The probe, if it still runs, and whatever a foreign package has started with it.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    try:
        rows = json.loads(out.splitlines()[-1])
        return [types_pb2.FieldViolation(path=row["path"], reason=row["reason"], fix=row["fix"]) for row in rows]
    except (IndexError, ValueError, KeyError, TypeError):
        last = err.decode(errors="replace").strip().splitlines()[-1:]
        reason = (
            f"{doing} ended the checking process with status {process.returncode}: {' '.join(last) or 'no message'}"
        )
        return [types_pb2.FieldViolation(path=field, reason=reason, fix="run it by hand in this cell to see why")]
