"""Where the CLI finds its site: the folder, `site.json` in it, and the controller's address."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.contexts import CONTEXT_VARIABLE, Context, chosen_context, read_contexts
from cli.errors import CliError, Exit

DEFAULT_DIR = Path(".phalanx/site")
ADDRESS_VARIABLE = "PHALANX_ADDRESS"


@dataclass(frozen=True, slots=True)
class Site:
    """A site as `site.json` describes it."""

    directory: Path
    document: Mapping[str, Any]

    @property
    def address(self) -> str:
        """host:port of the controller."""
        return str(self.document["address"])

    @property
    def plaintext(self) -> bool:
        """Whether the site speaks no TLS."""
        return bool(self.document.get("plaintext", False))

    @property
    def identity(self) -> Path | None:
        """Folder of the administrator that `up` made."""
        return Path(self.document["identity"]) if self.document.get("identity") else None

    @property
    def run(self) -> Path:
        """The run folder with the sockets; also the marker in every process's environment."""
        return Path(self.document["run"])

    @property
    def supervisor_pid(self) -> int:
        """Process id of the supervisor (it may be gone)."""
        return int(self.document["supervisor_pid"])

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes that `up` started."""
        return tuple(node["name"] for node in self.document["nodes"])


def site_path(directory: Path) -> Path:
    """The file that names a site's endpoints."""
    return directory / "site.json"


def read_site(directory: Path) -> Site | None:
    """The site of a folder; None when there is none, an error when the file is unreadable."""
    path = site_path(directory)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        site = Site(directory, document)
        _ = (site.address, site.run, site.supervisor_pid, site.nodes)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = f"remove {path} and run `phalanx up --dir {directory}`"
        raise CliError(f"cannot read {path}", why=str(error), fix=fix) from error
    return site


def require_site(directory: Path) -> Site:
    """The site of a folder, or a clear error."""
    site = read_site(directory)
    if site is None:
        why = f"there is no {site_path(directory)}"
        raise CliError("no site here", why=why, fix="start one with `phalanx up`, or pass --dir", code=Exit.NOT_FOUND)
    return site


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A controller to talk to. `identity`: the folder with the identity to show there, where the source names one;
    `plaintext`: the source says that it speaks no TLS."""

    address: str
    identity: Path | None = None
    plaintext: bool = False


def resolve_endpoint(address: str | None, directory: Path, context: str | None = None) -> Endpoint:
    """The controller to talk to, from the most deliberate choice to the least.

    --address, --context, PHALANX_ADDRESS, PHALANX_CONTEXT, the site folder, the context in use.
    """
    if address:
        return Endpoint(address)
    if context:
        return _endpoint(chosen_context(context))
    if from_environment := os.environ.get(ADDRESS_VARIABLE):
        return Endpoint(from_environment)
    if named := os.environ.get(CONTEXT_VARIABLE):
        return _endpoint(chosen_context(named))
    site = read_site(directory)
    if site is not None:
        return Endpoint(site.address, site.identity, plaintext=site.plaintext)
    contexts = read_contexts()
    if contexts.current:
        return _endpoint(chosen_context(contexts.current))
    raise CliError(
        "no controller to talk to",
        why=f"neither --address nor {ADDRESS_VARIABLE} is set, there is no {site_path(directory)}, and no context is in use",
        fix="start a site with `phalanx up`, pass --address HOST:PORT, or `phalanx context use NAME`",
    )


def _endpoint(context: Context) -> Endpoint:
    return Endpoint(context.address, Path(context.identity) if context.identity else None)
