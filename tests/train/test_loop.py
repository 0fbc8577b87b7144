"""Training: what it writes, and that stopping it at any moment changes nothing."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from queryopt.errors import CheckpointError, DataError, TrainingError, UsageError
from queryopt.train import TrainResult, load_checkpoint, preset_config, train
from queryopt.train.checkpoint import BEST, CONFIG, CURVES, LAST, METRICS, read_run_config
from queryopt.train.data import load_image_folder
from queryopt.train.draws import iteration_samples
from queryopt.train.loss import hashing_loss
from queryopt.train.runs import RunFolder
from queryopt.train.schedule import rates_at
from queryopt.train.solver import solve_codes
from queryopt.train.starts import StartContext, start_codes

pytestmark = pytest.mark.usefixtures("undrawn")

SETTINGS = {"iterations": 3, "epochs": 2, "samples": 80, "hold": 1, "bits": 8, "threads": 1, "lr": 3e-3}


def config_of(root, **changes):
    return preset_config("tiny", **{**SETTINGS, "data": str(root), **changes})


def lines_of(run):
    return [json.loads(line) for line in (run / METRICS).read_text().splitlines()]


def weights_of(run):
    values = torch.load(run / LAST, weights_only=True)
    return {**values["model"], "codes": values["codes"], "outputs": values["outputs"]}


def assert_same_weights(run, other):
    assert (run / BEST).read_bytes() == (other / BEST).read_bytes()
    mine, others = weights_of(run), weights_of(other)
    assert all(mine[key].numpy().tobytes() == others[key].numpy().tobytes() for key in mine | others)


@pytest.fixture(scope="module")
def reference(labelled_folder, tmp_path_factory):
    """A run that nothing stopped."""
    run = tmp_path_factory.mktemp("runs") / "reference"
    train(config_of(labelled_folder), labelled_folder, run)
    return run


@pytest.fixture
def copy(reference, tmp_path):
    return shutil.copytree(reference, tmp_path / "copy")


class Stop(Exception):
    """Ends a run where a crash might."""


def stopping_after(steps, action):
    """A progress bar that calls `action` once so many steps are done."""

    @contextmanager
    def progress(description, total, unit):
        done = 0

        def advance(count=1, note=None):
            nonlocal done
            done += count > 0
            if count and done == steps:
                action()

        yield advance

    return progress


def crash():
    raise Stop


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_what_a_run_writes(reference, labelled_folder):
    assert sorted(os.listdir(reference)) == sorted([BEST, LAST, CONFIG, METRICS, CURVES])
    lines = lines_of(reference)
    assert [(line["outer"], line["inner"]) for line in lines] == [(o, i) for o in range(3) for i in range(2)]
    assert all("map" in line for line in lines[1::2])
    assert not any("map" in line for line in lines[::2])
    assert lines[-1]["loss"] < lines[0]["loss"]
    saved = json.loads((reference / CONFIG).read_text())
    assert saved["run"]["classes"] == 4
    assert saved["run"]["images"] == len(load_image_folder(labelled_folder).train) - saved["run"]["validation_images"]
    with Image.open(reference / CURVES) as curves:
        curves.load()
        assert curves.width > 1000
    checkpoint = load_checkpoint(reference)
    assert checkpoint.config == config_of(labelled_folder)
    last = torch.load(reference / LAST, weights_only=True)
    assert last["position"] == {"outer": 3, "inner": 0, "step": 0}
    assert set(last["codes"].unique().tolist()) == {-1.0, 1.0}


def test_training_teaches_something(labelled_folder, tmp_path):
    settings = {"iterations": 5, "samples": 100, "lr": 5e-3, "crop_scale": (0.6, 1.0)}
    result = train(config_of(labelled_folder, **settings), labelled_folder, tmp_path / "run")
    assert isinstance(result, TrainResult)
    assert result.chance == pytest.approx(0.25, abs=0.05)
    assert result.validation_map > 0.6


def test_equal_runs_are_equal_bit_for_bit_and_leave_the_global_generator_alone(reference, labelled_folder, tmp_path):
    torch.manual_seed(99)
    expected = torch.rand(1)
    torch.manual_seed(99)
    train(config_of(labelled_folder), labelled_folder, tmp_path / "run")
    assert torch.equal(torch.rand(1), expected)
    assert_same_weights(tmp_path / "run", reference)


def test_channels_last_is_left_out_on_the_cpu(labelled_folder, tmp_path):
    """There, torch 2.14 damages memory in the backward pass of batches like these: in a process that may be lost."""
    code = (
        "import sys\n"
        "from queryopt.train import preset_config, train\n"
        "for layout in (True, False):\n"
        "    settings = dict(data=sys.argv[1], batch=13, samples=39, threads=2, iterations=1, epochs=1)\n"
        "    settings['channels_last'] = layout\n"
        "    train(preset_config('tiny', **settings), sys.argv[1], f'{sys.argv[2]}/{layout}')\n"
    )
    command = [sys.executable, "-c", code, str(labelled_folder), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    last, first = weights_of(tmp_path / "True"), weights_of(tmp_path / "False")
    assert all(torch.equal(last[key], first[key]) for key in first)


def test_another_seed_is_another_run(reference, labelled_folder, tmp_path):
    train(config_of(labelled_folder, seed=1), labelled_folder, tmp_path / "run")
    assert not torch.equal(weights_of(tmp_path / "run")["head.weight"], weights_of(reference)["head.weight"])


@pytest.mark.parametrize("steps", [3, 5, 13, 20])
def test_resume_after_a_crash_gives_the_same_bits(reference, labelled_folder, tmp_path, steps):
    run, config = tmp_path / "run", config_of(labelled_folder)
    with pytest.raises(Stop):
        train(config, labelled_folder, run, progress=stopping_after(steps, crash))
    train(config, labelled_folder, run, resume=True)
    assert_same_weights(run, reference)
    assert [(m["outer"], m["inner"]) for m in lines_of(run)] == [(m["outer"], m["inner"]) for m in lines_of(reference)]
    without_time = [{k: v for k, v in m.items() if "second" not in k} for m in lines_of(run)]
    assert without_time == [{k: v for k, v in m.items() if "second" not in k} for m in lines_of(reference)]


def test_ctrl_c_saves_within_an_epoch_and_every_stop_can_be_continued(reference, labelled_folder, tmp_path):
    run, config, stops = tmp_path / "run", config_of(labelled_folder), []
    while True:
        try:
            train(config, labelled_folder, run, resume=bool(stops), progress=stopping_after(7, interrupt))
            break
        except KeyboardInterrupt:
            stops.append(tuple(torch.load(run / LAST, weights_only=True)["position"].values()))
    assert len(stops) >= 4
    assert sorted(set(stops)) == stops
    assert any(step for _, _, step in stops)
    assert_same_weights(run, reference)


def test_a_run_is_never_overwritten(copy, labelled_folder):
    before = {name: (copy / name).read_bytes() for name in os.listdir(copy)}
    with pytest.raises(UsageError, match="--resume"):
        train(config_of(labelled_folder), labelled_folder, copy)
    assert {name: (copy / name).read_bytes() for name in os.listdir(copy)} == before


def test_a_finished_run_has_nothing_left_to_do(copy, labelled_folder):
    before = (copy / LAST).read_bytes()
    result = train(config_of(labelled_folder), labelled_folder, copy, resume=True)
    assert result.already_finished
    assert result.validation_map == lines_of(copy)[2 * result.best_iteration - 1]["map"]
    assert (copy / LAST).read_bytes() == before


def test_resume_with_another_configuration_or_other_pictures(copy, labelled_folder, tmp_path):
    with pytest.raises(UsageError, match=r"lr: 0\.5, not 0\.003"):
        train(config_of(labelled_folder, lr=0.5), labelled_folder, copy, resume=True)
    other = shutil.copytree(labelled_folder, tmp_path / "pictures")
    (other / "ash" / "00.png").rename(other / "ash" / "99.png")
    with pytest.raises(UsageError, match="pictures"):
        train(config_of(labelled_folder), load_image_folder(other, seed=42, test_fraction=0.2), copy, resume=True)


def test_a_run_finds_its_pictures_from_any_folder(labelled_folder, tmp_path, monkeypatch):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    pictures = shutil.copytree(labelled_folder, tmp_path / "one" / os.fsdecode(b"caf\xe9"))
    run, config = tmp_path / "run", config_of(pictures.name)
    monkeypatch.chdir(tmp_path / "one")
    with pytest.raises(KeyboardInterrupt):
        train(config, out=run, progress=stopping_after(12, interrupt))
    monkeypatch.chdir(tmp_path / "other")
    assert load_checkpoint(run / BEST).config.data == str(pictures)
    begun = read_run_config(run)
    assert begun.data == str(pictures)
    # Moved, they are still the same pictures.
    pictures.rename("moved")
    with pytest.raises(DataError, match="no such folder"):
        train(begun, out=run, resume=True)
    assert train(begun, "moved", run, resume=True).iterations == 3
    assert read_run_config(run).data == str(tmp_path / "other" / "moved")


def test_backbone_weights_are_needed_at_the_start_alone(labelled_folder, tmp_path, reference):
    weights = tmp_path / "trunk.pt"
    torch.save(load_checkpoint(reference).network().backbone.state_dict(), weights)
    config = config_of(labelled_folder, weights=str(weights), iterations=2)
    train(config, labelled_folder, tmp_path / "whole")
    with pytest.raises(Stop):
        train(config, labelled_folder, tmp_path / "run", progress=stopping_after(13, crash))
    weights.unlink()
    train(config, labelled_folder, tmp_path / "run", resume=True)
    assert_same_weights(tmp_path / "run", tmp_path / "whole")


def test_a_best_checkpoint_that_is_gone_is_not_replaced_by_another(copy, labelled_folder):
    (copy / BEST).unlink()
    with pytest.raises(CheckpointError, match=r"best\.safetensors is gone"):
        train(config_of(labelled_folder), labelled_folder, copy, resume=True)


def test_without_data_there_is_nothing_to_train_on(tmp_path):
    with pytest.raises(UsageError, match="nothing to train on"):
        train(config_of(""), out=tmp_path / "run")
    assert os.listdir(tmp_path) == []


def test_resume_where_there_is_nothing_starts(labelled_folder, tmp_path, reference):
    train(config_of(labelled_folder), labelled_folder, tmp_path / "run", resume=True)
    assert_same_weights(tmp_path / "run", reference)


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"PK\x03\x04no"]
)
def test_resume_from_a_damaged_last_pt(copy, labelled_folder, damage):
    (copy / LAST).write_bytes(damage((copy / LAST).read_bytes()))
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        train(config_of(labelled_folder), labelled_folder, copy, resume=True)


@pytest.mark.parametrize("key", ["model", "optimizer"])
def test_resume_from_a_last_pt_that_lost_a_part(copy, labelled_folder, key):
    values = torch.load(copy / LAST, weights_only=True)
    torch.save({**values, key: {}}, copy / LAST)
    with pytest.raises(CheckpointError, match=r"last\.pt: damaged, or of another network \("):
        train(config_of(labelled_folder), labelled_folder, copy, resume=True)


def test_two_processes_never_write_to_one_run(labelled_folder, tmp_path):
    with RunFolder(tmp_path / "run"), pytest.raises(UsageError, match="another qo-train"):
        train(config_of(labelled_folder), labelled_folder, tmp_path / "run")


def test_diverging_training_stops_and_keeps_the_last_good_checkpoint(labelled_folder, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"outer iteration \d.*--lr"):
        train(config_of(labelled_folder, optimizer="sgd", lr=9e5, weight_decay=9e5), labelled_folder, run)
    state = torch.load(run / LAST, weights_only=True)["model"]
    assert all(bool(v.isfinite().all()) for v in state.values() if v.is_floating_point())
    if (run / BEST).exists():
        load_checkpoint(run / BEST)


def test_weights_that_are_not_finite_are_never_saved(labelled_folder, tmp_path):
    # The first step's loss is finite, and its update is not: Ctrl-C right after it finds nothing worth saving.
    config = config_of(labelled_folder, optimizer="sgd", lr=9e5, gamma=1e36, schedule="constant")
    with pytest.raises(TrainingError, match="weights are not finite"):
        train(config, labelled_folder, tmp_path / "run", progress=stopping_after(1, interrupt))
    state = torch.load(tmp_path / "run" / LAST, weights_only=True)["model"]
    assert all(bool(v.isfinite().all()) for v in state.values() if v.is_floating_point())


def test_full_disk_keeps_the_last_good_checkpoint(reference, labelled_folder, tmp_path):
    run, config = tmp_path / "run", config_of(labelled_folder)
    with pytest.raises(KeyboardInterrupt):
        train(config, labelled_folder, run, progress=stopping_after(12, interrupt))
    before = {name: (run / name).read_bytes() for name in (BEST, LAST)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit of the system on the size of a file: last.pt no longer fits.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before[LAST]) // 2, hard))
    try:
        with pytest.raises(TrainingError, match=r"last\.pt: can't be written.*--resume"):
            train(config, labelled_folder, run, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (run / LAST).read_bytes() == before[LAST]
    assert not [name for name in os.listdir(run) if name.endswith(".tmp")]
    train(config, labelled_folder, run, resume=True)
    assert_same_weights(run, reference)


def test_untrained_run(labelled_folder, tmp_path, reference):
    result = train(config_of(labelled_folder, iterations=0), labelled_folder, tmp_path / "run")
    assert (result.iterations, result.best_iteration) == (0, 0)
    assert result.validation_map < load_best_map(reference)
    assert load_checkpoint(tmp_path / "run").config.iterations == 0


def load_best_map(run):
    return max(line["map"] for line in lines_of(run) if "map" in line)


def test_the_best_iteration_is_kept_where_there_is_validation(reference):
    best = max((line["map"], line["outer"] + 1) for line in lines_of(reference) if "map" in line)
    assert torch.load(reference / LAST, weights_only=True)["best"]["iteration"] == best[1]


def test_without_validation_all_pictures_train_and_the_last_iteration_is_kept(labelled_folder, tmp_path):
    run = tmp_path / "run"
    result = train(config_of(labelled_folder, validation_fraction=0.0), labelled_folder, run)
    assert result.images == len(load_image_folder(labelled_folder).train)
    assert (result.validation_images, result.validation_map, result.best_iteration) == (0, None, 3)
    best = load_checkpoint(run / BEST).state
    assert all(torch.equal(best[key], value) for key, value in load_checkpoint(run / LAST).state.items())


def test_the_paper_way_at_a_small_scale(labelled_folder, tmp_path):
    paper = preset_config("paper-cub200", bits=8)
    small = config_of(labelled_folder, weights="none").network
    config = replace(
        paper,
        network=small,
        weights="none",
        iterations=2,
        epochs=1,
        samples=48,
        data=str(labelled_folder),
        lr_steps=(1,),
    )
    train(config, labelled_folder, tmp_path / "run")
    assert [line["lr"] for line in lines_of(tmp_path / "run")] == pytest.approx([3e-4, 3e-5])
    assert lines_of(tmp_path / "run")[0]["codes_changed"] > 0.2  # noise is solved from the first iteration on
    codes = torch.load(tmp_path / "run" / LAST, weights_only=True)["codes"]
    assert codes.shape == (len(load_image_folder(labelled_folder).train), 8 * small.branches)
    assert set(codes.unique().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("start", ["noise", "separated"])
def test_an_iteration_is_the_loss_and_the_solver_on_the_pictures_drawn(labelled_folder, tmp_path, start):
    """One step of all that is drawn: its loss and the codes solved from its outputs, computed beside the loop."""
    settings = {"iterations": 1, "epochs": 1, "samples": 24, "batch": 24, "hold": 0, "gamma": 3.0, "codes": start}
    config = config_of(labelled_folder, validation_fraction=0.0, **settings)
    train(config, labelled_folder, tmp_path / "run")
    images = load_image_folder(labelled_folder, seed=config.seed, test_fraction=config.test_fraction).train
    labels = torch.from_numpy(images.labels)
    before = torch.from_numpy(
        start_codes(start, StartContext(images, config.network.bits, config.network.branches, config.seed))
    )
    drawn = torch.from_numpy(iteration_samples(config.seed, 0, len(images), 24))
    last = torch.load(tmp_path / "run" / LAST, weights_only=True)
    outputs = last["outputs"]
    loss = hashing_loss(outputs, before, labels[drawn], labels, drawn, 3.0)
    (line,) = lines_of(tmp_path / "run")
    assert line["hash_loss"] == pytest.approx(float(loss.hash), rel=1e-4)
    assert line["quantisation_loss"] == pytest.approx(float(loss.quantisation), rel=1e-4)
    assert torch.equal(last["codes"], solve_codes(before, outputs, drawn, labels, 3.0))
    equal = ((outputs >= 0) == (before[drawn] >= 0))[:, : config.network.bits]
    assert line["bit_accuracy"] == pytest.approx(float(equal.double().mean()))
    changed = (last["codes"] >= 0) != (before >= 0)
    assert line["codes_changed"] == pytest.approx(float(changed.double().mean()))


def test_the_classification_head_learns_from_the_deployed_bits(labelled_folder, tmp_path):
    """One step of all that is drawn: the line's loss is the cross-entropy of the head as it was, times its weight."""
    settings = {"iterations": 1, "epochs": 1, "samples": 24, "batch": 24, "validation_fraction": 0.0}
    config = config_of(labelled_folder, classification_weight=0.5, **settings)
    train(config_of(labelled_folder, classification_weight=0.5, iterations=0), labelled_folder, tmp_path / "start")
    train(config, labelled_folder, tmp_path / "run")
    images = load_image_folder(labelled_folder, seed=config.seed, test_fraction=config.test_fraction).train
    drawn = iteration_samples(config.seed, 0, len(images), 24)
    last = torch.load(tmp_path / "run" / LAST, weights_only=True)
    head = load_checkpoint(tmp_path / "start").network().classifier
    assert head.weight.shape == (4, 8)  # 3 branches: 24 columns, of which 8 are the code
    with torch.no_grad():
        classes = head(last["outputs"][:, :8])
    expected = 0.5 * torch.nn.functional.cross_entropy(classes, torch.from_numpy(images.labels[drawn]))
    (line,) = lines_of(tmp_path / "run")
    assert line["classification_loss"] == pytest.approx(float(expected), rel=1e-4)
    assert line["loss"] == pytest.approx(line["hash_loss"] + line["quantisation_loss"] + line["classification_loss"])
    assert not torch.equal(last["model"]["classifier.weight"], head.weight)


