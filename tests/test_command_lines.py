"""Command lines as people type them: the main argument first, and wrong ones, each with the sentence that mends it."""

import json
import shutil
import struct
from importlib.metadata import distribution
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from queryopt.cli import Command, main_argument

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, an exported run, one that isn't exported, an index, a picture and a page."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(DATA / "pictures", folder / "photos")
    for run in ("a", "raw"):
        (folder / "runs" / run).mkdir(parents=True)
        (folder / "runs" / run / "best.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    shutil.copy(DATA / "v1" / "model.onnx", folder / "runs" / "a")
    shutil.copy(next((DATA / "pictures").glob("*/*.jpg")), folder / "q.jpg")
    (folder / "hits.html").write_text("<!doctype html>")
    (folder / "empty").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = invoke("qo-infer photos/ --model runs/a --index photos.db")
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(autouse=True)
def _here(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.delenv("QUERYOPT_MODEL", raising=False)


def invoke(line: str) -> Result:
    name, *arguments = line.split()
    (script,) = (each for each in distribution("queryopt").entry_points if each.name == name)
    return CliRunner().invoke(script.load(), arguments)


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("qo-search q.jpg photos.db", "qo-search q.jpg --index photos.db"),
        ("qo-search photos.db photos/ q.jpg -k 3", "qo-search photos/ q.jpg --index photos.db -k 3"),
        ("qo-eval photos.db --queries photos/", "qo-eval --index photos.db --queries photos/"),
        ("qo-eval runs/a/model.onnx --data photos/", "qo-eval --model runs/a/model.onnx --data photos/"),
        ("qo-index photos.db", "qo-index info photos.db"),
        ("qo-index photos.db verify", "qo-index verify photos.db"),
    ],
)
def test_the_main_argument_may_stand_first(short: str, long: str) -> None:
    first, second = (invoke(f"{line} --json") for line in (short, long))
    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    assert json.loads(first.stdout) == json.loads(second.stdout)


def test_a_run_folder_is_taken_for_its_model() -> None:
    done = invoke("qo-infer photos/ --model runs/a --index photos.db --json")
    assert json.loads(done.stdout)["model"].endswith("/runs/a/model.onnx")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("qo-search q.jpg -k ten", "'ten' is not a whole number of at least 0"),
        ("qo-search q.jpg --radius -1", "-1 is not a whole number of at least 0"),
        ("qo-infer photos/ --batch many", "'many' is not a whole number from 1 to 65536"),
        ("qo-eval runs/a --require-ratio no --compare x", "'no' is not a number above 0"),
        ("qo-search q.jpg --idnex photos.db", "Did you mean '--index'?"),
        ("qo-index inof photos.db", "Did you mean 'info'?"),
        ("qo-search photos.db", "give a picture"),
        ("qo-search q.jpg photos.db --index other.db", "photos.db and --index other.db: give one of the two"),
        ("qo-search q.jpg --index q.jpg", "q.jpg: a picture, not an index: search with it: qo-search q.jpg INDEX"),
        ("qo-search runs/a/model.onnx photos.db", "not a picture that can be read (it is a model)"),
        ("qo-serve runs/a", "runs/a: a run folder, not an index"),
        ("qo-index info photos", "photos: a folder, not an index: make an index of its pictures with: qo-infer photos"),
        ("qo-infer photos/ --model photos.db", "photos.db: an index, not a model: search in it with: qo-search"),
        ("qo-infer photos/ --model runs/a/best.safetensors", "a checkpoint, not a model"),
        ("qo-infer photos/ --model runs/raw", "make its model with: qo-export runs/raw"),
        ("qo-infer photos/ --model q.jpg", "q.jpg: a picture, not a model"),
        ("qo-infer photos/ --model runs", "runs: no model.onnx or model.plan in this folder"),
        ("qo-infer q.jpg", "q.jpg: not a folder. To search with one picture: qo-search q.jpg"),
        ("qo-train", "qo-train FOLDER, which has one sub-folder a class"),
        ("qo-train photos/ --data other/", "photos/ and --data other/: give one of the two"),
        ("qo-train photos/ --out runs/a", "already holds a run"),
        ("qo-train foto", "foto: no such folder; did you mean photos?"),
        ("qo-train cub20", "cub20: no such folder; did you mean cub200?"),
        ("qo-infer photo/", "photo: no such folder; did you mean photos?"),
        ("qo-train empty", "empty: no pictures in sub-folders"),
        ("qo-export", "qo-export RUN"),
        ("qo-export photos.db", "photos.db: an index, not a checkpoint"),
        ("qo-export photos/", "make a run of them with: qo-train photos"),
        ("qo-export runs/a/model.onnx", "--engine builds a TensorRT engine of it"),
        ("qo-eval q.jpg", "q.jpg: a picture, not a run folder"),
        ("qo-eval photos/", "a model with --data photos/"),
        ("qo-eval", "qo-eval RUN"),
        ("qo-report q.jpg", "q.jpg: a picture, not a checkpoint"),
    ],
)
def test_a_wrong_command_line_says_what_mends_it(line: str, says: str) -> None:
    done = invoke(line)
    assert done.exit_code in (2, 3), done.output
    assert says in done.stderr
    assert done.stdout == ""


def test_an_option_and_its_argument_may_say_the_same() -> None:
    @click.command(cls=Command)
    @main_argument("[RUN]", "run")
    @click.option("--run")
    def command(run: str | None) -> None:
        click.echo(run)

    for line in (["a"], ["--run", "a"], ["a", "--run", "a"]):
        assert CliRunner().invoke(command, line).output == "a\n"
    assert CliRunner().invoke(command, []).output == "\n"
    assert CliRunner().invoke(command, ["a", "b"]).exit_code == 2
