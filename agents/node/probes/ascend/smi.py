"""Ascend devices as npu-smi lists them: the table of `npu-smi info`, and board, health and ECC of a chip."""

from __future__ import annotations

import re
from collections.abc import Sequence

from agents.node.probes.ascend.device import Npu, npu, set_codes, set_state
from agents.node.probes.asking import Answers, Command, Question
from agents.node.probes.boards import Listing
from agents.node.probes.findings import Findings
from agents.node.probes.inventory import pci_address
from agents.node.probes.machine import Machine, Memory, Unreadable
from agents.node.probes.quantity import whole
from agents.node.probes.reading import Unread
from agents.node.probes.text import cells, fields, printed, words

TOOL = "npu-smi"
TABLE_TIMEOUT_S = 5.0
_TABLE = (TOOL, "info")
_HEALTH_S = 30.0  # of a chip that the table calls OK, whose codes are hints at most; of others in every reading
_ECC_S = 60.0
_FIRST = ["power(w)", "temp(c)", "hugepages-usage(page)"]
_SECOND = ["aicore(%)", "memory-usage(mb)"]
_HBM = "hbm-usage(mb)"
_NUMBERS = re.compile(r"(\S+)\s+(\S+)\s*/\s*(\S+)(?:\s+(\S+)\s*/\s*(\S+))?")
_DIE = re.compile(r"[0-9A-Fa-f]{1,8}(?: [0-9A-Fa-f]{1,8}){4}")
_CODE = re.compile(r"[0-9A-F]{4,8}")
_MOST_CHIPS = 65_535


def listing(machine: Machine) -> Listing:
    """All chips as the table shows them."""
    try:
        return parse(printed(machine, _TABLE, TABLE_TIMEOUT_S))
    except Unreadable as error:
        return Listing(complete=False, unread=[Unread(" ".join(_TABLE), str(error))])


def questions(chips: Sequence[Npu], memory: Memory) -> list[Question]:
    """What else npu-smi is to be asked for."""
    dies = _dies(memory)
    return [
        *(Question(_detail(chip, "board"), 0.0) for chip in chips if chip.address not in dies),
        *(Question(_detail(chip, "health"), _HEALTH_S if _is_well(chip) else 0.0) for chip in chips),
        *(Question(_detail(chip, "ecc"), _ECC_S) for chip in chips),
    ]


def fill(chips: Sequence[Npu], answers: Answers, memory: Memory) -> None:
    """What npu-smi has answered so far."""
    for chip in chips:
        _identify(answers, memory, chip)
        _read_health(answers, chip)
        _read_ecc(answers, chip)


def _dies(memory: Memory) -> dict[str, str]:
    dies: dict[str, str] = memory.setdefault("dies", {})
    return dies


def _is_well(chip: Npu) -> bool:
    return not (chip.findings.faults or chip.findings.doubts)


def parse(text: str) -> Listing:
    """The chips in the table. What ends early, or has other columns than are known, is not `complete`."""
    found = Listing()
    lines = [row for line in text.splitlines() if (row := cells(line)) is not None]
    _version(found, text)
    head: list[str] | None = None
    hbm, ended = None, False  # the table of processes follows the chips
    for row in lines:
        if words(row[0])[:2] == ["npu", "chip"]:
            ended = True
        elif len(row) == 3 and words(row[0])[:1] == ["npu"]:
            head = None
            if words(row[1]) != ["health"] or words(row[2]) != _FIRST:
                _unknown(found, row)
        elif len(row) == 3 and words(row[0])[:1] == ["chip"]:
            hbm = {2: False, 3: True}.get(len(words(row[2])))
            if words(row[1]) != ["bus-id"] or words(row[2]) != [*_SECOND, *([_HBM] if hbm else [])]:
                hbm = None
                _unknown(found, row)
        elif ended:
            break
        elif len(row) == 3 and hbm is not None:
            if head is None:
                head = row
            else:
                _add(found, head, row, hbm=hbm)
                head = None
    if head is not None or not ended:
        found.complete = False
        found.unread.append(Unread(" ".join(_TABLE), "the table ends early, or has a form that is not known"))
    return found


def _version(found: Listing, text: str) -> None:
    version = re.search(r"npu-smi (\S+)\s+Version: *(\S+)", text)
    if version:
        found.versions |= {"npu-smi": version[1], "driver": version[2]}


def _unknown(found: Listing, row: list[str]) -> None:
    found.complete = False
    found.unread.append(Unread(" ".join(_TABLE), f"columns that are not known: {' | '.join(row)[:200]}"))


