"""The section `parity`: do all backends that there are give the codes of the network in PyTorch, in each precision?

Codes are compared of a network that was trained: of an untrained one, too many logits are nearly zero. Where no run is
named, the small network of the demo is trained for it, on the GPU, on generated birds.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from queryopt.bench.speed.gpu.engine import build_here, open_engine
from queryopt.bench.speed.gpu.section import Figure, GpuOptions, Turn, left_out_tables, reason_of
from queryopt.errors import MissingError, ParityError, QueryOptError
from queryopt.runtime.backends import Backend, BackendOutput, open_backend
from queryopt.runtime.tensorrt.profile import Profile
from queryopt.text import install_extra

if TYPE_CHECKING:
    from queryopt.export.parity import ParityReport
    from queryopt.train.checkpoint import Checkpoint

__all__ = ["GpuParityReport", "ParityRow", "measure_parity"]

_PRECISIONS = ("fp32", "fp16", "bf16")
_CALIBRATED = 128
_INT8_SECONDS = 25.0
"""What quantising takes about: each layer is measured."""
_TRAINING_SHARE = 0.45
"""Of the section's time, after which training is stopped: parity needs codes that are sure, not the best ones."""
_SAID = ("outer", "loss", "map", "seconds")
_BATCH = 64


@dataclass(frozen=True)
class ParityRow:
    """A model in a backend, beside the network in PyTorch on the CPU in float32. refused: why it is above a limit."""

    report: "ParityReport"
    refused: str | None


@dataclass(frozen=True)
class GpuParityReport:
    """What was compared. network: in words. left_out: what could not run, and why."""

    network: str
    rows: tuple[ParityRow, ...]
    left_out: tuple[tuple[str, str], ...]
    training: str = ""
    """What went wrong when the network was trained on the GPU."""

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-serialisable."""
        rows = [row.report.to_dict() | {"refused": row.refused} for row in self.rows]
        left_out = [list(one) for one in self.left_out]
        return {"network": self.network, "rows": rows, "left_out": left_out, "training": self.training}

    def tables(self) -> list[Table]:
        """A row a backend and precision."""
        title = f"Codes beside those of PyTorch on the CPU: {self.network}"
        table = Table(box=None, header_style="dim", title=title, title_justify="left")
        table.add_column("runs on")
        for name in ("precision", "bits", "flipped", "rate", "95 % below", "top-10 overlap", "largest difference"):
            table.add_column(name, justify="right")
        for row in self.rows:
            one = row.report
            flips = (
                f"{one.bits_compared:,}",
                f"{one.flipped:,}",
                f"{one.flip_rate:.2e}",
                f"{one.flip_rate_upper_95:.2e}",
            )
            rest = (f"{one.top10_overlap:.4f}", f"{one.max_logit_difference:.1e}")
            table.add_row(one.backend, one.precision, *flips, *rest)
        return [table, *left_out_tables(self.left_out)]

    def figures(self) -> list[Figure]:
        """Flipped bits of each."""
        return [
            Figure(
                f"bits flipped, {row.report.precision}, {row.report.backend}",
                f"{row.report.flipped:,} of {row.report.bits_compared:,}" + (" REFUSED" if row.refused else ""),
                row.report.flip_rate,
            )
            for row in self.rows
        ]

    def problems(self) -> list[str]:
        """What the gate refuses, and training that failed."""
        refused = [f"{row.report.backend}, {row.report.precision}: {row.refused}" for row in self.rows if row.refused]
        return refused + ([self.training] if self.training else [])


def measure_parity(options: GpuOptions, turn: Turn) -> GpuParityReport:
    """Compare everything that runs here. MissingError without the packages of training."""
    try:
        import onnx  # noqa: F401
        import torch

        from queryopt.export.parity import compare_sides, max_map_drop_of, open_side
        from queryopt.export.pictures import parity_pictures
        from queryopt.export.torch_backend import TorchBackend
        from queryopt.train.checkpoint import load_checkpoint
    except ImportError as error:
        raise MissingError(f"the packages of training ({error}): {install_extra('train')}") from None
    run, problem = (options.checkpoint, "") if options.checkpoint else _train(options, turn)
    checkpoint = load_checkpoint(run)
    config = checkpoint.config.network
    words = f"{config.backbone}, {config.bits} bits, {config.image_size} px"
    pictures = parity_pictures(checkpoint)
    torch.backends.cudnn.allow_tf32 = False  # fp32 is to mean fp32
    folder = options.folder / "parity"
    folder.mkdir()
    rows: list[ParityRow] = []
    left_out: list[tuple[str, str]] = []
    with contextlib.ExitStack() as stack:
        reference = open_side(_Remembering(TorchBackend(checkpoint.network())), "auto", None, stack)
        for name, opening in _sides(options, checkpoint, folder):
            if rows and not turn.has(_INT8_SECONDS if "int8" in name else 5, name):
                continue
            try:
                with contextlib.closing(opening()) as backend:
                    side = open_side(backend, "auto", None, stack)
                    found = compare_sides(
                        reference, [side], pictures.paths, labels=pictures.labels, min_bits=_bits(options), batch=_BATCH
                    )[0]
            except (QueryOptError, RuntimeError, ImportError) as error:
                left_out.append((name, reason_of(error)))
                turn.log(f"without {name}: {left_out[-1][1]}")
                continue
            refused = None
            try:
                found.require(None, max_map_drop_of(found.precision))
            except ParityError as error:
                refused = str(error)
            # An untrained network's bits flip by rounding: that is no fault, and no figure.
            rows.append(ParityRow(found, None if options.rehearse else refused))
            turn.log(f"{name}: {found.flipped:,} of {found.bits_compared:,} bits flipped")
            turn.keep(GpuParityReport(words, tuple(rows), tuple(left_out), problem))
    return GpuParityReport(words, tuple(rows), tuple(left_out), problem)


class _Remembering:
    """A backend that computes a batch only when it first comes: all are compared with it on the same pictures."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._outputs: dict[bytes, BackendOutput] = {}
        self.card = backend.card
        self.name = backend.name

    def run(self, images: npt.NDArray[np.uint8]) -> BackendOutput:
        """Run the model on uint8 [b, s, s, 3]."""
        key = hashlib.sha256(images.tobytes()).digest()
        if key not in self._outputs:
            self._outputs[key] = self._backend.run(images)
        return self._outputs[key]

    def close(self) -> None:
        """Close the backend."""
        self._backend.close()


