"""dpsh: deep pairwise-supervised hashing (Li, Wang and Kang, IJCAI 2016)."""

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
from queryopt.train.methods._pairwise import Pairs, PairwiseMethod, pairs_in_batch, pairs_with_stored
from queryopt.train.methods.base import Settings, TrainingBatch

__all__ = ["METHOD", "DpshMethod", "DpshSettings", "pairwise_likelihood_loss", "published_eta"]

_ETA = 50.0
_SIMILAR = 500.0
"""Pictures of a picture's class, itself included, in the release's training set: 5,000 of CIFAR-10, in 10 classes."""


@dataclass(frozen=True)
class DpshSettings(Settings):
    """eta: weight of the quantisation; None for the published one, see `published_eta`. stored: which pairs a batch
    makes: 0 within itself, 1 with the stored outputs of all training pictures, see DpshMethod.
    """

    eta: float | None = None
    stored: float = 0

    def __post_init__(self) -> None:
        if self.eta is not None and self.eta < 0:
            raise UsageError(f"dpsh's option eta is {self.eta!r}: a number, at least 0")
        if self.stored not in (0, 1):
            raise UsageError(f"dpsh's option stored is {self.stored!r}: 0 or 1")


def published_eta(labels: npt.NDArray[np.int64]) -> float:
    """The eta of the authors' release (jiangqy/DPSH-pytorch) for CIFAR-10, 50, carried over to other training sets.

    labels: classes, int64 [n]. What draws a picture's outputs to its class are its similar pairs, 500 there, and 27 of
    864 in synthetic:birds, where 50 drowned them: the outputs stayed at whatever signs they had at the start. So it is
    50 for 500 similar pictures, and in proportion to the mean number of them, up to 50.
    """
    similar = float(np.square(np.bincount(labels)).sum()) / max(len(labels), 1)
    return _ETA * min(1.0, similar / _SIMILAR)


def pairwise_likelihood_loss(outputs: Tensor, pairs: Pairs, quantisation: float) -> Loss:
    """The negative log likelihood of the pairs' similarities, and the quantisation: the relaxed objective of DPSH.

    outputs: u, float [b, M], not bounded. pairs: with the others' u. quantisation: its weight, eta / n for a training
    set of n pictures: the release averages both sums over n.

        theta_ij     = u_i . u_j / 2
        hash         = mean over pairs of (log(1 + exp(theta_ij)) - s_ij theta_ij)
        quantisation = mean over i of |sign(u_i) - u_i|^2, times its weight

    s is 1 for pairs of one class, else 0; sign(0) is +1.
    """
    theta = outputs @ pairs.others.to(outputs.dtype).T / 2  # [b, m]
    each = torch.where(pairs.same, F.softplus(-theta), F.softplus(theta))
    signs = (outputs.detach() >= 0).to(outputs.dtype) * 2 - 1
    return Loss(each.mean(), (signs - outputs).square().sum() * (quantisation / len(outputs)))


class DpshMethod(PairwiseMethod):
    """Learns from pairs: similar ones get a large inner product, others a small one.

    The release pairs a batch with the stored outputs of all training pictures, which are as old as the step that saw a
    picture last. With AdamW the batch chases outputs that are no longer the network's: on synthetic:birds (32 classes,
    24 bits) no class ever showed (validation mAP 0.04, that of a random ranking), and a backbone that knew the classes
    lost them; with SGD it kept them either way. So pairs are those within a batch, as in hashnet; `stored=1` is the
    release's way.
    """

    name = "dpsh"
    settings_type = DpshSettings

    def __init__(self, config: TrainConfig, labels: npt.NDArray[np.int64]) -> None:
        super().__init__(config, labels)
        settings = cast(DpshSettings, self.settings)
        self.eta = published_eta(labels) if settings.eta is None else settings.eta
        self.stored = bool(settings.stored)

    def relax(self, logits: Tensor, step: int) -> Tensor:
        """u is the hash layer's value: quantisation alone draws it to ±1."""
        return logits

    def loss(self, outputs: Tensor, batch: TrainingBatch) -> Loss:
        pairs = pairs_with_stored(batch) if self.stored else pairs_in_batch(outputs, batch)
        return pairwise_likelihood_loss(outputs, pairs, self.eta / len(batch.codes))

    def about(self) -> dict[str, Any]:
        """Eta and the pairs, as they were used."""
        return {"eta": self.eta, "stored": int(self.stored)}


METHOD = DpshMethod