def _add(found: Listing, head: list[str], row: list[str], *, hbm: bool) -> None:
    """One chip out of its two lines: name, health, power, temperature; chip, bus, utilisation, memory."""
    name, place = head[0].split(maxsplit=1), row[0].split()
    address = pci_address(row[1])
    card, chip_of_card = whole(name[0], _MOST_CHIPS), whole(place[0], _MOST_CHIPS) if place else None
    if len(name) != 2 or card is None or chip_of_card is None or address is None:
        found.complete = False
        text = f"a chip without number or PCI address: {' | '.join((*head, *row))[:200]}"
        found.unread.append(Unread(" ".join(_TABLE), text))
        return
    chip = npu("npu-smi", card, chip_of_card, address, name[1])
    chip.physical = whole(place[1], _MOST_CHIPS) if len(place) == 2 else None
    measures = head[2].split(maxsplit=2)
    numbers = _NUMBERS.fullmatch(row[2])
    if len(measures) < 3 or numbers is None or (numbers[4] is None) is hbm:
        chip.findings.doubt(f"its numbers cannot be read: {head[2]} | {row[2]}")
    else:
        chip.findings.measure("power_watts", measures[0], unit="W")
        chip.findings.measure("temperature_celsius", measures[1], unit="C")
        chip.findings.measure("utilization_ratio", numbers[1], unit="%")
        used, total = (numbers[4], numbers[5]) if hbm and numbers[5] != "0" else (numbers[2], numbers[3])
        chip.findings.measure("memory_used_bytes", used, unit="MB")
        chip.findings.measure("memory_total_bytes", total, unit="MB")
    set_state(chip.findings, head[1])
    found.boards.append(chip)


def _detail(chip: Npu, kind: str) -> Command:
    return (TOOL, "info", "-i", str(chip.card), "-c", str(chip.chip), "-t", kind)


def _identify(answers: Answers, memory: Memory, chip: Npu) -> None:
    """The die's number, asked for once: it is burnt in. A chip that does not tell it is not known under another name."""
    dies = _dies(memory)
    if chip.address not in dies:
        try:
            board = fields(answers.text(_detail(chip, "board")) or "")
        except Unreadable as error:
            chip.findings.doubt(str(error))
            chip.serial = f"pci-{chip.address}"
            return
        if not board:
            board = {"die id": "not asked for yet"}
        die = board.get("vdie id", board.get("die id", ""))
        if not _DIE.fullmatch(die):
            chip.findings.doubt(f"its die has no number: {die[:80]!r}")
            chip.serial = f"pci-{chip.address}"
            return
        dies[chip.address] = die.upper().replace(" ", "-")
        if "firmware version" in board:
            memory.setdefault("versions", {})["firmware"] = board["firmware version"]
    chip.serial = dies[chip.address]


def _read_health(answers: Answers, chip: Npu) -> None:
    """The codes that stand. Until its turn has come, the state in the table is all that is known of a chip."""
    try:
        text = answers.text(_detail(chip, "health"))
    except Unreadable as error:
        chip.findings.doubt(str(error))
        return
    if text is None:
        return
    told = fields(text)
    state = told.get("health status", told.get("health", ""))
    if not state or "error code" not in told:
        chip.findings.doubt("npu-smi names no state or no codes")
        return
    set_state(chip.findings, state)
    codes = told["error code"].split()
    if codes and codes != ["NA"]:
        if not all(_CODE.fullmatch(code) for code in codes):
            chip.findings.doubt(f"codes that cannot be read: {told['error code'][:200]}")
        set_codes(chip.findings, [code for code in codes if _CODE.fullmatch(code)], told.get("error information", ""))


def _read_ecc(answers: Answers, chip: Npu) -> None:
    try:
        text = answers.text(_detail(chip, "ecc"))
    except Unreadable as error:
        chip.findings.garbled.append(str(error))
        return
    if text is not None:
        _fill_ecc(chip.findings, fields(text))


def _fill_ecc(found: Findings, told: dict[str, str]) -> None:
    """Counters of HBM, or of DDR where a chip has no HBM."""
    memory = "hbm" if "hbm single bit error count" in told else "ddr"
    counters = {
        "ecc_corrected_total": ["single bit aggregate total err cnt"],
        "ecc_uncorrected_total": ["double bit aggregate total err cnt"],
        "retired_pages": ["single bit isolated pages count", "double bit isolated pages count"],
    }
    for name, parts in counters.items():
        texts = [told.get(f"{memory} {part}") for part in parts]
        if None in texts:
            found.garbled.append(f"{name}: npu-smi names no {memory} {parts[-1]}")
        else:
            found.measure(name, *texts)
