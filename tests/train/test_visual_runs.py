"""Runs whose codes are read off the trunk: when they are, and that stopping changes nothing."""

import json

import numpy as np
import pytest
import torch

from queryopt.errors import UsageError
from queryopt.train import preset_config, train
from queryopt.train.checkpoint import BEST, LAST, METRICS
from queryopt.train.data import load_image_folder, split_validation

pytestmark = pytest.mark.usefixtures("undrawn")

SETTINGS = {"samples": 40, "bits": 8, "branches": 2, "threads": 1, "epochs": 2, "hold": 1, "codes": "visual"}
WARMED_UP = {"iterations": 3, "warm_up": 1, "hold": 0}


def run_of(root, out, resume=False, **changes):
    config = preset_config("tiny", **{**SETTINGS, "data": str(root), **changes})
    train(config, root, out, resume=resume)
    return torch.load(out / LAST, weights_only=True)


def per_class(codes, root):
    images, _ = split_validation(load_image_folder(root, seed=42).train, 0.1, 42)
    return [np.unique(codes[images.labels == label].numpy(), axis=0) for label in range(4)]


def stop_after(steps):
    def report(line):
        if (line["outer"], line["inner"]) == steps:
            raise KeyboardInterrupt

    return report


def test_codes_are_read_after_the_warm_up_and_held(labelled_folder, tmp_path):
    last = run_of(labelled_folder, tmp_path / "run", iterations=3, warm_up=1)
    changed = [
        line["codes_changed"]
        for line in map(json.loads, (tmp_path / "run" / METRICS).read_text().splitlines())
        if "codes_changed" in line
    ]
    assert changed[0] > 0  # separated codes before, visual ones after
    assert changed[1] == 0  # held
    assert last["codes"].shape[1] == 16
    warm = run_of(labelled_folder, tmp_path / "held", iterations=3, warm_up=1, hold_solver=True)
    rows = per_class(warm["codes"], labelled_folder)
    assert [len(row) for row in rows] == [1] * 4
    assert len(np.unique(np.concatenate(rows)[:, :8], axis=0)) == 4


def test_without_a_warm_up_they_are_those_of_the_trunk_that_it_starts_with(labelled_folder, tmp_path):
    weights = tmp_path / "trunk.pt"
    trained = run_of(labelled_folder, tmp_path / "other", iterations=1, epochs=1, warm_up=0)["model"]
    torch.save({k[9:]: v for k, v in trained.items() if k.startswith("backbone.")}, weights)
    settings = {"iterations": 1, "hold_solver": True}
    first = run_of(labelled_folder, tmp_path / "a", weights=str(weights), **settings)["codes"]
    again = run_of(labelled_folder, tmp_path / "b", weights=str(weights), **settings, lr=0.01)["codes"]
    random = run_of(labelled_folder, tmp_path / "c", **settings, warm_up=0)["codes"]
    assert torch.equal(first, again)
    assert not torch.equal(first, random)


@pytest.fixture(scope="module")
def whole_run(labelled_folder, tmp_path_factory):
    """A run that nothing stopped, which is warmed up first."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    run_of(labelled_folder, run, **WARMED_UP)
    return run


@pytest.mark.parametrize("at", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_run_that_stopped_around_the_warm_up_ends_with_the_same_bits(whole_run, labelled_folder, tmp_path, at):
    config = preset_config("tiny", **{**SETTINGS, "data": str(labelled_folder), **WARMED_UP})
    with pytest.raises(KeyboardInterrupt):
        train(config, labelled_folder, tmp_path / "run", report=stop_after(at))
    resumed = run_of(labelled_folder, tmp_path / "run", resume=True, **WARMED_UP)
    whole = torch.load(whole_run / LAST, weights_only=True)
    assert (tmp_path / "run" / BEST).read_bytes() == (whole_run / BEST).read_bytes()
    for key in ("codes", "outputs"):
        assert torch.equal(resumed[key], whole[key])
    assert all(torch.equal(resumed["model"][key], value) for key, value in whole["model"].items())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"codes": "separated", "warm_up": 1}, "only visual"),
        ({"codes": "visual", "warm_up": 2, "iterations": 2}, "none would be left"),
        ({"codes": "visual", "method": "hashnet"}, "no use for"),
    ],
)
def test_what_makes_no_sense_is_refused(values, said):
    with pytest.raises(UsageError, match=said):
        preset_config("tiny", **values)


def test_one_branch_and_no_solver_unless_something_else_is_given():
    assert preset_config("small", codes="visual").hold_solver
    assert not preset_config("small", codes="visual", hold=4).hold_solver
    assert not preset_config("small").hold_solver
    assert preset_config("small", codes="visual").network.branches == 1
    assert preset_config("small", codes="visual", branches=8).network.branches == 8
    assert preset_config("small").network.branches == 2
