"""Models with random weights: as fast as trained ones, and made without data."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from queryopt.errors import MissingError
from queryopt.text import install_extra

if TYPE_CHECKING:
    from queryopt.train.checkpoint import Checkpoint
    from queryopt.train.network_config import NetworkConfig

__all__ = ["Untrained", "in_precision", "network_config"]

_NOISE_PICTURES = 4
"""That int8 is calibrated on: ranges change no time."""


def network_config(
    bits: int, backbone: str = "resnet50", *, branches: int | None = None, image_size: int | None = None
) -> "NetworkConfig":
    """The paper's network on a ResNet; for `small` and `tiny`, that of the preset of this name (what qo-train makes).

    branches, image_size: None for the network's own. UsageError as NetworkConfig.
    """
    from queryopt.train.presets import PRESETS, preset_config

    preset = backbone if backbone in PRESETS else "paper-cub200"
    return preset_config(preset, bits=bits, backbone=backbone, branches=branches, image_size=image_size).network


@dataclass(frozen=True)
class Untrained:
    """A network with random weights, drawn from one seed. UsageError as network_config, when it is made."""

    backbone: str = "resnet50"
    bits: int = 12

    def checkpoint(self) -> "Checkpoint":
        import torch

        from queryopt.train.checkpoint import Checkpoint
        from queryopt.train.config import TrainConfig
        from queryopt.train.network import QueryOpt

        config = network_config(self.bits, self.backbone)
        torch.manual_seed(0)
        return Checkpoint(TrainConfig(config), QueryOpt(config).eval().state_dict(), Path("untrained.safetensors"))

    def export(self, path: Path, *, fold: bool = True) -> Path:
        """Write it to `path`, in float32. MissingError without torch and onnx. fold: as in export_onnx."""
        try:
            from queryopt.export import export_onnx

            export_onnx(self.checkpoint(), path, parity=False, fold=fold)
        except ImportError as error:
            extra = install_extra("train")
            raise MissingError(
                f"an untrained network needs the packages of training ({error}): {extra}; or give --model"
            ) from None
        return path


def in_precision(source: Path, target: Path, precision: str) -> Path:
    """Write a float32 model in another precision of queryopt.export.options.PRECISIONS, without a parity gate.

    Of int8 all layers are quantised, with ranges of noise: for benchmarks of time alone.
    """
    import onnx

    from queryopt.card import ModelCard
    from queryopt.export.onnx import with_card
    from queryopt.export.precision import lower_precision
    from queryopt.export.quantize import quantise

    model = onnx.load(source)
    card = ModelCard.from_metadata({entry.key: entry.value for entry in model.metadata_props}, str(source))
    if precision == "int8":
        shape = (_NOISE_PICTURES, card.preprocessing.image_size, card.preprocessing.image_size, 3)
        model, _ = quantise(model, np.random.default_rng(0).integers(0, 256, shape, np.uint8), most_kept=0)
    else:
        model = lower_precision(model, precision)
    target.write_bytes(with_card(model, replace(card, precision=precision)))
    return target
