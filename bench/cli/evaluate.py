"""qo-eval: how well a model retrieves pictures of the query's class, ties counted fairly."""

import importlib.util
import json
import math
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from queryopt.cli import Command, Output, batch_option, common_options, display_path, threads_option
from queryopt.errors import DataError, ExitCode, MissingError, UsageError
from queryopt.runtime.search.ranked import RANKS, Rank

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from rich.table import Table

    from queryopt.bench.evaluate import DataSource, Evaluation, LabelledFolder
    from queryopt.card import ModelCard
    from queryopt.runtime import HashIndex

__all__ = ["main"]

_SPLITS = ("test", "validation")
_MAP = "mAP, mean over orders of ties"
_MOST = 2**31 - 1
"""The largest k or radius: more than any gallery holds."""


def _numbers(low: int) -> "Callable[[click.Context, click.Parameter, str], tuple[int, ...]]":
    """Parses whole numbers with commas between them."""

    def parse(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
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


@click.command("qo-eval", cls=Command)
@click.option("--model", metavar="MODEL", help="The model.  [default: as qo-infer finds it; with --index, the index's]")
@click.option("--gallery", "gallery_path", metavar="DIR", help="Pictures to search in, a sub-folder for each class.")
@click.option("--index", "index_path", metavar="INDEX", help="Search in this index instead, with its labels.")
@click.option("--queries", "queries_path", metavar="DIR", help="Pictures to search with, likewise.")
@click.option(
    "--data",
    metavar="DATA",
    help="In place of both: what qo-train takes as --data. Its test pictures search its training pictures.",
)
@click.option("--root", metavar="DIR", help="With --data: the folder of an official data set, or that which holds it.")
@click.option("--any-size", is_flag=True, help="With --data: a part of an official set; its counts are not checked.")
@click.option("--run", "run_path", metavar="RUN", help="In place of both: the data (and the model) of this run folder.")
@click.option(
    "--split",
    type=click.Choice(_SPLITS),
    default=_SPLITS[0],
    show_default=True,
    help="With --run: search with the test pictures, or with those that chose the checkpoint.",
)
@click.option("--compare", metavar="MODEL", multiple=True, help="Another model to show beside it; may be repeated.")
@click.option(
    "--require-ratio",
    metavar="X",
    type=click.FloatRange(0, min_open=True),
    help="Fail with exit code 5 unless the mAP is at least X times that of each --compare.",
)
@click.option("--k", "ks", callback=_numbers(1), default="1,10,100", show_default=True, help="Precision at these k.")
@click.option(
    "--radius", "radii", callback=_numbers(0), default="0,1,2", show_default=True, help="Recall at these radii."
)
@click.option(
    "--rank",
    type=click.Choice((*RANKS, "all")),
    default="hamming",
    show_default=True,
    help="What to rank by, as in qo-search; all: the three side by side, with ratios between models by distance.",
)
@click.option("--out", "out_path", metavar="FILE", help="Write the results as JSON here.")
@batch_option(32)
@threads_option
@common_options
def main(
    model: str | None,
    gallery_path: str | None,
    index_path: str | None,
    queries_path: str | None,
    data: str | None,
    root: str | None,
    any_size: bool,
    run_path: str | None,
    split: str,
    compare: tuple[str, ...],
    require_ratio: float | None,
    ks: tuple[int, ...],
    radii: tuple[int, ...],
    rank: Rank | Literal["all"],
    out_path: str | None,
    batch: int,
    threads: int | None,
    out: Output,
) -> ExitCode:
    """Measure how well a model's codes find pictures of the query's class.

    Both folders are hashed with the model, as in use. A picture's class is the folder that it lies in; of an official
    data set, what its lists say. The mAP is the mean over all orders of tied pictures (those at equal distance, or of
    equal score and distance), with the worst and the best order beside it. A query whose class the gallery has not is
    left out and counted; one that lies in the gallery itself is left out of its own ranking.

    \b
    Examples:
      qo-eval --model runs/a/model.onnx --gallery photos/train --queries photos/test
      qo-eval --model runs/a/model.onnx --compare untrained.onnx --require-ratio 2 \\
              --gallery photos/train --queries photos/test --out eval.json
      qo-eval --model runs/cub/model.onnx --data cub200 --root ~/data
      qo-eval --run runs/cub

    \b
    Exit codes:
      0  done
      1  done, but some pictures could not be read
      2  wrong usage, or things that don't belong together
      3  nothing usable in the input
      4  a package that is needed is missing
      5  refused: the mAP is below what --require-ratio asks for
    """
    from queryopt.bench.evaluate import evaluate, hash_labelled, index_codes, labelled_folder
    from queryopt.files import replacing
    from queryopt.runtime import Hasher

    _check_usage(gallery_path, index_path, queries_path, data, run_path, compare, require_ratio)
    source = _source(data, root, any_size, run_path, split)
    gallery: LabelledFolder | None
    if source is not None:
        gallery, queries = source.pictures(split, out.progress)
        model = _model_of(run_path, model)
    else:
        assert queries_path is not None
        queries = labelled_folder(queries_path)
        gallery = labelled_folder(gallery_path) if gallery_path is not None else None
    for folder in (queries, gallery):
        if folder is not None and folder.unlabelled:
            some = "1 picture" if folder.unlabelled == 1 else f"{folder.unlabelled:,} pictures"
            out.warn(f"{display_path(folder.root)}: {some} directly in it, without a class: left out")

    ranks: tuple[Rank, ...] = RANKS if rank == "all" else (rank,)
    evaluations: dict[tuple[str, Rank], Evaluation] = {}
    cards: dict[str, ModelCard] = {}
    failed: dict[bytes, str] = {}
    writing = nullcontext() if out_path is None else replacing(out_path, over=b"{")
    with _open_index(index_path) as index, writing as written:
        for path in _models(model, index, compare):
            with Hasher(path, threads=threads, batch=batch) as hasher:
                out.log(f"model: {display_path(path)}")
                if index is not None:
                    index.check_card(hasher.card, display_path(path))
                    found = index_codes(index)
                else:
                    assert gallery is not None
                    found = hash_labelled(hasher, gallery, out.progress, "gallery")
                asked = hash_labelled(hasher, queries, out.progress, "queries")
                cards[path] = hasher.card
                evaluations |= {(path, by): evaluate(found, asked, ks, radii, by) for by in ranks}
            failed |= found.failures | asked.failures

        first, *others = cards
        by_model = {path: evaluations[path, ranks[0]] for path in cards}
        for name, reason in failed.items():
            out.warn(f"{display_path(name)}: {reason}")
        for label in by_model[first].absent:
            out.warn(f"class {display_path(label)}: only queries have it: left out")
        ratios = {other: by_model[first].metrics.map / by_model[other].metrics.map for other in others}
        passed = require_ratio is None or all(ratio >= require_ratio for ratio in ratios.values())
        result = {
            "gallery": gallery_path if gallery_path is not None else index_path,
            "queries_folder": queries_path,
            "data": None if source is None else source.data,
            "split": None if source is None else split,
            "models": [
                {"model": path, "fingerprint": cards[path].fingerprint} | evaluation.to_dict()
                for (path, _), evaluation in evaluations.items()
            ],
            "ratios": ratios,
            "required_ratio": require_ratio,
            "passed": passed,
            "failed": {display_path(name): reason for name, reason in failed.items()},
        }
        if written is not None:
            written.write(json.dumps(result, indent=2).encode() + b"\n")
    out.result(result)
    out.print(_table(evaluations), "")
    for (path, by), evaluation in evaluations.items():
        if by != ranks[0]:
            ratio = evaluation.metrics.map / by_model[path].metrics.map
            out.print(f"{display_path(path)}: the mAP of {by} is {ratio:.3f} x that of {ranks[0]}.")
    for other, ratio in ratios.items():
        out.print(f"The mAP is {ratio:.2f} x that of {display_path(other)}.")
    if not passed:
        low = min(ratios, key=lambda other: ratios[other])
        click.echo(
            f"qo-eval: refused: the mAP is {ratios[low]:.3f} x that of {display_path(low)}, but --require-ratio asks "
            f"for {require_ratio:g}",
            err=True,
        )
        return ExitCode.PARITY
    return ExitCode.SOME_FAILED if failed else ExitCode.DONE


def _check_usage(
    gallery: str | None,
    index: str | None,
    queries: str | None,
    data: str | None,
    run: str | None,
    compare: tuple[str, ...],
    require_ratio: float | None,
) -> None:
    if data is not None or run is not None:
        given = {"--gallery": gallery, "--index": index, "--queries": queries}
        if extra := [name for name, value in given.items() if value is not None]:
            raise UsageError(
                f"{'--data' if data is not None else '--run'} says what to search in and with: leave "
                f"{' and '.join(extra)} out"
            )
    elif queries is None:
        raise UsageError("give what to search with: --queries FOLDER, or --data or --run for a whole data set")
    elif (gallery is None) == (index is None):
        raise UsageError("give what to search in: either --gallery FOLDER or --index INDEX")
    if index is not None and compare:
        raise UsageError("an index holds the codes of one model: to --compare others, give its folder as --gallery")
    if require_ratio is not None and not compare:
        raise UsageError("--require-ratio needs a model to compare with: give it with --compare")
    if require_ratio is not None and not math.isfinite(require_ratio):
        raise UsageError(f"--require-ratio is {require_ratio}: a number above 0")


def _source(data: str | None, root: str | None, any_size: bool, run: str | None, split: str) -> "DataSource | None":
    """The data set to measure on, None where folders were given."""
    from queryopt.bench.evaluate import DataSource
    from queryopt.train.sources import absolute_source, with_root

    if data is None and (root is not None or any_size):
        raise UsageError("--root and --any-size say more about --data: give that too, such as --data cub200")
    if split != _SPLITS[0] and run is None:
        raise UsageError(f"--split {split} depends on how a run was trained: give its folder with --run")
    if data is not None:
        data = absolute_source(with_root(data, root, any_size))
    if run is None:
        return None if data is None else DataSource.plain(data)
    if importlib.util.find_spec("torch") is None:
        raise MissingError("--run needs torch, which is not installed: pip install 'queryopt[train]', or give --data")
    return DataSource.of_run(run, data)


def _model_of(run: str | None, model: str | None) -> str | None:
    """--model, else that of the run, where it has been exported."""
    if model is not None or run is None:
        return model
    path = Path(run, "model.onnx")
    if not path.is_file():
        raise DataError(f"{display_path(path)}: no such model yet: make it with qo-export --ckpt {display_path(run)}")
    return str(path)


def _open_index(path: str | None) -> "AbstractContextManager[HashIndex | None]":
    from queryopt.runtime import HashIndex

    return nullcontext() if path is None else HashIndex.open(path, readonly=True)


def _models(model: str | None, index: "HashIndex | None", compare: tuple[str, ...]) -> list[str]:
    """The models to measure, that of --model first."""
    from queryopt.runtime.hasher import find_model

    if model is None and index is not None and index.model_path is not None:
        model = str(index.model_path)
    models = [str(find_model(model)), *compare]
    if twice := next((path for path in models if models.count(path) > 1), None):
        raise UsageError(f"{display_path(twice)} is given twice: --compare is for other models")
    return models


def _table(evaluations: "Mapping[tuple[str, Rank], Evaluation]") -> "Table":
    """A column a model and rank, a row a figure."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("")
    columns = [_figures(evaluation) for evaluation in evaluations.values()]
    for path, rank in evaluations:
        ranked = "" if rank == "hamming" and len({by for _, by in evaluations}) == 1 else f", {rank}"
        table.add_column(display_path(path) + ranked, justify="right", overflow="fold")
    for name in dict.fromkeys(name for column in columns for name in column):
        table.add_row(name, *(column.get(name, "") for column in columns), style="bold" if name == _MAP else None)
    return table


def _figures(evaluation: "Evaluation") -> dict[str, str]:
    metrics = evaluation.metrics
    shares = {_MAP: metrics.map, "  worst order": metrics.map_pessimistic, "  best order": metrics.map_optimistic}
    shares["  a random ranking"] = metrics.chance
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
