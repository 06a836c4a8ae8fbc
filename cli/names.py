"""Names as they are typed: node ranges become node names."""

from __future__ import annotations

from collections.abc import Iterable

from cli.errors import CliError, Exit
from controlplane.core.noderange import NodeRangeError, expand


def node_names_of(words: Iterable[str]) -> tuple[str, ...]:
    """The nodes that the words name, in order, each once; a range that is none is a usage error."""
    names: dict[str, None] = {}
    for word in words:
        try:
            names.update(dict.fromkeys(expand(word)))
        except NodeRangeError as error:
            raise CliError(f"`{word}` names no nodes", why=str(error), fix=error.fix, code=Exit.USAGE) from error
    return tuple(names)
