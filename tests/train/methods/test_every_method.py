"""What holds for every method that learns in steps: it resumes bit for bit, exports behind the gate, is evaluated."""

import json
import re
import shutil
from contextlib import contextmanager

import pytest
import torch
from click.testing import CliRunner

from queryopt.bench.cli.evaluate import main as qo_eval
from queryopt.errors import CheckpointError, UsageError
from queryopt.export import export_onnx
from queryopt.train import load_checkpoint, preset_config, train
from queryopt.train import methods as registry
from queryopt.train.checkpoint import BEST, CONFIG, CURVES, LAST, METRICS, read_run_config
from queryopt.train.methods import build_network, find_method, method_names
from queryopt.train.network_config import NetworkConfig

SETTINGS = {"iterations": 2, "epochs": 2, "samples": 48, "bits": 8, "threads": 1, "lr": 3e-3}
STEPS = 3 * 2 * 2  # batches of 16
# What depends on the step, and on what was stored before a stop, is at work in so short a run.
OPTIONS = {"hashnet": {"scale_step": 3}, "dpsh": {"stored": 1}}

LEARNT = [name for name in method_names() if not find_method(name).closed_form]

OWN = """
from queryopt.train.loss import Loss
from queryopt.train.methods._pairwise import PairwiseMethod


class Cosine(PairwiseMethod):
    name = "cosine"

    def relax(self, logits, step):
        return logits.tanh()

    def loss(self, outputs, batch):
        same = (batch.labels[:, None] == batch.gallery_labels).float()
        part = (outputs @ batch.codes.T / outputs.shape[1] - same).square().mean()
        return Loss(part, outputs.new_zeros(()))


METHOD = Cosine
"""


class Stop(Exception):
    """Ends a run where a crash might."""


def stopping_after(steps):
    @contextmanager
    def progress(description, total, unit):
        left = [steps]

        def advance(count=1, note=None):
            left[0] -= count > 0
            if count and not left[0]:
                raise Stop

        yield advance

    return progress


def config_of(root, **changes):
    return preset_config("tiny", **{**SETTINGS, "data": str(root), **changes})


def state_of(run):
    values = torch.load(run / LAST, weights_only=True)
    return {**values["model"], "codes": values["codes"], "outputs": values["outputs"]}


@pytest.fixture(scope="module")
def runs(labelled_folder, tmp_path_factory):
    """A finished run of each method, with a classification head: run folders by name. Not to be changed."""
    folder, made = tmp_path_factory.mktemp("methods"), {}

    def run_of(method):
        if method not in made:
            config = config_of(
                labelled_folder, method=method, classification_weight=0.5, method_options=OPTIONS.get(method, {})
            )
            train(config, labelled_folder, folder / method)
            made[method] = folder / method
        return made[method]

    return run_of


def test_the_registry_lists_the_methods():
    assert method_names()[0] == "queryopt"
    assert {"adsh", "dpsh", "hashnet", "linear"} < set(method_names())
    assert all(find_method(name).name == name for name in method_names())
    with pytest.raises(UsageError, match="did you mean hashnet"):
        find_method("hashent")


@pytest.mark.parametrize("method", LEARNT)
@pytest.mark.parametrize("steps", [5, STEPS - 4])  # within the first epoch of an iteration, and within its last one
def test_resume_gives_the_same_bits(runs, labelled_folder, tmp_path, method, steps):
    config, run = (
        config_of(labelled_folder, method=method, classification_weight=0.5, method_options=OPTIONS.get(method, {})),
        tmp_path / "run",
    )
    with pytest.raises(Stop):
        train(config, labelled_folder, run, progress=stopping_after(steps))
    train(config, labelled_folder, run, resume=True)
    whole = runs(method)
    assert (run / BEST).read_bytes() == (whole / BEST).read_bytes()
    mine, others = state_of(run), state_of(whole)
    assert all(mine[key].numpy().tobytes() == others[key].numpy().tobytes() for key in mine | others)


@pytest.mark.parametrize("method", LEARNT)
def test_training_lowers_the_loss_and_saves_what_a_run_needs(runs, method):
    run = runs(method)
    lines = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]
    parts = sum(lines[0][f"{part}_loss"] for part in ("hash", "quantisation", "classification"))
    assert lines[0]["loss"] == pytest.approx(parts)
    solved = {"bit_accuracy", "codes_changed", "map_paper"}
    assert solved & set(lines[-1]) == (solved if find_method(method).solves_codes else set())
    assert (run / CURVES).stat().st_size > 10_000
    codes = state_of(run)["codes"]
    if find_method(method).solves_codes:
        assert set(codes.unique().tolist()) == {-1.0, 1.0}
    else:
        assert int((codes != 0).any(dim=1).sum()) >= 48  # the outputs of every picture that was seen
    checkpoint = load_checkpoint(run)
    assert checkpoint.config == read_run_config(run)
    assert checkpoint.config.method == method
    assert checkpoint.network()(torch.zeros(1, 3, 32, 32)).shape == (1, 8)


