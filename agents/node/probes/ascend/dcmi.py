"""Ascend devices by DCMI, through the `pydcmi` of gpustack-runtime. It says the same as npu-smi, in one process and faster.

DCMI's fault events need a callback that this binding does not offer, so codes are polled here too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from agents.node.probes.ascend.device import STATES, Npu, npu, set_codes, set_state
from agents.node.probes.boards import Listing
from agents.node.probes.machine import Unreadable
from agents.node.probes.reading import Unread

MODULE = "gpustack_runtime.detector.pydcmi"
_HBM = 2
_AICORE = 2
_VDIE = 1
_NOT_SUPPORTED = -8255
_MIB = 1 << 20
_WORDS = tuple(STATES)

T = TypeVar("T")


class Dcmi:
    """The opened library. Raises Unreadable when it cannot be opened."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._error: type[Exception] = getattr(module, "DCMIError", Exception)
        try:
            module.dcmi_init()
        except self._error as error:
            raise Unreadable(f"DCMI cannot be opened: {error}") from error

    def call(self, name: str, *arguments: int) -> Any:
        """A call of the library; None when the product does not have it. Raises Unreadable."""
        try:
            return getattr(self._module, name)(*arguments)
        except self._error as error:
            if getattr(error, "value", None) == _NOT_SUPPORTED:
                return None
            raise Unreadable(f"{name}: {error}") from error


def listing(library: Dcmi) -> Listing:
    """All chips."""
    found = Listing()
    try:
        _, cards = library.call("dcmi_get_card_list")
    except Unreadable as error:
        return Listing(complete=False, unread=[Unread("DCMI", str(error))])
    for card in cards:
        try:
            count = library.call("dcmi_get_device_num_in_card", card) or 0
        except Unreadable as error:
            found.complete = False
            found.unread.append(Unread("DCMI", f"card {card}: {error}"))
            continue
        for chip in range(count):
            try:
                found.boards.append(_chip(library, card, chip))
            except Unreadable as error:
                found.complete = False
                found.unread.append(Unread("DCMI", f"card {card} chip {chip}: {error}"))
    return found


def _chip(library: Dcmi, card: int, chip: int) -> Npu:
    """One chip. Raises Unreadable when not even its identity can be read."""
    address = str(library.call("dcmi_get_device_bdf", card, chip)).lower()
    info = library.call("dcmi_get_device_chip_info_v2", card, chip)
    die = str(library.call("dcmi_get_device_die_v2", card, chip, _VDIE) or "")
    board = npu("DCMI", card, chip, address, _text(getattr(info, "chip_name", "")))
    # The binding leaves out leading zeros of the five words, npu-smi prints them.
    board.serial = "-".join(word.zfill(8) for word in die.upper().split()) or f"pci-{address}"
    found = board.findings

    def metric(name: str, read: Callable[[], float | None]) -> None:
        try:
            found.put(name, read())
        except Unreadable as error:
            found.garbled.append(str(error))

    def scaled(name: str, divisor: int, *arguments: int) -> float | None:
        value = library.call(name, card, chip, *arguments)
        return None if value is None else value / divisor

    metric("temperature_celsius", lambda: scaled("dcmi_get_device_temperature", 1))
    metric("power_watts", lambda: scaled("dcmi_get_device_power_info", 10))
    metric("utilization_ratio", lambda: scaled("dcmi_get_device_utilization_rate", 100, _AICORE))
    _read_memory(library, board)
    _read_health(library, board)
    return board


def _read_memory(library: Dcmi, board: Npu) -> None:
    try:
        hbm = library.call("dcmi_get_device_hbm_info", board.card, board.chip)
        ecc = library.call("dcmi_get_device_ecc_info", board.card, board.chip, _HBM)
    except Unreadable as error:
        board.findings.garbled.append(str(error))
        return
    board.findings.put("memory_used_bytes", None if hbm is None else hbm.memory_usage * _MIB)
    board.findings.put("memory_total_bytes", None if hbm is None else hbm.memory_size * _MIB)
    board.findings.put("ecc_corrected_total", None if ecc is None else ecc.total_single_bit_error_cnt)
    board.findings.put("ecc_uncorrected_total", None if ecc is None else ecc.total_double_bit_error_cnt)
    pages = None if ecc is None else ecc.single_bit_isolated_pages_cnt + ecc.double_bit_isolated_pages_cnt
    board.findings.put("retired_pages", pages)


def _read_health(library: Dcmi, board: Npu) -> None:
    try:
        health = library.call("dcmi_get_device_health", board.card, board.chip)
        codes = library.call("dcmi_get_device_errorcode_v2", board.card, board.chip)
    except Unreadable as error:
        board.findings.doubt(str(error))
        return
    set_state(board.findings, _WORDS[health] if health in range(len(_WORDS)) else f"{health}")
    if codes is None:
        board.findings.doubt("DCMI has no error codes for this product")
    set_codes(board.findings, [f"{code:08X}" for code in codes or ()], "")


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
