import numpy as np
import pytest
import torch

from queryopt.card import Preprocessing
from queryopt.train.inputs import to_input


@pytest.mark.parametrize("channels_last", [False, True])
def test_normalises_as_the_card_says_in_the_memory_layout_asked_for(channels_last):
    preprocessing = Preprocessing.for_size(4)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    images = to_input(pictures, preprocessing, channels_last=channels_last)
    expected = (pictures / 255 - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    assert images.dtype == torch.float32
    assert np.allclose(images.permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert images.is_contiguous(memory_format=layout)
