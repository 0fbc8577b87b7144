"""What the search benchmark found: figures of every contender and how they compare, as JSON and as tables."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from queryopt.bench.machine import Head
from queryopt.bench.speed.harness import WallCpu
from queryopt.bench.speed.search.contender import PEERS, Task
from queryopt.bench.tables import Columns, rows_table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["Group", "Row", "SearchReport", "is_ours", "short_count"]

_SCAN = "queryopt scan"
_BUSY = 0.9
"""Share of the wall time that a contender ran, below which others were running in its place."""


Row = dict[str, Any]
"""Of a contender on a gallery, for JSON: see queryopt.bench.speed.search.run."""


@dataclass(frozen=True)
class Group:
    """What was measured together, interleaved: all contenders on galleries of all sizes of one kind of data.

    skipped: reason by "searcher (N = …)".
    """

    data: str
    bits: int
    task: Task
    rows: tuple[Row, ...]
    skipped: dict[str, str]

    def of(self, searcher: str) -> list[Row]:
        """One contender's rows, by size."""
        return sorted((row for row in self.rows if row["searcher"] == searcher), key=lambda row: row["n"])

    def growth(self) -> dict[str, WallCpu]:
        """By contender: how many times its median on the largest gallery is that on the smallest, where they differ."""
        times = {}
        for name in dict.fromkeys(row["searcher"] for row in self.rows):
            rows = self.of(name)
            small, large = rows[0], rows[-1]
            if large["n"] > small["n"]:
                times[name] = WallCpu(large["p50"] / small["p50"], large["cpu_p50"] / small["cpu_p50"])
        return times

    def p95_to_scan(self) -> dict[str, dict[int, WallCpu]]:
        """Of queryopt's structures beside its scan: by contender and size, its p95 as a multiple of the scan's."""
        scans = {row["n"]: row for row in self.of(_SCAN)}
        multiples: dict[str, dict[int, WallCpu]] = {}
        for row in self.rows:
            scan = scans.get(row["n"])
            if scan is not None and is_ours(row) and row is not scan:
                compared = WallCpu(row["p95"] / scan["p95"], row["cpu_p95"] / scan["cpu_p95"])
                multiples.setdefault(row["searcher"], {})[row["n"]] = compared
        return multiples

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {
            "growth": {name: asdict(growth) for name, growth in self.growth().items()},
            "p95_to_scan": {
                name: {size: asdict(compared) for size, compared in sizes.items()}
                for name, sizes in self.p95_to_scan().items()
            },
        }

    def render(self, absent: Mapping[str, str]) -> "Iterator[RenderableType]":
        """Two tables, and the lines below them. absent: who is named at the report's end."""
        rows = sorted(self.rows, key=lambda row: row["n"])
        tables = {f"{self.bits} bits, {self.data}\n{self.task.describe()}; µs a query": self._columns(), None: _DETAILS}
        for title, columns in tables.items():
            if all(row["ratio"] is None for row in rows):  # the peer that ratios are taken to took no part
                columns = {name: cell for name, cell in columns.items() if not name.startswith("x ")}
            yield ""
            yield _table(title, rows, columns)
        yield from self._notes(absent)

    def _columns(self) -> Columns:
        held: Columns = {"B/code": lambda row: _per_code(row["nbytes"], row["n"])}
        return {
            **_ROW,
            "p50": lambda row: _micros(row["p50"]),
            "p95": lambda row: _micros(row["p95"]),
            "p99": lambda row: _micros(row["p99"]),
            "min": lambda row: _micros(row["fastest"]),
            f"x {PEERS[0]}": lambda row: _ratio(row["ratio"]),
            **({"G pairs/s": lambda row: f"{row['pairs'] / 1e9:,.2f}"} if self.task.batch > 1 else held),
            "recall": lambda row: f"{row['verdict'].recall:.3f}",
            "exact": lambda row: row["verdict"].text,
        }

    def _notes(self, absent: Mapping[str, str]) -> Iterator[str]:
        if any(row["cores"] < _BUSY for row in self.rows):
            yield "Other programs had the processor for a part of the time (cores below 1): trust CPU, not wall times."
        if self.task.radius is not None and self.rows:
            first = self.of(self.rows[0]["searcher"])
            hits = ", ".join(f"{row['hits']:,.1f} at {short_count(row['n'])}" for row in first)
            yield f"hits a query, on average: {hits}"
        for name, sizes in self.p95_to_scan().items():
            for size, p95 in sizes.items():
                times = f"{p95.wall:.3g} x the scan's ({p95.cpu:.3g} x in CPU time)"
                yield f"{name} at {short_count(size)}: its p95 is {times}"
        for name, growth in self.growth().items():
            small, *_, large = (short_count(row["n"]) for row in self.of(name))
            times = f"{growth.wall:.2f} x ({growth.cpu:.2f} x in CPU time)"
            yield f"{name}: p50 from {small} to {large} codes grows {times}"
        for name, reason in self.skipped.items():
            if name.partition(" (")[0] not in absent:
                yield f"without {name}: {reason}"


