"""model.onnx: built from a checkpoint, proved, compared with the network on real pictures, and then put in place."""

import contextlib
import datetime
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch

from queryopt import __version__
from queryopt.card import ModelCard
from queryopt.errors import DataError, ImageError, MissingError, ParityError, UsageError
from queryopt.export.fold import FoldReport
from queryopt.export.fold import fold as fold_network
from queryopt.export.gate import GateResult, pass_gate
from queryopt.export.options import ACTIVATIONS, ExportOptions
from queryopt.export.parity import ParityReport
from queryopt.export.pictures import PicturePath, calibration_pictures, parity_pictures, parity_views
from queryopt.export.precision import lower_precision
from queryopt.export.quantize import CALIBRATION_PICTURES, CHECKED_BITS, QuantisationReport, Quantiser
from queryopt.export.strip import InferenceNetwork, StripReport, check_strip
from queryopt.export.torch_backend import network_card
from queryopt.files import replacing, temporary_beside
from queryopt.images import load_image
from queryopt.progress import Progress, no_progress
from queryopt.runtime.backends import open_backend
from queryopt.runtime.onnx_file import DIGEST_KEY, content_digest
from queryopt.text import display_path
from queryopt.train.checkpoint import Checkpoint, load_checkpoint
from queryopt.train.network import QueryOpt
from queryopt.train.threads import torch_threads

if TYPE_CHECKING:
    from queryopt.export.folded import FoldedNetwork
    from queryopt.train.hash_network import HashNetwork

__all__ = ["OPSET", "ExportResult", "build_graph", "export_onnx", "model_card", "with_card"]

OPSET = 20
MODEL_NAME = "model.onnx"

_log = logging.getLogger(__name__)

_BACKEND = "onnxruntime"
_CHECKED_VIEWS = 100
"""Views at least that decide what is quantised, of long codes too."""

