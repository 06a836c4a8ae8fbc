"""Checkpoints in a plain folder, for systems that bring none of their own or whose own would only be slower."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


class CheckpointFolder:
    """`step-<n>` folders; `newest` is a link that is replaced atomically, so a torn checkpoint is never found."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def newest(self) -> Path | None:
        """The newest complete checkpoint."""
        link = self._folder / "newest"
        return link.resolve() if link.exists() else None

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Write and publish one; the ones before it are left for the end of the run."""
        place = self._folder / f"step-{step}-{os.getpid()}"
        place.mkdir()
        write(place)
        link = self._folder / f"newest-{os.getpid()}"
        link.symlink_to(place.name)
        os.replace(link, self._folder / "newest")
