"""A study's tables: each arm's mean and spread over its seeds, with the paper's row beside it."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

from queryopt.bench.figure import new_figure
from queryopt.bench.quality.ablation.paper import paper_map
from queryopt.bench.quality.ablation.studies import Study

__all__ = [
    "COLUMNS",
    "LEGEND",
    "Column",
    "Row",
    "StudyTable",
    "Value",
    "cells",
    "markdown",
    "plot_study",
    "study_table",
]


@dataclass(frozen=True)
class Value:
    """A figure over seeds. spread: its standard deviation (n - 1), None for one seed."""

    mean: float
    spread: float | None
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Value":
        spread = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), spread, min(values), max(values))


@dataclass(frozen=True)
class Column:
    """A figure of a run. read: result -> number, or None where the run has none. digits: after the point."""

    name: str
    title: str
    read: Callable[[Mapping[str, Any]], float | None]
    digits: int = 3

    def show(self, value: Value | None) -> str:
        """`0.812 ± 0.021`, `0.812` of one seed, or a dash."""
        if value is None:
            return "–"
        spread = f" ± {value.spread:.{self.digits}f}" if value.spread is not None else ""
        return f"{value.mean:.{self.digits}f}{spread}"


def _at(*keys: str) -> Callable[[Mapping[str, Any]], float | None]:
    def read(result: Mapping[str, Any]) -> float | None:
        value: Any = result
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return None if value is None else float(value)

    return read


COLUMNS = (
    Column("deployed", "seen: deployed", _at("deployed", "map")),
    Column("deployed_weighted", "by logits", _at("deployed", "map_weighted")),
    Column("paper_protocol", "solved gallery", _at("paper", "map")),
    Column("limit", "codes' limit", _at("limit", "map")),
    Column("unseen", "unseen: deployed", _at("unseen", "map")),
    Column("unseen_weighted", "by logits", _at("unseen", "map_weighted")),
    Column("unseen_limit", "class codes", _at("unseen", "map_class_codes")),
    Column("unseen_uncut", "uncut", _at("unseen", "map_uncut")),
    Column("distinct_solved", "distinct codes: solved", _at("codes", "distinct_solved"), 0),
    Column("distinct_network", "network", _at("codes", "distinct_network"), 0),
    Column("bit_accuracy", "bit accuracy", _at("training", "bit_accuracy")),
    Column("rms_columns", "rms cosine", _at("codes", "rms_columns")),
    Column("welch_columns", "Welch bound", _at("codes", "welch_columns")),
    Column("seconds", "seconds", _at("seconds"), 0),
)
"""What a table shows of a row."""

_SERIES = (
    ("deployed", "seen classes, deployed", "#33608c"),
    ("paper_protocol", "seen classes, gallery of solved codes", "#93c6d6"),
    ("unseen", "unseen classes, deployed", "#e3a93f"),
)
_PAPER = "#c6543c"

LEGEND = (
    "mAP over the orders of ties. deployed: network codes on both sides; by logits: the same, ranked by the query's "
    "logits; solved gallery: gallery codes solved from labels, as the paper ranks; codes' limit: if every picture had "
    "its class's solved code, what shared codes leave to be had; class codes: if every picture of an unseen class had "
    "the code that most of its class have; uncut: ranked by the cosine of logits that are not cut to bits. distinct "
    "codes: among the seen classes' (a bit is the sign of its class's mean). bit accuracy: of the network against the "
    "solved codes. rms cosine and Welch bound: between the classes' solved codes over all columns of training. "
    "±: standard deviation over seeds."
)
"""What the columns are."""


@dataclass(frozen=True)
class Row:
    """An arm. values: by column, where its runs have them. paper: the paper's mAP in %, where it reports one."""

    arm: str
    label: str
    seeds: tuple[int, ...]
    values: Mapping[str, Value]
    paper: float | None


