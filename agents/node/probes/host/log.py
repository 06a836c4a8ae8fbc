"""What the kernel logs of a machine that is going wrong."""

from __future__ import annotations

import re

from agents.node.probes.kernel_words import Word
from agents.node.probes.reading import Severity

WORDS = tuple(
    Word(re.compile(pattern), code, severity)
    for pattern, code, severity in (
        (r"Memory cgroup out of memory|oom-kill:constraint=CONSTRAINT_MEMCG", "OOM-JOB", Severity.HINT),
        (r"Out of memory: Killed process|oom-kill:constraint=CONSTRAINT_NONE", "OOM-HOST", Severity.MINOR),
        (r"Kernel panic|BUG: unable to handle|Oops: |general protection fault, .*kernel", "KERNEL-OOPS", Severity.CRITICAL),
        (r"soft lockup - CPU#\d+ stuck|hard LOCKUP on cpu|rcu_\w+ detected stalls", "CPU-LOCKUP", Severity.MAJOR),
        (r"task [^:]+:\d+.* blocked for more than \d+ seconds", "TASK-HUNG", Severity.MINOR),
        (r"Machine Check Exception|mce: Uncorrected|Fatal machine check", "MCE-UNCORRECTED", Severity.CRITICAL),
        (r"Memory failure: .* recovery action for .*: (?:Failed|Ignored)", "MEMORY-FAILURE", Severity.CRITICAL),
        (r"Memory failure: .* recovery action for .*: (?:Recovered|Delayed)", "MEMORY-PAGE-OFFLINE", Severity.MINOR),
        (r"severity=(?:Uncorrected|Uncorrectable) \(Fatal\)|AER: Uncorrect\w+ \(Fatal\)", "PCIE-FATAL", Severity.CRITICAL),
        (r"severity=(?:Uncorrected|Uncorrectable) \(Non-Fatal\)|AER: Uncorrect\w+ \(Non-Fatal\)", "PCIE-NONFATAL", Severity.MAJOR),
        (r"pciehp: Slot\(\S+\): (?:Link Down|Card not present)", "PCIE-CARD-GONE", Severity.CRITICAL),
        (r"Disabling device after reset failure|Disk failure on .* detected, failing array", "DISK-FAILED", Severity.CRITICAL),
        (r"Buffer I/O error on dev|I/O error, dev \S+, sector|no available path - failing I/O", "DISK-ERROR", Severity.MAJOR),
        (r"nvme\d+: I/O .* timeout, reset controller|nvme nvme\d+: controller is down", "DISK-TIMEOUT", Severity.MINOR),
        (r"mlx5_core .* (?:health compromised|firmware fatal|Fatal error)", "PORT-FIRMWARE", Severity.CRITICAL),
        (r"(?:Core|Package) temperature (?:is )?above threshold", "CPU-THERMAL", Severity.MINOR),
    )
)  # fmt: skip
"""Lines of the Linux kernel (mm/oom_kill.c, kernel/watchdog.c, kernel/hung_task.c, mm/memory-failure.c, drivers/pci/pcie/aer.c,
drivers/nvme, drivers/net/.../mlx5), in the order in which they are tried."""
