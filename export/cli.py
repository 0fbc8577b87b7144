"""qo-export: from a training checkpoint to model.onnx."""

import contextlib
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click

from queryopt.cli import Command, Output, batch_option, common_options, threads_option
from queryopt.errors import ExitCode, MissingError
from queryopt.export.engine import EngineOptions, engine_options, engine_values
from queryopt.export.parity import MIN_BITS
from queryopt.export.parity_options import limit_options
from queryopt.export.parity_text import print_parity
from queryopt.export.pictures import ParityPictures, labelled_in, parity_pictures
from queryopt.progress import Progress
from queryopt.text import counted, display_path, install_extra
from queryopt.train.run_files import find_checkpoint

if TYPE_CHECKING:
    from queryopt.export.engine_gate import Comparison
    from queryopt.export.onnx import ExportResult
    from queryopt.train.checkpoint import Checkpoint

__all__ = ["main"]

_PACKAGES = {"torch": "train", "onnx": "train", "onnxscript": "train", "safetensors": "train", "onnxruntime": "cpu"}
"""What an export needs, and the extra that brings it."""

_EPILOG = """\b
Examples:
  qo-export --ckpt runs/a
  qo-export --ckpt runs/a --images photos/ --out birds.onnx
  qo-export --ckpt runs/a --precision int8 --calibrate photos/
  qo-export --ckpt best.safetensors --images photos/ --explain
  qo-export --ckpt runs/a --engine --profile 1,32,256 --target sm_86,sm_89
  qo-export --onnx model.onnx --engine
"""


