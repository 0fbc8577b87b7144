"""Which backends the parity gate runs a model in, and what it says where some of them agree and others don't."""

import contextlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from queryopt.errors import MissingError, ParityError, UsageError
from queryopt.export.parity import ParityReport, ParitySide, compare_sides, open_side
from queryopt.export.pictures import ParityPictures
from queryopt.export.torch_backend import TorchBackend
from queryopt.progress import Progress
from queryopt.runtime.backends import has_gpu
from queryopt.runtime.backends.onnxruntime import has_cuda_provider
from queryopt.text import display_path

if TYPE_CHECKING:
    from queryopt.train.hash_network import HashNetwork

__all__ = ["compare_serving", "open_serving", "require_all"]


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


def compare_serving(
    network: "HashNetwork",
    model: str | os.PathLike[str],
    pictures: ParityPictures,
    backends: str | Sequence[str] | None,
    *,
    batch: int,
    threads: int | None,
    progress: Progress | None,
) -> tuple[dict[str, ParityReport], dict[str, str]]:
    """A network beside the model.onnx that was made of it, in each backend: reports, and the reasons of those left out.

    backends, and what it raises: see open_serving and check_parity.
    """
    with contextlib.ExitStack() as stack:
        sides, left_out = open_serving(model, backends, threads, stack)
        reports = compare_sides(
            ParitySide("the network", TorchBackend(network, threads)),
            list(sides.values()),
            pictures.paths,
            labels=pictures.labels,
            batch=batch,
            progress=progress,
        )
    return dict(zip(sides, reports, strict=True)), left_out


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


def _installed() -> list[str]:
    names = ["onnxruntime"]
    if importlib.util.find_spec("openvino") is not None:
        names.append("openvino")
    if has_cuda_provider() and has_gpu():
        names.append("cuda")
    return names
