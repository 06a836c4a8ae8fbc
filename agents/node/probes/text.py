"""Texts that several vendors' tools print: `Name : value` lines and tables of `|` and `+`. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from agents.node.probes.machine import Machine, Memory, Unreadable


def printed(machine: Machine, command: Sequence[str], timeout_s: float = 10.0) -> str:
    """What a command prints. Raises Unreadable, also when it ends with another code than 0."""
    out = machine.run(command, timeout_s)
    if out.code != 0:
        said = " ".join((out.stderr or out.stdout).split())[:300]
        raise Unreadable(f"{' '.join(command)}: ended with code {out.code}: {said or 'it printed nothing'}")
    return out.stdout


def fields(text: str) -> dict[str, str]:
    """`Name : value` lines, names in lower case; of a name that is there twice the first value."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip():
            found.setdefault(" ".join(name.lower().split()), value.strip())
    return found


def cells(line: str) -> list[str] | None:
    """The cells of a table's line; None when it is none."""
    line = line.strip()
    if len(line) < 2 or line[0] != "|" or line[-1] != "|":
        return None
    return [cell.strip() for cell in line[1:-1].split("|")]


def words(cell: str) -> list[str]:
    """The words of a cell in lower case, as a header is compared."""
    return cell.lower().split()


def kept_order(keys: Sequence[str], memory: Memory) -> dict[str, int]:
    """An index for each device, in the order of the tool's list, kept while the process lives: one that is gone moves no other."""
    known: dict[str, int] = memory.setdefault("positions", {})
    for order, key in enumerate(keys):
        if key not in known:
            taken = {*known.values()}
            known[key] = order if order not in taken else next(n for n in range(len(known) + 1) if n not in taken)
    return {key: known[key] for key in keys}
