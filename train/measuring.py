"""What a run measures of its network on the way: its codes and how well they retrieve, and its trunk's features."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import PIL
import torch
from PIL import Image
from torch import Tensor

from queryopt.bit_quality import code_warnings
from queryopt.card import Preprocessing, fingerprint
from queryopt.codes import pack_codes
from queryopt.images import resize_crop
from queryopt.metrics import retrieval_metrics
from queryopt.progress import Advance, Progress, no_advance
from queryopt.train.draws import Stream, sample_rng
from queryopt.train.feature_cache import FeatureCache, digest_files
from queryopt.train.hash_network import HashNetwork
from queryopt.train.inputs import to_input
from queryopt.train.run_pictures import Reading, RunPictures
from queryopt.train.step import TrainingStep
from queryopt.train.visual_codes import ImageFeatures, pool_features

__all__ = ["Measuring", "Validation", "network_codes", "validate"]

_GALLERY = 10_000
"""Training pictures, at most, that validation searches: more would cost more than they tell."""

_FEATURES_BATCH = 16
"""Pictures, of which a batch is filled up: few, so that little is computed in vain."""

_Codes = npt.NDArray[np.uint8]
_Kept = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Validation:
    """Tie-aware retrieval of validation pictures (queries) among training pictures (gallery), all values in 0..1.

    map: gallery of network codes, as deployed. map_paper: gallery of B, the supervised codes, as the paper ranks.
    chance: the map of a random ranking. warnings: what is wrong with the gallery's network codes (`code_warnings`).
    """

    map: float
    map_paper: float
    chance: float
    warnings: tuple[str, ...] = ()


class Measuring:
    """Measures the network of `step` on the run's pictures; its processes do so together."""

    def __init__(self, step: TrainingStep, pictures: RunPictures) -> None:
        self._step, self._pictures = step, pictures

    def validate(self, codes: Tensor, features: tuple[ImageFeatures, ImageFeatures] | None = None) -> Validation | None:
        """See `Validation`; None where no pictures were set aside, or they have no labels.

        codes: what the method has of the training pictures, [n, M]. features: of `network_features`, where they are
        there already.
        """
        step, pictures = self._step, self._pictures
        if not len(pictures.validation) or len(pictures.images.classes) < 2:
            return None
        gallery = np.arange(len(pictures.images))
        if len(gallery) > _GALLERY:
            rng = sample_rng(step.config.seed, 0, 0, 0, Stream.GALLERY)
            gallery = np.sort(rng.choice(gallery, _GALLERY, replace=False))
        if features is None:
            query_codes, queries_kept = self._network_codes(pictures.read_validation())
            gallery_codes, gallery_kept = self._network_codes(pictures.read(gallery))
        else:
            query_codes, queries_kept = self._feature_codes(features[1], np.arange(len(pictures.validation)))
            gallery_codes, gallery_kept = self._feature_codes(features[0], gallery)
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

    def code_warnings(self, features: ImageFeatures) -> tuple[str, ...]:
        """What is wrong with the codes of pictures of unknown classes, from what their head takes."""
        codes, _ = self._feature_codes(features, features.rows)
        return code_warnings(codes, self._step.config.network.bits)

    def trunk_features(self) -> ImageFeatures:
        """The second-to-last stage, which has more of what classes look like than of which ones the trunk was trained
        on, of all training pictures that can be read. Leaves the network in eval mode.
        """
        network = self._step.network
        reading = self._pictures.read(np.arange(len(self._pictures.images)))
        return self.features(lambda images: pool_features(network.backbone(images)[0]), reading)

    def network_features(self, progress: Progress, cache: FeatureCache | None) -> tuple[ImageFeatures, ImageFeatures]:
        """What the head of a network that is fitted in closed form takes, of the training and the validation pictures
        that can be read.
        """
        pictures, of = self._pictures, self._step.network.features
        seen, asked = pictures.read(np.arange(len(pictures.images))), pictures.read_validation()
        with progress("features", len(pictures.images) + len(pictures.validation), "images") as advance:
            return self.features(of, seen, cache, advance), self.features(of, asked, cache, advance)

    def features(
        self,
        of: Callable[[Tensor], Tensor],
        reading: Reading,
        cache: FeatureCache | None = None,
        advance: Advance = no_advance,
    ) -> ImageFeatures:
        """What `of` makes of normalised images [b, 3, s, s], [b, d], of the pictures that can be read.

        Only what isn't in the cache is decoded, and a picture has the same features, to the bit, with and without it.
        The cache is of use while the trunk stays as it is: its weights are part of the key. Leaves the network in eval
        mode.
        """
        self._step.network.eval()
        recipe, width = self._recipe(of)
        files = reading.files
        values, missing = np.zeros((len(files), width), np.float32), np.ones(len(files), np.bool_)
        if cache is not None:
            for place, digest in enumerate(digest_files(files, self._pictures.threads)):
                if digest is not None and (kept := cache.find(recipe, digest, width)) is not None:
                    values[place], missing[place] = kept, False
        reading.readable[~missing] = True
        advance(int((~missing).sum()))
        for places, pictures in reading.batches(np.flatnonzero(missing), _FEATURES_BATCH):
            values[places] = self._apply(of, pictures)
            if cache is not None:
                cache.keep(recipe, reading.digests(places), values[places])
            advance(len(pictures))
        if cache is not None and missing.any():
            cache.trim()
        features, kept_by_all = reading.gather(torch.from_numpy(values[reading.readable]))
        found = sum(self._step.processes.gather_values(int((~missing).sum())))
        return ImageFeatures(features.numpy(), np.flatnonzero(kept_by_all), found)

    def _recipe(self, of: Callable[[Tensor], Tensor]) -> tuple[str, int]:
        """A digest of all that makes features, and how many there are.

        Of the trunk's weights and the preprocessing; and of what becomes of one drawn picture, of which other code,
        another version of a library or another processor would make other numbers. (Decoders are known by Pillow's
        version.)
        """
        step = self._step
        noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
        drawn = self._apply(of, resize_crop(Image.fromarray(noise), step.preprocessing)[None])
        weights = {k: v for k, v in step.network.inference_weights().items() if k.startswith("backbone.")}
        decoders = np.frombuffer(PIL.__version__.encode(), np.uint8)
        return fingerprint({**weights, "drawn": drawn, "decoders": decoders}, step.preprocessing, 1), drawn.shape[1]

    def _apply(self, of: Callable[[Tensor], Tensor], pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """`of` pictures uint8 [b, s, s, 3], float32 [b, d], in a batch that is filled up: kernels are chosen by its
        size, and differ by rounding.
        """
        step = self._step
        filled = np.zeros((_FEATURES_BATCH, *pictures.shape[1:]), np.uint8)
        filled[: len(pictures)] = pictures
        with torch.inference_mode():
            made = of(to_input(filled, step.preprocessing, step.device, step.channels_last))
            return made[: len(pictures)].float().cpu().numpy()

    def _feature_codes(self, features: ImageFeatures, index: npt.NDArray[np.int64]) -> tuple[_Codes, _Kept]:
        """What `_network_codes` gives of the pictures at `index`, ascending, from what their head takes."""
        network = self._step.network
        with torch.inference_mode():
            values = torch.from_numpy(features.values[np.isin(features.rows, index)]).to(self._step.device)
            codes = pack_codes((network.head(values) >= 0).cpu().numpy())
        return codes, np.isin(index, features.rows)

    def _network_codes(self, reading: Reading) -> tuple[_Codes, _Kept]:
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
    warnings = code_warnings(gallery_codes, bits, lambda: gallery_labels)
    return Validation(deployed.map, paper.map, deployed.chance, warnings)
