"""Asymmetric learning: the batch's relaxed codes against solved binary codes of all training pictures."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from queryopt.train.config import TrainConfig
from queryopt.train.loss import Loss, hashing_loss
from queryopt.train.methods.base import Method, TrainingBatch
from queryopt.train.solver import solve_codes
from queryopt.train.starts import WARM_UP_CODES, StartContext, start_codes

__all__ = ["AsymmetricMethod"]


class AsymmetricMethod(Method):
    """tanh outputs, the loss of eq. 5 and 6 (loss.py), and codes B solved after each outer iteration (solver.py).

    `--codes` says how B starts, `--hold` and `--hold-solver` when it is left alone, `--gamma` what quantisation weighs.
    """

    solves_codes = True

    def __init__(self, config: TrainConfig, labels: npt.NDArray[np.int64]) -> None:
        super().__init__(config, labels)
        self.gamma = config.effective_gamma(len(labels))

    def start(self, context: StartContext) -> npt.NDArray[np.float32]:
        """B as `--codes` says; where that is read off a trunk that has to be warmed up first, far apart until then."""
        return start_codes(WARM_UP_CODES if self.config.warm_up else self.config.codes, context)

    def restart(self, context: StartContext, outer: int) -> npt.NDArray[np.float32] | None:
        """B as `--codes` says, once the trunk is warm."""
        return start_codes(self.config.codes, context) if outer + 1 == self.config.warm_up else None

    def relax(self, logits: Tensor, step: int) -> Tensor:
        return torch.tanh(logits)

    def loss(self, outputs: Tensor, batch: TrainingBatch) -> Loss:
        return hashing_loss(outputs, batch.codes, batch.labels, batch.gallery_labels, batch.index, self.gamma)

    def solve(self, codes: Tensor, outputs: Tensor, index: Tensor, labels: Tensor, outer: int) -> Tensor:
        if self.config.hold_solver or outer < self.config.warm_up + self.config.hold:
            return codes
        return solve_codes(codes, outputs, index, labels, self.gamma)

    def about(self) -> dict[str, Any]:
        """Gamma, as it was scaled to the number of pictures."""
        return {"gamma": self.gamma}
