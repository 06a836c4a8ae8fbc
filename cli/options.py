"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.site import ADDRESS_VARIABLE, DEFAULT_DIR

Address = Annotated[
    str | None,
    typer.Option("--address", help=f"Controller HOST:PORT. Default: {ADDRESS_VARIABLE}, then the site folder."),
]
Directory = Annotated[Path, typer.Option("--dir", help="Folder of the site.")]

DEFAULT_DIRECTORY = DEFAULT_DIR


class Output(StrEnum):
    """Forms in which data is printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


OutputForm = Annotated[Output, typer.Option("--output", "-o", help="Form of the output.")]
