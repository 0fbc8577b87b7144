import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from queryopt.bench.cli.evaluate import main
from queryopt.card import ModelCard
from queryopt.runtime.hasher import Hasher
from queryopt.runtime.index import HashIndex

DATA = Path(__file__).parents[2] / "data"
MODEL = str(DATA / "v1" / "model.onnx")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """gallery/ with two pictures of each class, queries/ with the other two."""
    for name in ("finch", "heron"):
        for n, path in enumerate(sorted((DATA / "pictures" / name).iterdir())):
            folder = tmp_path / ("gallery", "queries")[n % 2] / name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def collapsed(tmp_path_factory):
    """The model with the last layer at zero: every picture has the same code."""
    from onnx import numpy_helper

    model = onnx.load(MODEL)
    made_by = {output: node for node in model.graph.node for output in node.output}
    head = made_by[made_by["logits"].input[0]].input[1]
    for tensor in model.graph.initializer:
        if tensor.name == head:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 0, head))
    path = tmp_path_factory.mktemp("collapsed") / "collapsed.onnx"
    onnx.save(model, path)
    return str(path)


def run(*arguments):
    return CliRunner().invoke(main, [*map(str, arguments), "--threads", "1"])


FOLDERS = ("--gallery", "gallery", "--queries", "queries")


def test_a_model_and_a_collapsed_one_beside_it(here, collapsed):
    done = run(
        "--model", MODEL, *FOLDERS, "--compare", collapsed, "--k", "1,2", "--radius", "0,3", "--out", "eval.json"
    )
    assert done.exit_code == 0, done.output
    value = json.loads(Path("eval.json").read_text())
    model, other = value["models"]
    assert (model["model"], other["model"]) == (MODEL, collapsed)
    assert model["map_pessimistic"] <= model["map"] <= model["map_optimistic"]
    assert other["map"] == pytest.approx(other["chance"])
    assert (other["map_optimistic"], other["precision_at"]["1"]) == (1, 0.5)
    assert set(model["precision_at"]) == {"1", "2"}
    assert set(model["recall_at_radius"]) == {"0", "3"}
    assert (model["queries"], model["gallery"], model["classes"], model["bits"]) == (4, 4, 2, 12)
    assert value["ratios"] == {collapsed: pytest.approx(model["map"] / other["map"])}
    row = next(line for line in done.stdout.splitlines() if line.strip().startswith("mAP"))
    assert row.split()[-3:-1] == [f"{model['map']:.4f}", f"{other['map']:.4f}"]
    assert f"The mAP is {model['map'] / other['map']:.2f} x that of {collapsed}." in done.stdout


def test_every_rank_side_by_side(here, collapsed):
    done = run("--model", MODEL, *FOLDERS, "--compare", collapsed, "--rank", "all", "--out", "eval.json")
    assert done.exit_code == 0, done.output
    value = json.loads(Path("eval.json").read_text())
    ranks = ["margin", "id", "weighted", "tiebreak"]
    assert [(model["model"], model["rank"]) for model in value["models"]] == [
        (path, rank) for path in (MODEL, collapsed) for rank in ranks
    ]
    by_margins, by_distance, weighted, tiebreak = value["models"][:4]
    # Breaking ties gives one of the orders that the mean by distance is over.
    for one in (by_margins, tiebreak):
        assert one["map_pessimistic"] == pytest.approx(one["map_optimistic"])
        assert by_distance["map_pessimistic"] - 1e-9 <= one["map"] <= by_distance["map_optimistic"] + 1e-9
    assert by_margins["map"] != pytest.approx(by_distance["map"])
    assert weighted["map_optimistic"] - weighted["map_pessimistic"] < 1e-12  # no two pictures have one score
    assert weighted["recall_at_radius"] == tiebreak["recall_at_radius"] == by_distance["recall_at_radius"]
    # Logits of zero weigh nothing: everything is one tie by any rank.
    assert len({(model["map"], model["map_optimistic"]) for model in value["models"][4:]}) == 1
    assert value["ratios"] == {collapsed: pytest.approx(by_margins["map"] / value["models"][4]["map"])}
    ratio = weighted["map"] / by_margins["map"]
    assert f"{MODEL}: the mAP of weighted is {ratio:.3f} x that of margin." in done.stdout
    alone = run("--model", MODEL, *FOLDERS, "--rank", "weighted", "--json")
    assert json.loads(alone.stdout)["models"] == [weighted]
    plain = run("--model", MODEL, *FOLDERS, "--json")
    assert json.loads(plain.stdout)["models"] == [by_margins]
    for name in ("id", "hamming"):
        alone = run("--model", MODEL, *FOLDERS, "--rank", name, "--json")
        assert json.loads(alone.stdout)["models"] == [by_distance]
    said = run("--model", MODEL, *FOLDERS).stdout
    assert "Order: by distance, equal ones by margins (rank margin)." in said


