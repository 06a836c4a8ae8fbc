"""Commands from signatures: an annotated function becomes a click command.

The annotations are those of typer (`Annotated[int, Option(min=1, help="...")]`); typer itself needs pydantic for every
option since 0.29, and loading that takes longer than listing 6,250 nodes may (docs/design/0005-edges.md has the figures).
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import click
from click.shell_completion import CompletionItem

from cli.errors import Exit

Command = Callable[..., None]
HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Info:
    """What a declaration says of one parameter."""

    def __init__(
        self,
        *names: str,
        help: str = "",
        metavar: str | None = None,
        min: float | None = None,
        max: float | None = None,
        parser: Callable[[Any], Any] | None = None,
        autocompletion: Callable[..., Sequence[str]] | None = None,
    ) -> None:
        self.param_decls = names
        self.help = help
        self.metavar = metavar
        self.min = min
        self.max = max
        self.parser = parser
        self.autocompletion = autocompletion


class Option(_Info):
    """An option. Without names it is `--name-of-the-parameter`; `--on/--off` makes two flags."""


class Argument(_Info):
    """An argument; a list takes all that are left."""


class _Interruptible(click.Group):
    """An interrupt ends a command with the code that shells expect, and without a word."""

    def invoke(self, ctx: click.Context) -> Any:
        """See click.Group; click itself would say `Aborted!` and end with 1."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise SystemExit(Exit.INTERRUPTED) from None


class Group:
    """A group of commands: the whole command line, or `phalanx checkpoints`."""

    def __init__(self, help: str) -> None:
        self.click = _Interruptible(help=help, no_args_is_help=True, context_settings=HELP)

    def command(self, name: str | None = None, *, epilog: str = "") -> Callable[[Command], Command]:
        """Adds a function as a command; its docstring is the help, `epilog` the example below."""

        def add(function: Command) -> Command:
            word = name or function.__name__.replace("_", "-")
            parameters = [_parameter(one) for one in inspect.signature(function, eval_str=True).parameters.values()]
            text = inspect.cleandoc(function.__doc__ or "")
            self.click.add_command(
                click.Command(
                    word, HELP, function, parameters, help=text, epilog=epilog, short_help=text.split(". ")[0]
                )
            )
            return function

        return add

    def add_group(self, group: Group, name: str) -> None:
        """Adds a group below this one."""
        self.click.add_command(group.click, name)

    def __call__(self, arguments: Sequence[str]) -> None:
        """Runs; ends with SystemExit, as click does."""
        self.click(args=list(arguments), prog_name="phalanx")


def _parameter(parameter: inspect.Parameter) -> click.Parameter:
    if get_origin(parameter.annotation) is not Annotated:
        raise TypeError(f"parameter {parameter.name} needs Annotated[..., Option(...) or Argument(...)]")
    annotation, info = get_args(parameter.annotation)[:2]
    kind, many = _plain_type(annotation)
    required = parameter.default is inspect.Parameter.empty
    common: dict[str, Any] = {
        "type": _Parsed(info.parser) if info.parser else _click_type(kind, info),
        "required": required,
        "metavar": info.metavar,
        "shell_complete": _completer(info.autocompletion),
    }
    if not required:  # for click, None is a default too
        common["default"] = parameter.default
    if isinstance(info, Argument):
        return click.Argument([parameter.name], help=info.help, nargs=-1 if many else 1, **common)
    names = [name for name in info.param_decls if name.startswith("-")] or [f"--{parameter.name.replace('_', '-')}"]
    if kind is bool:
        common.pop("type")
        common["is_flag"] = True
    default = common.get("default")
    if isinstance(default, StrEnum):
        common["default"] = default.value
    shows: bool | str = default not in (None, "", False, 0)
    if isinstance(default, float) and default:
        shows = f"{default:g}"
    elif isinstance(default, range):
        shows = f"{default.start}-{default.stop - 1}"
    return click.Option([*names, parameter.name], help=info.help, show_default=shows, multiple=many, **common)


def _plain_type(annotation: Any) -> tuple[Any, bool]:
    """`str | None` is str, `list[str]` is many of str."""
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = [one for one in get_args(annotation) if one is not type(None)]
    if get_origin(annotation) is list:
        return get_args(annotation)[0], True
    return annotation, False


def _click_type(kind: Any, info: _Info) -> click.ParamType[Any]:
    ranged = info.min is not None or info.max is not None
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return _Choice(kind)
    if kind is Path:
        return click.Path(path_type=Path)
    if kind is int and ranged:
        return click.IntRange(_whole(info.min), _whole(info.max))
    if kind is float and ranged:
        return click.FloatRange(info.min, info.max)
    plain: dict[Any, click.ParamType[Any]] = {int: click.INT, float: click.FLOAT}
    return plain.get(kind, click.STRING)


def _whole(bound: float | None) -> int | None:
    return None if bound is None else int(bound)


class _Choice(click.Choice[str]):
    """One of the values of an enumeration."""

    def __init__(self, kind: type[StrEnum]) -> None:
        super().__init__([one.value for one in kind])
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._kind(super().convert(str(value), param, ctx))


class _Parsed(click.ParamType[Any]):
    """A text that a function reads; its ValueError is shown as a usage error."""

    name = "text"

    def __init__(self, parser: Callable[[Any], Any]) -> None:
        self._parser = parser

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._parser(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _completer(offered: Callable[..., Sequence[str]] | None) -> Any:
    if offered is None:
        return None
    takes_context = len(inspect.signature(offered).parameters) > 1

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = offered(ctx, incomplete) if takes_context else offered(incomplete)
        return [CompletionItem(one) for one in found]

    return complete


class CommandEnd(click.exceptions.Exit):
    """Ends a command with an exit code of its own, without a message."""

    def __init__(self, code: int) -> None:
        super().__init__(int(code))
