"""What a report looks at: a run's trained network, or an exported model alone."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from queryopt.bench.quality.descriptors import Describer
from queryopt.bench.quality.labelled_codes import LabelledCodes, hash_labelled, hash_network
from queryopt.bench.quality.pictures import DataSource
from queryopt.progress import Progress
from queryopt.runtime.attention_maps import merge_attention
from queryopt.text import display_path

if TYPE_CHECKING:
    from torch import Tensor

    from queryopt.runtime import Hasher
    from queryopt.train.checkpoint import Checkpoint
    from queryopt.train.data import LabelledImages
    from queryopt.train.hash_network import HashNetwork

__all__ = ["ExportedModel", "Look", "ReportModel", "RunModel", "is_model_file"]

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Look:
    """What a network makes of n pictures, beside their codes.

    features: float32 [n, d], what its head reads, None where that is not known. attributes: float32 [n, bits, dim], the
    same bit by bit (attribute features), None where the bits share theirs. attention: float32 [n, bits, side, side],
    where in the picture each bit looked, 1 in sum, None without queries.
    """

    features: _Floats | None
    attributes: _Floats | None = None
    attention: _Floats | None = None


class RunModel:
    """The network of a run folder or checkpoint, in PyTorch. device: cpu or cuda."""

    def __init__(self, checkpoint: "Checkpoint", threads: int | None, batch: int, device: str = "cpu") -> None:
        config = checkpoint.config
        self.checkpoint = checkpoint
        self.folder = checkpoint.folder
        self.name = display_path(checkpoint.folder)
        self.bits = config.network.bits
        self.method = config.method
        self.preprocessing = config.network.preprocessing
        self.network: HashNetwork = checkpoint.network().to(device)
        self.threads = threads
        self._batch = batch

    def source(self, data: str | None) -> DataSource:
        return DataSource.of_config(self.checkpoint.config, self.folder, data)

    def facts(self) -> Mapping[str, str]:
        network = self.checkpoint.config.network
        values = {
            "Method": network.method,
            "Code": f"{network.bits} bits",
            "Backbone": f"{network.backbone}, {network.image_size} x {network.image_size} pixels",
        }
        if network.queries:
            values["Branches in training, N"] = str(network.branches)
            values["Width"] = f"{network.dim}, {network.heads} heads, feed-forward {network.feedforward}"
        trainable = sum(p.numel() for p in self.network.parameters() if p.requires_grad)
        values["Trainable parameters"] = f"{trainable:,}"
        values["Checkpoint"] = self.checkpoint.path.name
        return values

    def title(self, name: str) -> str:
        """The run under this name, with what it is."""
        network = self.checkpoint.config.network
        return f"{name} (N = {network.branches})" if network.queries else f"{name} ({network.method})"

    def codes(
        self, images: "LabelledImages", what: str, progress: Progress, describer: Describer | None = None
    ) -> LabelledCodes:
        return hash_network(
            self.network, images, progress, what, threads=self.threads, batch=self._batch, describer=describer
        )

    def look(self, pixels: npt.NDArray[np.uint8]) -> Look | None:
        """A closer look at pictures uint8 [n, s, s, 3], cropped as the model takes them."""
        import torch

        from queryopt.train.inputs import to_input
        from queryopt.train.threads import torch_threads

        features: list[_Floats] = []
        attention: list[_Floats] = []
        # What the head reads, whatever the method; and what the decoder says of where it looked.
        hooks = [self.network.head.register_forward_pre_hook(lambda _, inputs: features.append(_array(inputs[0])))]
        if (decoder := getattr(self.network, "decoder", None)) is not None:
            hooks.append(
                decoder.register_forward_hook(lambda _, inputs, outputs: attention.append(_array(outputs[1].mean(1))))
            )
        try:
            with torch.inference_mode(), torch_threads(self.threads):
                for start in range(0, len(pixels), self._batch):
                    part = np.ascontiguousarray(pixels[start : start + self._batch])
                    device = self.network.head.weight.device
                    self.network(to_input(part, self.preprocessing, device, False), branches=1)
        finally:
            for hook in hooks:
                hook.remove()
        read = np.concatenate(features)
        if not attention:
            return Look(read)
        return Look(read.reshape(len(read), -1), read, merge_attention(np.concatenate(attention)))


def _array(values: "Tensor") -> _Floats:
    array: _Floats = values.cpu().numpy()
    return array


class ExportedModel:
    """A model.onnx or model.plan, run as in use."""

    def __init__(self, hasher: "Hasher") -> None:
        self._hasher = hasher
        card = hasher.card
        self.folder = hasher.model_path.parent
        self.name = display_path(hasher.model_path)
        self.bits = card.bits
        self.method = card.method
        self.preprocessing = card.preprocessing

    def source(self, data: str | None) -> DataSource:
        assert data is not None
        return DataSource.plain(data)

    def facts(self) -> Mapping[str, str]:
        card = self._hasher.card
        return {
            "Method": card.method,
            "Code": f"{card.bits} bits",
            "Backbone": f"{card.backbone}, {card.preprocessing.image_size} x {card.preprocessing.image_size} pixels",
            "Precision": card.precision,
            "Fingerprint": card.fingerprint[:12],
            "Runs on": self._hasher.backend,
        }

    def codes(
        self, images: "LabelledImages", what: str, progress: Progress, describer: Describer | None = None
    ) -> LabelledCodes:
        return hash_labelled(self._hasher, images, progress, what, describer)

    def look(self, pixels: npt.NDArray[np.uint8]) -> Look | None:
        """The same: attention, of a model that was exported with --explain; else None."""
        return Look(None, None, self._hasher.explain_pixels(pixels).maps) if self._hasher.explains else None


ReportModel: TypeAlias = RunModel | ExportedModel


def is_model_file(path: str | os.PathLike[str]) -> bool:
    """Whether a path is meant as an exported model."""
    return Path(path).suffix.lower() in (".onnx", ".plan")
