"""The numbers by which a site decides: shown as the controller has them, and a file with others checked before it is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cli import render
from cli.client import CALL_TIMEOUT_S
from cli.errors import CliError, Exit
from cli.grammar import Argument, Group, Option
from cli.options import Output, OutputForm, SiteChoice, for_site

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controlplane.core.draft import Policy

MAX_BYTES = 1 << 20


def add_to(group: Group) -> None:
    """Adds the commands."""
    group.command(epilog="Example: phalanx policy show --changed")(show)
    group.command(epilog="Example: phalanx policy check policy.toml")(check)


@for_site
def show(
    *,
    changed: Annotated[bool, Option("--changed", help="Only what is not the default.")] = False,
    output: OutputForm = Output.TABLE,
    site: SiteChoice,
) -> None:
    """Show the numbers by which the controller decides: value, default and meaning.

    They come from the file of its option --policy and from its other options; `phalanx events` tells when they changed.
    """
    from phalanx.v1 import admin_pb2  # noqa: PLC0415

    with site.connect() as client:
        answer = client.admin.GetPolicy(admin_pb2.GetPolicyRequest(), timeout=CALL_TIMEOUT_S)
    _show(dict(answer.settings), changed=changed, output=output, fault_table=answer.fault_table)


def check(
    file: Annotated[Path, Argument(metavar="FILE", help="TOML, for the controller's option --policy.")],
    *,
    output: OutputForm = Output.TABLE,
) -> None:
    """Read a policy file as the controller would, and show what it changes. No site is asked."""
    from controlplane.core.site_policy import values  # noqa: PLC0415

    _show(values(read(file)), changed=True, output=output)


def read(file: Path) -> Policy:
    """The policy of a file, as the controller would read it.

    Raises:
        CliError: usage, the controller would not start with it.
    """
    from controlplane.core.draft import Policy  # noqa: PLC0415
    from controlplane.core.site_policy import BadPolicy, parse  # noqa: PLC0415

    try:
        return parse(_text(file), str(file), Policy())
    except BadPolicy as error:
        raise CliError("the controller would not start with this file", why=str(error), code=Exit.USAGE) from None


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise CliError(f"{file} cannot be read", why=str(error.strerror), code=Exit.USAGE) from error
    if len(raw) > MAX_BYTES:
        raise CliError(f"{file} is no policy", why=f"it has more than {MAX_BYTES} bytes", code=Exit.USAGE)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise CliError(f"{file} is no policy", why=f"it is not UTF-8 at byte {error.start}", code=Exit.USAGE) from error


def _show(settings: Mapping[str, float], *, changed: bool, output: Output, fault_table: str = "") -> None:
    from controlplane.core.draft import Policy  # noqa: PLC0415
    from controlplane.core.site_policy import BY_NAME, values  # noqa: PLC0415

    defaults = values(Policy())
    ordered = [*(name for name in BY_NAME if name in settings), *sorted(settings.keys() - BY_NAME.keys())]
    names = [name for name in ordered if not changed or settings[name] != defaults.get(name)]
    match output:
        case Output.JSON | Output.YAML:
            document = {name: settings[name] for name in names}
            render.document({"settings": document, "fault_table": fault_table}, output.value)
        case Output.NAME:
            render.lines(names)
        case _:
            rows = [_row(name, settings[name], defaults) for name in names]
            if rows:
                render.table(("SETTING", "VALUE", "DEFAULT", "FROM", "MEANING"), rows)
            else:
                render.note("every setting has its default")
            if fault_table:
                render.note(f"fault table {fault_table}")


def _row(name: str, value: float, defaults: Mapping[str, float]) -> list[str]:
    from controlplane.core.site_policy import BY_NAME, shown  # noqa: PLC0415

    setting = BY_NAME.get(name)
    if setting is None:
        return [name, f"{value:g}", "-", "-", "this version of phalanx does not know it"]
    default = "" if value == defaults[name] else shown(name, defaults[name])
    return [name, shown(name, value), default, setting.flag or "--policy", setting.why]
