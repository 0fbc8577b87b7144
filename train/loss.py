"""The asymmetric hashing loss (eq. 5 and 6): the batch's outputs against the binary codes of all training images."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["PAPER_IMAGES", "Loss", "hashing_loss", "scaled_gamma"]

PAPER_IMAGES = 5994
"""Training images of CUB-200-2011, where the paper's gamma was set."""
_PAPER_BITS = 12
"""The published code divides by the number of columns and multiplies by 12: the loss doesn't grow with the columns."""


@dataclass(frozen=True)
class Loss:
    """The loss and its two parts, scalars with gradients; total = hash + quantisation."""

    hash: Tensor
    quantisation: Tensor

    @property
    def total(self) -> Tensor:
        return self.hash + self.quantisation


def hashing_loss(
    outputs: Tensor,
    codes: Tensor,
    batch_labels: Tensor,
    gallery_labels: Tensor,
    batch_index: Tensor,
    gamma: float,
) -> Loss:
    """The loss of one batch.

    outputs: tanh of the logits, F, float [b, M]. codes: B, the codes of all n training images, [n, M] (±1, or the noise
    of the first iteration). batch_labels [b] and gallery_labels [n]: integer classes. batch_index: the batch's rows in
    codes, int64 [b]. gamma: weight of the quantisation (see `scaled_gamma`).

        hash         = 12 / M * sum((M S - F B^T)^2) / (b n)
        quantisation = 12 / M * gamma * sum((F - B[batch])^2) / (b n)

    S is 1 where the classes are equal and 0, not -1, elsewhere: codes of different classes are asked to be orthogonal.
    """
    (batch, columns), images = outputs.shape, codes.shape[0]
    codes = codes.to(outputs.dtype)
    same = batch_labels.unsqueeze(1) == gallery_labels.unsqueeze(0)  # [b, n]
    scale = _PAPER_BITS / columns / (batch * images)
    hash_part = (columns * same - outputs @ codes.T).square().sum() * scale
    quantisation = (outputs - codes[batch_index]).square().sum() * (gamma * scale)
    return Loss(hash_part, quantisation)


def scaled_gamma(gamma: float, images: int) -> float:
    """Gamma for a training set of `images` pictures: gamma * images / 5994, and gamma from 5994 on.

    The quantisation term weighs gamma * 12 / (images * M) an entry of F, because the loss averages over all training
    images, but compares each output with one code. The paper's 200 gives 0.4 / M on CUB-200-2011, and 4 to 8 / M on 300
    to 600 images, where it drowns the hash term. Scaled so, the weight stays at the paper's 0.4 / M on small sets.
    """
    return gamma * min(1.0, images / PAPER_IMAGES)
