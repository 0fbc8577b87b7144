"""The trained network itself, in PyTorch, as a backend: what an exported model is compared with."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from queryopt.card import ModelCard, Preprocessing, fingerprint
from queryopt.codes import pack_codes
from queryopt.runtime.backends.base import BackendOutput, check_pixels, no_output
from queryopt.text import counted

if TYPE_CHECKING:
    from queryopt.train.hash_network import HashNetwork

__all__ = ["TorchBackend", "network_card", "network_logits"]


class TorchBackend:
    """A network behind the runtime's Backend protocol, in float32 and in eval mode, on the device that it is on.

    network: its mode is put back after every run. threads: of torch on the CPU, put back too (None: as they are).
    """

    def __init__(self, network: "HashNetwork", threads: int | None = None) -> None:
        import torch

        self._network = network
        self._threads = threads
        self._card = network_card(network)
        device = next(network.parameters()).device
        on = f"CPU, {counted(threads or torch.get_num_threads(), 'thread', 'threads')}"
        self._name = f"torch {torch.__version__.partition('+')[0]} ({on if device.type == 'cpu' else device})"

    @property
    def card(self) -> ModelCard:
        """The card that its exported model has, but for what the export adds."""
        return self._card

    @property
    def name(self) -> str:
        return self._name

    def run(self, images: npt.NDArray[np.uint8]) -> BackendOutput:
        pixels = check_pixels(images, self._card)
        if not len(pixels):
            return no_output(self._card)
        from queryopt.train.threads import torch_threads

        with torch_threads(self._threads), _evaluating(self._network):
            logits = network_logits(self._network, pixels, self._card.preprocessing)
        return BackendOutput(pack_codes(logits >= 0), logits)

    def close(self) -> None:
        """Nothing: the network is the caller's."""


def network_card(network: "HashNetwork") -> ModelCard:
    """The card of a network: bits, preprocessing, fingerprint, what every export of it has."""
    preprocessing = network.config.preprocessing
    return ModelCard(
        bits=network.config.bits,
        preprocessing=preprocessing,
        backbone=network.config.backbone,
        precision="fp32",
        logit_scale=network.logit_scale,
        fingerprint=fingerprint(network.inference_weights(), preprocessing, network.config.bits),
        method=network.config.method,
    )


def network_logits(
    network: "HashNetwork", pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing, branches: int = 1
) -> npt.NDArray[np.float32]:
    """The network's own logits of uint8 pixels [b, s, s, 3]: float32 [b, bits * branches], in the mode that it is in.

    Normalised as in training, and not by the graph's own code: a fault of that must show.
    """
    import torch

    from queryopt.train.inputs import to_input

    device = next(network.parameters()).device
    with torch.inference_mode():
        logits: npt.NDArray[np.float32] = (
            network(to_input(pixels, preprocessing, device), branches=branches).cpu().numpy()
        )
    return logits


@contextlib.contextmanager
def _evaluating(network: "HashNetwork") -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
