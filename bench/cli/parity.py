"""qo-bench parity: the codes of forms of one network beside each other."""

import contextlib
from typing import TYPE_CHECKING, Any

import click

from queryopt.bench.cli.options import backends_option, parse_model, whole_number
from queryopt.cli import Command, Output, batch_option, common_options, threads_option
from queryopt.errors import ExitCode, ParityError, UsageError
from queryopt.export.parity_options import limit_options
from queryopt.text import counted

if TYPE_CHECKING:
    from queryopt.export.parity import ParityReport, ParitySide
    from queryopt.export.pictures import ParityPictures
    from queryopt.train.checkpoint import Checkpoint

__all__ = ["command"]


@click.command("parity", cls=Command, short_help="Flipped bits, top-10 overlap and mAP of models beside each other.")
@click.argument("folder", required=False)
@click.option(
    "--model",
    "models",
    metavar="FILE[@BACKEND]",
    multiple=True,
    help="A model.onnx or model.plan; may be given again. Without --ckpt the first one is the reference.",
)
@click.option("--ckpt", "checkpoint", metavar="RUN_OR_FILE", help="The reference: the trained network in PyTorch.")
@backends_option
@click.option(
    "--min-bits",
    callback=whole_number,
    metavar="N",
    default="20000",
    show_default=True,
    help="Bits to compare at least; flips and crops of the pictures fill up.",
)
@limit_options
@batch_option(32)
@threads_option
@common_options
def command(
    out: Output,
    folder: str | None,
    models: tuple[str, ...],
    checkpoint: str | None,
    backends: tuple[str, ...],
    min_bits: int,
    max_flip_rate: float | None,
    max_map_drop: float | None,
    batch: int,
    threads: int | None,
) -> ExitCode:
    """Compare the codes of models of one checkpoint, in any backend and precision, on the same pictures.

    The first is the reference: with --ckpt the trained network in PyTorch, else the first --model. Counted are bits
    that differ from it, with the 95 % bound of their rate; top-10: the share of each picture's ten nearest others that
    both name. The name of the sub-folder that a picture of FOLDER lies in is its class: mAP is the tie-aware mean
    average precision of all labelled pictures against each other. Without FOLDER the validation pictures of the --ckpt
    are taken. qo-export applies the same limits before it writes a model.

    \b
    Examples:
      qo-bench parity --ckpt runs/a --model runs/a/model.onnx --backend onnxruntime,openvino
      qo-bench parity --model fp32.onnx@onnxruntime --model int8.onnx@openvino photos/
      qo-bench parity --model model.onnx --model model.plan photos/

    \b
    Exit codes:
      0  done, and every model within the limits
      1  done, but pictures could not be read
      2  wrong usage; models of different checkpoints or code lengths
      4  a backend's package or device is not there
      5  a model is above a limit
    """
    if not backends:
        raise UsageError("--backend: give at least one")
    if folder is None and checkpoint is None:
        raise UsageError("give a FOLDER of pictures, or --ckpt RUN, whose validation pictures are taken")
    named = [parse_model(text) for text in models]
    asked = [(p, n, one) for p, n, wanted in named for one in (backends if wanted is None else (wanted,))]
    if len(asked) + (checkpoint is not None) < 2:
        raise UsageError("there is nothing to compare: give two of --model FILE[@BACKEND], or one with --ckpt RUN")
    from queryopt.export.parity import compare_sides, open_side

    loaded = _load(checkpoint)
    pictures = _pictures(folder, loaded, out)
    with contextlib.ExitStack() as stack:
        sides = [] if loaded is None else [open_side(loaded, "auto", threads, stack)]
        sides += [open_side(path, backend, threads, stack, name) for path, name, backend in asked]
        reports = compare_sides(
            sides[0],
            sides[1:],
            pictures.paths,
            labels=pictures.labels,
            min_bits=min_bits,
            batch=batch,
            progress=out.progress,
        )
    values: list[dict[str, Any]] = []
    refused: list[str] = []
    for side, report in zip(sides[1:], reports, strict=True):
        limits = report.limits(max_flip_rate, max_map_drop)
        reason = None
        try:
            report.require(**limits)
        except ParityError as error:
            reason = str(error)
            refused.append(f"{side.name}: {reason}")
        values.append({"model": side.name, **report.to_dict(), **limits, "refused": reason})
    failures = dict(reports[0].failures)
    out.result(_values(sides[0], reports[0], values, pictures, failures))
    for name, why in failures.items():
        out.warn(f"{name}: {why}: not compared")
    if reports[0].distinct_codes == 1:
        out.warn(f"{sides[0].name} gives every picture the same code: that others agree says little")
    _print(out, sides, reports, values, pictures)
    if refused:
        raise ParityError("; ".join(refused))
    return ExitCode.SOME_FAILED if failures else ExitCode.DONE


