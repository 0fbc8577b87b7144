"""qo-eval: how well a model retrieves pictures of the query's class, ties counted fairly."""

import importlib.util
import json
import math
import os
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from queryopt.bench.cli.data import baselines_option, data_option
from queryopt.bench.quality.descriptors import DESCRIPTORS, TRUNK, Describer, not_described
from queryopt.bench.quality.evaluate import PROTOCOLS, EvaluationOptions, EvaluationReport, evaluate_model
from queryopt.bench.quality.labelled_codes import SolvedGallery
from queryopt.bench.quality.pictures import (
    DataSource,
    EvaluationPictures,
    check_shared,
    labelled_folder,
    untrained_classes,
)
from queryopt.cli import Command, Output, batch_option, common_options, main_argument, option_group, threads_option
from queryopt.codes import MAX_BITS
from queryopt.errors import DataError, ExitCode, MissingError, QueryOptError, UsageError
from queryopt.images import failure_lines
from queryopt.kinds import Kind, kind_of
from queryopt.runtime.cli.options import backend_option
from queryopt.runtime.cli.search import RankType
from queryopt.runtime.search.ranked import RANKS
from queryopt.text import counted, display_path, install_extra, listed
from queryopt.train.sources import official_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.table import Table

    from queryopt.bench.quality.bit_cards import BitCards
    from queryopt.bench.quality.evaluate import Evaluation, ModelEvaluation
    from queryopt.bench.quality.rankings import Ranking
    from queryopt.card import ModelCard
    from queryopt.runtime import HashIndex
    from queryopt.train.datasets.attributes import ImageAttributes

__all__ = ["main"]

_PNG = b"\x89PNG"
_SPLITS = ("test", "validation")
_EVERY_RADIUS = tuple(range(MAX_BITS + 1))
_MOST = 2**31 - 1
"""The largest k or radius: more than any gallery holds."""


