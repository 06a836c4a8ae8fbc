"""Every command by name: which module has it, and what the overview says of it. Nothing here imports a command.

`phalanx --help` is printed from this table and a command loads its own module only, so that neither waits for the
others' imports. A new command is one line here and a `register(app)` in its module; a test compares the two.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """One command or group of commands."""

    name: str
    module: str
    summary: str


JOBS = "Jobs"
LOOK = "What there is, and why"
NODES = "Nodes"
SAFETY = "Checkpoints and records"
SITE = "The site"
CLIENT = "This command line"

GROUPS: dict[str, tuple[Entry, ...]] = {
    JOBS: (
        Entry("submit", "submit", "Submit a job, or show the plan with --dry-run."),
        Entry("diff", "submit", "Compare a manifest with what the controller runs, field by field."),
        Entry("policy", "policy", "What decides: the site's numbers, and rules tried on history."),
        Entry("explain", "submit", "Explain the fields of a manifest: type, default and meaning."),
        Entry("watch", "job", "Follow a job until it has ended."),
        Entry("logs", "job", "Print a rank's output."),
        Entry("cancel", "job", "Cancel jobs: SIGTERM, a deadline, SIGKILL."),
        Entry("restart", "job", "Restart a job from its newest restore point."),
    ),
    LOOK: (
        Entry("get", "resource", "List jobs, nodes, checkpoints, events or identities, or show the site."),
        Entry("nodes", "resource", "List nodes: the same as `get nodes`."),
        Entry("describe", "resource", "Show everything about one job, node, checkpoint or rank."),
        Entry("faults", "health", "List faults of the whole site, by code, node or rack; --rules shows the tables."),
        Entry("health", "health", "Show how well the controller itself sees, and what it cannot see."),
        Entry("events", "event", "List events of the journal, oldest first."),
        Entry("why", "event", "Say why something is as it is."),
        Entry("top", "top", "Watch the site on a full screen: map of nodes, jobs, events."),
        Entry("plan", "plan", "Show what losing a node, rack or switch would lead to. Nothing is touched."),
        Entry("traces", "traces", "Recoveries of a job phase by phase, or as OpenTelemetry traces."),
    ),
    NODES: (
        Entry("cordon", "node", "Keep new work off nodes. What runs there goes on."),
        Entry("uncordon", "node", "Remove one owner's reason from nodes."),
        Entry("drain", "node", "Cordon nodes and move their ranks elsewhere."),
        Entry("retire", "node", "Take empty nodes out for good."),
    ),
    SAFETY: (
        Entry("checkpoints", "checkpoint", "Checkpoints: list, verify, keep."),
        Entry("storage", "backup", "What the journal holds and takes on disk."),
        Entry("compact", "backup", "Remove records that retention does not keep."),
        Entry("backup", "backup", "Write everything that the journal holds to one file."),
        Entry("restore", "backup", "Fill an empty journal from a backup."),
        Entry("audit", "audit", "Who changed what, and whether the records are all there."),
    ),
    SITE: (
        Entry("up", "site", "Start a site on this machine."),
        Entry("down", "site", "End every process of the site on this machine."),
        Entry("demo", "demo", "Train, lose a rank, lose a node, end with the same weights."),
        Entry("token", "identity", "One-use tokens with which agents join."),
        Entry("identity", "identity", "Who may speak to the site, and as whom."),
        Entry("systemd", "systemd", "Write systemd units for a machine of a site."),
        Entry("sim", "sim", "Simulate a site and its faults: the production decisions in virtual time."),
        Entry("inject", "fault", "Break something on purpose, to see it recover."),
    ),
    CLIENT: (
        Entry("context", "context", "Named sites, so that commands need no --address."),
        Entry("completion", "completion", "Print the completion script of a shell."),
        Entry("version", "version", "Versions of this command, the controller and the agents."),
    ),
}
"""In the order of the overview."""

COMMANDS: dict[str, Entry] = {entry.name: entry for group in GROUPS.values() for entry in group}


def overview() -> str:
    """The text of `phalanx --help`."""
    width = max(map(len, COMMANDS)) + 2
    lines = ["Keep very large training runs alive on hardware that fails.", "", "Usage: phalanx COMMAND [OPTIONS]"]
    for title, entries in GROUPS.items():
        if entries:
            lines += ["", f"{title}:", *(f"  {entry.name.ljust(width)}{entry.summary}" for entry in entries)]
    lines += [
        "",
        "Options:",
        f"  {'-h, --help'.ljust(width)}  Show this, or with a command its options and an example.",
        f"  {'--version'.ljust(width)}  Print the version of this command.",
        "",
        "Example: phalanx up && phalanx get nodes",
    ]
    return "\n".join(lines)
