import json
import signal

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from queryopt.errors import DataError, UsageError
from queryopt.export import export_onnx
from queryopt.train import fine_tuning, load_checkpoint, preset_config, train
from queryopt.train.checkpoint import BEST, CONFIG
from queryopt.train.cli import main as qo_train

SETTINGS = {"method": "linear", "bits": 8, "threads": 1, "resize": "pad", "seed": 3, "validation_fraction": 0.3}


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """Four classes of 24 pictures, 32 x 32, grey: stripes of an angle, of which an untrained trunk knows little."""
    root = tmp_path_factory.mktemp("stripes")
    rng = np.random.default_rng(0)
    at = np.mgrid[:32, :32]
    for number, name in enumerate(("flat", "falling", "steep", "rising")):
        (root / name).mkdir()
        for picture in range(24):
            angle = np.pi * (number + rng.normal(0, 0.2)) / 4
            wave = np.sin((np.cos(angle) * at[0] + np.sin(angle) * at[1]) * rng.uniform(0.6, 1.0) + rng.uniform(0, 6))
            pixels = np.clip(128 + 60 * wave + rng.normal(0, 40, (32, 32)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{picture:02}.png")
    return root


def run_of(folder, out, **settings):
    return train(preset_config("tiny", **{**SETTINGS, **settings}), str(folder), out, cache=False)


@pytest.fixture(scope="module")
def tuned(stripes, tmp_path_factory):
    """A run of 60 passes: an untrained trunk has much to learn. Not to be changed."""
    return run_of(stripes, tmp_path_factory.mktemp("tuned") / "run", iterations=60)


def test_a_run_learns_from_where_the_closed_form_began(stripes, tuned, tmp_path):
    maps = tuned.fine_tuning["maps"]
    assert list(maps) == ["closed form", "trained layer", "closed form anew"]
    assert tuned.fine_tuning["kept"] != "closed form"
    assert tuned.validation_map > maps["closed form"] + 0.02
    assert tuned.validation_map == pytest.approx(max(maps.values()), abs=1e-3)
    assert run_of(stripes, tmp_path / "run").validation_map == pytest.approx(maps["closed form"], abs=1e-3)
    noted = json.loads((tuned.out / CONFIG).read_text())
    assert (noted["iterations"], noted["run"]["fine_tuning"]) == (60, tuned.fine_tuning)


def test_a_run_never_ends_worse_than_it_began(stripes, tmp_path, monkeypatch):
    monkeypatch.setattr(fine_tuning, "_RATE", 3.0)  # what is learnt is spoilt
    begun, ended = run_of(stripes, tmp_path / "a"), run_of(stripes, tmp_path / "b", iterations=2)
    assert ended.fine_tuning["kept"] == "closed form"
    assert ended.fine_tuning["maps"]["trained layer"] < begun.validation_map == ended.validation_map
    weights = [load_checkpoint(run.out).network().state_dict() for run in (begun, ended)]
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())


def test_a_budget_is_repeated_by_its_number_of_passes(stripes, tmp_path):
    budget = run_of(stripes, tmp_path / "a", minutes=60.0)
    passes = json.loads((budget.out / CONFIG).read_text())["iterations"]
    assert passes > 2
    run_of(stripes, tmp_path / "b", iterations=passes)
    assert (tmp_path / "b" / BEST).read_bytes() == (budget.out / BEST).read_bytes()
    none = run_of(stripes, tmp_path / "c", minutes=1e-6)
    assert (none.fine_tuning["passes"], none.fine_tuning["kept"]) == (0, "closed form")


def test_ctrl_c_keeps_the_best_so_far_and_nothing_goes_on_from_there(stripes, tmp_path):
    def interrupt(line):
        signal.raise_signal(signal.SIGINT)

    config = preset_config("tiny", **SETTINGS, iterations=6)
    with pytest.raises(KeyboardInterrupt):
        train(config, str(stripes), tmp_path / "run", cache=False, report=interrupt)
    noted = json.loads((tmp_path / "run" / CONFIG).read_text())["run"]["fine_tuning"]
    assert noted["passes"] == 1
    assert load_checkpoint(tmp_path / "run").config.iterations == 6
    with pytest.raises(UsageError, match="not resumed"):
        train(config, str(stripes), tmp_path / "run", resume=True)


def test_its_export_gives_the_networks_codes(tuned):
    result = export_onnx(tuned.out, threads=1)
    assert result.parity.flipped == 0
    assert result.card.logit_scale == 1.0


def test_the_command_says_what_it_kept(stripes, tmp_path):
    arguments = ["--data", str(stripes), "--preset", "tiny", "--method", "linear", "--bits", "8", "--threads", "1"]
    done = CliRunner().invoke(qo_train, [*arguments, "--minutes", "5", "--no-cache", "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert "forecast:" in done.stderr
    assert "kept: the" in done.stdout


def test_what_it_needs_is_said_before_anything_is_computed(stripes, tmp_path):
    with pytest.raises(DataError, match="needs labels"):
        run_of(f"unlabelled:{stripes}", tmp_path / "a", iterations=2)
    with pytest.raises(DataError, match="validation"):
        run_of(stripes, tmp_path / "b", iterations=2, validation_fraction=0.0)
    assert not (tmp_path / "a").exists()
    with pytest.raises(UsageError, match="give one"):
        preset_config("tiny", **SETTINGS).override(iterations=3, minutes=1.0)
    with pytest.raises(UsageError, match="as long as its iterations"):
        preset_config("tiny", minutes=1.0)
