"""The obvious way from files to codes: PyTorch's DataLoader, torchvision's transforms, the network in eager mode."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from queryopt.bench.speed.networks import network_config
from queryopt.card import ModelCard
from queryopt.train.methods import build_network

__all__ = ["DataLoaderPeer"]


class DataLoaderPeer:
    """Hashes the same files with a network of a model's card: random weights, which change no time.

    threads: of the network, and as many worker processes, which stay between runs. UsageError for a backbone that is
    not ours.
    """

    def __init__(
        self, paths: Sequence[str | bytes | os.PathLike[Any]], card: ModelCard, threads: int, batch: int
    ) -> None:
        size = card.preprocessing
        torch.manual_seed(0)
        self._network = build_network(network_config(card.bits, card.backbone, image_size=size.image_size)).eval()
        self._threads = threads
        pictures = _Pictures(
            [os.fsdecode(path) for path in paths], size.resize_size, size.image_size, size.mean, size.std
        )
        self._loader: DataLoader[Tensor] = DataLoader(
            pictures,
            batch_size=batch,
            num_workers=threads,
            persistent_workers=True,
            # A fork of a process that has threads may hang.
            multiprocessing_context="spawn",
        )

    def run(self) -> int:
        """All files to codes; returns how many."""
        torch.set_num_threads(self._threads)
        count = 0
        with torch.inference_mode():
            for images in self._loader:
                codes = self._network(images, 1) >= 0
                count += len(codes)
        return count

    def close(self) -> None:
        """End the worker processes."""
        del self._loader


class _Pictures(Dataset[Tensor]):
    """Resize, centre crop, normalise, as the paper's code does it."""

    def __init__(self, paths: list[str], resize: int, crop: int, mean: Sequence[float], std: Sequence[float]) -> None:
        from torchvision import transforms

        self._paths = paths
        self._transform = transforms.Compose(
            [
                transforms.Resize(resize),
                transforms.CenterCrop(crop),
                transforms.ToTensor(),
                transforms.Normalize(list(mean), list(std)),
            ]
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> Tensor:
        with Image.open(self._paths[number]) as image:
            tensor: Tensor = self._transform(image.convert("RGB"))
        return tensor
