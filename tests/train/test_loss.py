"""The loss, against its formula written out."""

import pytest
import torch

from queryopt.train.loss import hashing_loss, scaled_gamma


def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """outputs [4, 6], codes [9, 6], labels of the batch and the gallery, rows of the batch."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 2])
    index = torch.tensor([3, 1, 8, 0])
    outputs = torch.randn(4, 6, generator=generator, dtype=torch.float64).tanh()
    codes = torch.randn(9, 6, generator=generator, dtype=torch.float64).sign()
    return outputs, codes, labels[index], labels, index


def test_loss_is_the_formula() -> None:
    outputs, codes, batch_labels, labels, index = problem()
    gamma = 200.0
    hash_sum = quantisation_sum = 0.0
    for i in range(4):
        for j in range(9):
            similar = 1.0 if batch_labels[i] == labels[j] else 0.0
            hash_sum += float(6 * similar - outputs[i] @ codes[j]) ** 2
        for c in range(6):
            quantisation_sum += float(outputs[i, c] - codes[index[i], c]) ** 2
    loss = hashing_loss(outputs, codes, batch_labels, labels, index, gamma)
    assert float(loss.hash) == pytest.approx(hash_sum / (4 * 9) / 6 * 12)
    assert float(loss.quantisation) == pytest.approx(quantisation_sum / (4 * 9) * gamma / 6 * 12)
    assert float(loss.total) == pytest.approx(float(loss.hash) + float(loss.quantisation))


def test_different_classes_are_asked_to_be_orthogonal() -> None:
    """S is 0 and not -1: orthogonal codes of two classes cost nothing, opposite ones do."""
    labels = torch.tensor([0, 1])
    orthogonal = torch.tensor([[1.0, 1, 1, 1], [1, 1, -1, -1]])
    opposite = torch.tensor([[1.0, 1, 1, 1], [-1, -1, -1, -1]])
    arguments = (labels, labels, torch.arange(2), 200.0)
    assert float(hashing_loss(orthogonal, orthogonal, *arguments).total) == 0
    assert float(hashing_loss(opposite, opposite, *arguments).hash) > 0


def test_gradients_reach_the_outputs_alone() -> None:
    outputs, codes, batch_labels, labels, index = problem()
    outputs.requires_grad_()
    codes.requires_grad_()
    hashing_loss(outputs, codes.detach(), batch_labels, labels, index, 200.0).total.backward()
    assert outputs.grad is not None
    assert outputs.grad.abs().sum() > 0
    assert codes.grad is None


def test_integer_codes_serve() -> None:
    outputs, codes, batch_labels, labels, index = problem()
    exact = hashing_loss(outputs, codes, batch_labels, labels, index, 200.0).total
    integer = hashing_loss(outputs, codes.to(torch.int8), batch_labels, labels, index, 200.0).total
    torch.testing.assert_close(integer, exact)


@pytest.mark.parametrize(
    ("images", "expected"), [(5994, 200.0), (20000, 200.0), (2997, 100.0), (600, 200 * 600 / 5994)]
)
def test_gamma_is_scaled_on_small_sets(images: int, expected: float) -> None:
    assert scaled_gamma(200.0, images) == pytest.approx(expected)
