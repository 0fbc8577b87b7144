from itertools import takewhile

import numpy as np
import pytest
import torch
from torch import nn

from queryopt.card import Preprocessing
from queryopt.export.fold import REWRITES, fold, folded_multiply_adds
from queryopt.export.folded import FoldedNetwork, GatheredMemory, KeyScores
from queryopt.export.strip import multiply_adds
from queryopt.train.inputs import to_input
from queryopt.train.network import QueryOpt
from queryopt.train.network_config import NetworkConfig
from queryopt.train.trunks import BACKBONES

CASES = {
    "narrow dim, few bits": {"dim": 16, "bits": 3},  # narrower than the maps of the backbone "tiny": 24 channels
    "wide dim": {"bits": 5},
    "many bits": {"bits": 64},
    "merged upsampling": {"backbone": "small"},
    "resnet18": {"backbone": "resnet18", "image_size": 64, "bits": 3},
    "an odd grid": {"image_size": 40, "dim": 16},
    "without fusion": {"fusion": False, "bits": 3},
    "without queries": {"queries": False, "dim": 16},
    "without both": {"fusion": False, "queries": False},
}


@pytest.fixture(scope="module", params=CASES)
def shaken(request, make_network):
    """A float64 network none of whose weights, biases and statistics is 0 or 1. Not to be changed."""
    return shake(make_network(**CASES[request.param]))


def shake(network):
    network.double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.dim() == 1 and name.endswith(("weight", "bias", "running_mean", "running_var")):
                value += 0.3 * torch.rand(value.shape, generator=generator)
    return network


def pixels_for(network, count=2):
    size = network.config.image_size
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


@torch.no_grad()
def outputs_of(network):
    """Logits and attention (None without queries) of a trained network in its own dtype."""
    preprocessing = network.config.preprocessing
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (preprocessing.mean, preprocessing.std))
    x = ((pixels_for(network).double() / 255 - mean) / std).permute(0, 3, 1, 2).to(network.head.weight.dtype)
    return (network(x), None) if network.queries is None else network.forward_with_attention(x)


@torch.no_grad()
def folded_outputs_of(folded):
    return folded(pixels_for(folded).to(folded.head.weight.dtype))


def assert_same(got, expected, tolerance=1e-12):
    for a, b in zip(got, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(b.abs().max()), check_dtype=False)


def test_the_parts_before_any_rewrite_are_the_network(shaken):
    logits, attention = outputs_of(shaken)
    assert logits.abs().min() > 1e-6
    assert_same(folded_outputs_of(FoldedNetwork(shaken)), (logits, attention))


def test_the_parts_before_any_rewrite_run_in_the_network_s_own_precision(network):
    logits, attention = folded_outputs_of(FoldedNetwork(network))
    assert logits.dtype == attention.dtype == torch.float32
    assert_same((logits, attention), outputs_of(network), 1e-5)


@pytest.mark.parametrize("name", REWRITES)
def test_each_rewrite_is_exact_after_those_before_it(shaken, name):
    folded = FoldedNetwork(shaken)
    for before in takewhile(lambda other: other != name, REWRITES):
        REWRITES[before](folded)
    parts = str(folded)
    count = folded_multiply_adds(folded)
    done = REWRITES[name](folded)
    assert done or str(folded) == parts
    assert folded_multiply_adds(folded) <= count
    assert_same(folded_outputs_of(folded), outputs_of(shaken))


@pytest.mark.parametrize("name", [name for name in REWRITES if name != "decoder: queries into the keys' weights"])
def test_a_rewrite_alone_is_exact(make_network, name):
    network = make_network(3, dim=16).double()
    folded, report = fold(network, {name: REWRITES[name]})
    assert [step.name for step in report.steps] == [name]
    assert_same(folded_outputs_of(folded), outputs_of(network), 1e-5)


def test_every_rewrite_is_done_in_some_case(make_network):
    done = set()
    for case in ("narrow dim, few bits", "merged upsampling"):
        done |= {step.name for step in fold(make_network(**CASES[case]))[1].steps if step.done}
    assert done == set(REWRITES)


