"""qo-bench latency: models beside each other, in whatever runs them, and beside the machine's peak."""

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from queryopt.bench.cli.options import backends_option, check_picture, count, listed, parse_model
from queryopt.cli import Command, Output, common_options, threads_option
from queryopt.errors import MissingError, UsageError
from queryopt.text import counted, did_you_mean, display_path

if TYPE_CHECKING:
    from rich.table import Table

    from queryopt.bench.speed.latency.contenders import Contender, Subject
    from queryopt.bench.speed.latency.report import LatencyReport

__all__ = ["command"]


@click.command("latency", cls=Command, short_help="Milliseconds a batch of models, beside peers and the peak.")
@click.option(
    "--model",
    "models",
    metavar="FILE[@BACKEND]",
    multiple=True,
    help="A model.onnx or model.plan; may be given again.  [default: an untrained one, plain and folded]",
)
@backends_option
@click.option(
    "--peers",
    callback=listed(str, "eager,resnet50"),
    metavar="NAME,…",
    default="eager",
    show_default=True,
    help="eager, eager-bf16: the network in PyTorch; resnet50: the plain ResNet-50 in ONNX Runtime; or none.",
)
@click.option("--reference", type=click.IntRange(1), help="Number of the row that is 1.  [default: the first peer]")
@click.option("--backbone", metavar="NAME", help="Of the untrained network.  [default: resnet50]")
@click.option("--bits", type=click.IntRange(1, 64), help="Of the untrained network.  [default: 12]")
@click.option(
    "--precision",
    "precisions",
    callback=listed(str, "fp32,bf16,int8"),
    metavar="P,…",
    help="Of the untrained network: fp32 (plain and folded), fp16, bf16, int8.  [default: fp32]",
)
@click.option(
    "--batch", "batches", callback=listed(count, "1,8,32"), metavar="B,…", default="1", show_default=True,
    help="Pictures a call.",
)  # fmt: skip
@click.option("--rounds", type=click.IntRange(1), default=10, show_default=True, help="Rounds of all in turn.")
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=5,
    show_default=True,
    help="Time of each at a batch size, in all rounds.",
)
@click.option("--png", "picture", type=click.Path(path_type=Path), help="Draw rates and a roofline into this file.")
@threads_option
@common_options
def command(
    out: Output,
    models: tuple[str, ...],
    backends: tuple[str, ...],
    peers: tuple[str, ...],
    reference: int | None,
    backbone: str | None,
    bits: int | None,
    precisions: tuple[str, ...] | None,
    batches: tuple[int, ...],
    rounds: int,
    seconds: float,
    picture: Path | None,
    threads: int | None,
) -> None:
    """Measure how long models take for a batch of pictures in memory.

    All take their turns in rounds of rotated order. `x` is how many times as fast as the reference, by median wall
    time; `x CPU` by CPU time, which is to be trusted where other programs run. `of peak`: of a large matrix product
    in the same precision, in the same rounds. Multiply-adds are counted from the graphs.

    \b
    Examples:
      qo-bench latency --peers eager,resnet50
      qo-bench latency --precision fp32,bf16,int8 --backend onnxruntime,openvino --batch 1,8,32
      qo-bench latency --model model.onnx --backend onnxruntime,openvino --batch 1,8,32 --threads 1
      qo-bench latency --model fp32.onnx@onnxruntime --model int8.onnx@openvino
    """
    names = () if peers == ("none",) else peers
    if models and (backbone is not None or bits is not None) and not set(names) & {"eager", "eager-bf16"}:
        raise UsageError("--backbone and --bits are of an untrained network, and there is none: leave them out")
    if models and precisions:
        raise UsageError("--precision is of an untrained network: a --model has its own")
    if not batches or not backends:
        raise UsageError("--batch and --backend: give at least one of each")
    if picture is not None:
        check_picture(picture)
    from queryopt.bench.speed.latency.contenders import Subject, check_peers
    from queryopt.bench.speed.latency.report import measure_latency
    from queryopt.bench.speed.latency.tables import latency_table
    from queryopt.cores import usable_cores

    check_peers(names)
    used = threads or usable_cores()
    subject = Subject(bits or 12, backbone or "resnet50", used)
    with tempfile.TemporaryDirectory(prefix="queryopt-latency-") as temporary, contextlib.ExitStack() as stack:
        contenders = _open(out, models, precisions or ("fp32",), backends, names, subject, Path(temporary), stack)
        if reference is not None and reference > len(contenders):
            raise UsageError(f"--reference {reference}: there are {len(contenders)} rows")
        with out.progress("measure", len(contenders) * rounds * len(batches), unit="parts") as advance:
            report = measure_latency(
                contenders,
                batches,
                reference=reference - 1 if reference else 0,
                threads=used,
                rounds=rounds,
                seconds=seconds,
                layers=picture is not None,
                progress=advance,
            )
    out.result(report.to_dict())
    out.print(_describe(report))
    for table in (latency_table(report), _paper()):
        out.print(table, "")
    if picture is not None:
        from queryopt.bench.speed.latency.plot import plot_latency

        plot_latency(report, picture)
        out.log(f"picture: {display_path(picture)}")


