"""`qo-search`: find the pictures of an index that are nearest to some others."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from queryopt.cli import Command, Output, common_options, main_argument, option_group
from queryopt.errors import ExitCode, InputError, UsageError
from queryopt.kinds import Kind, kind_of
from queryopt.progress import Advance, no_progress
from queryopt.runtime.cli.options import HasherOptions, hasher_options, model_option
from queryopt.runtime.search.ranked import RANKS, Rank, check_rank
from queryopt.text import counted, display_path

if TYPE_CHECKING:
    from queryopt.runtime.hasher import Hasher
    from queryopt.runtime.hits import FailedQuery, QueryResult
    from queryopt.runtime.index import HashIndex
    from queryopt.runtime.terminal import TerminalPictures

    Sink: TypeAlias = Callable[[QueryResult | FailedQuery], object]

__all__ = ["RankType", "default_index", "main"]

_DEFAULT_K = 10
_PICTURES = click.Path(path_type=bytes, readable=False)
"""One that can't be read is named like any other bad picture, and does not keep the others from being searched."""
_STDOUT = Path("-")
_PAGE_QUERIES = 500
"""Queries that a page shows: with 10 hits each it has some 50 MB then, about what a browser still opens gladly."""


_TIES = {"margin": "equal distances by margins", "id": "equal distances by id"}


