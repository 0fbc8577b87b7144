"""qo-infer --fit: a model where there is none."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from queryopt.export.fit_folder import main as fit_folder
from queryopt.runtime import HashIndex
from queryopt.runtime.cli.infer import main as qo_infer
from queryopt.runtime.cli.search import main as qo_search

DATA = Path(__file__).parents[2] / "data"
MODEL = DATA / "v1" / "model.onnx"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with photos/ and no model."""
    shutil.copytree(DATA / "pictures", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QUERYOPT_MODEL", raising=False)
    return tmp_path


def infer(*arguments: Any) -> Result:
    return CliRunner().invoke(qo_infer, [str(argument) for argument in arguments])


def test_where_there_is_no_model_it_offers_to_fit_one(here: Path) -> None:
    done = infer("photos")
    assert done.exit_code == 3
    assert "qo-infer photos --fit" in done.stderr
    (here / "my photos").mkdir()
    assert "qo-infer 'my photos' --fit --index my.db" in infer("my photos", "--index", "my.db").stderr


def test_the_fitted_model_finds_pictures_by_their_likes(here: Path) -> None:
    """With the trunk's own weights, on pictures that are shrunk, which makes it quick. One of them can't be read."""
    (here / "photos/a.jpg").write_text("no picture")
    made = CliRunner().invoke(
        fit_folder, ["photos", "run", "photos.onnx", "--bits", "64", "--image-size", "64", "--threads", "1"]
    )
    assert made.exit_code == 0, made.output
    assert re.search(r"^fit: 64 bits, without labels, of 8 pictures, in .* photos\.onnx flips ", made.stderr, re.M)
    shutil.copy("photos/finch/1.jpg", "photos/copy.jpg")
    done = infer("photos")  # the model that has the index's name is taken, whatever else lies here
    assert done.exit_code == 1, done.output
    assert "photos/a.jpg: not a picture" in done.stderr
    assert "model: photos.onnx (64 bits" in done.stderr
    with HashIndex.open("photos.db", readonly=True) as index:
        assert len({image.code.tobytes() for image in index}) > 4
    found = CliRunner().invoke(qo_search, ["photos/finch/1.jpg", "--index", "photos.db", "-k", "2"])
    assert found.exit_code == 0, found.output
    assert "copy.jpg" in found.stdout


def test_what_is_there_already_is_gone_on_with(here: Path) -> None:
    shutil.copyfile(MODEL, "photos.onnx")
    Path("model.onnx").write_bytes(b"of another index")
    for _ in range(2):
        done = infer("photos", "--fit")
        assert done.exit_code == 0, done.output
        assert "photos.onnx is there from before" in done.stderr
    done = infer("photos", "--fit", "--bits", 24)
    assert done.exit_code == 2
    assert "has 12 bits, not 24" in done.stderr
    os.rename("photos.onnx", "elsewhere.onnx")
    done = infer("photos", "--fit")
    assert done.exit_code == 2
    assert "photos.db holds codes of another model" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--fit", "--model", "m.onnx"], "--model"),
        (["--fit", "--no-index", "--out", "codes.csv"], "--no-index"),
        (["--bits", "32"], "--bits goes with --fit"),
        (["--fit", "--index", "nowhere/photos.db"], "nowhere: no such folder"),
    ],
)
def test_options_that_dont_go_with_it(options: list[str], said: str) -> None:
    done = infer("photos", *options)
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_model_that_the_environment_names_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUERYOPT_MODEL", str(MODEL))
    assert "QUERYOPT_MODEL" in infer("photos", "--fit").stderr


def test_pictures_that_nothing_can_be_fitted_to(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "none").mkdir()
    done = infer("none", "--fit")
    assert (done.exit_code, "no pictures" in done.stderr) == (3, True)
    (here / "bad").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (here / "bad" / name).write_text("no picture")
    done = infer("bad", "--fit", "--index", "bad.db")
    assert done.exit_code == 3
    assert "2 pictures are few" in done.stderr
    assert "none of its pictures can be read (a.jpg" in capfd.readouterr().err
    assert sorted(path.name for path in here.iterdir()) == ["bad", "none", "photos"]
