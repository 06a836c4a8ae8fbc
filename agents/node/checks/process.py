"""One check in a process of its own, killed at its deadline or when nobody wants its answer any more."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from agents.node.checks.finding import (
    CRASHED,
    HUNG,
    MAX_ANSWER_BYTES,
    NODE,
    Answer,
    Finding,
    NoAnswerError,
    decode,
)

REAP_S = 2.0
ERROR_TAIL = 300


@dataclass(frozen=True, slots=True)
class Order:
    """A check of `child.CHECKS` with its arguments and its deadline in seconds, the start of its process included."""

    check: str
    deadline_s: float
    arguments: tuple[str, ...] = ()


async def run(order: Order) -> Answer:
    """What the check found; that it hung or crashed is a finding too. A cancelled one is killed at once."""
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "agents.node.checks.child", order.check, "--descriptor", str(writer)]
    try:
        process = await asyncio.create_subprocess_exec(
            *command, "--parent", str(os.getpid()), *order.arguments,
            pass_fds=(writer,), start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        os.close(reader)
        return _trouble(CRASHED, order, f"could not be started: {error}")
    finally:
        os.close(writer)
    try:
        _, errors = await asyncio.wait_for(process.communicate(), order.deadline_s)
    except TimeoutError:
        return _trouble(HUNG, order, f"gave no answer within {order.deadline_s:g} s")
    else:
        return _answer(order, os.read(reader, MAX_ANSWER_BYTES), process.returncode or 0, errors)
    finally:
        os.close(reader)
        await _end(process)


async def run_all(orders: Sequence[Order]) -> list[tuple[Order, Answer]]:
    """One after the other: two at once would measure each other."""
    return [(order, await run(order)) for order in orders]


def _answer(order: Order, line: bytes, code: int, errors: bytes) -> Answer:
    if code:
        tail = errors.decode(errors="replace").strip().splitlines()[-1:]
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return _trouble(CRASHED, order, f"ended with {how}: {''.join(tail)[-ERROR_TAIL:]}")
    try:
        return decode(line)
    except NoAnswerError as error:
        return _trouble(CRASHED, order, str(error))


def _trouble(code: str, order: Order, reason: str) -> Answer:
    return Answer("", (Finding(NODE, code, f"the check of {order.check} {reason}"),))


async def _end(process: asyncio.subprocess.Process) -> None:
    """SIGKILL for all that it has started. A process that sits in the kernel is left to the system."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), REAP_S)