def _open(
    out: Output,
    models: tuple[str, ...],
    precisions: tuple[str, ...],
    backends: tuple[str, ...],
    peers: tuple[str, ...],
    subject: "Subject",
    folder: Path,
    stack: contextlib.ExitStack,
) -> list["Contender"]:
    """Peers first: the first of them is the reference."""
    from queryopt.bench.speed.latency.contenders import open_model, open_peer

    opened: list[Contender] = []

    def add(contender: "Contender") -> None:
        opened.append(contender)
        stack.callback(contender.close)

    for name in peers:
        add(open_peer(name, subject))
    untrained = [] if models else _untrained(out, subject, precisions, folder)
    named = [parse_model(text) for text in models] + [(path, name, None) for path, name in untrained]
    for path, name, wanted in named:
        for backend in backends if wanted is None else (wanted,):
            try:
                add(open_model(path, backend, subject.threads, name))
            except MissingError as error:
                if models or len(backends) == 1:
                    raise
                out.warn(f"without {name} on {backend}: {error}")  # no backend has every precision
    return opened


def _untrained(out: Output, subject: "Subject", precisions: tuple[str, ...], folder: Path) -> list[tuple[Path, str]]:
    from queryopt.bench.speed.untrained import in_precision, untrained_model
    from queryopt.export.precision import PRECISIONS

    for precision in precisions:
        if precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise UsageError(f"--precision {precision}: one of {known}{did_you_mean(precision, PRECISIONS)}")
    out.log(f"exporting an untrained {subject.backbone}: {', '.join(precisions)}")
    folded = untrained_model(folder / "folded.onnx", subject.backbone, subject.bits)
    made = []
    for precision in precisions:
        if precision == "fp32":
            plain = untrained_model(folder / "plain.onnx", subject.backbone, subject.bits, fold=False)
            made += [(plain, "plain"), (folded, "folded")]
        else:
            lowered = in_precision(folded, folder / f"{precision}.onnx", precision)
            made.append((lowered, f"folded, {precision}"))
    return made


def _describe(report: "LatencyReport") -> str:
    peaks = ", ".join(f"{name} {value / 1e9:,.0f} GFLOP/s" for name, value in report.peaks.flops.items())
    load = "" if report.load is None else f"; load average {report.load[0]:.2f} before, {report.load[1]:.2f} after"
    return (
        f"{report.machine}\n{counted(report.threads, 'thread', 'threads')}, {report.rounds} rounds{load}\n"
        f"peak of a large product: {peaks or 'not measured'}; reading memory: "
        f"{report.peaks.bytes_per_second / 1e9:.1f} GB/s"
    )


def _paper() -> "Table":
    from rich.table import Table

    from queryopt.bench.speed.flops import PAPER_TABLE_4

    table = Table(title="The paper's Table 4, which has no times", title_justify="left")
    table.add_column("method")
    table.add_column("parameters", justify="right")
    table.add_column("multiply-adds", justify="right")
    for row in PAPER_TABLE_4:
        table.add_row(row.name, f"{row.parameters / 1e6:.2f} M", f"{row.inference / 1e9:.2f} G")
    return table
