"""What every backend is: something that runs a model of a known card on batches of pixels."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from queryopt.card import ModelCard
from queryopt.codes import code_bytes, unpack_codes
from queryopt.errors import ModelError, UsageError

__all__ = [
    "Backend",
    "BackendOutput",
    "ExplainingBackend",
    "Pending",
    "PipelinedBackend",
    "Port",
    "SessionBackend",
    "attention_tokens",
    "check_output",
    "check_pixels",
    "check_ports",
    "closed",
    "failed",
    "in_flight",
    "no_output",
]


@dataclass(frozen=True, eq=False)
class BackendOutput:
    """What a run of the model gave; row i is image i.

    codes: uint8 [b, ceil(bits / 8)]. logits: float32 [b, bits], before tanh. attention: float32 [b, bits, tokens], of
    `explain` alone. All are the caller's own.
    """

    codes: npt.NDArray[np.uint8]
    logits: npt.NDArray[np.float32]
    attention: npt.NDArray[np.float32] | None = None


class Pending(Protocol):
    """A batch on its way."""

    def result(self) -> BackendOutput:
        """Wait for it: its codes and logits."""


@runtime_checkable
class Backend(Protocol):
    """Runs one model. `run` may be called from one thread at a time."""

    @property
    def card(self) -> ModelCard:
        """The model's card."""

    @property
    def name(self) -> str:
        """What runs the model, and on what, for people: "onnxruntime 1.32.0 (CPU, 2 threads)"."""

    def run(self, images: npt.NDArray[np.uint8]) -> BackendOutput:
        """Run the model on pixels, uint8 [b, s, s, 3], s the card's image size; b may be 0.

        UsageError for another shape, and after close. ModelError where the model fails, or breaks its card's promise.
        """

    def close(self) -> None:
        """Free what the model holds."""


@runtime_checkable
class ExplainingBackend(Backend, Protocol):
    """A backend that can also give a model's attention, where the model has that output."""

    @property
    def tokens(self) -> int | None:
        """Tokens of the picture that attention is over; None where the model was exported without --explain."""

    def explain(self, images: npt.NDArray[np.uint8]) -> BackendOutput:
        """As `run`, with attention. UsageError where the model has none."""


@runtime_checkable
class PipelinedBackend(Backend, Protocol):
    """A backend that works on a batch while others are copied: on a GPU."""

    @property
    def depth(self) -> int:
        """How many batches should be on their way at a time."""

    def check_batch(self, batch: int) -> None:
        """Raise MismatchError where it can't take batches of this size."""

    def start(self, images: npt.NDArray[np.uint8]) -> Pending:
        """Set a batch on its way: as `run`, without waiting. `images` may be changed once this returns."""


Infer = Callable[[list[str], npt.NDArray[np.uint8]], Sequence[npt.NDArray[Any]]]
"""(names of outputs, pixels) -> those outputs, the caller's own. Raises what `failed` makes."""


class SessionBackend:
    """A model in a library that gives its outputs by name: an ExplainingBackend.

    card, name, tokens: as there.
    where: the model's path, for people.
    infer: runs it; given up by `close`, and with it whatever it holds.
    """

    def __init__(self, card: ModelCard, name: str, where: str, tokens: int | None, infer: Infer) -> None:
        self.card = card
        self.name = name
        self.tokens = tokens
        self._where = where
        self._infer: Infer | None = infer

    def run(self, images: npt.NDArray[np.uint8]) -> BackendOutput:
        return self._run(images, ["codes", "logits"])

    def explain(self, images: npt.NDArray[np.uint8]) -> BackendOutput:
        if self.tokens is None:
            raise UsageError(f"{self._where}: has no attention to show: qo-export RUN --explain makes a model that has")
        return self._run(images, ["codes", "logits", "attention"])

    def close(self) -> None:
        self._infer = None

    def _run(self, images: npt.NDArray[np.uint8], names: list[str]) -> BackendOutput:
        if self._infer is None:
            raise closed(self._where)
        pixels = check_pixels(images, self.card)
        if not len(pixels):
            return no_output(self.card, self.tokens if "attention" in names else None)
        codes, logits, *attention = self._infer(names, pixels)
        count, bits = len(pixels), self.card.bits
        if (codes.shape, logits.shape) != ((count, code_bytes(bits)), (count, bits)):
            raise ModelError(
                f"{self._where}: gave codes {list(codes.shape)} and logits {list(logits.shape)} for {count} images of "
                f"{bits} bits: export it again with qo-export"
            )
        return BackendOutput(codes, logits, *attention)


def in_flight(backend: Backend, batches: Iterable[npt.NDArray[np.uint8]]) -> Iterator[BackendOutput]:
    """What each batch gives, in order; a PipelinedBackend has `depth` of them on their way at a time."""
    if not isinstance(backend, PipelinedBackend):
        yield from map(backend.run, batches)
        return
    waiting: deque[Pending] = deque()
    for batch in batches:
        waiting.append(backend.start(batch))
        if len(waiting) == backend.depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