_TRAINING_OPERATORS = frozenset(
    {"Bernoulli", "Dropout", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
_MADE_BY = ("torch", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class ExportResult:
    """A model.onnx that was written.

    path, size: the file, and its bytes.
    card: what its metadata holds.
    fold: the multiply-adds that folding saved, None where it was left out.
    strip: the proof that what only training uses is gone.
    parity: the comparison on real pictures, of several backends that with most flipped bits; None where left out.
    pictures: in words, what was compared.
    replaced: the fingerprint of the model that lay there before, None where there was none.
    quantisation: what int8 quantised, None at other precisions.
    parities: the comparison in each backend.
    not_compared: backends that are installed and can't run the model here, with the reason.
    """

    path: Path
    size: int
    card: ModelCard
    fold: FoldReport | None
    strip: StripReport
    parity: ParityReport | None
    pictures: str
    replaced: str | None
    quantisation: QuantisationReport | None = None
    parities: tuple[ParityReport, ...] = ()
    not_compared: Mapping[str, str] = field(default_factory=dict)


def export_onnx(
    checkpoint: "Checkpoint | str | os.PathLike[str]",
    path: str | os.PathLike[str] | None = None,
    *,
    pictures: str | os.PathLike[str] | Sequence[PicturePath] | None = None,
    parity: bool = True,
    max_flip_rate: float | None = None,
    max_map_drop: float | None = None,
    precision: str = "fp32",
    calibrate: str | os.PathLike[str] | None = None,
    activations: str | None = None,
    backend: str | Sequence[str] | None = None,
    fold: bool = True,
    explain: bool = False,
    batch: int = 32,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Export a checkpoint to one self-describing model.onnx.

    checkpoint: a run folder, a checkpoint file, or what load_checkpoint gave.
    path: the file to write, or a folder for a model.onnx in it; by default model.onnx beside the checkpoint.
    pictures: a folder or paths for the parity gate; by default the run's own validation pictures.
    parity: False writes a model that was not compared on pictures; its card says so.
    max_flip_rate, max_map_drop: limits of the gate, a share and points; by default those of MAX_FLIP_RATES and
        MAX_MAP_DROPS for the precision.
    precision: one of PRECISIONS.
    calibrate: a folder of pictures for int8, by default some that the run was trained on.
    activations: of int8, "uint8" (for CPUs, the default) or "int8" (for TensorRT): see queryopt.export.quantize.
    backend: what the gate runs the model in, one or several of the runtime's, by default every one that would run it
        here; the limits hold in each.
    fold: export what queryopt.export.fold makes of the network, or its own parts (networks of other methods than
        queryopt have nothing that torch's exporter doesn't fold itself).
    explain: add the output `attention`.
    batch, threads: of the parity gate (None: all that torch and the process have).
    progress: see Progress.

    Nothing is written to `path` before everything is checked, and then in one step: a refused or interrupted export
    leaves what was there. Raises CheckpointError (the checkpoint), DataError (no pictures), ParityError (above
    max_flip_rate, or the strip is not exact), UsageError (path, or a value out of range), MissingError (packages).
    """
    options = ExportOptions(
        pictures=pictures,
        parity=parity,
        max_flip_rate=max_flip_rate,
        max_map_drop=max_map_drop,
        precision=precision,
        calibrate=calibrate,
        activations=activations,
        backend=backend,
        fold=fold,
        explain=explain,
        batch=batch,
        threads=threads,
    )
    _check_packages()
    options.check()
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint)
    return _export(loaded, _target(loaded, path), options, progress)


def _export(checkpoint: Checkpoint, target: Path, options: ExportOptions, progress: Progress | None) -> ExportResult:
    replaced = _existing(target)
    compared = parity_pictures(checkpoint, options.pictures, progress) if options.parity else None
    calibrating: list[PicturePath] = []
    if options.precision == "int8":
        calibrating = calibration_pictures(checkpoint, options.calibrate, CALIBRATION_PICTURES, progress)
    network = checkpoint.network()
    card = replace(model_card(network), precision=options.precision, label_depth=checkpoint.config.label_depth)
    quantisation: QuantisationReport | None = None
    with torch_threads(options.threads), _candidate(target) as candidate:

        def gate(model: onnx.ModelProto, card: ModelCard) -> GateResult:
            candidate.write_bytes(with_card(model, card))
            return GateResult() if compared is None else pass_gate(network, candidate, compared, options, progress)

        try:
            model, folding, strip = _proved_graph(network, candidate, card, options, progress)
            if options.precision == "int8":
                quantiser = _quantiser(model, calibrating, card, options, progress)
                model, quantisation, passed = _quantise_until_passed(quantiser, gate, card)
                card = replace(card, quantisation=quantisation.to_dict())
            else:
                model = model if options.precision == "fp32" else lower_precision(model, options.precision)
                passed = gate(model, card)
        except ParityError as error:
            raise ParityError(f"{display_path(target)}: no model was written: {error}") from None
    source = "none" if compared is None else compared.source
    if passed.worst is not None:
        described = {
            "max_flip_rate": options.flip_limit,
            "max_map_drop": options.map_limit,
            "source": source,
            "backends": [report.to_dict() for report in passed.reports.values()],
        }
        card = replace(card, parity=passed.worst.to_dict() | described)
    content = with_card(model, card)
    with replacing(target) as file:
        file.write(content)
    return ExportResult(
        path=target,
        size=len(content),
        card=card,
        fold=folding,
        strip=strip,
        parity=passed.worst,
        pictures=source,
        replaced=replaced,
        quantisation=quantisation,
        parities=tuple(passed.reports.values()),
        not_compared=passed.left_out,
    )


def _proved_graph(
    network: "HashNetwork", candidate: Path, card: ModelCard, options: ExportOptions, progress: Progress | None
) -> tuple[onnx.ModelProto, FoldReport | None, StripReport]:
    """The float32 graph, what folding saved, and the proof that the graph (it lies in `candidate`) is the network."""
    with (progress or no_progress)("export", 3, "steps") as advance:
        advance(0, "folding")
        foldable = network if options.fold and isinstance(network, QueryOpt) else None
        folded, folding = (None, None) if foldable is None else fold_network(foldable)
        advance(1, "tracing the graph")
        model = build_graph(folded or network, explain=options.explain)
        candidate.write_bytes(with_card(model, replace(card, precision="fp32")))
        advance(1, "proving that nothing of training is in it")
        with contextlib.closing(open_backend(candidate, _BACKEND, options.threads)) as runner:
            strip = check_strip(network, model, runner, folded)
        advance(1, "")
    return model, folding, strip


def _quantiser(
    model: onnx.ModelProto,
    pictures: Sequence[PicturePath],
    card: ModelCard,
    options: ExportOptions,
    progress: Progress | None,
) -> Quantiser:
    """Calibrated on the pictures' test crops. Views of them, as the gate compares them, decide what is quantised."""
    pixels = []
    for picture in pictures:
        with contextlib.suppress(ImageError):
            pixels.append(load_image(picture, card.preprocessing))
    if not pixels:
        raise DataError(f"none of {len(pictures):,} pictures for calibration can be read: give others with --calibrate")
    count = max(_CHECKED_VIEWS, math.ceil(CHECKED_BITS / card.bits))
    views = [view for _, view in parity_views(pictures, card.preprocessing, count, {})]
    return Quantiser(
        model,
        np.stack(pixels),
        options.threads,
        options.activations or ACTIVATIONS[0],
        progress,
        checked=np.stack(views),
        target_flip_rate=options.flip_limit / 2,
    )


def _quantise_until_passed(
    quantiser: Quantiser, gate: Callable[[onnx.ModelProto, ModelCard], GateResult], card: ModelCard
) -> tuple[onnx.ModelProto, QuantisationReport, GateResult]:
    """Quantise; where the gate refuses, again with more layers in float32, until it doesn't or no more may be kept."""
    least_kept = refusals = 0
    while True:
        model, report = quantiser.quantise(least_kept)
        report = replace(report, refusals=refusals)
        try:
            return model, report, gate(model, replace(card, quantisation=report.to_dict()))
        except ParityError as error:
            if len(report.kept) >= quantiser.most:
                raise
            refusals, least_kept = refusals + 1, min(max(1, 2 * len(report.kept)), quantiser.most)
            _log.warning("%s: again with at least %d layers in float32", error, least_kept)


def build_graph(network: "HashNetwork | FoldedNetwork", explain: bool = False) -> onnx.ModelProto:
    """The ONNX graph of the inference network, or of what `fold` made of it, without a model card.

    Input `images` uint8 [batch, s, s, 3]; outputs `codes` uint8 [batch, ceil(bits / 8)], `logits` float32
    [batch, bits], and with `explain` `attention` float32 [batch, bits, tokens]. Checked with onnx.checker; it holds no
    operator of training, no local function, no external data and nothing of the machine that made it.
    """
    size = network.config.image_size
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    with torch.no_grad():
        program = torch.onnx.export(
            InferenceNetwork(network, explain).eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["images"],
            output_names=["codes", "logits", *(["attention"] if explain else [])],
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    _forget_origin(model)
    _cast_first(model.graph)
    onnx.checker.check_model(model, full_check=True)
    left = sorted(
        {node.op_type for node in model.graph.node if node.op_type in _TRAINING_OPERATORS}
        | {f.name for f in model.functions}
    )
    if left:
        raise RuntimeError(f"the exporter of torch {torch.__version__} left {', '.join(left)} in the graph")
    return model


def model_card(network: "HashNetwork") -> ModelCard:
    """The card of a network's float32 model, without a parity report."""
    return replace(
        network_card(network),
        versions={"queryopt": __version__, **{name: _version(name) for name in _MADE_BY}},
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def with_card(model: onnx.ModelProto, card: ModelCard) -> bytes:
    """The bytes of a model.onnx: a graph with its card and their digest as metadata. `model` itself is left without."""
    onnx.helper.set_model_props(model, card.to_metadata())
    digest = content_digest(model.SerializeToString(deterministic=True))
    onnx.helper.set_model_props(model, card.to_metadata() | {DIGEST_KEY: digest})
    content: bytes = model.SerializeToString(deterministic=True)
    del model.metadata_props[:]
    return content


def _target(checkpoint: Checkpoint, path: str | os.PathLike[str] | None) -> Path:
    target = checkpoint.folder if path is None else Path(path)
    if target.is_dir():
        target = target / MODEL_NAME
    if target.suffix.lower() != ".onnx":
        raise UsageError(
            f"{display_path(target)}: a model's name ends in .onnx; give such a name, or a folder that exists"
        )
    if not target.parent.is_dir():
        raise UsageError(f"{display_path(target)}: there is no folder {display_path(target.parent)}: make it first")
    return target


def _existing(target: Path) -> str | None:
    """The fingerprint of the model at `target`, None where nothing is there; UsageError where it is something else."""
    if not target.exists():
        return None
    try:
        if not target.is_file():
            raise OSError("not a regular file")
        model = onnx.load(target, load_external_data=False)
        return ModelCard.from_metadata({p.key: p.value for p in model.metadata_props}, display_path(target)).fingerprint
    except Exception:  # protobuf's, the system's and ours: whatever it is, it is not a model of ours
        raise UsageError(
            f"{display_path(target)}: the file there is no model that this queryopt knows: move it away, or choose "
            "another --out"
        ) from None


@contextlib.contextmanager
def _candidate(target: Path) -> Iterator[Path]:
    """A file beside `target` for the model under test; it is always removed."""
    with contextlib.ExitStack() as stack:
        try:
            candidate = stack.enter_context(temporary_beside(target, "onnx"))
        except OSError as error:
            raise UsageError(f"{display_path(target)}: can't be written: {error.strerror}") from None
        yield candidate


def _forget_origin(model: onnx.ModelProto) -> None:
    """Take out stack traces (paths of this machine), module names and shapes; name queryopt as producer."""
    model.producer_name, model.producer_version = "queryopt", __version__
    model.doc_string = ""
    model.graph.name = "queryopt"
    model.graph.doc_string = ""
    del model.graph.value_info[:]
    for item in (model.graph, *model.graph.input, *model.graph.output, *model.graph.initializer, *model.graph.node):
        item.doc_string = ""
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]


def _cast_first(graph: onnx.GraphProto) -> None:
    """Let nothing but the Cast read `images`: the exporter takes the batch size from it, and TensorRT allows a uint8
    input no other operator than a Cast.
    """
    cast = next(node for node in graph.node if node.op_type == "Cast" and node.input[0] == "images")
    others = [node for node in graph.node if node.output[0] != cast.output[0]]
    nodes = [cast, *others]
    for node in others:
        for at, name in enumerate(node.input):
            if name == "images":
                node.input[at] = cast.output[0]
    ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(ordered)


def _version(package: str) -> str:
    """What the module itself says: it may have come with a distribution of another name (onnxruntime-gpu)."""
    return str(import_module(package).__version__)


def _check_packages() -> None:
    version = onnx.__version__
    if tuple(int(part) for part in version.split(".")[:2]) < (1, 21):
        raise MissingError(
            f"onnx {version} follows external data out of a model's folder (CVE-2026-34445): pip install 'onnx>=1.21'"
        )
