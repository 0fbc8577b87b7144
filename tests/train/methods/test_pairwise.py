"""Which pairs a batch makes."""

import torch

from queryopt.train.methods._pairwise import pairs_in_batch, pairs_with_stored
from queryopt.train.methods.base import TrainingBatch


def test_pairs_within_a_batch_and_with_what_is_stored(pair_problem):
    outputs, batch = pair_problem.outputs, pair_problem.batch
    within = pairs_in_batch(outputs, batch)
    assert within.others is outputs
    assert within.same.tolist() == [[a == b for b in (0, 1, 2, 0)] for a in (0, 1, 2, 0)]
    stored = pairs_with_stored(batch)
    assert stored.others is batch.codes
    assert stored.same.tolist() == [[a == b for b in (0, 1, 2, 0, 1, 2, 0, 0, 2)] for a in (0, 1, 2, 0)]


def test_a_batch_of_one_picture_still_has_a_pair():
    labels = torch.tensor([0, 1])
    batch = TrainingBatch(torch.tensor([1]), labels[1:], torch.zeros(2, 3), labels, step=0)
    assert pairs_in_batch(torch.ones(1, 3), batch).same.tolist() == [[True]]
