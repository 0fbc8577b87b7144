"""Training with torch.compile: the same run but for rounding, and one line where there is no compiler."""

import json
from contextlib import contextmanager

import pytest
import torch
from click.testing import CliRunner

from queryopt.errors import ExitCode
from queryopt.train import load_checkpoint, preset_config, train
from queryopt.train.checkpoint import LAST, METRICS
from queryopt.train.cli import main

# The smallest network that has convolutions, BatchNorm and attention: compiling takes its time.
NETWORK = {"branches": 2, "dim": 8, "heads": 1, "feedforward": 8, "fusion": False}
SETTINGS = {"iterations": 2, "epochs": 1, "samples": 40, "batch": 16, "threads": 1, "lr": 1e-3, "bits": 4}


class Stop(Exception):
    """Ends a run where a crash might."""


@contextmanager
def stopping(description, total, unit):
    """A progress bar in whose second iteration, after a step of it, the run ends."""
    left = [4]

    def advance(count=1, note=None):
        left[0] -= count > 0
        if count and not left[0]:
            raise Stop

    yield advance


@pytest.fixture(autouse=True)
def inductor(tmp_path, monkeypatch):
    """The compiler's own settings, with nothing compiled before and nothing left behind."""
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()
    yield config
    torch._dynamo.reset()


def test_a_compiled_run_is_the_same_run_but_for_rounding(labelled_folder, tmp_path, inductor):
    """Batches of 16, 16 and 8, begun compiled and continued as it is: equal losses, and weights by the same names."""
    from torch._dynamo.utils import counters

    plain, run, data = tmp_path / "plain", tmp_path / "run", {"data": str(labelled_folder)}
    eager, compiled = (preset_config("tiny", **SETTINGS, **NETWORK, **data, compile=given) for given in (False, True))
    train(eager, labelled_folder, plain)
    counters.clear()
    # The graph is the compiler's, its operations are torch's own: writing and building C++ for them takes minutes.
    with inductor.patch(fallback_by_default=True), pytest.raises(Stop):
        train(compiled, labelled_folder, run, progress=stopping)
    assert counters["stats"]["unique_graphs"] == 1  # for batches of 16 alone
    assert counters["aot_autograd"]["ok"] == 1
    assert torch.load(run / LAST, weights_only=True)["computed_on"] == "1 threads, compiled"
    train(eager, labelled_folder, run, resume=True)
    assert counters["stats"]["unique_graphs"] == 1
    losses = [[json.loads(line)["loss"] for line in (r / METRICS).read_text().splitlines()] for r in (plain, run)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    states = [load_checkpoint(r / LAST).state for r in (plain, run)]
    assert list(states[0]) == list(states[1])
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=0.02, atol=2e-3)


def test_without_a_compiler_one_line_says_what_to_install(labelled_folder, tmp_path, inductor):
    arguments = ["--data", str(labelled_folder), "--out", str(tmp_path / "run"), "--preset", "tiny", "--compile"]
    with inductor.patch({"cpp.cxx": ("/nowhere/g++",)}):
        done = CliRunner().invoke(main, [*arguments, "--method", "adsh", "--threads", "1"])
    assert done.exit_code == ExitCode.MISSING, done.output
    last = done.stderr.splitlines()[-1]
    assert "can't be compiled" in last
    assert "/nowhere/g++" in last
    assert "leave --compile out" in last
    assert "Traceback" not in done.stderr
