"""Pictures as tensors: what the network takes."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from queryopt.card import Preprocessing

__all__ = ["to_input"]


def to_input(
    pictures: npt.NDArray[np.uint8],
    preprocessing: Preprocessing,
    device: torch.device | str = "cpu",
    channels_last: bool = False,
) -> Tensor:
    """Normalise pictures: (x / 255 - mean) / std.

    pictures: uint8 sRGB [b, s, s, 3]. Returns float32 [b, 3, s, s] on `device`, in channels-last memory if asked.
    """
    # The bytes move, not the floats: a quarter of the traffic.
    pixels = torch.from_numpy(pictures).to(device, non_blocking=True).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    images = (pixels.float() / 255 - mean) / std  # [b, 3, s, s], channels last as the bytes were
    return images if channels_last else images.contiguous()
