"""Engines built from a model.onnx: strongly typed, so that an engine's precision is the graph's.

What is used of the API is in TensorRT 10 and 11 and in TensorRT-RTX alike.
"""

import datetime
import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from queryopt.card import ModelCard
from queryopt.errors import MismatchError, MissingError, ModelError, UsageError
from queryopt.files import replacing
from queryopt.runtime.cuda.driver import find_gpu
from queryopt.runtime.onnx_file import read_card, read_onnx
from queryopt.runtime.tensorrt.fit import fitting_engine
from queryopt.runtime.tensorrt.flavours import Flavour, load_flavour
from queryopt.runtime.tensorrt.kernel_cache import cache_path
from queryopt.runtime.tensorrt.manifest import (
    Manifest,
    describe_plan,
    host,
    manifest_path,
    onnx_beside,
    read_manifest,
)
from queryopt.runtime.tensorrt.messages import collect_messages, stdout_kept_clean
from queryopt.runtime.tensorrt.profile import DEFAULT_PROFILE, Profile
from queryopt.text import did_you_mean, display_path

__all__ = [
    "BuiltEngine",
    "build_engine",
    "check_target",
    "parse_bytes",
    "place_engine",
    "rebuild_engine",
    "refresh_engine",
]

DEFAULT_TARGETS = ("sm_80", "sm_86", "sm_89", "sm_120", "sm_121")
"""What a TensorRT-RTX engine is built for unless told otherwise. Turing, sm_75, has to be asked for."""

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class BuiltEngine:
    """A model.plan that was written.

    path: the plan. manifest: what was written beside it. seconds: what the build took.
    """

    path: Path
    manifest: Manifest
    seconds: float


def build_engine(
    onnx: str | os.PathLike[str],
    plan: str | os.PathLike[str] | None = None,
    *,
    profile: Profile | str | Sequence[int] = DEFAULT_PROFILE,
    workspace: int | str | None = None,
    timing_cache: str | os.PathLike[str] | None = None,
    targets: Sequence[str] = (),
    flavour: str = "auto",
) -> BuiltEngine:
    """Build a TensorRT engine of a model.onnx and write it with its manifest.

    onnx: a model of qo-export, of any precision: the engine has the graph's, and fp32 means fp32 (no TF32).
    plan: the file to write, by default model.plan beside a model.onnx.
    profile: smallest, best and largest batch.
    workspace: bytes of GPU memory, or text such as "4G", that a layer may use as scratch; None leaves it to TensorRT.
    timing_cache: a file with what earlier builds measured; read where it is there, and written.
    targets: compute capabilities such as "sm_86"; for TensorRT-RTX only, which builds without a GPU (default:
        DEFAULT_TARGETS); TensorRT builds for the GPU that it runs on.
    flavour: one of FLAVOURS.

    Raises UsageError (an argument), ModelError (the model.onnx, or what TensorRT says it can't build), MissingError
    (no such package; TensorRT without a GPU).
    """
    source = Path(onnx)
    target = source.with_suffix(".plan") if plan is None else Path(plan)
    check_target(target)
    wanted = Profile.of(profile)
    limit = None if workspace is None else parse_bytes(workspace)
    return _make(source, target, wanted, limit, timing_cache, targets, flavour)


def check_target(plan: Path) -> None:
    """Raise UsageError where an engine may not be written: another ending, no folder, something of somebody else's."""
    _check_target(plan)
    if plan.is_file() and plan.stat().st_size and not manifest_path(plan).is_file():
        raise UsageError(
            f"{display_path(plan)}: what is there has no manifest, so qo-export did not write it: move it away, or "
            "choose another name"
        )


def place_engine(built: BuiltEngine, plan: Path, manifest: Manifest) -> BuiltEngine:
    """Move an engine that was built in another folder of the same file system into its place, with this manifest."""
    # Where the process is killed between the two, the old manifest doesn't vouch for the new plan.
    os.replace(built.path, plan)
    manifest.write(plan)
    return BuiltEngine(plan, manifest, built.seconds)


