"""The network that qo-bench gpu measures: a trained run's, or an untrained one, the same in every process."""

from pathlib import Path

import torch

from queryopt.bench.networks import network_config
from queryopt.cli import display_path
from queryopt.train.checkpoint import Checkpoint, load_checkpoint
from queryopt.train.config import TrainConfig
from queryopt.train.network import QueryOpt

__all__ = ["load_subject"]


def load_subject(checkpoint: Path | None, backbone: str, bits: int) -> tuple[Checkpoint, str]:
    """A checkpoint, and what it is in words. Untrained weights are drawn from one seed.

    Raises CheckpointError as load_checkpoint.
    """
    if checkpoint is not None:
        loaded = load_checkpoint(checkpoint)
        config = loaded.config.network
        return loaded, f"{display_path(checkpoint)} ({config.backbone}, {config.bits} bits, {config.image_size} px)"
    untrained = network_config(bits, backbone)
    torch.manual_seed(0)
    state = QueryOpt(untrained).eval().state_dict()
    words = f"untrained {backbone}, {bits} bits, {untrained.image_size} px"
    return Checkpoint(TrainConfig(untrained), state, Path("untrained.safetensors")), words
