"""Training: data, network, loss, code solver, loop. Nothing heavy is imported before it is used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from queryopt.train.checkpoint import Checkpoint, load_checkpoint
    from queryopt.train.config import TrainConfig
    from queryopt.train.loop import TrainResult, train
    from queryopt.train.network import NetworkConfig, QueryOpt
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

_MODULES = {
    "PRESETS": "presets",
    "Checkpoint": "checkpoint",
    "NetworkConfig": "network",
    "QueryOpt": "network",
    "TrainConfig": "config",
    "TrainResult": "loop",
    "load_checkpoint": "checkpoint",
    "preset_config": "presets",
    "train": "loop",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
