"""Codes of labelled pictures: of a model, a network, an index, or a run's solver."""

import os
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from queryopt.bench.quality.descriptors import DESCRIPTORS, Describer
from queryopt.bench.quality.pictures import full_paths
from queryopt.card import Preprocessing
from queryopt.codes import pack_codes
from queryopt.errors import DataError, MismatchError
from queryopt.progress import Progress
from queryopt.runtime.index.rows import encode_margins
from queryopt.text import display_path
from queryopt.train.data import LabelledImages

if TYPE_CHECKING:
    from queryopt.runtime import Hasher, HashIndex
    from queryopt.train.hash_network import HashNetwork

__all__ = [
    "LabelledCodes",
    "SolvedGallery",
    "describe_files",
    "hash_labelled",
    "hash_network",
    "index_codes",
    "network_logits",
    "own_rows",
]


_DESCRIBED = 32


@dataclass(frozen=True, eq=False)
class LabelledCodes:
    """Codes with their labels.

    codes: uint8 [n, ceil(bits / 8)].
    labels: str [n].
    paths: absolute.
    failures: pictures that could not be read, with the reason; they have no row.
    logits: float32 [n, bits], None where they are not known: an index has none.
    margins: int8 [n, bits], as an index keeps them; None where they are not known: solved codes have none.
    descriptors: float32 [n, d] by the names of `queryopt.bench.quality.descriptors`, those that were made.
    """

    bits: int
    codes: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.str_]
    paths: tuple[bytes, ...]
    failures: dict[bytes, str]
    logits: npt.NDArray[np.float32] | None = None
    margins: npt.NDArray[np.int8] | None = None
    descriptors: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def only(self, paths: Collection[bytes]) -> "LabelledCodes":
        """The rows of these paths."""
        rows = [row for row, path in enumerate(self.paths) if path in paths]
        return LabelledCodes(
            self.bits,
            self.codes[rows],
            self.labels[rows],
            tuple(self.paths[row] for row in rows),
            self.failures,
            None if self.logits is None else self.logits[rows],
            None if self.margins is None else self.margins[rows],
            {name: values[rows] for name, values in self.descriptors.items()},
        )


@dataclass(frozen=True, eq=False)
class SolvedGallery:
    """The codes that a run solved for the pictures it trains on. iteration: after how many outer iterations."""

    run: str | os.PathLike[str]
    codes: LabelledCodes
    iteration: int

    @classmethod
    def of_run(cls, run: str | os.PathLike[str], images: LabelledImages) -> "SolvedGallery":
        """images: those pictures; ones that it could not read are left out. Raises what `load_solved_codes` does."""
        from queryopt.train.solved import load_solved_codes

        solved = load_solved_codes(run, images)
        rows = np.flatnonzero(solved.readable)
        return cls(run, _of_rows(images, rows, solved.bits, solved.codes[rows]), solved.iteration)

    def model_iteration(self, model: str, fingerprint: str) -> int:
        """After how many outer iterations this model was exported. MismatchError where it is not the run's."""
        from queryopt.train.solved import model_iteration

        iteration = model_iteration(self.run, fingerprint)
        if iteration is None:
            run = display_path(self.run)
            raise MismatchError(
                f"{display_path(model)}: not the model of the run in {run} as it is now, so the codes that this solved "
                f"are not its: export it again (qo-export {run}), or use --protocol deployed"
            )
        return iteration


def hash_labelled(
    hasher: "Hasher",
    images: LabelledImages,
    progress: Progress,
    description: str,
    describer: Describer | None = None,
) -> LabelledCodes:
    """Hash pictures with a model, and describe them with a describer. DataError where not one could be read."""
    codes: list[npt.NDArray[np.uint8]] = []
    logits: list[npt.NDArray[np.float32]] = []
    hashed: list[bytes] = []
    failures: dict[bytes, str] = {}
    paths = full_paths(images)
    with progress(description, len(paths)) as advance:
        for batch in hasher.stream(paths, pixels=describer is not None):
            codes.append(batch.codes)
            logits.append(batch.logits)
            hashed += map(os.fsencode, batch.paths)
            failures |= {os.fsencode(path): reason for path, reason in batch.failures.items()}
            if describer is not None and batch.pixels is not None:
                describer.add(batch.pixels)
            advance(len(batch.paths) + len(batch.failures))
    if not hashed:
        name, reason = next(iter(failures.items()))
        raise DataError(
            f"{display_path(images.root)}: none of its {len(failures)} pictures could be read "
            f"(the first, {os.fsdecode(name)}: {reason})"
        )
    row_of = {path: row for row, path in enumerate(paths)}
    rows = np.array([row_of[path] for path in hashed])
    joined, scale = (np.concatenate(codes), np.concatenate(logits)), hasher.card.logit_scale
    made = _of_rows(images, rows, hasher.card.bits, *joined, scale, failures)
    return made if describer is None else replace(made, descriptors=describer.take())


def hash_network(
    network: "HashNetwork",
    images: LabelledImages,
    progress: Progress,
    description: str,
    *,
    threads: int | None = None,
    batch: int = 64,
    describer: Describer | None = None,
) -> LabelledCodes:
    """The same with a trained network, on the device that it is on: what its export gives, where there is none yet."""
    logits, rows, failures = network_logits(
        network, images, progress, description, threads=threads, batch=batch, describer=describer
    )
    codes, scale = pack_codes(logits >= 0), network.logit_scale
    made = _of_rows(images, rows, network.config.bits, codes, logits, scale, failures)
    return made if describer is None else replace(made, descriptors=describer.take())


