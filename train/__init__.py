"""Training: data, network, loss, code solver, loop. Nothing heavy is imported before it is used."""

from typing import TYPE_CHECKING

from queryopt.lazy import lazy_names

if TYPE_CHECKING:
    from queryopt.train.checkpoint import Checkpoint, load_checkpoint
    from queryopt.train.config import TrainConfig
    from queryopt.train.loop import TrainResult, train
    from queryopt.train.network import QueryOpt
    from queryopt.train.network_config import NetworkConfig
    from queryopt.train.presets import PRESETS, preset_config

__all__ = [
    "PRESETS",
    "Checkpoint",
    "NetworkConfig",
    "QueryOpt",
    "TrainConfig",
    "TrainResult",
    "load_checkpoint",
    "preset_config",
    "train",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "PRESETS": "presets",
        "Checkpoint": "checkpoint",
        "NetworkConfig": "network_config",
        "QueryOpt": "network",
        "TrainConfig": "config",
        "TrainResult": "loop",
        "load_checkpoint": "checkpoint",
        "preset_config": "presets",
        "train": "loop",
    },
)
