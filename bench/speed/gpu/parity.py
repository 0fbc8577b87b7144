"""The section `parity`: do all backends that there are give the codes of the network in PyTorch, in each precision?

Codes are compared of a network that was trained: of an untrained one, too many logits are nearly zero. Where no run is
named, the small network of the demo is trained for it, on the GPU, on generated birds.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from queryopt.bench.speed.gpu.engine import build_here, open_engine
from queryopt.bench.speed.gpu.models import describe_network
from queryopt.bench.speed.gpu.section import Figure, GpuOptions, SectionReport, Turn, training_packages
from queryopt.bench.tables import figures_table
from queryopt.errors import ParityError, QueryOptError
from queryopt.runtime.backends import Backend, BackendOutput, open_backend
from queryopt.runtime.tensorrt.profile import Profile

if TYPE_CHECKING:
    from queryopt.export.parity import ParityReport
    from queryopt.train.checkpoint import Checkpoint

__all__ = ["ParityRow", "measure_parity"]

_TRAINING_SHARE = 0.45
"""Of the section's time, after which training is stopped: parity needs codes that are sure, not the best ones."""
_SAID = ("outer", "loss", "map", "seconds")
_BATCH = 64
_BITS, _BITS_REHEARSED = 20_000, 500


@dataclass(frozen=True)
class ParityRow:
    """A model in a backend, beside the network in PyTorch on the CPU in float32. refused: why it is above a limit."""

    report: "ParityReport"
    refused: str | None


def measure_parity(options: GpuOptions, turn: Turn) -> SectionReport:
    """Compare everything that runs here. MissingError without the packages of training."""
    with training_packages():
        import onnx  # noqa: F401
        import torch

        from queryopt.export.parity import check_parity, max_map_drop_of
        from queryopt.export.pictures import parity_pictures
        from queryopt.export.torch_backend import TorchBackend
        from queryopt.train.checkpoint import load_checkpoint
    run, problem = (options.checkpoint, "") if options.checkpoint else _train(options, turn)
    checkpoint = load_checkpoint(run)
    pictures = parity_pictures(checkpoint)
    bits = _BITS_REHEARSED if options.rehearse else _BITS
    torch.backends.cudnn.allow_tf32 = False  # fp32 is to mean fp32
    folder = options.folder / "parity"
    folder.mkdir()
    reference = _Remembering(TorchBackend(checkpoint.network()))

    def compare(name: str, opening: Callable[[], Backend]) -> ParityRow:
        with contextlib.closing(opening()) as backend:
            report = check_parity(
                reference, backend, pictures.paths, labels=pictures.labels, min_bits=bits, batch=_BATCH
            )
        turn.log(f"{name}: {report.flipped:,} of {report.bits_compared:,} bits flipped")
        refused = None
        # An untrained network's bits flip by rounding: that is no fault, and no figure.
        if not options.rehearse:
            try:
                report.require(None, max_map_drop_of(report.precision))
            except ParityError as error:
                refused = str(error)
        return ParityRow(report, refused)

    jobs = ((name, partial(compare, name, opening)) for name, opening in _backends(options, checkpoint, folder))
    return turn.attempt_all(jobs, partial(_report, describe_network(checkpoint), problem))