class RankType(click.Choice[str]):
    """A rank by its name. The former name of 'id', 'hamming', is not shown, but taken."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(check_rank("hamming") if value == "hamming" else value, param, ctx)


@dataclass(frozen=True)
class SearchOptions:
    """What is searched for: see `search_files`. Without k and radius, the 10 nearest."""

    k: int | None
    radius: int | None
    rank: Rank
    exclude_self: bool

    def __post_init__(self) -> None:
        if self.k is None and self.radius is None:
            object.__setattr__(self, "k", _DEFAULT_K)

    @property
    def text(self) -> str:
        """In words: "the 10 nearest within 2 bits"."""
        ranked = self.rank in ("weighted", "tiebreak")
        wanted = "all" if self.k is None else f"the first {self.k}" if ranked else f"the {self.k} nearest"
        within = "" if self.radius is None else f" within {counted(self.radius, 'bit', 'bits')}"
        return wanted + within + (f", ranked {self.rank}" if ranked else f", {_TIES[self.rank]}")


_search_options = option_group(
    "search",
    SearchOptions,
    click.option(
        "-k", type=click.IntRange(0), help=f"Show the K nearest pictures.  [default: {_DEFAULT_K}, with --radius all]"
    ),
    click.option("--radius", type=click.IntRange(0), help="Show only pictures that differ in at most RADIUS bits."),
    click.option(
        "--rank",
        type=RankType(RANKS),
        default="margin",
        show_default=True,
        help="The order: by distance, equal ones by how near their margins are, or by id; by how sure the query was of "
        "the bits that differ; or that among equal distances.",
    ),
    click.option("--exclude-self", is_flag=True, help="Leave a query that is in the index out of its own hits."),
)


@dataclass(frozen=True)
class ResultOptions:
    """Where results go: a page, if any; lines of JSON or CSV in place of tables, if any."""

    show: bool
    page_path: Path | None
    lines_path: Path | None

    def check(self, out: Output) -> None:
        """UsageError for what doesn't go together, or a file that can't be written."""
        from queryopt.runtime.result_files import check_results

        if self.lines_path is not None and self.lines_path != _STDOUT:
            check_results(self.lines_path)
        if out.json and self.lines_path == _STDOUT:
            raise UsageError("--json and --out - both write to stdout: give --out a file, or leave one of them out")
        if self.show and (out.json or self.lines_path is not None):
            raise UsageError("--show goes with the tables: leave out --json and --out")


_result_options = option_group(
    "results",
    ResultOptions,
    click.option("--show", is_flag=True, help="Show the pictures in the terminal, too, where it can."),
    click.option(
        "--html",
        "page_path",
        type=click.Path(path_type=Path),
        help="Write a page with the pictures: one file that needs no other.",
    ),
    click.option(
        "--out",
        "lines_path",
        type=click.Path(path_type=Path, allow_dash=True),
        help="Write the results in place of tables: .jsonl has a line of JSON a query (- for stdout), .csv a row a "
        "hit.",
    ),
)


@click.command(cls=Command, name="qo-search")
@main_argument(
    "IMAGE... [INDEX]",
    lambda given: "index_path" if kind_of(given) is Kind.INDEX else None,
    **{"name": "queries", "nargs": -1, "expose_value": True, "type": _PICTURES},
)
@click.option(
    "--index",
    "index_path",
    type=click.Path(path_type=Path),
    help="The index.  [default: ./photos.db, else the only *.db here]",
)
@model_option("The model, for pictures that the index doesn't hold.  [default: the index's own]")
@_search_options
@_result_options
@hasher_options(batch=32)
@common_options
def main(
    queries: tuple[bytes, ...],
    index_path: Path | None,
    search: SearchOptions,
    results: ResultOptions,
    hashing: HasherOptions,
    out: Output,
) -> ExitCode:
    """Find the pictures of an index that are nearest to each IMAGE (or to each picture in a folder).

    \b
    Examples:
      qo-search bird.jpg photos.db -k 10 --html hits.html
      qo-search queries/ --radius 2 --out hits.jsonl
      qo-search queries/ --out hits.csv
      qo-search bird.jpg --rank weighted
      qo-search bird.jpg --show

    The distance is the number of bits that differ. Equal ones are in the order of their margins: first the picture for
    which the model was as sure of each bit as it was for the query; with --rank id, in the order of the index. A line
    below the table says how many more pictures are as near as its last. The table names the bits that differ: +3 is one
    that the hit has and the query has not, -3 the reverse. A picture that is in the index, unchanged, is searched with
    its stored code, without the model.

    With --rank weighted or tiebreak, a hit's score is the sum, over the bits that differ, of how sure the query was of
    them: its logits, from 0 to 1023 for the surest. Of a stored code they are known in 127 steps (its margins), so its
    scores can differ a little from those of the same picture hashed again.

    \b
    Exit codes:
      0  done
      1  done, but some queries could not be read
      2  wrong usage, or a model that is not the index's
      3  no query could be read, or no index
      4  a package that is needed to hash is missing
    """
    from queryopt.runtime.index import HashIndex
    from queryopt.runtime.query import search_files

    if not queries:
        raise UsageError("give a picture to search with: qo-search PICTURE, or a folder of them")
    results.check(out)
    pictures = _pictures(out) if results.show else None
    paths = _query_paths(queries)
    answers = _Answers()
    with ExitStack() as stack:
        index = stack.enter_context(HashIndex.open(index_path or default_index(), readonly=True))
        out.log(f"index: {display_path(index.path)} ({counted(len(index), 'picture', 'pictures')})")
        sinks = stack.enter_context(_sinks(index, search, results, answers, pictures, out))
        bar = stack.enter_context(_bar(len(paths), results.lines_path, out))

        def open_hasher() -> "Hasher":
            return stack.enter_context(_open_hasher(index, hashing, out))

        for result in search_files(index, paths, open_hasher, **vars(search)):
            for sink in sinks:
                sink(result)
            bar()
        if len(answers.failed) == len(set(paths)):
            raise InputError("none of the queries could be read: each is named above, with its reason")
    _report(index.path, len(paths), answers, results, out)
    return ExitCode.SOME_FAILED if answers.failed else ExitCode.DONE


def _pictures(out: Output) -> "TerminalPictures | None":
    from queryopt.runtime.cli.hit_table import open_pictures

    return open_pictures(out)


@dataclass
class _Answers:
    """What came of the queries. results: kept for --json alone."""

    hits: int = 0
    failed: dict[bytes, str] = field(default_factory=dict)
    results: "list[QueryResult | FailedQuery]" = field(default_factory=list)


@contextmanager
def _sinks(
    index: "HashIndex",
    search: SearchOptions,
    results: ResultOptions,
    answers: _Answers,
    pictures: "TerminalPictures | None",
    out: Output,
) -> Iterator[list["Sink"]]:
    """Who takes each result, in this order."""
    from queryopt.runtime.hits import FailedQuery
    from queryopt.runtime.result_files import result_line, writing_results

    def count(result: "QueryResult | FailedQuery") -> None:
        if isinstance(result, FailedQuery):
            answers.failed[result.path] = result.reason
            out.warn(f"{display_path(result.path)}: {result.reason}")
        else:
            answers.hits += len(result.hits)

    with ExitStack() as stack:
        sinks: list[Sink] = [count]
        if results.lines_path == _STDOUT:
            sinks.append(lambda result: click.echo(result_line(result), nl=False))
        elif results.lines_path is not None:
            sinks.append(stack.enter_context(writing_results(results.lines_path)))
        elif out.json:
            sinks.append(answers.results.append)
        else:
            from queryopt.runtime.cli.hit_table import print_hits

            sinks.append(lambda result: print_hits(result, out, pictures))
        if results.page_path is not None:
            sinks.append(stack.enter_context(_page(results.page_path, index, search)))
        yield sinks


def _bar(queries: int, lines_path: Path | None, out: Output) -> AbstractContextManager[Advance]:
    """A bar where results don't go to the same terminal: they would write over each other."""
    silent = out.json if lines_path is None else lines_path != _STDOUT or not sys.stdout.isatty()
    return (out.progress if silent else no_progress)("search", queries, "queries")


