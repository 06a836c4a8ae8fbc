"""Carries out an order to check this node: the handling that a fault asked for, then the checks, then what was found.

Findings are faults that stand until a later check of the same does not find them; the controller has them before the answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from phalanx.v1 import agent_pb2

from agents.node.checks import handling, record
from agents.node.checks.finding import (
    ARITHMETIC,
    CRASHED,
    DISK,
    HUNG,
    LOSS,
    MEMORY_DATA,
    MEMORY_SLOW,
    NIC,
    NODE,
    Answer,
    Finding,
)
from agents.node.checks.places import Places
from agents.node.checks.process import Order, run
from agents.node.devices import Devices
from agents.node.outcomes import Outcome

DEVICE_DEADLINE_S = 300.0
"""Importing a vendor's torch and opening eight devices takes a minute on a cold machine."""
HOST_DEADLINE_S = 60.0
HINTS = (MEMORY_SLOW, LOSS)
"""Worth telling; a node may serve with them."""
PREFLIGHT_SHARE = 0.25
PREFLIGHT_S = "0.2"
CODES = {
    "arithmetic": (ARITHMETIC,),
    "memory": (MEMORY_DATA, MEMORY_SLOW),
    "disk": (DISK,),
    "network": (NIC, LOSS),
}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """`folder`: the node's own, whose disk is checked. `kept_path`: where the record of checks lies. `preflight_age_s`:
    a gang starts on a node that was checked so lately, and is checked otherwise; 0: no check before a start."""

    folder: Path
    kept_path: Path
    seconds: float = 1.0
    preflight_age_s: float = 0.0


