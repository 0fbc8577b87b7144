"""Tables of figures as benchmarks print them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["figures_table"]


def figures_table(title: str | None, *columns: str, words: int = 1, plain: bool = False) -> "Table":
    """An empty table. words: how many columns hold text; the others hold numbers, to the right. plain: no lines."""
    from rich.table import Table

    style = {"box": None, "header_style": "dim"} if plain else {}
    table = Table(title=title, title_justify="left", **style)  # type: ignore[arg-type]
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number < words else "right", no_wrap=number >= words)
    return table