def _numbers(low: int, every: tuple[int, ...] = ()) -> "Callable[..., tuple[int, ...]]":
    """A callback that parses whole numbers with commas between them. every: what "all" means."""

    def parse(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
        if every and text == "all":
            return every
        try:
            numbers = tuple(dict.fromkeys(int(part) for part in text.split(",")))
        except ValueError:
            raise click.BadParameter(f"{text!r} is not a list of whole numbers such as 1,10,100") from None
        if min(numbers) < low:
            raise click.BadParameter(f"{min(numbers)} is too small: give numbers of at least {low}")
        if max(numbers) > _MOST:
            raise click.BadParameter(f"{max(numbers)} is too large: give numbers of at most {_MOST}")
        return numbers

    return parse


@dataclass(frozen=True)
class ModelOptions:
    """Which models are measured, and how much better the first has to be."""

    model: str | None
    compare: tuple[str, ...]
    require_ratio: float | None

    def check(self) -> None:
        if self.require_ratio is not None and not self.compare:
            raise UsageError("--require-ratio needs a model to compare with: give it with --compare")
        if self.require_ratio is not None and not math.isfinite(self.require_ratio):
            raise UsageError(f"--require-ratio is {self.require_ratio}: a number above 0")

    def paths(self, run: str | None, index: "HashIndex | None") -> list[str]:
        """The models to measure, that of --model, of the run or of the index first."""
        from queryopt.runtime.hasher import find_model

        model = self.model if self.model is not None or run is None else _model_of(run)
        if model is None and index is not None and index.model_path is not None:
            model = str(index.model_path)
        models = [str(find_model(model)), *self.compare]
        if twice := next((path for path in models if models.count(path) > 1), None):
            raise UsageError(f"{display_path(twice)} is given twice: --compare is for other models")
        return models


_model_options = option_group(
    "models",
    ModelOptions,
    click.option(
        "--model", metavar="MODEL", help="The model.  [default: as qo-infer finds it; with --index, the index's]"
    ),
    click.option("--compare", metavar="MODEL", multiple=True, help="Another model to show beside it; may be repeated."),
    click.option(
        "--require-ratio",
        metavar="X",
        type=click.FloatRange(0, min_open=True),
        help="Fail with exit code 5 unless the mAP is at least X times that of each --compare.",
    ),
)


@dataclass(frozen=True)
class SubjectOptions:
    """What is searched in and with: folders or an index, or a data set, or a run's."""

    gallery: str | None
    index: str | None
    queries: str | None
    data: str | None
    run: str | None
    split: str
    label_depth: int | None

    def check(self, models: ModelOptions, options: EvaluationOptions) -> None:
        """What to search in and with is said once, and goes with the models and the protocol."""
        whole = "--data" if self.data is not None else "--run" if self.run is not None else None
        if whole is not None:
            named = {"--gallery": self.gallery, "--index": self.index, "--queries": self.queries}
            if extra := [name for name, value in named.items() if value is not None]:
                raise UsageError(f"{whole} says what to search in and with: leave {' and '.join(extra)} out")
        elif self.queries is None:
            raise UsageError("give what to search with: qo-eval RUN, or --queries FOLDER, or --data for a data set")
        elif (self.gallery is None) == (self.index is None):
            raise UsageError("give what to search in: either --gallery FOLDER or --index INDEX")
        if self.index is not None and models.compare:
            raise UsageError("an index holds the codes of one model: to --compare others, give its folder as --gallery")
        models.check()
        if "paper" in options.protocols and self.run is None:
            raise UsageError(
                "--protocol paper ranks the codes that a run solved for its training pictures, which no model and no "
                "index holds: give its folder with --run"
            )
        if "paper" in options.protocols and models.compare:
            raise UsageError(
                "--protocol paper ranks the codes that belong to the run's own model: leave --compare out, or use "
                "--protocol deployed"
            )

    @cached_property
    def source(self) -> DataSource | None:
        """The data set to measure on, None where folders were given."""
        if self.split != _SPLITS[0] and self.run is None:
            raise UsageError(f"--split {self.split} depends on how a run was trained: give its folder with --run")
        if self.run is None:
            return None if self.data is None else DataSource.plain(self.data)
        if importlib.util.find_spec("torch") is None:
            raise MissingError(f"--run needs torch, which is not installed: {install_extra('train')}; or give --data")
        return DataSource.of_run(self.run, self.data)

    def depth(self, model: "Callable[[], str]", index: "HashIndex | None") -> int:
        """How many folders name a class: what was asked for, else what the run, the index or the model has."""
        if self.run is not None:
            assert self.source is not None
            own = self.source.label_depth
            if self.label_depth not in (None, own):
                raise UsageError(
                    f"--label-depth {self.label_depth}, but the run was trained with {own}, and its test pictures are "
                    "drawn from its classes: to measure by others, give --gallery and --queries"
                )
            return own
        if self.label_depth is not None:
            return self.label_depth
        if self.source is not None and official_source(self.source.data) is not None:
            return 1  # its lists say what a class is
        return index.card.label_depth if index is not None else _card_of(model()).label_depth

    def folders(self, depth: int, out: Output) -> EvaluationPictures:
        """The pictures of --queries and --gallery."""
        assert self.queries is not None
        parts = []
        for folder in (self.queries, self.gallery):
            images, unlabelled = (None, 0) if folder is None else labelled_folder(folder, depth)
            parts.append(images)
            if folder is not None and unlabelled:
                some = counted(unlabelled, "picture", "pictures")
                out.warn(f"{display_path(folder)}: {some} directly in it, without a class: left out")
        queries, gallery = parts
        assert queries is not None
        if gallery is not None:
            check_shared(queries, gallery.classes, gallery.root)
        return EvaluationPictures(gallery, queries)

    def about(self) -> dict[str, str | None]:
        return {
            "gallery": self.gallery if self.gallery is not None else self.index,
            "queries_folder": self.queries,
            "data": None if self.source is None else self.source.data,
            "split": None if self.source is None else self.split,
        }

    def open_index(self) -> "AbstractContextManager[HashIndex | None]":
        from queryopt.runtime import HashIndex

        return nullcontext() if self.index is None else HashIndex.open(self.index, readonly=True)


_subject_options = option_group(
    "subject",
    SubjectOptions,
    click.option("--gallery", metavar="DIR", help="Pictures to search in, a sub-folder for each class."),
    click.option("--index", metavar="INDEX", help="Search in this index instead, with its labels."),
    click.option("--queries", metavar="DIR", help="Pictures to search with, likewise."),
    click.option("--run", metavar="RUN", help="In place of both: the data (and the model) of this run folder."),
    click.option(
        "--split",
        type=click.Choice(_SPLITS),
        default=_SPLITS[0],
        show_default=True,
        help="With --run: search with the test pictures, or with those that chose the checkpoint.",
    ),
    click.option(
        "--label-depth",
        type=click.IntRange(1),
        help="How many folders below --gallery, --queries or --data name a class.  [default: as the run, the index or "
        "the model has it]",
    ),
)

_evaluation_options = option_group(
    "options",
    EvaluationOptions,
    click.option(
        "--k", "ks", callback=_numbers(1), default="1,10,100", show_default=True, help="mAP and precision at these k."
    ),
    click.option(
        "--radius",
        "radii",
        callback=_numbers(0, _EVERY_RADIUS),
        default="0,1,2",
        show_default=True,
        help="Recall and precision within these distances; all: within each. (The JSON and the plot have each always.)",
    ),
    click.option(
        "--protocol",
        type=click.Choice((*PROTOCOLS, "both")),
        default=PROTOCOLS[0],
        show_default=True,
        help="Gallery codes: the model's, or, with --run, those that the run solved from labels, as the paper ranks.",
    ),
    click.option(
        "--rank",
        type=RankType((*RANKS, "all")),
        default="margin",
        show_default=True,
        help="What to rank by, as in qo-search; id: by distance alone, the mean over all orders of ties; all: each of "
        "them side by side. Ratios between models are of the first. Codes that a run solved have no margins: id.",
    ),
    baselines_option,
)


@dataclass(frozen=True)
class ResultOptions:
    """What is shown and written, and where."""

    worst: int
    out_path: str | None
    plot: str | None
    bits_out: str | None
    permutations: int

    def check(self, options: EvaluationOptions) -> None:
        """What --plot and --bits-out need is there."""
        if self.plot is not None and importlib.util.find_spec("matplotlib") is None:
            raise MissingError(f"--plot needs matplotlib: {install_extra('bench')}")
        if self.bits_out is None:
            return
        if not self.bits_out.endswith((".json", ".md")):
            raise UsageError(f"--bits-out {display_path(self.bits_out)}: give a name that ends in .json or .md")
        if "deployed" not in options.protocols:
            raise UsageError("--bits-out looks at the model's own codes: use --protocol deployed or both")

    def check_plot(self, pictures: EvaluationPictures) -> None:
        """A PNG may be a drawing of this command, or what it was asked to look at."""
        if self.plot is not None and os.fsencode(os.path.realpath(self.plot)) in pictures.real_paths():
            name = display_path(self.plot)
            raise UsageError(f"{name}: is one of the pictures to measure on: give --plot another name")

    @contextmanager
    def open(self, out: Output) -> "Iterator[Callable[[EvaluationReport, ImageAttributes | None], None]]":
        """Have the files opened before the minutes of work; what is given writes them."""
        as_json = self.bits_out is not None and self.bits_out.endswith(".json")
        with (
            _writing(self.out_path, b"{") as results,
            _writing(self.plot, _PNG) as picture,
            _writing(self.bits_out, b'{\n  "bit_cards"' if as_json else b"# Bit cards") as cards,
        ):

            def write(report: EvaluationReport, attributes: "ImageAttributes | None") -> None:
                if results is not None:
                    results.write(json.dumps(report.to_dict(), indent=2).encode() + b"\n")
                if picture is not None:
                    from queryopt.bench.quality.evaluation_plot import plot_evaluations

                    plot_evaluations(report.titled(), picture)
                if cards is not None:
                    made = self._bit_cards(report.models[0], attributes, out)
                    cards.write((made.to_json() if as_json else made.to_markdown()).encode())

            yield write

    def _bit_cards(self, model: "ModelEvaluation", attributes: "ImageAttributes | None", out: Output) -> "BitCards":
        from queryopt.bench.quality.bit_cards import make_bit_cards

        name, codes = display_path(model.model), (model.codes.galleries["deployed"], model.codes.queries)
        with out.progress("bit cards", codes[0].bits + 1, unit="rankings") as advance:
            return make_bit_cards(name, *codes, attributes, permutations=self.permutations, progress=advance)


_result_options = option_group(
    "results",
    ResultOptions,
    click.option(
        "--worst",
        type=click.IntRange(0),
        default=5,
        show_default=True,
        help="Show so many classes, those that are found worst. (The JSON has all.)",
    ),
    click.option("--out", "out_path", metavar="FILE", help="Write the results as JSON here."),
    click.option("--plot", metavar="PNG", help="Draw precision, recall and the classes here."),
    click.option(
        "--bits-out",
        metavar="FILE",
        help="Write a card for each bit here, .json or .md: balance, correlation, what is lost without it, "
        "its attribute.",
    ),
    click.option(
        "--permutations",
        type=click.IntRange(19, 1_000_000),
        default=999,
        show_default=True,
        help="With --bits-out: random bits for each bit's p-value.",
    ),
)


def _meant(given: str) -> str:
    """The option that the argument stands for."""
    kind = kind_of(given)
    return "index" if kind is Kind.INDEX else "model" if kind is Kind.MODEL else "run"


@click.command("qo-eval", cls=Command)
@main_argument("[RUN | MODEL | INDEX]", _meant)
@_model_options
@data_option("In place of both: what qo-train takes as --data. Its test pictures search its training pictures.")
@_subject_options
@_evaluation_options
@_result_options
@backend_option
@batch_option(32)
@threads_option
@common_options
def main(
    models: ModelOptions,
    subject: SubjectOptions,
    options: EvaluationOptions,
    results: ResultOptions,
    backend: str,
    batch: int,
    threads: int | None,
    out: Output,
) -> ExitCode:
    """Measure how well a model's codes find pictures of the query's class.

    Both folders are hashed with the model, as in use. A picture's class is the first folder below them that it lies in,
    unless the model was trained with another --label-depth; of an official data set, what its lists say. The mAP is the
    mean over all orders of tied pictures, with the worst and the best order beside it; pictures tie that have equal
    margins, or, with --rank id and in the paper's protocol, those at equal distance. A query whose class the gallery
    has not is left out and counted; one that lies in the gallery itself is left out of its own ranking. Of a run,
    pictures that are the only ones of their classes are searched, too.

    mAP at k is over the k nearest alone: the sum stops at rank k and is divided by min(k, relevant pictures).
    Of a run that held classes out (qo-train --open-set), unseen classes are measured apart: their test pictures search
    their pictures of the training part, and no others. All else (ratios, bit cards) is of the seen ones.

    --protocol paper ranks the query's codes against those that the run solved from the labels of its training pictures;
    both: beside the model's own, over the same pictures.

    \b
    Examples:
      qo-eval runs/a
      qo-eval photos.db --queries queries/
      qo-eval runs/a/model.onnx --gallery photos/train --queries photos/test
      qo-eval runs/a/model.onnx --compare untrained.onnx --require-ratio 2 \\
              --gallery photos/train --queries photos/test --out eval.json
      qo-eval runs/cub/model.onnx --data cub200 --root ~/data
      qo-eval runs/cub --protocol both --plot eval.png --bits-out bits.md

    \b
    Exit codes:
      0  done
      1  done, but some pictures could not be read
      2  wrong usage, or things that don't belong together
      3  nothing usable in the input
      4  a package that is needed is missing
      5  refused: the mAP is below what --require-ratio asks for
    """
    from queryopt.runtime import Hasher

    subject.check(models, options)
    results.check(options)
    with ExitStack() as stack:
        index = stack.enter_context(subject.open_index())
        depth = subject.depth(lambda: models.paths(subject.run, index)[0], index)
        pictures, solved, attributes = _measured_on(subject, depth, options, results, out)
        write = stack.enter_context(results.open(out))
        given = 0 if index is None else len(index)
        describer, left_out = _describer(subject, options, pictures, given, threads)
        evaluated: list[ModelEvaluation] = []
        for path in models.paths(subject.run, index):
            with Hasher(path, backend, threads, batch) as hasher:
                out.log(f"model: {display_path(path)} ({hasher.card.precision}, {hasher.backend})")
                one = evaluate_model(
                    path,
                    hasher,
                    pictures,
                    options,
                    out.progress,
                    solved=solved,
                    index=index,
                    describer=None if evaluated else describer,
                    baselines=evaluated[0].baselines if evaluated else (),
                )
            evaluated.append(one)
        report = EvaluationReport(tuple(evaluated), subject.about(), solved, models.require_ratio, left_out)
        _warn(report, out)
        write(report, attributes)
    out.result(report.to_dict())
    _print(report, results.worst, out)
    return _exit_code(report)


def _measured_on(
    subject: SubjectOptions, depth: int, options: EvaluationOptions, results: ResultOptions, out: Output
) -> "tuple[EvaluationPictures, SolvedGallery | None, ImageAttributes | None]":
    """The pictures, the run's solved codes of them, and their attributes, for bit cards."""
    solved = attributes = None
    source = subject.source
    if source is None:
        pictures = subject.folders(depth, out)
    else:
        paper = "paper" in options.protocols
        pictures = replace(source, label_depth=depth).pictures(subject.split, out.progress, trained_only=paper)
        assert pictures.gallery is not None
        if subject.run is not None and (strange := untrained_classes(subject.run, pictures.gallery)):
            out.warn(
                f"the run was not trained on {len(strange):,} of the {len(pictures.gallery.classes):,} classes here: "
                f"{listed(strange)}"
            )
        if subject.run is not None and paper:
            solved = SolvedGallery.of_run(subject.run, pictures.gallery)
            if pictures.unseen is not None:
                out.log(
                    "unseen classes: the run solved no codes for them, so they are measured with the model's own alone"
                )
        if results.bits_out is not None:
            from queryopt.bench.quality.bit_cards import load_all_attributes

            attributes = load_all_attributes(source.data, pictures.gallery, pictures.queries)
    if results.bits_out is not None and attributes is None:
        out.log("bit cards: these pictures have no known attributes (cub200 and synthetic:birds do, by --data)")
    results.check_plot(pictures)
    return pictures, solved, attributes


def _describer(
    subject: SubjectOptions,
    options: EvaluationOptions,
    pictures: EvaluationPictures,
    indexed: int,
    threads: int | None,
) -> tuple[Describer | None, dict[str, str]]:
    """What describes the pictures without codes, and what is left out, by descriptor, with the reason.

    indexed: pictures of the gallery, where that is an index.
    """
    if "deployed" not in options.protocols:
        return None, dict.fromkeys(DESCRIPTORS, "--protocol paper reads no picture of the gallery: use --protocol both")
    count = indexed + len(pictures.queries) + (0 if pictures.gallery is None else len(pictures.gallery))
    if why_not := not_described(count, options.baselines):
        return None, {} if options.baselines is False else why_not
    describer = Describer(None, threads)
    if subject.run is None:
        describer.left_out[TRUNK] = "it needs PyTorch and the run's folder: --run RUN"
        return describer, describer.left_out
    from queryopt.train.checkpoint import load_checkpoint

    try:
        return (describer := Describer(load_checkpoint(subject.run).network(), threads)), describer.left_out
    except QueryOptError as error:
        describer.left_out[TRUNK] = str(error)
    return describer, describer.left_out


def _model_of(run: str) -> str:
    path = Path(run, "model.onnx")
    if not path.is_file():
        raise DataError(f"{display_path(path)}: no such model yet: make it with qo-export {display_path(run)}")
    return str(path)


def _card_of(model: str) -> "ModelCard":
    from queryopt.runtime.onnx_file import read_card, read_onnx
    from queryopt.runtime.tensorrt.manifest import read_manifest

    path = Path(model)
    is_plan = path.suffix.lower() == ".plan"
    return read_manifest(path).card if is_plan else read_card(read_onnx(path), display_path(path))


def _writing(path: str | None, over: bytes) -> "AbstractContextManager[BinaryIO | None]":
    from queryopt.files import replacing

    return nullcontext() if path is None else replacing(path, over=over)


def _warn(report: EvaluationReport, out: Output) -> None:
    for line in failure_lines(report.failures):
        out.warn(line)
    for said in report.warnings:
        out.warn(said)
    for label in report.models[0].evaluations[0].absent:
        out.warn(f"class {display_path(label)}: only queries have it: left out")


_ORDERS = {
    "margin": "by distance, equal ones by margins (rank margin)",
    "id": "by distance alone, the mean over all orders of ties (rank id)",
}


def _print(report: EvaluationReport, worst: int, out: Output) -> None:
    titled = report.titled()
    columns: dict[str, Ranking] = {**titled, **report.baselines}
    out.print(_figure_table(columns), "")
    for why in dict.fromkeys(report.left_out.values()):
        names = [DESCRIPTORS[name] for name, reason in report.left_out.items() if reason == why]
        out.print(f"{'; '.join(names)}: not measured: {why}", "")
    for part in ("seen", "unseen") if worst else ():
        if of_part := {title: ranking for title, ranking in columns.items() if ranking.part == part}:
            out.print(_class_table(of_part, worst), "")
    by_first_rank: dict[str, Evaluation] = {}
    for title, one in titled.items():
        column = title.removesuffix(f", {one.rank}")
        first = by_first_rank.setdefault(column, one)
        if one is not first:
            ratio = one.metrics.map / first.metrics.map
            out.print(f"{column}: the mAP of {one.rank} is {ratio:.3f} x that of {first.rank}.")
    if (ranks := {one.rank for one in titled.values()}) <= {"margin", "id"}:
        words = "; ".join(_ORDERS[rank] for rank in ("margin", "id") if rank in ranks)
        out.print(f"Order: {words}.")
    if report.solved is not None:
        solved, model = report.solved.iteration, report.models[0].outer_iterations
        out.print(
            f"paper: gallery codes from labels, solved after {counted(solved, 'outer iteration', 'outer iterations')}"
            + ("." if model == solved else f"; the model is that after {model}.")
        )
    for compared, ratio in report.ratios.items():
        out.print(f"The mAP is {ratio:.2f} x that of {display_path(compared)}.")


def _exit_code(report: EvaluationReport) -> ExitCode:
    if report.passed:
        return ExitCode.SOME_FAILED if report.failures else ExitCode.DONE
    low, ratio = min(report.ratios.items(), key=lambda item: item[1])
    click.echo(
        f"qo-eval: refused: the mAP is {ratio:.3f} x that of {display_path(low)}, but --require-ratio asks "
        f"for {report.required_ratio:g}",
        err=True,
    )
    return ExitCode.PARITY


def _figure_table(evaluations: "Mapping[str, Ranking]") -> "Table":
    """A column an evaluation, by its title; a row a figure."""
    table = _table("", evaluations)
    columns = [{figure.name: figure for figure in evaluation.figures()} for evaluation in evaluations.values()]
    for name, figure in {name: figure for column in columns for name, figure in column.items()}.items():
        cells = [column[name].text if name in column else "" for column in columns]
        label = f"  {figure.label}" if figure.inner else figure.label
        table.add_row(label, *cells, style="bold" if name == "map" else None)
    return table


def _class_table(evaluations: "Mapping[str, Ranking]", count: int) -> "Table":
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


def _table(first: str, titles: "Sequence[str] | Mapping[str, Ranking]") -> "Table":
    from rich.table import Table

    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column(first)
    for title in titles:
        table.add_column(title, justify="right", overflow="fold")
    return table
