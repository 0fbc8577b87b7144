"""qo-export: from a training checkpoint to model.onnx."""

import contextlib
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from queryopt.cli import Command, Output, common_options, main_argument
from queryopt.errors import ExitCode, MissingError, UsageError
from queryopt.export.engine import EngineOptions, engine_options
from queryopt.export.gate import Comparison, GatedEngine, build_gated_engine, open_serving
from queryopt.export.options import ExportOptions, export_options
from queryopt.export.parity import ParitySide
from queryopt.export.pictures import ParityPictures, labelled_in, parity_pictures
from queryopt.export.text import engine_values, export_values, print_engine, print_export
from queryopt.export.torch_backend import TorchBackend
from queryopt.kinds import Kind, kind_of
from queryopt.text import display_path, install_extra
from queryopt.train.run_files import find_checkpoint

if TYPE_CHECKING:
    from queryopt.export.onnx import ExportResult
    from queryopt.train.checkpoint import Checkpoint

__all__ = ["main"]

_PACKAGES = {"torch": "train", "onnx": "train", "onnxscript": "train", "safetensors": "train", "onnxruntime": "cpu"}
"""What an export needs, and the extra that brings it."""

_EPILOG = """\b
Examples:
  qo-export runs/a
  qo-export runs/a --images photos/ --out birds.onnx
  qo-export runs/a --precision int8 --calibrate photos/
  qo-export best.safetensors --images photos/ --explain
  qo-export runs/a --engine --profile 1,32,256 --target sm_86,sm_89
  qo-export model.onnx --engine
"""


@click.command("qo-export", cls=Command, epilog=_EPILOG)
@main_argument("[RUN]", lambda given: "onnx" if kind_of(given) is Kind.MODEL else "checkpoint")
@click.option("--ckpt", "checkpoint", metavar="RUN_OR_FILE", help="RUN: a run folder or checkpoint of qo-train.")
@click.option("--onnx", metavar="FILE", help="Instead: a model.onnx; with --engine, on a machine without PyTorch.")
@click.option("--out", "path", metavar="FILE", help="The model to write.  [default: model.onnx beside the checkpoint]")
@export_options
@engine_options
@common_options
def main(
    checkpoint: str | None,
    onnx: str | None,
    path: str | None,
    options: ExportOptions,
    engine: EngineOptions | None,
    out: Output,
) -> ExitCode:
    """Export a training checkpoint to one self-describing model.onnx, and with --engine to a TensorRT engine.

    What only training uses (the auxiliary branch, a classification head) is stripped and the network folded (exact
    rewrites that save multiply-adds); that what comes out is still the network, and holds nothing of the former, is
    proved on the graph. Then network and model hash the same real pictures: at least 20,000 bits are compared, with
    flips and crops of the pictures where there are too few. A model whose bits differ by more than --max-flip-rate is
    not written, and an older one at its place stays.

    --engine builds model.plan beside it, and model.plan.json, which says what it fits. tensorrt builds for the GPU that
    is here; tensorrt_rtx without one, for those of --target. Where the engine can run, its own codes pass the same gate
    before it is written (with --onnx beside that file's, on --images); where not, it is said to be built and not run.
    """
    if (checkpoint is None) == (onnx is None):
        raise click.UsageError(
            "give what to export: qo-export RUN; or, for a TensorRT engine, qo-export MODEL.onnx --engine"
            if checkpoint is None
            else "--ckpt and --onnx: give one of the two"
        )
    if engine is not None:
        engine.check()
    if onnx is not None:
        out.result(engine_values(_engine_of_onnx(onnx, path, options, engine, out)))
        return ExitCode.DONE
    assert checkpoint is not None
    _check(checkpoint, options)
    from queryopt.export.onnx import export_onnx
    from queryopt.train.checkpoint import load_checkpoint
    from queryopt.train.runs import stopped_early

    if not options.parity:
        out.warn("--no-parity: the model is not compared with the network on any picture")
    loaded = load_checkpoint(checkpoint)
    stopped = stopped_early(loaded)
    if stopped is not None:
        done, planned = stopped
        out.warn(
            f"this run stopped after iteration {done} of {planned} (last.pt): its codes are not what it would end "
            f"with; qo-train --out {display_path(loaded.folder)} --resume goes on"
        )
    out.log(f"exporting {display_path(loaded.path)}: first the graph, then the pictures; a large network takes minutes")
    if engine is not None and options.precision == "int8" and options.activations is None:
        options = replace(options, activations="int8")
    result = export_onnx(loaded, path, **vars(options), progress=out.progress)
    _warn(result, out)
    print_export(out, result)
    gated = None
    if engine is not None:
        gated = _build(engine, result.path, out, lambda: _beside_network(loaded, options, out))
    out.result(export_values(result, stopped) | {"engine": None if gated is None else engine_values(gated)})
    return ExitCode.SOME_FAILED if result.parity is not None and result.parity.failures else ExitCode.DONE


