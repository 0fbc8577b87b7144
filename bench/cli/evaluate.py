"""qo-eval: how well a model retrieves pictures of the query's class, ties counted fairly."""

import importlib.util
import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import click

from queryopt.bench.cli.evaluate_checks import check_outputs, check_plot, check_protocols, check_usage
from queryopt.cli import Command, Output, batch_option, common_options, threads_option
from queryopt.codes import MAX_BITS
from queryopt.errors import DataError, ExitCode, MismatchError, MissingError, UsageError
from queryopt.runtime.cli.backend import backend_option
from queryopt.runtime.search.ranked import RANKS, Rank
from queryopt.text import display_path, install_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from queryopt.bench.quality.evaluate import DataSource, Evaluation, LabelledCodes, LabelledFolder, Part, Protocol
    from queryopt.card import ModelCard
    from queryopt.runtime import HashIndex

__all__ = ["main"]

_SPLITS = ("test", "validation")
_PROTOCOLS: "tuple[Protocol, ...]" = ("deployed", "paper")
_PNG = b"\x89PNG"
_MOST = 2**31 - 1
"""The largest k or radius: more than any gallery holds."""


_EVERY_RADIUS = tuple(range(MAX_BITS + 1))


def _radii(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    return _EVERY_RADIUS if text == "all" else _numbers(0)(context, parameter, text)


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
@click.option(
    "--k", "ks", callback=_numbers(1), default="1,10,100", show_default=True, help="mAP and precision at these k."
)
@click.option(
    "--radius",
    "radii",
    callback=_radii,
    default="0,1,2",
    show_default=True,
    help="Recall and precision within these distances; all: within each. (The JSON and the plot have each always.)",
)
@click.option(
    "--protocol",
    type=click.Choice((*_PROTOCOLS, "both")),
    default=_PROTOCOLS[0],
    show_default=True,
    help="Gallery codes: the model's, or, with --run, those that the run solved from labels, as the paper ranks.",
)
@click.option(
    "--worst",
    type=click.IntRange(0),
    default=5,
    show_default=True,
    help="Show so many classes, those that are found worst. (The JSON has all.)",
)
@click.option(
    "--rank",
    type=click.Choice((*RANKS, "all")),
    default="hamming",
    show_default=True,
    help="What to rank by, as in qo-search; all: the three side by side, with ratios between models by distance.",
)
@click.option("--out", "out_path", metavar="FILE", help="Write the results as JSON here.")
@click.option("--plot", "plot_path", metavar="PNG", help="Draw precision, recall and the classes here.")
@click.option(
    "--bits-out",
    "bits_path",
    metavar="FILE",
    help="Write a card for each bit here, .json or .md: balance, correlation, what is lost without it, its attribute.",
)
@click.option(
    "--permutations",
    type=click.IntRange(19, 1_000_000),
    default=999,
    show_default=True,
    help="With --bits-out: random bits for each bit's p-value.",
)
@backend_option
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
    protocol: Literal["deployed", "paper", "both"],
    worst: int,
    rank: Rank | Literal["all"],
    out_path: str | None,
    plot_path: str | None,
    bits_path: str | None,
    permutations: int,
    backend: str,
    batch: int,
    threads: int | None,
    out: Output,
) -> ExitCode:
    """Measure how well a model's codes find pictures of the query's class.

    Both folders are hashed with the model, as in use. A picture's class is the folder that it lies in; of an official
    data set, what its lists say. The mAP is the mean over all orders of tied pictures (those at equal distance, or of
    equal score and distance), with the worst and the best order beside it. A query whose class the gallery has not is
    left out and counted; one that lies in the gallery itself is left out of its own ranking.

    mAP at k is over the k nearest alone: the sum stops at rank k and is divided by min(k, relevant pictures).
    Of a run that held classes out (qo-train --open-set), unseen classes are measured apart: their test pictures search
    their pictures of the training part, and no others. All else (ratios, bit cards) is of the seen ones.

    --protocol paper ranks the query's codes against those that the run solved from the labels of its training pictures;
    both: beside the model's own, over the same pictures.

    \b
    Examples:
      qo-eval --model runs/a/model.onnx --gallery photos/train --queries photos/test
      qo-eval --model runs/a/model.onnx --compare untrained.onnx --require-ratio 2 \\
              --gallery photos/train --queries photos/test --out eval.json
      qo-eval --model runs/cub/model.onnx --data cub200 --root ~/data
      qo-eval --run runs/cub --protocol both --plot eval.png --bits-out bits.md

    \b
    Exit codes:
      0  done
      1  done, but some pictures could not be read
      2  wrong usage, or things that don't belong together
      3  nothing usable in the input
      4  a package that is needed is missing
      5  refused: the mAP is below what --require-ratio asks for
    """
    from queryopt.bench.cli.evaluate_tables import class_table, figure_table
    from queryopt.bench.quality.bit_cards import load_all_attributes, make_bit_cards
    from queryopt.bench.quality.evaluate import (
        evaluate,
        hash_labelled,
        index_codes,
        labelled_folder,
        labelled_pictures,
        paper_gallery,
    )
    from queryopt.runtime import Hasher

    check_usage(gallery_path, index_path, queries_path, data, run_path, compare, require_ratio)
    protocols: tuple[Protocol, ...] = _PROTOCOLS if protocol == "both" else (protocol,)
    check_protocols(protocols, run_path, compare)
    check_outputs(plot_path, bits_path, protocols)
    as_json = bits_path is not None and bits_path.endswith(".json")
    source = _source(data, root, any_size, run_path, split)
    gallery: LabelledFolder | None
    solved: LabelledCodes | None = None
    unseen: tuple[LabelledFolder, LabelledFolder] | None = None
    solved_after = model_after = attributes = None
    if source is not None:
        gallery_images, query_images = source.images(split, out.progress, trained_only="paper" in protocols)
        gallery, queries = labelled_pictures(gallery_images), labelled_pictures(query_images)
        model = _model_of(run_path, model)
        if "paper" in protocols:
            assert run_path is not None
            solved, solved_after = paper_gallery(run_path, gallery_images)
        if bits_path is not None:
            attributes = load_all_attributes(source.data, gallery_images, query_images)
        unseen = _unseen(source, split, protocols, out)
    else:
        assert queries_path is not None
        queries = labelled_folder(queries_path)
        gallery = labelled_folder(gallery_path) if gallery_path is not None else None
    for folder in (queries, gallery):
        if folder is not None and folder.unlabelled:
            some = "1 picture" if folder.unlabelled == 1 else f"{folder.unlabelled:,} pictures"
            out.warn(f"{display_path(folder.root)}: {some} directly in it, without a class: left out")

    if bits_path is not None and attributes is None:
        out.log("bit cards: these pictures have no known attributes (cub200 and synthetic:birds do, by --data)")

    check_plot(plot_path, queries, gallery, *(unseen or ()))
    ranks: tuple[Rank, ...] = RANKS if rank == "all" else (rank,)
    evaluations: dict[tuple[str, Part, Protocol, Rank], Evaluation] = {}
    cards: dict[str, ModelCard] = {}
    failed: dict[bytes, str] = {}
    with (
        _open_index(index_path) as index,
        _writing(out_path, b"{") as written,
        _writing(plot_path, _PNG) as drawn,
        _writing(bits_path, b'{\n  "bit_cards"' if as_json else b"# Bit cards") as carded,
    ):
        for path in _models(model, index, compare):
            galleries: dict[Protocol, LabelledCodes] = {}
            with Hasher(path, backend, threads, batch) as hasher:
                out.log(f"model: {display_path(path)} ({hasher.card.precision}, {hasher.backend})")
                if solved is not None:
                    assert run_path is not None
                    model_after = _iteration_of(run_path, path, hasher.card)
                if index is not None:
                    index.check_card(hasher.card, display_path(path))
                    galleries["deployed"] = index_codes(index)
                elif "deployed" in protocols:
                    assert gallery is not None
                    galleries["deployed"] = hash_labelled(hasher, gallery, out.progress, "gallery")
                if solved is not None:
                    # Side by side, both search the same pictures.
                    both = "deployed" in galleries
                    galleries["paper"] = solved.only(set(galleries["deployed"].paths)) if both else solved
                    if both:
                        galleries["deployed"] = galleries["deployed"].only(set(solved.paths))
                asked = hash_labelled(hasher, queries, out.progress, "queries")
                if carded is not None and not cards:
                    looked_at = galleries["deployed"], asked
                cards[path] = hasher.card
                evaluations |= {
                    (path, "seen", which, by): evaluate(found, asked, ks, radii, by, which)
                    for which, found in galleries.items()
                    for by in ranks
                }
                looked_through = [*galleries.values(), asked]
                if unseen is not None:
                    other = hash_labelled(hasher, unseen[0], out.progress, "unseen gallery")
                    strange = hash_labelled(hasher, unseen[1], out.progress, "unseen queries")
                    evaluations |= {
                        (path, "unseen", "deployed", by): evaluate(other, strange, ks, radii, by, "deployed", "unseen")
                        for by in ranks
                    }
                    looked_through += [other, strange]
            for found in looked_through:
                failed |= found.failures

        first, *others = cards
        by_model = {path: evaluations[path, "seen", protocols[0], ranks[0]] for path in cards}
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
            "solved_codes": None
            if solved is None
            else {"outer_iterations": solved_after, "model_outer_iterations": model_after},
            "models": [
                {"model": path, "fingerprint": cards[path].fingerprint} | evaluation.to_dict()
                for (path, _, _, _), evaluation in evaluations.items()
            ],
            "ratios": ratios,
            "required_ratio": require_ratio,
            "passed": passed,
            "failed": {display_path(name): reason for name, reason in failed.items()},
        }
        if written is not None:
            written.write(json.dumps(result, indent=2).encode() + b"\n")
        titled = _titles(evaluations)
        if drawn is not None:
            from queryopt.bench.quality.evaluation_plot import plot_evaluations

            plot_evaluations(titled, drawn)
        if carded is not None:
            with out.progress("bit cards", cards[first].bits + 1, unit="rankings") as advance:
                made = make_bit_cards(
                    display_path(first), *looked_at, attributes, permutations=permutations, progress=advance
                )
            carded.write((made.to_json() if as_json else made.to_markdown()).encode())
    out.result(result)
    out.print(figure_table(titled), "")
    for part in ("seen", "unseen") if worst else ():
        if of_part := {title: evaluation for title, evaluation in titled.items() if evaluation.part == part}:
            out.print(class_table(of_part, worst), "")
    for (path, part, which, by), evaluation in evaluations.items():
        if by != ranks[0]:
            ratio = evaluation.metrics.map / evaluations[path, part, which, ranks[0]].metrics.map
            column = display_path(path) + (f", {part}" if unseen else "") + (f", {which}" if len(protocols) > 1 else "")
            out.print(f"{column}: the mAP of {by} is {ratio:.3f} x that of {ranks[0]}.")
    if solved_after is not None:
        out.print(_about_solved(solved_after, model_after))
    for compared, ratio in ratios.items():
        out.print(f"The mAP is {ratio:.2f} x that of {display_path(compared)}.")
    if not passed:
        low = min(ratios, key=lambda other: ratios[other])
        click.echo(
            f"qo-eval: refused: the mAP is {ratios[low]:.3f} x that of {display_path(low)}, but --require-ratio asks "
            f"for {require_ratio:g}",
            err=True,
        )
        return ExitCode.PARITY
    return ExitCode.SOME_FAILED if failed else ExitCode.DONE


