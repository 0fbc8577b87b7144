"""Checkpoints: written so that a crash never costs the last good one, read so that a file never runs code.

A run folder holds best.safetensors (weights to use; its header's `queryopt.config` is the configuration, so the file
alone is enough) and last.pt (everything that a resumed run needs; it loads with weights_only=True).
"""

import os
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from queryopt.errors import CheckpointError, FormatError, MissingError, UsageError
from queryopt.files import replacing
from queryopt.text import display_path, install_extra, listed, parse_json
from queryopt.train.config import TrainConfig
from queryopt.train.run_files import BEST, CONFIG, CURVES, LAST, METRICS, RUN_FILES, find_checkpoint

if TYPE_CHECKING:
    from queryopt.train.hash_network import HashNetwork

__all__ = [
    "BEST",
    "CONFIG",
    "CONFIG_KEY",
    "CURVES",
    "LAST",
    "METRICS",
    "RUN_FILES",
    "Checkpoint",
    "clean_state",
    "load_checkpoint",
    "read_run_config",
    "read_torch_file",
    "save_best",
]

CONFIG_KEY = "queryopt.config"
"""The key of best.safetensors' header, and of last.pt, that holds the configuration as JSON text."""

_PREFIXES = ("module.", "_orig_mod.")
_WRAPPERS = ("model", "state_dict", "network")


@dataclass(frozen=True)
class Checkpoint:
    """A trained network's weights and configuration, checked against each other.

    state: the network's state dict, on the CPU. path: the file that they came from.
    """

    config: TrainConfig
    state: Mapping[str, torch.Tensor]
    path: Path

    @property
    def folder(self) -> Path:
        """Where the checkpoint lies: the run folder, if it is one."""
        return self.path.parent

    def network(self) -> "HashNetwork":
        """The network with these weights, on the CPU, in eval mode."""
        from queryopt.train.methods import build_network

        network = build_network(self.config.network)
        network.load_state_dict(dict(self.state))
        return network.eval()


def load_checkpoint(source: str | os.PathLike[str]) -> Checkpoint:
    """Load the checkpoint of a run folder (its best.safetensors, or last.pt where there is no best yet) or of a file.

    A file is best.safetensors, last.pt, or a state dict with a config.json beside it. CheckpointError for anything
    else: a foreign, empty or cut-off file, a pickle that holds more than weights (which is never executed), missing,
    unexpected or misshapen tensors, values that are not finite.
    """
    path = find_checkpoint(source)
    name = display_path(path)
    kind = _kind(path)
    state, text = _read_safetensors(path) if kind == "safetensors" else _read_weights(path)
    try:
        config = _config(path, text)
    except CheckpointError:
        raise
    except FormatError as error:
        raise CheckpointError(str(error)) from None
    state = clean_state(state, name)
    _check_shapes(state, config, name)
    _check_finite(state, name)
    return Checkpoint(config, state, path)


def save_best(path: Path, state: Mapping[str, torch.Tensor], config: TrainConfig) -> None:
    """Write best.safetensors in one step. Equal weights and configuration give equal bytes."""
    from safetensors.torch import save

    tensors = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    # One key alone: the header's order of several keys changes from run to run.
    data = save(tensors, metadata={CONFIG_KEY: config.to_json()})
    with replacing(path) as file:
        file.write(data)


