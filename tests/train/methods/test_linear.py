import json
import os
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from queryopt.errors import DataError, UsageError
from queryopt.export import export_onnx
from queryopt.runtime import Hasher
from queryopt.train import load_checkpoint, preset_config, train
from queryopt.train.checkpoint import BEST, CONFIG, LAST
from queryopt.train.cli import main as qo_train
from queryopt.train.data import load_unlabelled
from queryopt.train.methods.linear import LinearNetwork, pooled

SETTINGS = {"method": "linear", "bits": 8, "threads": 1, "resize": "pad", "seed": 3}


@pytest.fixture(scope="module")
def run(labelled_folder, tmp_path_factory):
    """A run of the method on labelled pictures, with an untrained trunk. Not to be changed."""
    folder = tmp_path_factory.mktemp("linear") / "run"
    return train(preset_config("tiny", **SETTINGS), str(labelled_folder), folder)


def test_a_run_fits_at_once_and_is_finished(run, labelled_folder):
    assert run.iterations == 0
    assert run.fit["leave_one_out"] > 0.5
    assert set(run.fit["features"]) <= set(LinearNetwork(load_checkpoint(run.out).config.network).groups())
    assert json.loads((run.out / CONFIG).read_text())["run"]["fit"] == run.fit
    assert run.validation_map > run.chance
    again = train(preset_config("tiny", **SETTINGS), str(labelled_folder), run.out, resume=True)
    assert again.already_finished
    assert (run.out / LAST).is_file()


def test_the_same_run_gives_the_same_weights(run, labelled_folder, tmp_path):
    train(preset_config("tiny", **SETTINGS), str(labelled_folder), tmp_path / "run")
    assert (tmp_path / "run" / BEST).read_bytes() == (run.out / BEST).read_bytes()


@pytest.mark.usefixtures("undrawn")
def test_a_second_run_decodes_nothing_and_changes_nothing(labelled_folder, tmp_path, monkeypatch):
    """Of the same pictures with other labels and bits: with the cache (or a part of it) and without, the same bytes."""
    folder, cache = tmp_path / "photos", tmp_path / "cache"
    shutil.copytree(labelled_folder, folder)
    monkeypatch.setenv("QUERYOPT_CACHE", str(cache))

    def fitted(name, **settings):
        config = preset_config("tiny", **{**SETTINGS, **settings})
        result = train(config, str(folder), tmp_path / name, cache=not name.startswith("without"))
        return result, (tmp_path / name / BEST).read_bytes()

    settings = {"test_fraction": 0.0}
    first, weights = fitted("first", **settings)
    assert first.found == 0
    (folder / "oak/00.png").rename(folder / "elm/moved.png")
    without, changed = fitted("without", **settings, bits=12)
    with monkeypatch.context() as context:
        context.delattr("PIL.Image.open")
        second, same = fitted("second", **settings, bits=12)
        assert (second.found, same) == (120, changed)
    assert changed != weights
    assert second.validation_map == without.validation_map

    path = folder / "elm/00.png"
    before = path.stat()
    path.write_bytes((folder / "oak/01.png").read_bytes().ljust(before.st_size, b"\0")[: before.st_size])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for kept in sorted(path for path in cache.rglob("*") if path.is_file())[::3]:
        kept.write_bytes(kept.read_bytes()[:-1])
    third, same = fitted("third", **settings)
    assert third.found in (79, 80)
    assert same == fitted("without-2", **settings)[1]


def test_its_export_gives_the_networks_codes_of_whole_pictures(run, labelled_folder, tmp_path):
    result = export_onnx(run.out, tmp_path / "model.onnx", threads=1)
    assert (result.card.method, result.card.format_version) == ("linear", 2)
    assert (result.card.preprocessing.resize, result.card.logit_scale) == ("pad", 1.0)
    assert result.parity.flipped == 0
    with Hasher(result.path) as hasher:
        batch = hasher.hash_files(sorted(labelled_folder.rglob("*.png"))[:16])
    assert len(batch.codes) == 16
    assert np.array_equal(np.unpackbits(batch.codes, axis=1, bitorder="little"), batch.logits >= 0)
    assert np.abs(batch.logits).max() < 3


def test_pictures_without_labels_need_no_folders(labelled_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("QUERYOPT_CACHE", str(tmp_path / "cache"))
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(labelled_folder.rglob("*.png"))):
        shutil.copy(path, flat / f"{number}.png")
    arguments = ["--data", f"unlabelled:{flat}", "--preset", "tiny", "--method", "linear", "--bits", "8"]
    done = CliRunner().invoke(qo_train, [*arguments, "--threads", "1", "--no-cache", "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "cache").exists()
    assert "features: 120 pictures, 0 of them kept from before" in done.stdout
    assert "without labels" in done.stdout
    assert "validation mAP" not in done.stdout
    assert "fitted to 120 pictures:" in done.stdout  # of which none is set aside
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.config.data == f"unlabelled:{flat}"
    assert export_onnx(tmp_path / "run", threads=1).parity.flipped == 0
    assert len(load_unlabelled(labelled_folder).train.classes) == 1
    with pytest.raises(DataError, match="linear"):
        train(preset_config("tiny"), f"unlabelled:{flat}", tmp_path / "other")
    with pytest.raises(DataError, match="no pictures"):
        load_unlabelled(tmp_path / "run")


def test_what_it_has_no_use_for_is_refused():
    with pytest.raises(UsageError, match="epochs"):
        preset_config("tiny", **SETTINGS, epochs=3)


def test_what_is_pooled_of_a_map():
    maps = torch.arange(2 * 3 * 5 * 4, dtype=torch.float64).reshape(2, 3, 5, 4)
    values = pooled(maps).reshape(2, 5, 3)
    flat = maps.flatten(2)
    expected = [
        flat.mean(2),
        flat.amax(2),
        flat.std(2, correction=0),
        maps[:, :, :3].mean((2, 3)),
        maps[:, :, 2:].mean((2, 3)),
    ]
    for column, value in enumerate(expected):
        torch.testing.assert_close(values[:, column], value, rtol=1e-6, atol=1e-6)
