"""Training in several processes, started by torchrun as a user does: the same result as in one, and one end for all."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from queryopt.errors import DataError, MissingError
from queryopt.train import load_checkpoint, preset_config, train
from queryopt.train.checkpoint import CONFIG, LAST, METRICS
from queryopt.train.distributed import joined

OPTIONS = ["--preset", "tiny", "--bits", "8", "--epochs", "2", "--lr", "3e-3", "--threads", "1"]
SECONDS = 120.0

# Every method, and what a loss, a layer or a start of codes could take from its own share alone. 10 pictures in batches
# of 8: of the last batch's two, the third process has none.
EVERY = {
    "adsh": {"method": "adsh", "classification_weight": 1.0},
    "dpsh": {"method": "dpsh"},
    "hashnet": {"method": "hashnet"},
    "visual": {"codes": "visual", "warm_up": 1, "branches": 2, "open_set": 2, "classification_weight": 1.0},
}
SCRIPT = """
import json, sys, torch
from queryopt.train import preset_config, train
from queryopt.train.distributed import joined

torch.set_default_dtype(torch.float64)
every, out = json.loads(sys.argv[1]), sys.argv[2]
with joined("cpu"):
    for name, settings in every.items():
        train(preset_config("tiny", **settings), out=f"{out}/{name}")
"""
QO_TRAIN = """
import torch
from queryopt.train.cli import main

torch.set_default_dtype(torch.float64)
main()
"""


def settings_of(name, root):
    few = {"iterations": 2, "epochs": 1, "samples": 10, "batch": 8, "bits": 8, "threads": 1, "seed": 3}
    return {"data": str(root), "optimizer": "sgd", "lr": 0.01, **few, **EVERY[name]}


@pytest.fixture
def torchrun():
    """Starts processes of a module or a script; what a failed test leaves of them is ended."""
    started = []

    def start(processes, *arguments):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        where = ["--nproc-per-node", str(processes), "--master-addr", "127.0.0.1", "--master-port", str(port)]
        command = [sys.executable, "-m", "torch.distributed.run", *where, *map(str, arguments)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.terminate()  # torchrun ends what it started
        process.communicate(timeout=60)


@pytest.fixture
def double_precision():
    """For runs that are compared: several processes sum in another order than one, and so does another processor. In
    float32 a few steps of a small network make of 1e-7 whatever they like (a BatchNorm divides by the spread of a
    channel that hardly varies, a code that is near 0 flips); in float64 there are nine digits more to lose.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def qo_train(torchrun):
    return lambda *arguments: torchrun(2, "-m", "queryopt.train", *arguments)


def end_of(process):
    return process.communicate(timeout=SECONDS)


def wait_for_lines(process, run, count):
    end = time.monotonic() + SECONDS
    while not (run / METRICS).exists() or (run / METRICS).read_text().count("\n") < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.05)


def lines_of(run):
    return [json.loads(line) for line in (run / METRICS).read_text().splitlines()]


def assert_same_run(run, other):
    """Equal but for rounding in float64: the curves, the codes, and what the network became."""
    for mine, theirs in zip(lines_of(run), lines_of(other), strict=True):
        timeless = {"seconds", "images_per_second"}
        assert {k: v for k, v in mine.items() if k not in timeless} == pytest.approx(
            {k: v for k, v in theirs.items() if k not in timeless}, rel=1e-6
        )
    mine, theirs = (torch.load(folder / LAST, weights_only=True) for folder in (run, other))
    assert torch.equal(mine["codes"] >= 0, theirs["codes"] >= 0)
    for key in ("codes", "outputs"):
        torch.testing.assert_close(mine[key], theirs[key], rtol=0, atol=1e-6, equal_nan=True)
    for key, value in mine["model"].items():
        assert value.dtype in (torch.float64, torch.int64), key
        torch.testing.assert_close(value, theirs["model"][key], rtol=1e-6, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}")
    assert mine["skipped"] == theirs["skipped"]


