"""The environment of a rank process (docs/design/0003-processes.md), parsed once."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.rank.errors import WorkloadRefused


@dataclass(frozen=True, slots=True)
class RankSettings:
    """Where the node agent is, who this process is, and what it is to run."""

    node: str
    socket_path: str
    node_dir: Path
    host_id: str
    job: str
    module: str
    path: str
    args: dict[str, Any]

    def proof(self) -> str:
        """HMAC-SHA256 of the host id with the node's key: shows that the caller may read the node's folder."""
        key = (self.node_dir / "host.key").read_bytes()
        return hmac.new(key, self.host_id.encode(), hashlib.sha256).hexdigest()


def settings_from(environ: Mapping[str, str]) -> RankSettings:
    """Read the contract's variables. Raises WorkloadRefused naming the variable that is missing or malformed."""
    names = ("PHALANX_NODE", "PHALANX_NODE_SOCKET", "PHALANX_NODE_DIR", "PHALANX_HOST_ID", "PHALANX_WORKLOAD")
    missing = [name for name in names if not environ.get(name)]
    if missing:
        raise WorkloadRefused(f"{', '.join(missing)} not set: a rank process is started by a rank host, not by hand")
    try:
        workload = json.loads(environ["PHALANX_WORKLOAD"])
        module = workload["module"]
        path = workload.get("path") or ""
        args = workload.get("args") or {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WorkloadRefused(f"PHALANX_WORKLOAD is not JSON with module, path and args: {error!r}") from error
    if not isinstance(module, str) or not module or not isinstance(args, dict) or not isinstance(path, str):
        raise WorkloadRefused("PHALANX_WORKLOAD: module and path must be strings and args an object")
    return RankSettings(
        node=environ["PHALANX_NODE"],
        socket_path=environ["PHALANX_NODE_SOCKET"],
        node_dir=Path(environ["PHALANX_NODE_DIR"]),
        host_id=environ["PHALANX_HOST_ID"],
        job=environ.get("PHALANX_JOB", ""),
        module=module,
        path=path,
        args=args,
    )
