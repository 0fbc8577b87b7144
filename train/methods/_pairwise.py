"""Pairwise learning: pictures in pairs, of the same class or not. The codes are the network's own outputs."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from queryopt.train.hash_network import HashNetwork
from queryopt.train.methods._hash_layer import QUERY_FIELDS, HashLayerNetwork
from queryopt.train.methods.base import Method, TrainingBatch
from queryopt.train.network import NetworkConfig
from queryopt.train.starts import StartContext

__all__ = ["Pairs", "PairwiseMethod", "pairs_in_batch", "pairs_with_stored"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of the b pictures of a batch with m others.

    others: their relaxed codes, float [m, M]. same: pairs of one class, bool [b, m]. valid: pairs that count, bool
    [b, m]: a picture makes no pair with itself.
    """

    others: Tensor
    same: Tensor
    valid: Tensor

    def mean(self, losses: Tensor) -> Tensor:
        """The mean of losses [b, m] over the pairs that count; 0 where none does."""
        # No look at the number itself, which would wait for the GPU.
        return (losses * self.valid).sum() / self.valid.sum().clamp(min=1)


def pairs_in_batch(outputs: Tensor, batch: TrainingBatch) -> Pairs:
    """The pairs of a batch with itself: gradients reach both sides. outputs: [b, M]."""
    return _pairs(outputs, batch, batch.labels, batch.index)


def pairs_with_stored(batch: TrainingBatch) -> Pairs:
    """The pairs of a batch with what is stored of all n training pictures."""
    everything = torch.arange(len(batch.codes), device=batch.codes.device)
    return _pairs(batch.codes, batch, batch.gallery_labels, everything)


def _pairs(others: Tensor, batch: TrainingBatch, labels: Tensor, index: Tensor) -> Pairs:
    return Pairs(others, batch.labels[:, None] == labels, batch.index[:, None] != index)


class PairwiseMethod(Method):
    """A hash layer on the backbone's features, and no codes but the network's own outputs.

    `codes` holds the relaxed codes of all n training pictures, each from the step that saw it last, and zeros for those
    that none saw yet.
    """

    solves_codes = False
    unused = QUERY_FIELDS | {"codes", "gamma", "hold", "hold_solver", "scale_gamma"}

    @classmethod
    def network(cls, config: NetworkConfig) -> HashNetwork:
        """See HashLayerNetwork."""
        return HashLayerNetwork(config)

    def start(self, context: StartContext) -> npt.NDArray[np.float32]:
        """Zeros: nothing is known yet."""
        return np.zeros((len(context.images), context.columns), np.float32)

    def remember(self, codes: Tensor, index: Tensor, outputs: Tensor) -> None:
        """The batch's outputs are what is known of its pictures."""
        codes[index] = outputs
