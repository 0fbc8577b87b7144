"""A SearchReport as tables of at most 100 columns, and the lines below them."""

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from queryopt.bench.speed.search.peers import PEERS
from queryopt.bench.speed.search.report import Group, Row, SearchReport

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["render", "short_count"]

_BUSY = 0.9
"""Share of the wall time that a searcher ran, below which others were running in its place."""


def render(report: SearchReport) -> "Iterator[RenderableType]":
    """All of the report, for a terminal or a file."""
    load = " then ".join(f"{value:.2f}" for value in report.load if value is not None)
    yield f"{report.machine}\n{report.date}; load average {load or 'unknown'}"
    yield "; ".join(f"{name} {version}" for name, version in report.versions.items())
    if report.one_thread:
        yield "One thread each:"
        yield from (f"  {name}: {how}" for name, how in report.one_thread.items())
    for group in report.groups:
        yield ""
        yield _search_table(group)
        yield ""
        yield _details(group)
        yield from _notes(group, report.skipped)
    for table in _build_tables(report):
        yield ""
        yield table
    if report.processes:
        yield ""
        yield _process_table(report)
    for name, reason in report.skipped.items():
        yield f"skipped: {name}: {reason}"


def short_count(count: int) -> str:
    """A number of codes in few characters: 1e7, or 12,345 where that is no round number."""
    digits = str(count)
    if count >= 1000 and not digits[1:].strip("0"):
        return f"{digits[0]}e{len(digits) - 1}"
    return f"{count:,}"


def _table(title: str, *columns: str) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 1 else "right", no_wrap=True)
    return table


def _compared(group: Group) -> bool:
    """Whether the peer that ratios are taken to took part: without it, their columns would be empty."""
    return any(row.ratio is not None for row in group.rows)


def _search_table(group: Group) -> "Table":
    batched = group.task.batch > 1
    compared = _compared(group)
    title = f"{group.bits} bits, {group.data}\n{group.task.describe()}; µs a query"
    last = "G pairs/s" if batched else "B/code"
    columns = ("p50", "p95", "p99", "min", *([f"x {PEERS[0]}"] if compared else []), last, "recall", "exact")
    table = _table(title, "N", "searcher", *columns)
    sizes = sorted({row.n for row in group.rows})
    for size in sizes:
        for row in (row for row in group.rows if row.n == size):
            table.add_row(
                short_count(row.n),
                row.searcher,
                *(_micros(value) for value in (row.p50, row.p95, row.p99, row.fastest)),
                *(["" if row.ratio is None else _ratio(row.ratio)] if compared else []),
                f"{row.pairs / 1e9:,.2f}" if batched else "" if row.nbytes is None else f"{row.nbytes / row.n:.1f}",
                f"{row.verdict.recall:.3f}",
                _exact(row),
            )
        if size != sizes[-1]:
            table.add_section()
    return table


def _details(group: Group) -> "Table":
    compared = _compared(group)
    columns = ("build s", "calls", "checked", "CPU p50", *(["x CPU"] if compared else []), "cores", "how")
    table = _table("", "N", "searcher", *columns)
    table.title = None
    table.columns[-1].justify = "left"
    for row in sorted(group.rows, key=lambda row: row.n):
        table.add_row(
            short_count(row.n),
            row.searcher,
            f"{row.build:.2f}",
            f"{row.calls:,}",
            f"{row.verdict.checked:,}",
            _micros(row.cpu_p50),
            *(["" if row.cpu_ratio is None else _ratio(row.cpu_ratio)] if compared else []),
            f"{row.cores:.2f}",
            ", ".join(value for value in row.facts.values() if isinstance(value, str)),
        )
    return table


def _notes(group: Group, absent: Collection[str]) -> Iterator[str]:
    """The lines below a group's tables; who is `absent` everywhere is named once, at the report's end."""
    if any(row.cores < _BUSY for row in group.rows):
        yield "Other programs had the processor for a part of the time (cores below 1): trust CPU, not wall times."
    if group.task.radius is not None and group.rows:
        hits = ", ".join(f"{row.hits:,.1f} at {short_count(row.n)}" for row in group.of(group.rows[0].searcher))
        yield f"hits a query, on average: {hits}"
    for name, sizes in group.p95_to_scan().items():
        for size, p95 in sizes.items():
            yield f"{name} at {short_count(size)}: its p95 is {p95.wall:.3g} x the scan's ({p95.cpu:.3g} x in CPU time)"
    for name, growth in group.growth().items():
        small, large = (short_count(row.n) for row in (group.of(name)[0], group.of(name)[-1]))
        yield f"{name}: p50 from {small} to {large} codes grows {growth.wall:.2f} x ({growth.cpu:.2f} x in CPU time)"
    for name, reason in group.skipped.items():
        if name.partition(" (")[0] not in absent:
            yield f"without {name}: {reason}"


def _exact(row: Row) -> str:
    if not row.verdict.checked:
        return "?"
    return "ordered" if row.verdict.ordered else "yes" if row.verdict.exact else "NO"


def _build_tables(report: SearchReport) -> "Iterator[Table]":
    for data in dict.fromkeys(data for data, _ in report.builds):
        title = f"{data}\nbuilds in fresh processes, one thread; memory beside the codes"
        columns = ("bits", "seconds", "fastest", "B/code", "peak B/code", "peak / result")
        table = _table(title, "N", "searcher", *columns)
        for build in (build for described, build in report.builds if described == data):
            table.add_row(
                short_count(build.n),
                build.searcher,
                str(build.bits),
                f"{build.seconds:.2f}",
                f"{build.fewest:.2f}",
                "" if build.result is None else f"{build.result / build.n:.1f}",
                "" if build.peak is None else f"{build.peak / build.n:.1f}",
                "" if build.peak_ratio is None else f"{build.peak_ratio:.2f}",
            )
        yield table


def _process_table(report: SearchReport) -> "Table":
    title = "qo-search with a picture of the index, from start to end, in seconds"
    table = _table(title, "N", "data", "bits", "hits", "median", "min", "CPU", "Python, NumPy alone")
    for data, timing in report.processes:
        table.add_row(
            short_count(timing.n),
            data,
            str(timing.bits),
            str(timing.hits),
            *(f"{value:.3f}" for value in (timing.median, min(timing.seconds), timing.cpu_median)),
            f"{timing.baseline_median:.3f}",
        )
    return table


def _micros(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.2f} s"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def _ratio(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
