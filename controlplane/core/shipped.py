"""Code that travels with a job: an archive (gzipped tar) of a folder, named by its SHA-256.

The archive lies on shared storage, where every agent reads it by itself: the controller is in nobody's way when a
thousand ranks start. Its name is its digest, so what runs cannot change after the job was accepted.
"""

from __future__ import annotations

import re

MAX_ARCHIVE_BYTES = 64 << 20
"""Source code of large projects packs to a few MiB; above this it is data, which belongs on shared storage itself."""
MAX_UNPACKED_BYTES = 512 << 20
"""Eight times as much: a good ratio for source code, and what every node may lose of its disk to one job."""
MAX_FILES = 20_000
"""A checkout with its vendored packages has fewer; unpacking so many takes seconds on a slow disk."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def is_digest(text: str) -> bool:
    """Whether a text is `sha256:` and 64 lower-case hex digits."""
    return _DIGEST.fullmatch(text) is not None


def archive_name(digest: str) -> str:
    """File name of an archive: the digest's hex part."""
    return f"{digest.removeprefix('sha256:')}.tar.gz"


def archive_path(code_root: str, digest: str) -> str:
    """Where an archive lies; "" without a digest."""
    return f"{code_root.rstrip('/')}/{archive_name(digest)}" if digest else ""