@click.command("qo-export", cls=Command, epilog=_EPILOG)
@click.option("--ckpt", "checkpoint", metavar="RUN_OR_FILE", help="Run folder or checkpoint of qo-train.")
@click.option("--onnx", metavar="FILE", help="Instead: a model.onnx; with --engine, on a machine without PyTorch.")
@click.option("--out", "path", metavar="FILE", help="The model to write.  [default: model.onnx beside the checkpoint]")
@click.option("--images", metavar="FOLDER", help="Pictures for the parity gate.  [default: the run's validation ones]")
@limit_options
@click.option(
    "--precision",
    metavar="NAME",
    default="fp32",
    show_default=True,
    help="What is computed in: fp32, fp16, bf16 or int8.",
)
@click.option("--calibrate", metavar="FOLDER", help="Pictures for int8.  [default: some that the run was trained on]")
@click.option(
    "--activations",
    type=click.Choice(["uint8", "int8"]),
    help="Of int8: uint8 for CPUs, int8 for TensorRT.  [default: uint8; with --engine int8]",
)
@click.option(
    "--backend",
    metavar="NAME,…",
    help="What the gate runs the model in: onnxruntime, openvino, cuda.  [default: each that would run it here]",
)
@click.option("--no-parity", is_flag=True, help="Don't compare on pictures; the model's card will say so.")
@click.option("--no-fold", is_flag=True, help="Keep the trained network's own parts in the graph; slower, same codes.")
@click.option("--explain", is_flag=True, help="Add the output `attention`: where in the picture each bit looked.")
@engine_options
@batch_option(32)
@threads_option
@common_options
def main(
    checkpoint: str | None,
    onnx: str | None,
    path: str | None,
    images: str | None,
    max_flip_rate: float | None,
    max_map_drop: float | None,
    precision: str,
    calibrate: str | None,
    activations: str | None,
    backend: str | None,
    no_parity: bool,
    no_fold: bool,
    explain: bool,
    engine: EngineOptions | None,
    batch: int,
    threads: int | None,
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
        raise click.UsageError("give --ckpt RUN, or --onnx FILE with --engine: one of the two")
    if engine is not None:
        engine.check()
    limits = (max_flip_rate, max_map_drop, batch, out.progress)
    if onnx is not None:
        if engine is None:
            raise click.UsageError("--onnx is for building an engine of it: give --engine too")
        given = (path, calibrate, activations, backend, precision != "fp32", no_parity, no_fold, explain)
        if any(given):
            raise click.UsageError(
                "--out, --precision, --calibrate, --activations, --backend, --no-parity, --no-fold and --explain go "
                "with --ckpt: a model.onnx is taken as it is"
            )
        labelled = None if images is None else labelled_in(images)
        with contextlib.ExitStack() as stack:
            built = engine.build(Path(onnx), out, lambda: _beside_onnx(onnx, labelled, threads, stack, limits))
        out.result(engine_values(built))
        return ExitCode.DONE
    assert checkpoint is not None
    for package, extra in _PACKAGES.items():
        if importlib.util.find_spec(package) is None:
            raise MissingError(f"exporting needs {package}, which is not installed: {install_extra(extra)}")
    if no_parity and images is not None:
        raise click.UsageError("--images are for the parity gate, which --no-parity leaves out: drop one of them")
    # What can be said without torch, whose import takes seconds.
    find_checkpoint(checkpoint)
    if images is not None:
        labelled_in(images)
    from queryopt.export.onnx import export_onnx
    from queryopt.train.checkpoint import load_checkpoint
    from queryopt.train.runs import stopped_early

    if no_parity:
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
    result = export_onnx(
        loaded,
        path,
        pictures=images,
        parity=not no_parity,
        max_flip_rate=max_flip_rate,
        max_map_drop=max_map_drop,
        precision=precision,
        calibrate=calibrate,
        activations=activations or ("int8" if engine is not None and precision == "int8" else None),
        backend=None if backend is None else [name for part in backend.split(",") if (name := part.strip())],
        fold=not no_fold,
        explain=explain,
        batch=batch,
        threads=threads,
        progress=out.progress,
    )
    failures = result.parity.failures if result.parity else {}
    for name, reason in failures.items():
        out.warn(f"{name}: {reason}: not compared")
    if result.parity is not None and result.parity.distinct_codes == 1:
        out.warn("the network gives every picture the same code: it tells nothing apart, and the parity gate little")
    _print(out, result)
    gated = None
    if engine is not None:
        gated = engine.build(
            result.path, out, lambda: "--no-parity" if no_parity else _beside_network(loaded, images, threads, limits)
        )
    out.result({**_values(result, stopped), "engine": None if gated is None else engine_values(gated)})
    return ExitCode.SOME_FAILED if failures else ExitCode.DONE


_Limits: TypeAlias = tuple[float | None, float | None, int, "Progress"]
"""max_flip_rate, max_map_drop, batch and progress of a Comparison."""


def _beside_network(checkpoint: "Checkpoint", images: str | None, threads: int | None, limits: _Limits) -> "Comparison":
    """What an engine of a checkpoint is compared with: the network, on the pictures of the export's gate."""
    from queryopt.export.engine_gate import Comparison
    from queryopt.export.parity import ParitySide
    from queryopt.export.torch_backend import TorchBackend

    reference = ParitySide("the network", TorchBackend(checkpoint.network(), threads))
    return Comparison(reference, parity_pictures(checkpoint, images, limits[-1]), *limits)


def _beside_onnx(
    onnx: str, pictures: "ParityPictures | None", threads: int | None, stack: contextlib.ExitStack, limits: _Limits
) -> "Comparison | str":
    """What an engine of a model.onnx is compared with: that file in what runs it here; or why there is nothing."""
    from queryopt.export.engine_gate import Comparison
    from queryopt.export.gate import open_serving

    if pictures is None:
        return "give pictures with --images FOLDER"
    try:
        sides, _ = open_serving(onnx, None, threads, stack)
    except MissingError as error:
        return f"nothing runs the model.onnx here ({error})"
    return Comparison(next(iter(sides.values())), pictures, *limits)


def _print(out: Output, result: "ExportResult") -> None:
    card, fold, strip, parity = result.card, result.fold, result.strip, result.parity
    where = display_path(result.path)
    if result.replaced is not None:
        same = "the same checkpoint" if result.replaced == card.fingerprint else "another checkpoint"
        out.print(f"replaced: a model of {same} (fingerprint {result.replaced[:12]}…)")
    size = card.preprocessing.image_size
    method = "" if card.method == "queryopt" else f" ({card.method})"
    out.print(
        f"model:    {where}  ({result.size / 1e6:,.1f} MB, {card.precision}, fingerprint {card.fingerprint[:12]}…)"
    )
    out.print(f"code:     {card.bits} bits of {card.backbone}{method} at {size} x {size} pixels")
    out.print("stripped: " + ("; ".join(f"{name} ({size})" for name, size in strip.stripped.items()) or "nothing"))
    branches = counted(strip.branches, "branch", "branches")
    out.print(
        f"          {strip.multiply_adds_training:,} multiply-adds with {branches} -> "
        f"{strip.multiply_adds:,} in the {strip.graph} graph; logits equal the training network's within "
        f"{strip.max_logit_difference:.1e}"
    )
    if fold is None:
        out.print(
            f"folded:   no ({'--no-fold' if not method else f'nothing to rewrite in a network of {card.method}'})"
        )
    else:
        out.print(
            f"folded:   {fold.before:,} multiply-adds of the inference network -> {fold.after:,} "
            f"({100 * (1 - fold.after / fold.before):.1f} % fewer)"
        )
        for step in sorted(fold.steps, key=lambda step: -step.saved):
            if step.saved:
                out.print(f"          {step.saved:>13,}  {step.name}")
    if result.quantisation is not None:
        done = result.quantisation
        kept = ", ".join(done.kept) or "none"
        out.print(
            f"int8:     {len(done.layers) - len(done.kept)} of {len(done.layers)} layers, calibrated on "
            f"{counted(done.pictures, 'picture', 'pictures')}; kept in fp32 by measurement: {kept}"
        )
        if done.refusals:
            out.print(f"          so many since the gate refused fewer, {counted(done.refusals, 'time', 'times')}")
        if done.kept:
            worst = ", ".join(f"{name} {error:.1e}" for name, error in done.sensitivity[:3])
            out.print(
                f"          of the calibration pictures' bits {100 * done.first_flip_rate:.2f} % flipped before, "
                f"{100 * done.flip_rate:.2f} % now; change of the logits when quantised alone: {worst}"
            )
    if parity is None:
        out.print("parity:   not checked (--no-parity)")
        return
    for number, report in enumerate(result.parities):
        print_parity(out, report, "" if number else "parity:")
    why = f", with flips and crops to reach {MIN_BITS:,} bits" if parity.views > parity.pictures else ""
    out.print(
        f"          {counted(parity.views, 'view', 'views')} of {counted(parity.pictures, 'picture', 'pictures')} "
        f"({result.pictures}){why}; {100 * parity.near_zero:.2f} % of logits within "
        f"{parity.near_zero_epsilon:g} of zero"
    )
    for name, reason in result.not_compared.items():
        out.log(f"not compared on {name}: {reason}")


def _values(result: "ExportResult", stopped: tuple[int, int] | None) -> dict[str, object]:
    parity = result.parity
    return {
        "model": result.path,
        "bytes": result.size,
        "bits": result.card.bits,
        "fingerprint": result.card.fingerprint,
        "replaced": result.replaced,
        "fold": None if result.fold is None else result.fold.to_dict(),
        "strip": result.strip.to_dict(),
        "parity": None if parity is None else {**parity.to_dict(), "failures": dict(parity.failures)},
        "parities": [one.to_dict() for one in result.parities],
        "not_compared": dict(result.not_compared),
        "quantisation": None if result.quantisation is None else result.quantisation.to_dict(),
        "pictures": result.pictures,
        "stopped_early": None if stopped is None else {"iterations_done": stopped[0], "iterations": stopped[1]},
        "card": json.loads(result.card.to_json()),
    }
