"""qo-bench latency as a command."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from queryopt.bench.cli.bench import main

MODEL = Path(__file__).parents[2] / "data" / "v1" / "model.onnx"
QUICK = ["--rounds", "1", "--seconds", "0.01", "--threads", "1"]


def run(*args):
    return CliRunner().invoke(main, ["latency", *map(str, args)])


def test_a_model_beside_eager_torch(tmp_path: Path) -> None:
    picture = tmp_path / "latency.png"
    peers = ["--peers", "eager", "--backbone", "tiny"]
    result = run("--model", f"{MODEL}@onnxruntime", *peers, "--batch", "1,2", *QUICK, "--png", picture, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [(row["batch"], row["name"] == "PyTorch eager") for row in report["rows"]] == [
        (1, True), (1, False), (2, True), (2, False),
    ]  # fmt: skip
    assert report["reference"] == "PyTorch eager"
    assert picture.stat().st_size > 0


@pytest.fixture(scope="module")
def untrained() -> tuple[dict[str, Any], str]:
    """An untrained network in all precisions, exported once: the report, and what was said."""
    options = ["--backbone", "small", "--precision", "fp32,bf16,int8", "--backend", "onnxruntime,openvino"]
    result = run(*options, "--peers", "none", "--reference", "3", *QUICK, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), result.stderr


def test_an_untrained_network_plain_and_folded(untrained: tuple[dict[str, Any], str]) -> None:
    report, _ = untrained
    plain, folded = (row for row in report["rows"] if row["precision"] == "fp32" and "onnxruntime" in row["runs_on"])
    assert (plain["name"], folded["name"]) == ("plain", "folded")
    assert report["reference"] == "folded"
    assert folded["wall_ratio"] == folded["cpu_ratio"] == 1
    assert folded["multiply_adds"] < plain["multiply_adds"]


def test_an_untrained_network_in_other_precisions(untrained: tuple[dict[str, Any], str]) -> None:
    report, said = untrained
    rows = [(row["name"], row["runs_on"].split()[0], row["precision"]) for row in report["rows"]]
    assert [row for row in rows if row[2] == "int8"] == [
        ("folded, int8", "onnxruntime", "int8"),
        ("folded, int8", "openvino", "int8"),
    ]
    # No backend has every precision, and OpenVINO has this one on some processors.
    assert "without folded, bf16 on onnxruntime" in said
    assert {row[1] for row in rows if row[2] == "bf16"} <= {"openvino"}
    assert {row[2] for row in rows} <= {"fp32", "bf16", "int8"}


def test_wrong_usage(tmp_path: Path) -> None:
    for args, message in (
        (["--peers", "egaer"], "did you mean eager"),
        (["--model", MODEL, "--peers", "none", "--bits", "12"], "there is none"),
        (["--model", MODEL, "--peers", "none", "--reference", "2", *QUICK], "there are 1 rows"),
        (["--precision", "fp17", "--peers", "none"], "did you mean fp16"),
        (["--model", MODEL, "--precision", "fp16"], "a --model has its own"),
        (["--batch", "0"], "not a list such as"),
        (["--model", MODEL, "--backend", "openvinno"], "no backend is called"),
        (["--model", f"{MODEL}@openvinno", "--peers", "none"], "no backend is called"),
        (["--png", tmp_path / "none" / "a.png"], "there is no folder"),
    ):
        result = run(*args)
        assert result.exit_code == 2, result.output
        assert message in " ".join(result.stderr.split())
        assert "Traceback" not in result.output
