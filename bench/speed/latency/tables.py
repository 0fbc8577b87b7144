"""A LatencyReport as a table."""

from rich.table import Table

from queryopt.bench.speed.latency.report import LatencyReport

__all__ = ["latency_table"]


def latency_table(report: LatencyReport) -> Table:
    """A row a contender and batch size."""
    table = Table(title=f"One call; x is beside {report.reference}", title_justify="left")
    for name in ("", "runs on", ""):
        table.add_column(name)
    times = ("batch", "p50 ms", "p95", "p99", "first", "CPU ms", "images/s")
    for name in (*times, "x", "x CPU", "GFLOP/s", "of peak", "weights read"):
        table.add_column(name, justify="right", no_wrap=True)
    batch = report.rows[0].batch
    for row in report.rows:
        if row.batch != batch:
            table.add_section()
            batch = row.batch
        table.add_row(
            row.name,
            row.runs_on,
            row.precision,
            str(row.batch),
            *(f"{1000 * value:,.2f}" for value in (row.p50, row.p95, row.p99, row.first, row.cpu)),
            f"{row.images_per_second:,.1f}",
            f"{row.wall_ratio:.2f}",
            f"{row.cpu_ratio:.2f}",
            "" if row.flops is None else f"{row.flops / 1e9:,.0f}",
            "" if row.peak_share is None else f"{row.peak_share:.0%}",
            "" if row.memory_share is None else f"{row.memory_share:.0%}",
        )
    return table
