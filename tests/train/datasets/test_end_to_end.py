"""The whole way on a replica of CUB-200-2011: train, export behind the parity gate, hash, evaluate."""

import json
import shutil

import numpy as np
import pytest
import torch
import torchvision
from click.testing import CliRunner

from queryopt.bench.cli.evaluate import main as eval_main
from queryopt.errors import ExitCode
from queryopt.export.cli import main as export_main
from queryopt.runtime.cli.infer import main as infer_main
from queryopt.train.cli import main as train_main
from queryopt.train.data import split_validation
from queryopt.train.datasets import official_dataset
from queryopt.train.presets import default_preset


def command(main, *arguments):
    return CliRunner().invoke(main, [*map(str, arguments), "--threads", "1"])


@pytest.fixture(scope="module")
def cub(make_cub200, tmp_path_factory):
    """The folder that holds CUB_200_2011, with 8 training and 3 test pictures a class."""
    return make_cub200(tmp_path_factory.mktemp("data"), train=8, test=3).parent


@pytest.fixture(scope="module")
def run(cub, tmp_path_factory):
    """A run on it, trained, exported, and what the three said. Read only."""
    folder = tmp_path_factory.mktemp("runs") / "cub"
    options = ("--preset", "tiny", "--iterations", 1, "--samples", 16, "--validation-fraction", 0.25)
    trained = command(train_main, "--data", "cub200", "--root", cub, "--any-size", "--out", folder, *options)
    assert trained.exit_code == ExitCode.DONE, trained.output
    exported = command(export_main, "--ckpt", folder, "-v")
    assert exported.exit_code == ExitCode.DONE, exported.output
    return folder, exported.stdout


def test_the_run_says_where_its_pictures_lie(run, cub):
    config = json.loads((run[0] / "config.json").read_text())
    assert config["data"] == f"cub200+any-size:{cub}"
    assert (config["run"]["images"], config["run"]["validation_images"], config["run"]["classes"]) == (18, 6, 3)


def test_parity_was_checked_on_the_validation_pictures(run):
    assert "of 6 pictures (the run's validation pictures)" in run[1]


def test_the_official_test_pictures_search_the_training_pictures(run, cub):
    done = command(
        eval_main, "--model", run[0] / "model.onnx", "--data", "cub200", "--root", cub, "--any-size", "--json"
    )
    assert done.exit_code == ExitCode.DONE, done.output
    value = json.loads(done.stdout)
    model = value["models"][0]
    assert (model["gallery"], model["queries"], model["classes"]) == (24, 9, 3)
    assert (value["data"], value["split"]) == (f"cub200+any-size:{cub}", "test")
    by_run = command(eval_main, "--run", run[0], "--json")
    assert by_run.exit_code == ExitCode.DONE, by_run.output
    assert json.loads(by_run.stdout)["models"] == value["models"]


def test_a_card_for_each_bit_names_an_attribute_of_cub(run, cub, tmp_path):
    cards = tmp_path / "cards.json"
    done = command(eval_main, "--run", run[0], "--protocol", "both", "--bits-out", cards, "--permutations", 19)
    assert done.exit_code == ExitCode.DONE, done.output
    value = json.loads(cards.read_text())["bit_cards"]
    known = official_dataset("cub200").load_attributes(cub, any_size=True).names
    assert (value["gallery"], value["classes"]) == (18, 3)
    assert {card["by_accuracy"]["attribute"] for card in value["cards"]} <= set(known)
    assert all(card["by_information"]["p"] >= 1 / 20 for card in value["cards"])


def test_the_same_codes_as_qo_infer_in_the_official_split(run, cub, tmp_path):
    """What qo-eval measured is what a user's own folders of the same pictures would give."""
    splits = official_dataset("cub200").load(cub, any_size=True)
    for part, images in (("gallery", splits.train), ("queries", splits.test)):
        for index in range(len(images)):
            target = tmp_path / part / images.paths[index]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(images.path(index), target)
    model = run[0] / "model.onnx"
    # A class is the first folder below what was given.
    folders = ("--gallery", tmp_path / "gallery" / "images", "--queries", tmp_path / "queries" / "images", "--json")
    mine = json.loads(command(eval_main, "--model", model, *folders).stdout)
    official = json.loads(command(eval_main, "--run", run[0], "--json").stdout)
    assert mine["models"] == official["models"]
    done = command(
        infer_main, splits.train.root, "--model", model, "--out", tmp_path / "codes.npz", "--index", tmp_path / "i.db"
    )
    assert done.exit_code == ExitCode.DONE, done.output
    assert len(np.load(tmp_path / "codes.npz")["codes"]) == 33


