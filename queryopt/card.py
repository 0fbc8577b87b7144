"""The model card: typed metadata that travels with a model, an index and a result.

A model.onnx holds it in `metadata_props` (keys FORMAT_KEY and CARD_KEY), an index.db in its meta table, a model.plan in
the manifest beside it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from queryopt.codes import MAX_BITS, check_bits
from queryopt.errors import ModelError
from queryopt.text import parse_json

__all__ = ["CARD_KEY", "FORMAT_KEY", "FORMAT_VERSION", "RESIZES", "ModelCard", "Preprocessing", "fingerprint"]

FORMAT_VERSION = 3
"""Version of the model.onnx contract. A reader refuses newer ones. A card is written as the oldest that can say it:
version 1 crops pictures, version 2 has the resize rules of RESIZES, version 3 labels deeper than the first folder.
"""
FORMAT_KEY = "queryopt.format_version"
CARD_KEY = "queryopt.card"

_MAX_SIZE = 1 << 14
"""No picture is resized to more pixels a side: a damaged card takes no memory."""

RESIZES = ("crop", "pad")
"""How a picture becomes a square: its middle is cut out, or the whole of it lies on a square of one colour."""

_CODE_CONTRACT = "bit i = logit i >= 0; little-endian; padding zero"


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the network's input, uint8 sRGB [image_size, image_size, 3].

    resize "crop": the shorter side is resized to `resize_size` (bilinear, antialiased) and the middle is cut out.
    resize "pad": the longer side is resized to image_size, which resize_size equals, and the picture lies in the middle
    of a square of the colour `background` (sRGB, 0 to 255). Inside the graph it becomes (x / 255 - mean) / std.
    """

    image_size: int
    resize_size: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    resize: str = "crop"
    background: tuple[int, int, int] = (255, 255, 255)

    @classmethod
    def for_size(cls, image_size: int, resize: str = "crop", **rest: Any) -> "Preprocessing":
        """The paper's rule, scaled (resize the shorter side to round(256 s / 224), crop s), or the whole picture.

        rest: mean, std, background.
        """
        return cls(image_size, round(256 * image_size / 224) if resize == "crop" else image_size, resize=resize, **rest)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Read what to_dict wrote. KeyError, TypeError for what is missing or of another type."""
        lists = {name: tuple(values[name]) for name in ("mean", "std", "background") if name in values}
        plain = {name: values[name] for name in ("image_size", "resize_size", "resize") if name in values}
        return cls(**{**plain, **lists})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON. A crop has no `resize` and no `background`, as in format version 1."""
        values = asdict(self)
        return {k: v for k, v in values.items() if self.resize != "crop" or k not in ("resize", "background")}