def read_run_config(folder: Path) -> TrainConfig | None:
    """The configuration in a run folder's config.json, None where there is none. FormatError if it is damaged."""
    path = folder / CONFIG
    try:
        values = parse_json(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CheckpointError(f"{display_path(path)}: not JSON ({error})") from None
    if isinstance(values, dict):
        values.pop("run", None)
    return TrainConfig.from_dict(values, display_path(path))


def clean_state(state: Mapping[str, Any], name: str) -> dict[str, torch.Tensor]:
    """A state dict without the prefixes that DataParallel and torch.compile add; `name` is the file, for errors.

    CheckpointError where a value is no tensor.
    """
    clean: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{name}: {key!r} is {type(value).__name__}, not a tensor: this is no state dict")
        short = key
        while short.startswith(_PREFIXES):
            short = short.split(".", 1)[1]
        if short in clean:
            raise CheckpointError(f"{name}: {key!r} and another tensor are both {short!r} without their prefixes")
        clean[short] = value
    return clean


def read_torch_file(path: Path) -> Any:
    """What torch.save wrote, loaded on the CPU with weights_only=True: tensors and plain values, never code.

    CheckpointError for a damaged file and for one that holds other Python objects.
    """
    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < (2, 10):
        raise MissingError(
            f"torch {torch.__version__} can be made to run code by a checkpoint (CVE-2026-24747): "
            "pip install 'torch>=2.10'"
        )
    name = display_path(path)
    try:
        with warnings.catch_warnings():
            # A pickle of another protocol than torch's is read or refused all the same.
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if objects := sorted(set(re.findall(r"GLOBAL ([\w.]+)", str(error)))):
            raise CheckpointError(
                f"{name}: holds Python objects ({', '.join(objects)}), not only weights, and loading them can run any "
                "code: it was not executed. If you made the file yourself, write its weights alone on a machine that "
                "you trust: torch.save(torch.load(FILE, weights_only=False).state_dict(), 'weights.pt')"
            ) from None
        # What comes before this is advice to let the file run its code.
        reason = _first_line(str(error).rpartition("WeightsUnpickler error:")[2])
        raise CheckpointError(f"{name}: not a checkpoint, or a damaged one ({reason})") from None
    except Exception as error:  # torch and pickle raise a dozen kinds on damaged bytes
        if isinstance(error, OSError) and error.filename is not None:
            raise  # the file can't be read; without a name, it is torch that got lost in it
        reason = _first_line(f"{type(error).__name__}: {error}")
        raise CheckpointError(f"{name}: not a checkpoint, or cut off ({reason})") from None


def _kind(path: Path) -> str:
    """What the first bytes say that it is: safetensors, or torch (a zip file or a pickle)."""
    with path.open("rb") as file:
        head = file.read(9)
    name, size = display_path(path), path.stat().st_size
    if not size:
        raise CheckpointError(f"{name}: an empty file, not a checkpoint")
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return "torch"
    if len(head) == 9 and head[8:] == b"{":
        length = struct.unpack("<Q", head[:8])[0]
        if 8 + length > size:
            raise CheckpointError(
                f"{name}: {size:,} bytes, but its header alone has {8 + length:,}: the file is cut off"
            )
        return "safetensors"
    raise CheckpointError(f"{name}: neither safetensors nor a file of torch.save: it is no checkpoint of qo-train")


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], str | None]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise MissingError(f"reading a checkpoint needs safetensors: {install_extra('train')}") from None
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, (file.metadata() or {}).get(CONFIG_KEY)  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{display_path(path)}: damaged or cut off ({_first_line(str(error))})") from None


def _read_weights(path: Path) -> tuple[Mapping[str, Any], str | None]:
    values = read_torch_file(path)
    name = display_path(path)
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{name}: holds {type(values).__name__}, not a state dict")
    text = values.get(CONFIG_KEY)
    if text is not None and not isinstance(text, str):
        raise CheckpointError(f"{name}: its configuration is {type(text).__name__}, not text: the file is damaged")
    for wrapper in _WRAPPERS:
        if isinstance(values.get(wrapper), Mapping):
            return values[wrapper], text
    return values, text


def _config(path: Path, text: str | None) -> TrainConfig:
    name = display_path(path)
    if text is not None:
        return TrainConfig.from_json(text, name)
    config = read_run_config(path.parent)
    if config is None:
        raise CheckpointError(
            f"{name}: no configuration in it ({CONFIG_KEY}) and no {CONFIG} beside it: not written by qo-train"
        )
    return config


def _check_shapes(state: Mapping[str, torch.Tensor], config: TrainConfig, name: str) -> None:
    from queryopt.train.methods import build_network

    try:
        # Shapes alone: a header that claims a huge network allocates nothing.
        with torch.device("meta"):
            expected = build_network(config.network).state_dict()
    except UsageError as error:
        raise CheckpointError(f"{name}: its configuration can't be built: {error}") from None
    network = config.network
    what = f"{network.backbone}, {network.bits} bits, " + (f"dim {network.dim}" if network.queries else network.method)
    missing = sorted(set(expected) - set(state))
    unexpected = sorted(set(state) - set(expected))
    if missing or unexpected:
        parts = [f"missing: {listed(missing)}"] if missing else []
        parts += [f"unexpected: {listed(unexpected)}"] if unexpected else []
        raise CheckpointError(f"{name}: the weights are not those of its configuration ({what}); {'; '.join(parts)}")
    wrong = [
        f"{key} is {list(state[key].shape)}, not {list(expected[key].shape)}"
        for key in expected
        if state[key].shape != expected[key].shape
    ]
    if wrong:
        raise CheckpointError(
            f"{name}: the weights are not those of its configuration ({what}); {listed(wrong, joint='; ')}"
        )


def _check_finite(state: Mapping[str, torch.Tensor], name: str) -> None:
    bad = [key for key, value in state.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())]
    if bad:
        raise CheckpointError(f"{name}: NaN or infinite weights in {listed(bad)}: the training diverged; train again")


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["it is empty"])[0][:200]
