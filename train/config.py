"""What a training run is: one frozen object that is written beside its results and read back from them."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from queryopt.errors import FormatError, UsageError
from queryopt.text import did_you_mean, parse_json
from queryopt.train.draws import DEFAULT_SEED
from queryopt.train.method_rules import find_rules
from queryopt.train.network_config import NetworkConfig
from queryopt.train.open_set import check_open_set

__all__ = ["AMP", "CONFIG_FORMAT", "ENVIRONMENT_FIELDS", "OPTIMIZERS", "SCHEDULES", "TrainConfig", "json_text"]

CONFIG_FORMAT = 1
"""Version of the configuration's layout in config.json and in checkpoints. A reader refuses newer ones."""

OPTIMIZERS = ("sgd", "adamw")
AMP = ("none", "bf16")
SCHEDULES = ("steps", "one-cycle", "constant")

ENVIRONMENT_FIELDS = frozenset({"compile", "data", "device", "threads"})
"""Fields that say where a run computes and where its pictures lie, not what it learns: a resumed run may change them.
(That the pictures are the same ones is seen from their names.)
"""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run learns, and where it computes.

    One outer iteration draws `samples` images, trains `epochs` inner epochs on them in batches of `batch`, then solves
    the gallery's codes. UsageError for values that make no sense.
    """

    network: NetworkConfig
    data: str = ""
    """Where the pictures are: see queryopt.train.sources. A run's own is absolute: it is found from anywhere."""
    preset: str = "custom"

    iterations: int = 40
    """Outer iterations; 0 writes the untrained network. Of a method in closed form: passes over the pictures that train
    on from there.
    """
    minutes: float = 0.0
    """Of a method in closed form: how long a run may take, from which the iterations follow; 0 where they are given."""
    epochs: int = 30
    """Inner epochs of one outer iteration."""
    samples: int = 2000
    """Images drawn, without replacement, for an outer iteration; at most all training images."""
    batch: int = 16

    optimizer: str = "sgd"
    """sgd (momentum 0.9) or adamw."""
    lr: float = 3e-4
    """Learning rate: the first one of `steps`, the peak of `one-cycle`."""
    weight_decay: float = 1e-4
    schedule: str = "steps"
    """steps (x 0.1 at each of `lr_steps`), one-cycle (over the whole run, by batches) or constant."""
    lr_steps: tuple[int, ...] = (30,)
    """Outer iterations before which `steps` multiplies the learning rate by 0.1."""

    gamma: float = 200.0
    """Weight of the quantisation term, in the loss and in the solver (eq. 6)."""
    scale_gamma: bool = False
    """Lower gamma on sets smaller than CUB, so that it does not drown the hash term (see loss.scaled_gamma)."""
    codes: str = "noise"
    """How the gallery's codes B start: see queryopt.train.starts."""
    warm_up: int = 0
    """Of codes that are read off the trunk (visual): outer iterations, of all, that train it before they are read."""
    hold: int = 0
    """Outer iterations, from the first (after the warm-up), in which the solver leaves B alone."""
    hold_solver: bool = False
    """The solver never runs: B stays as it started."""
    classification_weight: float = 0.0
    """Weight of the cross-entropy of a classification head on the relaxed code (the paper's Table 5); 0 for no head."""
    method_options: Mapping[str, float] = field(default_factory=dict)
    """The method's own hyper-parameters that are not the published ones: see its module in queryopt.train.methods."""

    seed: int = DEFAULT_SEED
    validation_fraction: float = 0.1
    """Share of the training images that choose the checkpoint; 0 trains on all and keeps the last iteration."""
    test_fraction: float = 0.2
    """Share of each class kept apart as test pictures where the data has no test part of its own."""
    label_depth: int = 1
    """How many folders below the root name a class: see queryopt.labels."""
    open_set: float = 0.0
    """Classes that are never trained on: how many, or, below 1, which share of them; see queryopt.train.open_set."""
    weights: str = "imagenet"
    """Backbone weights to start from: imagenet (downloaded), none, or a file."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Share of a picture's area that a random training crop covers."""
    flip: bool = True
    """Mirror training pictures at random. Switch off where left and right differ."""
    kept_views: int = 0
    """Random views of a picture that epochs take in turn, of a frozen trunk, which sees each once; 0 for ever new ones.
    """

    channels_last: bool = False
    """Memory layout of the pictures in training on a GPU: the same numbers but for rounding. Left out on a CPU."""
    amp: str = "none"
    """none, or bf16: in training, what comes before the head computes in bfloat16 (torch's autocast)."""
    compile: bool = False
    """torch.compile for training: the same numbers but for rounding, after a minute or more at the start."""
    device: str = "auto"
    """auto, cpu or cuda."""
    threads: int | None = None
    """CPU threads of the network, and as many that decode ahead of it; None: all that this process may use."""

    def __post_init__(self) -> None:
        for name in ("iterations", "hold", "kept_views", "seed", "warm_up"):
            _check_int(name, getattr(self, name), 0)
        for name in ("epochs", "batch", "label_depth"):
            _check_int(name, getattr(self, name), 1)
        _check_int("samples", self.samples, 2)
        if self.threads is not None:
            _check_int("threads", self.threads, 1)
        # torch's optimizers fail on products of these two that no float32 holds.
        _check_real("lr", self.lr, above=0, below=1e6)
        _check_real("weight_decay", self.weight_decay, below=1e6)
        _check_real("gamma", self.gamma)
        _check_real("classification_weight", self.classification_weight, below=1e6)
        _check_real("validation_fraction", self.validation_fraction, below=1)
        _check_real("test_fraction", self.test_fraction, below=1)
        _check_real("minutes", self.minutes)
        if self.minutes and not find_rules(self.method).closed_form:
            raise UsageError(
                f"minutes is {self.minutes:g}, but the method {self.method} takes as long as its iterations"
            )
        if self.minutes and self.iterations:
            raise UsageError(
                f"minutes is {self.minutes:g} and iterations {self.iterations}: give one, and the other follows"
            )
        if self.kept_views and (self.compile or not self.network.freeze_trunk):
            raise UsageError(
                f"kept_views is {self.kept_views}: only a trunk that is not trained (freeze_trunk), nor compiled, sees "
                "views once"
            )
        if self.warm_up and self.codes != "visual":
            raise UsageError(
                f"warm_up is {self.warm_up}, but the codes are {self.codes}: only visual ones are read after a warm-up"
            )
        if self.warm_up and self.warm_up >= self.iterations:
            raise UsageError(
                f"warm_up is {self.warm_up} of {self.iterations} iterations: none would be left to learn the codes in"
            )
        check_open_set(self.open_set)
        object.__setattr__(self, "open_set", float(self.open_set))
        for name in ("channels_last", "compile", "flip", "hold_solver", "scale_gamma"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} is {getattr(self, name)!r}: true or false")
        for name in ("codes", "data", "preset", "weights"):
            if not isinstance(getattr(self, name), str):
                raise UsageError(f"{name} is {getattr(self, name)!r}: a text")
        _check_choice("amp", self.amp, AMP)
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check_choice("device", self.device, ("auto", "cpu", "cuda"))
        for name in ("crop_scale", "lr_steps"):
            if not isinstance(getattr(self, name), list | tuple):
                raise UsageError(f"{name} is {getattr(self, name)!r}: a list of numbers")
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a list is not equal to what is read back
        for step in self.lr_steps:
            _check_int("lr_steps", step, 1)
        if not isinstance(self.method_options, Mapping):
            raise UsageError(f"method_options is {self.method_options!r}: numbers by name")
        object.__setattr__(self, "method_options", dict(self.method_options))
        find_rules(self.method).check_options(self.method_options)
        scale = self.crop_scale
        if len(scale) != 2 or not all(isinstance(s, int | float) for s in scale) or not 0 < scale[0] <= scale[1] <= 1:
            raise UsageError(f"crop_scale is {scale!r}: two shares of a picture's area, 0 < smallest <= largest <= 1")

    @property
    def method(self) -> str:
        """The name of the method: how codes are learnt."""
        return self.network.method

    def effective_gamma(self, images: int) -> float:
        """Gamma for a gallery of so many training images."""
        from queryopt.train.loss import scaled_gamma

        return scaled_gamma(self.gamma, images) if self.scale_gamma else self.gamma

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON values; what came later only where it is used.

        So a run that uses none of it is written as it was before, and is read by those versions.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in (
            "classification_weight",
            "compile",
            "kept_views",
            "method_options",
            "minutes",
            "open_set",
            "warm_up",
        ):
            if not values[name]:
                del values[name]
        if self.amp == "none":
            del values["amp"]
        if self.label_depth == 1:
            del values["label_depth"]
        values["network"] = self.network.to_dict()
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        return {"format_version": CONFIG_FORMAT, **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "the configuration") -> "TrainConfig":
        """Read what to_dict wrote; `source` names where it came from in errors.

        FormatError for a damaged or newer one, or one with unknown or missing fields.
        """
        if not isinstance(values, Mapping) or not isinstance(values.get("network"), Mapping):
            raise FormatError(f"{source}: not a training configuration of queryopt")
        version = values.get("format_version")
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise FormatError(f"{source}: the configuration's format version is {version!r}: it is damaged")
        if version > CONFIG_FORMAT:
            raise FormatError(
                f"{source}: configuration format {version}, but this queryopt reads up to {CONFIG_FORMAT}: upgrade"
            )
        known = {f.name for f in fields(cls)}
        read: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        del read["format_version"]
        if unknown := sorted(set(read) - known):
            raise FormatError(
                f"{source}: unknown configuration field {', '.join(unknown)}: written by another queryopt?"
            )
        try:
            read["network"] = NetworkConfig.from_dict(dict(read["network"]))
            return cls(**read)
        except (UsageError, TypeError, KeyError, ValueError) as error:
            raise FormatError(f"{source}: the configuration is damaged: {error}") from None

    def to_json(self) -> str:
        """The configuration as JSON text, one field a line."""
        return json_text(self.to_dict())

    @classmethod
    def from_json(cls, text: str, source: str) -> "TrainConfig":
        """Read what to_json wrote. FormatError as from_dict."""
        try:
            values = parse_json(text)
        except ValueError as error:
            raise FormatError(f"{source}: the configuration is not JSON ({error})") from None
        return cls.from_dict(values, source)

    def override(self, **values: Any) -> "TrainConfig":
        """A copy with these fields changed; those of the network by their own names. None leaves a field alone."""
        changes: dict[str, Any] = {k: v for k, v in values.items() if v is not None}
        network = {f.name for f in fields(self.network)}
        own = {f.name for f in fields(self)} - {"network"}
        for name in changes:
            if name not in network | own:
                raise UsageError(f"{name} is no training option{did_you_mean(name, sorted(network | own))}")
        if changes.get("method", self.method) != self.method:
            raise UsageError(
                f"the method is {self.method}, not {changes['method']}: it is chosen where a run begins (choose "
                "another --out)"
            )
        changed = replace(self.network, **{k: v for k, v in changes.items() if k in network})
        return replace(self, network=changed, **{k: v for k, v in changes.items() if k in own})

    def differences(self, other: "TrainConfig") -> list[str]:
        """What differs in `other`, a line a field (`lr: 0.001, not 0.0003`); the environment is left out."""
        mine, theirs = _flat(self), _flat(other)
        return [f"{k}: {theirs[k]!r}, not {mine[k]!r}" for k in mine if mine[k] != theirs[k]]


def json_text(values: Mapping[str, Any]) -> str:
    """JSON, one field a line, valid UTF-8 also where a path is not: its bytes become escapes that are read back."""
    return json.dumps(values, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def _flat(config: TrainConfig) -> dict[str, Any]:
    values = {**asdict(config), **asdict(config.network)}
    # The environment may change, a preset is only the name of values that are compared themselves, and classes are
    # those of the pictures.
    return {k: v for k, v in values.items() if k not in {"network", "preset", "classes"} | ENVIRONMENT_FIELDS}


def _check_int(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} is {value!r}: a whole number, at least {least}")


def _check_real(name: str, value: Any, above: float | None = None, below: float | None = None) -> None:
    real = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    if not real or (value <= above if above is not None else value < 0) or (below is not None and value >= below):
        low = f"above {above}" if above is not None else "at least 0"
        raise UsageError(f"{name} is {value!r}: a number, {low}" + (f" and below {below}" if below is not None else ""))


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} is {value!r}: one of {', '.join(choices)}{did_you_mean(value, choices)}")