@dataclass(frozen=True)
class SearchReport:
    """What came out, and of what.

    one_thread: how each is held to one thread.
    builds, processes: ready for JSON.
    skipped: contenders that took part nowhere, with the reason.
    """

    head: Head
    one_thread: dict[str, str]
    groups: tuple[Group, ...]
    builds: tuple[dict[str, Any], ...]
    processes: tuple[dict[str, Any], ...]
    skipped: dict[str, str]

    @property
    def wrong(self) -> list[Row]:
        """Rows of queryopt's own that were not exact, or out of order."""
        rows = (row for group in self.groups for row in group.rows)
        return [row for row in rows if is_ours(row) and row["verdict"].checked and not row["correct"]]

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        del values["head"]
        return self.head.to_dict() | values | {"groups": [group.to_dict() for group in self.groups]}

    def render(self) -> "Iterator[RenderableType]":
        """All of it, for a terminal or a file, at most 100 columns wide."""
        yield self.head.text
        yield "; ".join(f"{name} {version}" for name, version in self.head.versions.items())
        if self.one_thread:
            yield "One thread each:"
            yield from (f"  {name}: {how}" for name, how in self.one_thread.items())
        for group in self.groups:
            yield from group.render(self.skipped)
        for data in dict.fromkeys(build["data"] for build in self.builds):
            builds = [build for build in self.builds if build["data"] == data]
            yield ""
            yield _table(f"{data}\nbuilds in fresh processes, one thread; memory beside the codes", builds, _BUILD)
        if self.processes:
            yield ""
            title = "qo-search with a picture of the index, from start to end, in seconds"
            yield _table(title, self.processes, _PROCESS)
        for name, reason in self.skipped.items():
            yield f"skipped: {name}: {reason}"


def is_ours(row: Row) -> bool:
    """Whether it is of queryopt's."""
    return str(row["searcher"]).startswith("queryopt")


def short_count(count: int) -> str:
    """A number of codes in few characters: 1e7, or 12,345 where that is no round number."""
    digits = str(count)
    if count >= 1000 and not digits[1:].strip("0"):
        return f"{digits[0]}e{len(digits) - 1}"
    return f"{count:,}"


def _micros(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.2f} s"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _per_code(size: int | None, count: int) -> str:
    return "" if size is None else f"{size / count:.1f}"


_ROW: Columns = {"N": lambda row: short_count(row["n"]), "searcher": "{searcher}"}

_DETAILS: Columns = {
    **_ROW,
    "build s": "{build:.2f}",
    "calls": "{calls:,}",
    "checked": lambda row: f"{row['verdict'].checked:,}",
    "CPU p50": lambda row: _micros(row["cpu_p50"]),
    "x CPU": lambda row: _ratio(row["cpu_ratio"]),
    "cores": "{cores:.2f}",
    "how": lambda row: ", ".join(fact for fact in row["facts"].values() if isinstance(fact, str)),
}

_BUILD: Columns = {
    **_ROW,
    "bits": "{bits}",
    "seconds": "{seconds:.2f}",
    "fastest": "{fewest:.2f}",
    "B/code": lambda build: _per_code(build["result"], build["n"]),
    "peak B/code": lambda build: _per_code(build["peak"], build["n"]),
    "peak / result": "{peak_ratio:.2f}",
}

_PROCESS: Columns = {
    "N": lambda row: short_count(row["n"]),
    "data": "{data}",
    "bits": "{bits}",
    "hits": "{hits}",
    "median": "{median:.3f}",
    "min": lambda row: f"{min(row['seconds']):.3f}",
    "CPU": "{cpu_median:.3f}",
    "Python, NumPy alone": "{baseline_median:.3f}",
}


def _table(title: str | None, rows: Iterable[Row], columns: Columns) -> "Table":
    table = rows_table(title, rows, columns, words=0, plain=True)
    for name, column in zip(columns, table.columns, strict=True):
        column.justify = "left" if name in ("searcher", "data", "how") else "right"
    return table
