"""Deployed codes of a network in training, and how well they retrieve."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from queryopt.card import Preprocessing
from queryopt.codes import pack_codes
from queryopt.metrics import retrieval_metrics
from queryopt.train.hash_network import HashNetwork
from queryopt.train.inputs import to_input

__all__ = ["Validation", "network_codes", "validate"]

_Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Validation:
    """Tie-aware retrieval of validation pictures (queries) among training pictures (gallery), all values in 0..1.

    map: gallery of network codes, as deployed. map_paper: gallery of B, the supervised codes, as the paper ranks.
    chance: the map of a random ranking.
    """

    map: float
    map_paper: float
    chance: float


def network_codes(
    network: HashNetwork,
    batches: Iterator[npt.NDArray[np.uint8]],
    preprocessing: Preprocessing,
    *,
    device: torch.device | str = "cpu",
    channels_last: bool = False,
) -> _Codes:
    """Packed codes, uint8 [n, ceil(bits / 8)], of pictures in batches uint8 [b, s, s, 3]. Leaves the mode as it was."""
    was_training = network.training
    network.eval()
    bits = network.config.bits
    codes = [np.zeros((0, (bits + 7) // 8), np.uint8)]
    try:
        with torch.inference_mode():
            for pictures in batches:
                logits = network(to_input(pictures, preprocessing, device, channels_last))  # [b, bits]
                codes.append(pack_codes((logits >= 0).cpu().numpy()))
    finally:
        network.train(was_training)
    return np.concatenate(codes)


def validate(
    query_codes: _Codes,
    gallery_codes: _Codes,
    codes: Tensor,
    bits: int,
    query_labels: npt.NDArray[np.int64],
    gallery_labels: npt.NDArray[np.int64],
) -> Validation:
    """Measure codes that are there.

    query_codes, gallery_codes: packed network codes of validation and training pictures, uint8 [q or g, bytes]. codes:
    the gallery's rows of B, [g, M], of which the first `bits` columns count. MismatchError where no query's class is in
    the gallery.
    """
    supervised = pack_codes((codes[:, :bits] >= 0).cpu().numpy())
    deployed, paper = (
        retrieval_metrics(query_codes, gallery, bits, query_labels, gallery_labels, ks=(), radii=())
        for gallery in (gallery_codes, supervised)
    )
    return Validation(deployed.map, paper.map, deployed.chance)
