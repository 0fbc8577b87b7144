"""model.plan.json: what a model.plan is, written beside it, and read before TensorRT sees a byte of the plan.

The plan itself is what TensorRT gave, so that trtexec loads it too. An engine is executable code: it runs only where a
manifest vouches for its every byte, and only on what it was built for.
"""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from queryopt.card import ModelCard
from queryopt.errors import MismatchError, ModelError
from queryopt.files import replacing
from queryopt.runtime.tensorrt.flavours import flavour_text
from queryopt.runtime.tensorrt.profile import Profile
from queryopt.text import counted, display_path, parse_json

__all__ = [
    "MANIFEST_VERSION",
    "Manifest",
    "describe_plan",
    "host",
    "manifest_path",
    "onnx_beside",
    "read_manifest",
    "read_plan",
    "rebuild_hint",
    "title",
]

MANIFEST_VERSION = 1
"""Version of the manifest. A reader refuses newer ones."""

_LARGEST_MANIFEST = 1 << 20
_HEADER = 8


def host() -> str:
    """The system and processor that plans belong to: "linux-x86_64"."""
    return f"{platform.system()}-{platform.machine()}".lower()


def manifest_path(plan: str | os.PathLike[str]) -> Path:
    """Where the manifest of a plan lies: beside it, its name followed by .json."""
    path = Path(plan)
    return path.with_name(path.name + ".json")


def onnx_beside(plan: str | os.PathLike[str]) -> Path:
    """Where the model.onnx that a plan is rebuilt from lies: beside it, with that ending."""
    return Path(plan).with_suffix(".onnx")


@dataclass(frozen=True)
class Manifest:
    """What a model.plan is.

    flavour: tensorrt or tensorrt_rtx.
    version: of that package, exactly.
    host: system and processor.
    gpu: name of the GPU that it was built on and for, None where it was built for named compute capabilities.
    capabilities: (major, minor) that it runs on.
    profile: its batches.
    workspace: limit in bytes while it was built, None for none.
    plan_bytes, plan_sha256, header: of the plan; the header is how it begins.
    onnx_sha256: of the model.onnx that it was built from.
    card: that model's card.
    parity: how the engine's own codes compared with the network's (queryopt.export), None where they were not compared;
        parity_note then says why, in words.
    """

    flavour: str
    version: str
    host: str
    gpu: str | None
    capabilities: tuple[tuple[int, int], ...]
    profile: Profile
    workspace: int | None
    plan_bytes: int
    plan_sha256: str
    header: bytes
    onnx_sha256: str
    card: ModelCard
    created: str
    parity: Mapping[str, Any] | None = None
    parity_note: str = "built, and not compared"

    @property
    def built_for(self) -> str:
        """The GPUs, for people: "NVIDIA L4 (compute capability 8.9)", "compute capabilities 8.6 and 8.9"."""
        names = [f"{major}.{minor}" for major, minor in self.capabilities]
        if self.gpu is not None:
            return f"{self.gpu} (compute capability {', '.join(names)})"
        return f"compute capability {names[0]}" if len(names) == 1 else f"compute capabilities {', '.join(names)}"

    def to_json(self) -> str:
        """The manifest's text."""
        values = {
            "format_version": MANIFEST_VERSION,
            "flavour": self.flavour,
            "version": self.version,
            "host": self.host,
            "gpu": self.gpu,
            "capabilities": [f"{major}.{minor}" for major, minor in self.capabilities],
            "precision": self.card.precision,
            "profile": asdict(self.profile),
            "workspace": self.workspace,
            "plan": {"bytes": self.plan_bytes, "sha256": self.plan_sha256, "header": self.header.hex()},
            "onnx": {"sha256": self.onnx_sha256},
            "created": self.created,
            "parity": self.parity,
            "parity_note": self.parity_note,
            "card": json.loads(self.card.to_json()),
        }
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> "Manifest":
        """Read a manifest; `where` names it in errors. ModelError for a damaged or newer one."""
        try:
            values = parse_json(text)
            version = values["format_version"]
            if not isinstance(version, int) or version < 1:
                raise ValueError(f"format version {version!r}")
            if version > MANIFEST_VERSION:
                raise ModelError(
                    f"{where}: format version {version}, but this queryopt reads up to {MANIFEST_VERSION}: upgrade "
                    "queryopt, or build the engine again with qo-infer --rebuild"
                )
            card = ModelCard.from_json(json.dumps(values["card"]), where)
            plan = values["plan"]
            manifest = cls(
                flavour=_text(values, "flavour"),
                version=_text(values, "version"),
                host=_text(values, "host"),
                gpu=None if values["gpu"] is None else _text(values, "gpu"),
                capabilities=tuple(_capability(name) for name in values["capabilities"]),
                profile=Profile(*(values["profile"][field.name] for field in fields(Profile))),
                workspace=None if values["workspace"] is None else int(values["workspace"]),
                plan_bytes=int(plan["bytes"]),
                plan_sha256=_digest(plan),
                header=bytes.fromhex(plan["header"]),
                onnx_sha256=_digest(values["onnx"]),
                card=card,
                created=_text(values, "created"),
                parity=_parity(values),
                parity_note=_text({"parity_note": "", **values}, "parity_note"),
            )
            if not manifest.capabilities:
                raise ValueError("no compute capability")
        except ModelError:
            raise
        except Exception as error:  # whatever a damaged file makes of the reading
            raise ModelError(
                f"{where}: the manifest is damaged ({error!r}): build the engine again with qo-infer --rebuild"
            ) from None
        return manifest

    def write(self, plan: Path) -> None:
        """Write it beside a plan, in one step."""
        with replacing(manifest_path(plan)) as file:
            file.write(self.to_json().encode())

    def require_batch(self, plan: Path, batch: int) -> None:
        """MismatchError where the engine can't take batches of this size."""
        if batch > self.profile.largest:
            raise MismatchError(
                f"{display_path(plan)}: batches of {batch:,}, and this engine takes {self.profile.smallest:,} to "
                f"{self.profile.largest:,} images in a run: take --batch {self.profile.largest}, or build it again "
                f"with qo-export --engine --profile {self.profile.smallest},{self.profile.best},{batch}"
            )


