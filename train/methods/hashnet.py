"""hashnet: deep hashing by continuation (Cao, Long, Wang and Yu, ICCV 2017)."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from queryopt.errors import UsageError
from queryopt.train.config import TrainConfig
from queryopt.train.loss import Loss
from queryopt.train.methods._pairwise import Pairs, PairwiseMethod, pairs_in_batch
from queryopt.train.methods.base import Settings, TrainingBatch

__all__ = ["METHOD", "HashNetMethod", "HashNetSettings", "pair_weights", "scale_at", "weighted_pairwise_loss"]


@dataclass(frozen=True)
class HashNetSettings(Settings):
    """The values of the authors' release (thuml/HashNet).

    alpha: of the adaptive sigmoid 1 / (1 + exp(-alpha x)), times the code's length: 10 is alpha = 10 / bits.
    scale_growth, scale_power, scale_step: of the continuation, see `scale_at`.
    """

    alpha: float = 10.0
    scale_growth: float = 0.005
    scale_power: float = 0.5
    scale_step: float = 200

    def __post_init__(self) -> None:
        if self.alpha <= 0:
            raise UsageError(f"hashnet's option alpha is {self.alpha!r}: a number above 0")
        for name in ("scale_growth", "scale_power"):
            if getattr(self, name) < 0:
                raise UsageError(f"hashnet's option {name} is {getattr(self, name)!r}: a number, at least 0")
        if self.scale_step < 1 or self.scale_step != int(self.scale_step):
            raise UsageError(f"hashnet's option scale_step is {self.scale_step!r}: a whole number, at least 1")


def scale_at(step: int, settings: HashNetSettings) -> float:
    """beta of tanh(beta z) at a step of the run (from 0): it grows in stairs, and tanh becomes the sign.

    (1 + scale_growth t)^scale_power, t being the last multiple of scale_step: 1 to 7.1 in the release's 10,000 steps.
    """
    stair = int(step // settings.scale_step * settings.scale_step)
    return float((1 + settings.scale_growth * stair) ** settings.scale_power)


def pair_weights(labels: npt.NDArray[np.int64]) -> tuple[float, float]:
    """What a similar pair and another pair of the training pictures weigh: |S| / |S_1| and |S| / |S_0| (eq. 2).

    labels: classes, int64 [n]. S are all n^2 ordered pairs, S_1 the similar ones, S_0 the others.
    """
    similar = float(np.square(np.bincount(labels), dtype=np.float64).sum())
    pairs = float(len(labels)) ** 2
    return pairs / similar, pairs / max(pairs - similar, 1.0)


def weighted_pairwise_loss(outputs: Tensor, pairs: Pairs, alpha: float, weights: tuple[float, float]) -> Loss:
    """The weighted cross-entropy of the pairs' similarities (eq. 4). There is no quantisation term: it is 0.

    outputs: g = tanh(beta z), float [b, M]. pairs: with the others' g. alpha: of the sigmoid. weights: of similar pairs
    and of others.

        hash = mean over pairs of w_ij (log(1 + exp(alpha g_i . g_j)) - s_ij alpha g_i . g_j)

    s is 1 for pairs of one class, else 0, and w_ij is the weight of its kind.
    """
    products = alpha * (outputs @ pairs.others.to(outputs.dtype).T)  # [b, m]
    similar, other = weights
    each = torch.where(pairs.same, similar * F.softplus(-products), other * F.softplus(products))
    return Loss(each.mean(), outputs.new_zeros(()))


class HashNetMethod(PairwiseMethod):
    """Learns from the pairs within a batch, similar and other ones weighing the same in sum; tanh sharpens to the sign.

    The release pairs one batch of 36 pictures with another.
    """

    name = "hashnet"
    settings_type = HashNetSettings

    def __init__(self, config: TrainConfig, labels: npt.NDArray[np.int64]) -> None:
        super().__init__(config, labels)
        self.alpha = self._settings.alpha / config.network.bits
        self.weights = pair_weights(labels)

    @property
    def _settings(self) -> HashNetSettings:
        return cast(HashNetSettings, self.settings)

    def relax(self, logits: Tensor, step: int) -> Tensor:
        """g = tanh(beta z), with beta of the step."""
        return torch.tanh(scale_at(step, self._settings) * logits)

    def loss(self, outputs: Tensor, batch: TrainingBatch) -> Loss:
        return weighted_pairwise_loss(outputs, pairs_in_batch(outputs, batch), self.alpha, self.weights)

    def about(self) -> dict[str, Any]:
        """The settings, and what a similar pair and another one weigh."""
        similar, other = self.weights
        return {**super().about(), "weight_similar": similar, "weight_other": other}


METHOD = HashNetMethod
