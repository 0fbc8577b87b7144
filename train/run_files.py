"""The files of a run folder: their names, and which of them lie in a folder. Imports nothing heavy, so that a command
can say at once that a folder is no run, or holds one already.
"""

import os
from pathlib import Path

from queryopt.errors import CheckpointError, UsageError
from queryopt.kinds import RUN_CHECKPOINTS, Kind, mistaken, near
from queryopt.text import display_path, listed

__all__ = ["BEST", "CONFIG", "CURVES", "LAST", "METRICS", "RUN_FILES", "check_unused", "find_checkpoint"]

BEST, LAST = RUN_CHECKPOINTS
CONFIG = "config.json"
METRICS = "metrics.jsonl"
CURVES = "curves.png"
RUN_FILES = (BEST, LAST, CONFIG, METRICS, CURVES)
"""What qo-train writes into a run folder."""


def check_unused(path: Path, resume: bool) -> None:
    """UsageError where `path` is a file, or holds a run already and `resume` is not set."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{display_path(path)}: is a file; --out is a folder")
    present = [name for name in RUN_FILES if (path / name).exists()]
    if present and not resume:
        raise UsageError(
            f"{display_path(path)}: already holds a run ({', '.join(present)}): continue it with --resume, "
            "or choose another --out"
        )


def find_checkpoint(source: str | os.PathLike[str]) -> Path:
    """The checkpoint that `source` means: the file itself, or of a run folder its best.safetensors, or its last.pt
    where there is no best yet. CheckpointError where there is none.
    """
    source = Path(source)
    name = display_path(source)
    if not source.exists():
        raise CheckpointError(f"{name}: no such file or folder{near(source)}")
    if not source.is_dir():
        if not source.is_file():
            raise CheckpointError(f"{name}: not a regular file")
        if wrong := mistaken(source, Kind.CHECKPOINT):
            raise CheckpointError(wrong)
        return source
    for file in (BEST, LAST):
        if (source / file).is_file():
            return source / file
    runs = sorted(p.name for p in source.iterdir() if p.is_dir() and ((p / BEST).is_file() or (p / LAST).is_file()))
    if runs:
        hint = f"runs in it: {listed([display_path(source / r) for r in runs])}"
    else:
        hint = f"if it holds pictures, make a run of them with: qo-train {name}"
    raise CheckpointError(f"{name}: no run folder: neither {BEST} nor {LAST} is in it; {hint}")
