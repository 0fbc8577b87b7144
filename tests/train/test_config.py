"""A configuration survives its own JSON, refuses nonsense, and says what differs."""

import json

import pytest

from queryopt.errors import FormatError, UsageError
from queryopt.train.config import TrainConfig
from queryopt.train.presets import PRESETS, preset_config


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json(name):
    config = preset_config(name)
    assert TrainConfig.from_json(config.to_json(), "x") == config


def test_the_papers_presets_are_the_papers_numbers():
    runs = {
        "cub200": (40, 30, 2000, 30),
        "aircraft": (40, 30, 2000, 30),
        "food101": (120, 10, 2000, 90),
        "nabirds": (50, 30, 4000, 30),
        "vegfru": (50, 30, 4000, 30),
    }
    for name, (iterations, epochs, samples, step) in runs.items():
        config = preset_config(f"paper-{name}", bits=32)
        assert (config.iterations, config.epochs, config.samples, config.lr_steps) == (
            iterations,
            epochs,
            samples,
            (step,),
        )
        assert (config.optimizer, config.lr, config.weight_decay, config.batch) == ("sgd", 3e-4, 1e-4, 16)
        assert (config.schedule, config.gamma, config.scale_gamma, config.seed) == ("steps", 200, False, 42)
        assert (config.codes, config.hold, config.hold_solver, config.validation_fraction) == ("noise", 0, False, 0)
        assert (config.weights, config.network.freeze, config.network.branches) == ("imagenet", True, 3)
        assert (config.network.backbone, config.network.image_size, config.network.dim) == ("resnet50", 224, 384)


def test_what_goes_together_follows():
    assert preset_config("small", bits=12).network.branches == 4
    assert preset_config("small", bits=12, branches=1).network.branches == 1
    assert preset_config("small", queries=False).network.branches == 1
    assert preset_config("default", backbone="small").weights == "none"
    assert not preset_config("default", weights="none").network.freeze
    assert preset_config("small").effective_gamma(5994 // 2) == pytest.approx(100)
    assert preset_config("small", gamma=30.0).effective_gamma(100) == 30
    assert preset_config("small", gamma=30.0, scale_gamma=True).effective_gamma(5994 // 2) == pytest.approx(15)
    assert (preset_config("small").hold, preset_config("small", codes="noise").hold) == (8, 0)
    assert preset_config("small", codes="noise", hold=3).hold == 3


@pytest.mark.parametrize(
    "values",
    [
        {"batch": 0},
        {"epochs": -1},
        {"iterations": True},
        {"lr": float("nan")},
        {"lr": 0.0},
        {"lr": 1e308},
        {"weight_decay": 1e308},
        {"gamma": -1.0},
        {"validation_fraction": 1.0},
        {"crop_scale": (0.5, 0.2)},
        {"crop_scale": 0.5},
        {"lr_steps": (0,)},
        {"lr_steps": 30},
        {"samples": 1},
        {"threads": 0},
        {"bits": 65},
    ],
)
def test_nonsense_is_refused_by_name(values):
    with pytest.raises(UsageError, match=next(iter(values))):
        preset_config("tiny", **values)


@pytest.mark.parametrize(
    ("call", "suggestion"),
    [
        (lambda: preset_config("smal"), "did you mean small"),
        (lambda: preset_config("tiny", bit=3), "did you mean bits"),
        (lambda: preset_config("tiny", optimizer="adam"), "did you mean adamw"),
    ],
)
def test_wrong_names_get_a_suggestion(call, suggestion):
    with pytest.raises(UsageError, match=suggestion):
        call()


def test_a_list_is_as_good_as_a_tuple():
    assert preset_config("tiny", lr_steps=[3], crop_scale=[0.5, 1.0]) == preset_config(
        "tiny", lr_steps=(3,), crop_scale=(0.5, 1.0)
    )


def test_differences_name_the_field_and_both_values():
    a, b = preset_config("tiny"), preset_config("tiny", lr=0.5, bits=8, branches=2, threads=1)
    assert a.differences(b) == ["lr: 0.5, not 0.001", "bits: 8, not 12"]
    assert a.differences(a) == []
    assert a.differences(preset_config("tiny", data="/moved", device="cpu")) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format_version": 2}, "upgrade"),
        ({"format_version": None}, "damaged"),
        ({"network": 3}, "not a training configuration"),
        ({"extra": 3}, "extra"),
        ({"lr": "fast"}, "lr"),
        ({"batch": 2.5}, "batch"),
        ({"lr_steps": 3}, "damaged"),
    ],
)
def test_damaged_configurations_are_refused(change, said):
    values = {**preset_config("tiny").to_dict(), **change}
    with pytest.raises(FormatError, match=said):
        TrainConfig.from_json(json.dumps(values), "run/config.json")
