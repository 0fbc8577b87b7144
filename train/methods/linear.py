"""linear: one linear layer on a frozen trunk's pooled features, fitted in closed form. Not the paper's.

Without gradient steps: features of all training pictures, then `queryopt.train.closed_form`. Labels are used where
there are two classes at least; pictures without labels (`--data unlabelled:FOLDER`) get codes by PCA and ITQ. With
`--codes visual` or `separated` each class has a code first, and the layer is fitted to these.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from queryopt.errors import UsageError
from queryopt.train.backbones import build_backbone
from queryopt.train.class_codes import separated_codes
from queryopt.train.closed_form import fit_labelled, fit_towards, fit_unlabelled
from queryopt.train.hash_network import HashNetwork
from queryopt.train.loss import Loss
from queryopt.train.methods._hash_layer import QUERY_FIELDS
from queryopt.train.methods.base import Method, TrainingBatch
from queryopt.train.network_config import NetworkConfig
from queryopt.train.starts import StartContext
from queryopt.train.visual_codes import visual_codes

__all__ = ["METHOD", "LinearMethod", "LinearNetwork", "pooled", "pooled_stages", "set_layer"]

_POOLINGS = ("mean", "max", "std", "upper", "lower")
_STAGES = ("stage3", "stage4")
_SETS = (("mean",), ("mean", "std"), _POOLINGS)
_CANDIDATES = tuple(
    tuple(f"{stage}.{pooling}" for stage in stages for pooling in poolings)
    for stages in (_STAGES[1:], _STAGES[:1], _STAGES)
    for poolings in _SETS
)
"""What leave-one-out chooses from."""
_UNLABELLED = ("stage4.mean", "stage4.max", "stage4.std")
"""Of pictures without labels nothing can be left out and named: what served best on three sets (docs/pictures.md)."""
_LOOKS = ("mean", "max", "upper", "lower")
"""Of the second-to-last stage, what visual codes are read off: as queryopt.train.visual_codes.pool_features."""
_EPSILON = 1e-6


def pooled(maps: Tensor) -> Tensor:
    """A stage's maps [b, c, h, w] over the picture, [b, 5 c]: their mean, maximum and standard deviation, and the means
    of the upper and the lower half.
    """
    half = (maps.shape[2] + 1) // 2
    mean = maps.mean(dim=(2, 3))
    spread = (maps - mean[:, :, None, None]).square().mean(dim=(2, 3))
    return torch.cat(
        [
            mean,
            maps.amax(dim=(2, 3)),
            (spread + _EPSILON).sqrt(),
            maps[:, :, :half].mean(dim=(2, 3)),
            maps[:, :, -half:].mean(dim=(2, 3)),
        ],
        dim=1,
    )


def pooled_stages(maps: Sequence[Tensor]) -> Tensor:
    """What the layer takes of both stages' maps: `pooled` of each, [b, d]."""
    return torch.cat([pooled(each) for each in maps], dim=1)


