"""BatchNorm whose statistics are of the whole batch, where several processes have shares of it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from queryopt.train.distributed import Processes

__all__ = ["SharedBatchNorm", "share_statistics"]


def share_statistics(network: nn.Module, processes: Processes) -> None:
    """Have all BatchNorms of a network take their statistics over all processes. Names and parameters stay.

    On a GPU they are torch's SyncBatchNorms, which know no other device.
    """
    if processes.count == 1:
        return
    for name, child in network.named_children():
        if not isinstance(child, nn.BatchNorm2d):
            share_statistics(child, processes)
        elif child.weight.device.type == "cuda":
            setattr(network, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))  # type: ignore[no-untyped-call]
        else:
            setattr(network, name, SharedBatchNorm(child, processes))


class SharedBatchNorm(nn.BatchNorm2d):
    """`source`, with its parameters and statistics, which in train mode are those of all processes' rows.

    A process may have no row at all. As in BatchNorm2d, the running variance is the unbiased one.
    """

    def __init__(self, source: nn.BatchNorm2d, processes: Processes) -> None:
        super().__init__(source.num_features, source.eps, source.momentum)
        self.processes = processes
        self.weight, self.bias = source.weight, source.bias
        self.running_mean, self.running_var = source.running_mean, source.running_var
        self.num_batches_tracked = source.num_batches_tracked
        self.train(source.training)

    def forward(self, input: Tensor) -> Tensor:
        """input: [b, c, h, w] -> [b, c, h, w]."""
        if not self.training:
            return super().forward(input)
        out: Tensor
        out, mean, variance, rows = _Normalise.apply(input, self.weight, self.bias, self.eps, self.processes)
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                unbiased = variance * (rows / (rows - 1).clamp(min=1)).to(variance)
                self.num_batches_tracked.add_(1)
                momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(unbiased, momentum)
        return out


class _Normalise(torch.autograd.Function):
    """Mean, variance and number of rows of all processes beside what is normalised with them."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, processes: Processes
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        channels = x.shape[1]
        own = torch.zeros(1, 1 + 2 * channels, dtype=torch.float64)
        if x.numel():
            mean, variance = torch.batch_norm_update_stats(x, None, None, 0.0)  # [c], of the own rows
            own = torch.cat([mean.new_tensor([x.numel() // channels]), mean, variance]).double()[None]
        everyone = processes.gather(own, [1] * processes.count)  # [processes, 1 + 2 c]
        counts, means, variances = everyone[:, 0], everyone[:, 1 : 1 + channels], everyone[:, 1 + channels :]
        rows = counts.sum()
        mean = (counts @ means) / rows
        variance = (counts @ (variances + (means - mean).square())) / rows
        mean, variance = mean.to(weight), variance.to(weight)
        ctx.save_for_backward(x, weight, mean, variance, rows)
        ctx.eps, ctx.processes = eps, processes
        ctx.mark_non_differentiable(mean, variance, rows)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, variance, rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        x, weight, mean, variance, rows = ctx.saved_tensors
        if x.numel():
            # As if the statistics were given; what they owe to x is added below.
            x_part, weight_part, bias_part = torch.ops.aten.native_batch_norm_backward(
                gradient, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
            )
        else:
            x_part, weight_part, bias_part = torch.zeros_like(x), torch.zeros_like(weight), torch.zeros_like(weight)
        if not ctx.needs_input_grad[0]:
            return None, weight_part, bias_part, None, None
        sums = torch.stack([weight_part, bias_part])
        ctx.processes.add(sums)
        inverse = (variance + ctx.eps).rsqrt()
        slope = weight * inverse.square() * sums[0] / rows.to(weight)  # [c]
        offset = weight * inverse * sums[1] / rows.to(weight) - slope * mean
        x_part.sub_((x * slope[:, None, None] + offset[:, None, None]).to(x_part))
        return x_part, weight_part, bias_part, None, None
