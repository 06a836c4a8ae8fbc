"""Where states lie in a node's folder, as agents and rank processes both name them.

own/<host id>.state                                   written by rank processes, `<job uid>-<serial>`; outlives them
peer/<job>-<rank>.state                               what nodes have brought that this one keeps copies for
fetched/<job>-<generation>-<rank>.state, .failed      brought from another node for a generation that starts

On the node's own disk (another folder): <job>/job.json, and <job>/<rank>.state.

<job> is a digest: uids may be long, and no part of one may be taken for a number.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

OWN, PEER, FETCHED = "own", "peer", "fetched"


def job_digest(job_uid: str) -> str:
    """A job in names of files."""
    return hashlib.sha256(job_uid.encode()).hexdigest()[:24]


def job_of(path: Path) -> str:
    """The job, or its digest, to which a file of `own` or `peer` belongs."""
    return path.stem.rpartition("-")[0]


def own_path(folder: Path, host_id: str) -> Path:
    """The file of a process."""
    return folder / OWN / f"{host_id}.state"


def own_paths(folder: Path, job_uid: str) -> list[Path]:
    """The files of the processes of a job, living ones and others."""
    return sorted(path for path in (folder / OWN).glob(f"{job_uid}-*.state") if job_of(path) == job_uid)


def peer_path(folder: Path, job_uid: str, rank: int) -> Path:
    """Copies of a rank of another node."""
    return folder / PEER / f"{job_digest(job_uid)}-{rank}.state"


def peer_paths(folder: Path, job_uid: str) -> list[Path]:
    """Copies of all ranks of a job."""
    return sorted((folder / PEER).glob(f"{job_digest(job_uid)}-*.state"))


def fetched_path(folder: Path, job_uid: str, generation: int, rank: int) -> Path:
    """What a rank of a generation starts from, when that was elsewhere."""
    return folder / FETCHED / f"{job_digest(job_uid)}-{generation}-{rank}.state"


def disk_folder(folder: Path, job_uid: str) -> Path:
    """What the node's own disk holds of a job."""
    return folder / job_digest(job_uid)


def disk_path(folder: Path, rank: int) -> Path:
    """A rank in the folder of its job on the node's own disk."""
    return folder / f"{rank}.state"
