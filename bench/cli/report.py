"""`qo-report`: one page about a trained model."""

import importlib.util
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from queryopt.bench.cli.data import baselines_option, data_option
from queryopt.cli import Command, Output, batch_option, common_options, device_option, option_group, threads_option
from queryopt.errors import DataError, ExitCode, MissingError, UsageError
from queryopt.runtime.cli.options import backend_option
from queryopt.text import counted, display_path, install_extra
from queryopt.train.run_files import find_checkpoint

if TYPE_CHECKING:
    from queryopt.bench.quality.report.model import ReportModel, RunModel
    from queryopt.bench.quality.report.page import Report
    from queryopt.bench.quality.report.study import Study
    from queryopt.runtime import Hasher

__all__ = ["main"]

_DEFAULT_NAME = "report.html"


@dataclass(frozen=True)
class PageOptions:
    """What the page has, and where it goes."""

    out_path: Path | None
    compare: str | None
    landscape: bool
    baselines: bool | None
    figures: Path | None
    seed: int

    def target(self, subject: str) -> Path:
        folder = Path(subject) if Path(subject).is_dir() else Path(subject).parent
        return self.out_path or folder / _DEFAULT_NAME


_page_options = option_group(
    "page",
    PageOptions,
    click.option(
        "--out",
        "out_path",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="[default: RUN/report.html, or beside MODEL]",
    ),
    click.option(
        "--compare", metavar="RUN", help="Another run on the same data, such as one without auxiliary branch."
    ),
    click.option("--landscape", is_flag=True, help="Draw the loss around the weights, too: minutes more."),
    baselines_option,
    click.option("--figures", metavar="DIR", type=click.Path(path_type=Path), help="Save all figures as PNG and SVG."),
    click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of what is drawn."),
)


@click.command("qo-report", cls=Command)
@click.argument("subject", metavar="RUN_OR_MODEL")
@data_option("What qo-train takes as --data.  [default: the run's]")
@_page_options
@device_option("cpu", "cuda")
@backend_option
@batch_option(64)
@threads_option
@common_options
def main(
    subject: str,
    data: str | None,
    page: PageOptions,
    device: str,
    backend: str,
    batch: int,
    threads: int | None,
    out: Output,
) -> ExitCode:
    """Write a page about a trained model: how well it retrieves, and what its bits mean.

    RUN_OR_MODEL is a run folder of qo-train, a checkpoint in one, or a model.onnx (with --data). The page is one HTML
    file that loads nothing: retrieval in both protocols, its best and worst classes with their pictures, what lies in a
    Hamming ball, a card and the surest pictures of each bit, where each query looks, how alike queries and features
    are, a map of the features, class codes against the Welch bound, curves and configuration. What makes no sense for
    a model, or lacks something, is named there with the reason.

    \b
    Examples:
      qo-report runs/a
      qo-report runs/n8 --compare runs/n1 --landscape --figures figures/
      qo-report model.onnx --data photos/ --out report.html

    \b
    Exit codes:
      0  done
      1  done, but some pictures could not be read
      2  wrong usage, or data that is not the run's
      3  no checkpoint, no model, or nothing usable in the data
      4  a package that is needed is missing
    """
    from queryopt.bench.quality.report.figures import Figures
    from queryopt.bench.quality.report.model import ExportedModel, is_model_file
    from queryopt.bench.quality.report.sections import make_report
    from queryopt.bench.quality.report.study import make_study
    from queryopt.files import replacing

    is_model = is_model_file(subject)
    _check(subject, is_model, data, page.compare, device)
    target = page.target(subject)
    with ExitStack() as stack:
        model: ReportModel
        if is_model:
            model = ExportedModel(stack.enter_context(_exported(subject, backend, threads, batch)))
        else:
            model = _run(subject, device, threads, batch)
        out.log(f"model: {model.name} ({model.method}, {model.bits} bits)")
        other = None if page.compare is None else _run(page.compare, device, threads, batch)
        # Before the minutes of work: whether there is room for its result at all.
        with replacing(target, over=b"<!doctype html>") as file:
            figures = Figures(page.figures)
            study = make_study(
                model,
                data,
                figures,
                out,
                other=other,
                landscape=page.landscape,
                baselines=page.baselines,
                seed=page.seed,
            )
            for path, reason in study.failed.items():
                out.warn(f"{display_path(path)}: {reason}")
            for said in study.warnings:
                out.warn(said)
            report = make_report(study)
            html = report.markup().encode("utf-8", "backslashreplace")
            file.write(html)
    _say(out, target, len(html), report, study)
    return ExitCode.SOME_FAILED if study.failed else ExitCode.DONE


def _say(out: Output, target: Path, size: int, report: "Report", study: "Study") -> None:
    figures = study.figures
    out.result(
        {
            "report": str(target),
            "bytes": size,
            "sections": [section.anchor for section in report.sections],
            "findings": {section.anchor: section.finding for section in report.sections},
            "left_out": report.left_out,
            "baselines": [baseline.to_dict() for baseline in study.baselines],
            "warnings": list(study.warnings),
            "figures": [str(path) for path in figures.saved],
            "failed": {display_path(path): reason for path, reason in study.failed.items()},
        }
    )
    for section in report.sections:
        out.print(f"{section.title}: {section.finding}")
    for name, why in report.left_out.items():
        out.print(f"left out, {name}: {why}")
    out.print(f"report: {display_path(target)} ({size / 1e6:.1f} MB)")
    if figures.saved:
        out.print(f"figures: {display_path(figures.folder or '')} ({counted(len(figures.saved), 'file', 'files')})")


def _check(subject: str, is_model: bool, data: str | None, compare: str | None, device: str) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingError(f"the figures need matplotlib: {install_extra('report')}")
    if not is_model:
        find_checkpoint(subject)
        if importlib.util.find_spec("torch") is None:
            raise MissingError(
                f"a run's network needs torch, which is not installed: {install_extra('train')}; or give its model.onnx"
            )
    elif data is None:
        raise UsageError(
            f"{display_path(subject)}: a model doesn't say which pictures to look at: give --data, a folder with a "
            "sub-folder of pictures for each class, or give its run folder"
        )
    elif compare is not None:
        raise UsageError("--compare shows two runs side by side: give a run folder in place of the model")
    elif device != "cpu":
        raise UsageError("--device is for a run's network; what runs a model is chosen with --backend")


def _run(path: str, device: str, threads: int | None, batch: int) -> "RunModel":
    import torch

    from queryopt.bench.quality.report.model import RunModel
    from queryopt.train.checkpoint import load_checkpoint

    if device == "cuda" and not torch.cuda.is_available():
        raise MissingError("no CUDA device that torch can use: leave --device out, or install a driver")
    return RunModel(load_checkpoint(path), threads, batch, device)


def _exported(path: str, backend: str, threads: int | None, batch: int) -> "Hasher":
    from queryopt.runtime import Hasher

    if not Path(path).is_file():
        raise DataError(f"{display_path(path)}: no such model: make one with qo-export RUN")
    return Hasher(path, backend, threads, batch)
