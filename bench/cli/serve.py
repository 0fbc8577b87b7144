"""qo-bench serve: how many requests qo-serve answers, and how long they take."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from queryopt.bench.cli.options import count, listed, whole_number
from queryopt.cli import Command, Output, common_options, threads_option
from queryopt.errors import UsageError
from queryopt.text import did_you_mean

if TYPE_CHECKING:
    from queryopt.bench.speed.serve.load import LoadReport

__all__ = ["command"]


@click.command("serve", cls=Command, short_help="Requests a second of qo-serve, and their times.")
@click.option("--model", type=click.Path(path_type=Path), help="The model.  [default: as qo-infer finds one]")
@click.option(
    "--index",
    "index_path",
    type=click.Path(path_type=Path),
    help="The index.  [default: one is generated, see --images]",
)
@click.option(
    "--images",
    callback=whole_number,
    default="100000",
    show_default=True,
    help="Pictures of a generated index, 1e6 say.",
)
@click.option("--kinds", callback=listed(str, "code,upload"), help="code, page, upload.  [default: all]")
@click.option("--clients", callback=listed(count, "1,8,32"), default="1,8,32", show_default=True, help="At once.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 60),
    default=5,
    show_default=True,
    help="Of each kind and number of clients.",
)
@threads_option
@common_options
def command(
    out: Output,
    model: Path | None,
    index_path: Path | None,
    images: int,
    kinds: tuple[str, ...] | None,
    clients: tuple[int, ...],
    seconds: float,
    threads: int | None,
) -> None:
    """Put a bounded load on a qo-serve that is started for it on loopback, and stopped afterwards.

    Each client has a connection of its own, and asks again as soon as it has its answer. The clients run on the same
    machine: with few cores they take a part of what they measure. code is a search as JSON, page a page of hits as
    HTML, upload a picture of 640 x 480 pixels that is decoded, hashed and searched for.

    \b
    Examples:
      qo-bench serve --model model.onnx
      qo-bench serve --model model.onnx --images 1e6 --kinds code,page --json
    """
    import tempfile

    from queryopt.bench.speed.serve.generated import generate_index
    from queryopt.bench.speed.serve.load import KINDS, measure_load
    from queryopt.runtime.hasher import Hasher, find_model
    from queryopt.runtime.serve.server import require_packages

    require_packages()
    for kind in kinds or ():
        if kind not in KINDS:
            raise UsageError(f"no kind is called {kind!r}: there are {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")
    if not clients:
        raise UsageError("--clients: give at least one number")
    model = find_model(model)
    chosen = kinds or KINDS
    with tempfile.TemporaryDirectory() as folder:
        if index_path is None:
            index_path = Path(folder) / "generated.db"
            out.log(f"generating an index of {images:,} pictures")
            with Hasher(model, threads=1) as hasher:
                generate_index(index_path, hasher.card, images)
        with out.progress("measure", len(chosen) * len(clients), unit="runs") as advance:
            report = measure_load(index_path, model, chosen, clients, seconds, threads, advance)
    out.result(report.to_dict())
    _print(out, report)


def _print(out: Output, report: "LoadReport") -> None:
    from rich.table import Table

    out.print(
        f"{report.images:,} pictures, {report.bits} bits, {report.model}\n{report.machine}"
        + (f", load {report.load_before:.1f} before" if report.load_before is not None else "")
    )
    table = Table(
        "", "clients", "requests/s", "p50 ms", "p95 ms", "p99 ms", "503", "failed", "CPU ms", "model ms", "pictures/run"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for row in report.rows:
        table.add_row(
            row.kind,
            str(row.clients),
            f"{row.per_second:,.0f}",
            f"{row.p50_ms:.1f}",
            f"{row.p95_ms:.1f}",
            f"{row.p99_ms:.1f}",
            str(row.refused),
            str(row.failed),
            "" if row.cpu_ms is None else f"{row.cpu_ms:.1f}",
            "" if row.model_ms is None else f"{row.model_ms:.1f}",
            "" if row.pictures_a_run is None else f"{row.pictures_a_run:.1f}",
        )
    out.print(table)
