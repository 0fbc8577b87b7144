import numpy as np
import pytest
import torch

from queryopt.errors import UsageError
from queryopt.train import preset_config, train
from queryopt.train.checkpoint import load_checkpoint
from queryopt.train.config import TrainConfig
from queryopt.train.data import load_image_folder
from queryopt.train.distributed import ALONE
from queryopt.train.methods import build_network
from queryopt.train.network_config import NetworkConfig
from queryopt.train.run_pictures import RunPictures


def tiny(**options):
    return NetworkConfig(6, backbone="tiny", image_size=32, dim=16, heads=2, feedforward=16, freeze=False, **options)


def test_a_frozen_trunk_ends_as_it_began_statistics_too(labelled_folder, tmp_path):
    options = {"weights": "none", "freeze_trunk": True, "kept_views": 2, "epochs": 2, "threads": 1}
    for iterations in (0, 2):
        train(preset_config("tiny", iterations=iterations, **options), str(labelled_folder), tmp_path / str(iterations))
    first, last = (load_checkpoint(tmp_path / name).network().state_dict() for name in ("0", "2"))
    changed = {name.split(".")[0] for name, value in first.items() if not torch.equal(value, last[name])}
    assert "queries" in changed
    assert "backbone" not in changed


def test_kept_maps_are_the_trunk_s_whatever_is_in_the_batch():
    torch.manual_seed(0)
    network = build_network(tiny(freeze_trunk=True)).train()
    images = torch.randn(37, 3, 32, 32)
    expected = network.maps(images)
    network.keep_maps()
    with torch.inference_mode():
        first = network.maps(images[20:])
    again = network.maps(images)
    for level in (0, 1):
        torch.testing.assert_close(again[level], expected[level])
        assert torch.equal(first[level], again[level][20:])
    # What validation saw first can be trained on.
    network(images).square().sum().backward()
    assert network.queries.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.backbone.parameters())


def test_epochs_take_the_kept_views_in_turn(labelled_folder):
    config = TrainConfig(tiny(freeze_trunk=True), epochs=2, kept_views=3, validation_fraction=0, threads=1)
    pictures = RunPictures(config, load_image_folder(labelled_folder).train, ALONE, strict=True)
    rows = [np.arange(5)]
    views = [next(pictures.views(rows, outer, inner)).pictures for outer in range(3) for inner in range(2)]
    pictures.close()
    assert [next(at for at, other in enumerate(views) if np.array_equal(view, other)) for view in views] == [
        0,
        1,
        2,
    ] * 2


def test_views_are_kept_of_a_frozen_trunk_alone():
    with pytest.raises(UsageError, match="kept_views is 3: only a trunk that is not trained"):
        TrainConfig(tiny(), kept_views=3)
