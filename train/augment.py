"""Random views of a picture for training: torchvision's RandomResizedCrop and a horizontal flip."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from queryopt.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["RATIO", "SCALE", "Augmentation", "crop_box", "train_view"]

SCALE = (0.08, 1.0)
"""Share of the picture's area that a crop takes: torchvision's default, the paper's setting."""
RATIO = (3 / 4, 4 / 3)
"""Width / height of a crop: torchvision's default, the paper's setting."""

_TRIES = 10


@dataclass(frozen=True)
class Augmentation:
    """What a training view may be: the ranges of the crop's area and aspect ratio, and whether it may be mirrored.

    Mirroring must be off where left and right mean something (text, the side that a part is mounted on).
    """

    scale: tuple[float, float] = SCALE
    ratio: tuple[float, float] = RATIO
    flip: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UsageError(
                f"crop scale is {self.scale}: it is a range of shares of the picture's area, 0 < low <= high <= 1"
            )
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise UsageError(f"crop ratio is {self.ratio}: it is a range of width / height, 0 < low <= high")


def crop_box(
    width: int,
    height: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = SCALE,
    ratio: tuple[float, float] = RATIO,
) -> tuple[int, int, int, int]:
    """A random crop (left, top, right, bottom), as torchvision's RandomResizedCrop.get_params draws it.

    Ten tries at a crop of random area and aspect ratio; where none fits (a very long picture), the largest centred crop
    whose ratio is in range. At least 1x1, and never outside the picture.
    """
    areas = rng.uniform(*scale, _TRIES) * (width * height)
    ratios = np.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1]), _TRIES))
    corner = rng.random(2)
    crop_width = np.rint(np.sqrt(areas * ratios))
    crop_height = np.rint(np.sqrt(areas / ratios))
    fits = (crop_width > 0) & (crop_width <= width) & (crop_height > 0) & (crop_height <= height)
    if fits.any():
        first = int(fits.argmax())
        w, h = int(crop_width[first]), int(crop_height[first])
        left, top = int(corner[0] * (width - w + 1)), int(corner[1] * (height - h + 1))
    else:
        w, h = width, height
        if width < ratio[0] * height:
            h = max(1, round(width / ratio[0]))
        elif width > ratio[1] * height:
            w = max(1, round(height * ratio[1]))
        left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def train_view(
    image: "Image",
    size: int,
    rng: np.random.Generator,
    augmentation: Augmentation = Augmentation(),
) -> npt.NDArray[np.uint8]:
    """One random view of a PIL image of mode RGB: uint8 [size, size, 3], contiguous.

    Resized straight from the crop (bilinear, antialiased), mirrored with probability 1/2. The mirror's coin is drawn
    whether it is used or not, so switching it off leaves the crops as they were.
    """
    from PIL.Image import Resampling

    box = crop_box(image.width, image.height, rng, augmentation.scale, augmentation.ratio)
    mirrored = rng.random() < 0.5
    view = np.asarray(image.resize((size, size), Resampling.BILINEAR, box=box))  # [size x size x 3]
    if augmentation.flip and mirrored:
        view = view[:, ::-1]
    return np.ascontiguousarray(view)