def test_the_validation_pictures_search_what_was_trained_on(run, cub):
    done = command(eval_main, "--run", run[0], "--split", "validation", "--json")
    assert done.exit_code == ExitCode.DONE, done.output
    model = json.loads(done.stdout)["models"][0]
    assert (model["gallery"], model["queries"], model["queries_in_gallery"]) == (18, 6, 0)
    train, validation = split_validation(official_dataset("cub200").load(cub, any_size=True).train, 0.25, 42)
    assert not set(train.paths) & set(validation.paths)


def test_the_papers_settings_are_the_default_where_there_is_a_gpu(monkeypatch):
    for there, preset in ((True, "paper-cub200"), (False, "pictures")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert default_preset("auto", "cub200") == preset
        assert default_preset("cpu", "cub200") == "pictures"
        assert default_preset("auto") == ("default" if there else "pictures")


def test_download_says_so_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.Food101, "_URL", "http://127.0.0.1:1/food-101.tar.gz")
    options = ("--data", "food101", "--root", tmp_path / "data", "--download", "--preset", "tiny")
    done = command(train_main, *options, "--out", tmp_path / "run")
    assert (done.exit_code, "can't download Food101" in done.stderr) == (ExitCode.MISSING, True)
    assert not (tmp_path / "run").exists()


def test_data_that_has_moved(run, cub, tmp_path):
    folder, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(run[0], folder)
    config = json.loads((folder / "config.json").read_text())
    config["data"] = f"cub200+any-size:{tmp_path}/gone"
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copytree(cub, moved)
    done = command(eval_main, "--run", folder)
    assert (done.exit_code, "gone: no such folder" in done.stderr) == (ExitCode.INPUT, True)
    done = command(eval_main, "--run", folder, "--data", "cub200", "--root", moved, "--any-size")
    assert done.exit_code == ExitCode.DONE, done.output
    # A run goes on where its pictures lie now: the same ones by name.
    options = ("--data", "cub200", "--root", moved, "--any-size", "--iterations", 1)
    done = command(train_main, "--out", folder, "--resume", *options)
    assert (done.exit_code, "finished already" in done.stdout) == (ExitCode.DONE, True), done.output


def test_other_counts_are_an_error_before_anything_is_written(cub, tmp_path):
    done = command(train_main, "--data", "cub200", "--root", cub, "--preset", "tiny", "--out", tmp_path / "run")
    assert done.exit_code == ExitCode.INPUT
    assert "3 classes, 24 training and 9 test pictures, but CUB-200-2011 has 200 classes" in done.stderr
    assert not (tmp_path / "run").exists()
    done = command(eval_main, "--run", tmp_path / "run")
    assert (done.exit_code, "no run folder (no config.json in it)" in done.stderr) == (ExitCode.INPUT, True)
    done = command(eval_main, "--model", "m.onnx", "--data", "cub200", "--root", cub)
    assert (done.exit_code, "has 200 classes" in done.stderr) == (ExitCode.INPUT, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "cub200"], "say which folder holds it with --root DIR"),
        (["--data", "cub20", "--root", "."], "--root goes with an official data set, and cub20 is none"),
        (["--data", "photos", "--any-size"], "--any-size goes with an official data set"),
        (["--data", "cub200+val", "--root", "."], "no option val; there are any-size"),
        (["--data", "cub200", "--root", ".", "--test-fraction", "0.5"], "has its own test pictures"),
        (["--data", ".", "--download"], "--download is for official data sets"),
        (["--data", "cub200", "--root", ".", "--download"], "can't be downloaded for you"),
        (["--root", "."], "say more about --data"),
    ],
)
def test_qo_train_refuses_what_makes_no_sense(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command(train_main, "--out", "run", "--preset", "tiny", *arguments)
    assert (done.exit_code, said in done.stderr) == (ExitCode.USAGE, True), done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "qo-eval RUN, or --queries FOLDER"),
        (["--data", "cub200"], "--root DIR"),
        (["--data", "cub200", "--root", ".", "--queries", "q"], "leave --queries out"),
        (["--run", ".", "--gallery", "g", "--index", "i"], "leave --gallery and --index out"),
        (["--data", "cub200", "--root", ".", "--split", "validation"], "give its folder with --run"),
        (["--queries", "q", "--gallery", "g", "--root", "."], "say more about --data"),
    ],
)
def test_qo_eval_refuses_what_makes_no_sense(arguments, said):
    done = command(eval_main, *arguments)
    assert (done.exit_code, said in done.stderr) == (ExitCode.USAGE, True), done.output


def test_qo_eval_of_a_run_that_set_nothing_aside_or_is_not_exported(run, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    config = json.loads((run[0] / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "validation_fraction": 0.0}))
    done = command(eval_main, "--run", folder, "--split", "validation")
    assert (done.exit_code, "no validation pictures (validation_fraction is 0)" in done.stderr) == (
        ExitCode.INPUT,
        True,
    )
    done = command(eval_main, "--run", folder)
    assert (done.exit_code, "make it with qo-export" in done.stderr) == (ExitCode.INPUT, True)
