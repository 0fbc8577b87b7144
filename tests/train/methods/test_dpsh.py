"""dpsh's loss, against its formula written out, and its options."""

import math

import numpy as np
import pytest
import torch

from queryopt.errors import UsageError
from queryopt.train import preset_config
from queryopt.train.methods._pairwise import pairs_in_batch, pairs_with_stored
from queryopt.train.methods.base import TrainingBatch
from queryopt.train.methods.dpsh import DpshMethod, pairwise_likelihood_loss, published_eta


@pytest.mark.parametrize("stored", [True, False])
def test_loss_is_the_formula(pair_problem, stored):
    outputs, batch = pair_problem.outputs, pair_problem.batch
    others = batch.codes if stored else outputs
    rows = list(range(9)) if stored else batch.index.tolist()
    likelihood, pairs, quantisation = 0.0, 0, 0.0
    for i, row in enumerate(batch.index.tolist()):
        for j, other in enumerate(rows):
            theta = sum(float(outputs[i, c]) * float(others[j, c]) for c in range(6)) / 2
            similar = 1.0 if batch.gallery_labels[row] == batch.gallery_labels[other] else 0.0
            likelihood += math.log(1 + math.exp(theta)) - similar * theta
            pairs += 1
        for c in range(6):
            quantisation += (math.copysign(1.0, float(outputs[i, c])) - float(outputs[i, c])) ** 2
    made = pairs_with_stored(batch) if stored else pairs_in_batch(outputs, batch)
    loss = pairwise_likelihood_loss(outputs, made, 0.3)
    assert float(loss.hash) == pytest.approx(likelihood / pairs)
    assert float(loss.quantisation) == pytest.approx(0.3 * quantisation / 4)
    assert float(loss.total) == pytest.approx(float(loss.hash) + float(loss.quantisation))


def test_gradients_are_those_of_the_formula(pair_problem):
    outputs, batch = pair_problem.outputs.requires_grad_(), pair_problem.batch
    stored = TrainingBatch(batch.index, batch.labels, batch.codes.detach(), batch.gallery_labels, 0)
    for loss in (
        lambda u: pairwise_likelihood_loss(u, pairs_in_batch(u, batch), 0.3).total,
        lambda u: pairwise_likelihood_loss(u, pairs_with_stored(stored), 0.3).total,
    ):
        torch.autograd.gradcheck(loss, outputs)
    # As published, within a batch: (sigmoid(theta) - s) u_j / 2 from both sides of a pair, and 2 eta (u_i - b_i).
    pairs = pairs_in_batch(outputs, batch)
    pairwise_likelihood_loss(outputs, pairs, 0.3).total.backward()
    u = outputs.detach()
    errors = torch.sigmoid(u @ u.T / 2) - pairs.same.double()
    torch.testing.assert_close(outputs.grad, (errors + errors.T) @ u / 2 / 16 + 0.3 * 2 * (u - u.sign()) / 4)


def test_large_outputs_stay_finite(pair_problem):
    outputs = pair_problem.outputs.sign() * 1e4
    loss = pairwise_likelihood_loss(outputs, pairs_in_batch(outputs, pair_problem.batch), 0.0)
    assert bool(loss.total.isfinite())
    assert float(loss.hash) > 1e6


@pytest.mark.parametrize(("classes", "each", "eta"), [(10, 500, 50.0), (200, 30, 3.0), (3, 2000, 50.0)])
def test_eta_is_the_published_one_where_a_picture_has_500_similar_ones(classes, each, eta):
    assert published_eta(np.repeat(np.arange(classes), each)) == pytest.approx(eta)


def test_a_given_option_is_taken_as_it_is():
    labels = np.repeat(np.arange(10), 10)

    def about(**options):
        return DpshMethod(preset_config("tiny", method="dpsh", method_options=options), labels).about()

    assert about() == {"eta": 1.0, "stored": 0}
    assert about(eta=12) == {"eta": 12, "stored": 0}
    assert about(stored=1) == {"eta": 1.0, "stored": 1}
    with pytest.raises(UsageError, match="eta is -1: a number, at least 0"):
        about(eta=-1)
    with pytest.raises(UsageError, match=r"stored is 0\.5: 0 or 1"):
        about(stored=0.5)


def test_stored_pairs_reach_the_loss(pair_problem):
    """The two kinds of pairs give other losses, through the method itself."""
    labels = pair_problem.batch.gallery_labels.numpy()
    losses = [
        DpshMethod(preset_config("tiny", method="dpsh", method_options={"stored": stored}), labels).loss(
            pair_problem.outputs, pair_problem.batch
        )
        for stored in (0, 1)
    ]
    assert float(losses[0].hash) != pytest.approx(float(losses[1].hash))
    assert float(losses[0].quantisation) == pytest.approx(float(losses[1].quantisation))


def test_the_hash_layers_value_is_not_bounded():
    method = DpshMethod(preset_config("tiny", method="dpsh"), torch.zeros(4, dtype=torch.int64).numpy())
    logits = torch.tensor([[3.0, -0.5, 20.0]])
    assert torch.equal(method.relax(logits, 10), logits)
