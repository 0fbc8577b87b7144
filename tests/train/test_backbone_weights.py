"""Pretrained backbone weights: what is taken, and what is refused."""

import pickle
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor

from queryopt.errors import CheckpointError, MissingError, UsageError
from queryopt.train.backbone_weights import load_backbone_weights
from queryopt.train.network import QueryOpt
from queryopt.train.network_config import NetworkConfig


def tiny(seed: int = 0) -> QueryOpt:
    torch.manual_seed(seed)
    return QueryOpt(NetworkConfig(6, backbone="tiny", dim=32, feedforward=64, image_size=32))


def images(count: int, size: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(5))


def test_backbone_weights_of_torchvision_are_taken_under_any_prefix(tmp_path: Path) -> None:
    config = NetworkConfig(4, backbone="resnet18", image_size=64, dim=16, feedforward=16)
    torch.manual_seed(1)
    source = torchvision.models.resnet18(weights=None).eval()
    for i, prefix in enumerate(("", "module.", "_orig_mod.", "module._orig_mod.backbone.")):
        state = {prefix + name: value for name, value in source.state_dict().items()}
        if i == 1:
            torch.save({"state_dict": state, "epoch": 3}, tmp_path / "w.pth")
        elif i == 2:
            state = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
            torch.save(state, tmp_path / "w.pth")
        else:
            safetensors.torch.save_file(state, tmp_path / "w.safetensors")
        network = QueryOpt(config).eval()
        load_backbone_weights(network, tmp_path / ("w.pth" if i in {1, 2} else "w.safetensors"))
        with torch.no_grad():
            pooled = network.backbone(images(2, 64))[1].mean(dim=(2, 3))
            torch.testing.assert_close(source.fc(pooled), source(images(2, 64)))


def test_of_a_checkpoint_of_ours_the_backbone_is_taken(tmp_path: Path) -> None:
    source, network = tiny(seed=3), tiny(seed=4)
    head = network.head.weight.clone()
    safetensors.torch.save_file(source.state_dict(), tmp_path / "best.safetensors")
    load_backbone_weights(network, tmp_path / "best.safetensors")
    for name, value in source.backbone.state_dict().items():
        assert torch.equal(value, network.backbone.state_dict()[name])
    assert torch.equal(network.head.weight, head)


def test_none_leaves_the_weights() -> None:
    network = tiny()
    before = network.inference_weights()
    load_backbone_weights(network, "none")
    assert all(np.array_equal(before[name], value) for name, value in network.inference_weights().items())


class Payload:
    """A pickle that would leave a file behind if it were run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_malicious_pickle_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    torch.save({"stem": Payload(tmp_path / "ran")}, tmp_path / "z.pth")
    for name in ("w.pth", "z.pth"):
        with pytest.raises(CheckpointError, match=r"not executed|not a checkpoint"):
            load_backbone_weights(tiny(), tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_pickled_module_is_refused_with_a_way_out(tmp_path: Path) -> None:
    torch.save(tiny().backbone, tmp_path / "model.t")
    with pytest.raises(CheckpointError, match="on a machine that you trust"):
        load_backbone_weights(tiny(), tmp_path / "model.t")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("data", [b"", b"not weights", b"\x80\x02" * 50])
def test_a_file_of_something_else_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=name):
        load_backbone_weights(tiny(), tmp_path / name)


@pytest.mark.parametrize("value", [{}, [1, 2], {"stem": 3}, torch.zeros(2)])
def test_a_torch_file_without_named_tensors_is_refused(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth: .*no state dict"):
        load_backbone_weights(tiny(), tmp_path / "w.pth")


def test_missing_and_unexpected_names_are_listed(tmp_path: Path) -> None:
    state = tiny().backbone.state_dict()
    state["extra.weight"] = state.pop("stage4.conv2.weight")
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"missing stage4\.conv2\.weight; unexpected extra\.weight"):
        load_backbone_weights(tiny(), tmp_path / "w.safetensors")


def test_weights_beyond_the_backbones_are_refused(tmp_path: Path) -> None:
    state = {**tiny().backbone.state_dict(), **{f"extra.{i}": torch.zeros(1) for i in range(7)}}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"tiny: unexpected extra\.0, .*extra\.4 and 2 more"):
        load_backbone_weights(tiny(), tmp_path / "w.safetensors")


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    small = QueryOpt(NetworkConfig(4, backbone="small", image_size=32, dim=32, feedforward=64))
    safetensors.torch.save_file(small.backbone.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"is \[24\], but a tiny has \[8\]: these are another backbone's"):
        load_backbone_weights(tiny(), tmp_path / "w.safetensors")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, bad: float) -> None:
    state = tiny().backbone.state_dict()
    state["stage2.conv1.weight"].view(-1)[7] = bad
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"stage2\.conv1\.weight holds NaN or infinite"):
        load_backbone_weights(tiny(), tmp_path / "w.safetensors")


def test_a_refused_file_changes_nothing(tmp_path: Path) -> None:
    state = tiny(seed=3).backbone.state_dict()
    state["stage4.conv2.weight"] = state["stage4.conv2.weight"][:1]
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    network = tiny()
    before = network.inference_weights()
    with pytest.raises(CheckpointError):
        load_backbone_weights(network, tmp_path / "w.safetensors")
    assert all(np.array_equal(before[name], value) for name, value in network.inference_weights().items())


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"imagenett: no such file.*imagenet, none"):
        load_backbone_weights(tiny(), "imagenett")


def test_our_trunks_have_no_imagenet_weights() -> None:
    with pytest.raises(UsageError, match="no ImageNet weights for the backbone tiny"):
        load_backbone_weights(tiny(), "imagenet")


def test_imagenet_weights_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens on the discard port
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it would keep these proxies for every later test
    network = QueryOpt(NetworkConfig(4, backbone="resnet18", image_size=64, dim=16, feedforward=16))
    with pytest.raises(MissingError, match=r"https://.*resnet18.*give its path"):
        load_backbone_weights(network, "imagenet")


def test_imagenet_weights_come_from_torchs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that torch downloaded earlier serves without a network."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    (tmp_path / "checkpoints").mkdir()
    source = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(source, tmp_path / "checkpoints" / weights.url.split("/")[-1])
    network = QueryOpt(NetworkConfig(4, backbone="resnet18", image_size=64, dim=16, feedforward=16))
    load_backbone_weights(network, "imagenet")
    assert torch.equal(network.backbone.state_dict()["layer4.1.conv2.weight"], source["layer4.1.conv2.weight"])


def test_a_cut_off_file_in_torchs_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    name = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url.split("/")[-1]
    (tmp_path / "checkpoints" / name).write_bytes(b"PK\x03\x04 and no more")
    network = QueryOpt(NetworkConfig(4, backbone="resnet18", image_size=64, dim=16, feedforward=16))
    with pytest.raises(MissingError, match=r"put it into .*checkpoints"):
        load_backbone_weights(network, "imagenet")
