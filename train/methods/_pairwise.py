"""Pairwise learning: the batch against what the network last said of all training pictures."""

import numpy as np
import numpy.typing as npt
from torch import Tensor

from queryopt.train.hash_network import HashNetwork
from queryopt.train.methods._hash_layer import QUERY_FIELDS, HashLayerNetwork
from queryopt.train.methods.base import Method
from queryopt.train.network import NetworkConfig
from queryopt.train.starts import StartContext

__all__ = ["PairwiseMethod"]


class PairwiseMethod(Method):
    """A hash layer on the backbone's features; the training pictures' codes are the network's own outputs.

    `codes` holds the outputs U of all n pictures, each from the step that saw it last, and zeros for those that none
    saw yet: they have no part in any gradient. A batch's outputs enter U before its loss is taken, as in the release
    of DPSH.
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