def _make(
    source: Path,
    target: Path,
    profile: Profile,
    workspace: int | None,
    timing_cache: str | os.PathLike[str] | None,
    targets: Sequence[str],
    flavour: str,
) -> BuiltEngine:
    """As build_engine, over whatever lies there."""
    _check_target(target)
    content = read_onnx(source)
    card = read_card(content, display_path(source))
    if (card.quantisation or {}).get("activations") == "uint8":
        raise ModelError(
            f"{display_path(source)}: its activations are quantised to uint8, for CPUs, and TensorRT takes int8 alone: "
            "export it again with qo-export --precision int8 --engine (or --activations int8)"
        )
    package = load_flavour(flavour)
    chosen = _targets(package, targets)
    if timing_cache is not None and package.portable:
        raise UsageError(f"{package.text} measures nothing when it builds, so it has no timing cache: leave it out")
    # TensorRT itself may crash the process where there is no driver.
    gpu = None if package.portable else find_gpu()
    started = time.monotonic()
    built = _build(package, content, display_path(source), card, profile, workspace, timing_cache, chosen)
    seconds = time.monotonic() - started
    size, digest, header = describe_plan(built)
    manifest = Manifest(
        flavour=package.name,
        version=package.version,
        host=host(),
        gpu=None if gpu is None else gpu.name,
        capabilities=tuple(_capability(name) for name in chosen) if gpu is None else (gpu.capability,),
        profile=profile,
        workspace=workspace,
        plan_bytes=size,
        plan_sha256=digest,
        header=header,
        onnx_sha256=hashlib.sha256(content).hexdigest(),
        card=card,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    # What was compiled for the engine that lay there is of no use to this one.
    with suppress(OSError):
        cache_path(target).unlink(missing_ok=True)
    # Where the process is killed between the two, the old manifest doesn't vouch for the new plan.
    with replacing(target) as file:
        file.write(built)
    manifest.write(target)
    return BuiltEngine(target, manifest, seconds)


def rebuild_engine(
    plan: str | os.PathLike[str], *, timing_cache: str | os.PathLike[str] | None = None, flavour: str = "auto"
) -> BuiltEngine:
    """Build an engine again, here, from the model.onnx beside it, with the profile and workspace of its manifest.

    Without a manifest (or with one that can't be read) it is built as build_engine does by default, over whatever lies
    there. MismatchError where the model.onnx beside it is of another checkpoint; else as build_engine.
    """
    target, source = Path(plan), onnx_beside(plan)
    if not source.is_file():
        raise ModelError(
            f"{display_path(target)}: there is no {source.name} beside it to build it from: copy it there from the "
            "machine that exported it"
        )
    old = None
    with suppress(ModelError):
        old = read_manifest(target)
    card = read_card(read_onnx(source), display_path(source))
    if old is not None and old.card.fingerprint != card.fingerprint:
        raise MismatchError(
            f"{display_path(source)}: of another checkpoint (fingerprint {card.fingerprint[:12]}…) than "
            f"{display_path(target)} ({old.card.fingerprint[:12]}…): its codes would be others; to have them all the "
            f"same, delete {manifest_path(target).name} first"
        )
    package = load_flavour(flavour)
    profile, workspace = (DEFAULT_PROFILE, None) if old is None else (old.profile, old.workspace)
    return _make(source, target, profile, workspace, timing_cache, _rebuild_targets(package, old), package.name)


def refresh_engine(plan: str | os.PathLike[str]) -> BuiltEngine | None:
    """Rebuild an engine where it can't be run here as it is; None where it can. Raises as rebuild_engine.

    MissingError where there is no GPU: then no engine would do.
    """
    find_gpu()
    try:
        fitting_engine(plan)
    except MissingError:  # its package, and the other one may be there
        pass
    except (ModelError, MismatchError):
        pass
    else:
        return None
    return rebuild_engine(plan)


def parse_bytes(value: int | str) -> int:
    """A size in bytes from a number or text such as "4G", "512M" or "4GiB" (powers of 1024). UsageError for others."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    text = str(value).strip().upper().removesuffix("IB").removesuffix("B")
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS and text else (text, "")
    try:
        size = int(float(number) * _UNITS[unit])
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise UsageError(f"{value!r} is no size: give bytes, or a number with K, M or G, e.g. 4G")
    return size


def _rebuild_targets(package: Flavour, old: Manifest | None) -> tuple[str, ...]:
    """What the old engine was built for by name, and the GPU that is here; where there is neither, the default."""
    if not package.portable:
        return ()
    named = set(old.capabilities) if old is not None and old.gpu is None else set()
    with suppress(MissingError):
        named.add(find_gpu().capability)
    return tuple(f"sm_{major}{minor}" for major, minor in sorted(named))


def _check_target(target: Path) -> None:
    where = display_path(target)
    if target.suffix.lower() != ".plan":
        raise UsageError(f"{where}: an engine's name ends in .plan")
    if not target.parent.is_dir():
        raise UsageError(f"{where}: there is no folder {display_path(target.parent)}: make it first")
    if target.exists() and not target.is_file():
        raise UsageError(f"{where}: what is there is no file: choose another name")


def _targets(package: Flavour, given: Sequence[str]) -> tuple[str, ...]:
    """The compute capabilities to build for; none for a package that builds for the GPU that it runs on."""
    if not package.portable:
        if given:
            raise UsageError(
                f"{package.text} builds for the GPU that it runs on, so targets are not for it: build there without "
                "them, or take the flavour tensorrt_rtx"
            )
        return ()
    known = sorted(
        (f"sm_{name[2:]}" for name in dir(package.module.ComputeCapability) if name[:2] == "SM" and name[2:].isdigit()),
        key=_capability,
    )
    chosen = tuple(given) or tuple(name for name in DEFAULT_TARGETS if name in known)
    for name in chosen:
        if name not in known:
            raise UsageError(
                f"{package.text} builds for no target {name!r}: it has {', '.join(known)}{did_you_mean(name, known)}"
            )
    return tuple(sorted(set(chosen), key=_capability))


def _capability(target: str) -> tuple[int, int]:
    """(8, 6) of "sm_86"."""
    number = int(target.removeprefix("sm_"))
    return number // 10, number % 10


def _build(
    package: Flavour,
    content: bytes,
    where: str,
    card: ModelCard,
    profile: Profile,
    workspace: int | None,
    timing_cache: str | os.PathLike[str] | None,
    targets: Sequence[str],
) -> bytes:
    trt = package.module
    messages = collect_messages(trt)
    builder = trt.Builder(messages)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, messages)
    if not parser.parse(content):
        errors = [parser.get_error(number) for number in range(parser.num_errors)]
        reasons = [" ".join(f"{error.node_operator()} {error.node_name()} {error.desc()}".split()) for error in errors]
        raise ModelError(
            f"{where}: {package.text} can't read it ({'; '.join(reasons)[:600] or messages.errors()}): export it again "
            "with qo-export"
        )
    size = card.preprocessing.image_size
    shapes = builder.create_optimization_profile()
    shapes.set_shape("images", *((batch, size, size, 3) for batch in (profile.smallest, profile.best, profile.largest)))
    config = builder.create_builder_config()
    if config.add_optimization_profile(shapes) < 0:
        raise ModelError(
            f"{where}: {package.text} refuses the profile {profile} of `images` [batch, {size}, {size}, 3] "
            f"({messages.errors()}): export it again with qo-export"
        )
    # On by default, it would round the factors of fp32 products to 10 bits: the graph says what precision there is.
    config.clear_flag(trt.BuilderFlag.TF32)
    if workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    if package.portable:
        # So that a run allocates nothing and can be recorded in a CUDA graph.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if targets:
        config.num_compute_capabilities = len(targets)
        for number, name in enumerate(targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{name[3:]}"), number)
    if timing_cache is not None:
        _load_timing_cache(config, Path(timing_cache), package)
    with stdout_kept_clean():
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        target = f" for {', '.join(targets)}" if targets else ""
        raise ModelError(
            f"{where}: {package.text} can't build an engine of it{target} ({messages.errors()}): "
            f"{_advice(messages.errors(), targets)}"
        )
    if timing_cache is not None:
        with replacing(timing_cache) as file:
            file.write(bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def _advice(reason: str, targets: Sequence[str]) -> str:
    if "memory" in reason.lower() or "workspace" in reason.lower():
        return "give more --workspace, or a --profile with a smaller largest batch"
    if "sm_75" in targets:
        return (
            "for Turing, sm_75, it has no products in fp32: leave that target out, or build with tensorrt on that GPU"
        )
    return "export the model in another precision, or leave out options of the build to find the one that is in the way"


def _load_timing_cache(config: Any, path: Path, package: Flavour) -> None:
    """Give the builder what earlier builds measured. A file of another GPU or version is refused, not overwritten."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    except OSError as error:
        raise UsageError(f"{display_path(path)}: the timing cache can't be read: {error.strerror}") from None
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        raise UsageError(
            f"{display_path(path)}: no timing cache that {package.text} can use on this GPU: it is damaged, or of "
            "another version or GPU; delete it, or name another file"
        )