class CheckDesk:
    """One order at a time, whoever holds `turn`. Lives on the event loop.

    Args:
        devices: whose board takes the findings.
        busy: positions of accelerators that processes of ranks may use now, None when no such process lives.
    """

    def __init__(self, settings: CheckSettings, devices: Devices, busy: Callable[[], frozenset[int] | None]) -> None:
        self._settings = settings
        self._devices = devices
        self._busy = busy
        self.turn = asyncio.Lock()
        self.record = record.load(settings.kept_path)
        self._tell()

    async def carry_out(self, order: agent_pb2.RunChecks) -> Outcome:
        """The handling level first, then the checks of what it names; ok when all that was asked is well."""
        async with self.turn:
            positions = [p for entity in order.entities if (p := _position(entity)) >= 0]
            if order.level in handling.RESETS and positions:
                return await self._reset(positions)
            if self._busy() is not None:
                return Outcome(ok=False, message="processes of ranks live here: they would be measured, and disturbed")
            if order.level == handling.REBOOT:
                wait = handling.waits_for_boot(self.record)
                self._save()
                if wait:
                    return Outcome(ok=False, message=wait)
            return _outcome(await self._check(self._all(), whole=True), (NODE,))

    async def light(self, orders: Sequence[Order]) -> tuple[Finding, ...]:
        """Some checks while the node is idle. A cancelled one leaves everything as it was."""
        async with self.turn:
            return await self._check(orders)

    async def preflight(self, join_timeout_s: float) -> str:
        """Arithmetic before ranks start here, unless this node was checked lately: what is wrong, "" when nothing is known to be.

        It takes at most a quarter of the time that ranks have to join, and a check without an answer by then holds nobody up: it
        convicts no node. What an earlier check has found wrong stays wrong.
        """
        if not self._settings.preflight_age_s:
            return ""
        if time.time() - self.record.preflight_unix_s >= self._settings.preflight_age_s:
            try:
                async with asyncio.timeout(join_timeout_s * PREFLIGHT_SHARE):
                    async with self.turn:
                        await self._check(self._preflight_orders())
                        self.record.preflight_unix_s = time.time()
            except TimeoutError:
                log.warning("preflight.late", waited_s=round(join_timeout_s * PREFLIGHT_SHARE, 1))
        return "; ".join(f"{f.entity}: {f.message}" for f in self.record.standing if f.code == ARITHMETIC)

    def _preflight_orders(self) -> list[Order]:
        orders = [Order("arithmetic", HOST_DEADLINE_S, ("--seconds", PREFLIGHT_S))]
        if len(self._places()):
            orders.append(Order("arithmetic", DEVICE_DEADLINE_S, ("--devices", "--seconds", PREFLIGHT_S)))
        return orders

    async def _reset(self, positions: Sequence[int]) -> Outcome:
        """Reset devices that nobody uses, and see that they work."""
        used = sorted({*positions} & (self._busy() or frozenset()))
        if used:
            return Outcome(ok=False, message=f"processes of ranks still use accelerator {', '.join(map(str, used))}")
        for position in positions:
            row = self._devices.board.accelerator(position)
            problem = await handling.reset(row.vendor, row.pci_address)
            if problem:
                return Outcome(ok=False, message=f"accelerator/{position}: {problem}")
        places = self._places()
        arguments = [word for entity in places.words(positions) for word in ("--device", entity)]
        found = await self._check(_device_orders(self._settings.seconds, arguments))
        return _outcome(found, tuple(f"accelerator/{position}" for position in positions))

    def _all(self) -> list[Order]:
        seconds = ("--seconds", str(self._settings.seconds))
        orders = [
            Order("arithmetic", HOST_DEADLINE_S, seconds),
            Order("memory", HOST_DEADLINE_S),
            Order("disk", HOST_DEADLINE_S, ("--dir", str(self._settings.folder))),
            Order("network", HOST_DEADLINE_S),
        ]
        return orders + _device_orders(self._settings.seconds) if len(self._places()) else orders

    def _places(self) -> Places:
        board = self._devices.board
        return Places(board.accelerator(position) for position in board.positions())

    async def _check(self, orders: Sequence[Order], *, whole: bool = False) -> tuple[Finding, ...]:
        """Run, tell and keep; findings on their positions. A figure that is low is measured once more before it is told.

        `whole`: all that there is; only then a check that hung or crashed before is known to be well.
        """
        found: list[Finding] = []
        covered = {(NODE, HUNG), (NODE, CRASHED)} if whole else set()
        places = self._places()
        for order in orders:
            answer = await run(order)
            if self.record.slow(answer.figures):
                answer = _better(answer, await run(order))
            mine = (*answer.findings, *self.record.slow(answer.figures))
            found += [places.placed(finding) for finding in mine]
            if answer.backend:
                self.record.remember(answer.figures)
                covered |= {(entity, code) for entity in self._entities(order) for code in CODES[order.check]}
            log.info("check.ended", check=order.check, backend=answer.backend, codes=[f.code for f in mine])
        if whole:
            self.record.checked_unix_s = self.record.preflight_unix_s = time.time()
        self.note(found, frozenset(covered))
        return tuple(found)

    def _entities(self, order: Order) -> Iterable[str]:
        if "--devices" not in order.arguments:
            return (NODE,)
        if "--device" not in order.arguments:
            return [f"accelerator/{row}" for row in self._devices.board.positions()]
        return [
            f"accelerator/{position}"
            for position in self._devices.board.positions()
            if {*self._places().words([position])} & {*order.arguments}
        ]

    def note(self, findings: Sequence[Finding], covered: frozenset[tuple[str, str]]) -> None:
        """Keep and tell what a test under `turn` has found, and that the rest of what it `covered` is well."""
        self.record.found(findings, covered)
        self._save()
        self._tell()

    def _tell(self) -> None:
        self._devices.checked(self.record.standing)

    def _save(self) -> None:
        try:
            record.save(self._settings.kept_path, self.record)
        except OSError as error:
            log.error("checks.not_saved", reason=str(error))  # noqa: TRY400  the reason is for an operator


def _device_orders(seconds: float, arguments: Sequence[str] = ()) -> list[Order]:
    return [
        Order("arithmetic", DEVICE_DEADLINE_S, ("--devices", "--seconds", str(seconds), *arguments)),
        Order("memory", DEVICE_DEADLINE_S, ("--devices", *arguments)),
    ]


def _better(first: Answer, second: Answer) -> Answer:
    """The findings of both, and the better of each figure."""
    figures = {name: max(value, second.figures.get(name, 0.0)) for name, value in first.figures.items()}
    return Answer(first.backend, (*first.findings, *second.findings), figures)


def _outcome(found: Sequence[Finding], asked: Iterable[str]) -> Outcome:
    """Not ok when what was asked for is not well, or a check could not say; faults of single devices of a node that is asked
    as a whole are told as faults: the node serves without them."""
    wanted = {*asked, NODE}
    text = "; ".join(f"{finding.entity}: {finding.code}: {finding.message}" for finding in found)
    return Outcome(ok=not any(f.entity in wanted and f.code not in HINTS for f in found), message=text)


def _position(entity: str) -> int:
    kind, _, number = entity.partition("/")
    return int(number) if kind != NODE and number.isdecimal() else -1
