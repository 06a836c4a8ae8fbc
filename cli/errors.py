"""What the CLI says when something does not work, and the exit code that scripts see."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of `phalanx`; part of its interface."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_ALLOWED = 4
    CONFLICT = 5
    TIMED_OUT = 6
    DEGRADED = 7
    INTERRUPTED = 130


class CliError(Exception):
    """An expected failure: what happened, why, and what to do next. `details` are further lines, shown as they are."""

    def __init__(
        self, what: str, *, why: str = "", fix: str = "", code: Exit = Exit.ERROR, details: tuple[str, ...] = ()
    ) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix
        self.code = code
        self.details = details

    def lines(self) -> list[str]:
        """The message as it is shown, one item per line."""
        shown = [f"error: {self.what}"]
        if self.why:
            shown.append(f"  why: {self.why}")
        shown += [f"  {line}" for line in self.details]
        if self.fix:
            shown.append(f"  do:  {self.fix}")
        return shown


class ManifestRefused(CliError):
    """A manifest with violations; each line already names file, line and field."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        count = len(problems)
        super().__init__(f"{count} problem{'s' * (count != 1)} in the manifest, nothing was stored", code=Exit.USAGE)
        self.problems = problems

    def lines(self) -> list[str]:
        """The problems first, in the form that editors jump to, then the summary."""
        return [*self.problems, *super().lines()]