@pytest.mark.usefixtures("double_precision")
def test_every_method_learns_in_three_processes_what_it_learns_in_one(torchrun, labelled_folder, tmp_path):
    script, every = tmp_path / "every.py", {name: settings_of(name, labelled_folder) for name in EVERY}
    script.write_text(SCRIPT)
    process = torchrun(3, script, json.dumps(every), tmp_path / "three")
    for name, settings in every.items():
        train(preset_config("tiny", **settings), out=tmp_path / "one" / name)
    _, errors = end_of(process)
    assert process.returncode == 0, errors
    for name in every:
        assert_same_run(tmp_path / "three" / name, tmp_path / "one" / name)


@pytest.fixture
def damaged(labelled_folder, tmp_path):
    root = shutil.copytree(labelled_folder, tmp_path / "damaged")
    for name in ("03", "04", "15"):
        (root / "fir" / f"{name}.png").write_bytes(b"no picture")
    return root


@pytest.mark.usefixtures("double_precision")
def test_ctrl_c_saves_and_one_process_goes_on_to_the_same_end(torchrun, damaged, tmp_path):
    script, run = tmp_path / "qo_train.py", tmp_path / "run"
    script.write_text(QO_TRAIN)
    few = [*OPTIONS, "--samples", "40", "--optimizer", "sgd", "--iterations", "4"]
    process = torchrun(2, script, "--data", damaged, "--out", run, *few)
    wait_for_lines(process, run, 1)
    process.send_signal(signal.SIGINT)
    output, errors = end_of(process)
    assert process.returncode != 0
    assert errors.count("continue with: qo-train") == 1
    assert errors.count("\ninterrupted\n") == 1
    assert "this is a bug" not in errors
    assert output == ""
    assert json.loads((run / CONFIG).read_text())["run"]["processes"] == 2
    assert torch.load(run / LAST, weights_only=True)["position"]["outer"] < 4
    config = load_checkpoint(run / LAST).config
    train(config, out=run, resume=True)
    train(config, out=tmp_path / "one")
    assert_same_run(run, tmp_path / "one")
    assert torch.load(run / LAST, weights_only=True)["skipped"]


def test_what_is_wrong_is_said_once(qo_train, damaged, tmp_path):
    process = qo_train("--data", tmp_path / "nowhere", "--out", tmp_path / "run")
    _, errors = end_of(process)
    assert process.returncode != 0
    assert errors.count("no such folder") == errors.count("qo-train: error: ") == 1
    assert f"exitcode  : {int(DataError.exit_code)}" in errors
    process = qo_train("--data", damaged, "--out", tmp_path / "run", *OPTIONS, "--strict")
    _, errors = end_of(process)
    assert errors.count("without --strict") == errors.count("qo-train: error: ") == 1
    assert f"exitcode  : {int(DataError.exit_code)}" in errors


def test_a_killed_process_ends_the_run_which_can_go_on(qo_train, labelled_folder, tmp_path):
    run = tmp_path / "run"
    process = qo_train("--data", labelled_folder, "--out", run, *OPTIONS, "--iterations", "200")
    wait_for_lines(process, run, 2)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (second,) = (int(pid) for pid in workers if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes())
    os.kill(second, signal.SIGKILL)
    _, errors = end_of(process)
    assert process.returncode != 0
    assert errors.count("qo-train: error: ") == errors.count("continue with --resume") == 1
    assert "this is a bug" not in errors
    assert 1 <= torch.load(run / LAST, weights_only=True)["position"]["outer"] < 200


def test_each_process_needs_a_gpu_of_its_own(monkeypatch):
    for name, value in {
        "RANK": 0,
        "LOCAL_RANK": 0,
        "WORLD_SIZE": 4,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": 1,
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(MissingError, match=r"4 processes on this machine.* 2 GPUs"), joined("auto"):
        pass
