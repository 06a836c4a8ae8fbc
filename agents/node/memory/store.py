"""The folder of states in this node's memory (`agents.memory.places`): who holds what, and what has to go. Blocking, but only on
memory."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from phalanx.v1 import agent_pb2

from agents.memory.places import (
    FETCHED,
    OWN,
    PEER,
    fetched_path,
    job_digest,
    job_of,
    own_path,
    own_paths,
    peer_path,
    peer_paths,
)
from agents.memory.state_file import MAX_STEP, Line, NotAState, Phase, StateFile, Word

REPLICATED = 0x10
SHARE = 0.5
"""Of the file system: what states may take of it in all."""
MAX_FILES = 4_096
RANKS_SHARE = 4
"""A rank's file may take this part of the room: its own two versions, and as much for copies of others, for at least two ranks."""
MAX_RANK = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Row:
    """One state that this node holds."""

    rank: int
    step: int
    kind: int
    """A HeldKind, with `REPLICATED` where replicas hold all of it."""


class MemoryStore:
    """Paths and contents of the folder. `refused`: why there is none, for people; empty when there is."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.refused = "" if folder is not None else "no folder is given (--memory-folder)"
        self._peers: dict[tuple[str, int], StateFile] = {}
        self._own: dict[str, StateFile] = {}
        if folder is None:
            return
        try:
            for name in (OWN, PEER, FETCHED):
                (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            self.folder, self.refused = None, f"{folder}: {error.strerror}"

    def room(self) -> int:
        """Bytes that one rank's file may have."""
        if self.folder is None:
            return 0
        found = os.statvfs(self.folder)
        return int(found.f_blocks * found.f_frsize * SHARE) // RANKS_SHARE

    def own(self, host_id: str) -> StateFile | None:
        """The file of a process, mapped; None while it has made none."""
        if self.folder is None:
            return None
        path = own_path(self.folder, host_id)
        known = self._own.get(host_id)
        try:
            if known is not None and _same_file(known, path):
                return known
            found = self._own[host_id] = StateFile.open(path)
        except (NotAState, OSError):
            self._own.pop(host_id, None)
            return None
        return found

    def peer(self, job_uid: str, rank: int) -> StateFile | None:
        """The copy of a rank's state that another node has brought."""
        if self.folder is None:
            return None
        known = self._peers.get((job_uid, rank))
        if known is None:
            try:
                known = self._peers[job_uid, rank] = StateFile.open(self.peer_path(job_uid, rank))
            except (NotAState, OSError):
                return None
        return known

    def keep_peer(self, job_uid: str, rank: int, file: StateFile) -> None:
        """A new file of copies is there."""
        self._peers[job_uid, rank] = file

    def peer_path(self, job_uid: str, rank: int) -> Path:
        """Where copies of a rank lie."""
        assert self.folder is not None
        return peer_path(self.folder, job_uid, rank)

    def fetched_path(self, job_uid: str, generation: int, rank: int) -> Path:
        """Where the state of a rank is brought to for a generation."""
        assert self.folder is not None
        return fetched_path(self.folder, job_uid, generation, rank)

    def left(self) -> int:
        """Bytes that may still be taken for what comes from other nodes: their share, less what all files have."""
        if self.folder is None:
            return 0
        taken = 0
        for name in (OWN, PEER, FETCHED):
            with os.scandir(self.folder / name) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        taken += entry.stat().st_size
        return max(0, RANKS_SHARE * self.room() - taken)

    def rows(self, job_uid: str, living: dict[str, int]) -> Iterator[Row]:
        """What is held of a job. `living`: processes that hold a rank, which may go on with what they have in themselves."""
        for host_id, file in self._own_files(job_uid):
            rank = file.get(Word.RANK)
            if rank > MAX_RANK:
                continue
            step, phase = file.tag
            alike = 0 if file.layout.unique_bytes else REPLICATED
            if living.get(host_id) == rank and phase is Phase.DONE and step <= MAX_STEP:
                yield Row(rank, step, agent_pb2.HELD_KIND_SURVIVOR | alike)
            for version in file.versions():
                if version.step <= MAX_STEP:
                    yield Row(rank, version.step, agent_pb2.HELD_KIND_MEMORY | alike)
        for rank, file in self._peer_files(job_uid):
            for version in file.versions():
                kind = agent_pb2.HELD_KIND_MEMORY if version.whole else agent_pb2.HELD_KIND_MEMORY_UNIQUE
                yield Row(rank, version.step, kind)

    def find(self, job_uid: str, rank: int, step: int) -> StateFile | None:
        """A file that holds the state of a rank after a step."""
        peer = self.peer(job_uid, rank)
        files = [file for _, file in self._own_files(job_uid)] + ([peer] if peer else [])
        return next((file for file in files if file.get(Word.RANK) == rank and file.find(step)), None)

    def rewind(self, job_uid: str, line: Line, living: Container[str] = frozenset()) -> None:
        """A generation starts, the last one of the line: what is outside of it did not happen, and steps before its own are of
        no use to the next generation.

        Files of processes that are not `living`, and copies, go when they do not hold the step.
        """
        step = line[-1][1]
        for host_id, file in list(self._own_files(job_uid)):
            file.forget_after(step)
            file.forget_outside(line)
            if host_id not in living and file.find(step) is None:
                self._remove(file.path)
                self._own.pop(host_id, None)
        for rank, file in list(self._peer_files(job_uid)):
            unused = not file.versions()
            file.forget_after(step)
            file.forget_outside(line)
            for version in file.versions():
                if version.step < step:
                    file.drop(version)
            if unused:  # since the generation before: whose it is goes to another node now
                self._remove(file.path)
                self._peers.pop((job_uid, rank), None)

    def without_partner(self, job_uid: str) -> None:
        """Nobody holds copies of this node's states of a job yet: its ranks wait for no partner until one has taken a version."""
        for _, file in self._own_files(job_uid):
            file.put(Word.PARTNERS, 0)
            file.put(Word.PARTNER_STEP, 0)

    def forget_fetched(self, job_uid: str, before: int) -> None:
        """Remove what was brought for earlier generations of a job than `before`."""
        if self.folder is None:
            return
        for path in (self.folder / FETCHED).glob(f"{job_digest(job_uid)}-*"):
            generation = path.name.split("-")[1]
            if not generation.isdecimal() or int(generation) < before:
                self._remove(path)

    def forget(self, job_uid: str) -> None:
        """The job has no process here any more, and will have none. Who is sending a state keeps it mapped until it is done."""
        if self.folder is None:
            return
        for host_id, file in list(self._own_files(job_uid)):
            self._remove(file.path)
            self._own.pop(host_id, None)
        for rank, file in list(self._peer_files(job_uid)):
            self._remove(file.path)
            self._peers.pop((job_uid, rank), None)
        self.forget_fetched(job_uid, 1 << 64)

    def keep_only(self, uids: Iterable[str]) -> None:
        """Remove what jobs have left that this agent knows nothing of: another site's, or of an earlier life of the machine."""
        if self.folder is None:
            return
        known = set(uids)
        digests = {job_digest(uid) for uid in known}
        for path in (self.folder / OWN).iterdir():
            if job_of(path) not in known:
                self._remove(path)
        for path in (self.folder / PEER).iterdir():
            if job_of(path) not in digests:
                self._remove(path)
        for path in (self.folder / FETCHED).iterdir():
            self._remove(path)

    def job_uids(self) -> set[str]:
        """Jobs of which processes have left states here."""
        if self.folder is None:
            return set()
        return {job_of(path) for path in (self.folder / OWN).glob("*.state")}

    @staticmethod
    def _remove(path: Path) -> None:
        with suppress(OSError):  # gone already, or something that is none of ours
            path.unlink()

    def _own_files(self, job_uid: str) -> Iterator[tuple[str, StateFile]]:
        if self.folder is None:
            return
        for path in own_paths(self.folder, job_uid)[:MAX_FILES]:
            file = self.own(path.stem)
            if file is not None:
                yield path.stem, file

    def _peer_files(self, job_uid: str) -> Iterator[tuple[int, StateFile]]:
        if self.folder is None:
            return
        for path in peer_paths(self.folder, job_uid)[:MAX_FILES]:
            rank = path.stem.rpartition("-")[2]
            file = self.peer(job_uid, int(rank)) if rank.isdecimal() else None
            if file is not None:
                yield int(rank), file


def _same_file(file: StateFile, path: Path) -> bool:
    return file.inode == path.stat().st_ino
