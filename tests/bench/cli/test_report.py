"""qo-report: real runs of generated birds, real models, and the page that comes of them."""

import base64
import json
import re
import resource
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from queryopt.bench.cli.evaluate import main as qo_eval
from queryopt.bench.cli.report import main
from queryopt.bench.quality.report import landscape
from queryopt.errors import ExitCode
from queryopt.train import preset_config, train
from queryopt.train.data import load_image_folder, split_validation

from ..conftest import SEED, VALIDATION

HOSTILE = '<img src=x onerror=alert(1)>&"$x$'


WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError(name)

sys.meta_path.insert(0, NoTorch())
from queryopt.bench.cli.report import main
main(sys.argv[1:])
"""


def report(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments), "--threads", "1"], catch_exceptions=False)


def told(*arguments: Any, exit_code: int = ExitCode.DONE) -> dict[str, Any]:
    """What it says with --json."""
    done = report(*arguments, "--json")
    assert done.exit_code == exit_code, done.output
    values: dict[str, Any] = json.loads(done.stdout)
    return values


class Page(HTMLParser):
    """What a browser would load, link to and show of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._quiet = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._quiet = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._quiet = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._quiet else data

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def made(birds: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A report of everything, with its figures: its folder, and what was said."""
    out = tmp_path_factory.mktemp("made")
    options = ("--out", out / "report.html", "--figures", out / "figures", "--compare", birds / "plain", "--landscape")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(landscape, "_GRID", 5)  # a small landscape: 25 points
        return out, told(birds / "run", *options)


def test_one_file_that_loads_nothing_and_says_all(made: tuple[Path, dict[str, Any]]) -> None:
    folder, said = made
    text = (folder / "report.html").read_text("utf-8")
    page = Page(text)
    assert said["left_out"] == {}
    assert said["bytes"] == len(text.encode()) < 3_000_000
    policy = next(meta["content"] for meta in page.of("meta") if meta.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in page.tags}
    assert not any(name in attributes for _, attributes in page.tags for name in ("style", "onload", "onclick"))
    for image in page.of("img"):
        assert (image["src"] or "").startswith("data:image/")
        assert image["alt"]
    links = [(link["href"] or "") for link in page.of("a")]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    assert set(said["sections"]) < set(ids)
    for section in said["sections"]:
        assert said["findings"][section] in re.sub(r"\s+", " ", page.text)


def test_embedded_figures_are_sound_and_saved_ones_too(made: tuple[Path, dict[str, Any]]) -> None:
    folder, said = made
    page = Page((folder / "report.html").read_text("utf-8"))
    charts = [image["src"] or "" for image in page.of("img") if "svg+xml" in (image["src"] or "")]
    assert len(charts) >= 8
    for source in charts:
        svg = base64.b64decode(source.split(",", 1)[1]).decode()
        ET.fromstring(svg)
        assert "prefers-color-scheme:dark" in svg
        assert not re.search(r"(href|src)=\"http", svg)
    names = {path.stem for path in (folder / "figures").iterdir()}
    assert {"precision-recall", "confusion", "bit-strips", "attention", "similarity", "t-sne", "landscape"} <= names
    assert len(said["figures"]) == 2 * len(names)
    for name in names:
        with Image.open(folder / "figures" / f"{name}.png") as image:
            assert min(image.size) > 100
        ET.parse(folder / "figures" / f"{name}.svg")


def test_two_runs_of_one_name_are_told_apart(birds: Path, tmp_path: Path) -> None:
    shutil.copytree(birds / "run", tmp_path / "run")
    said = told(birds / "run", "--compare", tmp_path / "run", "--out", tmp_path / "report.html")
    for folder in (birds, tmp_path):
        assert f"in {folder / 'run'} (N = 2)," in said["findings"]["t-sne"]


def test_the_figures_are_those_of_qo_eval(birds: Path, made: tuple[Path, dict[str, Any]]) -> None:
    options = ["--run", str(birds / "run"), "--protocol", "both", "--rank", "all", "--json", "--threads", "1"]
    models = json.loads(CliRunner().invoke(qo_eval, options).stdout)["models"]
    by = {(model["protocol"], model["rank"]): model["map"] for model in models}
    finding = made[1]["findings"]["retrieval"]
    assert f"mAP {by['deployed', 'margin']:.3f} as deployed" in finding
    assert f"by distance alone {by['deployed', 'id']:.3f}, between" in finding
    assert f"{by['deployed', 'weighted']:.3f} where the query's logits" in finding
    assert f"{by['paper', 'id']:.3f} against the solved codes" in finding


def test_a_model_alone_is_reported_on_without_torch_and_what_needs_the_run_is_named(
    birds: Path, tmp_path: Path
) -> None:
    arguments = [str(birds / "run" / "model.onnx"), "--data", str(birds / "birds"), "--out", str(tmp_path / "r.html")]
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments, "--threads", "1", "--json", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.DONE, done.stderr
    said = json.loads(done.stdout)
    parts = {"summary", "retrieval", "classes", "balls", "bits", "bit-cards", "class-codes", "attention"}
    assert parts <= set(said["sections"])
    assert "Training curves" in said["left_out"]
    assert "its run folder" in said["left_out"]["Training curves"]
    assert {"Similarity of queries and features", "Map of the features (t-SNE)", "Paper's protocol"} <= set(
        said["left_out"]
    )
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "What this report could have had" in page


@pytest.mark.parametrize(("method", "paper"), [("adsh", True), ("hashnet", False)])
def test_every_method_with_unseen_classes(birds_data: str, tmp_path: Path, method: str, paper: bool) -> None:
    config = preset_config(
        "tiny",
        method=method,
        bits=6,
        data=birds_data,
        iterations=1,
        samples=16,
        threads=1,
        open_set=2,
        validation_fraction=0.0,
    )
    train(config, None, tmp_path / "run")
    said = told(tmp_path / "run")
    assert (tmp_path / "run" / "report.html").is_file()
    text = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "unseen classes" in text
    assert f"the method {method} has no queries" in said["left_out"]["Where the queries look"]
    assert ("Paper's protocol" in said["left_out"]) != paper
    assert "t-sne" in said["sections"]
    if paper:  # once is enough: equal reports are equal files
        told(tmp_path / "run", "--out", tmp_path / "again.html")
        assert (tmp_path / "again.html").read_text("utf-8") == text


def test_names_of_classes_and_files_are_text(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 2)):
        for name in (HOSTILE, "a`b'c", "plain"):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (40, 40, 3), np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}<b>.png")
    (folder / "test" / "plain" / "broken.jpg").write_text("no picture")
    model = Path(__file__).parents[2] / "data" / "v1" / "model.onnx"
    done = report(model, "--data", folder, "--out", tmp_path / "r.html")
    assert done.exit_code == ExitCode.SOME_FAILED
    assert "export it with --explain" in done.stdout
    assert "broken.jpg: not a picture" in done.stderr
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert HOSTILE in page.text


def test_data_that_is_not_the_runs_is_named_with_what_differs(birds: Path, tmp_path: Path) -> None:
    other = f"synthetic:birds?classes=5&train=6&test=3&size=32&folder={tmp_path / 'other'}"
    done = report(birds / "run", "--data", other)
    assert done.exit_code == ExitCode.USAGE
    assert "5 classes, and the run had 6" in done.stderr
    assert "qo-report" in done.stderr
    shutil.copytree(birds / "birds", tmp_path / "renamed")
    trained, _ = split_validation(load_image_folder(tmp_path / "renamed").train, VALIDATION, SEED)
    trained.path(0).rename(trained.path(0).with_name("new.jpg"))
    done = report(birds / "run", "--data", tmp_path / "renamed")
    assert done.exit_code == ExitCode.USAGE
    assert "other names of files or classes" in done.stderr


def test_bad_input_is_one_line_and_leaves_no_report(birds: Path, tmp_path: Path) -> None:
    model = birds / "run" / "model.onnx"
    empty, flat, one = tmp_path / "empty", tmp_path / "flat", tmp_path / "one"
    empty.mkdir()
    flat.mkdir()
    (one / "only").mkdir(parents=True)
    for number in range(3):
        picture = Image.new("RGB", (40, 40), (80 * number, 40, 40))
        picture.save(flat / f"{number}.png")
        picture.save(one / "only" / f"{number}.png")
    (tmp_path / "mine.html").write_text("my own notes")
    out = tmp_path / "out.html"
    for arguments, code, message in (
        ((tmp_path / "nothing",), ExitCode.INPUT, "no such file or folder"),
        ((empty,), ExitCode.INPUT, "no run folder"),
        ((tmp_path / "no.onnx", "--data", birds / "birds"), ExitCode.INPUT, "no such model"),
        ((model,), ExitCode.USAGE, "give --data"),
        ((model, "--data", flat), ExitCode.INPUT, "sub-folders"),
        ((model, "--data", one), ExitCode.INPUT, "one class only"),
        ((model, "--data", birds / "birds", "--compare", birds / "plain"), ExitCode.USAGE, "two runs side by side"),
        ((birds / "run", "--compare", empty), ExitCode.INPUT, "no run folder"),
        ((birds / "run", "--root", tmp_path), ExitCode.USAGE, "--data"),
    ):
        done = report(*arguments, "--out", out)
        assert (done.exit_code, message in done.stderr) == (code, True), done.output
        assert "Traceback" not in done.output
        assert not out.exists()
    done = report(birds / "run", "--out", tmp_path / "mine.html")
    assert done.exit_code == ExitCode.USAGE
    assert (tmp_path / "mine.html").read_text() == "my own notes"


def test_a_full_disk_leaves_the_older_report(birds: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    before = b"<!doctype html>\nan older report"
    target.write_bytes(before)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        done = report(birds / "run" / "model.onnx", "--data", birds / "birds", "--out", target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.exit_code == ExitCode.INPUT
    assert "report.html: File too large" in done.stderr
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
