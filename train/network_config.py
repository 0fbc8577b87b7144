"""What a network is: one frozen object that is written into every checkpoint. Importing it loads no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

from queryopt.card import RESIZES, Preprocessing
from queryopt.codes import check_bits
from queryopt.errors import UsageError
from queryopt.text import did_you_mean
from queryopt.train.method_rules import find_rules
from queryopt.train.trunks import BackboneSpec, check_backbone

__all__ = ["MAX_BRANCHES", "POSITIONS", "NetworkConfig", "check_integer", "default_branches"]

MAX_BRANCHES = 384
"""Beyond the paper's width of 384, rolls by i * dim // N repeat."""
POSITIONS = 50
"""Rows of the learned position tables: the two grids' sides together can't be more."""


def default_branches(bits: int) -> int:
    """The paper's number of branches N (the original included): as many as fit 96 columns, at least 1."""
    return max(1, 96 // bits)


@dataclass(frozen=True)
class NetworkConfig:
    """What a network is. The defaults are the paper's; UsageError where a value, or a combination, makes no network.

    bits: code length, 1..64. backbone: see `check_backbone`. branches: N, the original queries and their N - 1 rolled
    copies in training, 1..384 (None: `default_branches(bits)`, or 1 without queries); beyond `dim`, rolls repeat.
    fusion, queries: ablation switches. Without fusion there is no top-down path and no encoder; without queries the
    memory is averaged, and the head has a row a bit. image_size: pixels of the square input. dim: width of tokens and
    queries. feedforward: hidden width of the feed-forward blocks. freeze: no gradient for the first layers of a ResNet
    (conv1, bn1, layer1; their BatchNorm statistics still move), as in the paper: it assumes pretrained weights.
    freeze_trunk: the whole backbone stays as it is, statistics too, and what comes after it is trained.
    method: a name in `queryopt.train.methods`, which says what the rest of the network is; methods other than queryopt
    have neither queries nor fusion, one branch, and no use for dim, heads and feedforward. classes: outputs of the
    classification head that training adds, 0 for none. resize: how a picture becomes a square, one of
    queryopt.card.RESIZES.
    """

    bits: int
    backbone: str = "resnet50"
    branches: int = None  # type: ignore[assignment]  # resolved in __post_init__
    fusion: bool = None  # type: ignore[assignment]  # True where the method has queries
    queries: bool = None  # type: ignore[assignment]  # likewise
    image_size: int = 224
    dim: int = 384
    heads: int = 8
    feedforward: int = 2048
    freeze: bool = True
    method: str = "queryopt"
    classes: int = 0
    resize: str = "crop"
    freeze_trunk: bool = False

    def __post_init__(self) -> None:
        """Fill in `fusion`, `queries` and `branches`, and check everything."""
        object.__setattr__(self, "bits", check_bits(self.bits))
        check_backbone(self.backbone)
        if self.resize not in RESIZES:
            raise UsageError(
                f"resize is {self.resize!r}: one of {', '.join(RESIZES)}{did_you_mean(self.resize, RESIZES)}"
            )
        method = find_rules(self.method)
        for name in ("fusion", "queries"):
            object.__setattr__(self, name, method.check_switch(name, getattr(self, name)))
        for name in ("fusion", "queries", "freeze", "freeze_trunk"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} is {getattr(self, name)!r}: it is true or false")
        if cast("int | None", self.branches) is None:
            object.__setattr__(self, "branches", default_branches(self.bits) if self.queries else 1)
        check_integer("branches", self.branches, 1, MAX_BRANCHES)
        if not self.queries and self.branches != 1:
            raise UsageError(
                f"branches is {self.branches}, but a network without queries has nothing to roll: set branches to 1"
            )
        check_integer("dim", self.dim, 2, 4096)
        check_integer("heads", self.heads, 1, 4096)
        check_integer("feedforward", self.feedforward, 1, 65536)
        check_integer("image_size", self.image_size, 1, 65536)
        check_integer("classes", self.classes, 0, 1 << 24)
        if self.dim % self.heads or self.dim % 2:
            raise UsageError(
                f"dim is {self.dim} with {self.heads} heads: dim must be even (half for columns, half for rows) "
                "and a multiple of heads"
            )
        g3, g4 = self.grids
        stride = self.spec.strides[1]
        if self.spec.whole_strides and self.image_size % stride:
            near = max(1, round(self.image_size / stride)) * stride
            raise UsageError(
                f"image_size is {self.image_size}: {self.backbone} takes a multiple of {stride} pixels, such as {near}"
            )
        if g4 < 2:
            raise UsageError(
                f"image_size is {self.image_size}: {self.backbone} needs more than {stride} pixels "
                "(its last map would be 1x1)"
            )
        if method.has_queries and g3 + g4 > POSITIONS:
            largest = max(s for s in range(stride, 1024) if sum(self.spec.grids(s)) <= POSITIONS)
            raise UsageError(
                f"image_size is {self.image_size}: {self.backbone}'s maps are {g3}x{g3} and {g4}x{g4}, but there are "
                f"{POSITIONS} position indices for both sides together: use at most {largest}"
            )

    @property
    def spec(self) -> BackboneSpec:
        return check_backbone(self.backbone)

    @property
    def preprocessing(self) -> Preprocessing:
        """How a picture becomes the network's input."""
        return Preprocessing.for_size(self.image_size, self.resize, mean=self.spec.mean, std=self.spec.std)

    @property
    def grids(self) -> tuple[int, int]:
        """Sides (g3, g4) of the last two stages' maps: (14, 7) at 224 pixels."""
        return self.spec.grids(self.image_size)

    @property
    def token_grids(self) -> tuple[int, ...]:
        """Sides of the token grids, in the order in which tokens lie: (14, 7), or (7,) without fusion."""
        return self.grids if self.fusion else self.grids[1:]

    @property
    def tokens(self) -> int:
        """Tokens of one image: 245 at 224 pixels."""
        return sum(side * side for side in self.token_grids)

    def to_dict(self) -> dict[str, Any]:
        """The config as JSON-serialisable values; `method` and what is newer than it only where not the usual.

        So a network of queryopt is written as it was before there were other methods, and is read by those versions.
        """
        usual = {"method": "queryopt", "classes": 0, "resize": "crop", "freeze_trunk": False}
        return {k: v for k, v in asdict(self).items() if k not in usual or v != usual[k]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "NetworkConfig":
        """Read what to_dict wrote. UsageError for an unknown, missing or impossible value."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise UsageError(
                f"the network config has unknown entries {', '.join(unknown)}: it was written by a newer queryopt"
            )
        if "bits" not in values:
            raise UsageError("the network config has no entry bits")
        return cls(**values)


def check_integer(name: str, value: Any, low: int, high: int) -> None:
    """UsageError where a field is no whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UsageError(f"{name} is {value!r}: it is a whole number from {low} to {high}")
