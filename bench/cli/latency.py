"""qo-bench latency: models beside each other, in whatever runs them, and beside the machine's peak."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from queryopt.bench.cli.options import (
    ModelFiles,
    check_picture,
    count,
    listed,
    model_files_options,
    show,
    untrained_options,
)
from queryopt.bench.speed.untrained import Untrained
from queryopt.cli import Command, Output, common_options, option_group, threads_option
from queryopt.errors import MissingError, UsageError
from queryopt.text import did_you_mean, display_path

if TYPE_CHECKING:
    from queryopt.bench.speed.latency.contenders import ModelContender

__all__ = ["command"]


@dataclass(frozen=True)
class LineUp:
    """Who is measured: model files, or without them an untrained network in each precision, and peers."""

    files: ModelFiles
    peers: tuple[str, ...]
    untrained: Untrained | None
    precisions: tuple[str, ...] | None

    def __post_init__(self) -> None:
        if self.files.models and self.untrained is not None and not {"eager", "eager-bf16"}.intersection(self.peers):
            raise UsageError("--backbone and --bits are of an untrained network, and there is none: leave them out")
        if self.files.models and self.precisions:
            raise UsageError("--precision is of an untrained network: a --model has its own")

    def open(self, out: Output, threads: int, stack: contextlib.ExitStack) -> "list[ModelContender]":
        """Peers first: the first of them is the reference. All are closed by the stack."""
        from queryopt.bench.speed.latency.contenders import check_peers, open_model, open_peer

        peers = () if self.peers == ("none",) else self.peers
        check_peers(peers)
        network = self.untrained or Untrained()
        opened: list[ModelContender] = []
        for peer in peers:
            opened.append(open_peer(peer, network, threads))
            stack.callback(opened[-1].close)
        for path, name, backend in self.files if self.files.models else self._untrained(out, network, stack):
            try:
                opened.append(open_model(path, backend, threads, name))
            except MissingError as error:
                if self.files.models or len(self.files.backends) == 1:
                    raise
                out.warn(f"without {name} on {backend}: {error}")  # no backend has every precision
            else:
                stack.callback(opened[-1].close)
        return opened

    def _untrained(
        self, out: Output, network: Untrained, stack: contextlib.ExitStack
    ) -> Iterator[tuple[Path, str, str]]:
        from queryopt.bench.speed.untrained import in_precision
        from queryopt.export.options import PRECISIONS

        precisions = self.precisions or ("fp32",)
        for precision in precisions:
            if precision not in PRECISIONS:
                known = ", ".join(PRECISIONS)
                raise UsageError(f"--precision {precision}: one of {known}{did_you_mean(precision, PRECISIONS)}")
        out.log(f"exporting an untrained {network.backbone}: {', '.join(precisions)}")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="queryopt-latency-")))
        folded = network.export(folder / "folded.onnx")
        made: list[tuple[Path, str]] = []
        for precision in precisions:
            if precision == "fp32":
                plain = network.export(folder / "plain.onnx", fold=False)
                made += [(plain, "plain"), (folded, "folded")]
            else:
                made.append((in_precision(folded, folder / f"{precision}.onnx", precision), f"folded, {precision}"))
        for path, name in made:
            for backend in self.files.backends:
                yield path, name, backend


line_up_options = option_group(
    "line_up",
    LineUp,
    model_files_options(
        "A model.onnx or model.plan; may be given again.  [default: an untrained one, plain and folded]"
    ),
    click.option(
        "--peers",
        callback=listed(str, "eager,resnet50"),
        metavar="NAME,…",
        default="eager",
        show_default=True,
        help="eager, eager-bf16: the network in PyTorch; resnet50: the plain ResNet-50 in ONNX Runtime; or none.",
    ),
    untrained_options,
    click.option(
        "--precision",
        "precisions",
        callback=listed(str, "fp32,bf16,int8"),
        metavar="P,…",
        help="Of the untrained network: fp32 (plain and folded), fp16, bf16, int8.  [default: fp32]",
    ),
)


@click.command("latency", cls=Command, short_help="Milliseconds a batch of models, beside peers and the peak.")
@line_up_options
@click.option("--reference", type=click.IntRange(1), help="Number of the row that is 1.  [default: the first peer]")
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
    line_up: LineUp,
    batches: tuple[int, ...],
    reference: int | None,
    picture: Path | None,
    rounds: int,
    seconds: float,
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
    if not batches:
        raise UsageError("--batch: give at least one")
    if picture is not None:
        check_picture(picture)
    from queryopt.bench.speed.latency.report import measure_latency
    from queryopt.cores import usable_cores

    used = threads or usable_cores()
    with contextlib.ExitStack() as stack:
        contenders = line_up.open(out, used, stack)
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
    show(out, report)
    if picture is not None:
        from queryopt.bench.speed.latency.plot import plot_latency

        plot_latency(report, picture)
        out.log(f"picture: {display_path(picture)}")
