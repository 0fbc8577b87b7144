"""Backbones: the ResNets of torchvision without their classifier, two small residual trunks for CPUs, those of timm.

A backbone maps images [b, 3, s, s] to the outputs of its last two stages, [b, c3, g3, g3] and [b, c4, g4, g4], where
g = ceil(s / stride).
"""

import copy

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from queryopt.errors import UsageError
from queryopt.train.trunks import BACKBONES, check_backbone, timm_features

__all__ = ["Backbone", "build_backbone", "split_backbone"]

_STEMS = ("conv_stem", "bn1", "stem", "stem_0", "stem_1", "conv1", "patch_embed")
"""What timm's models call their first layers."""


class Backbone(nn.Module):
    """Base of all backbones."""

    def frozen_layers(self) -> list[nn.Module]:
        """The first layers, which are not trained where the backbone starts from pretrained weights."""
        return []

    def parts(self) -> list[str]:
        """Names of the modules that a picture goes through one after another; none where it isn't as simple as that."""
        return []


class ResNetBackbone(Backbone):
    """A torchvision ResNet without average pool and classifier; parameter names are torchvision's."""

    def __init__(self, name: str) -> None:
        super().__init__()
        resnet = torchvision.models.get_model(name, weights=None)
        self.conv1 = resnet.conv1
        self.bn1 = resnet.bn1
        self.relu = resnet.relu
        self.maxpool = resnet.maxpool
        self.layer1 = resnet.layer1
        self.layer2 = resnet.layer2
        self.layer3 = resnet.layer3
        self.layer4 = resnet.layer4

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images: [b, 3, s, s] -> ([b, c3, g3, g3], [b, c4, g4, g4])."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        stage3: Tensor = self.layer3(self.layer2(self.layer1(x)))
        stage4: Tensor = self.layer4(stage3)
        return stage3, stage4

    def frozen_layers(self) -> list[nn.Module]:
        """conv1, bn1 and layer1, as in the paper's runs."""
        return [self.conv1, self.bn1, self.layer1]

    def parts(self) -> list[str]:
        return ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]


class ResidualTrunk(Backbone):
    """Four stages of one residual block each, at strides 2, 4, 8 and 16; trained from scratch."""

    def __init__(self, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        )
        self.stage1 = ResidualBlock(widths[0], widths[0], stride=1)
        self.stage2 = ResidualBlock(widths[0], widths[1], stride=2)
        self.stage3 = ResidualBlock(widths[1], widths[2], stride=2)
        self.stage4 = ResidualBlock(widths[2], widths[3], stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images: [b, 3, s, s] -> ([b, c3, g3, g3], [b, c4, g4, g4])."""
        stage3: Tensor = self.stage3(self.stage2(self.stage1(self.stem(images))))
        stage4: Tensor = self.stage4(stage3)
        return stage3, stage4

    def parts(self) -> list[str]:
        return ["stem", "stage1", "stage2", "stage3", "stage4"]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, and a shortcut that is projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """x: [b, inputs, h, w] -> [b, outputs, ceil(h / stride), ceil(w / stride)]."""
        y = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))
        return out


class TimmBackbone(Backbone):
    """A timm model without its head. Its parameter names are those of timm's `features_only`, below `trunk.`."""

    def __init__(self, name: str, image_size: int) -> None:
        super().__init__()
        self.trunk = timm_features(name, image_size)
        reductions = self.trunk.feature_info.reduction()  # type: ignore[union-attr,operator]
        self._one_grid = reductions[-2] == reductions[-1]
        self._channels_last = str(getattr(self.trunk, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images: [b, 3, s, s] -> ([b, c3, g3, g3], [b, c4, g4, g4])."""
        maps: list[Tensor] = self.trunk(images)
        if self._channels_last:
            maps = [each.permute(0, 3, 1, 2) for each in maps]
        if self._one_grid:
            return maps[-1], F.avg_pool2d(maps[-1], 2, ceil_mode=True)
        return maps[-2], maps[-1]

    def frozen_layers(self) -> list[nn.Module]:
        """The stem: what comes before the first stage, or the patches' embedding."""
        own = dict(self.trunk.named_modules())
        return [own[name] for stem in _STEMS for name in (stem, f"model.{stem}") if name in own]

    def parts(self) -> list[str]:
        """Of a vision transformer none: what is between its blocks and its input is no module."""
        if self._one_grid:
            return []
        names = []
        for name, module in self.trunk.named_children():
            names += [f"trunk.{name}.{each}" for each, _ in module.named_children()] if name == "blocks" else [name]
        return [name if name.startswith("trunk.") else f"trunk.{name}" for name in names]


def build_backbone(name: str, image_size: int) -> Backbone:
    """A backbone with random weights, for pictures of image_size x image_size. UsageError for an unknown name."""
    spec = check_backbone(name)
    if name not in BACKBONES:
        return TimmBackbone(name, image_size)
    return ResNetBackbone(name) if spec.pretrained else ResidualTrunk(spec.stages)


def split_backbone(backbone: Backbone, image_size: int, side: int) -> tuple[nn.Module, Backbone]:
    """A backbone in two: what makes maps of at least side x side of normalised images, and a copy of it that makes its
    two maps of those.

    The first is the backbone's own modules; the copy has the names of its other weights. UsageError where a picture
    does not go through its modules one after another.
    """
    images = torch.linspace(-1, 1, 3 * image_size * image_size).view(1, 3, image_size, image_size)
    images = images.to(next(backbone.parameters()).device)
    names: list[str] = []
    backbone.eval()
    with torch.no_grad():  # in inference mode the copy could not learn
        maps = images
        for count, name in enumerate(backbone.parts(), 1):
            maps = backbone.get_submodule(name)(maps)
            if maps.shape[2] >= side:
                names = backbone.parts()[:count]
        lower = nn.Sequential(*(backbone.get_submodule(name) for name in names))
        upper = copy.deepcopy(backbone)
        for name in names:
            upper.set_submodule(name, nn.Identity())
        same = all(map(torch.allclose, upper(lower(images)), backbone(images))) if names else False
    if not same:
        raise UsageError(
            "this backbone can't be trained on from the closed form: its stages are not one after another, as those of "
            "a ResNet or an EfficientNet are; leave --minutes and --iterations out"
        )
    return lower, upper
