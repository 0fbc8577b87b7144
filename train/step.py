"""What is learnt from one batch of pictures: forward, backward, and the optimiser's update.

The loop takes these steps, and what measures them takes the same.
"""

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from queryopt.errors import MissingError
from queryopt.train.batch_norm import share_statistics
from queryopt.train.compiled import CompiledNetwork, compile_errors
from queryopt.train.config import TrainConfig
from queryopt.train.distributed import ALONE, Processes
from queryopt.train.draws import epoch_batches
from queryopt.train.hash_network import HashNetwork
from queryopt.train.inputs import to_input
from queryopt.train.methods import build_network, find_method
from queryopt.train.methods.base import TrainingBatch
from queryopt.train.schedule import rates_at

__all__ = ["STEP_PARTS", "PartDone", "StepResult", "TrainingStep"]

_log = logging.getLogger(__name__)

_PRECISIONS = {"none": None, "bf16": torch.bfloat16}

STEP_PARTS = ("input", "forward", "backward", "optimizer")
"""Of a step, in their order: pictures to normalised tensors on the device; network and loss; gradients; new weights."""

PartDone = Callable[[str], object]
"""Called with the name of a part once all its work was given to the device, which on a GPU is before it is done."""


@dataclass(frozen=True, eq=False)
class StepResult:
    """What a step leaves. outputs: relaxed codes [b, M], without gradient. sums: as `TrainingStep.no_sums`, float64."""

    outputs: Tensor
    sums: Tensor


class TrainingStep:
    """A network, its optimiser and its method; called with a batch, it trains on it.

    config: the run's. labels: classes of its n training pictures, int64 [n]. UsageError for what the method can't do,
    MissingError without the GPU that is asked for.

    processes: that train together, each with its share of every batch.

    samples: pictures of an outer iteration. batches: those of an epoch, as positions in its order. steps: of the run.
    """

    def __init__(self, config: TrainConfig, labels: npt.NDArray[np.int64], processes: Processes = ALONE) -> None:
        self.config = config
        self.processes = processes
        self.device = _device(config.device, processes)
        self.preprocessing = config.network.preprocessing
        self.labels = torch.from_numpy(labels).to(self.device)  # [n]
        self.method = find_method(config.method)(config, labels)
        self.samples = min(config.samples, len(labels))
        self.batches = epoch_batches(self.samples, config.batch)
        self.steps = config.iterations * config.epochs * len(self.batches)
        self.channels_last = _channels_last(config, self.device)
        self.network = _new_network(config).to(self.device)
        if self.channels_last:
            self.network.to(memory_format=torch.channels_last)
        share_statistics(self.network, processes)
        self.network.training_precision = _precision(config, self.device)
        if config.kept_views:
            self.network.keep_maps()
        self._compiled = self._compile()
        self.parameters = [p for group in self.network.parameter_groups() for p in group["params"]]
        self.optimizer = _optimizer(config, self.parameters)

    @property
    def compiled(self) -> bool:
        """Whether full batches go through a compiled network."""
        return self._compiled is not None

    def no_sums(self) -> Tensor:
        """Zeros for the sums over pictures: hash loss, quantisation, pictures, and where there are classes their loss.

        float64 [3 or 4], on the device.
        """
        return torch.zeros(4 if self.config.network.classes else 3, dtype=torch.float64, device=self.device)

    def __call__(
        self,
        pictures: npt.NDArray[np.uint8],
        index: Tensor,
        codes: Tensor,
        outer: int,
        step: int,
        done: PartDone | None = None,
        shares: Sequence[int] | None = None,
    ) -> StepResult:
        """Train on one batch; the network must be in train mode.

        pictures: uint8 [b, s, s, 3]. index: their rows in `codes`, int64 [b]. codes: what the method has of all
        training pictures' codes, [n, M]; it may write there. outer: the outer iteration. step: 0-based, over the whole
        run. done: called after each of STEP_PARTS. shares: how many of the b pictures each process has, in the order of
        `index`, where there are several: then `pictures` are this one's alone, and there may be none.
        """
        done = done or _nothing
        images = to_input(pictures, self.preprocessing, self.device, self.channels_last)
        done("input")
        with compile_errors() if self._compiled else contextlib.nullcontext():
            outputs, total, sums = self._forward(images, index, codes, step, shares or [len(images)])
            done("forward")
            self.optimizer.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
        if self.network.classifier is not None:  # every process had the whole batch's
            for parameter in self.network.classifier.parameters():
                if parameter.grad is not None:
                    parameter.grad.div_(self.processes.count)
        self.processes.add_gradients(self.parameters)
        done("backward")
        self._set_rates(outer, step)
        self.optimizer.step()
        done("optimizer")
        return StepResult(outputs.detach(), sums)

    def _forward(
        self, images: Tensor, index: Tensor, codes: Tensor, step: int, shares: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Relaxed codes [b, M], the loss to go down, and the batch's sums: of the whole batch in every process."""
        config = self.config
        network = self._compiled or self.network
        outputs = self.processes.gather(self.method.relax(network(images), step), shares)  # [b, M]
        self.method.remember(codes, index, outputs.detach())
        labels = self.labels[index]
        loss = self.method.loss(outputs, TrainingBatch(index, labels, codes, self.labels, step))
        total, parts = loss.total, [loss.hash, loss.quantisation, loss.hash.new_ones(())]
        if self.network.classifier is not None:
            # On the bits that are deployed, not on the rolled copies: it is them that have to tell classes apart.
            classes = self.network.classifier(outputs[:, : config.network.bits])  # [b, classes]
            classification = config.classification_weight * F.cross_entropy(classes, labels)
            total = total + classification
            parts.append(classification)
        return outputs, total, torch.stack([part.detach() for part in parts]).double() * len(index)

    def _compile(self) -> CompiledNetwork | None:
        if not self.config.compile:
            return None
        if self.processes.count > 1:
            _log.warning("--compile is left out: between processes, the network exchanges the statistics of BatchNorms")
            return None
        return CompiledNetwork(self.network, len(self.batches[0]))

    def _set_rates(self, outer: int, step: int) -> None:
        rates = rates_at(self.config, outer, step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rates.lr
            if rates.beta1 is not None:
                group["betas"] = (rates.beta1, group["betas"][1])


def _new_network(config: TrainConfig) -> HashNetwork:
    # The seed decides the weights, and the caller's generators are left as they were (torch.manual_seed would also set
    # those of the GPUs).
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        return build_network(config.network)


def _channels_last(config: TrainConfig, device: torch.device) -> bool:
    """Whether pictures lie with their channels last: on a GPU, where asked for.

    On the CPU torch 2.14 (oneDNN) then writes beyond its arrays in the backward pass of some convolutions, of 8 to 16
    channels, 1 x 1, stride 2, and odd batches for one: the process ends, or goes on with damaged memory.
    """
    if config.channels_last and device.type == "cpu":
        _log.info("channels last is left out: on the CPU torch's convolutions damage memory with it")
    return config.channels_last and device.type != "cpu"


def _precision(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    if config.amp == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise MissingError("this GPU does not compute in bfloat16: leave --amp out (or --amp none)")
    return _PRECISIONS[config.amp]


def _optimizer(config: TrainConfig, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, config.lr, momentum=0.9, weight_decay=config.weight_decay)
    return torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay)


def _device(name: str, processes: Processes) -> torch.device:
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise MissingError(
            "no CUDA device that torch can use: leave --device out, or install a driver and torch for CUDA"
        )
    if not there or name == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", processes.launch.local_rank) if processes.count > 1 else torch.device("cuda")


def _nothing(part: str) -> None:
    pass
