"""A small problem for the losses over pairs."""

from types import SimpleNamespace

import pytest
import torch

from queryopt.train.methods.base import TrainingBatch


@pytest.fixture
def pair_problem() -> SimpleNamespace:
    """outputs [4, 6] and a batch of rows 3, 1, 8, 0 of nine pictures, of which nobody saw two; float64."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 2])
    index = torch.tensor([3, 1, 8, 0])
    outputs = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    stored = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    stored[[4, 7]] = 0
    stored[index] = outputs
    return SimpleNamespace(outputs=outputs, batch=TrainingBatch(index, labels[index], stored, labels, step=0))
