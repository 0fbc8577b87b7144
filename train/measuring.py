"""What a run measures of its network on the way: its codes and how well they retrieve, and its trunk's features."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from queryopt.card import Preprocessing
from queryopt.codes import pack_codes
from queryopt.metrics import retrieval_metrics
from queryopt.progress import Advance, Progress, no_advance
from queryopt.train.draws import Stream, sample_rng
from queryopt.train.hash_network import HashNetwork
from queryopt.train.inputs import to_input
from queryopt.train.run_pictures import Reading, RunPictures
from queryopt.train.step import TrainingStep
from queryopt.train.visual_codes import ImageFeatures, pool_features

__all__ = ["Measuring", "Validation", "network_codes", "validate"]

_GALLERY = 10_000
"""Training pictures, at most, that validation searches: more would cost more than they tell."""

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


class Measuring:
    """Measures the network of `step` on the run's pictures; its processes do so together."""

    def __init__(self, step: TrainingStep, pictures: RunPictures) -> None:
        self._step, self._pictures = step, pictures

    def validate(self, codes: Tensor) -> Validation | None:
        """See `Validation`; None where no pictures were set aside, or they have no labels.

        codes: what the method has of the training pictures, [n, M].
        """
        step, pictures = self._step, self._pictures
        if not len(pictures.validation) or len(pictures.images.classes) < 2:
            return None
        gallery = np.arange(len(pictures.images))
        if len(gallery) > _GALLERY:
            rng = sample_rng(step.config.seed, 0, 0, 0, Stream.GALLERY)
            gallery = np.sort(rng.choice(gallery, _GALLERY, replace=False))
        query_codes, queries_kept = self._network_codes(pictures.read_validation())
        gallery_codes, gallery_kept = self._network_codes(pictures.read(gallery))
        gallery = gallery[gallery_kept]
        return step.processes.from_first(
            lambda: validate(
                query_codes,
                gallery_codes,
                codes[torch.from_numpy(gallery).to(step.device)],
                step.config.network.bits,
                pictures.validation.labels[queries_kept],
                pictures.images.labels[gallery],
            )
        )

    def trunk_features(self) -> ImageFeatures:
        """The second-to-last stage, which has more of what classes look like than of which ones the trunk was trained
        on, of all training pictures that can be read. Leaves the network in eval mode.
        """
        network = self._step.network
        return self._features(lambda images: pool_features(network.backbone(images)[0]))

    def network_features(self, progress: Progress) -> ImageFeatures:
        """What the head of a network that is fitted in closed form takes, of all training pictures that can be read."""
        with progress("features", len(self._pictures.images), "images") as advance:
            return self._features(self._step.network.features, advance)

    def _features(self, of: Callable[[Tensor], Tensor], advance: Advance = no_advance) -> ImageFeatures:
        step = self._step
        rows = np.arange(len(self._pictures.images))
        reading = self._pictures.read(rows)
        values = []
        step.network.eval()
        with torch.inference_mode():
            for pictures in reading:
                images = to_input(pictures, step.preprocessing, step.device, step.channels_last)
                values.append(of(images).float().cpu())
                advance(len(pictures))
            if not values:  # this process's share is empty, and so is each of its rows
                values.append(of(torch.zeros(0, 3, *2 * (step.preprocessing.image_size,), device=step.device)).cpu())
        features, kept = reading.gather(torch.cat(values))
        return ImageFeatures(features.numpy(), rows[kept])

    def _network_codes(self, reading: Reading) -> tuple[_Codes, npt.NDArray[np.bool_]]:
        """Codes of the pictures that could be read, uint8 [k, bytes], and which those are, bool [n]."""
        step = self._step
        own = network_codes(
            step.network, reading, step.preprocessing, device=step.device, channels_last=step.channels_last
        )
        codes, kept = reading.gather(torch.from_numpy(own))
        return codes.numpy(), kept


def network_codes(
    network: HashNetwork,
    batches: Iterable[npt.NDArray[np.uint8]],
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
