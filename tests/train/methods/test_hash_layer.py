"""The network of the methods without queries: deployed logits keep the contract, training sees the plain layer."""

import numpy as np
import pytest
import torch

from queryopt.errors import UsageError
from queryopt.train.backbone_weights import load_backbone_weights
from queryopt.train.hash_network import HashNetwork
from queryopt.train.methods import build_network
from queryopt.train.network_config import NetworkConfig


def hash_layer(bits: int = 6, **values: object) -> HashNetwork:
    torch.manual_seed(0)
    settings = {"backbone": "tiny", "image_size": 32, "method": "adsh", "freeze": False}
    network = build_network(NetworkConfig.from_dict({"bits": bits, **settings, **values}))
    with torch.no_grad():
        network.head.bias.normal_()
    return network


def test_training_sees_the_layer_and_deployment_the_same_bits_within_the_scale() -> None:
    network = hash_layer()
    images = torch.randn(5, 3, 32, 32)
    network.backbone.eval()  # the same features in both modes
    features = network.backbone(images)[1].mean(dim=(2, 3))
    network.training = True
    plain = network(images)
    torch.testing.assert_close(plain, features @ network.head.weight.T + network.head.bias)
    network.training = False
    deployed = network(images)
    y = torch.cat([features, torch.ones(5, 1)], dim=1)
    w = torch.cat([network.head.weight, network.head.bias[:, None]], dim=1)
    torch.testing.assert_close(deployed, (y / y.norm(dim=1, keepdim=True)) @ w.T)
    assert torch.equal(deployed >= 0, plain >= 0)
    assert network.logit_scale == pytest.approx(float(w.detach().norm(dim=1).max()))
    assert bool((deployed.abs() <= network.logit_scale).all())


def test_it_has_one_branch_and_no_attention() -> None:
    network = hash_layer().eval()
    images = torch.zeros(1, 3, 32, 32)
    assert network(images, branches=1).shape == (1, 6)
    with pytest.raises(UsageError, match="no queries to roll"):
        network(images, branches=2)
    with pytest.raises(UsageError, match="no attention"):
        network.forward_with_attention(images)
    with pytest.raises(UsageError, match="this network takes"):
        network(torch.zeros(1, 3, 40, 40))
    assert network.training_parts() == []


def test_the_hash_layer_starts_small_as_published() -> None:
    torch.manual_seed(0)
    network = build_network(NetworkConfig(48, backbone="small", image_size=64, method="hashnet"))
    assert float(network.head.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    assert not bool(network.head.bias.any())


def test_frozen_layers_and_backbone_weights_as_in_queryopt(tmp_path) -> None:
    network = hash_layer(4, backbone="resnet18", image_size=64, freeze=True)
    names = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert {name.split(".")[1] for name in names} == {"conv1", "bn1", "layer1"}
    groups = {group["name"]: group["params"] for group in network.parameter_groups()}
    assert {id(p) for p in groups["new"]} == {id(network.head.weight), id(network.head.bias)}
    torch.save(
        hash_layer(4, backbone="resnet18", image_size=64, method="dpsh").backbone.state_dict(), tmp_path / "w.pt"
    )
    load_backbone_weights(network, tmp_path / "w.pt")


def test_a_large_picture_has_no_positions_to_run_out_of() -> None:
    assert NetworkConfig(4, backbone="tiny", image_size=512, method="adsh").grids == (64, 32)
    with pytest.raises(UsageError, match="position indices"):
        NetworkConfig(4, backbone="tiny", image_size=512)


def test_inference_weights_cover_the_bias_and_not_the_class_weights() -> None:
    network = hash_layer(classes=3)
    weights = network.inference_weights()
    assert {"head.weight", "head.bias"} <= set(weights)
    assert not [name for name in weights if name.startswith("classifier")]
    assert all(array.dtype == np.float32 for array in weights.values())
