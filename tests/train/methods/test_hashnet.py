"""hashnet's loss, against its formula written out, its weights and its continuation."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from queryopt.errors import UsageError
from queryopt.train import preset_config
from queryopt.train.methods._pairwise import pairs_in_batch
from queryopt.train.methods.hashnet import (
    HashNetMethod,
    HashNetSettings,
    pair_weights,
    scale_at,
    weighted_pairwise_loss,
)

WEIGHTS = (3.0, 1.5)
ALPHA = 10 / 6


def test_loss_is_the_formula(pair_problem: SimpleNamespace) -> None:
    outputs, batch = pair_problem.outputs.tanh(), pair_problem.batch
    expected = 0.0
    for i in range(4):
        for j in range(4):
            product = sum(float(outputs[i, c]) * float(outputs[j, c]) for c in range(6))
            similar = bool(batch.labels[i] == batch.labels[j])
            cross_entropy = math.log(1 + math.exp(ALPHA * product)) - ALPHA * similar * product
            expected += (WEIGHTS[0] if similar else WEIGHTS[1]) * cross_entropy
    loss = weighted_pairwise_loss(outputs, pairs_in_batch(outputs, batch), ALPHA, WEIGHTS)
    assert float(loss.hash) == pytest.approx(expected / 16)
    assert float(loss.quantisation) == 0
    assert float(loss.total) == pytest.approx(expected / 16)


def test_gradients_are_those_of_the_formula(pair_problem: SimpleNamespace) -> None:
    outputs, batch = pair_problem.outputs.tanh().requires_grad_(), pair_problem.batch
    torch.autograd.gradcheck(
        lambda g: weighted_pairwise_loss(g, pairs_in_batch(g, batch), ALPHA, WEIGHTS).total, outputs
    )
    pairs = pairs_in_batch(outputs, batch)
    weighted_pairwise_loss(outputs, pairs, ALPHA, WEIGHTS).total.backward()
    weights = WEIGHTS[1] + (WEIGHTS[0] - WEIGHTS[1]) * pairs.same.double()
    g = outputs.detach()
    errors = weights * (torch.sigmoid(ALPHA * g @ g.T) - pairs.same.double())
    torch.testing.assert_close(outputs.grad, ALPHA * (errors + errors.T) @ g / 16)


def test_large_products_stay_finite(pair_problem: SimpleNamespace) -> None:
    outputs = pair_problem.outputs.sign()
    loss = weighted_pairwise_loss(outputs, pairs_in_batch(outputs, pair_problem.batch), 1e4, WEIGHTS)
    assert bool(loss.total.isfinite())


def test_similar_pairs_weigh_as_much_as_the_others_in_sum() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    similar = sum(a == b for a in labels for b in labels)
    assert similar == 14
    assert pair_weights(labels) == pytest.approx((36 / 14, 36 / 22))
    assert pair_weights(np.zeros(5, np.int64)) == (1.0, 25.0)  # no pair is of the other kind: nothing is divided by 0


@pytest.mark.parametrize(
    ("step", "scale"), [(0, 1.0), (199, 1.0), (200, math.sqrt(2)), (399, math.sqrt(2)), (10_000, math.sqrt(51))]
)
def test_the_scale_grows_as_published(step: int, scale: float) -> None:
    assert scale_at(step, HashNetSettings()) == pytest.approx(scale)


def test_tanh_sharpens_to_the_sign_and_signs_stay() -> None:
    method = HashNetMethod(preset_config("tiny", method="hashnet", bits=20), np.array([0, 1, 1]))
    logits = torch.tensor([[-0.3, 0.1, 2.0]])
    assert torch.equal(method.relax(logits, 0), logits.tanh())
    late = method.relax(logits, 10**7)
    assert torch.equal(late.sign(), logits.sign())
    assert bool((late.abs() > 0.99).all())
    assert method.alpha == pytest.approx(10 / 20)
    assert method.about()["weight_similar"] == pytest.approx(9 / 5)


@pytest.mark.parametrize(
    "options", [{"alpha": 0}, {"scale_growth": -1}, {"scale_power": -0.5}, {"scale_step": 0}, {"scale_step": 2.5}]
)
def test_impossible_options_are_named(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"hashnet's option {next(iter(options))}"):
        preset_config("tiny", method="hashnet", method_options=options)
