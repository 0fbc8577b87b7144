"""The parity gate: a model.onnx passes it in every backend that would run it here, an engine where it can run.

An engine is built in a folder of its own, compared, and only then put in place.
"""

import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from queryopt.errors import MissingError, ParityError, UsageError
from queryopt.export.options import ExportOptions
from queryopt.export.parity import ParityReport, ParitySide, compare_sides, open_side
from queryopt.export.pictures import ParityPictures
from queryopt.export.torch_backend import TorchBackend
from queryopt.progress import Progress
from queryopt.runtime.backends import has_gpu
from queryopt.runtime.backends.base import Backend
from queryopt.runtime.backends.onnxruntime import has_cuda_provider
from queryopt.runtime.tensorrt.build import BuiltEngine, build_engine, check_target, place_engine
from queryopt.runtime.tensorrt.fit import why_not_here
from queryopt.text import display_path

if TYPE_CHECKING:
    from queryopt.train.hash_network import HashNetwork

__all__ = [
    "Comparison",
    "GateResult",
    "GatedEngine",
    "build_gated_engine",
    "open_serving",
    "pass_gate",
    "require_all",
]

_NOT_RUN = "built, not run here"
"""How the note on an engine that could not be run begins."""


def open_serving(
    model: str | os.PathLike[str],
    backends: str | Sequence[str] | None,
    threads: int | None,
    stack: contextlib.ExitStack,
) -> tuple[dict[str, ParitySide], dict[str, str]]:
    """A model.onnx in each backend that would run it here, which `stack` closes; and the reasons of those that can't.

    Both by the backend's name.

    backends: names, where only these are wanted; then what is missing is an error. Else every one that is installed:
    onnxruntime, openvino, and cuda where there is an NVIDIA GPU. Raises as open_backend; MissingError where none can.
    """
    if isinstance(backends, str):
        backends = [backends]
    if backends is not None:
        if not backends:
            raise UsageError("no backend for the parity gate was named: leave the names out, or the gate")
        return {name: open_side(model, name, threads, stack, f"the model in {name}") for name in backends}, {}
    sides, errors = {}, {}
    for name in _installed():
        try:
            sides[name] = open_side(model, name, threads, stack, f"the model in {name}")
        except MissingError as error:
            errors[name] = error
    if not sides:
        raise next(iter(errors.values()))
    where = f"{display_path(model)}: "
    return sides, {name: str(error).removeprefix(where) for name, error in errors.items()}


@dataclass(frozen=True)
class GateResult:
    """What a model.onnx passed. reports: by backend. left_out: backends that can't run it here, with the reason."""

    reports: Mapping[str, ParityReport] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def worst(self) -> ParityReport | None:
        """The report with most flipped bits; None where nothing was compared."""
        return max(self.reports.values(), key=lambda report: report.flipped, default=None)


def pass_gate(
    network: "HashNetwork",
    model: str | os.PathLike[str],
    pictures: ParityPictures,
    options: ExportOptions,
    progress: Progress | None,
) -> GateResult:
    """Compare a network with the model.onnx that was made of it, in each backend; ParityError above a limit.

    What else it raises: see open_serving and check_parity.
    """
    with contextlib.ExitStack() as stack:
        sides, left_out = open_serving(model, options.backend, options.threads, stack)
        reports = compare_sides(
            ParitySide("the network", TorchBackend(network, options.threads)),
            list(sides.values()),
            pictures.paths,
            labels=pictures.labels,
            batch=options.batch,
            progress=progress,
        )
    result = GateResult(dict(zip(sides, reports, strict=True)), left_out)
    require_all(result.reports, options.flip_limit, options.map_limit)
    return result


def require_all(reports: Mapping[str, ParityReport], max_flip_rate: float, max_map_drop: float | None) -> None:
    """Raise ParityError where one of the reports, by backend, is above a limit."""
    errors = {}
    for name, report in reports.items():
        try:
            report.require(max_flip_rate, max_map_drop)
        except ParityError as error:
            errors[name] = error
    if errors:
        agree = ",".join(name for name in reports if name not in errors)
        hint = f". It passes in {agree}: --backend {agree} leaves the rest out, where nothing else is to run it"
        raise ParityError("; ".join(map(str, errors.values())) + (hint if agree else ""))


@dataclass(frozen=True)
class Comparison:
    """What an engine is compared with: the reference, on which pictures, and the limits (None: of its precision)."""

    reference: ParitySide
    pictures: ParityPictures
    max_flip_rate: float | None = None
    max_map_drop: float | None = None
    batch: int = 32
    progress: Progress | None = None


@dataclass(frozen=True)
class GatedEngine:
    """An engine that was written. parity: its own report, None where it was not run; note: then why."""

    built: BuiltEngine
    parity: ParityReport | None
    note: str


def build_gated_engine(
    onnx: Path,
    compare: Callable[[], Comparison | str],
    *,
    open_engine: Callable[[Path], Backend] | None = None,
    **options: Any,
) -> GatedEngine:
    """Build the engine of a model.onnx beside it, and let its own codes decide whether it is written.

    compare: called where the engine can run here; the comparison, or in words why there is none. open_engine: what runs
    the plan; by default TensorRT, where its package, a driver and the GPU that it was built for are here. options: of
    build_engine. Where it is not compared, the manifest says so. Raises as build_engine and check_parity; ParityError
    above a limit: then nothing is written, and an older engine stays.
    """
    target = onnx.with_suffix(".plan")
    check_target(target)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.stem[:50]}.") as folder:
        built = build_engine(onnx, Path(folder, target.name), **options)
        report, described, note = None, None, ""
        reason = why_not_here(built.manifest) if open_engine is None else None
        if reason is not None:
            note = f"{_NOT_RUN}: {reason}"
        elif isinstance(comparison := compare(), str):
            note = f"built, and not compared: {comparison}"
        else:
            try:
                backend = (open_engine or _open)(built.path)
            except MissingError as error:  # what reaches the GPU is not installed, or it has no memory left
                note = f"{_NOT_RUN}: {error}"
            else:
                with contextlib.closing(backend):
                    report, described = _compare(backend, comparison, target)
        manifest = replace(built.manifest, parity=described, parity_note=note)
        return GatedEngine(place_engine(built, target, manifest), report, note)


def _open(plan: Path) -> Backend:
    from queryopt.runtime.backends.tensorrt import TensorRtBackend

    return TensorRtBackend(plan)


def _compare(backend: Backend, comparison: Comparison, target: Path) -> tuple[ParityReport, Mapping[str, Any]]:
    (report,) = compare_sides(
        comparison.reference,
        [ParitySide(display_path(target), backend)],
        comparison.pictures.paths,
        labels=comparison.pictures.labels,
        batch=comparison.batch,
        progress=comparison.progress,
    )
    limits = report.limits(comparison.max_flip_rate, comparison.max_map_drop)
    try:
        report.require(**limits)
    except ParityError as error:
        raise ParityError(f"{display_path(target)}: no engine was written: {error}") from None
    return report, {**report.to_dict(), **limits, "source": comparison.pictures.source}


def _installed() -> list[str]:
    names = ["onnxruntime"]
    if importlib.util.find_spec("openvino") is not None:
        names.append("openvino")
    if has_cuda_provider() and has_gpu():
        names.append("cuda")
    return names
