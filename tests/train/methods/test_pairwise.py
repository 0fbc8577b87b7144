"""Which pairs a batch makes."""

import torch

from queryopt.train.methods._pairwise import pairs_in_batch, pairs_with_stored
from queryopt.train.methods.base import TrainingBatch


def test_pairs_within_a_batch_and_with_what_is_stored(pair_problem):
    outputs, batch = pair_problem.outputs, pair_problem.batch
    within = pairs_in_batch(outputs, batch)
    assert within.others is outputs
    assert within.same.tolist() == [[a == b for b in (0, 1, 2, 0)] for a in (0, 1, 2, 0)]
    assert within.valid.tolist() == [[i != j for j in range(4)] for i in range(4)]
    stored = pairs_with_stored(batch)
    assert stored.others is batch.codes
    assert stored.same.shape == stored.valid.shape == (4, 9)
    assert [row.index(False) for row in stored.valid.tolist()] == [3, 1, 8, 0]
    assert int((~stored.valid).sum()) == 4


def test_a_batch_of_one_picture_has_no_pairs_and_no_loss():
    labels = torch.tensor([0, 1])
    batch = TrainingBatch(torch.tensor([1]), labels[1:], torch.zeros(2, 3), labels, step=0)
    pairs = pairs_in_batch(torch.ones(1, 3), batch)
    assert float(pairs.mean(torch.full((1, 1), 5.0))) == 0
