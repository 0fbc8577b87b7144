"""What describes pictures without codes: a histogram of their colours, and the pooled features of a run's trunk.

Both are made of the very pixels that the model sees, while they are hashed, so that no picture is decoded twice. Codes
that find less than the histogram are worth less than nothing: qo-eval and qo-report show what each finds.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from queryopt.card import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

    from queryopt.train.hash_network import HashNetwork

__all__ = ["DESCRIPTORS", "HISTOGRAM", "MOST", "TRUNK", "Describer", "colour_histograms", "not_described"]

HISTOGRAM: Final = "histogram"
TRUNK: Final = "trunk"

DESCRIPTORS: Final[Mapping[str, str]] = {HISTOGRAM: "512 colours", TRUNK: "trunk, floats"}
"""What describes a picture, and how tables call it."""

MOST = 20_000
"""Pictures beyond which none is described, unless that is asked for."""
_LEVELS = 8
"""Of red, green and blue each: 512 colours."""

_Floats = npt.NDArray[np.float32]


def colour_histograms(pixels: npt.NDArray[np.uint8]) -> _Floats:
    """Square roots of the shares of 512 colours, 8 levels a channel: pixels uint8 [n, h, w, 3] -> float32 [n, 512].

    Their cosine is the Bhattacharyya coefficient of the histograms, which found more than the cosine of the histograms
    themselves, and more than their L1 distance but on one set of three (docs/evaluation.md).
    """
    shift = 8 - (_LEVELS - 1).bit_length()
    red, green, blue = (pixels[..., channel] >> shift for channel in range(3))
    colours = (red.astype(np.uint16) * _LEVELS + green) * _LEVELS + blue
    bins = _LEVELS**3
    counts = np.zeros((len(pixels), bins), np.float32)
    for row, picture in enumerate(colours):
        counts[row] = np.bincount(picture.ravel(), minlength=bins)
    return np.sqrt(counts / colours[0].size) if len(pixels) else counts


def not_described(pictures: int, asked: bool | None) -> dict[str, str]:
    """Why so many pictures are not described, by descriptor; empty where they are. asked: None for nothing said."""
    if asked or (asked is None and pictures <= MOST):
        return {}
    why = "--no-baselines" if asked is False else f"{pictures:,} pictures are many: ask for it with --baselines"
    return dict.fromkeys(DESCRIPTORS, why)


class Describer:
    """Describes pictures batch by batch: `take` gives what was described since it was last called.

    network: whose trunk is looked at, in eval mode; None for the histogram alone, unless `add` gets the maps. left_out:
    what is not made, by the names of DESCRIPTORS, with the reason.
    """

    def __init__(
        self, network: "HashNetwork | None" = None, threads: int | None = None, left_out: dict[str, str] | None = None
    ) -> None:
        self._network, self._threads = network, threads
        self.left_out = left_out or {}
        self._histograms: list[_Floats] = []
        self._trunk: list[_Floats] = []

    def expect(self, preprocessing: Preprocessing) -> None:
        """Say what the pixels come from: a trunk that takes others is left out."""
        if self._network is not None and self._network.config.preprocessing != preprocessing:
            self._network = None
            self.left_out[TRUNK] = "the run's network sees pictures in another way than the model"

    def add(self, pixels: npt.NDArray[np.uint8], maps: "Tensor | None" = None) -> None:
        """Describe pictures uint8 [n, s, s, 3]. maps: the trunk's last stage of them, where it is known already."""
        if not len(pixels):
            return
        self._histograms.append(colour_histograms(pixels))
        if maps is None and self._network is not None:
            maps = self._run(self._network, pixels)
        if maps is not None:
            self._trunk.append(maps.float().mean(dim=(2, 3)).cpu().numpy())

    def take(self) -> dict[str, _Floats]:
        """Float32 [n, d] by the names of DESCRIPTORS, of the n pictures so far."""
        made = {HISTOGRAM: self._histograms, TRUNK: self._trunk}
        self._histograms, self._trunk = [], []
        return {name: np.concatenate(parts) for name, parts in made.items() if parts}

    def _run(self, network: "HashNetwork", pixels: npt.NDArray[np.uint8]) -> "Tensor":
        import torch

        from queryopt.train.inputs import to_input
        from queryopt.train.threads import torch_threads

        device = network.head.weight.device
        with torch_threads(self._threads), torch.inference_mode():
            maps: Tensor = network.backbone(to_input(pixels, network.config.preprocessing, device))[-1]
            return maps