class _EnoughError(Exception):
    """The time for training is up."""


def _train(options: GpuOptions, turn: Turn) -> tuple[Path, str]:
    """Train the demo's network, for no longer than a share of the time: its run, and what went wrong on the GPU.

    Where training fails there, it is done on the CPU: the backends are to be compared all the same.
    """
    from queryopt.train import train
    from queryopt.train.presets import preset_config

    few = "classes=4&train=6&test=1&size=32&" if options.rehearse else ""
    data = f"synthetic:birds?{few}folder={options.folder / 'birds'}"
    preset = "tiny" if options.rehearse else "demo"
    problem = ""
    for device in dict.fromkeys((options.device, "cpu")):
        folder = options.folder / f"run-{device}"
        until = time.monotonic() + turn.left * _TRAINING_SHARE

        def report(line: dict[str, Any], until: float = until) -> None:
            turn.log(f"training, {', '.join(f'{name} {line[name]:.3g}' for name in _SAID if name in line)}")
            if time.monotonic() > until:
                raise _EnoughError

        try:
            with contextlib.suppress(_EnoughError):  # the best checkpoint so far is there
                train(preset_config(preset, data=data, device=device), out=folder, report=report)
            return folder, problem
        except (QueryOptError, RuntimeError) as error:
            problem = f"training on {device} failed: {reason_of(error)}"
            turn.log(problem)
    raise QueryOptError(problem)


def _sides(options: GpuOptions, checkpoint: "Checkpoint", folder: Path) -> Iterator[tuple[str, Callable[[], Backend]]]:
    """What is compared, by name, and how each is opened."""
    import onnx

    from queryopt.bench.speed.gpu.torch_network import FoldedTorchBackend
    from queryopt.export import export_onnx
    from queryopt.export.onnx import with_card
    from queryopt.export.pictures import calibration_pictures
    from queryopt.export.precision import lower_precision
    from queryopt.export.quantize import quantise
    from queryopt.export.torch_backend import TorchBackend
    from queryopt.images import load_image

    exported = export_onnx(checkpoint, folder / "fp32.onnx", parity=False)
    model = onnx.load(exported.path)
    for precision in _PRECISIONS[1:]:
        lowered = lower_precision(model, precision)
        (folder / f"{precision}.onnx").write_bytes(with_card(lowered, replace(exported.card, precision=precision)))

    def torch_on_gpu() -> Backend:
        return TorchBackend(checkpoint.network().to(options.device))

    def engine(precision: str) -> Backend:
        plan = folder / f"{precision}.plan"
        if not options.rehearse:
            build_here(folder / f"{precision}.onnx", plan, Profile(1, _BATCH, _BATCH))
        return open_engine(plan, options)

    def int8(name: str) -> Backend:
        path = folder / "int8.onnx"
        if not path.is_file():
            pictures = calibration_pictures(checkpoint, None, _CALIBRATED)
            pixels = np.stack([load_image(picture, exported.card.preprocessing) for picture in pictures])
            quantised, _ = quantise(model, pixels)
            path.write_bytes(with_card(quantised, replace(exported.card, precision="int8")))
        return open_backend(path, name)

    yield f"PyTorch on {options.device}, fp32", torch_on_gpu
    yield f"folded, PyTorch on {options.device}", lambda: FoldedTorchBackend(checkpoint, options.device)
    for precision in _PRECISIONS:
        for name in ("onnxruntime", "cuda", "openvino"):
            path = folder / f"{precision}.onnx"
            yield f"{name}, {precision}", partial(open_backend, path, name)
        yield f"engine, {precision}", partial(engine, precision)
    for name in () if options.rehearse else ("openvino", "onnxruntime"):
        yield f"{name}, int8", partial(int8, name)


def _bits(options: GpuOptions) -> int:
    return 500 if options.rehearse else 20_000
