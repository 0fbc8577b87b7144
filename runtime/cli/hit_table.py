"""What `qo-search` shows on a terminal: a table of hits for each query, and pictures where the terminal has them."""

import os
import shutil
from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from queryopt.cli import Output
from queryopt.runtime.hits import HIT_FIELDS, FailedQuery, Hit, HitField, QueryResult, code_hex
from queryopt.runtime.search.ranked import Rank
from queryopt.runtime.terminal import Captioned, TerminalPictures, why_not_shown
from queryopt.text import counted, display_path, from_here, listed

__all__ = ["open_pictures", "print_hits"]

_COLUMNS = {
    "rank": "rank",
    "distance": "distance",
    "score": "score",
    "label": "label",
    "differs": "bits",
    "path": "path",
}
"""Fields of a hit that the table shows, with its heads; those that no hit has are left out."""
_BITS_SHOWN = 8
"""Of the bits that differ: more tell a reader of a table no more, and take a terminal's width."""


def open_pictures(out: Output) -> TerminalPictures | None:
    """What shows pictures here; None, and a word on why, where nothing can."""
    if why_not := why_not_shown():
        out.warn(f"--show: {why_not}: no pictures; --html hits.html writes a page with them")
        return None
    pictures = TerminalPictures(shutil.get_terminal_size().columns)
    if pictures.protocol == "half blocks":
        out.log("--show: this terminal has neither kitty's graphics nor sixels: pictures are drawn with half blocks")
    return pictures


def print_hits(result: QueryResult | FailedQuery, out: Output, pictures: TerminalPictures | None = None) -> None:
    """Print a query with its hits, the pictures between its name and its table. Of one that failed, nothing."""
    if isinstance(result, FailedQuery):
        return
    title, *others = _table(result)
    out.print(title)
    if pictures is not None:
        for row in pictures.rows(list(_captioned(result))):
            out.print(row)
    for part in others:
        out.print(part)


def _captioned(result: QueryResult) -> Iterator[Captioned]:
    """The query and its hits, each with a line that says which it is."""
    yield Captioned(result.path, "query")
    for hit in result.hits:
        same = " ✓" if hit.label is not None and hit.label == result.label else ""
        yield Captioned(hit.path, f"{hit.rank}: {counted(hit.distance, 'bit', 'bits')}{same}")


def _table(result: QueryResult) -> Iterator[RenderableType]:
    """A line on the query, its hits as a table, and an empty line."""
    title = Text().append(display_path(result.path), "bold")
    title.append(f"  {display_path(result.label)}" if result.label is not None else "")
    title.append(f"  {code_hex(result.code)}{' (stored)' if result.stored else ''}  rank {result.rank}", "dim")
    yield title
    if not result.hits:
        yield Text("no hits\n", "dim")
        return
    fields = {field.name: field for field in HIT_FIELDS}
    shown = [fields[name] for name in _COLUMNS if any(fields[name].value(hit) is not None for hit in result.hits)]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in shown:
        if column.type in (int, int | None):
            table.add_column(_COLUMNS[column.name], justify="right")
        else:
            table.add_column(_COLUMNS[column.name], overflow="fold")
    for hit in result.hits:
        table.add_row(*(_cell(hit, column) for column in shown))
    yield table
    if result.ties:
        yield Text(_ties(result.ties, result.hits[-1].distance, result.rank), "dim")
    yield Text("")


def _ties(more: int, distance: int, rank: Rank) -> str:
    """What a person should know about hits that something other than their distance puts before others."""
    which = "with the very same code," if distance == 0 else "equal distances are"
    order = (
        "nearest margins first" if rank == "margin" else "in the order of ids (--rank margin: nearest margins first)"
    )
    return f"and {more:,} more at distance {distance}: {which} {order}"


def _cell(hit: Hit, field: HitField) -> Text:
    value = field.value(hit)
    if field.name == "differs":
        changes = [f"{'+' if own else '-'}{bit}" for bit, _, own in hit.changes]
        return Text(listed(changes, _BITS_SHOWN, " "))
    if field.name == "path":
        path = Text(from_here(os.fsdecode(value)))
        return path.append("".join(f"  ({problem})" for problem in _problems(hit)), "yellow")
    return Text("" if value is None else display_path(str(value)))


def _problems(hit: Hit) -> Iterator[str]:
    if hit.missing:
        yield "gone"
    if hit.stale:
        yield "code of an earlier state"
