"""The network compiled for training: the same numbers but for rounding, after a minute or more at the start."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from queryopt.errors import MissingError
from queryopt.train.hash_network import HashNetwork

__all__ = ["CompiledNetwork", "compile_errors"]


class CompiledNetwork:
    """What `network` does, compiled (torch.compile) for batches of one size; others go through the network as it is.

    An epoch's last batch and those with unreadable pictures have sizes of their own: compiling for them, or for any
    size, would take longer than they do. Weights, and their names, are the network's.
    """

    def __init__(self, network: HashNetwork, batch: int) -> None:
        self._network = network
        self._batch = batch
        # On a CPU the compiler would lay pictures with their channels last, which damages memory there: see step.py.
        options: dict[str, Any] | None = (
            {"layout_optimization": False} if network.head.weight.device.type == "cpu" else None
        )
        self._compiled: Callable[[Tensor], Tensor] = torch.compile(network, dynamic=False, options=options)

    def __call__(self, images: Tensor) -> Tensor:
        """images: float32 [b, 3, s, s]. Returns the network's logits. Call it, and backward, in `compile_errors`."""
        if len(images) != self._batch:
            logits: Tensor = self._network(images)
            return logits
        return self._compiled(images)


@contextlib.contextmanager
def compile_errors() -> Iterator[None]:
    """MissingError where the network can't be compiled: it is when it, and its backward, are first called."""
    # Not at the top: only a run that compiles waits for these.
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    try:
        yield
    except (CppCompileError, InvalidCxxCompiler, TorchDynamoException) as error:
        raise MissingError(
            f"the network can't be compiled ({_reason(error)}): torch.compile needs a C++ compiler (g++, or the one "
            "that CXX names) and Python's headers, and on a GPU Triton. Install them, or leave --compile out: it "
            "changes nothing but speed"
        ) from None


def _reason(error: Exception) -> str:
    """The line of a long report that says what is wrong."""
    inner = getattr(error, "inner_exception", error)
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    telling = [line for line in lines if "error: " in line.lower()]
    return (telling or lines or [type(inner).__name__])[0][:300]