def test_a_required_ratio_passes_or_is_refused_with_5(here, collapsed):
    done = run("--model", MODEL, *FOLDERS, "--compare", collapsed, "--require-ratio", "1.01", "-q")
    assert done.exit_code == 0, done.output
    done = run("--model", MODEL, *FOLDERS, "--compare", collapsed, "--require-ratio", "50", "--json", "--out", "e.json")
    assert done.exit_code == 5
    assert json.loads(done.stdout)["passed"] is False
    assert json.loads(Path("e.json").read_text())["passed"] is False
    assert "refused: the mAP is" in done.stderr
    assert "asks for 50" in done.stderr


def test_an_index_serves_as_the_gallery_and_names_its_model(here):
    hasher = Hasher(MODEL, threads=1)
    with HashIndex.create("photos.db", hasher.card, "gallery", MODEL) as index:
        index.update(hasher)
    done = run("--index", "photos.db", "--queries", "queries", "--json")
    assert done.exit_code == 0, done.output
    whole = run("--model", MODEL, *FOLDERS, "--json")
    assert json.loads(done.stdout)["models"] == json.loads(whole.stdout)["models"]
    assert json.loads(done.stdout)["baselines"] == json.loads(whole.stdout)["baselines"]
    shutil.rmtree("gallery")
    gone = run("--index", "photos.db", "--queries", "queries", "--json")
    assert gone.exit_code == 0, gone.output
    assert json.loads(gone.stdout)["models"] == json.loads(whole.stdout)["models"]
    assert "none of the gallery's pictures can be read" in json.loads(gone.stdout)["baselines_left_out"]["histogram"]


def test_colours_stand_beside_the_codes_and_what_is_missing_for_the_trunk_is_said(here):
    done = run("--model", MODEL, *FOLDERS, "--k", "2")
    assert done.exit_code == 0, done.output
    table = done.stdout.splitlines()
    assert table[0].split()[-2:] == ["512", "colours"]
    value = json.loads(run("--model", MODEL, *FOLDERS, "--k", "2", "--json").stdout)
    [colours] = value["baselines"]
    assert (colours["name"], colours["queries"], colours["gallery"]) == ("histogram", 4, 4)
    assert next(line for line in table if line.startswith("mAP")).split()[-1] == f"{colours['map']:.4f}"
    assert set(colours["precision_at"]) == {"1", "2"}
    assert "trunk, floats: not measured: it needs PyTorch and the run's folder: --run RUN" in table
    without = json.loads(run("--model", MODEL, *FOLDERS, "--k", "2", "--no-baselines", "--json").stdout)
    assert (without["baselines"], without["models"]) == ([], value["models"])


def test_a_model_that_is_not_the_indexs_is_refused(here):
    card = dataclasses.replace(Hasher(MODEL, threads=1).card, fingerprint="cd" * 32)
    HashIndex.create("photos.db", card, "gallery").close()
    done = run("--model", MODEL, "--index", "photos.db", "--queries", "queries")
    assert done.exit_code == 2
    assert "another model" in done.stderr


def test_one_folder_for_both_leaves_each_query_out_of_its_own_ranking(here):
    done = run("--model", MODEL, "--gallery", "gallery", "--queries", here / "queries" / ".." / "gallery", "--json")
    [model] = json.loads(done.stdout)["models"]
    assert (model["queries_in_gallery"], model["queries"]) == (4, 4)