def _load(checkpoint: str | None) -> "Checkpoint | None":
    if checkpoint is None:
        return None
    from queryopt.train.run_files import find_checkpoint

    find_checkpoint(checkpoint)  # what is wrong with its path is said without torch, whose import takes seconds
    from queryopt.train.checkpoint import load_checkpoint

    return load_checkpoint(checkpoint)


def _pictures(folder: str | None, checkpoint: "Checkpoint | None", out: Output) -> "ParityPictures":
    from queryopt.export.pictures import labelled_in, parity_pictures

    if folder is not None:
        return labelled_in(folder, "FOLDER")
    assert checkpoint is not None
    return parity_pictures(checkpoint, None, out.progress)


def _values(
    reference: "ParitySide",
    report: "ParityReport",
    models: list[dict[str, Any]],
    pictures: "ParityPictures",
    failures: dict[str, str],
) -> dict[str, Any]:
    return {
        "reference": {"model": reference.name, "backend": report.reference, "precision": report.reference_precision},
        "models": models,
        "source": pictures.source,
        "failures": failures,
    }


def _print(
    out: Output,
    sides: list["ParitySide"],
    reports: tuple["ParityReport", ...],
    values: list[dict[str, Any]],
    pictures: "ParityPictures",
) -> None:
    from rich.table import Table

    first = reports[0]
    out.print(
        f"{first.bits_compared:,} bits: {counted(first.views, 'view', 'views')} of "
        f"{counted(first.pictures, 'picture', 'pictures')} ({pictures.source})"
    )
    if first.map is not None:
        out.print(
            f"mAP of {counted(first.map.queries, 'picture', 'pictures')} of "
            f"{counted(first.map.classes, 'class', 'classes')} against each other, ties counted exactly"
        )
    table = Table(title=f"Beside {sides[0].name} on {first.reference}", title_justify="left")
    for name in ("", "runs on", ""):
        table.add_column(name)
    for name in ("bits flipped", "rate", "95 % below", "top-10", "logits differ by", "mAP", "points", "limit"):
        table.add_column(name, justify="right", no_wrap=True)
    own = "" if first.map is None else f"{100 * first.map.reference:.2f}"
    table.add_row(sides[0].name, first.reference, first.reference_precision, *[""] * 5, own, "", "")
    for side, report, value in zip(sides[1:], reports, values, strict=True):
        table.add_row(*_row(side, report, value))
    out.print(table)


def _row(side: "ParitySide", report: "ParityReport", value: dict[str, Any]) -> list[str]:
    change = report.map
    return [
        side.name,
        report.backend,
        report.precision,
        f"{report.flipped:,}",
        f"{100 * report.flip_rate:.3f} %",
        f"{100 * report.flip_rate_upper_95:.3f} %",
        f"{report.top10_overlap:.4f}",
        f"{report.max_logit_difference:.1e}",
        "" if change is None else f"{100 * change.model:.2f}",
        "" if change is None else f"{change.points:+.2f}",
        f"{100 * value['max_flip_rate']:g} %" + (" REFUSED" if value["refused"] else ""),
    ]
