"""The arithmetic of a report's sections, against itself written out."""

from pathlib import Path

import numpy as np
import pytest
import torch

from queryopt.bench.quality.report.bits import surest
from queryopt.bench.quality.report.features import separation
from queryopt.bench.quality.report.landscape import filter_normalised, measure_landscape
from queryopt.bench.quality.report.model import RunModel
from queryopt.cli import Output
from queryopt.train import load_checkpoint


def test_the_surest_are_one_a_class_as_long_as_there_are_classes() -> None:
    labels = np.array(["a", "a", "b", "a", "c", "b"])
    order = np.array([1, 0, 3, 2, 5, 4])
    assert surest(order, labels, 2) == [1, 2]
    assert surest(order, labels, 3) == [1, 2, 4]
    assert surest(order, labels, 5) == [1, 2, 4, 0, 3]
    assert surest(order[:0], labels, 3) == []


def test_separation_of_two_clusters() -> None:
    features = np.array([[1, 0], [2, 0], [0, 1], [0, 5]], np.float32)
    within, between, nearest = separation(features, np.array(["a", "a", "b", "b"]))
    assert (within, between, nearest) == pytest.approx((0, 2**0.5, 1))
    assert separation(features, np.array(["a", "b", "a", "b"]))[2] == 0


def test_directions_have_the_length_of_each_filter() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 3, 2, 2, generator=generator) * torch.arange(5).view(5, 1, 1, 1)
    direction = filter_normalised(weight, generator)
    torch.testing.assert_close(direction.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1))
    assert not torch.equal(direction, weight)
    assert not filter_normalised(torch.ones(4), generator).any()


def test_the_middle_of_the_landscape_is_the_loss_of_the_trained_weights(birds: Path) -> None:
    run = RunModel(load_checkpoint(birds / "run"), 1, 8)
    images = run.source(None).training_pictures()
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    found = measure_landscape(run, images, 0, Output(quiet=True), points=3)
    assert found.loss.shape == (3, 3)
    assert found.centre == found.loss[1, 1] > 0
    assert np.isfinite(found.loss).all()
    # By hand, from the same pictures: the loss of eq. 5 and 6 at the trained weights.
    from queryopt.train.inputs import to_input
    from queryopt.train.loss import hashing_loss
    from queryopt.train.pictures import PictureSource
    from queryopt.train.runs import read_last

    pictures = PictureSource(images, run.preprocessing).plain(np.arange(len(images))).pictures
    network = run.checkpoint.network().train()
    with torch.no_grad():
        outputs = torch.tanh(network(to_input(pictures, run.preprocessing)))
    state, _ = read_last(birds / "run" / "last.pt")
    labels = torch.from_numpy(images.labels)
    rows, gamma = torch.arange(len(images)), run.checkpoint.config.effective_gamma(len(images))
    loss = hashing_loss(outputs, state.codes, labels, labels, rows, gamma).total
    assert found.centre == pytest.approx(float(loss), rel=1e-4)
    # It measures on a copy: the network that the other sections look at is as it was.
    after = run.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
