"""Seeds as they are typed and printed."""

from __future__ import annotations

import re

from controlplane.sim.version import SIM_VERSION

SPAN = re.compile(r"(\d+)(?:-(\d+))?")


def seed_span(text: str) -> range:
    """`7` or `1-200` as the seeds that it names. A ValueError is shown as a usage error."""
    found = SPAN.fullmatch(text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if last < first:
        raise ValueError(f"`{text}` is no span of seeds: write 7 or 1-200")
    return range(first, last + 1)


def versioned_seed(text: str) -> int:
    """`7`, or `7@1`: seed 7 of version 1 of the simulator, which must be this one."""
    number, at, version = str(text).partition("@")
    if not number.isdecimal() or (at and not version.isdecimal()):
        raise ValueError(f"`{text}` is no seed: write 7, or 7@{SIM_VERSION} as the simulator prints it")
    if at and int(version) != SIM_VERSION:
        raise ValueError(
            f"seed {number} is of version {version} of the simulator, this is version {SIM_VERSION}, in which it is another "
            "run: use the version of Phalanx that printed it"
        )
    return int(number)
