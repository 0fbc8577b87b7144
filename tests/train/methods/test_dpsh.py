"""dpsh's loss, against its formula written out, and its options."""

import math

import pytest
import torch

from queryopt.errors import UsageError
from queryopt.train import preset_config
from queryopt.train.methods.dpsh import DpshMethod, pairwise_likelihood_loss, published_eta


def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """outputs [4, 6], stored [9, 6] with two pictures that nobody saw, labels of both; float64."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 2])
    outputs = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    stored = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    stored[[4, 7]] = 0
    return outputs, stored, labels[torch.tensor([3, 1, 8, 0])], labels


def test_loss_is_the_formula() -> None:
    outputs, stored, batch_labels, labels = problem()
    likelihood = quantisation = 0.0
    for i in range(4):
        for j in range(9):
            theta = sum(float(outputs[i, c]) * float(stored[j, c]) for c in range(6)) / 2
            similar = 1.0 if batch_labels[i] == labels[j] else 0.0
            likelihood += math.log(1 + math.exp(theta)) - similar * theta
        for c in range(6):
            quantisation += (math.copysign(1.0, float(outputs[i, c])) - float(outputs[i, c])) ** 2
    loss = pairwise_likelihood_loss(outputs, stored, batch_labels, labels, eta=7.0)
    assert float(loss.hash) == pytest.approx(likelihood / (4 * 9))
    assert float(loss.quantisation) == pytest.approx(7 * quantisation / (4 * 9))
    assert float(loss.total) == pytest.approx(float(loss.hash) + float(loss.quantisation))


def test_gradients_are_those_of_the_formula_and_reach_the_outputs_alone() -> None:
    outputs, stored, batch_labels, labels = problem()
    outputs.requires_grad_()
    torch.autograd.gradcheck(lambda u: pairwise_likelihood_loss(u, stored, batch_labels, labels, 7.0).total, outputs)
    # As published: (sigmoid(theta) - s) u_j / 2 of each pair, and 2 eta (u_i - b_i).
    pairwise_likelihood_loss(outputs, stored, batch_labels, labels, 7.0).total.backward()
    same = (batch_labels[:, None] == labels).double()
    detached = outputs.detach()
    expected = (torch.sigmoid(detached @ stored.T / 2) - same) @ stored / 2 + 2 * 7 * (detached - detached.sign())
    torch.testing.assert_close(outputs.grad, expected / (4 * 9))


def test_large_outputs_stay_finite() -> None:
    outputs = torch.full((2, 64), 1e4)
    labels = torch.tensor([0, 1])
    loss = pairwise_likelihood_loss(outputs, outputs, labels, labels, 0.0)
    assert bool(loss.total.isfinite())
    assert float(loss.hash) == pytest.approx(2 * 64 * 1e8 / 2 / 4)  # two of four pairs ought not to be similar


@pytest.mark.parametrize(("images", "eta"), [(5000, 50.0), (23929, 50.0), (500, 5.0)])
def test_eta_is_the_published_one_lowered_on_small_sets(images: int, eta: float) -> None:
    assert published_eta(images) == pytest.approx(eta)


def test_a_given_eta_is_taken_as_it_is() -> None:
    labels = torch.zeros(100, dtype=torch.int64).numpy()
    given = preset_config("tiny", method="dpsh", method_options={"eta": 12})
    assert DpshMethod(given, labels).about() == {"eta": 12}
    assert DpshMethod(preset_config("tiny", method="dpsh"), labels).about() == {"eta": 1.0}
    with pytest.raises(UsageError, match="eta is -1: a number, at least 0"):
        preset_config("tiny", method="dpsh", method_options={"eta": -1})


def test_the_hash_layers_value_is_not_bounded() -> None:
    method = DpshMethod(preset_config("tiny", method="dpsh"), torch.zeros(4, dtype=torch.int64).numpy())
    logits = torch.tensor([[3.0, -0.5, 20.0]])
    assert torch.equal(method.relax(logits, 10), logits)
