"""The network that is measured, and the section `models`: its model.onnx in fp32 and fp16, which later sections run."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from queryopt.bench.speed.gpu.section import GpuOptions, SectionReport, Turn, training_packages
from queryopt.bench.tables import figures_table
from queryopt.text import display_path

if TYPE_CHECKING:
    from queryopt.train.checkpoint import Checkpoint

__all__ = ["ModelFile", "describe_network", "load_subject", "measure_models"]

_BITS = 12
"""Of an untrained network: the paper's smallest code."""


@dataclass(frozen=True)
class ModelFile:
    """A model that was exported: precision, bytes, multiply-adds of a picture, and seconds since the export began."""

    precision: str
    size: int
    multiply_adds: int
    seconds: float


def load_subject(options: GpuOptions) -> "Checkpoint":
    """The checkpoint of a run, or without one an untrained network, the same in every process.

    MissingError without the packages of training; CheckpointError as load_checkpoint.
    """
    with training_packages():
        from queryopt.bench.speed.untrained import Untrained
        from queryopt.train.checkpoint import load_checkpoint
    if options.checkpoint is not None:
        return load_checkpoint(options.checkpoint)
    return Untrained("tiny" if options.rehearse else "resnet50", _BITS).checkpoint()


def describe_network(checkpoint: "Checkpoint") -> str:
    """Backbone, bits and size, in words."""
    config = checkpoint.config.network
    return f"{config.backbone}, {config.bits} bits, {config.image_size} px"


def measure_models(options: GpuOptions, turn: Turn) -> SectionReport:
    """Export the network, folded, in fp32 and fp16. MissingError without the packages of training."""
    started = time.monotonic()
    with training_packages():
        import onnx

        from queryopt.bench.speed.untrained import in_precision
        from queryopt.export import export_onnx
        from queryopt.export.count import count_multiply_adds
    checkpoint = load_subject(options)
    what = "untrained" if options.checkpoint is None else display_path(options.checkpoint)
    network = f"{what}: {describe_network(checkpoint)}"
    files = []
    for precision in ("fp32", "fp16"):
        path = options.model(precision)
        if precision == "fp32":
            export_onnx(checkpoint, path, parity=False)
        else:
            in_precision(options.model("fp32"), path, precision)
        adds = count_multiply_adds(onnx.load(path)).total
        files.append(ModelFile(precision, path.stat().st_size, adds, time.monotonic() - started))
        turn.log(f"{precision}: {files[-1].size / 1e6:.1f} MB after {files[-1].seconds:.1f} s")
        turn.keep(_report(network, files))
    return _report(network, files)


def _report(network: str, files: Sequence[ModelFile]) -> SectionReport:
    table = figures_table(f"Models: {network}", "precision", "MB", "multiply-adds", "s", words=0, plain=True)
    for file in files:
        table.add_row(file.precision, f"{file.size / 1e6:.1f}", f"{file.multiply_adds:,}", f"{file.seconds:.1f}")
    return SectionReport({"network": network, "files": [asdict(file) for file in files]}, [table])
