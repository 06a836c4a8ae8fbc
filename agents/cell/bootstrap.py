"""Write what `ray start` would have written into a fresh GCS, and print the cluster id.

The supervisor starts `gcs_server` and `raylet` as binaries (docs/design/0002-ray-cell.md) and never imports Ray; this
helper is the one short process that does. It runs after every start of the GCS: a GCS that kept its storage answers
with the same cluster id and keeps what is there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

EPILOG = """\
Run it once after each start of gcs_server and before any raylet, with the environment of the cell (RAY_AUTH_MODE,
RAY_AUTH_TOKEN_PATH, RAY_USAGE_STATS_ENABLED, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, HOME). It waits until the GCS
answers. The last line of standard output is JSON: {"cluster_id": "<56 hex>", "session_name": "<name>", "fresh": bool};
`fresh` is false when the storage already belonged to this session. Exit status: 0 done, 1 the GCS did not answer in
time, 2 bad arguments, 3 the storage belongs to another session.
"""

EXIT_NO_ANSWER = 1
EXIT_OTHER_SESSION = 3
RETRY_S = 0.05


def write_session(address: str, session_name: str, timeout_s: float) -> tuple[str, str, bool]:
    """Write session name and cluster metadata; returns cluster id (hex), stored session name, and whether it is new.

    Raises the last error of Ray when the GCS at `address` (host:port) does not answer within `timeout_s`.
    """
    from ray._common.usage import usage_lib  # noqa: PLC0415  importing Ray takes 0.5 s, `--help` must not
    from ray._private import ray_constants  # noqa: PLC0415
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # noqa: PLC0415  a compiled module

    namespace = ray_constants.KV_NAMESPACE_SESSION
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            client = GcsClient(address=address)
            cluster_id: str = client.cluster_id.hex()
            stored = client.internal_kv_get(b"session_name", namespace)
            break
        except Exception:  # Ray raises several unrelated types while the GCS starts
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_S)
    if stored is None:
        client.internal_kv_put(b"session_name", session_name.encode(), False, namespace)
        stored = session_name.encode()
        fresh = True
    else:
        fresh = False
    if stored == session_name.encode():
        usage_lib.put_cluster_metadata(client, ray_init_cluster=False)
    return cluster_id, stored.decode(), fresh


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; ends the process with status 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m agents.cell.bootstrap",
        description="Write Ray's session metadata into a started GCS and print the cluster id as JSON.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--gcs", required=True, metavar="HOST:PORT", help="address of the started GCS")
    parser.add_argument(
        "--session-name", required=True, metavar="NAME", help="the same as --session-name of gcs_server and raylets"
    )
    parser.add_argument(
        "--session-dir",
        type=Path,
        metavar="DIR",
        help="session folder of the head (--session-dir of gcs_server); only checked to exist",
    )
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="wait for the GCS (default 30)")
    options = parser.parse_args(arguments)
    if options.session_dir is not None and not options.session_dir.is_dir():
        parser.error(f"--session-dir {options.session_dir} is not a folder; create it before the GCS is started")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = parse(arguments)
    try:
        cluster_id, stored, fresh = write_session(options.gcs, options.session_name, options.timeout)
    except Exception as error:  # noqa: BLE001  process edge: whatever Ray raised, the supervisor reads one line
        sys.stderr.write(f"the GCS at {options.gcs} did not answer within {options.timeout:g} s: {error!r}\n")
        return EXIT_NO_ANSWER
    if stored != options.session_name:
        sys.stderr.write(
            f"the GCS storage belongs to session {stored!r}, not {options.session_name!r}: "
            "start with that session name, or wipe the storage\n"
        )
        return EXIT_OTHER_SESSION
    sys.stdout.write(json.dumps({"cluster_id": cluster_id, "session_name": stored, "fresh": fresh}) + "\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
