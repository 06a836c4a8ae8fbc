"""Options that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cli.grammar import Option
from cli.site import ADDRESS_VARIABLE, DEFAULT_DIR

if TYPE_CHECKING:
    from cli.client import Client

Address = Annotated[
    str | None,
    Option("--address", help=f"Controller HOST:PORT. Default: {ADDRESS_VARIABLE}, then the site folder."),
]
Directory = Annotated[Path, Option("--dir", help="Folder of the site.")]

ContextName = Annotated[
    str | None,
    Option("--context", help="A site of `phalanx context ls`. Default: the one in use, without a site folder."),
]

Identity = Annotated[
    Path | None,
    Option("--identity", help="Folder with your key and certificate. Default: PHALANX_IDENTITY, then the site's."),
]
Plaintext = Annotated[bool, Option("--plaintext", help="No TLS; for a site on this machine that was started so.")]

DEFAULT_DIRECTORY = DEFAULT_DIR


@dataclass(frozen=True, slots=True)
class SiteChoice:
    """Which site a command speaks to, as its options say. Every field is an option of each such command."""

    address: Address = None
    directory: Directory = DEFAULT_DIRECTORY
    context: ContextName = None
    identity: Identity = None
    plaintext: Plaintext = False

    def connect(self) -> AbstractContextManager[Client]:
        """A client for the site; gRPC errors in the block become `CliError`s."""
        from cli.client import connect  # noqa: PLC0415 - heavy

        return connect(self.address, self.directory, self.context, identity=self.identity, plaintext=self.plaintext)


def for_site(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of `SiteChoice`; the command takes them as one parameter `site: SiteChoice`."""
    own = inspect.signature(command, eval_str=True)
    shared = inspect.signature(SiteChoice, eval_str=True).parameters.values()
    names = [field.name for field in fields(SiteChoice)]

    @functools.wraps(command)
    def call(**values: Any) -> None:
        choice = SiteChoice(**{name: values.pop(name) for name in names})
        command(**values, site=choice)

    parameters = [
        *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own.parameters.values()),
        *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in shared),
    ]
    kept = [parameter for parameter in parameters if parameter.name != "site"]
    call.__signature__ = own.replace(parameters=kept)  # type: ignore[attr-defined] # what cli.grammar reads
    call.__annotations__ = {}
    return call


class Output(StrEnum):
    """Forms in which data is printed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


OutputForm = Annotated[Output, Option("--output", "-o", help="Form of the output.")]
