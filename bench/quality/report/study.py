"""What the sections of a report share: the model, its pictures and their codes, hashed once, and what was measured."""

from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from queryopt.bench.quality.bit_cards import BitCards, load_all_attributes, make_bit_cards
from queryopt.bench.quality.descriptors import TRUNK, Describer, not_described
from queryopt.bench.quality.evaluate import Evaluation, EvaluationCodes, EvaluationOptions, evaluate, hash_pictures
from queryopt.bench.quality.labelled_codes import LabelledCodes, SolvedGallery, own_rows
from queryopt.bench.quality.pictures import DataSource, EvaluationPictures, about_run
from queryopt.bench.quality.rankings import Baseline
from queryopt.bench.quality.report.figures import Figures
from queryopt.bench.quality.report.model import Look, ReportModel, RunModel
from queryopt.bench.quality.report.tiles import Tiles
from queryopt.cli import Output
from queryopt.codes import unpack_codes
from queryopt.errors import DataError, ImageError, MismatchError
from queryopt.images import load_image
from queryopt.runtime.search import HammingIndex, SearchResult
from queryopt.text import counted, display_path
from queryopt.train.run_files import LAST

if TYPE_CHECKING:
    from queryopt.train.data import LabelledImages
    from queryopt.train.datasets.attributes import ImageAttributes

__all__ = ["Study", "first_of_each", "make_study", "spread"]

_SAMPLE_CLASSES = 20
_SAMPLE_PICTURES = 600
"""Pictures whose features are looked at: enough for a map of them, few enough for a minute."""


