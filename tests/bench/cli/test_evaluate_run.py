"""qo-eval on a run folder: both protocols, trained for once on generated birds."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from queryopt.bench.cli.evaluate import main
from queryopt.codes import pack_codes
from queryopt.errors import ExitCode
from queryopt.export.cli import main as export_main
from queryopt.metrics import retrieval_metrics
from queryopt.runtime.hasher import Hasher
from queryopt.runtime.index.rows import encode_margins
from queryopt.train.cli import main as train_main
from queryopt.train.data import load_image_folder, split_validation
from queryopt.train.synthetic import ATTRIBUTES

from ..conftest import SEED, VALIDATION


def command(program, *arguments):
    return CliRunner().invoke(program, [*map(str, arguments), "--threads", "1"])


@pytest.fixture
def run(birds, tmp_path):
    """A copy of the run folder that a test may change."""
    return Path(shutil.copytree(birds / "run", tmp_path / "run"))


def test_both_protocols_are_what_their_codes_give(birds, tmp_path):
    done = command(
        main, "--run", birds / "run", "--protocol", "both", "--k", "1,4", "--json", "--plot", tmp_path / "p.png"
    )
    assert done.exit_code == ExitCode.DONE, done.output
    value = json.loads(done.stdout)
    deployed, paper = value["models"]
    ranks = [("deployed", "margin"), ("paper", "id")]
    assert [(model["protocol"], model["rank"]) for model in value["models"]] == ranks
    assert [(one["name"], one["queries"]) for one in value["baselines"]] == [
        ("histogram", deployed["queries"]),
        ("trunk", deployed["queries"]),
    ]

    last = torch.load(birds / "run" / "last.pt", weights_only=True)
    config = json.loads((birds / "run" / "config.json").read_text())
    splits = load_image_folder(birds / "birds")
    train, _ = split_validation(splits.train, VALIDATION, config["seed"])
    assert len(train) == 36
    hasher = Hasher(birds / "run" / "model.onnx", threads=1)
    batches = [hasher.hash_files([images.path(i) for i in range(len(images))]) for images in (splits.test, train)]
    queries, network = (batch.codes for batch in batches)
    margins = tuple(encode_margins(b.codes, b.logits, hasher.card.bits, hasher.card.logit_scale) for b in batches)
    solved = pack_codes(np.asarray(last["codes"][:, : hasher.card.bits] >= 0))
    # Galleries of one code each, or of the same codes, would pass for one another.
    assert min(len(np.unique(codes, axis=0)) for codes in (network, solved)) > 1
    assert deployed["map"] != paper["map"]
    # Solved codes have no margins: the paper's protocol is by distance alone.
    for gallery, model, by in ((network, deployed, margins), (solved, paper, None)):
        labels = splits.test.labels, train.labels
        expected = retrieval_metrics(queries, gallery, hasher.card.bits, *labels, ks=(1, 4), margins=by)
        assert model["map"] == pytest.approx(expected.map, abs=1e-12)
        assert list(model["map_at"].values()) == pytest.approx(list(expected.map_at.values()), abs=1e-12)
        assert model["curve"]["recall"] == pytest.approx(list(expected.curve.recall), abs=1e-12)
        assert (model["gallery"], model["queries"], model["queries_in_gallery"]) == (36, 18, 0)
        assert len(model["per_class"]) == 6
        means = [score["map"] for score in model["per_class"]]
        assert means == sorted(means)
        assert np.mean(means) == pytest.approx(expected.map)  # three queries each
    assert value["solved_codes"] == {
        "outer_iterations": 2,
        "model_outer_iterations": last["best"]["iteration"],
    }
    with Image.open(tmp_path / "p.png") as image:
        assert image.width > 1000

    alone = command(main, "--run", birds / "run", "--protocol", "paper", "--k", "1,4", "--json")
    assert json.loads(alone.stdout)["models"] == [paper]


def test_classes_are_those_of_the_run_and_others_are_named(birds, run):
    done = command(main, "--run", run, "--label-depth", 2)
    assert done.exit_code == ExitCode.USAGE
    assert "the run was trained with 1, and its test pictures are drawn from its classes" in done.stderr
    config = json.loads((run / "config.json").read_text())
    assert len(config["run"]["class_names"]) == 6
    strange = config["run"]["class_names"].pop()
    (run / "config.json").write_text(json.dumps(config))
    done = command(main, "--run", run)
    assert done.exit_code == ExitCode.DONE, done.output
    assert f"the run was not trained on 1 of the 6 classes here: {strange}" in done.stderr


def test_the_table_has_both_and_names_the_worst_classes(birds):
    done = command(main, "--run", birds / "run", "--protocol", "both", "--worst", 2, "--radius", "all")
    assert done.exit_code == ExitCode.DONE, done.output
    assert "model.onnx, deployed" in done.stdout
    assert "model.onnx, paper" in done.stdout
    assert "worst 2 of 6 classes" in done.stdout
    assert sum(line[:3] in {f"{n:03}" for n in range(6)} for line in done.stdout.splitlines()) == 2
    assert "recall within 6 bits" in done.stdout
    assert "paper: gallery codes from labels, solved after 2 outer iterations" in done.stdout


def test_validation_pictures_search_with_either_protocol(birds):
    done = command(main, "--run", birds / "run", "--protocol", "both", "--split", "validation", "--json")
    assert done.exit_code == ExitCode.DONE, done.output
    for model in json.loads(done.stdout)["models"]:
        assert (model["gallery"], model["queries"], model["queries_in_gallery"]) == (36, 12, 0)


def test_a_picture_that_can_no_longer_be_read_is_in_neither_gallery(birds, tmp_path):
    data = Path(shutil.copytree(birds / "birds", tmp_path / "birds"))
    train, _ = split_validation(load_image_folder(data).train, VALIDATION, SEED)
    train.path(0).write_bytes(b"")
    done = command(main, "--run", birds / "run", "--data", data, "--protocol", "both", "--json")
    assert done.exit_code == ExitCode.SOME_FAILED, done.output
    assert [model["gallery"] for model in json.loads(done.stdout)["models"]] == [35, 35]


def test_other_pictures_are_not_those_that_the_codes_belong_to(birds, tmp_path):
    data = Path(shutil.copytree(birds / "birds", tmp_path / "birds"))
    train, _ = split_validation(load_image_folder(data).train, VALIDATION, SEED)
    train.path(0).rename(train.path(0).with_name("another.png"))
    done = command(main, "--run", birds / "run", "--data", data, "--protocol", "paper")
    assert done.exit_code == ExitCode.USAGE
    assert "are not those that the run in" in done.stderr
    assert command(main, "--run", birds / "run", "--data", data).exit_code == ExitCode.DONE


def test_another_runs_model_is_refused(run, birds):
    other = Path(__file__).parents[2] / "data" / "v1" / "model.onnx"
    done = command(main, "--run", run, "--model", other, "--protocol", "both")
    assert done.exit_code == ExitCode.USAGE
    assert "not the model of the run" in done.stderr


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (lambda run: (run / "last.pt").unlink(), ExitCode.INPUT, "last.pt: no such file, and it alone holds"),
        (lambda run: (run / "last.pt").write_bytes(b"PK"), ExitCode.INPUT, "last.pt: not a checkpoint"),
        (lambda run: edit_last(run, position={"outer": 0, "inner": 1, "step": 0}), ExitCode.USAGE, "no outer iter"),
        (lambda run: edit_config(run, method="hashnet"), ExitCode.USAGE, "hashnet solves no codes"),
    ],
)
def test_a_run_without_solved_codes(run, change, code, says):
    change(run)
    done = command(main, "--run", run, "--protocol", "paper")
    assert done.exit_code == code, done.output
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert command(main, "--run", run, "--protocol", "deployed").exit_code == ExitCode.DONE


def edit_last(run, **values):
    last = torch.load(run / "last.pt", weights_only=True)
    torch.save(last | values, run / "last.pt")


def edit_config(run, **values):
    last = torch.load(run / "last.pt", weights_only=True)
    config = json.loads(last["queryopt.config"])
    network = {key: value for key, value in config["network"].items() if key not in ("queries", "fusion", "branches")}
    network |= {"queries": False, "fusion": False, "branches": 1, **values}
    edit_last(run, **{"queryopt.config": json.dumps(config | {"network": network})})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--model", "m.onnx", "--gallery", "g", "--queries", "q"), "give its folder with --run"),
        (("--index", "x.db", "--queries", "q"), "which no model and no index holds: give its folder with --run"),
        (("--data", "birds"), "give its folder with --run"),
        (("--run", "run", "--compare", "other.onnx"), "leave --compare out"),
    ],
)
@pytest.mark.parametrize("protocol", ["paper", "both"])
def test_only_a_run_has_solved_codes(arguments, says, protocol):
    done = command(main, *arguments, "--protocol", protocol)
    assert done.exit_code == ExitCode.USAGE
    assert says in done.stderr


def test_a_picture_is_not_drawn_over(birds, tmp_path):
    data = Path(shutil.copytree(birds / "birds", tmp_path / "birds"))
    picture = load_image_folder(data).test.path(0)
    before = picture.read_bytes()
    done = command(main, "--run", birds / "run", "--data", data, "--plot", picture)
    assert done.exit_code == ExitCode.USAGE
    assert "is one of the pictures" in done.stderr
    assert picture.read_bytes() == before


def test_bit_cards_in_json_and_markdown(birds, tmp_path):
    cards = tmp_path / "cards.json"
    done = command(main, "--run", birds / "run", "--bits-out", cards, "--permutations", 39, "--json")
    assert done.exit_code == ExitCode.DONE, done.output
    value = json.loads(cards.read_text())["bit_cards"]
    by_distance = command(main, "--run", birds / "run", "--rank", "id", "--json")
    [model] = json.loads(by_distance.stdout)["models"]
    assert (value["gallery"], value["drop_queries"], value["classes"], value["permutations"]) == (48, 18, 6, 39)
    assert value["map"] == pytest.approx(model["map"])
    assert "dealt out to other classes" in value["null"]
    assert [card["bit"] for card in value["cards"]] == list(range(6))
    names = {f"{group}::{value}" for group, values in ATTRIBUTES.items() for value in values}
    for card in value["cards"]:
        for match in (card["by_information"], card["by_accuracy"]):
            assert match["attribute"] in names
            assert 1 / 40 <= match["p"] <= match["p_holm"] <= 1
    page = tmp_path / "cards.md"
    done = command(main, "--run", birds / "run", "--bits-out", page, "--permutations", 39)
    assert done.exit_code == ExitCode.DONE, done.output
    text = page.read_text()
    assert text.startswith("# Bit cards: ")
    assert text.count("\n## Bit ") == 6
    again = command(main, "--run", birds / "run", "--bits-out", page, "--permutations", 39)
    assert again.exit_code == ExitCode.DONE, again.output
    assert page.read_text() == text


def test_bit_cards_of_plain_folders_have_no_attributes(birds, tmp_path):
    folders = ("--gallery", birds / "birds" / "train", "--queries", birds / "birds" / "test")
    model = birds / "run" / "model.onnx"
    done = command(main, "--model", model, *folders, "--bits-out", tmp_path / "cards.json")
    assert done.exit_code == ExitCode.DONE, done.output
    assert "these pictures have no known attributes" in done.stderr
    value = json.loads((tmp_path / "cards.json").read_text())["bit_cards"]
    assert value["permutations"] is None
    assert all(card["by_accuracy"] is None for card in value["cards"])
    assert len(value["correlation"]) == 6


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--bits-out", "cards.txt"), "ends in .json or .md"),
        (("--bits-out", "cards.md", "--protocol", "paper"), "the model's own codes"),
        (("--bits-out", "taken.md"), "none that this command wrote"),
        (("--bits-out", "none/cards.md"), "can't be written"),
    ],
)
def test_where_no_cards_are_written(birds, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    Path("taken.md").write_text("# Notes of mine")
    done = command(main, "--run", birds / "run", *arguments)
    assert done.exit_code == ExitCode.USAGE
    assert says in done.stderr
    assert Path("taken.md").read_text() == "# Notes of mine"


def test_damaged_attributes_are_named_before_anything_is_hashed(birds, tmp_path):
    data = Path(shutil.copytree(birds / "birds", tmp_path / "birds"))
    lines = (data / "attributes.csv").read_text().splitlines(keepends=True)
    (data / "attributes.csv").write_text("".join(lines[:-1]))
    done = command(main, "--run", birds / "run", "--data", data, "--bits-out", tmp_path / "cards.md")
    assert done.exit_code == ExitCode.INPUT
    assert "attributes.csv: has no row for 005." in done.stderr
    assert "model: " not in done.stderr
    assert not (tmp_path / "cards.md").exists()


def test_a_plot_asks_for_matplotlib_before_anything_is_hashed(birds, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = command(main, "--run", birds / "run", "--plot", tmp_path / "p.png")
    assert done.exit_code == ExitCode.MISSING
    assert "--plot needs matplotlib" in done.stderr


def test_unseen_classes_are_never_trained_on_and_are_measured_apart(birds, tmp_path):
    folder = tmp_path / "run"
    options = ("--preset", "tiny", "--iterations", 1, "--validation-fraction", 0.25, "--open-set", 2)
    trained = command(train_main, "--data", birds / "birds", "--out", folder, *options)
    assert trained.exit_code == ExitCode.DONE, trained.output
    assert "open set: 2 classes are never seen, 4 are trained on" in trained.output
    config = json.loads((folder / "config.json").read_text())
    unseen = config["run"]["unseen_classes"]
    assert (config["open_set"], config["run"]["classes"], config["run"]["images"]) == (2, 4, 24)
    # B has rows of seen pictures alone, and parity looks at no others.
    assert len(torch.load(folder / "last.pt", weights_only=True)["codes"]) == 24
    exported = command(export_main, "--ckpt", folder, "--no-fold", "-v")
    assert exported.exit_code == ExitCode.DONE, exported.output
    assert "8 pictures (the run's validation pictures)" in exported.output

    cards = tmp_path / "bits.json"
    done = command(main, "--run", folder, "--protocol", "both", "--bits-out", cards, "--permutations", 19, "--json")
    assert done.exit_code == ExitCode.DONE, done.output
    models = json.loads(done.stdout)["models"]
    seen, _, strange = models
    assert [(model["part"], model["protocol"]) for model in models] == [
        ("seen", "deployed"),
        ("seen", "paper"),
        ("unseen", "deployed"),
    ]
    assert [model["gallery"] for model in models] == [24, 24, 16]
    assert [model["queries"] for model in models] == [12, 12, 6]
    assert {score["label"] for score in strange["per_class"]} == set(unseen)
    assert {score["label"] for score in seen["per_class"]}.isdisjoint(unseen)
    assert json.loads(cards.read_text())["bit_cards"]["gallery"] == 24

    splits = load_image_folder(birds / "birds")
    hasher = Hasher(folder / "model.onnx", threads=1)
    rows = [np.array([p.classes[label] in unseen for label in p.labels]) for p in (splits.train, splits.test)]
    gallery, queries = (
        part.subset(np.flatnonzero(row)) for part, row in zip((splits.train, splits.test), rows, strict=True)
    )
    batches = [hasher.hash_files([part.path(i) for i in range(len(part))]) for part in (queries, gallery)]
    margins = tuple(encode_margins(b.codes, b.logits, hasher.card.bits, hasher.card.logit_scale) for b in batches)
    codes = [batch.codes for batch in batches]
    expected = retrieval_metrics(*codes, hasher.card.bits, queries.labels, gallery.labels, margins=margins)
    assert strange["map"] == pytest.approx(expected.map, abs=1e-12)

    table = command(main, "--run", folder)
    assert ", unseen" in table.output
    assert "worst 2 of 2 classes" in table.output
    chosen = command(main, "--run", folder, "--split", "validation", "--json")
    assert [model["part"] for model in json.loads(chosen.stdout)["models"]] == ["seen"]

    other = command(train_main, "--out", folder, "--resume", "--open-set", 3)
    assert other.exit_code == ExitCode.USAGE
    assert "open_set: 3.0, not 2.0" in other.output


def test_unseen_classes_without_test_pictures_are_named(birds, tmp_path):
    shutil.copytree(birds / "birds" / "train", tmp_path / "photos")
    folder = tmp_path / "run"
    options = ("--preset", "tiny", "--iterations", 0, "--test-fraction", 0, "--open-set", 0.5)
    trained = command(train_main, "--data", tmp_path / "photos", "--out", folder, *options)
    assert trained.exit_code == ExitCode.DONE, trained.output
    done = command(main, "--run", folder, "--model", birds / "run" / "model.onnx")
    assert done.exit_code == ExitCode.INPUT
    assert "no test pictures" in done.output
