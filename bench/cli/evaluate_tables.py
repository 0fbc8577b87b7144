"""The tables that qo-eval prints."""

from collections.abc import Mapping

from rich.table import Table

from queryopt.bench.quality.evaluate import Evaluation
from queryopt.text import display_path

__all__ = ["class_table", "figure_table"]

_MAP = "mAP, mean over orders of ties"


def figure_table(evaluations: Mapping[str, Evaluation]) -> Table:
    """A column an evaluation, by its title; a row a figure."""
    table = _table("", evaluations)
    columns = [_figures(evaluation) for evaluation in evaluations.values()]
    for name in dict.fromkeys(name for column in columns for name in column):
        table.add_row(name, *(column.get(name, "") for column in columns), style="bold" if name == _MAP else None)
    return table


def class_table(evaluations: Mapping[str, Evaluation], count: int) -> Table:
    """The mAP of the `count` classes that the first evaluation finds worst, and their number of queries."""
    first, *_ = evaluations.values()
    scores = [{score.label: score.map for score in evaluation.per_class} for evaluation in evaluations.values()]
    worst = first.per_class[:count]
    table = _table(f"worst {len(worst)} of {len(first.per_class)} classes, mAP", evaluations)
    table.add_column("queries", justify="right")
    for score in worst:
        values = [f"{column[score.label]:.4f}" if score.label in column else "" for column in scores]
        table.add_row(display_path(str(score.label)), *values, f"{score.queries:,}")
    return table


def _table(first: str, evaluations: Mapping[str, Evaluation]) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column(first)
    for title in evaluations:
        table.add_column(title, justify="right", overflow="fold")
    return table


def _figures(evaluation: Evaluation) -> dict[str, str]:
    metrics = evaluation.metrics
    shares = {_MAP: metrics.map, "  worst order": metrics.map_pessimistic, "  best order": metrics.map_optimistic}
    shares["  a random ranking"] = metrics.chance
    shares |= {f"mAP at {k}": value for k, value in metrics.map_at.items()}
    shares |= {f"precision at {k}": value for k, value in metrics.precision_at.items()}
    for radius, value in metrics.recall_at_radius.items():
        within = f"within {radius} {'bit' if radius == 1 else 'bits'}"
        shares[f"recall {within}"] = value
        shares[f"precision {within}"] = metrics.precision_at_radius[radius]
    counts = {
        "bits": evaluation.bits,
        "gallery": evaluation.gallery,
        "classes in it": evaluation.classes,
        "queries": metrics.queries,
        "  in the gallery themselves": evaluation.own,
        "  left out, nothing relevant": metrics.skipped_queries,
    }
    return {name: f"{value:.4f}" for name, value in shares.items()} | {n: f"{count:,}" for n, count in counts.items()}
