"""The network that a backbone's name stands for where nothing was trained."""

from queryopt.train.network_config import NetworkConfig
from queryopt.train.presets import PRESETS, preset_config

__all__ = ["network_config"]


def network_config(
    bits: int, backbone: str = "resnet50", *, branches: int | None = None, image_size: int | None = None
) -> NetworkConfig:
    """The paper's network on a ResNet; for `small` and `tiny`, that of the preset of this name (what qo-train makes).

    branches, image_size: None for the network's own. UsageError as NetworkConfig.
    """
    preset = backbone if backbone in PRESETS else "paper-cub200"
    return preset_config(preset, bits=bits, backbone=backbone, branches=branches, image_size=image_size).network