Port = tuple[str, tuple[int | None, ...]]
"""Type ("uint8", "float32", …) and shape of an input or output; None is a dimension of any size."""


def closed(where: str) -> UsageError:
    """What a backend raises that is run after `close`. where: the model's path, for people."""
    return UsageError(f"{where}: the model was closed: open it again")


def failed(where: str, batch: int, reason: str) -> ModelError:
    """What a backend raises where its library fails on a batch of so many pictures."""
    return ModelError(
        f"{where}: failed on a batch of {batch} ({reason}): if memory was short, take a smaller batch; else export it "
        "again with qo-export"
    )


def check_pixels(images: npt.NDArray[np.uint8], card: ModelCard) -> npt.NDArray[np.uint8]:
    """Return `images` C-contiguous if they are what a model of this card takes; else UsageError."""
    size = card.preprocessing.image_size
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
        got = f"{images.dtype} {list(images.shape)}" if isinstance(images, np.ndarray) else type(images).__name__
        raise UsageError(f"images are {got}: this model takes uint8 [batch, {size}, {size}, 3]")
    return np.ascontiguousarray(images)


def check_output(output: BackendOutput, card: ModelCard, where: str) -> None:
    """Raise ModelError where logits are not finite, or codes are not their signs; `where` names the model.

    A logit next to zero may have either bit: a model of low precision rounds it after the bit was taken.
    """
    finite = np.isfinite(output.logits).all(axis=1)
    if not finite.all():
        bad = f"{np.count_nonzero(~finite)} of {len(output.logits)} pictures of a batch"
        raise ModelError(
            f"{where}: gave logits that are not finite for {bad}, so their codes mean nothing: the model is damaged, "
            "or its precision overflows: export it again with qo-export"
        )
    contradicted = (output.logits >= 0) != unpack_codes(output.codes, card.bits).astype(np.bool_)
    contradicted &= np.abs(output.logits) > card.logit_scale / 127
    if contradicted.any():
        row, bit = np.argwhere(contradicted)[0]
        raise ModelError(
            f"{where}: gave bit {bit} of a code as {int(output.logits[row, bit] < 0)} beside the logit "
            f"{output.logits[row, bit]:g}: the model is damaged: export it again with qo-export"
        )


def check_ports(inputs: Mapping[str, Port], outputs: Mapping[str, Port], card: ModelCard, where: str) -> None:
    """Raise ModelError where a model's inputs and outputs are not those that its card promises; `where` names it."""
    size = card.preprocessing.image_size
    if {name: (kind, shape[1:]) for name, (kind, shape) in inputs.items()} != {"images": ("uint8", (size, size, 3))}:
        raise ModelError(
            f"{where}: its inputs are {_described(inputs)}, not `images` uint8 [batch, {size}, {size}, 3] as its card "
            "says: export it again with qo-export"
        )
    if inputs["images"][1][0] is not None:
        raise ModelError(f"{where}: takes batches of one size only: export it again with qo-export")
    promised = {"codes": ("uint8", (code_bytes(card.bits),)), "logits": ("float32", (card.bits,))}
    given = {name: (kind, shape[1:]) for name, (kind, shape) in outputs.items()}
    if any(given.get(name) != port for name, port in promised.items()):
        raise ModelError(
            f"{where}: its outputs are {_described(outputs)}, but its card promises codes and logits of {card.bits} "
            "bits: export it again with qo-export"
        )


def attention_tokens(outputs: Mapping[str, Port], card: ModelCard, where: str) -> int | None:
    """Tokens of a model's output `attention`, None where it has none; ModelError where it is no attention."""
    if "attention" not in outputs:
        return None
    kind, shape = outputs["attention"]
    tokens = shape[2] if len(shape) == 3 else None
    if kind != "float32" or tokens is None or shape[1] != card.bits:
        raise ModelError(
            f"{where}: its outputs are {_described(outputs)}, but attention is float32 [batch, {card.bits}, tokens]: "
            "export it again with qo-export --explain"
        )
    return tokens


def no_output(card: ModelCard, tokens: int | None = None) -> BackendOutput:
    """What a run on no images gives; with attention over so many tokens."""
    attention = None if tokens is None else np.empty((0, card.bits, tokens), np.float32)
    return BackendOutput(
        np.empty((0, code_bytes(card.bits)), np.uint8), np.empty((0, card.bits), np.float32), attention
    )


def _described(ports: Mapping[str, Port]) -> str:
    return ", ".join(
        f"`{name}` {kind} [{', '.join('any' if size is None else str(size) for size in shape)}]"
        for name, (kind, shape) in ports.items()
    )
