"""qo-bench gpu as a command. Its sections run in processes of their own, here as rehearsals on the CPU."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from queryopt.bench.cli.bench import main
from queryopt.bench.speed.gpu import isolated

MODEL = Path(__file__).parents[2] / "data" / "v1" / "model.onnx"


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["gpu", *(str(argument) for argument in arguments)])


def test_the_search(tmp_path: Path) -> None:
    sizes = ("--n", "1e3", "--bits", 32, "--batches", "1,3", "--radius", 2)
    target = tmp_path / "gpu.json"
    done = run("--rehearse", "--sections", "search", "--peers", "faiss", *sizes, "--json", "--out", target)
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed == json.loads(target.read_text())
    assert printed["rehearsal"] is True
    assert (printed["gpu"], printed["figures"]) == (None, []), "nothing here is a figure of a GPU"
    section = printed["sections"]["search"]
    assert section["state"] == "done"
    assert [one["searcher"] for one in section["report"]["left_out"]] == ["faiss"]
    assert [(row["queries"], row["k"], row["radius"]) for row in section["report"]["rows"]] == [
        (1, 10, None),
        (1, None, 2),
        (3, 10, None),
        (3, None, 2),
    ]
    assert all(row["right"] and row["median"] > 0 for row in section["report"]["rows"])


def test_an_engine() -> None:
    plan = MODEL.with_suffix(".plan")  # a rehearsal runs the model.onnx of that name
    options = ("--runtime", "emulation", "--sections", "engine", "--engine", plan)
    done = run(*options, "--engine-batches", "1,4")
    assert done.exit_code == 0, done.output
    assert "as if on a GPU" in done.output
    assert "gain of overlap" in done.output
    assert re.search(r"REHEARSAL on the CPU, no figure of a GPU", done.output)
    failed = run(*options, "--engine-batches", "257")
    assert failed.exit_code == 1
    assert "without the section engine: batches of 257" in failed.stderr


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--n", "many", "'many' is not a list"),
        ("--batches", "0", "'0' is not a list"),
        ("--runtime", "opencl", "no CUDA runtime is called 'opencl'"),
        ("--bits", "65", "65"),
        ("--peers", "torhc", "did you mean torch?"),
        ("--sections", "serach", "did you mean search?"),
        ("--sections", ",", "is empty"),
        ("--ckpt", "/nowhere", "/nowhere: no such file or folder"),
        ("--out", "/nowhere/gpu.json", "there is no folder /nowhere"),
    ],
)
def test_wrong_usage(option: str, value: str, message: str) -> None:
    done = run(option, value)
    assert done.exit_code == (3 if option == "--ckpt" else 2)
    assert message in " ".join(done.stderr.split())


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = run()
    assert done.exit_code == 4
    assert "driver" in done.stderr
    assert "--rehearse" in done.stderr
    assert "Traceback" not in done.output


def test_help_does_not_start_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "run_sections", None)
    done = run("--help")
    assert done.exit_code == 0
    assert "qo-bench gpu --rehearse" in done.output
