"""The network that qo-bench gpu measures: a trained run's, or an untrained one, the same in every process."""

from pathlib import Path

from queryopt.bench.speed.untrained import Untrained
from queryopt.text import display_path
from queryopt.train.checkpoint import Checkpoint, load_checkpoint

__all__ = ["load_subject"]


def load_subject(run: Path | None, backbone: str, bits: int) -> tuple[Checkpoint, str]:
    """The checkpoint of a run, or without one an untrained network; and what it is, in words.

    Raises CheckpointError as load_checkpoint.
    """
    checkpoint = Untrained(backbone, bits).checkpoint() if run is None else load_checkpoint(run)
    config = checkpoint.config.network
    what = "untrained" if run is None else display_path(run)
    return checkpoint, f"{what}: {config.backbone}, {config.bits} bits, {config.image_size} px"