@dataclass(frozen=True)
class StudyTable:
    """A study's rows, in its order; arms that have no run yet are `missing`."""

    study: str
    title: str
    bits: int
    rows: tuple[Row, ...]
    missing: tuple[str, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """Those that any row has."""
        return tuple(column for column in COLUMNS if any(column.name in row.values for row in self.rows))

    @property
    def has_paper(self) -> bool:
        """Whether the paper reports any of the rows."""
        return any(row.paper is not None for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def study_table(study: Study, bits: int, results: Sequence[Mapping[str, Any]], data_set: str = "") -> StudyTable:
    """The table of a study from the results of runs, those of other studies being passed over.

    data_set: the name of an official data set, for the paper's rows.
    """
    rows, missing = [], []
    for arm in study.arms(bits):
        own = [result for result in results if result["arm"] == arm.name]
        if not own:
            missing.append(arm.name)
            continue
        figures = {column.name: [column.read(result) for result in own] for column in COLUMNS}
        values = {k: Value.of([v for v in some if v is not None]) for k, some in figures.items() if None not in some}
        length = int(arm.settings.get("bits", bits))
        seeds = tuple(sorted(result["seed"] for result in own))
        rows.append(Row(arm.name, arm.label, seeds, values, paper_map(data_set, arm.paper, length)))
    return StudyTable(study.name, study.title, bits, tuple(rows), tuple(missing))


def cells(table: StudyTable) -> tuple[list[str], list[list[str]]]:
    """The table in words: its heading and its rows."""
    heading = ["", "seeds", *(column.title for column in table.columns), *(["the paper"] if table.has_paper else [])]
    lines = []
    for row in table.rows:
        line = [row.label, str(len(row.seeds)), *(column.show(row.values.get(column.name)) for column in table.columns)]
        if table.has_paper:
            line.append("–" if row.paper is None else f"{row.paper:.2f} %")
        lines.append(line)
    return heading, lines


def markdown(tables: Sequence[StudyTable], about: Sequence[str] = ()) -> str:
    """The tables as Markdown. about: lines to say first."""
    parts = ["# Studies", *about, LEGEND]
    for table in tables:
        heading, lines = cells(table)
        rows = [heading, ["---", *("---:" for _ in heading[1:])], *lines]
        parts.append(f"## {table.title}")
        parts.append("\n".join("| " + " | ".join(row) + " |" for row in rows))
        if table.missing:
            parts.append(f"Not run yet: {', '.join(table.missing)}.")
    return "\n\n".join(parts) + "\n"


def plot_study(table: StudyTable, file: BinaryIO) -> None:
    """Draw a PNG: each arm's mAP with its seeds' range, seen and unseen classes apart, and what the paper reports."""
    series = [part for part in _SERIES if any(part[0] in row.values for row in table.rows)]
    figure = new_figure(9, 1.6 + 0.55 * max(1, len(table.rows)))
    axes = figure.subplots()
    height = 0.8 / max(1, len(series))
    for n, (name, label, colour) in enumerate(series):
        drawn = [(i, row.values[name]) for i, row in enumerate(table.rows) if name in row.values]
        at = [i + (n - (len(series) - 1) / 2) * height for i, _ in drawn]
        means = [value.mean for _, value in drawn]
        ranges = [[v.mean - v.low for _, v in drawn], [v.high - v.mean for _, v in drawn]]
        axes.barh(at, means, height * 0.92, xerr=ranges, color=colour, label=label, error_kw={"linewidth": 1})
    marked = [(i, row.paper / 100) for i, row in enumerate(table.rows) if row.paper is not None]
    if marked:
        axes.scatter([x for _, x in marked], [i for i, _ in marked], marker="D", color=_PAPER, label="the paper")
    labels = [f"{row.label}  ({len(row.seeds)})" for row in table.rows]
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set(
        xlim=(0, 1), xlabel="tie-aware mAP; whiskers: smallest and largest of the seeds (their number in brackets)"
    )
    axes.set_title(table.title, loc="left")
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if table.rows:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=4, frameon=False, fontsize=8)
    figure.savefig(file, dpi=130, format="png")
