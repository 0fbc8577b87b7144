"""The codes that a run solved, read back from its last.pt."""

import numpy as np
import pytest
import torch

from queryopt.card import Preprocessing, fingerprint
from queryopt.codes import unpack_codes
from queryopt.errors import CheckpointError, MismatchError, UsageError
from queryopt.train.config import TrainConfig
from queryopt.train.data import load_image_folder
from queryopt.train.methods import build_network
from queryopt.train.presets import preset_config
from queryopt.train.runs import Position, RunFolder, RunState
from queryopt.train.solved import load_solved_codes, model_iteration


@pytest.fixture
def images(labelled_folder):
    return load_image_folder(labelled_folder).train


def save(path, images, method="queryopt", best=2, outer=3, skipped=()):
    """A run folder whose best and last checkpoint differ. Returns B [n, M] and the two networks."""
    config = preset_config("tiny", method=method)
    networks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        networks.append(build_network(config.network))
    codes = torch.randn(len(images), config.network.bits * config.network.branches)
    state = RunState(
        weights=networks[1].state_dict(),
        optimizer={},
        codes=codes,
        outputs=torch.zeros(0),
        position=Position(outer),
        data=images.digest(),
        best={"iteration": best},
        skipped=dict.fromkeys(skipped, "cut off"),
    )
    with RunFolder(path) as folder:
        folder.save_last(state, config)
        folder.save_best(networks[0].state_dict(), config)
    return codes, networks


def test_the_first_columns_are_the_code_and_what_could_not_be_read_is_marked(tmp_path, images):
    codes, _ = save(tmp_path / "run", images, skipped=[images.paths[3], "a validation picture.png"])
    solved = load_solved_codes(tmp_path / "run", images)
    assert np.array_equal(unpack_codes(solved.codes, solved.bits), codes[:, : solved.bits].numpy() >= 0)
    assert np.flatnonzero(~solved.readable).tolist() == [3]
    assert (solved.iteration, len(solved.codes)) == (3, len(images))


def test_a_model_is_known_by_its_weights(tmp_path, images):
    _, networks = save(tmp_path / "run", images)
    config: TrainConfig = preset_config("tiny")
    prints = [
        fingerprint(network.inference_weights(), Preprocessing.for_size(config.network.image_size), config.network.bits)
        for network in networks
    ]
    assert [model_iteration(tmp_path / "run", one) for one in prints] == [2, 3]
    assert model_iteration(tmp_path / "run", "0" * 64) is None


def test_other_pictures_and_runs_without_codes_are_refused(tmp_path, images):
    save(tmp_path / "run", images)
    with pytest.raises(MismatchError, match=r"are not those that the run in .*\(95 now, 96 then\)"):
        load_solved_codes(tmp_path / "run", images.subset(np.arange(1, len(images))))
    save(tmp_path / "new", images, outer=0)
    with pytest.raises(UsageError, match="no outer iteration is done yet"):
        load_solved_codes(tmp_path / "new", images)
    save(tmp_path / "pairs", images, method="dpsh")
    with pytest.raises(UsageError, match="dpsh solves no codes"):
        load_solved_codes(tmp_path / "pairs", images)
    with pytest.raises(CheckpointError, match="no such file, and it alone holds"):
        load_solved_codes(tmp_path, images)