def read_manifest(plan: str | os.PathLike[str]) -> Manifest:
    """The manifest beside a plan. ModelError where there is none, or a damaged or newer one."""
    path, where = manifest_path(plan), display_path(manifest_path(plan))
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST_MANIFEST + 1)
    except FileNotFoundError:
        if not Path(plan).exists():
            raise ModelError(f"{display_path(plan)}: no such engine: {rebuild_hint(plan)}") from None
        raise ModelError(
            f"{display_path(plan)}: there is no manifest {path.name} beside it, and an engine without one isn't run "
            f"(it is executable code, and nothing says what it is): {rebuild_hint(plan)}"
        ) from None
    except OSError as error:
        raise ModelError(f"{where}: can't be read: {error.strerror}") from None
    if len(content) > _LARGEST_MANIFEST:
        raise ModelError(f"{where}: too large for a manifest: {rebuild_hint(plan)}")
    return Manifest.from_json(content.decode(errors="replace"), where)


def read_plan(plan: str | os.PathLike[str], manifest: Manifest) -> bytes:
    """A plan's bytes. ModelError where they are not those that the manifest describes."""
    path, where = Path(plan), display_path(plan)
    if not path.is_file():
        raise ModelError(f"{where}: no such engine: {rebuild_hint(plan)}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{where}: can't be read: {error.strerror}") from None
    if not content:
        raise ModelError(f"{where}: zero bytes: {rebuild_hint(plan)}")
    start = content[: len(manifest.header)]
    if start != manifest.header[: len(content)]:
        raise ModelError(f"{where}: no plan of TensorRT: it begins with {start!r}: {rebuild_hint(plan)}")
    if len(content) != manifest.plan_bytes:
        what = "it is cut off" if len(content) < manifest.plan_bytes else "it is another one"
        raise ModelError(
            f"{where}: {counted(len(content), 'byte', 'bytes')}, but its manifest says "
            f"{manifest.plan_bytes:,}: {what}; {rebuild_hint(plan)}"
        )
    if hashlib.sha256(content).hexdigest() != manifest.plan_sha256:
        raise ModelError(
            f"{where}: its SHA-256 is not its manifest's: it was damaged, or is another engine (an engine is "
            f"executable code: find out which); {rebuild_hint(plan)}"
        )
    return content


def describe_plan(content: bytes) -> tuple[int, str, bytes]:
    """Size, SHA-256 and beginning of a plan, for its manifest."""
    return len(content), hashlib.sha256(content).hexdigest(), content[:_HEADER]


def title(manifest: Manifest) -> str:
    """The package that built an engine, for people: "TensorRT 11.4.0.106"."""
    return flavour_text(manifest.flavour, manifest.version)


def rebuild_hint(plan: str | os.PathLike[str]) -> str:
    """How to get an engine that fits, to end a message with."""
    source = onnx_beside(plan)
    if source.is_file():
        return f"build it again here: qo-infer --rebuild, or qo-export --onnx {display_path(source)} --engine"
    return (
        f"put the model.onnx that it was built from beside it as {source.name}, and build it again: "
        f"qo-infer --rebuild, or qo-export --onnx {source.name} --engine"
    )


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} {value!r}")
    return value


def _parity(values: Mapping[str, Any]) -> Mapping[str, Any] | None:
    parity = values.get("parity")  # manifests of earlier versions have none
    if parity is not None and not isinstance(parity, dict):
        raise ValueError(f"parity {parity!r}")
    return parity


def _digest(values: Mapping[str, Any]) -> str:
    value = _text(values, "sha256")
    if len(bytes.fromhex(value)) != 32:
        raise ValueError(f"SHA-256 {value!r}")
    return value


def _capability(name: str) -> tuple[int, int]:
    major, minor = name.split(".")
    return int(major), int(minor)
