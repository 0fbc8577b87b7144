import numpy as np
import pytest
import torch

from queryopt.card import Preprocessing
from queryopt.codes import pack_codes
from queryopt.train.inputs import to_input
from queryopt.train.measuring import network_codes, validate
from queryopt.train.network import QueryOpt
from queryopt.train.presets import preset_config


def test_network_codes_are_the_signs_of_the_deployed_logits_and_leave_the_mode():
    torch.manual_seed(0)
    network = QueryOpt(preset_config("tiny").network).train()
    pictures = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    preprocessing = Preprocessing.for_size(32)
    codes = network_codes(network, iter([pictures[:3], pictures[3:]]), preprocessing)
    assert network.training
    with torch.inference_mode():
        logits = network.eval()(to_input(pictures, preprocessing)).numpy()
    assert np.array_equal(codes, pack_codes(logits >= 0))
    assert network_codes(network, iter([]), preprocessing).shape == (0, 2)


def test_validation_tells_both_galleries_apart():
    labels = np.array([0, 0, 1, 1])
    good = pack_codes(np.array([[0] * 8, [0] * 8, [1] * 8, [1] * 8]))
    useless = pack_codes(np.zeros((4, 8), int))
    supervised = torch.from_numpy(np.repeat([[-1.0], [-1.0], [1.0], [1.0]], 16, axis=1))
    supervised[:, 8:] = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])  # of another branch: they don't count
    result = validate(good, useless, supervised, 8, labels, labels)
    assert result.map_paper == 1.0
    assert result.map == pytest.approx(result.chance)
    swapped = validate(good, good, -supervised, 8, labels, labels)
    assert (swapped.map, swapped.map_paper < result.chance) == (1.0, True)


def test_codes_of_one_bit_are_measured_too():
    labels, bits = np.array([0, 1]), pack_codes(np.array([[0], [1]]))
    assert validate(bits, bits, torch.tensor([[-1.0], [1.0]]), 1, labels, labels).map == 1.0


def test_validation_says_what_is_wrong_with_the_gallerys_codes():
    labels, codes = np.arange(60) % 2, pack_codes(np.zeros((60, 8), int))
    result = validate(codes, codes, torch.ones(60, 8), 8, labels, labels)
    assert result.warnings == ("all 60 pictures have one and the same code: the model tells nothing apart",)
