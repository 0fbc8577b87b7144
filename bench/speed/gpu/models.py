"""The section `models`: the network's model.onnx in fp32 and fp16, which later sections run."""

import time
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from queryopt.bench.speed.gpu.section import Figure, GpuOptions, Turn
from queryopt.errors import MissingError
from queryopt.text import install_extra

__all__ = ["ModelFile", "ModelsReport", "export_models", "need_model"]

BITS = 12
"""Of an untrained network: the paper's smallest code."""


@dataclass(frozen=True)
class ModelFile:
    """A model that was exported: precision, bytes, multiply-adds of a picture, and seconds since the export began."""

    precision: str
    size: int
    multiply_adds: int
    seconds: float


@dataclass(frozen=True)
class ModelsReport:
    """What was exported. network: in words."""

    network: str
    files: tuple[ModelFile, ...]

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-serialisable."""
        return asdict(self)

    def tables(self) -> list[Table]:
        """A row a model."""
        table = Table(box=None, header_style="dim", title=f"Models: {self.network}", title_justify="left")
        for name in ("precision", "MB", "multiply-adds", "s"):
            table.add_column(name, justify="right")
        for file in self.files:
            table.add_row(file.precision, f"{file.size / 1e6:.1f}", f"{file.multiply_adds:,}", f"{file.seconds:.1f}")
        return [table]

    def figures(self) -> list[Figure]:
        """None: these are no measurements."""
        return []

    def problems(self) -> list[str]:
        """None."""
        return []


def export_models(options: GpuOptions, turn: Turn) -> ModelsReport:
    """Export the network, folded, in fp32 and fp16. MissingError without the packages of training."""
    started = time.monotonic()
    try:
        import onnx

        from queryopt.bench.speed.gpu.network import load_subject
        from queryopt.bench.speed.untrained import in_precision
        from queryopt.export import export_onnx
        from queryopt.export.count import count_multiply_adds
    except ImportError as error:
        raise MissingError(f"the packages of training ({error}): {install_extra('train')}") from None
    checkpoint, network = load_subject(options.checkpoint, options.backbone, BITS)
    export_onnx(checkpoint, options.model("fp32"), parity=False)
    files: list[ModelFile] = []

    def count(precision: str) -> None:
        path = options.model(precision)
        adds = count_multiply_adds(onnx.load(path)).total
        files.append(ModelFile(precision, path.stat().st_size, adds, time.monotonic() - started))
        turn.log(f"{precision}: {files[-1].size / 1e6:.1f} MB after {files[-1].seconds:.1f} s")
        turn.keep(ModelsReport(network, tuple(files)))

    count("fp32")
    in_precision(options.model("fp32"), options.model("fp16"), "fp16")
    count("fp16")
    return ModelsReport(network, tuple(files))


def need_model(options: GpuOptions, precision: str) -> None:
    """MissingError where the section `models` left no model of this precision."""
    if not options.model(precision).is_file():
        raise MissingError(f"the section models left no model in {precision}")