def network_logits(
    network: "HashNetwork",
    images: LabelledImages,
    progress: Progress,
    description: str,
    *,
    branches: int = 1,
    threads: int | None = None,
    batch: int = 64,
    describer: Describer | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.intp], dict[bytes, str]]:
    """Logits float32 [n, bits * branches], whose pictures they are (rows of images [n]), and what could not be read.

    network: in eval mode. describer: gets the pictures, and the maps that the network's trunk made of them.
    """
    import torch

    from queryopt.train.inputs import to_input
    from queryopt.train.pictures import PictureSource
    from queryopt.train.threads import torch_threads

    preprocessing = network.config.preprocessing
    device = network.head.weight.device
    source = PictureSource(images, preprocessing, threads=threads)
    index = np.arange(len(images))
    batches = [index[start : start + batch] for start in range(0, len(index), batch)]
    logits: list[npt.NDArray[np.float32]] = []
    kept: list[npt.NDArray[np.bool_]] = []
    maps: list[torch.Tensor] = []
    hook = network.backbone.register_forward_hook(lambda _, inputs, outputs: maps.append(outputs[-1]))
    with torch_threads(threads), torch.inference_mode(), progress(description, len(images)) as advance:
        try:
            for part in source.plain_batches(batches):
                kept.append(part.kept)
                if part.kept.any():
                    pictures = to_input(part.pictures, preprocessing, device, False)
                    logits.append(network(pictures, branches=branches).cpu().numpy())
                    last = maps.pop()
                    if describer is not None:
                        describer.add(part.pictures, last)
                advance(len(part.kept))
        finally:
            hook.remove()
            source.close()
    root = os.path.abspath(os.fsencode(images.root))
    failures = {os.path.join(root, os.fsencode(path)): reason for path, reason in source.failures.items()}
    return np.concatenate(logits), np.flatnonzero(np.concatenate(kept)), failures


def index_codes(index: "HashIndex") -> LabelledCodes:
    """The codes and labels that an index holds. DataError where no picture in it has a label."""
    images = [image for image in index if image.label is not None]
    if not images:
        raise DataError(f"{index.path}: no picture in it has a class (a folder of its own below {index.root})")
    return LabelledCodes(
        bits=index.card.bits,
        codes=np.stack([image.code for image in images]),
        labels=np.array([image.label for image in images], dtype=np.str_),
        paths=tuple(os.fsencode(image.path) for image in images),
        failures={},
        margins=np.stack([image.margins for image in images]),
    )


def describe_files(
    codes: LabelledCodes, preprocessing: Preprocessing, describer: Describer, progress: Progress, description: str
) -> LabelledCodes:
    """The rows whose files can still be read, described; all of them, undescribed, where none can.

    preprocessing: of the model that the codes are of.
    """
    from queryopt.train.pictures import PictureSource

    paths = tuple(os.fsdecode(path) for path in codes.paths)
    images = LabelledImages(Path("/"), paths, np.zeros(len(paths), np.int64), ("",))
    source = PictureSource(images, preprocessing, cache_bytes=0)
    rows = np.arange(len(paths))
    kept: list[npt.NDArray[np.bool_]] = []
    with closing(source), progress(f"colours of the {description}", len(paths)) as advance:
        batches = [rows[start : start + _DESCRIBED] for start in range(0, len(rows), _DESCRIBED)]
        try:
            for part in source.plain_batches(batches):
                kept.append(part.kept)
                describer.add(part.pictures)
                advance(len(part.kept))
        except DataError:
            describer.left_out |= dict.fromkeys(DESCRIPTORS, "none of the gallery's pictures can be read")
            return codes
    readable = codes.only({path for path, there in zip(codes.paths, np.concatenate(kept), strict=True) if there})
    return replace(readable, descriptors=describer.take())


def own_rows(gallery: LabelledCodes, queries: LabelledCodes) -> npt.NDArray[np.int64]:
    """Each query's own row in the gallery, int64 [queries], -1 where it isn't there.

    By the real path, so that a file is itself in whatever way its folder was named.
    """
    row_of = {os.path.realpath(path): row for row, path in enumerate(gallery.paths)}
    return np.array([row_of.get(os.path.realpath(path), -1) for path in queries.paths], np.int64)


def _of_rows(
    images: LabelledImages,
    rows: npt.NDArray[np.intp],
    bits: int,
    codes: npt.NDArray[np.uint8],
    logits: npt.NDArray[np.float32] | None = None,
    logit_scale: float = 1.0,
    failures: dict[bytes, str] | None = None,
) -> LabelledCodes:
    """Codes [n, …] of some of the pictures, rows [n], with their labels and paths."""
    labels = np.array(images.classes, np.str_)[images.labels[rows]]
    every = full_paths(images)
    paths = tuple(every[row] for row in rows.tolist())
    margins = None if logits is None else encode_margins(codes, logits, bits, logit_scale)
    return LabelledCodes(bits, codes, labels, paths, failures or {}, logits, margins)
