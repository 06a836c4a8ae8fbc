"""Tables of figures as plain values: printed by the command line, drawn into the report, compared in tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """Every cell is text. `note` stands below; every table says that it is simulated."""

    key: str
    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    simulated: bool = True

    def __post_init__(self) -> None:
        if any(len(row) != len(self.headers) for row in self.rows):
            raise ValueError(f"table {self.key}: every row needs {len(self.headers)} cells")

    @property
    def caption(self) -> str:
        """The title, marked."""
        return f"{self.title} ({'simulated' if self.simulated else 'published, not simulated'})"
