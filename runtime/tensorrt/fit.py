"""Whether an engine may be run here: everything that its manifest can say before TensorRT is touched."""

import os
from dataclasses import dataclass
from pathlib import Path

from queryopt.errors import MismatchError, MissingError
from queryopt.runtime.cuda.driver import Gpu, find_gpu
from queryopt.runtime.tensorrt.flavours import Flavour, load_flavour
from queryopt.runtime.tensorrt.manifest import Manifest, host, read_manifest, read_plan, rebuild_hint, title
from queryopt.text import display_path

__all__ = ["FittingEngine", "fitting_engine", "mismatches", "why_not_here"]


@dataclass(frozen=True)
class FittingEngine:
    """An engine that may be run here.

    path: of the plan.
    manifest: what it is.
    plan: its bytes.
    flavour: the package that runs it.
    gpu: where.
    """

    path: Path
    manifest: Manifest
    plan: bytes
    flavour: Flavour
    gpu: Gpu


def fitting_engine(plan: str | os.PathLike[str]) -> FittingEngine:
    """Read an engine that is to be run here.

    Raises ModelError where it is not what its manifest says, or has none; MissingError where its package or a GPU is
    not there; MismatchError where it was built by another version, or for another GPU. Each says what to do.
    """
    manifest = read_manifest(plan)
    content = read_plan(plan, manifest)
    try:
        flavour = load_flavour(manifest.flavour)
    except MissingError as error:
        raise MissingError(f"{display_path(plan)}: built by {title(manifest)}: {error}") from None
    wrong = mismatches(manifest, flavour)
    # Without a driver TensorRT crashes the process: nothing of it is made before this has found one.
    try:
        gpu = find_gpu()
    except MissingError as error:
        if not wrong:
            raise MissingError(f"{display_path(plan)}: {error}") from None
    else:
        wrong = mismatches(manifest, flavour, gpu)
    if wrong:
        raise MismatchError(f"{display_path(plan)}: {'; '.join(wrong)}: {rebuild_hint(plan)}")
    return FittingEngine(Path(plan), manifest, content, flavour, gpu)


def why_not_here(manifest: Manifest) -> str | None:
    """Why an engine of this manifest can't be run here, in words; None where it should run."""
    try:
        flavour, gpu = load_flavour(manifest.flavour), find_gpu()
    except MissingError as error:
        return str(error)
    return "; ".join(mismatches(manifest, flavour, gpu)) or None


def mismatches(manifest: Manifest, flavour: Flavour, gpu: Gpu | None = None) -> list[str]:
    """What doesn't fit, each in words: package and version, system, and (where it is given) the GPU."""
    wrong = []
    if (manifest.flavour, manifest.version) != (flavour.name, flavour.version):
        wrong.append(f"it was built by {title(manifest)}, and {flavour.text} is installed")
    if manifest.host != host():
        wrong.append(f"it was built on {manifest.host}, and this is {host()}")
    if gpu is None:
        return wrong
    if manifest.gpu not in (None, gpu.name) or gpu.capability not in manifest.capabilities:
        wrong.append(f"it was built for {manifest.built_for}, and this GPU is {gpu.text}")
    return wrong
