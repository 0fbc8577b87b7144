"""Named settings of a training run. A preset is where the options start from; every option overrides its field."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from queryopt.errors import UsageError
from queryopt.text import did_you_mean
from queryopt.train.config import TrainConfig
from queryopt.train.method_rules import DEFAULT_METHOD, find_rules
from queryopt.train.network_config import NetworkConfig
from queryopt.train.trunks import check_backbone

__all__ = ["PRESETS", "Preset", "default_preset", "find_preset", "preset_config", "preset_table"]


@dataclass(frozen=True)
class Preset:
    """Settings by name: what they are for, and the fields of TrainConfig and NetworkConfig that they set.

    columns: branches are as many as fit so many columns, max(1, columns // bits).
    """

    summary: str
    settings: Mapping[str, Any]
    network: Mapping[str, Any] = field(default_factory=dict)
    columns: int = 96


def _paper(summary: str, iterations: int, epochs: int, samples: int, step: int) -> Preset:
    settings = {
        "iterations": iterations,
        "epochs": epochs,
        "samples": samples,
        "lr_steps": (step,),
        "validation_fraction": 0.0,
    }
    return Preset(summary, settings, {"bits": 12})


_ONE_CYCLE = {
    "optimizer": "adamw",
    "schedule": "one-cycle",
    "scale_gamma": True,
    "codes": "separated",
    "hold": 4,
    "epochs": 2,
}
"""What reached a good map within minutes: class codes far apart, the solver held until the network follows them."""

_SMALL_NETWORK = {"backbone": "small", "image_size": 64, "dim": 128, "feedforward": 256}
_SMALL = {**_ONE_CYCLE, "lr": 1e-3, "weights": "none"}
_FROM_SCRATCH = {"iterations": 18, "hold": 8, "crop_scale": (0.6, 1.0)}
"""What a small network learns fastest with on synthetic:birds: torchvision's crops, down to 8 % of a 64-pixel picture,
cut off the marks that tell classes apart, and codes solved from a network that knows little yet come to be shared.
"""

PRESETS: dict[str, Preset] = {
    "default": Preset(
        "ResNet-50 from ImageNet weights at 224 px, AdamW: for your own pictures on a GPU.",
        {**_ONE_CYCLE, "lr": 1e-4, "iterations": 12, "samples": 4000},
        {"bits": 24},
        columns=48,
    ),
    "pictures": Preset(
        "A trunk that knows pictures, EfficientNet-Lite0 at 224 px, whole pictures, codes in closed form: seconds.",
        {},
        {"method": "linear", "backbone": "tf_efficientnet_lite0", "resize": "pad", "bits": 24},
    ),
    "pictures-trained": Preset(
        "The same, and then the trunk's upper stages and the layer are trained on from there: minutes.",
        {"minutes": 5.0},
        {"method": "linear", "backbone": "tf_efficientnet_lite0", "resize": "pad", "bits": 24},
    ),
    "small": Preset(
        "A small network from scratch at 64 px: minutes on two CPU cores.",
        {**_SMALL, **_FROM_SCRATCH, "samples": 4000},
        {**_SMALL_NETWORK, "bits": 24},
        columns=48,
    ),
    "demo": Preset(
        "What `make demo` trains: queries on a trunk that knows pictures and stays as it is, codes read off it.",
        {
            **_ONE_CYCLE,
            "codes": "visual",
            "kept_views": 6,
            "lr": 2e-3,
            "iterations": 6,
            "epochs": 4,
            "samples": 960,
            "crop_scale": (0.6, 1.0),
        },
        {
            "backbone": "tf_efficientnet_lite0",
            "freeze_trunk": True,
            "image_size": 128,
            "dim": 128,
            "feedforward": 256,
            "resize": "pad",
            "bits": 12,
        },
    ),
    "tiny": Preset(
        "For tests: seconds, and no quality.",
        {**_SMALL, "iterations": 2, "epochs": 1, "samples": 64, "hold": 1},
        {"backbone": "tiny", "image_size": 32, "dim": 32, "feedforward": 64, "bits": 12},
        columns=24,
    ),
    "paper-cub200": _paper("The paper's run on CUB-200-2011.", 40, 30, 2000, 30),
    "paper-aircraft": _paper("The paper's run on FGVC-Aircraft.", 40, 30, 2000, 30),
    "paper-food101": _paper("The paper's run on Food101.", 120, 10, 2000, 90),
    "paper-nabirds": _paper("The paper's run on NABirds.", 50, 30, 4000, 30),
    "paper-vegfru": _paper("The paper's run on VegFru.", 50, 30, 4000, 30),
}


def default_preset(
    device: str = "auto", dataset: str = "", chosen: Mapping[str, Any] | None = None, in_steps: bool = False
) -> str:
    """The preset for one's own pictures on this machine.

    On a GPU "default", or an official data set's own. On a CPU "pictures" where the weights of its trunk are installed,
    unless something was chosen that a fit in closed form has no use for; else "small", which starts from nothing.

    device: the option of that name.
    dataset: the name of an official data set.
    chosen: fields of TrainConfig and NetworkConfig that were; None is no choice.
    in_steps: whether it has to be one that trains.
    """
    import torch

    from queryopt.train.backbone_weights import has_wheel

    if device != "cpu" and torch.cuda.is_available():
        return f"paper-{dataset}" if f"paper-{dataset}" in PRESETS else "default"
    pictures = PRESETS["pictures"].network
    named = {name for name, value in (chosen or {}).items() if value not in (None, pictures.get(name))}
    own_network = {"backbone", "codes", "image_size", "method", "method_options", "weights"}
    elsewhere = own_network | find_rules(pictures["method"]).unused
    return "small" if in_steps or elsewhere & named or not has_wheel(pictures["backbone"]) else "pictures"


def find_preset(name: str) -> Preset:
    """The preset of this name. UsageError with a suggestion for any other name."""
    if name not in PRESETS:
        raise UsageError(f"no preset is called {name!r}: there are {', '.join(PRESETS)}{did_you_mean(name, PRESETS)}")
    return PRESETS[name]


def preset_table() -> list[str]:
    """What the presets set of the options that are changed most, a line each, below a line of names."""
    network = {name: getattr(NetworkConfig, name) for name in ("backbone", "image_size")}
    training = ("iterations", "epochs", "samples", "batch", "optimizer", "lr")
    lines = [("", "bits", *network, *training)]
    for name, preset in PRESETS.items():
        values = {**network, **preset.network, **preset.settings}
        chosen = (values.get(key, getattr(TrainConfig, key, None)) for key in lines[0][1:])
        lines.append((name, *map(str, chosen)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def preset_config(name: str, **overrides: Any) -> TrainConfig:
    """The configuration of a preset, with these fields of TrainConfig or NetworkConfig overridden (None: left alone).

    Fields that go together follow: branches from bits (1 for visual codes, which are left as they start unless
    something is said of that); random weights for a backbone without pretrained ones, and then
    no frozen layers; gamma as it is given; codes that start as noise, which nothing can be learnt from, are not held.
    What the method has no use for is left at its default. UsageError for an unknown preset or field, a value that makes
    no sense, or one that the method has no use for.
    """
    preset = find_preset(name)
    chosen = {k: v for k, v in overrides.items() if v is not None}
    network_fields = {f.name for f in fields(NetworkConfig)}
    network = {**preset.network, **{k: v for k, v in chosen.items() if k in network_fields}}
    method = find_rules(network.get("method", DEFAULT_METHOD))
    if useless := sorted(method.unused & set(chosen)):
        raise UsageError(f"{', '.join(useless)}: the method {method.name} has no use for it: leave it out")
    network = {k: v for k, v in network.items() if k not in method.unused}
    settings = {"preset": name, **{k: v for k, v in preset.settings.items() if k not in method.unused}}
    if method.closed_form:
        settings |= {"iterations": 0, "crop_scale": (0.6, 1.0), "flip": False}
        if "iterations" in chosen:
            settings.pop("minutes", None)
        settings.pop("codes", None)
    if "gamma" in chosen:
        settings["scale_gamma"] = False
    if chosen.get("codes") == "noise":
        settings["hold"] = 0
    visual = chosen.get("codes", settings.get("codes")) == "visual" and not method.closed_form
    if visual:
        settings |= {} if {"hold", "hold_solver"} & set(chosen) else {"hold_solver": True}
        network.setdefault("branches", 1)
    elif method.has_queries and network.get("branches") is None and network.get("queries", True):
        network["branches"] = max(1, preset.columns // NetworkConfig(bits=network["bits"]).bits)
    if not check_backbone(network.get("backbone", "resnet50")).pretrained:
        settings["weights"] = "none"
    if chosen.get("weights", settings.get("weights")) == "none":
        # Frozen layers are good ones only where they were trained before.
        network.setdefault("freeze", False)
    config = TrainConfig(network=NetworkConfig(**network), **settings)
    return config.override(**{k: v for k, v in chosen.items() if k not in network_fields})
