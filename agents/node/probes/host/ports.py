"""Network ports: InfiniBand and RoCE ports, and network interfaces of real devices.

Whether a port should be up nobody says; one that was up since the machine was started should be. Its position stays what it was
when it was first seen.
"""

from __future__ import annotations

from agents.node.probes.host.sight import Sight
from agents.node.probes.reading import Severity

ERRORS_BURST = 100
"""Errors since they were last told that make an event."""

_IB, _NET = "/sys/class/infiniband", "/sys/class/net"
_ERRORS = ("symbol_error", "port_rcv_errors", "local_link_integrity_errors", "port_rcv_remote_physical_errors")
_PHYS_OFF = ("Disabled", "Sleep")
_UP = 0x1


def read(sight: Sight) -> None:
    """`LINK-DOWN` while a port is down that was up, `LINK-FLAP` and `PORT-ERRORS` once, `PORT-LOST` of one that is gone."""
    names = [*_read_infiniband(sight), *_read_interfaces(sight)]
    positions: dict[str, int] = sight.memory.setdefault("ports", {})
    for name in sorted(positions.keys() - set(names)):
        text = f"the port {name} was there before and is gone"
        sight.stands("PORT-LOST", Severity.CRITICAL, text, entity=f"port/{positions[name]}")
    sight.versions["ports"] = str(len(names))


def _entity(sight: Sight, name: str) -> str:
    positions: dict[str, int] = sight.memory.setdefault("ports", {})
    return f"port/{positions.setdefault(name, len(positions))}"


def _read_infiniband(sight: Sight) -> list[str]:
    found = []
    for device in sight.machine.names(_IB):
        for number in sight.machine.names(f"{_IB}/{device}/ports"):
            name, folder = f"{device}/{number}", f"{_IB}/{device}/ports/{number}"
            found.append(name)
            state, physical = sight.text(f"{folder}/state"), sight.text(f"{folder}/phys_state")
            counters = sight.machine.names(f"{folder}/counters")
            downs = sight.number(f"{folder}/counters/link_downed") if "link_downed" in counters else None
            errors = [sight.number(f"{folder}/counters/{error}") for error in _ERRORS if error in counters]
            switched_off = physical is None or _word(physical) in _PHYS_OFF
            up = None if state is None else switched_off or _word(state) == "ACTIVE"
            _judge(sight, name, up=up, downs=downs, errors=sum(number or 0 for number in errors))
    return found


def _read_interfaces(sight: Sight) -> list[str]:
    found = []
    for name in sight.machine.names(_NET):
        folder = f"{_NET}/{name}"
        files = sight.machine.names(folder)
        if "device" not in files:  # bridges, tunnels, the loopback
            continue
        found.append(name)
        flags = sight.text(f"{folder}/flags")
        if flags is None or not _is_up(flags):
            continue
        carrier = sight.text(f"{folder}/carrier")
        downs = sight.number(f"{folder}/carrier_down_count") if "carrier_down_count" in files else None
        statistics = sight.machine.names(f"{folder}/statistics")
        errors = [
            sight.number(f"{folder}/statistics/{error}")
            for error in ("rx_crc_errors", "rx_frame_errors", "tx_carrier_errors")
            if error in statistics
        ]
        up = {"1": True, "0": False}.get(carrier or "")
        _judge(sight, name, up=up, downs=downs, errors=sum(number or 0 for number in errors))
    return found


def _judge(sight: Sight, name: str, *, up: bool | None, downs: int | None, errors: int) -> None:
    entity = _entity(sight, name)
    was_up: set[str] = sight.memory.setdefault("was_up", set())
    if up:
        was_up.add(name)
    elif up is False and (name in was_up or downs):
        sight.stands("LINK-DOWN", Severity.MAJOR, f"the port {name} is down", entity)
    if (grown := sight.growth(f"{name}/downs", downs)) and up:
        sight.once("LINK-FLAP", Severity.MINOR, downs or 0, f"the port {name} was down {grown} times and is up", entity)
    if grown := sight.growth(f"{name}/errors", errors, ERRORS_BURST):
        sight.once("PORT-ERRORS", Severity.MINOR, errors, f"{grown} errors at the port {name}", entity)


def _word(text: str) -> str:
    """`4: ACTIVE` without its number."""
    return text.partition(":")[2].strip() or text


def _is_up(flags: str) -> bool:
    try:
        return bool(int(flags, 16) & _UP)
    except ValueError:
        return False