class LinearNetwork(HashNetwork):
    """Pooled features of the last two stages, and a linear layer with a row a bit: 0 where the fit leaves out columns.

    A logit is W f + c, without a division by |f|: `fit` scales it so that nearly all are between -1 and 1.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self.backbone = build_backbone(config.backbone, config.image_size)
        self.head = nn.Linear(len(_POOLINGS) * sum(config.spec.channels), config.bits)
        self._complete()

    def features(self, images: Tensor) -> Tensor:
        """float32 [b, 3, s, s], normalised -> [b, d]: `pooled` of both stages, the finer one first."""
        self.check_images(images)
        with self.body_precision(images):
            maps = self.backbone(images)
        return pooled_stages([self.head_precision(each) for each in maps])

    def groups(self) -> dict[str, slice]:
        """Which columns of the features are what: `stage3.mean`, …"""
        found, start = {}, 0
        for stage, channels in zip(_STAGES, self.config.spec.channels, strict=True):
            for pooling in _POOLINGS:
                found[f"{stage}.{pooling}"] = slice(start, start + channels)
                start += channels
        return found

    def forward(self, images: Tensor, branches: int | None = None) -> Tensor:
        """Logits [b, bits] of images float32 [b, 3, s, s], normalised. UsageError for branches but 1."""
        if branches not in (None, 1):
            raise UsageError(f"branches is {branches}, but this network has no queries to roll")
        logits: Tensor = self.head(self.features(images))
        return logits

    @property
    def logit_scale(self) -> float:
        """1: what the fit scaled the logits of nearly all pictures to."""
        return 1.0


class LinearMethod(Method):
    """`fit` sets the layer before the first iteration. Mostly there is none; iterations are passes over the pictures
    that train on from there (queryopt.train.fine_tuning).
    """

    name = "linear"
    closed_form: ClassVar[bool] = True
    solves_codes = False
    unused = QUERY_FIELDS | frozenset(
        {
            "amp",
            "batch",
            "classes",
            "classification_weight",
            "compile",
            "crop_scale",
            "epochs",
            "flip",
            "freeze_trunk",
            "gamma",
            "hold",
            "hold_solver",
            "kept_views",
            "lr",
            "lr_steps",
            "optimizer",
            "samples",
            "scale_gamma",
            "schedule",
            "warm_up",
            "weight_decay",
        }
    )

    @classmethod
    def network(cls, config: NetworkConfig) -> HashNetwork:
        return LinearNetwork(config)

    def start(self, context: StartContext) -> npt.NDArray[np.float32]:
        """Nobody's codes: there is nothing to learn towards."""
        return np.zeros((len(context.images), context.columns), np.float32)

    def fit(
        self, network: HashNetwork, features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
    ) -> dict[str, Any]:
        """Set the layer of `network`. features: float32 [k, d], of its `features`. labels: int64 [k].

        Returns what was chosen, for config.json and the log. DataError where nothing can be fitted.
        """
        assert isinstance(network, LinearNetwork)
        bits, seed, groups = network.config.bits, self.config.seed, network.groups()
        class_codes = None
        if len(np.unique(labels)) > 1:
            class_codes = _class_codes(self.config.codes, features, labels, groups, bits, seed)
        if class_codes is not None:
            codes = fit_towards(features, labels, class_codes, groups, _CANDIDATES, seed)
        elif len(np.unique(labels)) > 1:
            codes = fit_labelled(features, labels, bits, groups, _CANDIDATES, seed)
        else:
            codes = fit_unlabelled(features, bits, groups, _UNLABELLED, seed)
        set_layer(network.head, codes.weight, codes.bias)
        choice = codes.choice
        return {
            "features": list(choice.groups),
            **({} if choice.shrinkage is None else {"shrinkage": choice.shrinkage}),
            **({} if choice.accuracy is None else {"leave_one_out": round(choice.accuracy, 4)}),
            **({} if class_codes is None else {"codes": self.config.codes}),
        }

    def relax(self, logits: Tensor, step: int) -> Tensor:
        return torch.tanh(logits)

    def loss(self, outputs: Tensor, batch: TrainingBatch) -> Loss:
        raise UsageError("the method linear is fitted in closed form: it has no loss to train with")


def _class_codes(
    codes: str,
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    groups: Mapping[str, slice],
    bits: int,
    seed: int,
) -> npt.NDArray[np.int8] | None:
    """A code for each class, ±1 [classes, bits]; None where none were asked for (`noise` is the default)."""
    classes = int(labels.max()) + 1
    if codes == "separated":
        return separated_codes(classes, bits, seed)
    if codes != "visual":
        return None
    looks = [features[:, groups[f"stage3.{pooling}"]] for pooling in _LOOKS]
    return visual_codes(np.concatenate(looks, axis=1), labels, classes, bits, seed)


def set_layer(head: nn.Linear, weight: npt.NDArray[np.float64], bias: npt.NDArray[np.float64]) -> None:
    """Give a layer these weights [bits, d] and [bits]."""
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))


METHOD = LinearMethod