def test_classes_of_queries_alone_and_loose_pictures_are_reported(here):
    os.rename("queries/heron", "queries/owl")
    shutil.copy("gallery/finch/1.jpg", "gallery/loose.jpg")
    done = run("--model", MODEL, *FOLDERS)
    assert done.exit_code == 0, done.output
    assert "class owl: only queries have it" in done.stderr
    assert "gallery: 1 picture directly in it, without a class: left out" in done.stderr
    [line] = [line for line in done.stdout.splitlines() if "left out" in line]
    assert line.split()[-1] == "2"


def test_classes_of_nested_folders_are_what_the_model_or_the_option_says(here):
    for folder in ("gallery", "queries"):
        for name in ("finch", "heron"):
            shutil.move(f"{folder}/{name}", f"{folder}/birds/{name}")
        shutil.copytree(f"{folder}/birds/finch", f"{folder}/fish/pike")
    deep = onnx.load(MODEL)
    card = ModelCard.from_metadata({prop.key: prop.value for prop in deep.metadata_props}, MODEL)
    onnx.helper.set_model_props(deep, dataclasses.replace(card, label_depth=2).to_metadata())
    onnx.save(deep, "deep.onnx")
    every = ["birds/finch", "birds/heron", "fish/pike"]
    cases = {(MODEL,): ["birds", "fish"], (MODEL, "--label-depth", "2"): every, ("deep.onnx",): every}
    for model, classes in cases.items():
        done = run("--model", *model, *FOLDERS, "--json")
        assert done.exit_code == 0, done.output
        [one] = json.loads(done.stdout)["models"]
        assert sorted(score["label"] for score in one["per_class"]) == classes


def test_unreadable_pictures_are_named_and_exit_1(here):
    Path("queries/finch/broken.jpg").write_bytes(b"")
    done = run("--model", MODEL, *FOLDERS, "--json")
    assert done.exit_code == 1
    assert "queries/finch/broken.jpg: " in done.stderr
    assert list(json.loads(done.stdout)["failed"]) == [str(here / "queries/finch/broken.jpg")]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--queries", "queries"), 2, "either --gallery FOLDER or --index INDEX"),
        ((*FOLDERS, "--index", "x.db"), 2, "either --gallery FOLDER or --index INDEX"),
        (("--index", "x.db", "--queries", "queries", "--compare", "y.onnx"), 2, "holds the codes of one model"),
        ((*FOLDERS, "--require-ratio", "2"), 2, "needs a model to compare with"),
        ((*FOLDERS, "--k", "1,x"), 2, "'1,x' is not a list of whole numbers"),
        ((*FOLDERS, "--k", "0"), 2, "0 is too small"),
        ((*FOLDERS, "--radius", "-1"), 2, "-1 is too small"),
        ((*FOLDERS, "--k", "1,99999999999999999999"), 2, "99999999999999999999 is too large"),
        ((*FOLDERS, "--compare", MODEL, "--require-ratio", "2"), 2, "is given twice"),
        ((*FOLDERS, "--compare", "other.onnx", "--require-ratio", "nan"), 2, "a number above 0"),
        ((*FOLDERS, "--out", "none/eval.json"), 2, "none/eval.json: can't be written"),
        ((*FOLDERS, "--out", "queries/finch/2.jpg"), 2, "none that this command wrote"),
        (("--gallery", "gallery", "--queries", "none"), 3, "none"),
        (("--gallery", "gallery/finch", "--queries", "queries"), 3, "lie directly in it"),
        (("--gallery", "gallery", "--queries", "apart"), 2, "share no class: the queries are of wren, the"),
    ],
)
def test_wrong_usage_and_input(here, arguments, code, says):
    shutil.copytree("queries/finch", "apart/wren")
    before = {path: path.read_bytes() for path in here.rglob("*.*")}
    done = run("--model", MODEL, *arguments)
    assert done.exit_code == code, done.output
    assert says in done.stderr
    assert "\nmodel: " not in f"\n{done.stderr}"  # noticed before anything is hashed
    assert {path: path.read_bytes() for path in here.rglob("*.*")} == before


def test_it_works_where_torch_is_not_installed(here):
    program = "import sys; sys.modules['torch'] = None; from queryopt.bench.cli.evaluate import main; main()"
    command = [sys.executable, "-c", program, "--model", MODEL, *FOLDERS, "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mAP" in done.stdout


def test_help_has_an_example():
    assert "qo-eval runs/a/model.onnx --gallery photos/train --queries photos/test" in run("--help").stdout
