"""Command line of the node agent: `python -m agents.node`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from agents.node.agent import NodeAgent
from agents.node.check import check
from agents.node.checks.pair import Spoiled
from agents.node.config import DEFAULT_ORPHAN_GRACE_MS, AgentConfig, memory_folder
from agents.node.connection_options import add_connection, add_relays, check_connection
from agents.node.durable import AlreadyRunningError
from agents.node.hosts_file import HostsFileError
from agents.node.observability import add_logging, configure_logging, name_process
from agents.node.probes.real_machine import RealMachine
from agents.node.probes.vendors import TOOLS, present

EXIT_CANNOT_START = 2
IDLE_CHECK_INTERVAL_S = 600.0
PREFLIGHT_AGE_S = 3_600.0


def _label(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, for example rack=r1")
    return key, value


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 256:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 256")
    return value


def build_parser() -> argparse.ArgumentParser:
    """The command line of docs/design/0003-processes.md."""
    parser = argparse.ArgumentParser(
        prog="python -m agents.node",
        description="Node agent of Phalanx: reports what this machine is and does, obeys the controller's effects, "
        "ends rank processes and witnesses their ends. SIGTERM ends it; rank processes run on. "
        "`check` as the only word reads this machine's devices once and says what can be seen.",
    )
    add = parser.add_argument
    add_connection(parser)
    add_relays(parser)
    add("--node", required=True, metavar="NAME", help="name of this node, unique in the site")
    add("--dir", required=True, type=Path, metavar="NODE_DIR", help="folder of this node; created when missing")
    add("--socket", required=True, type=Path, metavar="PATH", help="Unix socket for rank hosts (at most 107 bytes)")
    add("--address", default="127.0.0.1", help="the node's address for rank traffic (default: %(default)s)")
    add("--label", action="append", default=[], type=_label, metavar="KEY=VALUE", help="rack, switch, ...; repeatable")
    add("--simulated-accelerators", type=_count, metavar="N", help="simulate N accelerators (default: none)")
    add(
        "--probe",
        action="append",
        default=[],
        choices=("auto", "none", *sorted(TOOLS)),
        metavar="VENDOR",
        help="whose devices to read; repeatable. auto (the default): this machine and every vendor whose devices are on its PCI "
        f"bus or whose tool is installed, and none beside simulated ones. Vendors: {', '.join(sorted(TOOLS))}",
    )
    add(
        "--probe-deadline-s",
        default=15.0,
        type=float,
        metavar="S",
        help="kill a probe that gives no reading for so long (default: %(default)s)",
    )
    add(
        "--idle-check-interval-s",
        type=float,
        metavar="S",
        help="check this machine lightly this often while no rank lives here, 0: never (default: 600, and 0 beside simulated "
        "accelerators)",
    )
    add(
        "--preflight-age-s",
        type=float,
        metavar="S",
        help="check arithmetic before ranks start here unless that was done so lately, 0: never (default: 3600, and 0 beside "
        "simulated accelerators)",
    )
    add(
        "--pair-sums",
        choices=("auto", "none"),
        help="in tests with other nodes also add up through torch where it is installed (default: auto, and none beside simulated "
        "accelerators, where only bytes are sent)",
    )
    add(
        "--simulated-path",
        choices=[how.value for how in Spoiled if how],
        default="",
        help="with simulated accelerators: spoil tests with other nodes in this way (default: not)",
    )
    add(
        "--memory-folder",
        default="auto",
        metavar="FOLDER",
        help="keep states of ranks in this folder, which should be memory; none: nowhere (default: one below /dev/shm)",
    )
    add(
        "--disk-folder",
        default="auto",
        metavar="FOLDER",
        help="keep older states of ranks in this folder, on a local disk; none: nowhere (default: states in --dir)",
    )
    add(
        "--snapshot-interval-s",
        default=300.0,
        type=float,
        metavar="S",
        help="send a full snapshot this often (default: %(default)s)",
    )
    add(
        "--orphan-grace-ms",
        default=DEFAULT_ORPHAN_GRACE_MS,
        type=int,
        metavar="MS",
        help="stop ranks after this long without a controller, until one dictates its own (default: %(default)s)",
    )
    add_logging(parser)
    return parser


def parse_config(arguments: Sequence[str] | None = None) -> AgentConfig:
    """The settings of a command line; exits with a message when it is wrong."""
    parser = build_parser()
    parsed = parser.parse_args(arguments)
    check_connection(parser, parsed, parsed.relay)
    if parsed.simulated_path and parsed.simulated_accelerators is None:
        parser.error("--simulated-path is for nodes with --simulated-accelerators; real ones are not broken on request")
    return AgentConfig(
        controllers=parsed.controller,
        relays=parsed.relay,
        node=parsed.node,
        directory=parsed.dir.absolute(),
        socket_path=parsed.socket.absolute(),
        address=parsed.address,
        labels=dict(parsed.label),
        simulated_accelerators=parsed.simulated_accelerators or 0,
        vendors=_vendors(parsed.probe, simulated=parsed.simulated_accelerators is not None),
        probe_deadline_s=parsed.probe_deadline_s,
        idle_check_interval_s=_unless(
            parsed.simulated_accelerators, parsed.idle_check_interval_s, IDLE_CHECK_INTERVAL_S
        ),
        preflight_age_s=_unless(parsed.simulated_accelerators, parsed.preflight_age_s, PREFLIGHT_AGE_S),
        pair_sums=parsed.pair_sums == "auto" or (parsed.pair_sums is None and parsed.simulated_accelerators is None),
        spoiled=Spoiled(parsed.simulated_path),
        snapshot_interval_s=parsed.snapshot_interval_s,
        orphan_grace_ms=parsed.orphan_grace_ms,
        log_level=parsed.log_level,
        log_format=parsed.log_format,
        plaintext=parsed.plaintext,
        join_file=parsed.join_file and parsed.join_file.absolute(),
        memory_folder=_folder(parsed.memory_folder, memory_folder(parsed.dir.absolute())),
        disk_folder=_folder(parsed.disk_folder, parsed.dir.absolute() / "states"),
    )


def _folder(asked: str, usual: Path) -> Path | None:
    """A folder for states."""
    if asked == "auto":
        return usual
    return None if asked == "none" else Path(asked).absolute()


def _unless(simulated: int | None, asked: float | None, usual: float) -> float:
    """What is asked, else what is usual: a site that is only tried out does not load the machine under it."""
    if asked is not None:
        return asked
    return usual if simulated is None else 0.0


def _vendors(asked: Sequence[str], *, simulated: bool) -> tuple[str, ...]:
    """Probes to run. A site that is only tried out, with simulated accelerators or none, does not read the machine under it
    unless it is told to."""
    named = {vendor for vendor in asked if vendor in TOOLS}
    if "auto" in asked or not (asked or simulated):
        named |= {*present(RealMachine())}
    return tuple(sorted(named))


async def _run(config: AgentConfig) -> None:
    await NodeAgent(config).run()


def main() -> None:
    """Run the agent until SIGTERM, or `check` this machine. Exit code 2: it cannot start, and says why."""
    if sys.argv[1:2] == ["check"]:
        sys.exit(check(sys.argv[2:]))
    config = parse_config()
    configure_logging(config.log_level, config.log_format)
    name_process(node=config.node)
    log = structlog.get_logger(__name__)
    config.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        asyncio.run(_run(config))
    except (AlreadyRunningError, HostsFileError, OSError, ValueError) as error:
        log.error("agent.failed", reason=str(error))  # noqa: TRY400  the reason is for an operator
        sys.exit(EXIT_CANNOT_START)
    log.info("agent.stopped")


if __name__ == "__main__":
    main()