def _iteration_of(run: str, path: str, card: "ModelCard") -> int:
    from queryopt.train.solved import model_iteration

    found = model_iteration(run, card.fingerprint)
    if found is None:
        raise MismatchError(
            f"{display_path(path)}: not the model of the run in {display_path(run)} as it is now, so the codes that "
            f"this solved are not its: export it again (qo-export --ckpt {display_path(run)}), or use --protocol "
            "deployed"
        )
    return found


def _about_solved(solved: int, model: int | None) -> str:
    """What the gallery of the paper's protocol is."""
    plural = "" if solved == 1 else "s"
    text = f"paper: gallery codes from labels, solved after {solved} outer iteration{plural}"
    return text + ("." if model == solved else f"; the model is that after {model}.")


def _writing(path: str | None, over: bytes) -> "AbstractContextManager[BinaryIO | None]":
    from queryopt.files import replacing

    return nullcontext() if path is None else replacing(path, over=over)


def _titles(evaluations: "Mapping[tuple[str, Part, Protocol, Rank], Evaluation]") -> "dict[str, Evaluation]":
    """Each evaluation by the name of its column: the model's, and what tells it from the others or from the usual."""
    parts, protocols, ranks = ({key[i] for key in evaluations} for i in (1, 2, 3))
    titled = {}
    for (path, part, protocol, rank), evaluation in evaluations.items():
        title = display_path(path)
        title += f", {part}" if "unseen" in parts else ""
        title += "" if protocols == {"deployed"} else f", {protocol}"
        title += "" if ranks == {"hamming"} else f", {rank}"
        titled[title] = evaluation
    return titled