def _report(index: Path, queries: int, answers: _Answers, results: ResultOptions, out: Output) -> None:
    lines_path, page_path = results.lines_path, results.page_path
    out.result(
        {
            "index": str(index),
            "queries": queries,
            "hits": answers.hits,
            "failed": answers.failed,
            "out": lines_path,
            "html": page_path,
        }
        | ({} if lines_path else {"results": [result.to_dict() for result in answers.results]})
    )
    if lines_path is not None and lines_path != _STDOUT:
        counts = f"{counted(queries, 'query', 'queries')}, {counted(answers.hits, 'hit', 'hits')}"
        out.log(f"{counts}: {display_path(lines_path)}")
    if page_path is not None:
        out.log(f"page: {display_path(page_path)}")


def _query_paths(given: tuple[bytes, ...]) -> list[bytes]:
    """The picture files that were meant: folders are searched for pictures, anything else is taken as it is."""
    from queryopt.images import find_images

    paths: list[bytes] = []
    for path in given:
        if os.path.isdir(path):
            pictures = find_images(path)
            if not pictures:
                raise InputError(f"{display_path(path)}: there are no pictures in this folder")
            paths += [os.path.join(path, relative) for relative in pictures]
        else:
            paths.append(path)
    return paths


def default_index(option: str = "--index") -> Path:
    """./photos.db, which qo-infer makes, or the only index there is. option: how a command is told of another one."""
    if Path("photos.db").exists():
        return Path("photos.db")
    here = sorted(Path().glob("*.db"))
    if len(here) == 1:
        return here[0]
    if here:
        names = ", ".join(map(display_path, here[:10]))
        raise UsageError(f"there is more than one index here ({names}): say which with {option}")
    raise InputError(
        f"there is no index here: give one with {option}, or make one with: qo-infer FOLDER --index photos.db"
    )


def _open_hasher(index: "HashIndex", hashing: HasherOptions, out: Output) -> "Hasher":
    from queryopt.runtime.hasher import find_model

    model = hashing.model
    if model is None and index.model_path is not None and index.model_path.exists():
        model = index.model_path
    elif model is None:
        if index.model_path is not None:
            out.warn(f"{display_path(index.model_path)}, the model of the index, is gone: looking for another copy")
        model = find_model(None)
    out.log(f"model: {display_path(model)}")
    return hashing.open(model)


@contextmanager
def _page(path: Path, index: "HashIndex", search: SearchOptions) -> Iterator["Sink"]:
    import io

    from queryopt.files import replacing
    from queryopt.runtime.hits import FailedQuery
    from queryopt.runtime.html import HtmlPage

    card = index.card
    facts = {
        "Index": f"{index.path.name}, {counted(len(index), 'picture', 'pictures')}",
        "Model": f"{card.backbone}, {card.bits} bits, {card.precision}",
        "Fingerprint": card.fingerprint[:12],
        "Search": search.text,
        "Made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
    with replacing(path, over=b"<!doctype html>") as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="\n", write_through=True)
        page = HtmlPage(text, "Search results", facts, card.preprocessing, path.parent)
        seen = 0

        def sink(result: "QueryResult | FailedQuery") -> None:
            nonlocal seen
            seen += 1
            if isinstance(result, FailedQuery):
                page.add_failed(result)
            elif seen <= _PAGE_QUERIES:
                page.add(result)

        yield sink
        hidden = seen - _PAGE_QUERIES
        page.finish(f"{counted(hidden, 'more query is', 'more queries are')} not shown." if hidden > 0 else None)
        text.detach()
