"""The codes that a run solved for its training pictures: the gallery that the paper ranks test pictures against.

They come from labels, not from pictures (see queryopt.train.solver), so a figure against them says how well a network
reproduces them, and not what a user gets, whose gallery has no labels.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from queryopt.card import fingerprint
from queryopt.codes import pack_codes
from queryopt.errors import CheckpointError, MismatchError, UsageError
from queryopt.text import display_path
from queryopt.train.checkpoint import BEST, LAST, load_checkpoint
from queryopt.train.data import LabelledImages
from queryopt.train.methods import find_method
from queryopt.train.runs import read_last

__all__ = ["SolvedCodes", "load_solved_codes", "model_iteration"]


@dataclass(frozen=True, eq=False)
class SolvedCodes:
    """B, as last.pt has it.

    bits: the code's length L. codes: uint8 [n, ceil(bits / 8)], the first L columns of B, packed; one row a training
    picture, in their order. readable: bool [n], False for pictures that the run could not read. iteration: outer
    iterations after which the codes were solved (1: the first).
    """

    bits: int
    codes: npt.NDArray[np.uint8]
    readable: npt.NDArray[np.bool_]
    iteration: int


def load_solved_codes(run: str | os.PathLike[str], images: LabelledImages) -> SolvedCodes:
    """Read them from a run folder.

    images: the pictures that the run trains on (without those set aside to choose the checkpoint), which must be those
    that it began with, wherever they lie now.

    Raises CheckpointError where there is no last.pt or it is damaged; UsageError where the run's method solves no
    codes, or has not solved any yet; MismatchError for other pictures.
    """
    path = Path(run) / LAST
    name = display_path(path)
    if not path.is_file():
        raise CheckpointError(
            f"{name}: no such file, and it alone holds the codes that the run solved for its training pictures"
        )
    state, config = read_last(path)
    if not find_method(config.method).solves_codes:
        raise UsageError(
            f"{display_path(run)}: the method {config.method} solves no codes for the training pictures: it is always "
            "ranked against the network's own (--protocol deployed)"
        )
    if not state.position.outer:
        raise UsageError(
            f"{display_path(run)}: no outer iteration is done yet, so no codes are solved: continue the run with "
            "qo-train --resume"
        )
    if state.data != images.digest():
        raise MismatchError(
            f"{display_path(images.root)}: the training pictures are not those that the run in {display_path(run)} "
            f"began with ({len(images):,} now, {len(state.codes):,} then), so its codes belong to others: restore them"
        )
    codes = pack_codes((state.codes[:, : config.network.bits] >= 0).numpy())
    readable = np.array([path not in state.skipped for path in images.paths], np.bool_)
    return SolvedCodes(config.network.bits, codes, readable, state.position.outer)


def model_iteration(run: str | os.PathLike[str], model_fingerprint: str) -> int | None:
    """After how many outer iterations of a run a model of this fingerprint was exported; None where it is not the
    run's: neither of its best checkpoint nor of its last one. CheckpointError for a damaged one.
    """
    state, _ = read_last(Path(run) / LAST)
    iterations = {LAST: state.position.outer, BEST: int(state.best.get("iteration", state.position.outer))}
    for name in (BEST, LAST):
        if not (Path(run) / name).is_file():
            continue
        checkpoint = load_checkpoint(Path(run) / name)
        network = checkpoint.config.network
        preprocessing = network.preprocessing
        its_fingerprint = fingerprint(checkpoint.network().inference_weights(), preprocessing, network.bits)
        if its_fingerprint == model_fingerprint:
            return iterations[name]
    return None