def test_the_learning_rate_follows_the_step_in_the_whole_run(reference, labelled_folder):
    config = config_of(labelled_folder)
    rates = [rates_at(config, 0, step, 3 * 2 * 5).lr for step in range(4, 30, 5)]  # the last step of each epoch
    assert [line["lr"] for line in lines_of(reference)] == pytest.approx(rates)


@pytest.mark.parametrize("hold", [{"hold": 9}, {"hold": 0, "hold_solver": True}])
def test_a_held_solver_leaves_the_class_codes_alone(labelled_folder, tmp_path, hold):
    train(config_of(labelled_folder, iterations=2, epochs=1, **hold), labelled_folder, tmp_path / "run")
    assert {line["codes_changed"] for line in lines_of(tmp_path / "run")} == {0.0}
    assert lines_of(tmp_path / "run")[-1]["distinct_codes"] == 4


@pytest.mark.parametrize("ablation", [{"fusion": False}, {"queries": False}, {"branches": 1}, {"branches": 3}])
def test_ablations_train(labelled_folder, tmp_path, ablation):
    config = config_of(labelled_folder, iterations=1, epochs=1, samples=20, **ablation)
    train(config, labelled_folder, tmp_path / "run")
    assert load_checkpoint(tmp_path / "run").network()(torch.zeros(1, 3, 32, 32)).shape == (1, 8)