@pytest.mark.parametrize("method", LEARNT)
def test_export_says_what_it_stripped_and_the_model_is_evaluated(runs, labelled_folder, tmp_path, method):
    result = export_onnx(runs(method), tmp_path / "model.onnx", threads=1)
    assert result.card.method == method
    assert result.parity.flipped == 0
    assert result.parity.bits_compared >= 20_000
    assert result.strip.stripped["classification head"] == "8 bits -> 4 classes"
    assert ("auxiliary branch" in result.strip.stripped) == (method == "queryopt")
    folder = str(labelled_folder)
    arguments = ["--model", str(result.path), "--gallery", folder, "--queries", folder, "--threads", "1", "--json"]
    evaluated = CliRunner().invoke(qo_eval, arguments)
    assert evaluated.exit_code == 0, evaluated.output
    (model,) = json.loads(evaluated.stdout)["models"]
    assert model["fingerprint"] == result.card.fingerprint
    assert model["map_pessimistic"] <= model["map"] <= model["map_optimistic"]


@pytest.mark.parametrize("method", LEARNT)
def test_without_a_classification_head_the_other_weights_start_the_same(method):
    def weights(classes):
        torch.manual_seed(3)
        config = preset_config("tiny", method=method, bits=8).network
        return build_network(NetworkConfig.from_dict(config.to_dict() | {"classes": classes})).state_dict()

    without, with_head = weights(0), weights(5)
    assert set(with_head) - set(without) == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(with_head[key], value) for key, value in without.items())


@pytest.mark.parametrize("method", ["adsh", "dpsh", "hashnet"])
def test_what_a_method_has_no_use_for_is_refused(method):
    unused = {"dim": 64, "heads": 4, "feedforward": 64, "fusion": False, "queries": False, "branches": 1}
    if not find_method(method).solves_codes:
        unused |= {"codes": "noise", "hold": 1, "hold_solver": True, "gamma": 3.0, "scale_gamma": True, "warm_up": 1}
    assert set(unused) == find_method(method).unused
    for name, value in unused.items():
        with pytest.raises(UsageError, match=f"^{name}: the method {method} has no use for it"):
            preset_config("tiny", method=method, **{name: value})
    with pytest.raises(UsageError, match="queries is true"):
        NetworkConfig(8, method=method, queries=True)
    assert not preset_config("small", method=method).network.queries


def test_options_of_a_method_are_checked_by_name():
    assert preset_config("tiny", method="dpsh", method_options={"eta": 3}).method_options == {"eta": 3}
    with pytest.raises(UsageError, match="dpsh has no option etta: it has eta, stored; did you mean eta"):
        preset_config("tiny", method="dpsh", method_options={"etta": 3})
    with pytest.raises(UsageError, match="adsh has no option eta: it has none"):
        preset_config("tiny", method="adsh", method_options={"eta": 3})
    with pytest.raises(UsageError, match="option eta is nan: a number"):
        preset_config("tiny", method="dpsh", method_options={"eta": float("nan")})
    with pytest.raises(UsageError, match="method_options"):
        preset_config("tiny", method="dpsh", method_options=3)


def test_a_run_keeps_its_method_and_its_options(runs, labelled_folder, tmp_path):
    run = shutil.copytree(runs("dpsh"), tmp_path / "run")
    with pytest.raises(UsageError, match="the method is dpsh, not adsh"):
        read_run_config(run).override(method="adsh")
    changed = read_run_config(run).override(method_options={"eta": 3})
    with pytest.raises(UsageError, match=re.escape("method_options: {'eta': 3}, not {'stored': 1}")):
        train(changed, labelled_folder, run, resume=True)
    with pytest.raises(UsageError, match="method: 'adsh', not 'dpsh'"):
        train(config_of(labelled_folder, method="adsh", classification_weight=0.5), out=run, resume=True)


def test_a_run_of_queryopt_is_written_as_before_there_were_methods(labelled_folder, tmp_path):
    train(config_of(labelled_folder, iterations=0), labelled_folder, tmp_path / "run")
    values = json.loads((tmp_path / "run" / CONFIG).read_text())
    assert not {"method", "method_options", "classification_weight"} & set(values)
    assert not {"method", "classes"} & set(values["network"])
    assert read_run_config(tmp_path / "run").method == "queryopt"


def test_a_checkpoint_of_another_method_is_named(runs, tmp_path):
    state = {**load_checkpoint(runs("adsh")).state}
    torch.save(state, tmp_path / "weights.pt")
    shutil.copy(runs("queryopt") / CONFIG, tmp_path / CONFIG)
    with pytest.raises(CheckpointError, match="not those of its configuration"):
        load_checkpoint(tmp_path / "weights.pt")
    values = json.loads((runs("adsh") / CONFIG).read_text())
    values["network"]["method"] = "adhs"
    (tmp_path / CONFIG).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="did you mean adsh"):
        load_checkpoint(tmp_path / "weights.pt")


def test_a_method_is_one_file(labelled_folder, tmp_path, monkeypatch):
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "cosine.py").write_text(OWN)
    monkeypatch.setattr(registry, "__path__", [*registry.__path__, str(tmp_path / "methods")])
    method_names.cache_clear()
    try:
        assert "cosine" in method_names()
        train(config_of(labelled_folder, method="cosine"), labelled_folder, tmp_path / "run")
        result = export_onnx(tmp_path / "run", threads=1)
        assert (result.card.method, result.strip.stripped, result.parity.flipped) == ("cosine", {}, 0)
    finally:
        method_names.cache_clear()