def test_folding_leaves_the_network_as_it_is_and_gives_float32_without_gradients(make_network):
    network = make_network().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded, _ = fold(network)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not folded.training
    assert {value.dtype for value in folded.state_dict().values()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_folds_and_costs_less(make_network, backbone):
    network = make_network(backbone=backbone, image_size=64, dim=16)
    folded, report = fold(network)
    assert report.before == multiply_adds(network, 1)
    assert report.after == folded_multiply_adds(folded) == report.before - sum(step.saved for step in report.steps)
    assert report.after < report.before
    assert_same(folded_outputs_of(folded), outputs_of(network), 1e-4)


def patches(count, size):
    """Generated pictures uint8 [count, size, size, 3] of coloured patches, few or many."""
    rng = np.random.default_rng(5)
    at = [np.arange(size) * cells // size for cells in rng.integers(2, 17, count)]
    return np.stack([rng.integers(0, 256, (a[-1] + 1, a[-1] + 1, 3), dtype=np.uint8)[a][:, a] for a in at])


@pytest.mark.parametrize("sharpen", [1, 8], ids=["untrained", "sharpened"])
@pytest.mark.parametrize("bits", [5, 48])
def test_in_float32_no_bit_flips_but_near_zero(make_network, bits, sharpen):
    network = make_network(bits, dim=16)
    with torch.no_grad():
        network.queries.mul_(sharpen)
        network.encoder.attention.query.weight.mul_(sharpen)
    folded, _ = fold(network)
    pixels = patches(200, 32)
    with torch.inference_mode():
        expected = network(to_input(pixels, Preprocessing.for_size(32)))
        logits, _ = folded(torch.from_numpy(pixels).float())
    assert len(np.unique(expected >= 0, axis=0)) > 5
    flipped = (logits >= 0) != (expected >= 0)
    assert not (flipped & (expected.abs() > 1e-4)).any()
    assert_same([logits], [expected], 1e-4)


def paper_network(bits):
    with torch.device("meta"):
        return QueryOpt(NetworkConfig(bits))


def test_the_paper_s_network_by_rewrite():
    _, report = fold(paper_network(12))
    assert (report.before, report.after) == (5_209_600_256, 5_024_701_696)
    assert {step.name: step.saved for step in report.steps if step.saved} == {
        "lateral convolution into the projection": 196 * (1024 * 1024 + 1024 * 384 - 2 * 1024 * 384),
        "decoder: queries and positions into constants": 12 * 384 * 384,
        "decoder: queries into the keys' weights": 245 * (384 * 384 + 12 * 384 - 8 * 12 * 384),
        "decoder: gather memory before values": 245 * 384 * (384 + 12 - 8 * 12) - 12 * 384 * 384,
    }


@pytest.mark.parametrize(("bits", "limit"), [(24, 5.066e9), (32, 5.093e9), (48, 5.144e9)])
def test_the_paper_s_network_at_other_lengths(bits, limit):
    assert fold(paper_network(bits))[1].after <= limit


@pytest.mark.parametrize(("bits", "scores", "values"), [(44, True, True), (45, True, False), (55, False, False)])
def test_what_is_cheaper_depends_on_the_number_of_queries(bits, scores, values):
    folded, _ = fold(paper_network(bits))
    assert isinstance(folded.decoder.scores, KeyScores) is scores
    assert isinstance(folded.decoder.values, GatheredMemory) is values


@pytest.mark.parametrize(
    ("backbone", "left"),
    [
        ("tf_efficientnet_lite0", 0),  # depthwise convolutions, activations inside the norms, another padding
        ("mobilenetv3_small_050", 0),  # squeeze-and-excite between them
        ("vit_tiny_patch16_224", 0),  # no BatchNorm
        ("repvgg_a0", 17),  # branches that are a norm alone
        ("nf_resnet26", 0),  # standardised convolutions: nothing may go into their weights
    ],
)
def test_trunks_of_timm_are_folded_exactly(make_network, backbone, left):
    network = shake(make_network(bits=3, backbone=backbone, image_size=64, dim=16)).float()
    folded, report = fold(network)
    assert_same(folded_outputs_of(folded), outputs_of(network), 1e-4)
    assert len(report.norms_left) == left
    assert report.after < report.before


def test_a_batch_norm_that_follows_no_convolution_stays_and_is_named(make_network):
    network = make_network().double()
    network.backbone.stem.insert(0, nn.BatchNorm2d(3).double().eval())
    network.backbone.stem.insert(3, nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm2d(8).double().eval()))
    folded, report = fold(network)
    assert report.norms_left == ("backbone.stem.0", "backbone.stem.3.1")
    assert next(step.name for step in report.steps if not step.done).startswith("scale of the pixels")
    assert_same(folded_outputs_of(folded), outputs_of(network), 1e-5)
