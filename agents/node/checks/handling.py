"""What a handling level asks an agent to do before it checks: reset a device, or see the machine booted anew.

Devices of a vendor are reset by the vendor's own tool. Where no command is known the answer says so: a person, or a reboot,
has to do it. An agent boots its machine never; it says that it waits for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from agents.node.checks.record import CheckRecord
from agents.node.durable import KERNEL_BOOT_ID, kernel_boot_id

RESETS = frozenset({"RESET_WHEN_IDLE", "RESET_NOW"})
REBOOT = "REBOOT_NODE"
RESET_LIMIT_S = 180.0
"""Ascend resets a chip within 150 s (its own documentation)."""

RESET_COMMANDS: Mapping[str, tuple[str, ...]] = {
    "nvidia": ("nvidia-smi", "--gpu-reset", "-i", "{pci}"),
    "amd": ("amd-smi", "reset", "--gpureset", "--gpu", "{pci}"),
}
"""By vendor. `{pci}`: the device's PCI address, which no renumbering moves. Vendors whose tools count in ways of their own
(Ascend by card and chip) are not here: resetting the wrong device costs another job its ranks."""


async def reset(vendor: str, pci_address: str) -> str:
    """Reset one device with its vendor's tool; why it could not be done, "" when it is done."""
    command = RESET_COMMANDS.get(vendor)
    if command is None:
        return f"no way is known to reset a device of {vendor or 'no vendor'}"
    words = [word.format(pci=pci_address) for word in command]
    try:
        process = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    except OSError as error:
        return f"{' '.join(words)}: {error.strerror}"
    try:
        said, _ = await asyncio.wait_for(process.communicate(), RESET_LIMIT_S)
    except TimeoutError:
        return f"{' '.join(words)}: did not end within {RESET_LIMIT_S:g} s"
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
    if process.returncode:
        return f"{' '.join(words)}: exit code {process.returncode}: {said.decode(errors='replace').strip()[-300:]}"
    return ""


def waits_for_boot(record: CheckRecord) -> str:
    """Why the checks must wait for a reboot, "" when the machine has booted since it was asked for. Changes the record."""
    try:
        boot = kernel_boot_id()
    except OSError as error:
        return f"{KERNEL_BOOT_ID} cannot be read, so that a reboot could not be seen: {error.strerror}"
    if not record.reboot_asked_in:
        record.reboot_asked_in = boot
    if record.reboot_asked_in == boot:
        return "this machine has to be booted anew, and has not been since that was asked for"
    record.reboot_asked_in = ""
    return ""