@dataclass(frozen=True)
class ModelCard:
    """What a model is: code length, preprocessing, origin, and how its export was checked.

    logit_scale is |w|_2 of the head, the largest possible |logit|. `fingerprint` is equal for every fold, precision and
    backend of one checkpoint. `parity` is the export's parity report, None where there was none. `versions` maps a
    package to the version that made the model.
    """

    bits: int
    preprocessing: Preprocessing
    backbone: str
    precision: str
    logit_scale: float
    fingerprint: str
    method: str = "queryopt"
    parity: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    quantisation: Mapping[str, Any] | None = None
    """Of an int8 model: how many pictures calibrated, which layers stayed in float32."""
    created: str = ""
    """UTC, ISO 8601."""
    label_depth: int = 1
    """How many folders below the root name a picture's class: see LabelRule. No code depends on it, nor does the
    fingerprint.
    """
    format_version: int = 1
    """Of the contract: the oldest that can say all this."""

    def __post_init__(self) -> None:
        oldest = 3 if self.label_depth != 1 else 2 if self.preprocessing.resize != "crop" else 1
        object.__setattr__(self, "format_version", oldest)

    def to_json(self) -> str:
        """The card as one line of JSON."""
        values = {**asdict(self), "preprocessing": self.preprocessing.to_dict()}
        if self.label_depth == 1:  # as in the versions before
            del values["label_depth"]
        return json.dumps(values, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, source: str) -> "ModelCard":
        """Read a card; `source` names where it came from in errors. ModelError for a damaged or newer one."""
        try:
            values = parse_json(text)
            version = values["format_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{source}: the model card is damaged ({error!r}): export the model again with qo-export"
            ) from None
        _check_version(version, source)
        try:
            values["preprocessing"] = Preprocessing.from_dict(values["preprocessing"])
            known = {f.name for f in fields(cls)}
            card = cls(**{k: v for k, v in values.items() if k in known})
            card._check(source)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ModelError(
                f"{source}: the model card is damaged ({error!r}): export the model again with qo-export"
            ) from None
        return card

    def to_metadata(self) -> dict[str, str]:
        """The card as the metadata_props of a model.onnx."""
        return {FORMAT_KEY: str(self.format_version), CARD_KEY: self.to_json()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: str) -> "ModelCard":
        """Read the card from metadata_props. ModelError where there is none, or of a newer format."""
        if FORMAT_KEY not in metadata or CARD_KEY not in metadata:
            raise ModelError(
                f"{source}: no queryopt model card in the file: it was not written by qo-export, or lost its metadata"
            )
        text = metadata[FORMAT_KEY]
        if not (text.isdecimal() and len(text) < 10):
            raise ModelError(f"{source}: the format version is {text[:20]!r}, not a number: the file is damaged")
        _check_version(int(text), source)
        return cls.from_json(metadata[CARD_KEY], source)

    def _check(self, source: str) -> None:
        size = self.preprocessing
        if not (isinstance(self.bits, int) and 1 <= self.bits <= MAX_BITS):
            raise ModelError(f"{source}: the model card says {self.bits!r} bits: a code has 1 to {MAX_BITS}")
        if not (
            isinstance(size.image_size, int)
            and isinstance(size.resize_size, int)
            and 1 <= size.image_size <= size.resize_size <= _MAX_SIZE
        ):
            raise ModelError(
                f"{source}: the model card's image size {size.image_size!r} and resize size {size.resize_size!r} "
                "don't fit"
            )
        if size.resize not in RESIZES:
            raise ModelError(
                f"{source}: the model card's resize rule is {size.resize!r}, but this queryopt knows "
                f"{', '.join(RESIZES)}: upgrade queryopt"
            )
        if len(size.background) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in size.background):
            raise ModelError(f"{source}: the model card's background {size.background!r} is no colour")
        if isinstance(self.label_depth, bool) or not isinstance(self.label_depth, int) or self.label_depth < 1:
            raise ModelError(f"{source}: the model card's label_depth {self.label_depth!r} is no number of folders")
        words = {"backbone": self.backbone, "precision": self.precision, "method": self.method, "created": self.created}
        for name, value in words.items():
            if not isinstance(value, str):
                raise ModelError(f"{source}: the model card's {name} {value!r} is not text")
        if not (isinstance(self.fingerprint, str) and len(self.fingerprint) == 64):
            raise ModelError(f"{source}: the model card's fingerprint {self.fingerprint!r} is not a SHA-256")
        if not (isinstance(self.logit_scale, int | float) and 0 < self.logit_scale < float("inf")):
            raise ModelError(f"{source}: the model card's logit_scale {self.logit_scale!r} is not a positive number")


def fingerprint(weights: Mapping[str, npt.NDArray[Any]], preprocessing: Preprocessing, bits: int) -> str:
    """SHA-256 (hex) over the inference weights, the preprocessing and the code contract.

    weights: the checkpoint's inference tensors by name, as trained (before any fold or change of precision). Equal
    weights give an equal fingerprint on every machine: names are sorted, bytes little-endian.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps([_CODE_CONTRACT, check_bits(bits), preprocessing.to_dict()]).encode())
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(json.dumps([name, array.dtype.str, list(array.shape)]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _check_version(version: Any, source: str) -> None:
    if not isinstance(version, int) or version < 1:
        raise ModelError(f"{source}: the format version is {version!r}: the file is damaged")
    if version > FORMAT_VERSION:
        raise ModelError(
            f"{source}: format version {version}, but this queryopt reads up to {FORMAT_VERSION}: "
            "upgrade queryopt, or export the model again"
        )
