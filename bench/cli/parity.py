"""qo-bench parity: the codes of forms of one network beside each other."""

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from queryopt.bench.cli.options import ModelFiles, model_files_options, whole_number
from queryopt.bench.tables import figures_table
from queryopt.cli import Command, Output, batch_option, common_options, option_group, threads_option
from queryopt.errors import ExitCode, ParityError, UsageError
from queryopt.export.options import limit_options
from queryopt.text import counted

if TYPE_CHECKING:
    from queryopt.export.parity import ParityReport, ParitySide
    from queryopt.export.pictures import ParityPictures
    from queryopt.train.checkpoint import Checkpoint

__all__ = ["command"]


@dataclass(frozen=True)
class Limits:
    """What a model may differ by; None for the limit of its precision."""

    max_flip_rate: float | None
    max_map_drop: float | None


@click.command("parity", cls=Command, short_help="Flipped bits, top-10 overlap and mAP of models beside each other.")
@click.argument("folder", required=False)
@model_files_options("A model.onnx or model.plan; may be given again. Without --ckpt the first one is the reference.")
@click.option("--ckpt", "checkpoint", metavar="RUN_OR_FILE", help="The reference: the trained network in PyTorch.")
@click.option(
    "--min-bits",
    callback=whole_number,
    metavar="N",
    default="20000",
    show_default=True,
    help="Bits to compare at least; flips and crops of the pictures fill up.",
)
@option_group("limits", Limits, limit_options)
@batch_option(32)
@threads_option
@common_options
def command(
    out: Output,
    folder: str | None,
    files: ModelFiles,
    checkpoint: str | None,
    limits: Limits,
    min_bits: int,
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
    if folder is None and checkpoint is None:
        raise UsageError("give a FOLDER of pictures, or --ckpt RUN, whose validation pictures are taken")
    if len(list(files)) + (checkpoint is not None) < 2:
        raise UsageError("there is nothing to compare: give two of --model FILE[@BACKEND], or one with --ckpt RUN")
    from queryopt.export.parity import compare_sides, open_side

    reference = None if checkpoint is None else _load(checkpoint)
    pictures = _pictures(folder, reference, out)
    with contextlib.ExitStack() as stack:
        sides = [] if reference is None else [open_side(reference, "auto", threads, stack)]
        sides += [open_side(path, backend, threads, stack, name) for path, name, backend in files]
        reports = compare_sides(
            sides[0],
            sides[1:],
            pictures.paths,
            labels=pictures.labels,
            min_bits=min_bits,
            batch=batch,
            progress=out.progress,
        )
    values = [_values(side, report, limits) for side, report in zip(sides[1:], reports, strict=True)]
    return _show(out, sides, reports, values, pictures)


def _load(checkpoint: str) -> "Checkpoint":
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


def _values(side: "ParitySide", report: "ParityReport", limits: Limits) -> dict[str, Any]:
    """A model's figures, its limits, and which of them refuses it, for JSON."""
    applied = report.limits(limits.max_flip_rate, limits.max_map_drop)
    refused = None
    try:
        report.require(**applied)
    except ParityError as error:
        refused = str(error)
    return {"model": side.name, **report.to_dict(), **applied, "refused": refused}


def _show(
    out: Output,
    sides: list["ParitySide"],
    reports: tuple["ParityReport", ...],
    values: list[dict[str, Any]],
    pictures: "ParityPictures",
) -> ExitCode:
    """Print everything. ParityError where a model is refused."""
    first, name = reports[0], sides[0].name
    failures = dict(first.failures)
    reference = {"model": name, "backend": first.reference, "precision": first.reference_precision}
    out.result({"reference": reference, "models": values, "source": pictures.source, "failures": failures})
    for path, why in failures.items():
        out.warn(f"{path}: {why}: not compared")
    if first.distinct_codes == 1:
        out.warn(f"{name} gives every picture the same code: that others agree says little")
    out.print(
        f"{first.bits_compared:,} bits: {counted(first.views, 'view', 'views')} of "
        f"{counted(first.pictures, 'picture', 'pictures')} ({pictures.source})"
    )
    if first.map is not None:
        out.print(
            f"mAP of {counted(first.map.queries, 'picture', 'pictures')} of "
            f"{counted(first.map.classes, 'class', 'classes')} against each other, ties counted exactly"
        )
    figures = ("bits flipped", "rate", "95 % below", "top-10", "logits differ by", "mAP", "points", "limit")
    table = figures_table(f"Beside {name} on {first.reference}", "", "runs on", "", *figures, words=3)
    own = "" if first.map is None else f"{100 * first.map.reference:.2f}"
    table.add_row(name, first.reference, first.reference_precision, *[""] * 5, own, "", "")
    for report, value in zip(reports, values, strict=True):
        table.add_row(*_row(report, value))
    out.print(table)
    refused = [f"{value['model']}: {value['refused']}" for value in values if value["refused"]]
    if refused:
        raise ParityError("; ".join(refused))
    return ExitCode.SOME_FAILED if failures else ExitCode.DONE


def _row(report: "ParityReport", value: dict[str, Any]) -> list[str]:
    change = report.map
    return [
        value["model"],
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
