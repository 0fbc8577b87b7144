"""dpsh: deep pairwise-supervised hashing (Li, Wang and Kang, IJCAI 2016)."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from queryopt.errors import UsageError
from queryopt.train.config import TrainConfig
from queryopt.train.loss import Loss
from queryopt.train.methods._pairwise import PairwiseMethod
from queryopt.train.methods.base import Settings, TrainingBatch

__all__ = ["METHOD", "DpshMethod", "DpshSettings", "pairwise_likelihood_loss", "published_eta"]

_ETA = 50.0
_IMAGES = 5000
"""Training pictures of CIFAR-10 in the release, where its eta was set."""


@dataclass(frozen=True)
class DpshSettings(Settings):
    """eta: weight of the quantisation; None for the published one, see `published_eta`."""

    eta: float | None = None

    def __post_init__(self) -> None:
        """Check eta."""
        if self.eta is not None and self.eta < 0:
            raise UsageError(f"dpsh's option eta is {self.eta!r}: a number, at least 0")


def published_eta(images: int) -> float:
    """The eta of the authors' release (jiangqy/DPSH-pytorch) for CIFAR-10, 50, lowered on smaller training sets.

    A picture's quantisation weighs eta / images against its mean pair, 0.01 there. On some hundred pictures, 50 would
    weigh ten times that: the outputs are drawn to whatever signs they have at the start, and all codes become the same.
    So it is 50 * images / 5000 below 5000 pictures, as `scaled_gamma` does for queryopt.
    """
    return _ETA * min(1.0, images / _IMAGES)


def pairwise_likelihood_loss(
    outputs: Tensor, stored: Tensor, batch_labels: Tensor, gallery_labels: Tensor, eta: float
) -> Loss:
    """The negative log likelihood of the pairs' similarities, and the quantisation: the relaxed objective of DPSH.

    outputs: u, float [b, M], not bounded. stored: u of all n training pictures, [n, M]. batch_labels [b] and
    gallery_labels [n]: integer classes. eta: weight of the quantisation.

        theta_ij     = u_i . u_j / 2
        hash         = sum over i, j of (log(1 + exp(theta_ij)) - s_ij theta_ij) / (b n)
        quantisation = eta * sum over i of |sign(u_i) - u_i|^2 / (b n)

    s is 1 where the classes are equal, else 0; sign(0) is +1. The average is that of the release, so quantisation
    weighs eta / n against a picture's mean pair. Gradients reach `outputs` alone.
    """
    pairs = outputs.shape[0] * stored.shape[0]
    same = (batch_labels.unsqueeze(1) == gallery_labels.unsqueeze(0)).to(outputs.dtype)  # [b, n]
    theta = outputs @ stored.to(outputs.dtype).T / 2  # [b, n]
    signs = (outputs.detach() >= 0).to(outputs.dtype) * 2 - 1
    likelihood = (F.softplus(theta) - same * theta).sum() / pairs
    return Loss(likelihood, (signs - outputs).square().sum() * (eta / pairs))


class DpshMethod(PairwiseMethod):
    """Learns from pairs: similar ones get a large inner product, others a small one."""

    name = "dpsh"
    settings_type = DpshSettings

    def __init__(self, config: TrainConfig, labels: npt.NDArray[np.int64]) -> None:
        super().__init__(config, labels)
        given = cast(DpshSettings, self.settings).eta
        self.eta = published_eta(len(labels)) if given is None else given

    def relax(self, logits: Tensor, step: int) -> Tensor:
        """u is the hash layer's value: quantisation alone draws it to ±1."""
        return logits

    def loss(self, outputs: Tensor, batch: TrainingBatch) -> Loss:
        """See pairwise_likelihood_loss."""
        return pairwise_likelihood_loss(outputs, batch.codes, batch.labels, batch.gallery_labels, self.eta)

    def about(self) -> dict[str, Any]:
        """Eta, as it was used."""
        return {"eta": self.eta}


METHOD = DpshMethod
