"""The benchmark of the training step: that its parts add up, and that it takes the steps that a run takes."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from queryopt.bench.cli.bench import main
from queryopt.bench.speed.train_step import PARTS, WAYS, made_images, measure_step, training_images
from queryopt.errors import InputError, UsageError
from queryopt.train import preset_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("ash", "elm"):
        (root / name).mkdir()
        for number in range(20):
            Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(root / name / f"{number:02}.png")
    return root


def config_of(folder, **changes):
    settings = {"bits": 8, "batch": 6, "samples": 24, "threads": 1, **changes}
    return preset_config("tiny", data=str(folder), **settings)


def qo_bench(*arguments):
    return CliRunner().invoke(main, ["train-step", *map(str, arguments)])


def test_the_parts_are_those_of_every_step(folder):
    config = config_of(folder)
    speed = measure_step(config, training_images(config), steps=3, rounds=2).values
    assert tuple(speed["ways"]) == tuple(WAYS)
    for way, times in speed["ways"].items():
        assert tuple(times["parts"]) == PARTS
        assert {len(seconds) for seconds in times["parts"].values()} == {6}
        assert all(np.isfinite(seconds).all() for seconds in times["parts"].values())
        summary = speed["summary"][way]["parts"]
        assert sum(summary[part]["share"] for part in PARTS) == pytest.approx(1)
        steps = np.sum(list(times["parts"].values()), axis=0)
        assert summary["step"]["median"] == pytest.approx(np.median(steps))
    assert (len(speed["solver"]), speed["epoch_steps"], speed["epochs"]) == (2, 4, 1)
    assert speed["solver_a_step"] * 4 == pytest.approx(np.median(speed["solver"]))
    assert speed["kept"] == 1
    assert speed["images"] == 29  # 40, without a fifth for tests and a tenth of the rest for validation


def test_what_a_run_does_not_do_is_not_measured(folder):
    config = config_of(folder, method="hashnet", classification_weight=0.5)
    speed = measure_step(config, training_images(config), steps=2, rounds=1).values
    assert (speed["solver"], speed["solver_a_step"], speed["method"]) == ([], 0, "hashnet")
    held = config_of(folder, hold_solver=True)
    assert measure_step(held, training_images(held), steps=1, rounds=1).values["solver"] == []


def test_unreadable_pictures_are_left_out_and_none_left_is_an_error(folder, tmp_path):
    config = config_of(folder)
    images = training_images(config)
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "b.png").write_bytes((folder / images.paths[0]).read_bytes())
    some = replace(images, root=tmp_path, paths=("a.png", "b.png") * 14 + ("b.png",))
    assert measure_step(config, some, steps=2, rounds=1).values["batch"] == 6
    with pytest.raises(InputError, match=r"none readable|can be read"):
        measure_step(config, replace(some, paths=("a.png",) * 29), steps=2, rounds=1)
    with pytest.raises(UsageError, match="0 steps in 1 rounds"):
        measure_step(config, images, steps=0, rounds=1)


def test_made_pictures_are_as_many_as_cubs(tmp_path):
    images = made_images(tmp_path)
    assert (len(images), len(images.classes)) == (5994, 200)
    with Image.open(images.path(5993)) as picture:
        assert picture.format == "JPEG"


def test_table_and_json(folder, tmp_path):
    arguments = ["--preset", "tiny", "--data", folder, "--threads", 1, "--steps", 2, "--rounds", 1, "--batch", 5]
    done = qo_bench(*arguments, "--amp", "bf16", "--out", tmp_path / "step.json")
    assert done.exit_code == 0, done.output
    assert "amp bf16" in done.stdout
    for word in (*PARTS, "solver", "images/s", "bottleneck"):
        assert word in done.stdout
    value = json.loads((tmp_path / "step.json").read_text())
    assert (value["batch"], value["amp"], value["threads"]) == (5, "bf16", 1)
    assert set(value["summary"]["files"]["parts"]) == {*PARTS, "step"}
    assert json.loads(qo_bench(*arguments, "--json").stdout)["preset"] == "tiny"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--amp", "bf61"], "bf16"),
        (["--root", "/tmp"], "--data"),
        (["--data", "/no/such"], "/no/such"),
        (["--preset", "smal"], "did you mean small"),
        (["--steps", "0"], "--steps"),
    ],
)
def test_bad_arguments_get_one_line(arguments, said):
    done = qo_bench(*arguments)
    assert done.exit_code in (2, 3), done.output
    assert said in done.stderr.splitlines()[-1]