class _Remembering:
    """A backend that computes a batch only when it first comes: all are compared with it on the same pictures."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._outputs: dict[bytes, BackendOutput] = {}
        self.card, self.name, self.close = backend.card, backend.name, backend.close

    def run(self, images: npt.NDArray[np.uint8]) -> BackendOutput:
        key = images.tobytes()
        if key not in self._outputs:
            self._outputs[key] = self._backend.run(images)
        return self._outputs[key]


class _EnoughError(Exception):
    """The time for training is up."""


def _train(options: GpuOptions, turn: Turn) -> tuple[Path, str]:
    """Train a small network, for no longer than a share of the time: its run, and what went wrong on the GPU.

    Where training fails there, it is done on the CPU: the backends are to be compared all the same.
    """
    from queryopt.train import train
    from queryopt.train.presets import preset_config

    few = "classes=4&train=6&test=1&size=32&" if options.rehearse else ""
    data = f"synthetic:birds?{few}folder={options.folder / 'birds'}"
    preset = {"name": "tiny"} if options.rehearse else {"name": "small", "samples": 960}

    def train_on(device: str) -> Path:
        folder = options.folder / f"run-{device}"
        until = time.monotonic() + turn.left * _TRAINING_SHARE

        def report(line: dict[str, Any]) -> None:
            turn.log(f"training, {', '.join(f'{name} {line[name]:.3g}' for name in _SAID if name in line)}")
            if time.monotonic() > until:
                raise _EnoughError

        with contextlib.suppress(_EnoughError):  # the best checkpoint so far is there
            train(preset_config(**preset, data=data, device=device), out=folder, report=report)
        return folder

    for device in dict.fromkeys((options.device, "cpu")):
        run = turn.attempt(f"training on {device}", partial(train_on, device))
        if run is not None:
            break
    problem = "; ".join(f"{name} failed: {reason}" for name, reason in turn.left_out)
    if run is None:
        raise QueryOptError(problem)
    turn.left_out.clear()
    return run, problem


def _backends(
    options: GpuOptions, checkpoint: "Checkpoint", folder: Path
) -> Iterator[tuple[str, Callable[[], Backend]]]:
    """What is compared, by name, and how each is opened."""
    from queryopt.bench.speed.gpu.pytorch import FoldedTorchBackend
    from queryopt.bench.speed.untrained import in_precision
    from queryopt.export import export_onnx
    from queryopt.export.torch_backend import TorchBackend

    def engine(path: Path) -> Backend:
        plan = path.with_suffix(".plan")
        if not options.rehearse:
            build_here(path, plan, Profile(1, _BATCH, _BATCH))
        return open_engine(plan, options)

    def int8(name: str) -> Backend:
        path = folder / "int8.onnx"
        if not path.is_file():
            export_onnx(checkpoint, path, precision="int8", parity=False)
        return open_backend(path, name)

    yield f"PyTorch on {options.device}, fp32", lambda: TorchBackend(checkpoint.network().to(options.device))
    yield f"folded, PyTorch on {options.device}", lambda: FoldedTorchBackend(checkpoint, options.device)
    exported = export_onnx(checkpoint, folder / "fp32.onnx", parity=False).path
    for precision in ("fp32", "fp16", "bf16"):
        path = exported if precision == "fp32" else in_precision(exported, folder / f"{precision}.onnx", precision)
        for name in ("onnxruntime", "cuda", "openvino"):
            yield f"{name}, {precision}", partial(open_backend, path, name)
        yield f"engine, {precision}", partial(engine, path)
    for name in () if options.rehearse else ("openvino", "onnxruntime"):
        yield f"{name}, int8", partial(int8, name)


def _report(network: str, problem: str, rows: Sequence[ParityRow]) -> SectionReport:
    columns = ("precision", "bits", "flipped", "rate", "95 % below", "top-10 overlap", "largest difference")
    title = f"Codes beside those of PyTorch on the CPU: {network}"
    table = figures_table(title, "runs on", *columns, plain=True)
    figures = []
    for row in rows:
        one = row.report
        flips = (f"{one.bits_compared:,}", f"{one.flipped:,}", f"{one.flip_rate:.2e}", f"{one.flip_rate_upper_95:.2e}")
        rest = (f"{one.top10_overlap:.4f}", f"{one.max_logit_difference:.1e}")
        table.add_row(one.backend, one.precision, *flips, *rest)
        value = f"{one.flipped:,} of {one.bits_compared:,}" + (" REFUSED" if row.refused else "")
        figures.append(Figure(f"bits flipped, {one.precision}, {one.backend}", value, one.flip_rate))
    refused = [f"{row.report.backend}, {row.report.precision}: {row.refused}" for row in rows if row.refused]
    values = {
        "network": network,
        "rows": [row.report.to_dict() | {"refused": row.refused} for row in rows],
        "training": problem,
    }
    return SectionReport(values, [table], figures, refused + ([problem] if problem else []))
