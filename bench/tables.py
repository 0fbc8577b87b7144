"""Tables of figures as benchmarks print them."""

import itertools
import string
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Columns", "figures_table", "rows_table"]

Columns = Mapping[str, str | Callable[[Any], str]]
"""By heading, what a cell shows of a row: a format of the row's values, "{p50:.1f} ms", or a function of the row."""


def figures_table(title: str | None, *columns: str, words: int = 1, plain: bool = False) -> "Table":
    """An empty table. words: how many columns hold text; the others hold numbers, to the right. plain: no lines."""
    from rich.table import Table

    style = {"box": None, "header_style": "dim"} if plain else {}
    table = Table(title=title, title_justify="left", **style)  # type: ignore[arg-type]
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number < words else "right", no_wrap=number >= words)
    return table


def rows_table(
    title: str | None,
    rows: Iterable[Any],
    columns: Columns,
    *,
    words: int = 1,
    plain: bool = False,
    group: Callable[[Any], object] = lambda row: None,
) -> "Table":
    """A table of rows, which are mappings where a column is a format; a cell is empty where its value is None.

    group: of a row; there is a line between groups.
    """
    table = figures_table(title, *columns, words=words, plain=plain)
    for _, members in itertools.groupby(rows, group):
        table.add_section()
        for row in members:
            table.add_row(*(_cell(row, shown) for shown in columns.values()))
    return table


def _cell(row: Any, shown: str | Callable[[Any], str]) -> str:
    if callable(shown):
        return shown(row)
    names = [name for _, name, _, _ in string.Formatter().parse(shown) if name]
    return "" if any(row[name] is None for name in names) else shown.format_map(row)