def test_a_last_batch_of_one_picture(labelled_folder, tmp_path):
    train(config_of(labelled_folder, iterations=1, epochs=1, samples=33), labelled_folder, tmp_path / "run")
    outputs = torch.load(tmp_path / "run" / LAST, weights_only=True)["outputs"]
    assert len(outputs) == 33
    assert bool(outputs.isfinite().all())


def test_unreadable_pictures_are_named_left_out_and_counted(labelled_folder, tmp_path):
    root = shutil.copytree(labelled_folder, tmp_path / "pictures")
    (root / "ash" / "bad.png").write_bytes(b"no picture")
    (root / "oak" / "cut.png").write_bytes((root / "oak" / "00.png").read_bytes()[:200])
    config = config_of(root, test_fraction=0.0, iterations=2, samples=122)
    run = tmp_path / "run"
    result = train(config, root, run)
    assert sorted(result.skipped) == ["ash/bad.png", "oak/cut.png"]
    assert all(result.skipped.values())
    with pytest.raises(DataError, match=r"bad\.png|cut\.png"):
        train(config, root, tmp_path / "strict", strict=True)
    again = train(config, root, run, resume=True)
    assert again.skipped == result.skipped


def test_an_iteration_without_a_readable_picture_says_so(labelled_folder, tmp_path):
    root = shutil.copytree(labelled_folder, tmp_path / "pictures")
    for path in sorted(root.rglob("*.png"))[1:]:
        path.write_bytes(b"no picture")
    settings = {"test_fraction": 0.0, "validation_fraction": 0.0, "samples": 2}
    with pytest.raises(DataError, match=r"none of the 2 pictures of an iteration can be read \(.*\.png: not a pic"):
        train(config_of(root, **settings), root, tmp_path / "run")


def test_failing_start_leaves_no_folder(labelled_folder, tmp_path):
    with pytest.raises(UsageError, match="codes"):
        train(config_of(labelled_folder, codes="nois"), labelled_folder, tmp_path / "a" / "run")
    with pytest.raises(UsageError):
        train(config_of(labelled_folder, weights=str(tmp_path / "none.pth")), labelled_folder, tmp_path / "b")
    assert not (tmp_path / "a" / "run").exists()
    assert not (tmp_path / "b").exists()


def test_threads_are_given_back(labelled_folder, tmp_path):
    before = torch.get_num_threads()
    train(config_of(labelled_folder, iterations=0, threads=before + 1), labelled_folder, tmp_path / "run")
    assert torch.get_num_threads() == before


def test_progress_counts_every_picture(labelled_folder, tmp_path):
    seen = []

    @contextmanager
    def progress(description, total, unit):
        seen.append(total)
        yield lambda count=1, note=None: seen.append(-count)

    train(config_of(labelled_folder, iterations=2), labelled_folder, tmp_path / "run", progress=progress)
    assert seen[0] == 2 * 2 * 80
    assert sum(seen) == 0
    assert np.all(np.array(seen[1:]) <= 0)
