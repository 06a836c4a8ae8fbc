"""The site's storage: what it takes, compaction, backup and restore."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from cli import render
from cli.client import CALL_TIMEOUT_S, new_request_id
from cli.confirm import Yes, agreed
from cli.errors import CliError, Exit
from cli.grammar import Argument, Group, Option
from cli.options import Output, OutputForm, SiteChoice, for_site
from cli.site import read_site
from cli.wire import plain

COMPACT_TIMEOUT_S = 600.0
BACKUP_TIMEOUT_S = 3_600.0
MIB = 1 << 20


def register(app: Group) -> None:
    """Adds the commands."""
    app.command(epilog="Example: phalanx storage -o json")(storage)
    app.command(epilog="Example: phalanx compact --yes")(compact)
    app.command(epilog="Example: phalanx backup -o site.backup")(backup)
    app.command(epilog="Example: phalanx restore site.backup --dir /srv/phalanx --yes")(restore)


@for_site
def storage(*, output: OutputForm = Output.TABLE, site: SiteChoice) -> None:
    """Show what the journal holds and takes on disk. Exit code 7 while it takes nothing."""
    from phalanx.v1 import admin_pb2  # noqa: PLC0415

    with site.connect() as client:
        answer = client.admin.GetStorage(admin_pb2.GetStorageRequest(), timeout=CALL_TIMEOUT_S)
    if output in (Output.JSON, Output.YAML):
        render.document(plain(answer), output.value)
    else:
        rows = (
            ("kind", answer.kind),
            ("state", answer.state),
            ("records", f"{answer.oldest_revision} to {answer.newest_revision}"),
            ("archived", f"{answer.archived_records} records that explain decisions"),
            ("snapshot", f"at revision {answer.snapshot_revision}" if answer.snapshot_revision else "none yet"),
            ("size", f"{answer.bytes / MIB:.1f} MiB"),
            ("leader", f"{answer.leader} at {', '.join(answer.controllers)}"),
        )
        render.fields(rows)
    if answer.state != "ok":
        raise CliError("the journal takes nothing", why=answer.state, code=Exit.DEGRADED)


@for_site
def compact(
    *,
    before: Annotated[int, Option(min=0, help="Also remove records before this revision. 0: only retention.")] = 0,
    yes: Yes = False,
    site: SiteChoice,
) -> None:
    """Store a snapshot and remove what retention does not keep. What explains decisions moves to the archive."""
    from phalanx.v1 import admin_pb2  # noqa: PLC0415

    agreed("bookkeeping records are removed for good; watches cannot start before what is left", yes=yes)
    request = admin_pb2.CompactRequest(request_id=new_request_id(), before_revision=before)
    with site.connect() as client:
        answer = client.admin.Compact(request, timeout=COMPACT_TIMEOUT_S)
    render.out(f"{answer.removed} records removed, the journal begins at revision {answer.oldest_revision}")


@for_site
def backup(
    *,
    file: Annotated[Path, Option("--output", "-o", help="The file to write; it must not exist.")],
    site: SiteChoice,
) -> None:
    """Write everything that the journal holds to one compressed file. The site goes on meanwhile."""
    from phalanx.v1 import admin_pb2  # noqa: PLC0415

    if file.exists():
        raise CliError(f"{file} exists", fix="name another file; backups are not overwritten", code=Exit.CONFLICT)
    with site.connect() as client, _fresh(file) as descriptor, os.fdopen(descriptor, "wb") as target:
        records = 0
        for answer in client.admin.Backup(admin_pb2.BackupRequest(), timeout=BACKUP_TIMEOUT_S):
            target.write(answer.data)
            records = answer.records_done
        target.flush()
        os.fsync(target.fileno())
    render.out(f"{file}: {records} records, {file.stat().st_size / MIB:.1f} MiB")


@contextmanager
def _fresh(file: Path) -> Iterator[int]:
    """A descriptor of a file that gets its name when all went well."""
    descriptor, name = tempfile.mkstemp(dir=file.resolve().parent, prefix=f".{file.name}.")
    try:
        yield descriptor
        os.link(name, file)
    finally:
        Path(name).unlink()


def restore(
    file: Annotated[Path, Argument(help="What `phalanx backup` wrote.")],
    *,
    directory: Annotated[Path | None, Option("--dir", help="Folder of a site whose journal is empty.")] = None,
    journal: Annotated[str, Option(help="postgresql://... to fill instead of a site folder's SQLite.")] = "",
    password_file: Annotated[str, Option(help="Password for PostgreSQL.")] = "",
    yes: Yes = False,
) -> None:
    """Fill an empty journal from a backup, with the site down. Running jobs go on from their newest known checkpoint."""
    if bool(journal) == bool(directory):
        raise CliError(
            "restore where?", fix="name a site folder with --dir, or a database with --journal", code=Exit.USAGE
        )
    if directory:
        if read_site(directory) is not None:
            raise CliError(f"the site in {directory} is up", fix=f"phalanx down --dir {directory}", code=Exit.CONFLICT)
        path = directory.resolve() / "controller" / "journal.db"
        agreed(f"an empty journal at {path} is filled from {file}", yes=yes)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        journal = f"sqlite:///{quote(str(path))}"
    else:
        agreed(f"the empty journal at {journal} is filled from {file}", yes=yes)
    command = [sys.executable, "-P", "-m", "controlplane.restore", str(file), "--journal", journal]
    done = subprocess.run([*command, "--password-file", password_file], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1].removeprefix("restore: ")
        raise CliError("nothing was restored", why=said, fix="an empty journal and an undamaged backup are needed")
    render.out(done.stdout.strip())
