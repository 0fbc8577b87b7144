"""The obvious way from files to codes: PyTorch's DataLoader, torchvision's transforms, the network in eager mode."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from queryopt.bench.speed.untrained import network_config
from queryopt.card import ModelCard, Preprocessing
from queryopt.train.methods import build_network

__all__ = ["EagerLoader"]


class EagerLoader:
    """Hashes the same files with a network of a model's card: random weights, which change no time.

    threads: of the network, and as many worker processes, which stay between runs. UsageError for a backbone that is
    not ours.
    """

    def __init__(
        self, paths: Sequence[str | bytes | os.PathLike[Any]], card: ModelCard, threads: int, batch: int
    ) -> None:
        torch.manual_seed(0)
        config = network_config(card.bits, card.backbone, image_size=card.preprocessing.image_size)
        self._network = build_network(config).eval()
        self._threads = threads
        self._loader: DataLoader[Tensor] = DataLoader(
            _Pictures([os.fsdecode(path) for path in paths], card.preprocessing),
            batch_size=batch,
            num_workers=threads,
            persistent_workers=True,
            # A fork of a process that has threads may hang.
            multiprocessing_context="spawn",
        )

    def run(self) -> int:
        """All files to codes; returns how many."""
        torch.set_num_threads(self._threads)
        with torch.inference_mode():
            return sum(len(self._network(images, 1) >= 0) for images in self._loader)

    def close(self) -> None:
        """End the worker processes."""
        del self._loader


class _Pictures(Dataset[Tensor]):
    """Resize, centre crop, normalise, as the paper's code does it."""

    def __init__(self, paths: list[str], size: Preprocessing) -> None:
        self._paths = paths
        self._transform = transforms.Compose(
            [
                transforms.Resize(size.resize_size),
                transforms.CenterCrop(size.image_size),
                transforms.ToTensor(),
                transforms.Normalize(list(size.mean), list(size.std)),
            ]
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> Tensor:
        with Image.open(self._paths[number]) as image:
            tensor: Tensor = self._transform(image.convert("RGB"))
        return tensor
