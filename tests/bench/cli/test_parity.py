"""qo-bench parity as a command, on the frozen model and checkpoint."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

from queryopt.bench.cli.bench import main

DATA = Path(__file__).parents[2] / "data"
MODEL = DATA / "v1" / "model.onnx"
CHECKPOINT = DATA / "v1" / "best.safetensors"
PICTURES = DATA / "pictures"


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["parity", "--threads", "1", *map(str, args)])


def changed(path: Path, scale: float, card: dict[str, object] | None = None) -> Path:
    """The frozen model with noise in a weight; card: values of its card that are changed."""
    model = onnx.load(MODEL)
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    array = numpy_helper.to_array(weight)
    noise = np.random.default_rng(0).normal(0, scale * array.std(), array.shape)
    weight.CopyFrom(numpy_helper.from_array((array + noise).astype(array.dtype), weight.name))
    for entry in model.metadata_props:
        if entry.key == "queryopt.card" and card is not None:
            entry.value = json.dumps(json.loads(entry.value) | card)
    onnx.save(model, path)
    return path


def test_torch_beside_every_backend_here() -> None:
    pytest.importorskip("openvino")
    result = run("--ckpt", CHECKPOINT, "--model", MODEL, "--backend", "onnxruntime,openvino", PICTURES, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["reference"]["backend"].startswith("torch ")
    assert [one["backend"].split()[0] for one in report["models"]] == ["onnxruntime", "openvino"]
    for one in report["models"]:
        assert (one["flipped"], one["top10_overlap"], one["max_flip_rate"], one["refused"]) == (0, 1.0, 1e-3, None)
        assert one["bits_compared"] >= 20_000
        assert one["map"]["queries"] == 8
        assert one["map"]["points"] == 0


def test_above_a_limit_it_prints_the_table_and_exits_5(tmp_path: Path) -> None:
    other = changed(tmp_path / "other.onnx", 1.0)
    result = run("--model", f"{MODEL}@onnxruntime", "--model", MODEL, "--model", other, PICTURES, "--min-bits", "2e3")
    assert result.exit_code == 5
    assert "2,004 bits: 167 views of 8 pictures (the given folder)" in result.stdout
    assert "mAP of 8 pictures of 2 classes against each other" in result.stdout
    rows = [line for line in result.stdout.splitlines() if "│ fp32 │" in line]
    assert ["REFUSED" in row for row in rows] == [False, False, True]
    assert f"error: {other}: " in result.stderr
    assert "is above the limit 1.00e-03" in result.stderr
    loose = run("--model", MODEL, "--model", other, PICTURES, "--min-bits", "2000", "--max-flip-rate", "1")
    assert loose.exit_code == 0, loose.output


def test_models_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    other = changed(tmp_path / "other.onnx", 0.0, {"fingerprint": "0" * 64})
    result = run("--model", MODEL, "--model", other, PICTURES)
    assert result.exit_code == 2
    assert f"{other} comes from another checkpoint (fingerprint 000000000000…)" in result.stderr


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    shutil.copytree(PICTURES, tmp_path / "pictures")
    bad = tmp_path / "pictures" / "bad.jpg"
    bad.write_text("no picture")
    result = run("--model", MODEL, "--model", MODEL, tmp_path / "pictures", "--min-bits", "100")
    assert result.exit_code == 1
    assert f"warning: {bad}: " in result.stderr


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--model", MODEL, PICTURES], 2, "nothing to compare"),
        (["--model", MODEL, "--model", MODEL], 2, "give a FOLDER of pictures"),
        (["--model", MODEL, "--model", f"{MODEL}@openvinno", PICTURES], 2, "did you mean openvino"),
        (["--model", MODEL, "--model", "no.onnx", PICTURES], 3, "no.onnx: no such model"),
        (["--model", MODEL, "--model", f"{MODEL}@cuda", PICTURES], 4, "onnxruntime"),
        (["--ckpt", "no/run", "--model", MODEL, PICTURES], 3, "no/run: no such file or folder"),
        (["--ckpt", CHECKPOINT, "--model", MODEL], 3, "doesn't say where its pictures lie"),
        (["--model", MODEL, "--model", MODEL, PICTURES, "--min-bits", "0"], 2, "whole number of at least 1"),
        (["--model", MODEL, "--model", MODEL, DATA / "nowhere"], 3, "nowhere"),
    ],
)
def test_bad_input_is_one_clear_line(args: list[object], code: int, says: str) -> None:
    result = run(*args)
    assert result.exit_code == code, result.output
    assert says in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