@dataclass(eq=False)
class Study:
    """A model and its data, and what sections made of them so far.

    pictures: what it is measured on; codes: theirs.
    solved: the gallery's codes as the run solved them, None where there are none, for the reason why_not_solved.
    without_baselines: descriptors that were not made, with the reason.
    other: a second run to compare with; other_codes: the codes that it gives the same pictures.
    seed: of what is drawn.
    """

    model: ReportModel
    source: DataSource
    pictures: EvaluationPictures
    codes: EvaluationCodes
    figures: Figures
    out: Output
    solved: SolvedGallery | None = None
    why_not_solved: str = ""
    other: RunModel | None = None
    other_codes: EvaluationCodes | None = None
    attributes: "ImageAttributes | None" = None
    landscape: bool = False
    seed: int = 0
    without_baselines: dict[str, str] = field(default_factory=dict)

    @property
    def bits(self) -> int:
        return self.model.bits

    @property
    def run(self) -> RunModel | None:
        """The model, where it is a run's network."""
        return self.model if isinstance(self.model, RunModel) else None

    @property
    def gallery_images(self) -> "LabelledImages":
        assert self.pictures.gallery is not None
        return self.pictures.gallery

    @property
    def gallery(self) -> LabelledCodes:
        return self.codes.galleries["deployed"]

    @property
    def queries(self) -> LabelledCodes:
        return self.codes.queries

    @cached_property
    def tiles(self) -> Tiles:
        return Tiles(self.figures)

    @property
    def failed(self) -> dict[bytes, str]:
        return self.codes.failures()

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """By what each is called; the first is that of the deployed codes."""
        deployed, *others = self.codes.evaluate(EvaluationOptions())
        by_distance, weighted = (evaluate(self.gallery, self.queries, rank=rank) for rank in ("id", "weighted"))
        named = {"deployed": deployed, "deployed, by distance": by_distance, "deployed, weighted": weighted}
        named |= {"unseen classes" if other.part == "unseen" else other.protocol: other for other in others}
        if self.other is not None and self.other_codes is not None:
            [named[f"compared: {self.other.name}"]] = self.other_codes.evaluate(EvaluationOptions())
        return named

    @property
    def deployed(self) -> Evaluation:
        return self.evaluations["deployed"]

    @cached_property
    def baselines(self) -> tuple[Baseline, ...]:
        """Rankings of the same pictures without codes."""
        return self.codes.baselines((1, 10))

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong with the codes, in sentences."""
        return self.codes.warnings(self.baselines, self.deployed)

    @cached_property
    def cards(self) -> BitCards:
        with self.out.progress("bit cards", self.bits + 1, unit="rankings") as advance:
            return make_bit_cards(
                self.model.name, self.gallery, self.queries, self.attributes, seed=self.seed, progress=advance
            )

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes that have both queries and gallery pictures, sorted."""
        shared: list[str] = np.intersect1d(self.queries.labels, self.gallery.labels).tolist()
        return shared

    @cached_property
    def query_bits(self) -> npt.NDArray[np.uint8]:
        """The queries' bits, [queries, bits]."""
        return unpack_codes(self.queries.codes, self.bits)

    @cached_property
    def sample(self) -> npt.NDArray[np.intp]:
        """Rows of queries whose features are looked at: of at most 20 classes, evenly spread, the same number each."""
        names = spread(self.classes, _SAMPLE_CLASSES)
        most = max(1, _SAMPLE_PICTURES // len(names))
        rows = [np.flatnonzero(self.queries.labels == name)[:most] for name in names]
        return np.concatenate(rows)

    @cached_property
    def sample_look(self) -> Look | None:
        """The model's closer look at the sample's pictures, None where it shows none."""
        return self.model.look(self.pixels(self.sample))

    @cached_property
    def runs(self) -> dict[str, RunModel]:
        """The run, and the one to compare with, by titles that tell them apart; none of an exported model."""
        runs = [run for run in (self.run, self.other) if run is not None]
        names = [run.folder.name for run in runs]
        if len({run.title(name) for run, name in zip(runs, names, strict=True)}) < len(runs):
            names = [run.name for run in runs]
        return {run.title(name): run for run, name in zip(runs, names, strict=True)}

    def search(self, rows: npt.NDArray[np.intp], k: int) -> SearchResult:
        """The k nearest gallery rows of some queries, in (distance, row) order; a query itself is none of them."""
        own = self.own[rows]
        nearest = self._index.search(self.queries.codes[rows], k=min(k + 1, len(self.gallery.labels)))
        kept = np.argsort(nearest.ids == own[:, None], axis=1, kind="stable")[:, :k]
        return SearchResult(np.take_along_axis(nearest.ids, kept, 1), np.take_along_axis(nearest.distances, kept, 1))

    @cached_property
    def _index(self) -> HammingIndex:
        return HammingIndex(self.gallery.codes, bits=self.bits)

    @cached_property
    def own(self) -> npt.NDArray[np.int64]:
        """Each query's own row in the gallery, -1 where it isn't there."""
        return own_rows(self.gallery, self.queries)

    def pixels(self, rows: npt.NDArray[np.intp], model: ReportModel | None = None) -> npt.NDArray[np.uint8]:
        """The input of a model, by default the study's, for some queries: uint8 [n, s, s, 3]."""
        return _read_pixels([self.queries.paths[row] for row in rows.tolist()], model or self.model)


def spread(items: list[str], most: int) -> list[str]:
    """At most so many of the items, evenly spaced."""
    if len(items) <= most:
        return items
    return [items[i * len(items) // most] for i in range(most)]


def first_of_each(labels: npt.NDArray[np.str_], order: npt.NDArray[np.intp], most: int) -> list[int]:
    """The first row of each class, in an order of rows, of at most so many classes."""
    first: dict[str, int] = {}
    for row in order.tolist():
        first.setdefault(str(labels[row]), row)
        if len(first) == most:
            break
    return list(first.values())


def _read_pixels(paths: list[bytes], model: ReportModel) -> npt.NDArray[np.uint8]:
    """The model's input of some files that were hashed a moment ago; grey for one that can't be read any more."""
    side = model.preprocessing.image_size
    pixels = np.full((len(paths), side, side, 3), 127, np.uint8)
    for row, path in enumerate(paths):
        try:
            pixels[row] = load_image(path, model.preprocessing)
        except ImageError:
            continue
    return pixels


def make_study(
    model: ReportModel,
    data: str | None,
    figures: Figures,
    out: Output,
    *,
    other: RunModel | None = None,
    landscape: bool = False,
    baselines: bool | None = None,
    seed: int = 0,
) -> Study:
    """Read the data, check that it is the model's, and hash it. data: None for the run's own.

    DataError where it has no labels, one class or no test pictures. MismatchError where it is not what the run was
    trained on; it says what differs.
    """
    run = model if isinstance(model, RunModel) else None
    why_not = "an exported model alone: only its run folder holds the codes that were solved"
    if run is not None:
        why_not = _why_not_solved(run)
    source = model.source(data)
    pictures = source.pictures("test", out.progress, trained_only=not why_not)
    assert pictures.gallery is not None
    for one in (run, other):
        if one is not None:
            _check_data(one.folder, source, pictures.gallery, not why_not)
    solved = SolvedGallery.of_run(run.folder, pictures.gallery) if run is not None and not why_not else None
    describer, without = _describer(pictures, run, baselines)
    codes = hash_pictures(pictures, partial(model.codes, progress=out.progress, describer=describer), solved=solved)
    gallery = codes.galleries["deployed"]
    if not len(np.intersect1d(codes.queries.labels, gallery.labels)):
        raise DataError(f"{display_path(source.data)}: its test pictures share no class with its training pictures")
    other_codes = None
    if other is not None:
        compared = hash_pictures(
            EvaluationPictures(pictures.gallery, pictures.queries, lone=pictures.lone),
            lambda images, what: other.codes(images, f"compared {what}", out.progress),
        )
        kept = compared.galleries["deployed"].only(set(gallery.paths))
        other_codes = EvaluationCodes({"deployed": kept}, compared.queries)
    return Study(
        model,
        source,
        pictures,
        codes,
        figures,
        out,
        solved=solved,
        why_not_solved=why_not,
        other=other,
        other_codes=other_codes,
        attributes=load_all_attributes(source.data, pictures.gallery, pictures.queries),
        landscape=landscape,
        seed=seed,
        without_baselines=without,
    )


def _describer(
    pictures: EvaluationPictures, run: RunModel | None, asked: bool | None
) -> tuple[Describer | None, dict[str, str]]:
    """What describes the pictures while they are hashed, and what is left out, with the reason."""
    count = len(pictures.queries) + len(pictures.searched)
    if why_not := not_described(count, asked):
        return None, why_not
    without = {TRUNK: "an exported model alone: give the run folder"} if run is None else {}
    return Describer(left_out=without), without


def _why_not_solved(run: RunModel) -> str:
    """Why there are no solved codes to rank against, "" where there are some."""
    from queryopt.train.methods import find_method
    from queryopt.train.runs import read_last

    if not find_method(run.method).solves_codes:
        return f"the method {run.method} solves no codes: its galleries are always the network's own"
    if not (run.folder / LAST).is_file():
        return f"the run folder has no {LAST}, which alone holds the codes that were solved"
    if not read_last(run.folder / LAST)[0].position.outer:
        return "no outer iteration is done yet, so no codes are solved"
    return ""


def _check_data(folder: Path, source: DataSource, gallery: "LabelledImages", trained: bool) -> None:
    """MismatchError, saying what differs, unless these are the pictures that the run was trained on.

    gallery: the training part; trained: without the pictures that chose the checkpoint.
    """
    about = about_run(folder)
    differs = []
    classes, images = about.get("classes"), about.get("images")
    validation = 0 if trained else about.get("validation_images", 0)
    if isinstance(classes, int) and classes != len(gallery.classes):
        differs.append(f"{counted(len(gallery.classes), 'class', 'classes')}, and the run had {classes:,}")
    if isinstance(images, int) and images + validation != len(gallery):
        differs.append(
            f"{counted(len(gallery), 'training picture', 'training pictures')}, and the run had {images + validation:,}"
        )
    if not differs and trained and (folder / LAST).is_file():
        from queryopt.train.runs import read_last

        if read_last(folder / LAST)[0].data != gallery.digest():
            differs.append("as many classes and pictures as the run had, but other names of files or classes")
    if differs:
        model = display_path(folder / "model.onnx")
        raise MismatchError(
            f"{display_path(source.data)}: not the data of the run in {display_path(folder)}: it has "
            f"{' and '.join(differs)}. Give the run's own with --data, or report on the model alone, which any data "
            f"goes with: qo-report {model} --data {display_path(source.data)}"
        )
