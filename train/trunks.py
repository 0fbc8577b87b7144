"""Trunks by name: torchvision's ResNets, two small ones of our own, and any backbone of timm. No torch at import.

A trunk's taps are its last two feature maps, of timm's models as their `features_only` gives them. A vision transformer
has one grid of patch tokens at every depth: its last block's is taken, and, averaged over 2 x 2 patches, again as the
coarser level.
"""

import importlib.util
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from queryopt.errors import UsageError
from queryopt.text import did_you_mean, install_extra

if TYPE_CHECKING:
    from torch import nn

__all__ = ["BACKBONES", "BackboneSpec", "check_backbone", "timm_features"]

_FUSION_WIDTH = 256
_TAPS = (-2, -1)
"""What comes after the last map isn't built."""


@dataclass(frozen=True)
class BackboneSpec:
    """What the rest of the network must know of a backbone.

    channels, strides: of the last two stages. fusion_width: channels inside the top-down path. pretrained: torchvision
    has ImageNet weights for it, and its first layers are frozen by default.
    """

    channels: tuple[int, int]
    strides: tuple[int, int]
    fusion_width: int
    pretrained: bool
    stages: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Widths of the four stages, for the trunks that are ours."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """What its pictures are normalised with."""
    whole_strides: bool = False
    """Whether pictures have to be a multiple of the last stage's stride."""

    def grids(self, image_size: int) -> tuple[int, int]:
        """Sides (g3, g4) of the last two stages' feature maps."""
        return -(-image_size // self.strides[0]), -(-image_size // self.strides[1])


BACKBONES: dict[str, BackboneSpec] = {
    "resnet18": BackboneSpec((256, 512), (16, 32), 256, True),
    "resnet34": BackboneSpec((256, 512), (16, 32), 256, True),
    "resnet50": BackboneSpec((1024, 2048), (16, 32), 256, True),
    "resnet101": BackboneSpec((1024, 2048), (16, 32), 256, True),
    "small": BackboneSpec((96, 160), (8, 16), 80, False, (24, 48, 96, 160)),
    "tiny": BackboneSpec((24, 32), (8, 16), 16, False, (8, 16, 24, 32)),
}


def check_backbone(name: str) -> BackboneSpec:
    """The spec of a backbone by name: one of BACKBONES, or any of timm's. UsageError with a suggestion for others."""
    if name in BACKBONES:
        return BACKBONES[name]
    spec = _timm_spec(name) if isinstance(name, str) else None
    if spec is not None:
        return spec
    hint = did_you_mean(name, BACKBONES) or _timm_hint(name)
    raise UsageError(f"no backbone is called {name!r}: there are {', '.join(BACKBONES)}{hint}")


def timm_features(name: str, image_size: int | None = None, pretrained: bool = False) -> "nn.Module":
    """timm's model `name` as a list of its last two feature maps, for square pictures of image_size (None: its own).

    UsageError for a model that gives none.
    """
    import timm

    config = timm.get_pretrained_cfg(name)
    size: dict[str, Any] = {}
    if config is not None and config.fixed_input_size:  # transformers have a position a patch
        size["img_size"] = image_size or config.input_size[-1]
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, features_only=True, out_indices=_TAPS, **size)
    # What timm raises for a model without maps depends on the model.
    except (AttributeError, AssertionError, TypeError, ValueError, NotImplementedError) as error:
        raise UsageError(f"timm's {name} can't be a trunk: it gives no feature maps ({error})") from None
    module: Any
    for module in model.modules():
        # As a product, a softmax and a product: counted and exported as what it is, whatever a torch version fuses.
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    return model


@cache
def _timm_spec(name: str) -> BackboneSpec | None:
    if importlib.util.find_spec("timm") is None:
        return None
    import timm
    import torch

    if not timm.is_model(name):
        return None
    with torch.device("meta"):
        info: Any = timm_features(name).feature_info
    channels, strides = info.channels(), info.reduction()
    if strides[0] == strides[1]:
        channels, strides = [channels[1]] * 2, [strides[1], 2 * strides[1]]
    config: Any = timm.get_pretrained_cfg(name) or BackboneSpec
    return BackboneSpec(
        (channels[0], channels[1]),
        (strides[0], strides[1]),
        min(_FUSION_WIDTH, channels[1]),
        pretrained=True,
        mean=tuple(config.mean),
        std=tuple(config.std),
        whole_strides=True,
    )


def _timm_hint(name: object) -> str:
    if importlib.util.find_spec("timm") is None:
        return f"; those of timm need a package: {install_extra('timm')}"
    import timm

    return did_you_mean(name, timm.list_models()) or "; or a model of timm"
