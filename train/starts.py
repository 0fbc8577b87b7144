"""How the gallery's codes B start: a registry that `--codes` chooses from.

To add a way, write a function StartContext -> float32 [n, columns] and name it in CODE_STARTS.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from queryopt.errors import UsageError
from queryopt.text import did_you_mean
from queryopt.train.data import LabelledImages
from queryopt.train.draws import Stream, sample_rng

if TYPE_CHECKING:
    from queryopt.train.visual_codes import ImageFeatures

__all__ = ["CODE_STARTS", "CodeStart", "StartContext", "start_codes"]


@dataclass(frozen=True)
class StartContext:
    """What a start may use.

    images: the n training pictures. bits: of one code. branches: copies of each query, the original included. features:
    looks at the pictures with the trunk as it is now; None where there is none.
    """

    images: LabelledImages
    bits: int
    branches: int
    seed: int
    features: "Callable[[], ImageFeatures] | None" = None

    @property
    def columns(self) -> int:
        """Columns of B: column roll * bits + query, as the network's outputs."""
        return self.bits * self.branches


WARM_UP_CODES = "separated"
"""What a network learns while its trunk is warmed up, until codes are read off it."""

CodeStart = Callable[[StartContext], npt.NDArray[np.float32]]


def noise(context: StartContext) -> npt.NDArray[np.float32]:
    """The paper's start: N(0, 1) noise a picture, not binary. The first iteration fits it, then it is solved."""
    rng = sample_rng(context.seed, 0, 0, 0, Stream.CODES)
    return rng.standard_normal((len(context.images), context.columns), dtype=np.float32)


def separated(context: StartContext) -> npt.NDArray[np.float32]:
    """One code a class, as far apart as a search finds them: first in the deployed bits, then over all branches."""
    from queryopt.train.class_codes import separated_codes

    codes = separated_codes(len(context.images.classes), context.bits, context.seed, context.branches)
    return codes.astype(np.float32)[context.images.labels]


def visual(context: StartContext) -> npt.NDArray[np.float32]:
    """One code a class, read off the trunk's features: what looks alike is near. The same bits in every branch."""
    from queryopt.train.visual_codes import visual_codes

    if context.features is None:
        raise UsageError("visual codes are read off a trunk's features, and there is no trunk here: use separated")
    features = context.features()
    labels = context.images.labels
    codes = visual_codes(
        features.values, labels[features.rows], len(context.images.classes), context.bits, context.seed
    )
    return np.tile(codes, context.branches).astype(np.float32)[labels]


CODE_STARTS: dict[str, CodeStart] = {"noise": noise, "separated": separated, "visual": visual}


def start_codes(name: str, context: StartContext) -> npt.NDArray[np.float32]:
    """B as it starts, float32 [n, columns]. UsageError for an unknown name."""
    if name not in CODE_STARTS:
        raise UsageError(f"codes is {name!r}: one of {', '.join(CODE_STARTS)}{did_you_mean(name, CODE_STARTS)}")
    return CODE_STARTS[name](context)