def _source(data: str | None, root: str | None, any_size: bool, run: str | None, split: str) -> "DataSource | None":
    """The data set to measure on, None where folders were given."""
    from queryopt.bench.quality.evaluate import DataSource
    from queryopt.train.sources import absolute_source, with_root

    data = with_root(data, root, any_size)
    if split != _SPLITS[0] and run is None:
        raise UsageError(f"--split {split} depends on how a run was trained: give its folder with --run")
    if data is not None:
        data = absolute_source(data)
    if run is None:
        return None if data is None else DataSource.plain(data)
    if importlib.util.find_spec("torch") is None:
        raise MissingError(f"--run needs torch, which is not installed: {install_extra('train')}; or give --data")
    return DataSource.of_run(run, data)


def _unseen(
    source: "DataSource", split: str, protocols: "tuple[Protocol, ...]", out: Output
) -> "tuple[LabelledFolder, LabelledFolder] | None":
    """Gallery and queries of the classes that a run held out, where the test pictures are asked with."""
    from queryopt.bench.quality.evaluate import labelled_pictures

    if split != "test" or not source.open_set:
        return None
    images = source.unseen_images(out.progress)
    assert images is not None
    gallery, queries = map(labelled_pictures, images)
    if "paper" in protocols:
        out.log("unseen classes: the run solved no codes for them, so they are measured with the model's own alone")
    return gallery, queries


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
