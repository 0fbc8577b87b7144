"""The network: its size, its branches, its switches and its limits."""

import numpy as np
import pytest
import torch
from torch import Tensor

from queryopt.errors import UsageError
from queryopt.train.network import QueryOpt, roll_queries
from queryopt.train.network_config import NetworkConfig, default_branches
from queryopt.train.trunks import BACKBONES


def tiny(bits: int = 6, seed: int = 0, **values: object) -> QueryOpt:
    settings = {"backbone": "tiny", "dim": 32, "feedforward": 64, "image_size": 32, "branches": 4}
    torch.manual_seed(seed)
    return QueryOpt(NetworkConfig.from_dict({"bits": bits, **settings, **values}))


def images(count: int = 3, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(5))


# Size


@pytest.mark.parametrize(
    ("bits", "trainable", "everything"),
    [
        (12, 31_713_664, 31_939_008),
        (24, 31_718_272, 31_943_616),
        (32, 31_721_344, 31_946_688),
        (48, 31_727_488, 31_952_832),
    ],
)
def test_parameters_are_the_papers(bits: int, trainable: int, everything: int) -> None:
    with torch.device("meta"):
        network = QueryOpt(NetworkConfig(bits))
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == trainable
    assert sum(p.numel() for p in network.parameters()) == everything


@pytest.mark.parametrize("branches", [1, 8, 384])
def test_branches_have_no_parameters_of_their_own(branches: int) -> None:
    assert set(tiny(branches=branches).state_dict()) == set(tiny(branches=2).state_dict())


def test_small_trunk_has_about_half_a_million_parameters() -> None:
    network = QueryOpt(NetworkConfig(12, backbone="small", dim=128, feedforward=256, image_size=64))
    assert sum(p.numel() for p in network.backbone.parameters()) == 558_264


def test_tiny_network_fits_a_fixture() -> None:
    assert sum(a.nbytes for a in tiny(bits=16).inference_weights().values()) < 300_000


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [64, 224, 90])
def test_backbone_maps_have_the_shapes_of_the_spec(name: str, size: int) -> None:
    config = NetworkConfig(12, backbone=name, image_size=min(size, 200) if name in {"small", "tiny"} else size)
    with torch.device("meta"):
        maps = QueryOpt(config).backbone(torch.zeros(2, 3, config.image_size, config.image_size))
    assert [tuple(m.shape) for m in maps] == [
        (2, channels, side, side) for channels, side in zip(config.spec.channels, config.grids, strict=True)
    ]


# Branches (eq. 10)


@pytest.mark.parametrize("branches", [1, 2, 3, 8, 16, 21])
def test_rolls_are_those_of_equation_10(branches: int) -> None:
    bits, dim = 3, 16
    queries = torch.arange(bits * dim, dtype=torch.float32).reshape(bits, dim)
    rolled = roll_queries(queries, branches)
    assert rolled.shape == (branches * bits, dim)
    for roll in range(branches):
        shift = roll * dim // branches
        for query in range(bits):
            for position in range(dim):
                assert rolled[roll * bits + query, (position + shift) % dim] == queries[query, position]