def _check(checkpoint: str, options: ExportOptions) -> None:
    """Raise what can be said without torch, whose import takes seconds."""
    for package, extra in _PACKAGES.items():
        if importlib.util.find_spec(package) is None:
            raise MissingError(f"exporting needs {package}, which is not installed: {install_extra(extra)}")
    if options.pictures is not None and not options.parity:
        raise click.UsageError("--images are for the parity gate, which --no-parity leaves out: drop one of them")
    find_checkpoint(checkpoint)
    if isinstance(options.pictures, str):
        labelled_in(options.pictures)


def _warn(result: "ExportResult", out: Output) -> None:
    if result.parity is None:
        return
    for name, reason in result.parity.failures.items():
        out.warn(f"{name}: {reason}: not compared")
    for warning in result.parity.warnings:
        out.warn(warning)
    if result.parity.distinct_codes == 1 and not result.parity.warnings:
        out.warn("the network gives every picture the same code: it tells nothing apart, and the parity gate little")


def _build(engine: EngineOptions, onnx: Path, out: Output, compare: Callable[[], Comparison | str]) -> GatedEngine:
    out.log(f"building a TensorRT engine of {display_path(onnx)}: seconds to minutes")
    gated = build_gated_engine(onnx, compare, **vars(engine))
    print_engine(out, gated)
    return gated


def _beside_network(checkpoint: "Checkpoint", options: ExportOptions, out: Output) -> Comparison | str:
    """What an engine of a checkpoint is compared with: the network, on the pictures of the export's gate."""
    if not options.parity:
        return "--no-parity"
    reference = ParitySide("the network", TorchBackend(checkpoint.network(), options.threads))
    return _comparison(reference, parity_pictures(checkpoint, options.pictures, out.progress), options, out)


def _engine_of_onnx(
    onnx: str, path: str | None, options: ExportOptions, engine: EngineOptions | None, out: Output
) -> GatedEngine:
    """Build the engine of a model.onnx; it is compared with that file, on --images, in what runs it here."""
    if engine is None:
        raise UsageError(f"{display_path(onnx)}: a model is exported already: --engine builds a TensorRT engine of it")
    of_graph = (options.calibrate, options.activations, options.precision != "fp32", not options.fold, options.explain)
    if path or any(of_graph) or options.backend is not None or not options.parity:
        raise click.UsageError(
            "--out, --precision, --calibrate, --activations, --backend, --no-parity, --no-fold and --explain go "
            "with --ckpt: a model.onnx is taken as it is"
        )
    pictures = labelled_in(options.pictures) if isinstance(options.pictures, str) else None
    with contextlib.ExitStack() as stack:

        def compare() -> Comparison | str:
            if pictures is None:
                return "give pictures with --images FOLDER"
            try:
                sides, _ = open_serving(onnx, None, options.threads, stack)
            except MissingError as error:
                return f"nothing runs the model.onnx here ({error})"
            return _comparison(next(iter(sides.values())), pictures, options, out)

        return _build(engine, Path(onnx), out, compare)


def _comparison(reference: ParitySide, pictures: ParityPictures, options: ExportOptions, out: Output) -> Comparison:
    return Comparison(reference, pictures, options.max_flip_rate, options.max_map_drop, options.batch, out.progress)
