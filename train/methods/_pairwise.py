"""Pairwise learning: pictures in pairs, of the same class or not. The codes are the network's own outputs."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from queryopt.train.hash_network import HashNetwork
from queryopt.train.methods._hash_layer import QUERY_FIELDS, HashLayerNetwork
from queryopt.train.methods.base import Method, TrainingBatch
from queryopt.train.network_config import NetworkConfig
from queryopt.train.starts import StartContext

__all__ = ["Pairs", "PairwiseMethod", "pairs_in_batch", "pairs_with_stored"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of the b pictures of a batch with m others.

    others: their relaxed codes, float [m, M]. same: pairs of one class, bool [b, m].
    """

    others: Tensor
    same: Tensor


def pairs_in_batch(outputs: Tensor, batch: TrainingBatch) -> Pairs:
    """The pairs of a batch with itself, each picture's with itself included: gradients reach both sides.

    outputs: [b, M]. A picture's pair with itself draws its outputs away from 0. Without these pairs, hashnet learnt
    half as well from scratch.
    """
    return Pairs(outputs, batch.labels[:, None] == batch.labels)


def pairs_with_stored(batch: TrainingBatch) -> Pairs:
    """The pairs of a batch with what is stored of all n training pictures, as it is there: the batch's own included."""
    return Pairs(batch.codes, batch.labels[:, None] == batch.gallery_labels)


class PairwiseMethod(Method):
    """A hash layer on the backbone's features, and no codes but the network's own outputs.

    `codes` holds the relaxed codes of all n training pictures, each from the step that saw it last, and zeros for those
    that none saw yet.
    """

    solves_codes = False
    unused = QUERY_FIELDS | {"codes", "gamma", "hold", "hold_solver", "scale_gamma", "warm_up"}

    @classmethod
    def network(cls, config: NetworkConfig) -> HashNetwork:
        return HashLayerNetwork(config)

    def start(self, context: StartContext) -> npt.NDArray[np.float32]:
        """Zeros: nothing is known yet."""
        return np.zeros((len(context.images), context.columns), np.float32)

    def remember(self, codes: Tensor, index: Tensor, outputs: Tensor) -> None:
        """The batch's outputs are what is known of its pictures."""
        codes[index] = outputs.to(codes.dtype)
