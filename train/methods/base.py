"""What a method is: a network, relaxed codes, a loss, and how the training pictures' codes come about."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from queryopt.errors import UsageError
from queryopt.train.config import TrainConfig
from queryopt.train.hash_network import HashNetwork
from queryopt.train.loss import Loss
from queryopt.train.method_rules import MethodRules, Settings
from queryopt.train.network_config import NetworkConfig
from queryopt.train.starts import StartContext

__all__ = ["Method", "Settings", "TrainingBatch"]


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """What a loss is taken over, beside the batch's outputs.

    index: the batch's rows in `codes`, int64 [b]. labels: its classes, int64 [b]. codes: what is known of all training
    pictures' codes, float [n, M]. gallery_labels: their classes, int64 [n]. step: 0-based, over the whole run.
    """

    index: Tensor
    labels: Tensor
    codes: Tensor
    gallery_labels: Tensor
    step: int


class Method(MethodRules, ABC):
    """A way to learn codes; an instance serves one run.

    It keeps nothing that changes while a run goes on: what it needs it finds in `codes`, which is saved, and in the
    step. So a resumed run is, bit for bit, one that was never stopped. M is bits * branches.
    """

    solves_codes: ClassVar[bool]
    """Whether the training pictures' codes are solved after an outer iteration, or are the network's own outputs."""

    def __init__(self, config: TrainConfig, labels: npt.NDArray[np.int64]) -> None:
        """labels: classes of the n training pictures. UsageError for impossible options."""
        self.config = config
        self.settings = self.check_options(config.method_options)

    @classmethod
    @abstractmethod
    def network(cls, config: NetworkConfig) -> HashNetwork:
        """The network of a configuration, with random weights."""

    @abstractmethod
    def start(self, context: StartContext) -> npt.NDArray[np.float32]:
        """What `codes` begin as, float32 [n, M]."""

    @abstractmethod
    def relax(self, logits: Tensor, step: int) -> Tensor:
        """Relaxed codes of a batch's logits in train mode, [b, M]: what the loss sees. Their signs are the logits'."""

    def fit(
        self, network: HashNetwork, features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
    ) -> dict[str, Any]:
        """Of a method in closed form: set what is not the trunk's in `network`.

        features: float32 [k, d], what `network.features` makes of the training pictures that can be read.
        labels: their classes, int64 [k].

        Returns what was chosen, for config.json. UsageError of any other method.
        """
        raise UsageError(f"the method {self.name} is trained, not fitted in closed form")

    def remember(self, codes: Tensor, index: Tensor, outputs: Tensor) -> None:
        """Take a batch's outputs [b, M], without gradient, into rows `index` of codes, before its loss is taken."""
        return

    @abstractmethod
    def loss(self, outputs: Tensor, batch: TrainingBatch) -> Loss:
        """The loss of a batch's relaxed codes, [b, M]."""

    def restart(self, context: StartContext, outer: int) -> npt.NDArray[np.float32] | None:
        """Codes [n, M] that replace `codes` after outer iteration `outer`, in place of solving them; None to go on."""
        return None

    def solve(self, codes: Tensor, outputs: Tensor, index: Tensor, labels: Tensor, outer: int) -> Tensor:
        """The codes after outer iteration `outer` (from 0), where the method solves them.

        outputs: relaxed codes of the m pictures seen in its last inner epoch, [m, M]. index: their rows in codes,
        int64 [m]. labels: classes of all pictures, int64 [n].
        """
        return codes

    def about(self) -> dict[str, Any]:
        """What to note in a run's config.json: the hyper-parameters as they were used."""
        return asdict(self.settings)
