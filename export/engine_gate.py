"""The parity gate of an engine: built in a folder of its own, compared where it can run, and only then put in place."""

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from queryopt.errors import MissingError, ParityError
from queryopt.export.parity import ParityReport, ParitySide, compare_sides
from queryopt.export.pictures import ParityPictures
from queryopt.progress import Progress
from queryopt.runtime.backends.base import Backend
from queryopt.runtime.tensorrt.build import BuiltEngine, build_engine, check_target, place_engine
from queryopt.runtime.tensorrt.fit import why_not_here
from queryopt.text import display_path

__all__ = ["NOT_RUN", "Comparison", "GatedEngine", "build_gated_engine"]

NOT_RUN = "built, not run here"
"""How the note on an engine that could not be run begins."""


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
            note = f"{NOT_RUN}: {reason}"
        elif isinstance(comparison := compare(), str):
            note = f"built, and not compared: {comparison}"
        else:
            try:
                backend = (open_engine or _open)(built.path)
            except MissingError as error:  # what reaches the GPU is not installed, or it has no memory left
                note = f"{NOT_RUN}: {error}"
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