@torch.no_grad()
@pytest.mark.parametrize("branches", [1, 2, 5, 384])
def test_first_columns_are_the_code_whatever_the_branches(branches: int) -> None:
    network = tiny().eval()
    every = network(images(), branches)
    assert every.shape == (3, 6 * branches)
    torch.testing.assert_close(every[:, :6], network(images()), atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_column_is_roll_times_bits_plus_query() -> None:
    network = tiny(dim=32).eval()
    every = network(images(), 4)
    assert network.queries is not None
    network.queries.copy_(torch.roll(network.queries, 2 * 32 // 4, dims=1))
    torch.testing.assert_close(network(images()), every[:, 2 * 6 : 3 * 6], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(every[:, :6], every[:, 6:12])


def test_branches_run_in_train_mode_and_not_in_eval_mode() -> None:
    network = tiny()
    assert network.train()(images()).shape == (3, 24)
    assert network.eval()(images()).shape == (3, 6)


@pytest.mark.parametrize(("bits", "branches"), [(1, 96), (12, 8), (24, 4), (36, 2), (48, 2), (64, 1)])
def test_default_branches_fill_96_columns(bits: int, branches: int) -> None:
    assert default_branches(bits) == branches == NetworkConfig(bits).branches


def test_every_trainable_parameter_gets_a_gradient() -> None:
    network = tiny()
    network(images()).square().sum().backward()
    without = [
        name for name, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    # Softmax doesn't see the keys' bias: its gradient is rounding at most.
    assert [name for name in without if not name.endswith("attention.key.bias")] == []


def test_weights_start_as_the_paper_says() -> None:
    """Queries N(0, 1), positions U(0, 1); convolutions by Kaiming's rule over what goes out."""
    network = tiny(bits=64, dim=128)
    assert network.queries is not None
    assert network.queries.mean().item() == pytest.approx(0, abs=0.05)
    assert network.queries.std().item() == pytest.approx(1, abs=0.05)
    assert network.positions is not None
    for part in (network.positions.column, network.positions.row):
        assert (part.min().item() >= 0, part.max().item() <= 1) == (True, True)
        assert part.mean().item() == pytest.approx(0.5, abs=0.05)
    wide = QueryOpt(NetworkConfig(12, dim=64, feedforward=64))  # ResNet-50: 3 x 3 convolutions of 256 to 256 channels
    assert wide.fusion is not None
    for module in (m for m in wide.fusion.modules() if isinstance(m, torch.nn.Conv2d)):
        fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1] // module.groups
        assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)


# Logits and attention


@torch.no_grad()
def test_logits_are_bounded_by_the_logit_scale() -> None:
    network = tiny().eval()
    logits = network(images())
    assert 0 < logits.abs().max().item() <= network.logit_scale
    before = network.logit_scale
    network.head.weight *= 3
    torch.testing.assert_close(network(images()), 3 * logits)
    assert network.logit_scale == pytest.approx(3 * before)


@torch.no_grad()
@pytest.mark.parametrize("queries", [True, False])
def test_a_logit_is_a_cosine_times_the_logit_scale(queries: bool) -> None:
    """w . y / |y|: the length of what the network says of a bit doesn't count."""
    network = tiny(queries=queries, branches=1).eval()
    before = network(images())
    last = network.decoder.final_norm if network.decoder is not None else network.encoder.feedforward_norm  # type: ignore[union-attr]
    last.weight.mul_(5)
    last.bias.mul_(5)
    torch.testing.assert_close(network(images()), before)


@torch.no_grad()
def test_attention_is_where_each_query_looked() -> None:
    network = tiny().eval()
    logits, attention = network.forward_with_attention(images())
    torch.testing.assert_close(logits, network(images()))
    assert attention.shape == (3, 6, network.config.tokens) == (3, 6, 4 * 4 + 2 * 2)
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(3, 6))


@torch.no_grad()
def test_positions_are_column_then_row_and_the_grids_follow_each_other() -> None:
    network = tiny()
    assert network.positions is not None
    column, row = network.positions.column, network.positions.row
    positions = network.positions()
    assert positions.shape == (20, 32)
    for y, x in ((0, 3), (2, 1)):
        assert torch.equal(positions[y * 4 + x], torch.cat((column[x], row[y])))
    for y, x in ((0, 1), (1, 0)):
        assert torch.equal(positions[16 + y * 2 + x], torch.cat((column[4 + x], row[4 + y])))


# Ablations


@torch.no_grad()
@pytest.mark.parametrize("fusion", [True, False])
@pytest.mark.parametrize("queries", [True, False])
def test_ablations_run(fusion: bool, queries: bool) -> None:
    network = tiny(fusion=fusion, queries=queries, branches=4 if queries else 1)
    assert network.train()(images()).shape == (3, 24 if queries else 6)
    logits = network.eval()(images())
    assert logits.shape == (3, 6)
    assert logits.abs().max().item() <= network.logit_scale
    names = {name.split(".")[0] for name in network.state_dict()}
    assert ({"fusion", "encoder"} <= names) == fusion
    assert ({"queries", "decoder"} <= names) == queries


@torch.no_grad()
def test_without_fusion_the_memory_is_the_last_stage() -> None:
    network = tiny(fusion=False).eval()
    assert network.config.tokens == 4
    _, attention = network.forward_with_attention(images())
    assert attention.shape == (3, 6, 4)


def test_without_queries_there_is_nothing_to_roll_or_to_show() -> None:
    network = tiny(queries=False, branches=1).eval()
    with pytest.raises(UsageError, match="no queries to roll"):
        network(images(), 2)
    with pytest.raises(UsageError, match="without queries"):
        network.forward_with_attention(images())


# Freezing


def test_first_layers_of_a_resnet_are_frozen_but_their_statistics_move() -> None:
    network = QueryOpt(NetworkConfig(4, backbone="resnet18", image_size=64, dim=16, feedforward=16, branches=1))
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert {".".join(name.split(".")[:2]) for name in frozen} == {"backbone.conv1", "backbone.bn1", "backbone.layer1"}
    assert all(not p.requires_grad for n, p in network.named_parameters() if n.startswith("backbone.layer1"))
    before = network.backbone.bn1.running_mean.clone()  # type: ignore[union-attr, operator]
    network.train()(images(2, 64))
    assert not torch.equal(before, network.backbone.bn1.running_mean)  # type: ignore[union-attr, arg-type]


def test_nothing_is_frozen_where_asked_or_where_the_trunk_is_ours() -> None:
    resnet = NetworkConfig(4, backbone="resnet18", image_size=64, dim=16, feedforward=16, freeze=False)
    for network in (tiny(), QueryOpt(resnet)):
        assert all(p.requires_grad for p in network.parameters())


def test_parameter_groups_hold_each_trainable_parameter_once() -> None:
    network = QueryOpt(NetworkConfig(4, backbone="resnet18", image_size=64, dim=16, feedforward=16))
    groups = network.parameter_groups()
    assert [group["name"] for group in groups] == ["backbone", "new"]
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in network.parameters() if p.requires_grad}
    assert sum(len(g["params"]) for g in groups) == sum(p.requires_grad for p in network.parameters())
    assert {id(p) for p in groups[0]["params"]} <= {id(p) for p in network.backbone.parameters()}


# Sizes of images


@torch.no_grad()
@pytest.mark.parametrize("size", [17, 33, 48, 64, 100, 200])
def test_other_image_sizes(size: int) -> None:
    network = tiny(image_size=size).eval()
    logits, attention = network.forward_with_attention(images(2, size))
    assert logits.shape == (2, 6)
    assert attention.shape == (2, 6, network.config.tokens)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\[2, 3, 40, 40\].*\[batch, 3, 32, 32\]"):
        tiny()(images(2, 40))


# Configuration


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bits": 0}, "1 to 64"),
        ({"bits": 65}, "1 to 64"),
        ({"bits": "12"}, "1 to 64"),
        ({"bits": 12, "backbone": "resnet05"}, "did you mean resnet50"),
        ({"bits": 12, "backbone": "vit"}, "resnet18, resnet34"),
        ({"bits": 12, "branches": 0}, "branches is 0"),
        ({"bits": 12, "branches": 385}, "1 to 384"),
        ({"bits": 12, "branches": 2.0}, "branches is 2.0"),
        ({"bits": 12, "queries": False, "branches": 2}, "nothing to roll"),
        ({"bits": 12, "dim": 100, "heads": 8}, "multiple of heads"),
        ({"bits": 12, "dim": 33, "heads": 3}, "even"),
        ({"bits": 12, "image_size": 32}, "more than 32"),
        ({"bits": 12, "image_size": 576}, "36x36 and 18x18.*at most 528"),
        ({"bits": 12, "backbone": "tiny", "image_size": 300}, "at most 264"),
        ({"bits": 12, "fusion": "no"}, "true or false"),
        ({"bits": 12, "feedforward": True}, "whole number"),
        ({"bits": 12, "width": 3}, "unknown entries width"),
        ({"backbone": "tiny"}, "no entry bits"),
    ],
)
def test_impossible_configurations(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        NetworkConfig.from_dict(values)


@pytest.mark.parametrize(("backbone", "largest"), [("resnet50", 528), ("tiny", 264)])
def test_the_largest_image_that_the_error_names_is_possible(backbone: str, largest: int) -> None:
    assert sum(NetworkConfig(12, backbone=backbone, image_size=largest).grids) <= 50
    with pytest.raises(UsageError):
        NetworkConfig(12, backbone=backbone, image_size=largest + 1)


def test_config_survives_a_dictionary() -> None:
    config = NetworkConfig(24, backbone="resnet18", fusion=False, image_size=128, freeze=False)
    assert NetworkConfig.from_dict(config.to_dict()) == config


# Weights


@torch.no_grad()
def test_state_dict_makes_the_same_network() -> None:
    network = tiny()
    network.train()(images())
    network.eval()
    other = tiny(seed=1).eval()
    assert not torch.allclose(network(images()), other(images()))
    other.load_state_dict(network.state_dict())
    assert torch.equal(network(images()), other(images()))


def test_inference_weights_are_all_that_inference_needs() -> None:
    network = tiny()
    weights = network.inference_weights()
    assert {a.dtype for a in weights.values()} == {np.dtype(np.float32)}
    assert set(weights) == {n for n in network.state_dict() if not n.endswith("num_batches_tracked")}
    other = tiny(seed=1)
    other.load_state_dict({n: torch.from_numpy(a) for n, a in weights.items()}, strict=False)
    with torch.no_grad():
        assert torch.equal(network.eval()(images()), other.eval()(images()))
