"""Training in several processes: each has a share of every batch, and all of them learn the same.

What is one in one process stays one: the batch that a loss is taken over, the statistics of a BatchNorm
(batch_norm.py), the gradient. So losses are those of one process but for rounding, whatever the method, and a run goes
on with any number of processes. Weights, codes and outputs are the same in all of them; the first one alone writes.
"""

import contextlib
import itertools
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from queryopt.cores import usable_cores
from queryopt.errors import MissingError, TrainingError
from queryopt.train.launch import Launch, launched, share_board

__all__ = ["ALONE", "Processes", "joined"]

_T = TypeVar("_T")

_PATIENCE = timedelta(hours=1)
"""How long a process waits for another: while that one fetches or draws a data set, say."""
_LOOPBACK = "lo"
_meetings = itertools.count()


_ONE = Launch(0, 1, 0, 1)


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as one of them sees them.

    launch: which of them this is. control: the group in which they exchange what is in memory, as outputs and gradients
    are exchanged where they are computed; None for the same one.

    All but `shares` and `slice` must be called by all processes, in the same order; one process alone does nothing in
    them. TrainingError where another process has ended meanwhile.
    """

    launch: Launch = _ONE
    control: Any = None

    @property
    def count(self) -> int:
        return self.launch.count

    @property
    def first(self) -> bool:
        return self.launch.rank == 0

    def threads(self, wanted: int | None) -> int | None:
        """Threads for this process: as asked, else its share of the cores; None, as many as there are, for one."""
        if wanted is not None or self.count == 1:
            return wanted
        return max(1, usable_cores() // self.launch.local_count)

    def shares(self, items: int) -> list[int]:
        """How many of so many items in a row each process has: as equal as can be, the first ones one more."""
        least, more = divmod(items, self.count)
        return [least + (rank < more) for rank in range(self.count)]

    def slice(self, items: int) -> slice:
        """Which of so many items in a row this process has."""
        shares = self.shares(items)
        start = sum(shares[: self.launch.rank])
        return slice(start, start + shares[self.launch.rank])

    def gather(self, own: Tensor, counts: Sequence[int]) -> Tensor:
        """The rows of all processes, in their order: [sum of counts, …].

        own: this process's rows, [counts[rank], …]. A gradient reaches this process's rows alone.
        """
        most = max(counts)
        if self.count == 1 or not most:
            return own
        padded = own.new_zeros((most, *own.shape[1:]))
        padded[: len(own)] = own.detach()
        parts = [torch.empty_like(padded) for _ in range(self.count)]
        with _lost():
            dist.all_gather(parts, padded, group=self._group(own))
        parts = [part[:count] for part, count in zip(parts, counts, strict=True)]
        parts[self.launch.rank] = own
        return torch.cat(parts)

    def gather_values(self, value: _T) -> list[_T]:
        """The value of each process: small objects of Python."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with _lost():
            dist.all_gather_object(values, value, group=self.control)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.count == 1:
            return flag
        total = torch.tensor([int(flag)])
        with _lost():
            dist.all_reduce(total, group=self.control)
        return bool(total)

    def add(self, values: Tensor) -> None:
        """Replace the values by their sum over all processes, which has the same bits in each."""
        if self.count > 1:
            with _lost():
                dist.all_reduce(values, group=self._group(values))

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace the parameters' gradients by their sums."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.count == 1 or not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        self.add(flat)
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def from_first(self, make: Callable[[], _T]) -> _T:
        """What the first process makes; the others wait for it."""
        if self.count == 1:
            return make()
        values = [make() if self.first else None]
        with _lost():
            dist.broadcast_object_list(values, 0, group=self.control)
        return values[0]  # type: ignore[return-value]

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Give the tensors the values that they have in the first process."""
        if self.count > 1:
            for tensor in tensors:
                values = tensor.contiguous()
                with _lost():
                    dist.broadcast(values, 0, group=self._group(values))
                tensor.copy_(values)

    def first_on_machine(self, make: Callable[[], _T]) -> _T:
        """What `make` returns, called by one process of each machine before the others: it alone fetches, or draws."""
        if self.count == 1 or self.launch.local_rank == 0:
            value = make()
            self.wait()
            return value
        self.wait()
        return make()

    def wait(self) -> None:
        """Go on once all processes are here."""
        if self.count > 1:
            with _lost():
                dist.barrier(group=self.control)

    def _group(self, tensor: Tensor) -> Any:
        return self.control if tensor.device.type == "cpu" else None


ALONE = Processes()
"""One process, as there is without torchrun."""

_joined = ALONE


@contextlib.contextmanager
def joined(device: str = "auto") -> Iterator[Processes]:
    """The processes that this one was started with, connected; ALONE where it is one alone.

    device: auto, cpu or cuda, as in TrainConfig. Where they are connected already, by an outer call or by a caller of
    torch.distributed.init_process_group, they stay so. MissingError where a machine has more processes than GPUs.
    """
    global _joined
    if dist.is_available() and dist.is_initialized():
        yield _joined if _joined.count > 1 else _foreign()
        return
    launch = launched()
    if launch is None:
        yield ALONE
        return
    _joined = _join(launch, device)
    try:
        yield _joined
        _joined.wait()
        share_board(None)
        dist.destroy_process_group()
    # After an error the connections stay until it was said: the others fail when they are gone.
    finally:
        _joined = ALONE


def _join(launch: Launch, device: str) -> Processes:
    if not dist.is_available():
        raise MissingError("this build of torch has no torch.distributed: start one process, without torchrun")
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda and launch.local_count > torch.cuda.device_count():
        raise MissingError(
            f"{launch.local_count} processes on this machine, but torch can use {torch.cuda.device_count()} GPUs here: "
            "give torchrun no larger --nproc-per-node (or give --device cpu)"
        )
    if launch.local_count == launch.count and any(name == _LOOPBACK for _, name in socket.if_nameindex()):
        # Else gloo asks for the address of the machine's own name, which not every machine can tell.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _LOOPBACK)
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        if cuda:
            torch.cuda.set_device(launch.local_rank)
        shared_store, rank, count = next(rendezvous("env://", timeout=_PATIENCE))
        # torchrun keeps what was stored: a second meeting of the same processes has names of its own.
        store = PrefixStore(f"queryopt/{next(_meetings)}", shared_store)
        backend = "nccl" if cuda else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_PATIENCE)
        control = dist.new_group(backend="gloo", timeout=_PATIENCE) if cuda else None
    except (RuntimeError, ValueError) as error:
        raise TrainingError(f"the processes of this run can't connect with each other: {_first_line(error)}") from None
    share_board(store)
    return Processes(launch, control)


def _foreign() -> Processes:
    """The processes of a group that the caller made."""
    rank, count = dist.get_rank(), dist.get_world_size()
    launch = launched() or Launch(rank, count, rank, count)
    if count == 1:
        return ALONE
    control = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo", timeout=_PATIENCE)
    return Processes(launch, control)


@contextlib.contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"another process of this run is gone without a word (killed? out of memory?), or can't be reached: "
            f"{_first_line(error)}. The last good checkpoint is kept: continue with --resume"
        ) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
