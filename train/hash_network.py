"""What all networks that make codes have in common, whatever the method that trains them.

The training loop, the checkpoints, the export and the benchmarks ask a network for what stands here, and for no more.
"""

import contextlib
import hashlib
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from queryopt.errors import UsageError
from queryopt.train.backbones import Backbone

if TYPE_CHECKING:
    from queryopt.train.network_config import NetworkConfig

__all__ = ["HashNetwork", "TrainingPart"]

_CLASSIFIER = "classifier."
_KEPT_BYTES = 1 << 30
"""Memory that the maps of a frozen trunk may take."""
_ROWS = 16
"""Pictures that a frozen trunk looks at together: always so many, since kernels of other batches round differently."""


@dataclass(frozen=True, eq=False)
class TrainingPart:
    """A part of a network that training alone uses, and how an exported graph that still had it would betray it.

    name: what it is called. size: in words, how much of it there is. trace: what `rows` are, in words. rows: float32
    [k, width], of which none may lie in a constant of the graph, along whatever axis. are_queries: rows are queries of
    a QueryOpt, which folding gives other forms.
    """

    name: str
    size: str
    trace: str
    rows: npt.NDArray[np.float32]
    are_queries: bool = False


class HashNetwork(nn.Module, ABC):
    """A network of `config`, from pictures to logits, one a bit.

    A subclass makes `backbone` and `head` (in this order: a seed means its draws) and then calls `_complete`. It may
    have parts that only training uses; `training_parts` names them, and the export proves that they are gone.
    """

    backbone: Backbone
    head: nn.Linear
    classifier: nn.Linear | None
    """Classes from the relaxed code, for `--classification-weight`; no code is made with it."""
    training_precision: torch.dtype | None = None
    """What all before the head computes in, in train mode: see `body_precision`. None, and in eval mode: float32."""

    def __init__(self, config: "NetworkConfig") -> None:
        super().__init__()
        self.config = config
        self._kept_maps: KeptMaps | None = None

    def _complete(self) -> None:
        """Add the classification head, where there are classes, and freeze the backbone's first layers.

        Last in a constructor: the head's draws come after all others, so that it changes no other weight.
        """
        config = self.config
        self.classifier = nn.Linear(config.bits, config.classes) if config.classes else None
        if config.freeze:
            for layer in self.backbone.frozen_layers():
                layer.requires_grad_(False)
        if config.freeze_trunk:
            self.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.config.freeze_trunk:
            self.backbone.eval()
        return self

    @abstractmethod
    def forward(self, images: Tensor, branches: int | None = None) -> Tensor:
        """Logits of images float32 [b, 3, s, s], normalised: [b, bits * branches].

        branches: how many copies of the code to run, the original included; None: all in train mode, 1 in eval mode.
        The first `bits` columns are the code's, whatever `branches` is. In eval mode a logit is w . y / |y|_2, for one
        w a bit and a y that may depend on the bit; in train mode it may be a positive multiple of that.
        """

    def features(self, images: Tensor) -> Tensor:
        """Of a network that is fitted in closed form: what its head takes, [b, d], of normalised images. UsageError of
        any other.
        """
        raise UsageError("this network is trained, not fitted in closed form: its head takes no fixed features")

    def keep_maps(self) -> None:
        """Have a frozen trunk look once only at images that it is given again; for the rest of a training."""
        self._kept_maps = KeptMaps()

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The backbone's two maps of normalised images: from memory where they were kept."""
        found: tuple[Tensor, Tensor] = (
            self.backbone(images) if self._kept_maps is None else self._kept_maps(self.backbone, images)
        )
        return found

    def body_precision(self, images: Tensor) -> AbstractContextManager[object]:
        """In it a subclass computes what its head gets, which `head_precision` then takes back to float32.

        Weights, the head and the loss stay float32; torch's autocast says which operations before them don't.
        """
        if self.training_precision is None or not self.training:
            return contextlib.nullcontext()
        return torch.autocast(images.device.type, self.training_precision)

    def head_precision(self, features: Tensor) -> Tensor:
        """What was computed in `body_precision`, as the head takes it."""
        return features.float() if features.dtype == self.training_precision else features

    def forward_with_attention(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The code's logits [b, bits], and where each bit looked: [b, bits, tokens], 1 in sum over the tokens.

        UsageError where the network has no queries.
        """
        raise UsageError("this network was trained without queries: it has no attention to show")

    @property
    def logit_scale(self) -> float:
        """|w|_2 of the head (its largest row), the largest possible |logit| in eval mode."""
        return float(self.head.weight.detach().double().norm(dim=1).max())

    def training_parts(self) -> list[TrainingPart]:
        """What training alone uses, and is not exported."""
        if self.classifier is None:
            return []
        weight = self.classifier.weight.detach().cpu().float().numpy()  # [classes, bits]
        # The longer way round: rows of one or two numbers are in any graph by chance.
        rows = weight if weight.shape[1] >= weight.shape[0] else np.ascontiguousarray(weight.T)
        size = f"{self.config.bits} bits -> {self.config.classes:,} classes"
        return [TrainingPart("classification head", size, "class weights", rows)]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The trainable parameters for an optimiser, in two groups: "backbone" and "new" (what starts untrained)."""
        backbone = [p for p in self.backbone.parameters() if p.requires_grad]
        new = [p for name, p in self.named_parameters() if p.requires_grad and not name.startswith("backbone.")]
        return [{"name": "backbone", "params": backbone}, {"name": "new", "params": new}]

    def inference_weights(self) -> dict[str, npt.NDArray[np.float32]]:
        """Every weight and statistic that inference uses, by name, as float32 arrays (what the fingerprint covers)."""
        return {
            name: tensor.detach().to("cpu", torch.float32).contiguous().numpy()
            for name, tensor in self.state_dict().items()
            if not name.endswith("num_batches_tracked") and not name.startswith(_CLASSIFIER)
        }

    def check_images(self, images: Tensor) -> None:
        """UsageError where images are not [batch, 3, image_size, image_size]."""
        size = self.config.image_size
        if images.dim() != 4 or tuple(images.shape[1:]) != (3, size, size):
            raise UsageError(f"images have shape {list(images.shape)}: this network takes [batch, 3, {size}, {size}]")


class KeptMaps:
    """The two maps that a frozen trunk made of images, by what is in them; no more than _KEPT_BYTES in all.

    An image's maps are the same, to the bit, whether they were kept and whatever else is in its batch.
    """

    def __init__(self) -> None:
        self._maps: dict[bytes, list[Tensor]] = {}
        self._free = _KEPT_BYTES

    def __call__(self, trunk: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """images: [b, 3, s, s] -> ([b, c3, g3, g3], [b, c4, g4, g4]), without gradients."""
        keys = [hashlib.blake2b(image.numpy(), digest_size=16).digest() for image in images.detach().cpu().contiguous()]
        # Not an inference tensor, also where validation asks: training takes it again.
        with torch.inference_mode(False), torch.no_grad():
            new = {key: row for row, key in enumerate(keys) if key not in self._maps}
            made: dict[bytes, list[Tensor]] = {}
            for chunk in (list(new)[start : start + _ROWS] for start in range(0, len(new), _ROWS)):
                filled = images.new_zeros((_ROWS, *images.shape[1:]))
                filled[: len(chunk)] = images[[new[key] for key in chunk]]
                maps = trunk(filled)
                made |= {key: [each[row].clone() for each in maps] for row, key in enumerate(chunk)}
            fine, coarse = (
                torch.stack([(self._maps.get(key) or made[key])[level] for key in keys]) for level in (0, 1)
            )
            self._keep(made)
        return fine, coarse

    def _keep(self, made: dict[bytes, list[Tensor]]) -> None:
        for key, maps in made.items():
            size = sum(each.nbytes for each in maps)
            if size <= self._free:
                self._free -= size
                self._maps[key] = maps
